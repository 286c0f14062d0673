//! Typed iptables rules: rendered for iptables-restore, read back from iptables-save, compared, applied and traced.
//!
//! - [`Rule`], [`Match`], [`Target`]: one rule, built test by test. Its text is in *normal form*: what iptables-save
//!   prints for it. [`Rule::parse`] goes the other way and keeps what it does not know in its own words.
//! - [`Chain`], [`Transaction`]: what is written in one go; [`Transaction::chunks`] for thousands of chains.
//! - [`Commands`]: finds the programs and the variant (legacy or nft) that the node uses, runs them, keeps the exact
//!   input of what fails.
//! - [`Saved`]: all rules of some tables, from iptables-save ([`parse_save`]) or from transactions applied in memory
//!   ([`Saved::apply`]).
//! - [`tracer`]: what happens to a packet.
//! - [`hash`]: kube-proxy's chain names.
//!
//! # Recognising one's own rules
//!
//! No tag is written to the kernel. A chain that is wanted and the same chain read back have the same rules in normal
//! form, hence the same [`Chain::hash`] and [`SavedChain::hash`]. That this holds for the whole vocabulary, in both
//! variants and both families, is proved against the kernel by the tests.
//!
//! ```no_run
//! use iptables::{Chain, ChainName, Commands, Family, Position, Rule, Table, Transaction};
//!
//! const MARK_MASQ: ChainName = ChainName::from_static("KUBE-MARK-MASQ");
//! let commands = Commands::detect(Family::V4)?;
//! let wanted = Chain::new(MARK_MASQ, vec![Rule::new().or_mark(0x4000)]);
//! let saved = commands.save(&[Table::Nat])?;
//! let mut transaction = Transaction::new();
//! if saved.chain(Table::Nat, MARK_MASQ).map(|chain| chain.hash()) != Some(wanted.hash()) {
//!     transaction.replace_chain(Table::Nat, &wanted);
//! }
//! commands.restore(&transaction)?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
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
mod save_reader;
mod target;
pub mod tracer;
mod transaction;

pub use apply::ApplyError;
pub use chain::{Chain, RulesDigest, hash_rules};
pub use chain_name::{ChainName, ChainNameError, MAX_CHAIN_NAME};
pub use commands::{
    Commands, DetectError, RestoreError, RestoreInput, RestoreReport, RunFailure, SaveError, SaveFailure, Saving,
    Version,
};
pub use ext::AnyOf;
pub use ext::addrtype::{AddrType, AddrTypeMatch, LimitIface};
pub use ext::conntrack::{ConntrackMatch, CtDirection, CtState, CtStatus, Test};
pub use ext::limit::{LimitMatch, RateUnit};
pub use ext::masked::MaskedAddress;
pub use ext::physdev::PhysdevMatch;
pub use ext::recent::{RecentAction, RecentMatch};
pub use ext::set::{SetAction, SetDir, SetMatch, SetTarget};
pub use ext::statistic::{Probability, Statistic};
pub use family::{Family, Table, UnknownTable, Variant};
pub use matches::Match;
pub use protocol::{PortRange, Protocol};
pub use rule::Rule;
pub use save::{Counters, ParseError, Policy, Saved, SavedChain, SavedTable, parse_save};
pub use save_reader::{SaveReader, SaveSink, SavedRule};
pub use target::{DnatTo, Target};
pub use transaction::{Position, Transaction};

/// The example in the README compiles.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
pub struct Readme;
