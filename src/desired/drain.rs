//! The draining ledger: an endpoint that served in one of the two lists and is gone from it drains there until a
//! deadline; one that returns serves again. It is part of what is desired, so nothing beside the reconciler ever owns a
//! drain.

use super::{Endpoint, Role, ServicePort};
use crate::model::Protocol;
use std::time::{Duration, Instant};

/// Adds to `new` what drains: endpoints of `previous` that no longer serve, in each list for itself. Where a policy changed,
/// addresses changed lists, and what was in one list drains in the other.
///
/// UDP has no connections to finish: its flows move at once when their endpoint goes (upstream deletes UDP real servers
/// without grace too). An endpoint that stays keeps them, whatever the policy: nobody else would move them.
pub fn carry(previous: Option<&ServicePort>, new: &mut ServicePort, now: Instant, timeout: Duration) {
    let Some(previous) = previous else { return };
    let (udp, until) = (new.key.protocol == Protocol::Udp, deadline(now, timeout));
    new.left_local = match (previous.external_policy_local, new.external_policy_local) {
        (_, true) => None,
        (true, false) => Some(until),
        (false, false) => previous.left_local.filter(|until| *until > now),
    };
    let crossed = previous.external_policy_local != new.external_policy_local
        || previous.internal_policy_local != new.internal_policy_local;
    for old in &previous.endpoints {
        let (mut cluster, mut local) = (old.cluster, old.local);
        if udp {
            // What drains already, since a policy changed.
            (cluster, local) = (cluster.filter(|role| !role.serves()), local.filter(|role| !role.serves()));
        }
        if crossed {
            (cluster, local) = (cluster.or(old.cluster).or(old.local), local.or(old.local).or(old.cluster));
        }
        let (cluster, local) = (drained(cluster, now, until), drained(local, now, until));
        match new.endpoints.iter_mut().find(|endpoint| endpoint.address == old.address) {
            Some(endpoint) => {
                endpoint.cluster = endpoint.cluster.or(cluster);
                endpoint.local = endpoint.local.or(local);
            }
            None if !udp && cluster.or(local).is_some() => {
                new.endpoints.push(Endpoint { cluster, local, ..old.clone() });
            }
            None => {}
        }
    }
    new.endpoints.sort_by_key(|endpoint| endpoint.address);
}

/// A timeout beyond what the clock can hold is as good as for ever.
pub(crate) fn deadline(now: Instant, timeout: Duration) -> Instant {
    now.checked_add(timeout).unwrap_or(now + Duration::from_secs(86_400 * 365))
}

/// What becomes of a role that is no longer wanted.
fn drained(old: Option<Role>, now: Instant, until: Instant) -> Option<Role> {
    let until = old?.drains_until().unwrap_or(until);
    (until > now).then_some(Role::Drain { until })
}

/// When something of it ends to drain, at the soonest; `None` if nothing drains.
pub fn soonest(port: &ServicePort) -> Option<Instant> {
    let roles = port.endpoints.iter().flat_map(|endpoint| [endpoint.cluster, endpoint.local]).flatten();
    roles.filter_map(Role::drains_until).chain(port.left_local).min()
}

/// Removes the drains whose deadline has passed; `None` if there are none.
pub fn expire(port: &ServicePort, now: Instant) -> Option<ServicePort> {
    let over = |role: Option<Role>| role.and_then(Role::drains_until).is_some_and(|until| until <= now);
    let left = port.left_local.is_some_and(|until| until <= now);
    if !left && !port.endpoints.iter().any(|endpoint| over(endpoint.cluster) || over(endpoint.local)) {
        return None;
    }
    let mut port = port.clone();
    port.left_local = port.left_local.filter(|_| !left);
    for endpoint in &mut port.endpoints {
        endpoint.cluster = endpoint.cluster.filter(|role| !over(Some(*role)));
        endpoint.local = endpoint.local.filter(|role| !over(Some(*role)));
    }
    port.endpoints.retain(|endpoint| endpoint.cluster.or(endpoint.local).is_some());
    Some(port)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::desired::ServicePortKey;
    use crate::model::ServiceName;

    const SERVE: Option<Role> = Some(Role::Serve { weight: 1 });
    const TIMEOUT: Duration = Duration::from_secs(900);

    fn port(protocol: Protocol, external_policy_local: bool, endpoints: &[(&str, bool)]) -> ServicePort {
        let endpoint = |(address, here): &(&str, bool)| Endpoint {
            address: address.parse().unwrap(),
            cluster: SERVE,
            local: SERVE.filter(|_| external_policy_local && *here),
            on_this_node: *here,
            elsewhere: !*here,
            pod: None,
        };
        ServicePort {
            key: ServicePortKey { service: ServiceName::new("ns", "a"), port: "".into(), protocol },
            cluster_ip: [172, 30, 0, 1].into(),
            port: 80,
            node_port: Some(30080),
            external_ips: Vec::new(),
            load_balancer_ips: Vec::new(),
            source_ranges: Vec::new(),
            affinity: None,
            internal_policy_local: false,
            external_policy_local,
            health_check_port: None,
            scheduler: "rr".into(),
            scheduling: crate::desired::Scheduling::default(),
            endpoints: endpoints.iter().map(endpoint).collect(),
            has_any_endpoints: true,
            left_local: None,
        }
    }

    #[test]
    fn an_address_that_changes_lists_lets_what_is_open_go_on() {
        let list = [("10.0.0.1:80", true), ("10.0.1.1:80", false)];
        let now = Instant::now();
        for protocol in [Protocol::Tcp, Protocol::Udp] {
            let before = port(protocol, false, &list);
            let mut after = port(protocol, true, &list);
            carry(Some(&before), &mut after, now, TIMEOUT);
            assert_eq!(after.endpoints[0].local, SERVE);
            assert_eq!(after.endpoints[1].local, Some(Role::Drain { until: now + TIMEOUT }), "{protocol}");
            let mut later = port(protocol, true, &list);
            carry(Some(&after), &mut later, now + TIMEOUT / 2, TIMEOUT);
            assert_eq!(later, after, "the next change keeps the deadline");
            let mut over = port(protocol, true, &list);
            carry(Some(&later), &mut over, now + TIMEOUT, TIMEOUT);
            assert_eq!(soonest(&over), None);
        }
    }

    #[test]
    fn shadows_outlive_the_policy_for_a_while() {
        let now = Instant::now();
        let mut after = port(Protocol::Tcp, false, &[("10.0.0.1:80", true)]);
        carry(Some(&port(Protocol::Tcp, true, &[("10.0.0.1:80", true)])), &mut after, now, TIMEOUT);
        assert_eq!(after.left_local, Some(now + TIMEOUT));
        assert!(soonest(&after).is_some() && expire(&after, now).is_none());
        assert_eq!(soonest(&expire(&after, now + TIMEOUT).unwrap()), None);
        let mut back = port(Protocol::Tcp, true, &[("10.0.0.1:80", true)]);
        carry(Some(&after), &mut back, now, TIMEOUT);
        assert_eq!(back.left_local, None);
    }

    #[test]
    fn udp_moves_at_once_when_its_endpoint_goes() {
        let now = Instant::now();
        let mut after = port(Protocol::Udp, true, &[]);
        carry(Some(&port(Protocol::Udp, false, &[("10.0.0.1:80", true)])), &mut after, now, TIMEOUT);
        assert_eq!(after.endpoints, []);
        let mut after = port(Protocol::Tcp, false, &[]);
        carry(Some(&port(Protocol::Tcp, false, &[("10.0.0.1:80", true)])), &mut after, now, TIMEOUT);
        assert_eq!(after.endpoints[0].cluster, Some(Role::Drain { until: now + TIMEOUT }));
        assert_eq!(after.endpoints[0].local, None);
    }
}
