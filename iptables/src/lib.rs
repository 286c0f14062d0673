//! Typed iptables rules.
mod apply;
mod chain;
mod chain_name;
mod chunks;
mod commands;
mod ext;
mod family;
pub mod hash;
mod matches;
mod options;
mod parse_rule;
mod protocol;
mod quote;
mod rule;
mod save;
mod target;
pub mod tracer;
mod transaction;

pub use apply::ApplyError;
pub use chain::{Chain, hash_rules};
pub use chain_name::{ChainName, ChainNameError, MAX_CHAIN_NAME};
pub use commands::{
    Commands, DetectError, RestoreError, RestoreFailure, RestoreInput, RestoreReport, SaveError, SaveFailure, Version,
};
pub use ext::AnyOf;
pub use ext::addrtype::{AddrType, AddrTypeMatch, LimitIface};
pub use ext::conntrack::{ConntrackMatch, CtDirection, CtState, CtStatus, Test};
pub use ext::limit::{LimitMatch, RateUnit};
pub use ext::physdev::PhysdevMatch;
pub use ext::recent::{RecentAction, RecentMatch};
pub use ext::set::{SetAction, SetDir, SetMatch, SetTarget};
pub use ext::statistic::{Probability, Statistic};
pub use family::{Family, Table, UnknownTable, Variant};
pub use matches::Match;
pub use protocol::{PortRange, Protocol};
pub use rule::Rule;
pub use save::{Counters, ParseError, Policy, Saved, SavedChain, SavedTable, parse_save};
pub use target::{DnatTo, Target};
pub use transaction::{Position, Transaction};
