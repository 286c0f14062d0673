//! Match extensions with more than one field: one file each, with its value, its text, and the way back.

pub(crate) mod addrtype;
pub(crate) mod conntrack;
pub(crate) mod limit;
pub(crate) mod masked;
pub(crate) mod physdev;
pub(crate) mod recent;
pub(crate) mod set;
pub(crate) mod statistic;

use std::fmt;

/// `!`, where a test is negated.
pub(crate) fn bang(f: &mut dyn fmt::Write, negated: bool) -> fmt::Result {
    if negated { f.write_str(" !") } else { Ok(()) }
}

/// Number in decimal or, with `0x`, hexadecimal.
pub(crate) fn number(text: &str) -> Option<u32> {
    match text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        Some(hex) => u32::from_str_radix(hex, 16).ok(),
        None => text.parse().ok(),
    }
}

/// `value` or `value/mask`; without a mask all bits count.
pub(crate) fn value_and_mask(text: &str) -> Option<(u32, u32)> {
    match text.split_once('/') {
        Some((value, mask)) => Some((number(value)?, number(mask)?)),
        None => Some((number(text)?, u32::MAX)),
    }
}

/// Declares an enum whose members have one fixed name on the command line.
macro_rules! named {
    ($(#[$doc:meta])* $type:ident { $($(#[$member_doc:meta])* $member:ident = $text:literal),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum $type { $($(#[$member_doc])* $member),+ }

        impl $type {
            /// All members, in the order in which iptables-save prints them.
            pub const ALL: &'static [Self] = &[$(Self::$member),+];

            /// The name on the command line.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$member => $text),+ }
            }

            /// The member with that name.
            #[must_use]
            pub fn parse(text: &str) -> Option<Self> {
                Self::ALL.iter().copied().find(|member| member.as_str() == text)
            }
        }

        impl std::fmt::Display for $type {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.pad(self.as_str())
            }
        }
    };
}
pub(crate) use named;

/// A test for one of several names, such as `--ctstate RELATED,ESTABLISHED`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct AnyOf<T> {
    /// The names; sorted and without repetition in normal form.
    pub members: Vec<T>,
    /// The test is for none of them.
    pub negated: bool,
}

impl<T: Copy + Ord> AnyOf<T> {
    /// A test for any of `members`.
    #[must_use]
    pub fn new(members: &[T]) -> Self {
        Self { members: members.to_vec(), negated: false }
    }

    /// A test for none of `members`.
    #[must_use]
    pub fn none_of(members: &[T]) -> Self {
        Self { members: members.to_vec(), negated: true }
    }

    pub(crate) fn normalise(&mut self) {
        self.members.sort_unstable();
        self.members.dedup();
    }
}

impl<T: fmt::Display> AnyOf<T> {
    pub(crate) fn write(&self, f: &mut dyn fmt::Write, option: &str) -> fmt::Result {
        bang(f, self.negated)?;
        write!(f, " {option} ")?;
        write_list(f, &self.members)
    }
}

pub(crate) fn write_list<T: fmt::Display>(f: &mut dyn fmt::Write, members: &[T]) -> fmt::Result {
    for (index, member) in members.iter().enumerate() {
        if index > 0 {
            f.write_char(',')?;
        }
        write!(f, "{member}")?;
    }
    Ok(())
}

pub(crate) fn list<T>(text: &str, member: impl Fn(&str) -> Option<T>) -> Option<Vec<T>> {
    text.split(',').map(member).collect()
}
