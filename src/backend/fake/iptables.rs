//! iptables mode over the kernel in memory.

use super::{FakeBackend, Shared};
use crate::backend::iptables::{Guests, Observed, Op, Ours, ahead_for_tests, plan_for_tests, write};
use crate::backend::rules::{Found, RuleOp, Writer};
use crate::backend::{Affinity, Ahead, Backend, Failure, ObserveError};
use crate::desired::{Desired, Touched};
use crate::model::{IpFamily, PerFamily};
use std::time::Instant;

#[derive(Debug)]
pub struct FakeIptables(Shared, PerFamily<bool>);

impl FakeBackend for FakeIptables {
    fn on(kernel: Shared) -> Self {
        Self(kernel, PerFamily::default())
    }
}

impl Backend for FakeIptables {
    type Observed = Observed;
    type Op = Op;

    fn name(&self) -> &'static str {
        "fake iptables"
    }

    fn observe(&mut self, family: IpFamily) -> Result<Observed, ObserveError> {
        let mut kernel = self.0.lock().unwrap();
        let kernel = kernel.get_mut(family);
        if kernel.fails() {
            return Err(ObserveError::new("rules", "injected fault"));
        }
        Ok(Observed::of_rules(Found::from_saved(&kernel.tables, Ours)))
    }

    fn plan(
        &self,
        family: IpFamily,
        desired: &Desired,
        observed: &Observed,
        touched: Touched<'_>,
        _: Instant,
    ) -> Vec<Op> {
        plan_for_tests(family, desired, observed, touched)
    }

    fn plan_ahead(
        &self,
        family: IpFamily,
        desired: &Desired,
        observed: &Observed,
        _: Instant,
        ahead: &mut Ahead,
    ) -> Option<Vec<Op>> {
        ahead_for_tests(family, desired, observed, *self.1.get(family), ahead)
    }

    fn expect(&mut self, family: IpFamily, _: &Desired, _: &[Affinity]) {
        *self.1.get_mut(family) = true;
    }

    fn serve(&mut self, family: IpFamily) {
        *self.1.get_mut(family) = false;
    }

    fn apply(&mut self, family: IpFamily, plan: Vec<Op>, observed: &mut Observed) -> Vec<Failure> {
        let rules: Vec<RuleOp> =
            plan.into_iter().filter_map(|op| if let Op::Rule(op) = op { Some(op) } else { None }).collect();
        let mut kernel = self.0.lock().unwrap();
        let (mut writer, found) = (Writer::new(kernel.get_mut(family), &Ours), observed.rules_for_tests());
        let nobody = Guests::default();
        write(&mut writer, rules, self.1.get(family).then_some(&nobody), found)
    }

    fn remember(&self, desired: &Desired, _: Touched<'_>, observed: &mut Observed) {
        observed.remember(desired);
    }
}
