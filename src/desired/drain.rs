//! The draining ledger: an endpoint that served and is gone from the list drains until a deadline; one that returns
//! serves again. It is part of what is desired, so nothing beside the reconciler ever owns a drain.

use super::{Endpoint, Role, ServicePort};
use crate::model::Protocol;
use std::time::{Duration, Instant};

/// Adds to `new` what drains: endpoints of `previous` that no longer serve.
///
/// UDP has no connections to finish: its flows move at once (upstream deletes UDP real servers without grace too).
pub fn carry(previous: Option<&ServicePort>, new: &mut ServicePort, now: Instant, timeout: Duration) {
    let Some(previous) = previous else { return };
    if new.key.protocol == Protocol::Udp {
        return;
    }
    for old in &previous.endpoints {
        let until = match old.role {
            Role::Serve { .. } => now + timeout,
            Role::Drain { until } => until,
        };
        let returns = new.endpoints.iter().any(|endpoint| endpoint.address == old.address);
        if !returns && until > now {
            new.endpoints.push(Endpoint { role: Role::Drain { until }, ..old.clone() });
        }
    }
    new.endpoints.sort_by_key(|endpoint| endpoint.address);
}

/// Whether anything drains.
pub fn any(port: &ServicePort) -> bool {
    port.endpoints.iter().any(|endpoint| !endpoint.serves())
}

/// Removes the drains whose deadline has passed; `None` if there are none.
pub fn expire(port: &ServicePort, now: Instant) -> Option<ServicePort> {
    let over = |endpoint: &Endpoint| matches!(endpoint.role, Role::Drain { until } if until <= now);
    if !port.endpoints.iter().any(over) {
        return None;
    }
    let mut port = port.clone();
    port.endpoints.retain(|endpoint| !over(endpoint));
    Some(port)
}
