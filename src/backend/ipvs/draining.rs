//! Whose connections are counted again before a plan. Pure.

use super::observed::Observed;
use super::wanted;
use crate::desired::{Desired, ServicePort, Touched};
use foldhash::HashSet;
use ipvs::ServiceId;

/// The virtual servers whose connections have to be counted again: those of touched ports of which something drains that the
/// kernel still has. What was idle is gone, though it may be said to drain for a quarter of an hour.
pub fn draining(desired: &Desired, touched: Touched<'_>, observed: &Observed) -> HashSet<ServiceId> {
    let Some(rules) = desired.rules.as_deref() else { return HashSet::default() };
    let ports: Vec<&ServicePort> = match touched {
        Touched::All => desired.ports.values().map(|port| &**port).collect(),
        Touched::Ports(keys) => keys.iter().filter_map(|key| desired.ports.get(key)).map(|port| &**port).collect(),
    };
    let mut servers = HashSet::default();
    for port in ports {
        let drain = || port.endpoints.iter().filter(|endpoint| endpoint.drains()).map(|endpoint| endpoint.address);
        if drain().next().is_none() {
            continue;
        }
        let has_any = |id: &ServiceId| {
            let found = observed.servers.get(id);
            let listed =
                || found.is_some_and(|found| drain().any(|address| found.destinations.get(&address).is_some()));
            observed.drains.contains(id) || listed()
        };
        servers.extend(wanted::server_ids(port, rules).into_iter().filter(has_any));
    }
    servers
}
