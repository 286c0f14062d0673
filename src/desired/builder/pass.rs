//! What an update looks at, and what it remembers on the way.

use super::super::ServicePortKey;
use crate::model::{IpFamily, PerFamily, Service, ServiceName, Slices, Snapshot};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

/// A Service to look at.
#[derive(Debug, Clone, Copy)]
pub(super) struct Item<'a> {
    pub name: &'a ServiceName,
    /// It is there.
    pub service: Option<&'a Service>,
    pub slices: Option<&'a Slices>,
}

impl<'a> Item<'a> {
    pub fn of(name: &'a ServiceName, snapshot: &'a Snapshot) -> Self {
        let service = snapshot.services.get(name).map(|service| &**service);
        Self { name, service, slices: snapshot.slices.get(name) }
    }

    /// Every Service that is there, by name.
    pub fn all(snapshot: &'a Snapshot) -> Vec<Self> {
        // Both are sorted: nothing is looked for.
        let mut slices = snapshot.slices.iter().peekable();
        let mut of = |name: &ServiceName| {
            while slices.next_if(|(known, _)| *known < name).is_some() {}
            slices.next_if(|(known, _)| *known == name).map(|(_, slices)| slices)
        };
        let item = |(name, service): (&'a ServiceName, &'a Arc<Service>)| Self {
            name,
            service: Some(&**service),
            slices: of(name),
        };
        snapshot.services.iter().map(item).collect()
    }
}

pub(super) fn items<'a>(
    names: impl IntoIterator<Item = &'a ServiceName>,
    snapshot: &'a Snapshot,
) -> impl Iterator<Item = Item<'a>> {
    names.into_iter().map(|name| Item::of(name, snapshot))
}

/// Every Service, also those that went; by name.
pub(super) fn with_gone<'a>(mut all: Vec<Item<'a>>, changed: Vec<Item<'a>>) -> Vec<Item<'a>> {
    all.extend(changed.into_iter().filter(|item| item.service.is_none()));
    all.sort_by_key(|item| item.name);
    all
}

/// Which Services have to be looked at again because of what is not about single ones.
pub(super) enum Again {
    All,
    /// Those that ask for one of these addresses: an API server's, or another node's, which came or went.
    Of(BTreeSet<IpAddr>),
}

/// These Services, and those that ask for one of the addresses; by name.
pub(super) fn with_those_of<'a>(
    services: Vec<Item<'a>>,
    snapshot: &'a Snapshot,
    addresses: &BTreeSet<IpAddr>,
) -> Vec<Item<'a>> {
    if addresses.is_empty() {
        return services;
    }
    let asks = |service: &Service| service.addresses().any(|address| addresses.contains(address));
    let asking = snapshot.services.iter().filter(|(_, service)| asks(service)).map(|(name, _)| name);
    let mut all: BTreeMap<&ServiceName, Item<'a>> = items(asking, snapshot).map(|item| (item.name, item)).collect();
    all.extend(services.into_iter().map(|item| (item.name, item)));
    all.into_values().collect()
}

/// An update under way.
pub(super) struct Pass {
    pub now: Instant,
    /// Nothing was there before, so that nothing is looked for.
    pub first: bool,
    /// The service ports that differ, …
    pub changed: PerFamily<Vec<ServicePortKey>>,
    /// … where somebody wants to know them one by one.
    pub tells: PerFamily<bool>,
}

impl Pass {
    pub fn changed(&mut self, key: &ServicePortKey, family: IpFamily) {
        if *self.tells.get(family) {
            self.changed.get_mut(family).push(key.clone());
        }
    }
}
