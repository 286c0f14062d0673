//! What an update tells besides what is desired.

use super::super::ServicePortKey;
use crate::model::{PerFamily, ServiceName};
use std::collections::BTreeSet;
use std::fmt;

/// Something that a Service asks for and does not get, and why. It never stops anything else.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Refusal {
    /// Whose wish.
    pub port: ServicePortKey,
    /// What is refused and why.
    pub reason: String,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.port, self.reason)
    }
}

/// What an update changed.
#[derive(Debug, Clone, Default)]
pub struct Change {
    /// The service ports that differ, per family. Where there was nothing before, and what holds for the whole node differs as
    /// well, they are not listed.
    pub ports: PerFamily<BTreeSet<ServicePortKey>>,
    /// Whether what holds for the whole node differs, per family, and with it possibly every service port.
    pub node: PerFamily<bool>,
}

impl Change {
    /// Whether nothing differs.
    pub fn is_empty(&self) -> bool {
        self.ports.v4.is_empty() && self.ports.v6.is_empty() && !self.node.v4 && !self.node.v6
    }
}

/// How far what is desired is known.
#[derive(Debug, Clone)]
pub struct Extent {
    /// The ports of every Service before this one are there, and if there are any, those of `default/kubernetes`.
    pub before: ServiceName,
    /// How many Services there will be.
    pub services: usize,
}
