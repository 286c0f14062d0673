//! What drains, and when it ends, so that nobody has to walk all of it.

use super::{Builder, Change};
use crate::desired::{ServicePort, ServicePortKey, drain};
use crate::model::IpFamily;
use std::sync::Arc;
use std::time::Instant;

impl Builder {
    /// Ends the drains whose deadline has passed.
    pub fn expire(&mut self, now: Instant) -> Change {
        let mut change = Change::default();
        for family in IpFamily::BOTH {
            while self.deadlines.get(family).first().is_some_and(|(at, _)| *at <= now) {
                let Some((_, key)) = self.deadlines.get_mut(family).pop_first() else { break };
                // It may serve again since, or drain for longer.
                let Some(port) = self.draining.get(family).get(&key) else { continue };
                let port = match drain::expire(port, now) {
                    Some(expired) => {
                        let expired = Arc::new(expired);
                        self.desired.get_mut(family).ports.insert(key.clone(), expired.clone());
                        change.ports.get_mut(family).insert(key);
                        expired
                    }
                    None => port.clone(),
                };
                self.watch_drains(&port, family);
            }
        }
        change
    }

    /// Takes note of what drains of a service port.
    pub(super) fn watch_drains(&mut self, port: &Arc<ServicePort>, family: IpFamily) {
        match drain::soonest(port) {
            Some(until) => {
                self.draining.get_mut(family).insert(port.key.clone(), port.clone());
                self.deadlines.get_mut(family).insert((until, port.key.clone()));
            }
            None => self.forget_drains(&port.key, family),
        }
    }

    pub(super) fn forget_drains(&mut self, key: &ServicePortKey, family: IpFamily) {
        let draining = self.draining.get_mut(family);
        // Others may hold the map, which a removal of nothing would copy.
        if draining.contains_key(key) {
            draining.remove(key);
        }
    }
}
