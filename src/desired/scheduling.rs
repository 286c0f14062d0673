//! How the traffic of a service port is scheduled, where IPVS does it.

use super::Settings;
use crate::model::{self, Balancing, LentSlice, Protocol};
use std::sync::Arc;

/// How an IPVS scheduler works, besides its defaults.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Scheduling {
    /// `sh` and `mh`: the client's port counts as well as its address.
    pub source_port: bool,
    /// Every packet is balanced by itself; UDP only.
    pub one_packet: bool,
}

impl Scheduling {
    /// What a Service asks for on a port of this protocol.
    pub fn of(balancing: &Balancing, protocol: Protocol) -> Self {
        Self { source_port: balancing.source_port, one_packet: balancing.one_packet && protocol == Protocol::Udp }
    }
}

/// The scheduler of a Service. Who gives weights and names no scheduler wants one that counts them.
pub fn scheduler(settings: &Settings, balancing: &Balancing, slices: &[LentSlice<'_>]) -> Arc<str> {
    if let Some(named) = &balancing.scheduler {
        return named.clone();
    }
    let endpoints = || slices.iter().flat_map(|slice| &slice.endpoints);
    let weighted = !balancing.weights.is_empty() || endpoints().any(|endpoint| endpoint.weight.is_some());
    let counting = if weighted { model::with_weights(&settings.scheduler) } else { None };
    counting.map_or_else(|| settings.scheduler.clone(), Arc::from)
}
