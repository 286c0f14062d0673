//! What the next sync of a family has to bring to the kernel.

use crate::backend::Report;
use crate::desired::ServicePortKey;
use std::collections::BTreeSet;

/// What has to be handed over with the next sync.
#[derive(Debug, Default)]
pub struct Pending {
    /// Everything.
    pub all: bool,
    /// Something of ours was taken away: no waiting.
    pub urgent: bool,
    /// A change came too soon after the last sync and waits.
    pub held: bool,
    /// Something else is wanted than at the last sync.
    pub news: bool,
    /// Which ports; kept for as long as it is not all of them.
    pub ports: BTreeSet<ServicePortKey>,
}

impl Pending {
    /// What a sync left.
    pub fn of(report: &Report) -> Self {
        Self { all: report.wants_reading(), ..Self::default() }
    }
}
