//! Who may use an address and port when two Services claim the same: one of them, always the same one, in both modes.

use super::{ServicePort, ServicePortKey};
use crate::model::{IpFamily, Protocol, ServiceName};
use foldhash::HashMap;
use std::collections::BTreeSet;
use std::net::IpAddr;

/// What a service port claims.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Frontend {
    /// A port on a service address.
    Address(Protocol, IpAddr, u16),
    /// A port on the node's addresses.
    NodePort(IpFamily, Protocol, u16),
}

/// All claims. The service port that sorts first holds a frontend; the others wait for it to go.
#[derive(Debug, Default)]
pub struct Claims {
    claimants: HashMap<Frontend, Claimants>,
    /// What the ports of each Service claim. Nobody asks for an order, and comparing names is work.
    claimed: HashMap<ServiceName, Vec<Claimed>>,
}

/// What one service port claims.
#[derive(Debug)]
struct Claimed {
    key: ServicePortKey,
    family: IpFamily,
    frontends: Box<[Frontend]>,
}

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
    /// Replaces the claims of a service port and adds to `affected` the others that gain or lose a frontend by it.
    pub fn set(
        &mut self,
        key: &ServicePortKey,
        family: IpFamily,
        claims: Vec<Frontend>,
        affected: &mut BTreeSet<ServicePortKey>,
    ) {
        let ports = self.claimed.entry(key.service.clone()).or_default();
        let place = ports.iter().position(|port| port.family == family && port.key == *key);
        let old = place.and_then(|place| ports.get(place)).map(|port| &*port.frontends).unwrap_or_default();
        for frontend in old.iter().filter(|frontend| !claims.contains(frontend)) {
            if let Some(keys) = self.claimants.remove(frontend) {
                let held = keys.first() == Some(key);
                if let Some(left) = keys.without(key) {
                    affected.extend(left.first().filter(|_| held).cloned());
                    self.claimants.insert(*frontend, left);
                }
            }
        }
        for frontend in &claims {
            match self.claimants.get_mut(frontend) {
                None => drop(self.claimants.insert(*frontend, Claimants::One(key.clone()))),
                Some(keys) if keys.as_slice() == std::slice::from_ref(key) => {}
                Some(keys) => {
                    affected.extend(keys.first().filter(|holder| *holder > key).cloned());
                    *keys = keys.with(key);
                }
            }
        }
        if let Some(place) = place {
            ports.swap_remove(place);
        }
        if !claims.is_empty() {
            // Most Services have one port of one family, and there are very many.
            ports.reserve_exact(1);
            ports.push(Claimed { key: key.clone(), family, frontends: claims.into() });
        } else if ports.is_empty() {
            self.claimed.remove(&key.service);
        }
    }

    /// The ports of a Service that claim anything in a family.
    pub fn keys_of(&self, service: &ServiceName, family: IpFamily) -> Vec<ServicePortKey> {
        let own = self.claimed.get(service).into_iter().flatten().filter(|port| port.family == family);
        own.map(|port| port.key.clone()).collect()
    }

    /// Whether nobody claims anything.
    pub fn is_empty(&self) -> bool {
        self.claimed.is_empty()
    }

    /// The Services that claim anything, in any order.
    pub fn services(&self) -> impl Iterator<Item = &ServiceName> {
        self.claimed.keys()
    }

    /// Who holds a frontend.
    pub fn holder(&self, frontend: &Frontend) -> Option<&ServicePortKey> {
        self.claimants.get(frontend)?.first()
    }
}

/// Everything that a service port would like to have. A service address that is one of the node's own is reached like
/// a node port, and contends with node ports of that number.
pub fn of_port(port: &ServicePort, node_addresses: &[IpAddr]) -> Vec<Frontend> {
    let protocol = port.key.protocol;
    let family = IpFamily::of(port.cluster_ip);
    let mut claims: Vec<Frontend> =
        port.service_addresses().map(|(_, ip)| Frontend::Address(protocol, ip, port.port)).collect();
    if port.service_addresses().any(|(_, ip)| node_addresses.contains(&ip)) {
        claims.push(Frontend::NodePort(family, protocol, port.port));
    }
    claims.extend(port.node_port.map(|node_port| Frontend::NodePort(family, protocol, node_port)));
    claims.sort_unstable();
    claims.dedup();
    claims
}

#[cfg(test)]
mod tests {
    use super::*;

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
        claims.set(&key("b"), IpFamily::V4, vec![shared], &mut affected);
        assert!(affected.is_empty());
        claims.set(&key("a"), IpFamily::V4, vec![shared], &mut affected);
        assert_eq!(affected.iter().collect::<Vec<_>>(), [&key("b")], "b loses it");
        assert_eq!(claims.holder(&shared), Some(&key("a")));
        affected.clear();
        claims.set(&key("a"), IpFamily::V4, Vec::new(), &mut affected);
        assert_eq!(affected.iter().collect::<Vec<_>>(), [&key("b")], "b gets it back");
        assert_eq!(claims.holder(&shared), Some(&key("b")));
        affected.clear();
        claims.set(&key("c"), IpFamily::V4, vec![shared], &mut affected);
        assert!(affected.is_empty(), "a later one changes nothing");
        let service = ServiceName::new("ns", "c");
        assert_eq!(claims.keys_of(&service, IpFamily::V4), [key("c")]);
        assert_eq!(claims.keys_of(&service, IpFamily::V6), []);
        claims.set(&key("b"), IpFamily::V4, Vec::new(), &mut affected);
        assert_eq!((claims.holder(&shared), affected.iter().collect::<Vec<_>>()), (Some(&key("c")), vec![&key("c")]));
        claims.set(&key("c"), IpFamily::V4, Vec::new(), &mut affected);
        assert_eq!((claims.holder(&shared), claims.services().count()), (None, 0));
    }
}
