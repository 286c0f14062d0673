//! kube-proxy's two metrics of packets, which rules of iptables mode count. Read when somebody asks, and not oftener than
//! every few seconds: it starts a program for each table.

use super::OnDemand;
use super::family::{Description, Kind, number};
use crate::backend::{PacketSource, RulePackets as Counted};
use crate::model::{IpFamily, PerFamily};
use crate::reconcile::{Mode, Status};
use prometheus::proto::MetricFamily;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::watch;
use tracing::debug;

/// What was read is told again for so long.
const KEEP: Duration = Duration::from_secs(5);

const INVALID: Description = Description {
    name: "kubeproxy_iptables_ct_state_invalid_dropped_packets_total",
    kind: Kind::Counter,
    help: "[ALPHA] packets dropped by iptables to work around conntrack problems",
    labels: &[],
};
const LOCALHOST: Description = Description {
    name: "kubeproxy_iptables_localhost_nodeports_accepted_packets_total",
    kind: Kind::Counter,
    help: "[ALPHA] Number of packets accepted on nodeports of loopback interface",
    labels: &[],
};

pub(super) const DESCRIPTIONS: &[Description] = &[INVALID, LOCALHOST];

/// Where the numbers come from.
pub type Packets = Box<dyn PacketSource>;

/// The two metrics, in iptables mode.
#[derive(Debug)]
pub struct RulePackets {
    status: watch::Receiver<Status>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    source: Packets,
    read: Option<Instant>,
    found: PerFamily<Option<Counted>>,
}

impl RulePackets {
    /// Nothing is read before somebody asks.
    #[must_use]
    pub fn new(source: Packets, status: watch::Receiver<Status>) -> Self {
        Self { status, state: Mutex::new(State { source, read: None, found: PerFamily::default() }) }
    }
}

impl OnDemand for RulePackets {
    fn each_family(&self, each: &mut dyn FnMut(MetricFamily)) {
        let serves = |status: &Status, family| status.families.get(family).mode == Some(Mode::Iptables);
        let families: Vec<IpFamily> = {
            let status = self.status.borrow();
            status.programmed.iter().copied().filter(|family| serves(&status, *family)).collect()
        };
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.read.is_none_or(|at| at.elapsed() >= KEEP) {
            state.read = Some(Instant::now());
            for family in IpFamily::BOTH {
                let found = families.contains(&family).then(|| state.source.read(family));
                let found = found.and_then(|found| found.inspect_err(|error| debug!("{error}")).ok());
                *state.found.get_mut(family) = found;
            }
        }
        tell(&state.found).into_iter().for_each(each);
    }
}

/// Both families together, as upstream's objects count.
fn tell(found: &PerFamily<Option<Counted>>) -> Vec<MetricFamily> {
    let known: Vec<Counted> = [found.v4, found.v6].into_iter().flatten().collect();
    if known.is_empty() {
        return Vec::new();
    }
    let mut families = INVALID.single(number(known.iter().map(|counted| counted.invalid_dropped).sum()));
    let localhost: Vec<u64> = known.iter().filter_map(|counted| counted.localhost_accepted).collect();
    if !localhost.is_empty() {
        families.extend(LOCALHOST.single(number(localhost.into_iter().sum())));
    }
    families
}
