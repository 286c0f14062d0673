//! The draining ledger: an endpoint that served in one of the two lists and is gone from it drains there until a
//! deadline; one that returns serves again. It is part of what is desired, so nothing beside the reconciler ever owns a
//! drain.

use super::{Endpoint, Role, ServicePort};
use crate::model::Protocol;
use std::time::{Duration, Instant};

/// Adds to `new` what drains: endpoints of `previous` that no longer serve, in each list for itself.
///
/// UDP has no connections to finish: its flows move at once (upstream deletes UDP real servers without grace too).
pub fn carry(previous: Option<&ServicePort>, new: &mut ServicePort, now: Instant, timeout: Duration) {
    let Some(previous) = previous else { return };
    if new.key.protocol == Protocol::Udp {
        return;
    }
    for old in &previous.endpoints {
        let known = new.endpoints.iter_mut().find(|endpoint| endpoint.address == old.address);
        match known {
            Some(endpoint) => {
                endpoint.cluster = endpoint.cluster.or(drained(old.cluster, now, timeout));
                endpoint.local = endpoint.local.or(drained(old.local, now, timeout));
            }
            None => {
                let (cluster, local) = (drained(old.cluster, now, timeout), drained(old.local, now, timeout));
                if cluster.or(local).is_some() {
                    new.endpoints.push(Endpoint { cluster, local, ..old.clone() });
                }
            }
        }
    }
    new.endpoints.sort_by_key(|endpoint| endpoint.address);
}

/// What becomes of a role that is no longer wanted.
fn drained(old: Option<Role>, now: Instant, timeout: Duration) -> Option<Role> {
    let until = match old? {
        // A timeout beyond what the clock can hold is as good as for ever.
        Role::Serve { .. } => now.checked_add(timeout).unwrap_or(now + Duration::from_secs(86_400 * 365)),
        Role::Drain { until } => until,
    };
    (until > now).then_some(Role::Drain { until })
}

/// Whether anything drains.
pub fn any(port: &ServicePort) -> bool {
    port.endpoints.iter().any(Endpoint::drains)
}

/// Removes the drains whose deadline has passed; `None` if there are none.
pub fn expire(port: &ServicePort, now: Instant) -> Option<ServicePort> {
    let over = |role: Option<Role>| matches!(role, Some(Role::Drain { until }) if until <= now);
    if !port.endpoints.iter().any(|endpoint| over(endpoint.cluster) || over(endpoint.local)) {
        return None;
    }
    let mut port = port.clone();
    for endpoint in &mut port.endpoints {
        endpoint.cluster = endpoint.cluster.filter(|role| !over(Some(*role)));
        endpoint.local = endpoint.local.filter(|role| !over(Some(*role)));
    }
    port.endpoints.retain(|endpoint| endpoint.cluster.or(endpoint.local).is_some());
    Some(port)
}
