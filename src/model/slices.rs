//! The EndpointSlices of one Service, packed: a node holds those of the whole cluster and looks at a few at a time. Packed
//! they take a third of the room.

use super::{Endpoint, EndpointPort, EndpointSlice, Hints, IpFamily, Protocol, SliceName, Widths, intern};
use serde::{Deserialize, Serialize};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::SystemTime;

/// All slices of one Service, by the slice's name. One, as a rule: a sorted list.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Slices(Vec<(SliceName, Packed)>);

/// A slice but for its name, in little room. Other processes of the same version may take it apart as well.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Packed(Arc<[u8]>);

impl Slices {
    /// The slice of that name.
    pub fn get(&self, name: &str) -> Option<EndpointSlice> {
        let place = self.place(name).ok()?;
        self.0.get(place).map(|(name, packed)| unpack(name, packed))
    }

    /// Puts a slice in the place of the one that has its name.
    pub fn insert(&mut self, slice: &EndpointSlice) {
        self.insert_packed(slice.into());
    }

    /// Puts a slice in the place of the one that has its name.
    pub fn insert_packed(&mut self, slice: PackedSlice) {
        let entry = (slice.name, slice.packed);
        match self.place(&entry.0) {
            Ok(place) => drop(self.0.splice(place..=place, [entry])),
            Err(place) => {
                self.0.reserve_exact(1);
                self.0.insert(place, entry);
            }
        }
    }

    /// Takes a slice out; whether it was there.
    pub fn remove(&mut self, name: &str) -> bool {
        self.place(name).map(|place| self.0.remove(place)).is_ok()
    }

    /// The slices, by name.
    pub fn values(&self) -> impl Iterator<Item = EndpointSlice> {
        self.0.iter().map(|(name, packed)| unpack(name, packed))
    }

    /// The slices, by name, without a copy of their texts.
    pub fn lent(&self) -> impl Iterator<Item = LentSlice<'_>> {
        self.0.iter().map(|(name, packed)| lent(name, packed))
    }

    /// The slices as they are packed, by name.
    pub fn packed(&self) -> impl Iterator<Item = &Packed> {
        self.0.iter().map(|(_, packed)| packed)
    }

    /// The names.
    pub fn keys(&self) -> impl Iterator<Item = &SliceName> {
        self.0.iter().map(|(name, _)| name)
    }

    /// The slices that are not the same as earlier ones, each with the earlier one of its name.
    pub fn news_since(&self, before: Option<&Self>) -> impl Iterator<Item = (EndpointSlice, Option<EndpointSlice>)> {
        self.0.iter().filter_map(move |(name, packed)| {
            let before = before.and_then(|before| before.0.get(before.place(name).ok()?));
            let is_new = before.is_none_or(|(_, before)| before != packed);
            is_new.then(|| (unpack(name, packed), before.map(|(name, before)| unpack(name, before))))
        })
    }

    /// Whether there is one of that name.
    pub fn has(&self, name: &str) -> bool {
        self.place(name).is_ok()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn place(&self, name: &str) -> Result<usize, usize> {
        self.0.binary_search_by(|(known, _)| (**known).cmp(name))
    }
}

/// One slice, packed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PackedSlice {
    /// Its name.
    pub name: SliceName,
    packed: Packed,
}

impl PackedSlice {
    /// What was packed.
    pub fn unpack(&self) -> EndpointSlice {
        unpack(&self.name, &self.packed)
    }
}

impl From<&EndpointSlice> for PackedSlice {
    fn from(slice: &EndpointSlice) -> Self {
        Self { name: slice.name.clone(), packed: pack(slice) }
    }
}

impl<'a> FromIterator<&'a EndpointSlice> for Slices {
    fn from_iter<T: IntoIterator<Item = &'a EndpointSlice>>(slices: T) -> Self {
        let mut all = Self::default();
        slices.into_iter().for_each(|slice| all.insert(slice));
        all
    }
}

impl Packed {
    /// The bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// What is in it, at no more cost than reading it.
    pub fn view(&self) -> SliceView<'_> {
        let LentSlice { ports, endpoints, .. } = lent("", self);
        SliceView { ports, endpoints: endpoints.into_iter().map(EndpointView::from).collect() }
    }

    /// How much room its endpoints take in a table, at a fraction of the cost of looking at each of them.
    pub fn widths(&self) -> Widths {
        // It stands in front.
        postcard::take_from_bytes(&self.0).map(|(widths, _)| widths).unwrap_or_default()
    }
}

impl From<&[u8]> for Packed {
    fn from(bytes: &[u8]) -> Self {
        Self(bytes.into())
    }
}

impl From<&EndpointSlice> for Packed {
    fn from(slice: &EndpointSlice) -> Self {
        pack(slice)
    }
}

/// An [`EndpointSlice`] whose texts are the packed ones: what is packed. What is read alone stands in front.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct LentSlice<'a> {
    widths: Widths,
    /// As in [`EndpointSlice`].
    pub proxy_name: Option<&'a str>,
    is_v6: bool,
    /// Name, protocol and number of its ports.
    #[serde(borrow)]
    pub ports: Vec<(&'a str, Protocol, u16)>,
    /// Its endpoints.
    #[serde(borrow)]
    pub endpoints: Vec<LentEndpoint<'a>>,
    triggers: Vec<SystemTime>,
}

/// An [`Endpoint`] whose texts are the packed ones, with its fields.
#[expect(missing_docs, reason = "the fields are those of Endpoint")]
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct LentEndpoint<'a> {
    pub address: IpAddr,
    pub ready: bool,
    pub serving: bool,
    pub terminating: bool,
    pub node: Option<&'a str>,
    pub zone: Option<&'a str>,
    /// Zones, then nodes.
    #[serde(borrow)]
    hints: Option<(Vec<&'a str>, Vec<&'a str>)>,
    pub pod: Option<&'a str>,
    pub weight: Option<u32>,
}

impl LentSlice<'_> {
    /// `addressType`.
    pub fn family(&self) -> IpFamily {
        if self.is_v6 { IpFamily::V6 } else { IpFamily::V4 }
    }
}

impl LentEndpoint<'_> {
    /// Zones for which the control plane meant it.
    pub fn zone_hints(&self) -> &[&str] {
        self.hints.as_ref().map(|(zones, _)| zones.as_slice()).unwrap_or_default()
    }

    /// Nodes for which the control plane meant it.
    pub fn node_hints(&self) -> &[&str] {
        self.hints.as_ref().map(|(_, nodes)| nodes.as_slice()).unwrap_or_default()
    }
}

fn pack(slice: &EndpointSlice) -> Packed {
    // Memory is all that it needs.
    Packed(postcard::to_allocvec(&LentSlice::from(slice)).unwrap_or_default().into())
}

impl<'a> From<&'a EndpointSlice> for LentSlice<'a> {
    fn from(slice: &'a EndpointSlice) -> Self {
        let EndpointSlice { name: _, proxy_name, family, ports, endpoints, triggers } = slice;
        Self {
            widths: endpoints.iter().map(Widths::of).fold(Widths::default(), Widths::max),
            proxy_name: proxy_name.as_deref(),
            is_v6: *family == IpFamily::V6,
            ports: ports.iter().map(|port| (&*port.name, port.protocol, port.port)).collect(),
            endpoints: endpoints.iter().map(LentEndpoint::from).collect(),
            triggers: triggers.clone(),
        }
    }
}

impl<'a> From<&'a Endpoint> for LentEndpoint<'a> {
    fn from(endpoint: &'a Endpoint) -> Self {
        let Endpoint { address, ready, serving, terminating, node, zone, hints, pod, weight } = endpoint;
        Self {
            address: *address,
            ready: *ready,
            serving: *serving,
            terminating: *terminating,
            node: node.as_deref(),
            zone: zone.as_deref(),
            hints: hints.as_deref().map(|hints| (borrowed(&hints.zones), borrowed(&hints.nodes))),
            pod: pod.as_deref(),
            weight: *weight,
        }
    }
}

fn borrowed(texts: &[Arc<str>]) -> Vec<&str> {
    texts.iter().map(|text| &**text).collect()
}

/// A slice as people know it.
#[derive(Debug)]
pub struct SliceView<'a> {
    /// Name, protocol and number of its ports.
    pub ports: Vec<(&'a str, Protocol, u16)>,
    /// Its endpoints.
    pub endpoints: Vec<EndpointView<'a>>,
}

/// An endpoint of it. What has no name has an empty one.
#[derive(Debug, Clone, Copy)]
pub struct EndpointView<'a> {
    /// Its address.
    pub address: IpAddr,
    /// The pod behind it.
    pub pod: &'a str,
    /// The node that it runs on.
    pub node: &'a str,
    /// The zone of that node.
    pub zone: &'a str,
    /// It may get new connections.
    pub ready: bool,
    /// It answers.
    pub serving: bool,
    /// The pod is being deleted.
    pub terminating: bool,
}

impl<'a> From<LentEndpoint<'a>> for EndpointView<'a> {
    fn from(endpoint: LentEndpoint<'a>) -> Self {
        let LentEndpoint { address, ready, serving, terminating, node, zone, pod, .. } = endpoint;
        let [pod, node, zone] = [pod, node, zone].map(Option::unwrap_or_default);
        Self { address, pod, node, zone, ready, serving, terminating }
    }
}

fn lent<'a>(name: &str, Packed(bytes): &'a Packed) -> LentSlice<'a> {
    postcard::from_bytes(bytes).unwrap_or_else(|error| {
        // What this very program packed: memory is broken, or this file.
        tracing::error!("endpoint slice {name} cannot be unpacked: {error}");
        LentSlice::default()
    })
}

fn unpack(name: &SliceName, packed: &Packed) -> EndpointSlice {
    let lent = lent(name, packed);
    let port = |(name, protocol, port): (&str, Protocol, u16)| EndpointPort { name: intern(name), protocol, port };
    EndpointSlice {
        name: name.clone(),
        proxy_name: lent.proxy_name.map(intern),
        family: lent.family(),
        ports: lent.ports.into_iter().map(port).collect(),
        endpoints: lent.endpoints.into_iter().map(endpoint).collect(),
        triggers: lent.triggers,
    }
}

fn endpoint(lent: LentEndpoint<'_>) -> Endpoint {
    let LentEndpoint { address, ready, serving, terminating, node, zone, hints, pod, weight } = lent;
    let texts = |texts: Vec<&str>| texts.into_iter().map(intern).collect();
    Endpoint {
        address,
        ready,
        serving,
        terminating,
        node: node.map(intern),
        zone: zone.map(intern),
        hints: hints.map(|(zones, nodes)| Arc::new(Hints { zones: texts(zones), nodes: texts(nodes) })),
        pod: pod.map(Arc::from),
        weight,
    }
}

#[cfg(test)]
#[path = "slices_tests.rs"]
mod tests;
