//! What a round tells: the mode, what drains and what failed, to who asks for the status; what is refused or without effect,
//! to the log and to the owners of the Services.

use super::Mode;
use super::round::Reconciler;
use super::schedule::Timing;
use crate::desired::Refusal;
use crate::model::{Event, IpFamily, PerFamily, Reason, ServiceName};
use imbl::OrdSet;
use std::collections::BTreeSet;
use std::time::Instant;
use tracing::{info, warn};

impl Reconciler {
    /// What of a family drains, for who asks.
    pub(super) fn tell_draining(&mut self, family: IpFamily) {
        let status = self.status.families.get_mut(family);
        status.wish = *self.planes.wish.get(family);
        status.draining = self.builder.draining(family).clone();
        status.retirement = self.retirements.get(family).clone();
    }

    /// Another mode serves a family now.
    pub(super) fn moved(&mut self, family: IpFamily) {
        let status = self.status.families.get_mut(family);
        status.mode = Some(*self.planes.active.get(family));
        status.wish = *self.planes.wish.get(family);
        status.mode_since = Some(Instant::now());
        self.take_timings();
    }

    /// The periods are those of the modes that serve.
    pub(super) fn take_timings(&mut self) {
        self.timing = PerFamily::from_fn(|family| self.timings.of(*self.planes.active.get(family)));
        let periods = self.planes.families.iter().map(|family| self.timing.get(*family).audit);
        let period = periods.max().unwrap_or(Timing::default().audit);
        self.status.sync_period = period;
        self.tally.period(period);
    }

    /// Why a family stays in its mode.
    pub(super) fn note_failed(&mut self, family: IpFamily, reason: &str) {
        let status = self.status.families.get_mut(family);
        status.last_failure = Some((Instant::now(), format!("switch the mode: {reason}")));
    }

    pub(super) fn tell_refusals(&mut self) {
        let refusals: BTreeSet<Refusal> = self.builder.refusals().collect();
        for refusal in refusals.difference(&self.told) {
            warn!("{refusal}");
            self.events.tell(Event::of_service(&refusal.port.service, Reason::AddressRefused, refusal.to_string()));
        }
        self.told = refusals;
    }

    /// Says of which Services annotations have no effect, as iptables mode has neither schedulers nor one-packet
    /// scheduling. Once for each; a Service that asks again, or a mode that comes again, is news.
    pub(super) fn tell_without_effect(&mut self) {
        let iptables = |family: &IpFamily| *self.planes.active.get(*family) == Mode::Iptables;
        let families: Vec<String> =
            self.planes.families.iter().filter(|family| iptables(family)).map(ToString::to_string).collect();
        let now = if families.is_empty() { OrdSet::new() } else { self.builder.ipvs_only().clone() };
        if now.ptr_eq(&self.told_without_effect) {
            return;
        }
        let news: Vec<&ServiceName> = now.iter().filter(|name| !self.told_without_effect.contains(*name)).collect();
        for name in &news {
            let note = format!(
                "a scheduler or one-packet scheduling was asked for by annotation; {} is served in iptables mode, which \
                 has neither",
                families.join(" and ")
            );
            self.events.tell(Event::of_service(name, Reason::AnnotationWithoutEffect, note));
        }
        if let Some(first) = news.first() {
            info!(
                services = news.len(),
                "annotations that ask for a scheduler have no effect in iptables mode: {first}, ..."
            );
        }
        self.told_without_effect = now;
    }
}
