//! The identity of an object, in little room: a node holds those of all Services, to tell events about them.

use std::fmt;
use std::sync::Arc;

/// `metadata.uid`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Uid {
    /// A UUID in its usual form, as API servers make them.
    Uuid([u8; 16]),
    /// Anything else.
    Text(Arc<str>),
}

/// Where a UUID has its hyphens.
const HYPHENS: [usize; 4] = [8, 13, 18, 23];

impl From<&str> for Uid {
    fn from(text: &str) -> Self {
        uuid(text).map_or_else(|| Self::Text(text.into()), Self::Uuid)
    }
}

/// The bytes of a UUID that is written as this module writes it.
fn uuid(text: &str) -> Option<[u8; 16]> {
    let hyphens = || text.bytes().enumerate().filter(|(_, byte)| *byte == b'-').map(|(place, _)| place);
    if text.len() != 36 || !hyphens().eq(HYPHENS) {
        return None;
    }
    let digits: String = text.chars().filter(|letter| *letter != '-').collect();
    data_encoding::HEXLOWER.decode(digits.as_bytes()).ok()?.try_into().ok()
}

impl fmt::Display for Uid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Uuid(bytes) => {
                let digits = data_encoding::HEXLOWER.encode(bytes);
                for (number, digit) in digits.chars().enumerate() {
                    let hyphen = [8, 12, 16, 20].contains(&number);
                    f.write_str(if hyphen { "-" } else { "" })?;
                    write!(f, "{digit}")?;
                }
                Ok(())
            }
            Self::Text(text) => f.write_str(text),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_identity_comes_out_as_it_went_in() {
        for (text, is_uuid) in [
            ("5f0c1f4e-0000-4000-8000-00000000a1f9", true),
            ("5F0C1F4E-0000-4000-8000-00000000a1f9", false),
            ("5f0c1f4e-0000-4000-8000-00000000a1f", false),
            ("5f0c1f4e-00004-000-8000-00000000a1f9", false),
            ("5f0c1f4e-0000-4000-8000-00000000a1-9", false),
            ("5f0c1f4e-0000-4000-8000-0000000000ä", false),
            ("node-1", false),
            ("", false),
        ] {
            let uid = Uid::from(text);
            assert_eq!((uid.to_string().as_str(), matches!(uid, Uid::Uuid(_))), (text, is_uuid));
        }
    }
}
