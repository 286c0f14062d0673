//! ipsets over nfnetlink: create, fill, swap, list, without the `ipset` binary and without a fork per entry.
//!
//! The wire format is that of `include/uapi/linux/netfilter/ipset/ip_set.h`, protocols 6 and 7.

mod client;
mod codec;
mod entry;
mod error;
mod types;

pub use client::{Client, encode};
pub use entry::{Entry, EntryWithMark, Mark, Protocol, storable_networks};
pub use error::{IpsetError, Reason};
pub use types::{MAX_NAME, SetCommand, SetHeader, SetSpec, SetType};

#[cfg(test)]
mod tests;
