//! What the reconciler tells others of itself.

use super::retire::Retirement;
use super::wish::{Mode, Wish};
use crate::desired::{Role, ServicePort, ServicePortKey};
use crate::model::PerFamily;
use imbl::OrdMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The state of one family.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FamilyStatus {
    /// The kernel is as desired.
    pub in_sync: bool,
    /// Trying again would change nothing: in sync, or what is left lies with somebody else.
    pub settled: bool,
    /// Since when nearly all Services are served: what the kernel refused is about single ones.
    pub serves_since: Option<Instant>,
    /// When the last sync that left nothing undone ended.
    pub last_success: Option<Instant>,
    /// Since when something is wanted that the kernel has not taken, although trying again may help.
    pub behind_since: Option<Instant>,
    /// How long the last sync took.
    pub last_duration: Duration,
    /// What the last sync could not do.
    pub failures: Vec<String>,
    /// Service ports that are programmed.
    pub ports: usize,
    /// The mode that serves.
    pub mode: Option<Mode>,
    /// Since when.
    pub mode_since: Option<Instant>,
    /// The mode that was asked for.
    pub wish: Wish,
    /// When the last sync ended, whatever came of it.
    pub last_sync: Option<Instant>,
    /// When a sync last left something undone, and the first of it; or when a switch failed, and why.
    pub last_failure: Option<(Instant, String)>,
    /// Service ports of which endpoints drain; the map is the builder's own, so that it costs nothing to tell.
    pub draining: OrdMap<ServicePortKey, Arc<ServicePort>>,
    /// Connections that endpoints still have which take no new ones; 0 where only connection tracking knows (iptables).
    pub connections: u64,
    /// How many endpoints have any.
    pub endpoints: usize,
    /// Steps that put back what somebody else had changed.
    pub repaired: u64,
    /// When that was last.
    pub last_repair: Option<Instant>,
    /// The mode that does not serve.
    pub retirement: Retirement,
}

/// An endpoint that gets no new connections.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DrainingEndpoint {
    /// Whose endpoint it is.
    pub service: ServicePortKey,
    /// Where it listens.
    pub address: SocketAddr,
    /// How long open connections may go on.
    pub until: Instant,
}

impl FamilyStatus {
    /// Endpoints that get no new connections while others of their Service do.
    pub fn draining(&self) -> impl Iterator<Item = DrainingEndpoint> {
        self.draining.values().flat_map(|port| draining_of(port))
    }
}

/// What of a service port drains.
fn draining_of(port: &ServicePort) -> impl Iterator<Item = DrainingEndpoint> {
    port.endpoints.iter().filter_map(|endpoint| {
        let roles = [endpoint.cluster, endpoint.local].into_iter().flatten();
        let until = roles.filter_map(Role::drains_until).max()?;
        Some(DrainingEndpoint { service: port.key.clone(), address: endpoint.address, until })
    })
}

/// The state of the reconciler.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Status {
    /// The families that are programmed.
    pub programmed: Vec<crate::model::IpFamily>,
    /// How often the kernel is compared with what is wanted although nothing changed.
    pub sync_period: Duration,
    /// Rounds so far.
    pub rounds: u64,
    /// Since when a round is under way; `None` between two rounds.
    pub busy_since: Option<Instant>,
    /// Per family.
    pub families: PerFamily<FamilyStatus>,
}

impl Status {
    /// Whether every family that is programmed is as desired.
    pub fn families_in_sync(&self) -> bool {
        self.programmed.iter().all(|family| self.families.get(*family).in_sync)
    }

    /// Whether nothing that is wanted has been waiting for the kernel for longer than `patience`. Upstream:
    /// `ProxyHealthServer.IsHealthy`.
    pub fn keeps_up(&self, now: Instant, patience: Duration) -> bool {
        let behind = self.programmed.iter().filter_map(|family| self.families.get(*family).behind_since);
        behind.chain(self.busy_since).all(|since| now.saturating_duration_since(since) < patience)
    }

    /// Whether trying again would change nothing in any family.
    pub fn families_settled(&self) -> bool {
        self.programmed.iter().all(|family| self.families.get(*family).settled)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::IpFamily;

    #[test]
    fn it_keeps_up_until_patience_ends() {
        let (start, patience) = (Instant::now(), Duration::from_secs(60));
        let mut status = Status { programmed: vec![IpFamily::V4], ..Status::default() };
        let late = start + patience;
        assert!(status.keeps_up(late, patience), "nothing waits");
        status.busy_since = Some(start);
        assert!(status.keeps_up(start + Duration::from_secs(59), patience));
        assert!(!status.keeps_up(late, patience), "a round hangs");
        status.busy_since = None;
        status.families.v6.behind_since = Some(start);
        assert!(status.keeps_up(late, patience), "a family that is not programmed");
        status.families.v4.behind_since = Some(start);
        assert!(!status.keeps_up(late, patience), "syncs fail");
    }
}
