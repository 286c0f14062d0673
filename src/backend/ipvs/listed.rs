//! Virtual servers that a dump listed, until their destinations are read. There may be tens of thousands, and nearly all are set
//! alike: what they are set to is kept once.

use foldhash::{HashMap, HashSet};
use ipvs::{Protocol, Service, ServiceId};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

/// In the place of the identity of each.
const NOBODY: ServiceId =
    ServiceId::Address { protocol: Protocol::Tcp, address: IpAddr::V4(Ipv4Addr::UNSPECIFIED), port: 0 };

/// Virtual servers by their identity.
#[derive(Debug, Default)]
pub(super) struct Listed {
    settings: HashSet<Arc<Service>>,
    servers: HashMap<ServiceId, Arc<Service>>,
}

impl Listed {
    /// Takes note of one.
    pub fn insert(&mut self, service: Service) {
        let id = service.id;
        let settings = Service { id: NOBODY, ..service };
        let shared = self.settings.get(&settings).cloned().unwrap_or_else(|| Arc::new(settings));
        self.settings.insert(shared.clone());
        self.servers.insert(id, shared);
    }

    /// Takes one out.
    pub fn remove(&mut self, id: &ServiceId) -> Option<Service> {
        self.servers.remove(id).map(|settings| Service { id: *id, ..Service::clone(&settings) })
    }

    /// Whether none is left.
    pub fn is_empty(&self) -> bool {
        self.servers.is_empty()
    }

    /// Takes out what is left.
    pub fn drain(&mut self) -> impl Iterator<Item = Service> {
        self.servers.drain().map(|(id, settings)| Service { id, ..Service::clone(&settings) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ipvs::Scheduler;

    #[test]
    fn each_comes_out_as_it_went_in() {
        let mut listed = Listed::default();
        let service = |port, scheduler| {
            Service::new(ServiceId::Address { protocol: Protocol::Udp, address: [10, 0, 0, 1].into(), port }, scheduler)
        };
        let persistent = Service { persistence_timeout: 300, ..service(3, Scheduler::Rr) };
        let all =
            [service(1, Scheduler::Rr), service(2, Scheduler::Rr), persistent.clone(), service(4, Scheduler::Wlc)];
        all.iter().cloned().for_each(|one| listed.insert(one));
        assert_eq!(listed.settings.len(), 3);
        assert_eq!(listed.remove(&persistent.id), Some(persistent.clone()));
        assert_eq!(listed.remove(&persistent.id), None);
        let mut left: Vec<Service> = listed.drain().collect();
        left.sort_by_key(|one| one.id);
        assert_eq!(left, [all[0].clone(), all[1].clone(), all[3].clone()]);
        assert!(listed.is_empty());
    }
}
