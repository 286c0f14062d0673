//! Clients that come from another mode and are to stay with their endpoints: put on the lists of `recent` between the chains
//! that have the lists and the jumps that make them count, so that no connection is balanced anew in between.

use super::service::affinity_list;
use crate::backend::Affinity;
use crate::desired::{Desired, ServicePort};
use crate::kernel::recent;
use crate::model::Protocol;
use iptables::ChainName;
use std::collections::{BTreeSet, HashMap};
use std::net::{IpAddr, SocketAddr};
use tracing::{debug, warn};

/// Lists, and who belongs on them.
pub type Guests = BTreeSet<(ChainName, IpAddr)>;

/// Who of the clients belongs on which list. A client of an address that no service with affinity has is passed over.
pub fn guests(desired: &Desired, affinities: &[Affinity]) -> Guests {
    let mut lists: HashMap<(Protocol, SocketAddr), Vec<&ServicePort>> = HashMap::new();
    for port in desired.ports.values().filter(|port| port.affinity.is_some()) {
        for endpoint in &port.endpoints {
            lists.entry((port.key.protocol, endpoint.address)).or_default().push(port);
        }
    }
    let mut guests = Guests::new();
    for affinity in affinities {
        let ports = lists.get(&(affinity.protocol, affinity.endpoint)).into_iter().flatten();
        let asks_for = |port: &&&ServicePort| {
            let (ip, number) = (affinity.frontend.ip(), affinity.frontend.port());
            port.node_port == Some(number)
                || port.port == number && port.service_addresses().any(|(_, address)| address == ip)
        };
        let ports = ports.filter(asks_for);
        guests.extend(ports.map(|port| (affinity_list(port, affinity.endpoint), affinity.client)));
    }
    guests
}

/// Puts them on their lists. Who does not get there is balanced anew: no reason to fail.
pub fn seat(guests: &Guests) {
    let (mut seated, mut first) = (0_usize, None);
    for (list, client) in guests {
        match recent::put(list.as_str(), *client) {
            Ok(()) => seated += 1,
            Err(error) => first = first.or(Some(format!("{list}, {client}: {error}"))),
        }
    }
    debug!(clients = seated, "clients stay with their endpoints");
    if let Some(error) = first {
        warn!("not all clients with affinity stay with their endpoints: {error}");
    }
}
