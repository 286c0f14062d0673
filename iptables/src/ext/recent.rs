//! `-m recent`: a list of addresses with the times at which they were last seen. kube-proxy's session affinity.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use super::{bang, named};
use crate::options::Words;

named! {
    /// What is done with the list.
    RecentAction {
        /// Note the address.
        Set = "--set",
        /// Is it in the list?
        Rcheck = "--rcheck",
        /// Is it in the list? If so, note it again.
        Update = "--update",
        /// Is it in the list? If so, forget it.
        Remove = "--remove",
    }
}

/// The options of `-m recent`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct RecentMatch {
    /// What is done.
    pub action: RecentAction,
    /// The answer is inverted.
    pub negated: bool,
    /// Name of the list, shown under `/proc/net/xt_recent/`.
    pub name: Arc<str>,
    /// Only entries seen within so many seconds.
    pub seconds: Option<u32>,
    /// Entries older than that are thrown out on the way.
    pub reap: bool,
    /// Only entries seen at least so often.
    pub hitcount: Option<u32>,
    /// Only entries with the packet's TTL.
    pub ttl: bool,
    /// The destination address is looked up rather than the source.
    pub destination: bool,
    /// The part of the address that counts; `None` is the whole address.
    pub mask: Option<IpAddr>,
}

impl RecentMatch {
    /// `--set --name NAME`
    #[must_use]
    pub fn set(name: impl Into<Arc<str>>) -> Self {
        Self {
            action: RecentAction::Set,
            negated: false,
            name: name.into(),
            seconds: None,
            reap: false,
            hitcount: None,
            ttl: false,
            destination: false,
            mask: None,
        }
    }

    /// `--rcheck --seconds SECONDS --reap --name NAME`
    #[must_use]
    pub fn rcheck(name: impl Into<Arc<str>>, seconds: u32) -> Self {
        Self { action: RecentAction::Rcheck, seconds: Some(seconds), reap: true, ..Self::set(name) }
    }

    pub(crate) fn normalise(&mut self) {
        self.mask = self.mask.filter(|mask| !is_whole(*mask));
        if self.seconds == Some(0) {
            self.seconds = None;
        }
        if self.hitcount == Some(0) {
            self.hitcount = None;
        }
    }

    pub(crate) fn write(&self, f: &mut dyn fmt::Write) -> fmt::Result {
        f.write_str(" -m recent")?;
        bang(f, self.negated)?;
        write!(f, " {}", self.action)?;
        if let Some(seconds) = self.seconds {
            write!(f, " --seconds {seconds}")?;
        }
        if self.reap {
            f.write_str(" --reap")?;
        }
        if let Some(hits) = self.hitcount {
            write!(f, " --hitcount {hits}")?;
        }
        if self.ttl {
            f.write_str(" --rttl")?;
        }
        write!(f, " --name {}", self.name)?;
        // The mask of a whole address depends on the family and is iptables' default.
        if let Some(mask) = self.mask {
            write!(f, " --mask {mask}")?;
        }
        f.write_str(if self.destination { " --rdest" } else { " --rsource" })
    }

    pub(crate) fn parse(words: &mut Words<'_, '_>) -> Option<Self> {
        // The name that iptables gives to a list without one.
        let mut found = Self::set("DEFAULT");
        let mut action = None;
        while let Some(option) = words.option() {
            if let Some(known) = RecentAction::parse(option.name) {
                action = Some(known);
                found.negated = option.negated;
                continue;
            }
            if option.negated {
                return None;
            }
            match option.name {
                "--seconds" => found.seconds = Some(words.value()?.parse().ok()?),
                "--reap" => found.reap = true,
                "--hitcount" => found.hitcount = Some(words.value()?.parse().ok()?),
                "--rttl" => found.ttl = true,
                "--name" => found.name = words.value()?.into(),
                "--mask" => found.mask = Some(words.value()?.parse().ok()?),
                "--rsource" => found.destination = false,
                "--rdest" => found.destination = true,
                _ => return None,
            }
        }
        found.action = action?;
        Some(found)
    }
}

fn is_whole(mask: IpAddr) -> bool {
    match mask {
        IpAddr::V4(mask) => u32::from(mask) == u32::MAX,
        IpAddr::V6(mask) => u128::from(mask) == u128::MAX,
    }
}
