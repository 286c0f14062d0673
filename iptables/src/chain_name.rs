//! The name of a chain: at most 28 bytes, kept inline, so that a name costs no allocation and is `Copy`.

use std::fmt;
use std::str::FromStr;

use thiserror::Error;

/// The longest name the kernel takes: `XT_EXTENSION_MAXNAMELEN` (29) less the closing NUL.
pub const MAX_CHAIN_NAME: usize = 28;

/// A valid chain name.
///
/// ```
/// use iptables::ChainName;
/// const SERVICES: ChainName = ChainName::from_static("KUBE-SERVICES");
/// assert_eq!(SERVICES, ChainName::new("KUBE-SERVICES").unwrap());
/// assert!("twenty-nine-bytes-is-too-long".parse::<ChainName>().is_err());
/// ```
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ChainName {
    // Padded with zeros: the derived order is that of the text.
    bytes: [u8; MAX_CHAIN_NAME],
    len: u8,
}

/// Why a text is no chain name.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ChainNameError {
    /// Nothing there.
    #[error("a chain name cannot be empty")]
    Empty,
    /// More than [`MAX_CHAIN_NAME`] bytes.
    #[error("chain name {0:?} has {len} bytes, the kernel takes at most {MAX_CHAIN_NAME}", len = .0.len())]
    TooLong(String),
    /// A character that iptables-restore would read as something else.
    #[error("chain name {0:?} has a character that iptables refuses")]
    Character(String),
}

impl ChainName {
    /// A name known when the program is compiled.
    ///
    /// # Panics
    /// When the text is no valid name; in a `const` that is a compile error.
    #[must_use]
    #[expect(clippy::indexing_slicing, reason = "const: an index out of range stops the compilation")]
    #[expect(clippy::cast_possible_truncation, reason = "the length was compared with 28")]
    pub const fn from_static(text: &'static str) -> Self {
        let from = text.as_bytes();
        assert!(!from.is_empty() && from.len() <= MAX_CHAIN_NAME, "a chain name has 1 to 28 bytes");
        let mut bytes = [0; MAX_CHAIN_NAME];
        let mut at = 0;
        while at < from.len() {
            assert!(acceptable(from[at], at == 0), "a chain name has a character that iptables refuses");
            bytes[at] = from[at];
            at += 1;
        }
        Self { bytes, len: from.len() as u8 }
    }

    /// A name made while the program runs.
    ///
    /// # Errors
    /// When the text is empty, too long, or has white space, quotes, control characters or a leading `-`, `!`, `:`.
    pub fn new(text: &str) -> Result<Self, ChainNameError> {
        let Ok(len) = u8::try_from(text.len()) else { return Err(ChainNameError::TooLong(text.to_owned())) };
        if text.is_empty() {
            return Err(ChainNameError::Empty);
        }
        if !text.bytes().enumerate().all(|(at, byte)| acceptable(byte, at == 0)) {
            return Err(ChainNameError::Character(text.to_owned()));
        }
        let mut bytes = [0; MAX_CHAIN_NAME];
        let Some(room) = bytes.get_mut(..text.len()) else { return Err(ChainNameError::TooLong(text.to_owned())) };
        room.copy_from_slice(text.as_bytes());
        Ok(Self { bytes, len })
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        self.bytes.get(..usize::from(self.len)).and_then(|bytes| str::from_utf8(bytes).ok()).unwrap_or_default()
    }

    /// Whether the name begins with `prefix`.
    #[must_use]
    pub fn starts_with(&self, prefix: &str) -> bool {
        self.as_str().starts_with(prefix)
    }
}

/// Bytes above 0x7f are part of a UTF-8 letter: iptables takes them.
const fn acceptable(byte: u8, first: bool) -> bool {
    !(byte <= b' ' || byte == 0x7f || byte == b'"' || byte == b'\\')
        && !(first && (byte == b'-' || byte == b'!' || byte == b':'))
}

impl fmt::Display for ChainName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl fmt::Debug for ChainName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.as_str())
    }
}

impl AsRef<str> for ChainName {
    fn as_ref(&self) -> &str {
        self.as_str()
    }
}

impl FromStr for ChainName {
    type Err = ChainNameError;

    fn from_str(text: &str) -> Result<Self, ChainNameError> {
        Self::new(text)
    }
}

impl TryFrom<&str> for ChainName {
    type Error = ChainNameError;

    fn try_from(text: &str) -> Result<Self, ChainNameError> {
        Self::new(text)
    }
}

impl PartialEq<str> for ChainName {
    fn eq(&self, other: &str) -> bool {
        self.as_str() == other
    }
}

impl PartialEq<&str> for ChainName {
    fn eq(&self, other: &&str) -> bool {
        self.as_str() == *other
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn twenty_eight_bytes_fit_and_one_more_does_not() {
        let longest = "KUBE-SVC-XPGD46QRK7WJZT7O123";
        assert_eq!(longest.len(), MAX_CHAIN_NAME);
        assert_eq!(ChainName::new(longest).unwrap().as_str(), longest);
        assert!(matches!(ChainName::new(&format!("{longest}4")), Err(ChainNameError::TooLong(_))));
        assert!(matches!(ChainName::new(&"x".repeat(300)), Err(ChainNameError::TooLong(_))));
    }

    #[test]
    fn order_is_that_of_the_text() {
        let mut names: Vec<ChainName> =
            ["KUBE-SVC-B", "KUBE", "KUBE-SVC-A", "A-LONG-NAME-OF-28-CHARACTERS"].map(ChainName::from_static).into();
        names.sort();
        assert_eq!(names, ["A-LONG-NAME-OF-28-CHARACTERS", "KUBE", "KUBE-SVC-A", "KUBE-SVC-B"]);
    }

    #[test]
    fn names_that_restore_would_misread_are_refused() {
        for bad in ["", "a b", "-j", "!x", ":x", "a\nCOMMIT", "a\"b", "tab\t"] {
            assert!(ChainName::new(bad).is_err(), "{bad:?}");
        }
    }
}
