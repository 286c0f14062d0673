//! Who may use an address and port when two Services claim the same: one of them, always the same one, in both modes.

use super::ServicePortKey;
use crate::model::{IpFamily, Protocol, Service};
use foldhash::HashMap;
use smallvec::SmallVec;
use std::collections::BTreeSet;
use std::collections::hash_map::Entry;
use std::net::IpAddr;

/// What a service port claims.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Frontend {
    /// A port on a service address.
    Address(Protocol, IpAddr, u16),
    /// A port on the node's addresses.
    NodePort(IpFamily, Protocol, u16),
}

/// All claims. The service port that sorts first holds a frontend; the others wait for it to go. What each of them claims is
/// not kept: it follows from its Service.
#[derive(Debug, Default)]
pub struct Claims(HashMap<Frontend, Claimants>);

/// What a service port claims.
type Claim = (ServicePortKey, Frontend);

/// Who claims a frontend, in their order. One, as a rule, and then without a list.
#[derive(Debug)]
enum Claimants {
    One(ServicePortKey),
    Many(Vec<ServicePortKey>),
}

impl Claimants {
    fn as_slice(&self) -> &[ServicePortKey] {
        match self {
            Self::One(key) => std::slice::from_ref(key),
            Self::Many(keys) => keys,
        }
    }

    fn first(&self) -> Option<&ServicePortKey> {
        self.as_slice().first()
    }

    fn with(&self, key: &ServicePortKey) -> Self {
        let mut keys = self.as_slice().to_vec();
        if let Err(place) = keys.binary_search(key) {
            keys.insert(place, key.clone());
        }
        Self::Many(keys)
    }

    /// Nothing if nobody is left.
    fn without(&self, key: &ServicePortKey) -> Option<Self> {
        let keys: Vec<ServicePortKey> = self.as_slice().iter().filter(|known| *known != key).cloned().collect();
        match <[ServicePortKey; 1]>::try_from(keys) {
            Ok([only]) => Some(Self::One(only)),
            Err(keys) if keys.is_empty() => None,
            Err(keys) => Some(Self::Many(keys)),
        }
    }
}

impl Claims {
    /// Replaces what the ports of a Service claimed by what they claim now, both sorted, and adds to `affected` the others
    /// that gain or lose a frontend by it.
    pub fn replace(&mut self, old: &[Claim], new: &[Claim], affected: &mut BTreeSet<ServicePortKey>) {
        for (key, frontend) in old.iter().filter(|claim| new.binary_search(claim).is_err()) {
            self.withdraw(key, frontend, affected);
        }
        for (key, frontend) in new {
            self.put(key, *frontend, affected);
        }
    }

    fn withdraw(&mut self, key: &ServicePortKey, frontend: &Frontend, affected: &mut BTreeSet<ServicePortKey>) {
        let Some(keys) = self.0.remove(frontend) else { return };
        let held = keys.first() == Some(key);
        if let Some(left) = keys.without(key) {
            affected.extend(left.first().filter(|_| held).cloned());
            self.0.insert(*frontend, left);
        }
    }

    fn put(&mut self, key: &ServicePortKey, frontend: Frontend, affected: &mut BTreeSet<ServicePortKey>) {
        match self.0.entry(frontend) {
            Entry::Vacant(vacant) => drop(vacant.insert(Claimants::One(key.clone()))),
            Entry::Occupied(mut keys) if keys.get().as_slice() != std::slice::from_ref(key) => {
                affected.extend(keys.get().first().filter(|holder| *holder > key).cloned());
                let more = keys.get().with(key);
                keys.insert(more);
            }
            Entry::Occupied(_) => {}
        }
    }

    /// Makes room for so many more.
    pub fn reserve(&mut self, claims: usize) {
        self.0.reserve(claims);
    }

    /// Whether nobody claims anything.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Who holds a frontend.
    pub fn holder(&self, frontend: &Frontend) -> Option<&ServicePortKey> {
        self.0.get(frontend)?.first()
    }
}

/// Everything that the ports of a Service would like to have in a family, sorted. A service address that is one of the node's
/// own is reached like a node port, and contends with node ports of that number.
pub fn of_service(service: Option<&Service>, family: IpFamily, node_addresses: &[IpAddr]) -> SmallVec<[Claim; 1]> {
    let of_family = |ip: &&IpAddr| IpFamily::of(**ip) == family;
    let Some((service, cluster_ip)) =
        service.and_then(|service| Some((service, service.cluster_ips.iter().find(of_family)?)))
    else {
        return SmallVec::new();
    };
    let others = || service.external_ips.iter().chain(&service.load_balancer_ips).filter(of_family);
    let on_node = std::iter::once(cluster_ip).chain(others()).any(|ip| node_addresses.contains(ip));
    let mut claims = SmallVec::new();
    for port in &service.ports {
        let protocol = port.protocol;
        let key = ServicePortKey { service: service.name.clone(), port: port.name.clone(), protocol };
        let node_ports = port.node_port.into_iter().chain(on_node.then_some(port.port));
        let node_ports = node_ports.map(|number| Frontend::NodePort(family, protocol, number));
        claims.extend(others().map(|ip| (key.clone(), Frontend::Address(protocol, *ip, port.port))));
        claims.extend(node_ports.map(|frontend| (key.clone(), frontend)));
        claims.push((key, Frontend::Address(protocol, *cluster_ip, port.port)));
    }
    if claims.len() > 1 {
        claims.sort_unstable();
        claims.dedup();
    }
    claims
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{self, ServiceName};

    #[test]
    fn the_first_by_name_holds_and_the_next_inherits() {
        let key = |name: &str| ServicePortKey {
            service: ServiceName::new("ns", name),
            port: "".into(),
            protocol: Protocol::Tcp,
        };
        let shared = Frontend::Address(Protocol::Tcp, [192, 168, 99, 1].into(), 80);
        let mut claims = Claims::default();
        let mut affected = BTreeSet::new();
        let claim = |name: &str| [(key(name), shared)];
        claims.replace(&[], &claim("b"), &mut affected);
        assert!(affected.is_empty());
        claims.replace(&[], &claim("a"), &mut affected);
        assert_eq!(affected.iter().collect::<Vec<_>>(), [&key("b")], "b loses it");
        assert_eq!(claims.holder(&shared), Some(&key("a")));
        affected.clear();
        claims.replace(&claim("a"), &[], &mut affected);
        assert_eq!(affected.iter().collect::<Vec<_>>(), [&key("b")], "b gets it back");
        assert_eq!(claims.holder(&shared), Some(&key("b")));
        affected.clear();
        claims.replace(&[], &claim("c"), &mut affected);
        claims.replace(&claim("c"), &claim("c"), &mut affected);
        assert!(affected.is_empty(), "a later one changes nothing");
        claims.replace(&claim("b"), &[], &mut affected);
        assert_eq!((claims.holder(&shared), affected.iter().collect::<Vec<_>>()), (Some(&key("c")), vec![&key("c")]));
        claims.replace(&claim("c"), &[], &mut affected);
        assert_eq!((claims.holder(&shared), claims.is_empty()), (None, true));
    }

    #[test]
    fn a_service_claims_each_address_and_port_once() {
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        let mut service = Service::for_test("ns", "a");
        service.cluster_ips = vec![ip("fd00::1"), ip("172.30.0.1")];
        service.external_ips = vec![ip("192.168.0.2"), ip("fd00::9"), ip("172.30.0.1")];
        service.load_balancer_ips = vec![ip("192.168.0.2")];
        let port = |name: &str, number, node_port| model::ServicePort {
            name: name.into(),
            protocol: Protocol::Tcp,
            port: number,
            node_port,
            target: None,
        };
        service.ports = vec![port("http", 80, Some(30_080)), port("admin", 81, None)];
        let of = |addresses: &[IpAddr]| -> Vec<(String, Frontend)> {
            let claims = of_service(Some(&service), IpFamily::V4, addresses);
            claims.into_iter().map(|(key, frontend)| (key.port.to_string(), frontend)).collect()
        };
        let address =
            |name: &str, text: &str, port| (name.to_owned(), Frontend::Address(Protocol::Tcp, ip(text), port));
        let on_node = |name: &str, port| (name.to_owned(), Frontend::NodePort(IpFamily::V4, Protocol::Tcp, port));
        let (of_admin, of_http) = (
            [address("admin", "172.30.0.1", 81), address("admin", "192.168.0.2", 81)],
            [address("http", "172.30.0.1", 80), address("http", "192.168.0.2", 80)],
        );
        assert_eq!(of(&[]), [of_admin.as_slice(), &of_http, &[on_node("http", 30_080)]].concat());
        let with_node = [of_admin.as_slice(), &[on_node("admin", 81)], &of_http, &[on_node("http", 80)]].concat();
        assert_eq!(of(&[ip("192.168.0.2")]), [with_node, vec![on_node("http", 30_080)]].concat());
        assert_eq!(of_service(Some(&service), IpFamily::V6, &[]).len(), 5);
        assert!(of_service(None, IpFamily::V6, &[]).is_empty());
    }
}
