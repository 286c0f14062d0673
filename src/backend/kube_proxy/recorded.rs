//! Which virtual servers and addresses kube-proxy made, told by its ipsets.
//!
//! In IPVS mode kube-proxy deletes every virtual server, and every address on `kube-ipvs0`, that it does not want itself
//! (`cleanLegacyService`, `superfluousAddresses`). So where its sets are, what is on that device can only be its own. On
//! other addresses (node ports) only what the sets name counts.

use super::names::{self, set_name};
use crate::backend::ObserveError;
use crate::kernel::ipset::{self, Entry, Protocol};
use crate::model::IpFamily;
use std::collections::HashSet;
use std::net::IpAddr;

/// What kube-proxy's sets say in one family.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Recorded {
    /// Its sets are there.
    pub there: bool,
    servers: HashSet<Entry>,
    node_ports: HashSet<(Protocol, u16)>,
}

impl Recorded {
    /// Reads the sets.
    ///
    /// # Errors
    /// When the kernel does not tell.
    pub fn read(family: IpFamily, sets: &mut ipset::Client) -> Result<Self, ObserveError> {
        let present = present(family, sets)?;
        let mut recorded = Self { there: !present.is_empty(), ..Self::default() };
        let mut each = |name: &str, take: &mut dyn FnMut(Entry)| -> Result<(), ObserveError> {
            let name = set_name(name, family);
            if !present.contains(&name) {
                return Ok(());
            }
            let outcome = sets.each_entry(&name, |entry| take(entry.entry));
            outcome.map_err(|error| ObserveError::new(format!("set {name}"), error))
        };
        for name in names::SERVERS {
            each(name, &mut |entry| {
                recorded.servers.insert(entry);
            })?;
        }
        for (name, protocol) in names::NODE_PORTS {
            each(name, &mut |entry| match entry {
                Entry::Port(port) => {
                    recorded.node_ports.insert((protocol, port));
                }
                entry => {
                    recorded.servers.insert(entry);
                }
            })?;
        }
        Ok(recorded)
    }

    /// Sets that record these virtual servers.
    #[cfg(test)]
    pub(in crate::backend) fn of(servers: impl IntoIterator<Item = Entry>) -> Self {
        Self { there: true, servers: servers.into_iter().collect(), ..Self::default() }
    }

    /// Whether kube-proxy made the virtual server of this address and port; `bound` says whether the address is on
    /// `kube-ipvs0`.
    pub fn has_server(&self, entry: &Entry, bound: impl Fn(IpAddr) -> bool) -> bool {
        let Entry::IpPort { address, protocol, port } = entry else { return false };
        self.there && (self.servers.contains(entry) || self.node_ports.contains(&(*protocol, *port)) || bound(*address))
    }
}

/// The names of kube-proxy's sets that are there.
///
/// # Errors
/// When the kernel does not tell.
pub fn sets_there(family: IpFamily) -> Result<Vec<String>, ObserveError> {
    match ipset::Client::open() {
        Ok(mut sets) => present(family, &mut sets),
        // A kernel without ipset has none.
        Err(error) if *error.reason() == ipset::Reason::Unavailable => Ok(Vec::new()),
        Err(error) => Err(ObserveError::new("ipsets", error)),
    }
}

fn present(family: IpFamily, sets: &mut ipset::Client) -> Result<Vec<String>, ObserveError> {
    let headers = sets.list().map_err(|error| ObserveError::new("ipsets", error))?;
    let known = names::sets(family);
    Ok(headers.into_iter().map(|header| header.name).filter(|name| known.contains(name)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_it_made_is_told_from_what_others_made() {
        let address: IpAddr = "172.30.0.10".parse().unwrap();
        let server = |port, protocol| Entry::IpPort { address, protocol, port };
        let servers = HashSet::from([server(80, Protocol::TCP)]);
        let node_ports = HashSet::from([(Protocol::UDP, 30053)]);
        let recorded = Recorded { there: true, servers, node_ports };
        assert!(recorded.has_server(&server(80, Protocol::TCP), |_| false));
        assert!(!recorded.has_server(&server(80, Protocol::UDP), |_| false), "another protocol");
        assert!(recorded.has_server(&server(30053, Protocol::UDP), |_| false), "a node port");
        assert!(recorded.has_server(&server(81, Protocol::TCP), |ip| ip == address), "on the device");
        assert!(!Recorded::default().has_server(&server(80, Protocol::TCP), |_| true), "kube-proxy was never here");
    }
}
