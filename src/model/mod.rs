//! What a source tells us about the cluster: Services, their EndpointSlices, the node. Ours, immutable, `Arc`-shared.
//!
//! A [`Snapshot`] is a complete state, never a delta. Its maps are persistent (cloning is O(1) and two versions share
//! everything that did not change), so that the consumer finds what changed between two snapshots without walking
//! the world, and a lost notification cannot matter.

mod address;
mod balancing;
mod endpoint;
mod event;
mod intern;
mod node;
mod service;
mod slices;
mod uid;
mod widths;

pub use address::{AddressError, IpFamily, PerFamily, parse_address, parse_network};
pub use balancing::{Balancing, MAX_WEIGHT, Weights, WeightsError, counts_weights, with_weights};
pub use endpoint::{Endpoint, EndpointPort, EndpointSlice, Hints, SliceName};
pub use event::{Event, EventQueue, Events, Reason, Regarding};
pub use intern::intern;
pub use node::Node;
pub use service::{AffinityTimeout, Protocol, SCHEDULERS, Service, ServiceName, ServicePort, ServiceType, TargetPort};
pub use slices::{EndpointView, LentEndpoint, LentSlice, Packed, PackedSlice, SliceView, Slices};
pub use uid::Uid;
pub use widths::Widths;

use imbl::OrdMap;
use std::sync::Arc;

/// What is sorted and has nothing twice, in an order in which it fills the nodes of an [`OrdMap`]: what is inserted by the order of
/// its keys leaves all of them half empty, as each is split in the middle. Every second one first makes the nodes, and the others fill them.
pub fn filling<T>(sorted: &[T]) -> impl Iterator<Item = &T> {
    sorted.iter().step_by(2).chain(sorted.iter().skip(1).step_by(2))
}

/// How many changes a source has seen since it started. They only grow.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Changes {
    /// Of Services.
    pub services: u64,
    /// Of EndpointSlices.
    pub slices: u64,
}

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
    /// How many changes came so far.
    pub changes: Changes,
    /// True when the source has listed everything once. What is in the kernel and not here stays before that.
    pub complete: bool,
}

impl Snapshot {
    /// Puts a slice in, unless it tells nothing new; true if it does.
    pub fn put_slice(&mut self, service: &ServiceName, slice: PackedSlice) -> bool {
        let known = self.slices.get(service).and_then(|slices| slices.get(&slice.name));
        let slice = match known {
            None => slice,
            Some(known) => {
                let mut newer = slice.unpack();
                if known.tells_the_same(&newer) {
                    return false;
                }
                newer.follow(&known);
                PackedSlice::from(&newer)
            }
        };
        self.slices.entry(service.clone()).or_default().insert_packed(slice);
        self.changes.slices += 1;
        true
    }

    /// What happened to slices since an older snapshot, and when: with the Service and family of each. The cost follows the
    /// differences.
    pub fn triggers_since(&self, older: &Self) -> Vec<(ServiceName, IpFamily, std::time::SystemTime)> {
        use imbl::ordmap::DiffItem;
        let mut triggers = Vec::new();
        for item in older.slices.diff(&self.slices) {
            let (service, before, now) = match item {
                DiffItem::Add(service, now) => (service, None, now),
                DiffItem::Update { old: (_, before), new: (service, now) } => (service, Some(before), now),
                DiffItem::Remove(..) => continue,
            };
            for (slice, before) in now.news_since(before) {
                let own = slice.triggers_since(before.as_ref());
                triggers.extend(own.map(|time| (service.clone(), slice.family, time)));
            }
        }
        triggers
    }

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
        // Two sorted halves, which this one notices.
        changed.sort();
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
        new.slices.entry(ServiceName::new("ns", "svc-050")).or_default().insert(&slice);
        assert_eq!(old.changed_services(&new), vec![gone, ServiceName::new("ns", "svc-050"), added.name]);
        assert!(new.changed_services(&new.clone()).is_empty());
    }
}
