//! IPVS mode over the kernel in memory.

use super::{FakeBackend, Shared};
use crate::backend::ipvs::{Broken, Context, Observed, Op, Ours, VipBinding, ahead_for_tests, failure, plan_for_tests};
use crate::backend::rules::{Found, Refusal, Writer};
use crate::backend::{Aftermath, Ahead, Backend, Failure, ObserveError};
use crate::desired::{Desired, Touched};
use crate::model::IpFamily;
use std::time::{Duration, Instant};

#[derive(Debug)]
pub struct FakeIpvs(Shared);

impl FakeBackend for FakeIpvs {
    fn on(kernel: Shared) -> Self {
        Self(kernel)
    }
}

fn context(family: IpFamily, now: Instant) -> Context {
    Context {
        family,
        binding: VipBinding::Route,
        now,
        drain_timeout: Duration::from_secs(900),
        missing: Default::default(),
    }
}

impl Backend for FakeIpvs {
    type Observed = Observed;
    type Op = Op;

    fn name(&self) -> &'static str {
        "fake ipvs"
    }

    fn observe(&mut self, family: IpFamily) -> Result<Observed, ObserveError> {
        let mut kernel = self.0.lock().unwrap();
        let kernel = kernel.get_mut(family);
        if kernel.fails() {
            return Err(ObserveError::new("virtual servers", "injected fault"));
        }
        let mut observed = Observed {
            servers: kernel.servers.clone().into_iter().collect(),
            interface: kernel.interface,
            interface_up: kernel.interface,
            detour: kernel.detour,
            routes: kernel.routes.clone(),
            sets: kernel.sets.iter().map(|(set, entries)| (*set, entries.iter().copied().collect())).collect(),
            rules: Found::from_saved(&kernel.tables, Ours),
            ..Observed::default()
        };
        observed.look_for_all_drains();
        Ok(observed)
    }

    /// Nothing is ever connected here.
    fn refresh(
        &mut self,
        _: IpFamily,
        _: &Desired,
        _: Touched<'_>,
        observed: &mut Observed,
    ) -> Result<(), ObserveError> {
        let destinations = observed.servers.values_mut().flat_map(|server| server.destinations.iter_mut());
        destinations.for_each(|(_, destination)| destination.connections = 0);
        Ok(())
    }

    fn plan(
        &self,
        family: IpFamily,
        desired: &Desired,
        observed: &Observed,
        touched: Touched<'_>,
        now: Instant,
    ) -> Vec<Op> {
        plan_for_tests(context(family, now), desired, observed, touched)
    }

    fn plan_ahead(
        &self,
        family: IpFamily,
        desired: &Desired,
        observed: &Observed,
        now: Instant,
        ahead: &mut Ahead,
    ) -> Option<Vec<Op>> {
        ahead_for_tests(context(family, now), desired, observed, ahead)
    }

    fn apply(&mut self, family: IpFamily, plan: Vec<Op>, observed: &mut Observed) -> Vec<Failure> {
        let mut kernel = self.0.lock().unwrap();
        let kernel = kernel.get_mut(family);
        let mut failures = Vec::new();
        let mut broken = Broken::default();
        for op in plan {
            if let Some(reason) = broken.blocks(&op) {
                failures.push(Failure { aftermath: Aftermath::Refused, ..failure(&op, reason) });
                continue;
            }
            if let Op::Rule(rule) = op {
                failures.extend(Writer::new(&mut *kernel, &Ours).write(vec![rule], &mut observed.rules));
                continue;
            }
            match kernel.execute(&op) {
                Ok(()) => observed.acknowledge(&op),
                Err(Refusal { reason, nothing_done }) => {
                    broken.note(&op);
                    let aftermath = if nothing_done { Aftermath::Refused } else { Aftermath::Unknown };
                    failures.push(Failure { aftermath, ..failure(&op, reason) });
                }
            }
        }
        failures
    }

    fn draining(&self, observed: &Observed) -> usize {
        observed.draining().count()
    }

    fn remember(&self, desired: &Desired, touched: Touched<'_>, observed: &mut Observed) {
        let context = context(IpFamily::V4, Instant::now());
        observed.remember(desired, touched, &|port, rules| context.shared(port, rules));
    }
}
