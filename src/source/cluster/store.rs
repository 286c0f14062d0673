//! What the API server said so far, as one snapshot. An update costs what it touches.

use super::arrival::Arrival;
use super::resource::Kind;
use crate::model::{Event, Events, Reason, Regarding, Service, ServiceName, Slices, Snapshot, Uid, filling};
use crate::source::Problem;
use crate::source::convert::Object;
use ipnet::IpNet;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use tracing::{info, warn};

/// Something that a reflector learnt.
#[derive(Debug)]
pub enum Update {
    /// These are all objects of a kind.
    Listed(Kind, Vec<Arrival>),
    /// An object is new or different.
    Applied(Kind, Arrival),
    /// An object is gone.
    Deleted(Kind, ServiceName),
    /// There is no such API, or not for us: what is known of the kind, if anything, is all.
    Absent(Kind),
    /// What a new node needs before anything else, whatever else there is.
    Foremost(Vec<Arrival>),
}

/// The state of everything.
#[derive(Debug, Default)]
pub struct Store {
    snapshot: Snapshot,
    /// Kinds of which everything is known.
    listed: BTreeSet<Kind>,
    /// The Service of a slice by the slice's own name, where that is not what its name begins with: it may change, and a deletion
    /// need not tell it.
    owners: HashMap<ServiceName, ServiceName>,
    /// Services of other proxies. They come by another watch than ours, so that one that changes hands may be in both for
    /// a while, or go from one before it is in the other.
    others: HashMap<ServiceName, Arc<Service>>,
    ranges: BTreeMap<Arc<str>, Vec<IpNet>>,
    told: BTreeMap<(Kind, ServiceName), Vec<Problem>>,
    changed: bool,
    foremost: Vec<Arrival>,
    events: Events,
}

impl Store {
    /// An empty one that tells what is wrong with objects there, too.
    pub fn telling(events: Events) -> Self {
        Self { events, ..Self::default() }
    }

    /// Takes in an update.
    pub fn take(&mut self, update: Update) {
        match update {
            Update::Listed(kind, arrivals) => self.replace(kind, &arrivals),
            Update::Applied(kind, arrival) => self.apply(kind, arrival),
            Update::Deleted(kind, id) => self.delete(kind, &id),
            Update::Absent(kind) => self.complete(kind),
            Update::Foremost(arrivals) => self.foremost = arrivals,
        }
    }

    /// The snapshot, if it is complete and differs from the one that was taken last; before it is, once, what matters most.
    pub fn fresh(&mut self) -> Option<Snapshot> {
        if !self.snapshot.complete {
            return self.first();
        }
        std::mem::take(&mut self.changed).then(|| self.snapshot.clone())
    }

    /// `default/kubernetes` with its endpoints. What holds for the whole node has to be known by then, or it would be another
    /// one when the rest comes.
    fn first(&mut self) -> Option<Snapshot> {
        if ![Kind::Node, Kind::ServiceCidr].iter().all(|kind| self.listed.contains(kind)) {
            return None;
        }
        let mut first = Self::default();
        for Arrival { id, object, .. } in std::mem::take(&mut self.foremost) {
            if let Ok(Some(object)) = object {
                first.put(&id, object);
            }
        }
        let Snapshot { services, slices, .. } = &first.snapshot;
        // Without endpoints it would be refused.
        if !services.keys().any(|name| name.is_kubernetes() && slices.contains_key(name)) {
            return None;
        }
        let (nodes, service_ranges) = (self.snapshot.nodes.clone(), self.snapshot.service_ranges.clone());
        Some(Snapshot { nodes, service_ranges, ..first.snapshot })
    }

    /// Swaps a kind for what was listed: at once, so that nothing that exists is ever missing.
    fn replace(&mut self, kind: Kind, arrivals: &[Arrival]) {
        let mut gone: BTreeSet<ServiceName> = self.known(kind);
        for arrival in filling(arrivals) {
            gone.remove(&arrival.id);
            self.apply(kind, arrival.clone());
        }
        for id in gone {
            self.delete(kind, &id);
        }
        self.complete(kind);
    }

    fn complete(&mut self, kind: Kind) {
        self.listed.insert(kind);
        if !self.snapshot.complete && Kind::ALL.iter().all(|kind| self.listed.contains(kind)) {
            (self.snapshot.complete, self.changed) = (true, true);
            let (services, slices) =
                (self.snapshot.services.len(), self.snapshot.slices.values().map(Slices::len).sum::<usize>());
            info!(services, slices, "everything is listed");
        }
    }

    fn known(&self, kind: Kind) -> BTreeSet<ServiceName> {
        let unnamed = |name: &Arc<str>| ServiceName::new("", name.clone());
        let mut known: BTreeSet<ServiceName> = match kind {
            Kind::Service => self.snapshot.services.keys().filter(|id| !self.is_others(id)).cloned().collect(),
            Kind::OtherService => self.others.keys().cloned().collect(),
            Kind::EndpointSlice => self.slices().collect(),
            Kind::Node => self.snapshot.nodes.keys().map(unnamed).collect(),
            Kind::ServiceCidr => self.ranges.keys().map(unnamed).collect(),
        };
        // What is known of broken objects is that they are broken; that is forgotten with them.
        known.extend(self.told.keys().filter(|(of, _)| *of == kind).map(|(_, id)| id.clone()));
        known
    }

    /// The slices that are there.
    fn slices(&self) -> impl Iterator<Item = ServiceName> {
        let of_service = |(service, slices): (&ServiceName, &'_ Slices)| -> Vec<ServiceName> {
            slices.keys().map(|name| ServiceName::new(service.namespace.clone(), name.clone())).collect()
        };
        self.snapshot.slices.iter().flat_map(of_service)
    }

    /// The Service of a slice that is there.
    fn owner(&self, id: &ServiceName) -> Option<ServiceName> {
        self.owners.get(id).cloned().or_else(|| {
            let service = ServiceName::new(id.namespace.clone(), beginning(id)?);
            let (service, slices) = self.snapshot.slices.get_key_value(&service)?;
            slices.has(&id.name).then(|| service.clone())
        })
    }

    fn apply(&mut self, kind: Kind, arrival: Arrival) {
        let Arrival { id, uid, object, mut problems } = arrival;
        match object {
            Ok(Some(Object::Service(service))) if kind == Kind::OtherService => {
                // A server that knows no selectors sends ours as well.
                if service.proxy_name.is_some() {
                    self.put_other(&id, service);
                }
            }
            Ok(Some(object)) => self.put(&id, object),
            Ok(None) => self.remove(kind, &id),
            Err(problem) => {
                let kept = if self.holds(kind, &id) { "its last good state is kept" } else { "it is ignored" };
                let message = format!("{}; {kept}", problem.message);
                problems.push(Problem { message, ..problem });
            }
        }
        self.tell(kind, id, uid, problems);
    }

    /// Whether what is known under this name is another proxy's.
    fn is_others(&self, id: &ServiceName) -> bool {
        self.others.get(id).is_some_and(|other| self.snapshot.services.get(id) == Some(other))
    }

    fn put_other(&mut self, id: &ServiceName, service: Arc<Service>) {
        let place = self.is_others(id) || !self.snapshot.services.contains_key(id);
        self.others.insert(id.clone(), service.clone());
        if place {
            self.put(id, Object::Service(service));
        }
    }

    fn put(&mut self, id: &ServiceName, object: Object) {
        match object {
            Object::Service(service) => {
                if self.snapshot.services.get(id) != Some(&service) {
                    self.snapshot.services.insert(id.clone(), service);
                    self.snapshot.changes.services += 1;
                    self.changed = true;
                }
            }
            Object::Slice(service, slice) => {
                if self.owner(id).is_some_and(|owner| owner != service) {
                    self.remove(Kind::EndpointSlice, id);
                }
                // One copy of the name for the Service and all its slices.
                let known = self.snapshot.services.get(&service).map(|known| known.name.clone());
                let service = known.unwrap_or(service);
                if self.snapshot.put_slice(&service, slice) {
                    if beginning(id) != Some(&*service.name) {
                        self.owners.insert(id.clone(), service);
                    }
                    self.changed = true;
                }
            }
            Object::Node(node) => {
                if self.snapshot.nodes.get(&node.name) != Some(&node) {
                    self.snapshot.nodes.insert(node.name.clone(), node);
                    self.changed = true;
                }
            }
            Object::ServiceRange(ranges) => {
                self.ranges.insert(id.name.clone(), ranges);
                self.merge_ranges();
            }
        }
    }

    fn delete(&mut self, kind: Kind, id: &ServiceName) {
        self.told.remove(&(kind, id.clone()));
        self.remove(kind, id);
    }

    fn remove(&mut self, kind: Kind, id: &ServiceName) {
        match kind {
            Kind::Service if self.is_others(id) => {}
            Kind::Service => {
                self.remove_service(id);
                if let Some(other) = self.others.get(id).cloned() {
                    self.put(id, Object::Service(other));
                }
            }
            Kind::OtherService => {
                let theirs = self.is_others(id);
                self.others.remove(id);
                if theirs {
                    self.remove_service(id);
                }
            }
            Kind::EndpointSlice => {
                let Some(service) = self.owner(id) else { return };
                self.owners.remove(id);
                self.changed = true;
                self.snapshot.changes.slices += 1;
                let Some(slices) = self.snapshot.slices.get_mut(&service) else { return };
                slices.remove(&id.name);
                if slices.is_empty() {
                    self.snapshot.slices.remove(&service);
                }
            }
            Kind::Node => self.changed |= self.snapshot.nodes.remove(&id.name).is_some(),
            Kind::ServiceCidr => {
                self.ranges.remove(&id.name);
                self.merge_ranges();
            }
        }
    }

    fn remove_service(&mut self, id: &ServiceName) {
        if self.snapshot.services.remove(id).is_some() {
            self.snapshot.changes.services += 1;
            self.changed = true;
        }
    }

    /// Ranges may overlap (KEP-1880): the fewest networks that cover the same.
    fn merge_ranges(&mut self) {
        let all: Vec<IpNet> = self.ranges.values().flatten().copied().collect();
        let merged = IpNet::aggregate(&all);
        if self.snapshot.service_ranges != merged {
            self.snapshot.service_ranges = merged;
            self.changed = true;
        }
    }

    fn holds(&self, kind: Kind, id: &ServiceName) -> bool {
        match kind {
            Kind::Service => self.snapshot.services.contains_key(id) && !self.is_others(id),
            Kind::OtherService => self.others.contains_key(id),
            Kind::EndpointSlice => self.owner(id).is_some(),
            Kind::Node => self.snapshot.nodes.contains_key(&id.name),
            Kind::ServiceCidr => self.ranges.contains_key(&id.name),
        }
    }

    /// Says each problem once, for as long as it lasts.
    fn tell(&mut self, kind: Kind, id: ServiceName, uid: Option<Uid>, problems: Vec<Problem>) {
        let object = match &*id.namespace {
            "" => format!("{} {}", kind.name(), id.name),
            _ => format!("{} {id}", kind.name()),
        };
        let named: Vec<Problem> =
            problems.into_iter().map(|problem| Problem { object: Some(object.clone()), ..problem }).collect();
        let key = (kind, id);
        let known = self.told.get(&key).map(Vec::as_slice).unwrap_or_default();
        for problem in named.iter().filter(|problem| !known.contains(problem)) {
            warn!("{problem}");
            if let Some(event) = self.event(kind, &key.1, uid.clone(), problem) {
                self.events.tell(event);
            }
        }
        for problem in known.iter().filter(|problem| !named.contains(problem)) {
            info!("mended: {problem}");
        }
        if named.is_empty() {
            self.told.remove(&key);
        } else {
            self.told.insert(key, named);
        }
    }

    /// What is wrong with a slice is told on its Service, where people look.
    fn event(&self, kind: Kind, id: &ServiceName, uid: Option<Uid>, problem: &Problem) -> Option<Event> {
        let regarding = match kind {
            Kind::Service => Regarding::Service { name: id.clone(), uid },
            Kind::EndpointSlice => Regarding::Service { name: self.owner(id)?, uid: None },
            Kind::OtherService | Kind::Node | Kind::ServiceCidr => return None,
        };
        let annotation = problem.field.as_deref().is_some_and(|field| field.starts_with("metadata.annotations["));
        let reason = if annotation { Reason::InvalidAnnotation } else { Reason::InvalidObject };
        // The object's name stands on the event already, unless it is the slice's.
        let object = problem.object.clone().filter(|_| kind == Kind::EndpointSlice);
        Some(Event { regarding, reason, note: Problem { object, ..problem.clone() }.to_string() })
    }

    /// What is wrong with the objects at present.
    #[cfg(test)]
    pub fn problems(&self) -> impl Iterator<Item = &Problem> {
        self.told.values().flatten()
    }
}

/// What the name of a slice begins with: that of its Service, as a rule (`endpointslice` controller, `generateName`).
fn beginning(slice: &ServiceName) -> Option<&str> {
    slice.name.rsplit_once('-').map(|(service, _)| service)
}

#[cfg(test)]
#[path = "store_tests.rs"]
mod tests;
