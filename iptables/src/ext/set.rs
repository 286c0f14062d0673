//! `-m set` and `-j SET`: ipsets.

use std::fmt;
use std::sync::Arc;

use super::{bang, list, named, write_list};
use crate::options::Words;

named! {
    /// Which side of the packet gives one part of the set's key.
    SetDir {
        /// Source address, port or interface.
        Src = "src",
        /// Destination address, port or interface.
        Dst = "dst",
    }
}

/// `-m set --match-set NAME DIRS`
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct SetMatch {
    /// Name of the set; it must exist when the rule is written.
    pub name: Arc<str>,
    /// One direction for each part of the set's key.
    pub dirs: Vec<SetDir>,
    /// The packet must not be in the set.
    pub negated: bool,
}

impl SetMatch {
    pub(crate) fn write(&self, f: &mut dyn fmt::Write) -> fmt::Result {
        f.write_str(" -m set")?;
        bang(f, self.negated)?;
        write!(f, " --match-set {} ", self.name)?;
        write_list(f, &self.dirs)
    }

    pub(crate) fn parse(words: &mut Words<'_, '_>) -> Option<Self> {
        let option = words.option().filter(|option| option.name == "--match-set")?;
        let name = words.value()?.into();
        let dirs = list(words.value()?, SetDir::parse)?;
        words.at_boundary().then_some(Self { name, dirs, negated: option.negated })
    }
}

/// What `-j SET` does.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum SetAction {
    /// `--add-set`: the packet's key becomes an entry.
    Add {
        /// An entry that exists is renewed.
        exist: bool,
        /// Seconds the entry lives.
        timeout: Option<u32>,
    },
    /// `--del-set`
    Del,
    /// `--map-set`: what the entry carries (`skbinfo`) goes onto the packet.
    Map {
        /// The mark.
        mark: bool,
        /// The priority.
        prio: bool,
        /// The hardware queue.
        queue: bool,
    },
}

/// `-j SET`; the packet goes on to the next rule.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct SetTarget {
    /// What is done.
    pub action: SetAction,
    /// Name of the set; it must exist when the rule is written.
    pub name: Arc<str>,
    /// One direction for each part of the set's key.
    pub dirs: Vec<SetDir>,
}

impl SetTarget {
    /// `--map-set NAME DIRS --map-mark`
    #[must_use]
    pub fn map_mark(name: impl Into<Arc<str>>, dirs: &[SetDir]) -> Self {
        let action = SetAction::Map { mark: true, prio: false, queue: false };
        Self { action, name: name.into(), dirs: dirs.to_vec() }
    }

    pub(crate) fn write(&self, f: &mut dyn fmt::Write) -> fmt::Result {
        let option = match self.action {
            SetAction::Add { .. } => "--add-set",
            SetAction::Del => "--del-set",
            SetAction::Map { .. } => "--map-set",
        };
        write!(f, "SET {option} {} ", self.name)?;
        write_list(f, &self.dirs)?;
        match self.action {
            SetAction::Del => Ok(()),
            SetAction::Add { exist, timeout } => {
                f.write_str(if exist { " --exist" } else { "" })?;
                timeout.map_or(Ok(()), |seconds| write!(f, " --timeout {seconds}"))
            }
            SetAction::Map { mark, prio, queue } => {
                f.write_str(if mark { " --map-mark" } else { "" })?;
                f.write_str(if prio { " --map-prio" } else { "" })?;
                f.write_str(if queue { " --map-queue" } else { "" })
            }
        }
    }

    pub(crate) fn parse(words: &mut Words<'_, '_>) -> Option<Self> {
        let first = words.option().filter(|option| !option.negated)?;
        let mut action = match first.name {
            "--add-set" => SetAction::Add { exist: false, timeout: None },
            "--del-set" => SetAction::Del,
            "--map-set" => SetAction::Map { mark: false, prio: false, queue: false },
            _ => return None,
        };
        let name = words.value()?.into();
        let dirs = list(words.value()?, SetDir::parse)?;
        while let Some(option) = words.option() {
            match (option.name, &mut action) {
                _ if option.negated => return None,
                ("--exist", SetAction::Add { exist, .. }) => *exist = true,
                ("--timeout", SetAction::Add { timeout, .. }) => *timeout = Some(words.value()?.parse().ok()?),
                ("--map-mark", SetAction::Map { mark, .. }) => *mark = true,
                ("--map-prio", SetAction::Map { prio, .. }) => *prio = true,
                ("--map-queue", SetAction::Map { queue, .. }) => *queue = true,
                _ => return None,
            }
        }
        Some(Self { action, name, dirs })
    }
}
