//! What a source tells us about the cluster: Services, their EndpointSlices, the node. Ours, immutable, `Arc`-shared.
//!
//! A [`Snapshot`] is a complete state, never a delta. Its maps are persistent (cloning is O(1) and two versions share
//! everything that did not change), so that the consumer finds what changed between two snapshots without walking
//! the world, and a lost notification cannot matter.

mod address;
mod endpoint;
mod intern;
mod node;
mod service;

pub use address::{AddressError, IpFamily, PerFamily, parse_address, parse_network};
pub use endpoint::{Endpoint, EndpointPort, EndpointSlice, SliceName};
pub use intern::intern;
pub use node::Node;
pub use service::{AffinityTimeout, Protocol, SCHEDULERS, Service, ServiceName, ServicePort, ServiceType, TargetPort};

use imbl::OrdMap;
use std::sync::Arc;

/// All slices of one Service, by the slice's name.
pub type Slices = OrdMap<SliceName, Arc<EndpointSlice>>;

/// Everything a source knows at one instant.
#[derive(Debug, Clone, Default)]
pub struct Snapshot {
    /// Services by namespace and name.
    pub services: OrdMap<ServiceName, Arc<Service>>,
    /// EndpointSlices by the Service that they belong to, then by their own name.
    pub slices: OrdMap<ServiceName, Slices>,
    /// Nodes by name; a source gives at least our own where it knows it.
    pub nodes: OrdMap<Arc<str>, Arc<Node>>,
    /// The cluster's service ranges, where the source knows them.
    pub service_ranges: Vec<ipnet::IpNet>,
    /// True when the source has listed everything once. What is in the kernel and not here stays before that.
    pub complete: bool,
}

impl Snapshot {
    /// The names of the Services for which anything (Service or slices) differs between two snapshots.
    ///
    /// The cost follows the differences, not the size: unchanged parts of the maps are shared and skipped.
    pub fn changed_services(&self, newer: &Self) -> Vec<ServiceName> {
        use imbl::ordmap::DiffItem;
        let mut changed = Vec::new();
        for item in self.services.diff(&newer.services) {
            match item {
                DiffItem::Add(name, _) | DiffItem::Remove(name, _) => changed.push(name.clone()),
                DiffItem::Update { new: (name, _), .. } => changed.push(name.clone()),
            }
        }
        for item in self.slices.diff(&newer.slices) {
            match item {
                DiffItem::Add(name, _) | DiffItem::Remove(name, _) => changed.push(name.clone()),
                DiffItem::Update { new: (name, _), .. } => changed.push(name.clone()),
            }
        }
        changed.sort_unstable();
        changed.dedup();
        changed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changed_services_names_only_what_differs() {
        let mut old = Snapshot::default();
        for index in 0..100 {
            let service = Service::for_test("ns", &format!("svc-{index:03}"));
            old.services.insert(service.name.clone(), Arc::new(service));
        }
        let mut new = old.clone();
        let gone = ServiceName::new("ns", "svc-007");
        new.services.remove(&gone);
        let added = Service::for_test("ns", "zz");
        new.services.insert(added.name.clone(), Arc::new(added.clone()));
        let slice = EndpointSlice::for_test("svc-050-x");
        new.slices.entry(ServiceName::new("ns", "svc-050")).or_default().insert(slice.name.clone(), Arc::new(slice));
        assert_eq!(old.changed_services(&new), vec![gone, ServiceName::new("ns", "svc-050"), added.name]);
        assert!(new.changed_services(&new.clone()).is_empty());
    }
}
