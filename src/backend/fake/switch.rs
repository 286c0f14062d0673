//! The live switch over the kernel in memory: killed at every single call, with faults at random, with a new mode that
//! cannot work. It always ends in one mode that is complete, with nothing of the other one; and at no instant is there
//! a service that neither serves.

use super::convergence::{describe, difference, facts, settings};
use super::histories::{complete, endpoint, put, service};
use super::iptables::FakeIptables;
use super::ipvs::FakeIpvs;
use super::kernel::FakeKernel;
use super::{Shared, dataplane, kernel};
use crate::backend::{Dataplane, FlowError, FlowTable};
use crate::desired::UdpFlows;
use crate::model::{IpFamily, PerFamily, Snapshot};
use crate::reconcile::{Kept, Mode, Modes, Planes, Progress, Reconciler, State, Step, Switch, Timing, Trigger, Wish};
use iptables::Table;
use ipvs::ServiceId;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

const VIPS: [&str; 3] = ["172.30.0.1", "172.30.0.2", "192.168.99.1"];

struct NoFlows;

impl FlowTable for NoFlows {
    fn forget(&mut self, _: IpFamily, _: &UdpFlows) -> Result<usize, FlowError> {
        Ok(0)
    }

    fn take_over(&mut self, _: IpFamily, _: &UdpFlows) -> Result<usize, FlowError> {
        Ok(0)
    }
}

/// The node: its kernel, and what outlives the program beside it.
#[derive(Clone)]
pub struct Node {
    pub(super) kernel: Shared,
    pub(super) record: Arc<Mutex<Option<Kept>>>,
    pub(super) missing: Arc<Mutex<Option<String>>>,
    disk_full: Arc<Mutex<bool>>,
    families: Vec<IpFamily>,
}

impl Modes for Node {
    fn probe(&mut self, mode: Mode) -> Result<(), String> {
        let missing = self.missing.lock().unwrap().clone().filter(|_| mode == Mode::Ipvs);
        missing.map_or(Ok(()), Err)
    }

    fn open(&mut self, mode: Mode) -> Result<Box<dyn Dataplane>, String> {
        Ok(self.plane(mode))
    }

    fn record(&mut self, kept: &Kept, _: Option<Wish>) -> Result<(), String> {
        if self.kernel.lock().unwrap().v4.is_dead() || *self.disk_full.lock().unwrap() {
            return Err("No space left on device".into());
        }
        *self.record.lock().unwrap() = Some(*kept);
        Ok(())
    }
}

impl Node {
    pub fn new(faults_per_thousand: u32, seed: u64) -> Self {
        let kernel = kernel(faults_per_thousand, seed);
        let families = vec![IpFamily::V4];
        Self { kernel, record: Arc::default(), missing: Arc::default(), disk_full: Arc::default(), families }
    }

    fn plane(&self, mode: Mode) -> Box<dyn Dataplane> {
        match mode {
            Mode::Ipvs => dataplane::<FakeIpvs>(&self.kernel),
            Mode::Iptables => dataplane::<FakeIptables>(&self.kernel),
        }
    }

    /// Starts the program, configured to this mode.
    pub fn start(&self, configured: Mode) -> Reconciler {
        let configured_wish = Kept { wish: PerFamily::from_fn(|_| Wish::Only(configured)), ..Kept::default() };
        let Kept { wish, fell_back } = self.record.lock().unwrap().unwrap_or(configured_wish);
        let active = PerFamily::from_fn(|family| match wish.get(family) {
            Wish::Only(mode) => *mode,
            Wish::Auto if *fell_back.get(family) => Mode::Iptables,
            Wish::Auto => configured,
        });
        let planes = Planes {
            ipvs: Some(self.plane(Mode::Ipvs)),
            iptables: Some(self.plane(Mode::Iptables)),
            leftovers: None,
            active,
            wish,
            modes: Box::new(self.clone()),
            flows: Box::new(NoFlows),
            families: self.families.clone(),
        };
        let mut reconciler = Reconciler::new(settings(), Timing::default(), planes, facts(1));
        reconciler.take_snapshot(&snapshot());
        reconciler
    }

    pub fn fill_disk(&self) {
        *self.disk_full.lock().unwrap() = true;
    }

    fn assert_served(&self, when: &str) {
        let kernel = self.kernel.lock().unwrap();
        for vip in VIPS {
            assert!(
                iptables_serves(&kernel.v4, vip) || ipvs_serves(&kernel.v4, vip),
                "{when}: nobody serves {vip}:\n{}",
                describe(&kernel.v4)
            );
        }
    }

    /// Exactly what a fresh start in this mode makes.
    pub fn assert_only(&self, mode: Mode, when: &str) {
        let fresh = Self { families: self.families.clone(), ..Self::new(0, 1) };
        settle(&mut fresh.start(mode), Instant::now());
        // The kernel's own chains come with the first use of their table, and stay.
        let described = |node: &Self| -> String {
            let kernel = node.kernel.lock().unwrap();
            let text = describe(&kernel.v4) + &describe(&kernel.v6);
            text.lines().filter(|line| !line.ends_with(" []")).map(|line| format!("{line}\n")).collect()
        };
        let (ours, theirs) = (described(self), described(&fresh));
        assert!(ours == theirs, "{when}, {mode}: {}", difference(&ours, &theirs));
    }
}

/// One rule of KUBE-SERVICES sends the address on to a chain that has rules, and packets come there.
pub fn iptables_serves(kernel: &FakeKernel, vip: &str) -> bool {
    let Some(nat) = kernel.tables.tables.get(&Table::Nat) else { return false };
    let rules = |name: &str| -> Vec<String> {
        let chain = nat.chains.iter().find(|(chain, _)| chain.as_str() == name);
        chain.map(|(_, chain)| chain.rules.iter().map(ToString::to_string).collect()).unwrap_or_default()
    };
    let jumps =
        ["PREROUTING", "OUTPUT"].iter().all(|hook| rules(hook).iter().any(|rule| rule.contains("KUBE-SERVICES")));
    let to_vip = rules("KUBE-SERVICES")
        .into_iter()
        .find(|rule| rule.contains(&format!("{vip}/32")) || rule.contains(&format!("{vip} ")));
    let target = to_vip.and_then(|rule| rule.split("-j ").nth(1).map(|target| target.trim().to_owned()));
    jumps && target.is_some_and(|target| !rules(&target).is_empty())
}

fn ipvs_serves(kernel: &FakeKernel, vip: &str) -> bool {
    let address: std::net::IpAddr = vip.parse().unwrap();
    let serves = |(id, server): (&ServiceId, &crate::backend::ipvs::FoundServer)| {
        matches!(id, ServiceId::Address { address: own, .. } if *own == address)
            && server.destinations.values().any(|destination| destination.weight > 0)
    };
    kernel.interface && kernel.routes.keys().any(|net| net.contains(&address)) && kernel.servers.iter().any(serves)
}

pub fn snapshot() -> Snapshot {
    let mut snapshot = complete();
    for (name, ip, node_port, external) in [("a", VIPS[0], None, &[][..]), ("b", VIPS[1], Some(30080), &[VIPS[2]][..])]
    {
        let endpoints = vec![endpoint("10.180.0.1", "me", false), endpoint("10.180.1.1", "other", false)];
        put(&mut snapshot, service(name, ip, 80, node_port, external), endpoints);
    }
    snapshot
}

/// As many Services that one more or less hardly counts.
pub fn many_services() -> Snapshot {
    let mut snapshot = snapshot();
    for number in 10..60 {
        let (name, ip) = (format!("s{number}"), format!("172.30.0.{number}"));
        put(&mut snapshot, service(&name, &ip, 80, None, &[]), vec![endpoint("10.180.0.1", "me", false)]);
    }
    snapshot
}

/// Rounds until nothing is left to do; each finds that much time has passed.
pub fn settle(reconciler: &mut Reconciler, mut now: Instant) -> Instant {
    for _ in 0..4 {
        reconciler.round(now);
        now += Duration::from_secs(1000);
    }
    now
}

pub fn ask(reconciler: &mut Reconciler, mode: Mode) -> UnboundedReceiver<Step> {
    let (sender, steps) = unbounded_channel();
    let wish = Wish::Only(mode);
    let progress = Progress::to(sender);
    let switch = Switch { wish, target: None, configured: false, families: Vec::new(), drain: None, progress };
    reconciler.take_trigger(Trigger::Switch(switch));
    steps
}

pub fn all(mut steps: UnboundedReceiver<Step>) -> Vec<Step> {
    std::iter::from_fn(|| steps.try_recv().ok()).collect()
}

#[test]
fn there_and_back() {
    let node = Node::new(0, 1);
    let mut reconciler = node.start(Mode::Ipvs);
    let mut now = settle(&mut reconciler, Instant::now());
    for mode in [Mode::Iptables, Mode::Ipvs, Mode::Iptables] {
        let steps = ask(&mut reconciler, mode);
        reconciler.round(now);
        assert_eq!((reconciler.next_wake(now), reconciler.status().families.v4.mode), (now, Some(mode)));
        node.assert_served("switched");
        reconciler.round(now);
        node.assert_served("retiring");
        let steps = all(steps);
        let kinds: Vec<String> =
            steps.iter().map(|step| format!("{step:?}").split(' ').next().unwrap().into()).collect();
        assert_eq!(kinds[..4], ["Programming", "Programmed", "Verified", "InForce"]);
        assert_eq!(steps.last(), Some(&Step::Done));
        now = settle(&mut reconciler, now);
        node.assert_only(mode, "switched");
        let wish = PerFamily { v4: Wish::Only(mode), v6: Wish::Only(Mode::Ipvs) };
        assert_eq!(*node.record.lock().unwrap(), Some(Kept { wish, ..Kept::default() }));
        assert_eq!(reconciler.status().families.v4.repaired, 0);
    }
    let again = ask(&mut reconciler, Mode::Iptables);
    reconciler.round(now);
    assert_eq!(all(again).last(), Some(&Step::Done), "it serves already");
}

/// At every call to the kernel: killed there, started again as configured.
#[test]
fn killed_at_every_step_it_ends_in_one_mode() {
    for (from, to) in [(Mode::Ipvs, Mode::Iptables), (Mode::Iptables, Mode::Ipvs)] {
        let mut ends = Vec::new();
        for calls in 0.. {
            let node = Node::new(0, 1);
            let mut reconciler = node.start(from);
            let now = settle(&mut reconciler, Instant::now());
            let kill_at = {
                let mut kernel = node.kernel.lock().unwrap();
                kernel.v4.dead_after = Some(kernel.v4.calls + calls);
                kernel.v4.calls + calls
            };
            let steps = ask(&mut reconciler, to);
            reconciler.round(now);
            reconciler.round(now);
            let finished = node.kernel.lock().unwrap().v4.calls <= kill_at;
            drop((reconciler, steps));
            node.kernel.lock().unwrap().v4.dead_after = None;
            let when = format!("{from} to {to}, killed after {calls} calls");
            node.assert_served(&when);
            let mode = if node.record.lock().unwrap().is_some() { to } else { from };
            let mut restarted = node.start(from);
            restarted.round(now);
            node.assert_served(&when);
            settle(&mut restarted, now);
            assert_eq!(restarted.status().families.v4.mode, Some(mode));
            assert_eq!(restarted.status().families.v4.retirement.state, State::Gone, "{when}");
            node.assert_only(mode, &when);
            ends.push(mode);
            if finished {
                break;
            }
        }
        assert!(ends.len() > 10 && ends.contains(&from) && ends.last() == Some(&to), "{} kills", ends.len());
    }
}

/// 150 kills of one node's daemon, one after the other, each at a random call after somebody asked for the other mode. What a
/// killed one left is what the next one finds.
#[test]
fn killed_again_and_again_on_one_node() {
    let mut random = fastrand::Rng::with_seed(5);
    let node = Node::new(0, 1);
    let mut reconciler = node.start(Mode::Ipvs);
    let mut now = settle(&mut reconciler, Instant::now());
    let mut switched = 0;
    for kill in 0..150 {
        let from = reconciler.status().families.v4.mode.unwrap();
        let steps = ask(&mut reconciler, from.other());
        {
            let mut kernel = node.kernel.lock().unwrap();
            kernel.v4.dead_after = Some(kernel.v4.calls + random.u64(0..120));
        }
        for _ in 0..random.u32(1..4) {
            reconciler.round(now);
        }
        drop(steps);
        node.kernel.lock().unwrap().v4.dead_after = None;
        let when = format!("kill {kill}, from {from}");
        node.assert_served(&when);
        reconciler = node.start(Mode::Ipvs);
        reconciler.round(now);
        node.assert_served(&when);
        let mode = reconciler.status().families.v4.mode.unwrap();
        switched += u32::from(mode != from);
        // Sometimes it is killed again before the other mode is gone.
        if random.bool() {
            now = settle(&mut reconciler, now);
            node.assert_only(mode, &when);
        }
    }
    assert!((20..130).contains(&switched), "{switched} of 150 were killed after the switch");
    settle(&mut reconciler, now);
    node.assert_only(reconciler.status().families.v4.mode.unwrap(), "in the end");
}

/// Calls fail at random, from the switch on; whatever it says, it is so.
#[test]
fn with_faults_it_ends_where_it_says() {
    let mut outcomes = [0, 0];
    for seed in 1..=60_u64 {
        // In several families it is all or nothing.
        let node = Node { families: IpFamily::BOTH.to_vec(), ..Node::new(0, seed * 0x9e37_79b9) };
        let (from, to) = if seed % 2 == 0 { (Mode::Ipvs, Mode::Iptables) } else { (Mode::Iptables, Mode::Ipvs) };
        let mut reconciler = node.start(from);
        let mut now = settle(&mut reconciler, Instant::now());
        let falter = |faults| {
            let mut kernel = node.kernel.lock().unwrap();
            kernel.v4.falter(faults);
            kernel.v6.falter(faults);
        };
        falter(5 + u32::try_from(seed).unwrap() * 4);
        let steps = ask(&mut reconciler, to);
        for _ in 0..5 {
            reconciler.round(now);
            node.assert_served("under faults");
            now += Duration::from_secs(100);
        }
        falter(0);
        settle(&mut reconciler, now);
        let steps = all(steps);
        let mode = match steps.last() {
            Some(Step::Done) => to,
            Some(Step::Failed { reason }) => {
                assert!(reason.contains("injected fault"), "{reason}");
                from
            }
            other => panic!("seed {seed}: it ended with {other:?}"),
        };
        outcomes[usize::from(mode == to)] += 1;
        let families = reconciler.status().families;
        assert_eq!((families.v4.mode, families.v6.mode), (Some(mode), Some(mode)), "seed {seed}");
        node.assert_only(mode, &format!("seed {seed}"));
    }
    assert!(outcomes.iter().all(|count| *count > 5), "{outcomes:?}");
}

/// The new mode never works: the old one stays and the half goes.
#[test]
fn a_mode_that_cannot_work_is_told_and_the_old_one_stays() {
    for (from, to) in [(Mode::Ipvs, Mode::Iptables), (Mode::Iptables, Mode::Ipvs)] {
        let node = Node::new(0, 1);
        let mut reconciler = node.start(from);
        let now = settle(&mut reconciler, Instant::now());
        node.fill_disk();
        let steps = ask(&mut reconciler, to);
        reconciler.round(now);
        let Some(Step::Failed { reason }) = all(steps).pop() else { panic!("it went on") };
        let told = reconciler.status().families.v4.last_failure.unwrap().1;
        assert!(told.contains(&reason), "status tells it, too: {told}");
        assert!(reason.contains("No space left on device"), "{reason}");
        node.assert_served("the disk is full");
        settle(&mut reconciler, now);
        node.assert_only(from, "the disk is full");
    }
    let node = Node::new(0, 1);
    let mut reconciler = node.start(Mode::Iptables);
    let now = settle(&mut reconciler, Instant::now());
    *node.missing.lock().unwrap() = Some("scheduler twos (module ip_vs_twos): no such file".into());
    let steps = ask(&mut reconciler, Mode::Ipvs);
    reconciler.round(now);
    let reason = "ipvs does not work on this node: scheduler twos (module ip_vs_twos): no such file".to_owned();
    assert_eq!(all(steps), [Step::Failed { reason }]);
    node.assert_only(Mode::Iptables, "nothing was tried");
}
