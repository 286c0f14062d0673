//! Who may use an address and port when two Services claim the same: one of them, always the same one, in both modes.

use super::{ServicePort, ServicePortKey};
use crate::model::{IpFamily, Protocol};
use std::collections::{BTreeSet, HashMap};
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
    /// Sorted lists: of one, as a rule.
    claimants: HashMap<Frontend, Vec<ServicePortKey>>,
    claimed: HashMap<(ServicePortKey, IpFamily), Vec<Frontend>>,
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
        let slot = (key.clone(), family);
        let old = self.claimed.remove(&slot).unwrap_or_default();
        for frontend in old.iter().filter(|frontend| !claims.contains(frontend)) {
            if let Some(keys) = self.claimants.get_mut(frontend) {
                let held = keys.first() == Some(key);
                keys.retain(|known| known != key);
                affected.extend(keys.first().filter(|_| held).cloned());
                if keys.is_empty() {
                    self.claimants.remove(frontend);
                }
            }
        }
        for frontend in &claims {
            let keys = self.claimants.entry(*frontend).or_default();
            let holder = keys.first().cloned();
            if let Err(place) = keys.binary_search(key) {
                keys.reserve_exact(1);
                keys.insert(place, key.clone());
            }
            affected.extend(holder.filter(|holder| holder > key));
        }
        if !claims.is_empty() {
            self.claimed.insert(slot, claims);
        }
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
    use crate::model::ServiceName;

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
    }
}
