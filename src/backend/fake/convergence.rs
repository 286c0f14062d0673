//! Any history, with a tenth of all calls failing and restarts in between, ends where a fresh start ends; then nothing
//! is left to do; and wishing for nothing leaves nothing.

use super::events::{self, Event};
use super::iptables::FakeIptables;
use super::ipvs::FakeIpvs;
use super::kernel::FakeKernel;
use super::{FakeBackend, Shared, dataplane, kernel};
use crate::backend::{Dataplane, rules::Ownership};
use crate::desired::{Builder, Change, Desired, NodeFacts, ServiceChains, Settings, Touched};
use crate::model::{IpFamily, PerFamily, Snapshot};
use proptest::prelude::*;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// What stood at a moment of a history.
#[derive(Debug, Clone)]
pub struct Moment {
    pub snapshot: Snapshot,
    pub facts: NodeFacts,
    /// The program was started again before.
    pub restarted: bool,
    /// Time that passed before.
    pub later: Duration,
}

pub fn settings() -> Arc<Settings> {
    Arc::new(Settings {
        node_name: "me".into(),
        service_ranges: vec!["172.30.0.0/16".parse().unwrap(), "fd00:172:30::/108".parse().unwrap()],
        detect_local: crate::desired::DetectLocal::Cidrs(vec!["10.180.0.0/16".parse().unwrap()]),
        ..Settings::default()
    })
}

pub fn facts(count: u8) -> NodeFacts {
    let addresses = (0..count).flat_map(|n| [format!("192.168.{n}.2"), format!("2001:db8:{n}::2")]);
    let addresses: Vec<std::net::IpAddr> = addresses.map(|ip| ip.parse().unwrap()).collect();
    NodeFacts { primary: addresses.iter().copied().take(2).collect(), addresses, gateways: Vec::new() }
}

struct Node<B> {
    builder: Builder,
    plane: Box<dyn Dataplane>,
    kernel: Shared,
    now: Instant,
    distrusted: bool,
    /// Something was refused and stands.
    owing: bool,
    /// Something drained at the last reading: only another one tells its end.
    orphans: PerFamily<bool>,
    mode: std::marker::PhantomData<B>,
}

impl<B: FakeBackend> Node<B>
where
    B::Observed: Send,
{
    fn start(kernel: &Shared, settings: &Arc<Settings>, now: Instant) -> Self {
        let (builder, plane) = (Builder::new(settings.clone()), dataplane::<B>(kernel));
        Self {
            builder,
            plane,
            kernel: kernel.clone(),
            now,
            distrusted: true,
            owing: false,
            orphans: PerFamily::default(),
            mode: std::marker::PhantomData,
        }
    }

    /// One round as the reconciler makes it; true if nothing failed.
    fn round(&mut self, change: &Change) -> bool {
        let (mut clean, mut unknown) = (true, false);
        for family in IpFamily::BOTH {
            let draining = self.builder.draining(family).keys().cloned().collect();
            let keys = change.ports.get(family).union(&draining).cloned().collect();
            let all = self.distrusted || *change.node.get(family);
            let touched = if all { Touched::All } else { Touched::Ports(&keys) };
            let report = self.plane.sync(family, self.builder.desired().get(family), touched, self.now);
            clean &= report.is_clean();
            unknown |= report.wants_reading();
            if report.observed {
                *self.orphans.get_mut(family) = report.draining > 0;
            }
        }
        (self.distrusted, self.owing) = (unknown, !clean);
        clean
    }

    fn settle(&mut self, snapshot: &Snapshot, facts: &NodeFacts) {
        self.kernel.lock().unwrap().v4.heal();
        self.kernel.lock().unwrap().v6.heal();
        for _ in 0..4 {
            let read_again = |family: &IpFamily| self.owing || *self.orphans.get(*family);
            let read_again: Vec<IpFamily> = IpFamily::BOTH.into_iter().filter(read_again).collect();
            read_again.into_iter().for_each(|family| self.plane.distrust(family));
            let change = self.builder.update(snapshot, facts, self.now);
            self.round(&change);
            self.now += Duration::from_secs(1000);
            let change = self.builder.expire(self.now);
            self.round(&change);
        }
    }

    fn state(&self) -> [String; 2] {
        let kernel = self.kernel.lock().unwrap();
        [describe(&kernel.v4), describe(&kernel.v6)]
    }
}

/// The state of a kernel, without what may differ between two right ones: the order of rules that services add to a
/// shared chain, that of our jumps among each other (none decides what another one looks at), and counters.
pub fn describe(kernel: &FakeKernel) -> String {
    let mut text = String::new();
    for (table, content) in &kernel.tables.tables {
        for (name, chain) in &content.chains {
            let mut rules: Vec<String> = chain.rules.iter().map(ToString::to_string).collect();
            if chain.is_builtin() || crate::backend::iptables::Ours.is_shared(*table, name) {
                rules.sort_unstable();
            }
            text.push_str(&format!("{table} {name} {rules:#?}\n"));
        }
    }
    for (id, server) in &kernel.servers {
        let weights: Vec<String> =
            server.destinations.iter().map(|(address, found)| format!("{address} {}", found.weight)).collect();
        text.push_str(&format!("{id} {} {weights:?}\n", server.service));
    }
    let links = (kernel.interface, kernel.detour);
    text.push_str(&format!("{:#?}\n{:#?}\n{links:?}\n", kernel.sets, kernel.routes));
    text
}

/// The lines that only one of two states has.
pub fn difference(ours: &str, fresh: &str) -> String {
    let only = |a: &str, b: &str, sign: char| -> String {
        let known: std::collections::HashSet<&str> = b.lines().collect();
        a.lines().filter(|line| !known.contains(line)).map(|line| format!("{sign} {line}\n")).collect()
    };
    format!("after the history (+) and from scratch (-):\n{}{}", only(ours, fresh, '+'), only(fresh, ours, '-'))
}

/// The moments of a history.
fn moments(history: &[Event]) -> Vec<Moment> {
    let snapshot = Snapshot { complete: true, ..Snapshot::default() };
    let mut now = Moment { snapshot, facts: facts(1), restarted: false, later: Duration::ZERO };
    let moment = |event: &Event| {
        events::apply(event, &mut now.snapshot);
        if let Event::Addresses(count) = event {
            now.facts = facts(*count);
        }
        let later = if matches!(event, Event::Later) { Duration::from_secs(400) } else { Duration::ZERO };
        Moment { restarted: matches!(event, Event::Restart), later, ..now.clone() }
    };
    history.iter().map(moment).collect()
}

/// Goes through a history while a tenth of all calls fail.
pub fn check<B: FakeBackend>(settings: &Arc<Settings>, history: &[Moment], seed: u64) -> Result<(), TestCaseError>
where
    B::Observed: Send,
{
    let Some(Moment { snapshot, facts: own, .. }) = history.last().cloned() else { return Ok(()) };
    let shared = kernel(100, seed);
    let mut node = Node::<B>::start(&shared, settings, Instant::now());
    for moment in history {
        node.now += moment.later;
        if moment.restarted {
            node = Node::start(&shared, settings, node.now);
        }
        let mut change = node.builder.update(&moment.snapshot, &moment.facts, node.now);
        let expired = node.builder.expire(node.now);
        for family in IpFamily::BOTH {
            change.ports.get_mut(family).extend(expired.ports.get(family).iter().cloned());
        }
        node.round(&change);
    }
    node.settle(&snapshot, &own);
    let refusals = shared.lock().unwrap().v4.refusals.clone();
    let fresh_kernel = kernel(0, 1);
    let mut fresh = Node::<B>::start(&fresh_kernel, settings, node.now);
    fresh.settle(&snapshot, &own);
    prop_assert!(fresh_kernel.lock().unwrap().v4.refusals.is_empty(), "{:?}", fresh_kernel.lock().unwrap().v4.refusals);
    for (ours, theirs) in node.state().iter().zip(fresh.state()) {
        prop_assert!(*ours == theirs, "{}refused on the way: {:?}", difference(ours, &theirs), refusals);
    }
    for family in IpFamily::BOTH {
        let left = node.plane.preview(family, node.builder.desired().get(family), node.now).unwrap();
        prop_assert!(left.is_empty(), "not idle: {:?}", left);
        node.plane.distrust(family);
        let report = node.plane.sync(family, &Desired::default(), Touched::All, node.now);
        prop_assert!(report.is_clean(), "{:?}", report.failures);
    }
    for left in node.state() {
        prop_assert!(!left.contains("KUBE-") && !left.contains("172.30"), "left behind: {}", left);
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    #[test]
    fn ipvs_converges(history in events::history(), seed in any::<u64>()) {
        check::<FakeIpvs>(&settings(), &moments(&history), seed)?;
    }

    #[test]
    fn iptables_converges(history in events::history(), seed in any::<u64>()) {
        check::<FakeIptables>(&settings(), &moments(&history), seed)?;
        let by_address = Settings { service_chains: ServiceChains::ByAddress, ..(*settings()).clone() };
        check::<FakeIptables>(&Arc::new(by_address), &moments(&history), seed)?;
    }
}
