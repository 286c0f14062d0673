//! What iptables-restore refuses: for one object, for everything, in the middle of it.

use super::histories::{builder, complete, endpoint, facts, put, service};
use super::iptables::FakeIptables;
use super::ipvs::FakeIpvs;
use super::kernel::FakeKernel;
use super::{FakeBackend, dataplane, kernel};
use crate::backend::Failure;
use crate::backend::iptables::{self, Ours};
use crate::backend::rules::{Found, Refusal, RuleOp, Run, Writer};
use crate::desired::{Builder, Desired, Touched};
use crate::model::{IpFamily, Protocol, Snapshot};
use ::iptables::{ChainName, Table, Transaction};
use std::time::Instant;

/// A kernel that refuses some texts.
struct Refusing<F> {
    kernel: FakeKernel,
    refuses: F,
    runs: usize,
}

impl<F: FnMut(&str) -> bool> Refusing<F> {
    fn new(refuses: F) -> Self {
        Self { kernel: FakeKernel::new(0, 1), refuses, runs: 0 }
    }

    fn found(&self) -> Found {
        Found::from_saved(&self.kernel.tables, Ours)
    }

    fn steps(&self, desired: &Desired) -> Vec<RuleOp> {
        let observed = iptables::Observed::of_rules(self.found());
        let ops = iptables::plan_for_tests(IpFamily::V4, desired, &observed, Touched::All);
        ops.into_iter().filter_map(|op| if let iptables::Op::Rule(rule) = op { Some(rule) } else { None }).collect()
    }

    fn write(&mut self, desired: &Desired) -> Vec<Failure> {
        let (steps, mut found) = (self.steps(desired), self.found());
        Writer::new(self, &Ours).write(steps, &mut found)
    }

    fn rules(&self, chain: &str) -> usize {
        let table = self.kernel.tables.tables.get(&Table::Nat);
        let chain = table.and_then(|table| table.chains.get(&ChainName::new(chain).unwrap()));
        chain.map_or(0, |chain| chain.rules.len())
    }
}

impl<F: FnMut(&str) -> bool> Run for &mut Refusing<F> {
    fn steps_per_run(&self) -> usize {
        100
    }

    fn run(&mut self, transaction: &Transaction) -> Result<(), Refusal> {
        self.runs += 1;
        let refused = |reason| Refusal { reason, nothing_done: true };
        if (self.refuses)(&transaction.render()) {
            return Err(refused("refused".into()));
        }
        self.kernel.tables.apply(transaction).map_err(|error| refused(error.to_string()))
    }
}

fn with_services(count: u8) -> (Builder, Snapshot) {
    let (mut builder, mut snapshot) = (builder(), complete());
    for n in 1..=count {
        let serving = vec![endpoint("10.180.0.1", "me", false)];
        put(&mut snapshot, service(&format!("a{n}"), &format!("172.30.0.{n}"), 80, None, &[]), serving);
    }
    builder.update(&snapshot, &facts(), Instant::now());
    (builder, snapshot)
}

#[test]
fn one_service_that_the_kernel_refuses_does_not_stop_the_others() {
    let (mut builder, mut snapshot) = with_services(19);
    let mut refused = service("z", "172.30.9.9", 80, None, &[]);
    refused.ports[0].protocol = Protocol::Sctp;
    put(&mut snapshot, refused, vec![endpoint("10.180.0.1", "me", false)]);
    builder.update(&snapshot, &facts(), Instant::now());
    let mut kernel = Refusing::new(|text: &str| text.contains("sctp"));
    for _ in 0..2 {
        let failures = kernel.write(builder.desired().get(IpFamily::V4));
        assert!(!failures.is_empty(), "the refused one is told");
    }
    // Nineteen services and the jump to the node ports.
    assert_eq!(kernel.rules("KUBE-SERVICES"), 20);
    assert_eq!(kernel.rules("PREROUTING"), 1, "and packets get there");
}

/// Looking for the culprit among all services would take as many runs as there are rules.
#[test]
fn where_everything_is_refused_nobody_looks_for_a_culprit() {
    let (builder, _) = with_services(200);
    let mut kernel = Refusing::new(|_: &str| true);
    let desired = builder.desired().get(IpFamily::V4);
    let (steps, failures) = (kernel.steps(desired).len(), kernel.write(desired));
    assert_eq!(failures.len(), steps, "each is told");
    assert_eq!(kernel.runs, 4, "one for each table, and one more to make sure");
    // What begins in the midst of a search ends it.
    let mut left = 12;
    let mut kernel = Refusing::new(|text: &str| {
        left = i32::max(left - 1, 0);
        left == 0 || text.contains("172.30.0.77")
    });
    assert!(!kernel.write(desired).is_empty());
    assert!(kernel.runs < 30, "{} runs", kernel.runs);
}

/// A kernel without the table, say.
#[test]
fn a_table_that_takes_nothing_does_not_stop_the_others() {
    let (builder, _) = with_services(19);
    let mut kernel = Refusing::new(|text: &str| text.contains("*filter"));
    assert!(!kernel.write(builder.desired().get(IpFamily::V4)).is_empty());
    assert_eq!(kernel.rules("KUBE-SERVICES"), 20);
    assert_eq!(["PREROUTING", "OUTPUT", "POSTROUTING"].map(|chain| kernel.rules(chain)), [1, 1, 1]);
}

#[test]
fn while_packets_still_come_in_what_they_need_stays() {
    let (builder, _) = with_services(3);
    let mut kernel = Refusing::new(|text: &str| text.contains("-D OUTPUT"));
    assert!(kernel.write(builder.desired().get(IpFamily::V4)).is_empty());
    assert_eq!(kernel.rules("POSTROUTING"), 1);
    assert!(!kernel.write(&Desired::default()).is_empty());
    assert_eq!(kernel.rules("OUTPUT"), 1, "the kernel keeps it");
    assert_eq!(kernel.rules("POSTROUTING"), 1, "what comes in is masqueraded");
    assert_eq!(kernel.rules("KUBE-SERVICES"), 4, "and translated");
}

#[test]
fn beside_another_mode_nothing_comes_in_before_all_is_there() {
    let (builder, _) = with_services(3);
    let desired = builder.desired().get(IpFamily::V4);
    let arrive = |refused: &'static str| {
        let mut kernel = Refusing::new(move |text: &str| text.contains(refused));
        let (steps, mut found) = (kernel.steps(desired), kernel.found());
        let writer = &mut Writer::new(&mut kernel, &Ours);
        let failures = iptables::write(writer, steps, Some(&iptables::Guests::default()), &mut found);
        (failures.len(), ["PREROUTING", "OUTPUT", "POSTROUTING"].map(|chain| kernel.rules(chain)))
    };
    assert_eq!(arrive("nobody refuses this"), (0, [1, 1, 1]));
    let (failures, ways) = arrive("172.30.0.2");
    assert!(failures > 0);
    assert_eq!(ways, [0, 0, 0]);
    for refused in [" POSTROUTING ", " PREROUTING ", " FORWARD "] {
        let (failures, ways) = arrive(refused);
        assert!(failures > 0);
        let expected = if refused == " FORWARD " { [1, 1, 1] } else { [0, 0, 0] };
        assert_eq!(ways, expected, "{refused}: translation comes as a whole, and before what is refused without it");
    }
}

/// What one Service costs the others while the kernel refuses it: nothing.
fn changes_cost_what_they_change<B: FakeBackend>()
where
    B::Observed: Send,
{
    let (mut builder, mut snapshot) = with_services(9);
    let shared = kernel(0, 1);
    shared.lock().unwrap().v4.refuses = Some("172.30.0.7");
    let mut plane = dataplane::<B>(&shared);
    let mut sync = |builder: &Builder, touched: Touched<'_>| {
        let before = shared.lock().unwrap().v4.calls;
        let report = plane.sync(IpFamily::V4, builder.desired().get(IpFamily::V4), touched, Instant::now());
        (report, shared.lock().unwrap().v4.calls - before)
    };
    let (first, _) = sync(&builder, Touched::All);
    assert!(first.wants_retry() && !first.wants_reading() && first.failed_anew(), "{:?}", first.failures);
    let other = service("a1", "172.30.0.1", 80, None, &[]);
    put(&mut snapshot, other, vec![endpoint("10.180.0.1", "me", false), endpoint("10.180.0.2", "me", false)]);
    let change = builder.update(&snapshot, &facts(), Instant::now());
    let (second, calls) = sync(&builder, Touched::Ports(&change.ports.v4));
    assert!(!second.observed && second.done > 0 && calls < 5, "{calls} calls");
    assert_eq!((&second.failures, second.standing), (&first.failures, first.failures.len()), "it is not forgotten");
    // Tried again and refused again, it is told once.
    let refused = service("a7", "172.30.0.7", 80, None, &[]);
    put(&mut snapshot, refused, vec![endpoint("10.180.0.2", "me", false)]);
    let change = builder.update(&snapshot, &facts(), Instant::now());
    let (third, _) = sync(&builder, Touched::Ports(&change.ports.v4));
    assert!(third.failed_anew() && !third.observed);
    let mut steps: Vec<&String> = third.failures.iter().map(|failure| &failure.step).collect();
    let told = steps.len();
    steps.sort_unstable();
    steps.dedup();
    assert_eq!(steps.len(), told);
    shared.lock().unwrap().v4.refuses = None;
    plane.distrust(IpFamily::V4);
    let desired = builder.desired().get(IpFamily::V4);
    let last = plane.sync(IpFamily::V4, desired, Touched::All, Instant::now());
    assert!(last.is_clean() && last.standing == 0, "{:?}", last.failures);
    assert!(plane.preview(IpFamily::V4, desired, Instant::now()).unwrap().is_empty());
}

#[test]
fn while_a_service_is_refused_changes_cost_what_they_change() {
    changes_cost_what_they_change::<FakeIptables>();
    changes_cost_what_they_change::<FakeIpvs>();
}
