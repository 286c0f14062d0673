//! Which Service port an address in the kernel belongs to, and which pods are behind it.

use crate::backend::ipvs::shadow;
use crate::control::names::{AddressKind, NamedDrain, NamedPort, NamedService, Transport};
use crate::model::{EndpointView, Packed, Widths};
use foldhash::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

/// Protocol number, address and port.
type Place = (u16, IpAddr, u16);

/// Everything that has a name.
#[derive(Debug, Default)]
pub struct Names {
    services: Vec<NamedService>,
    frontends: HashMap<Place, Found>,
    node_ports: HashMap<(u16, u16), (u32, u32)>,
    missing: Option<String>,
}

/// Which Service, which of its ports, which kind of address; whether it is the list for senders from inside.
#[derive(Debug, Clone, Copy)]
struct Found {
    service: u32,
    port: u32,
    kind: AddressKind,
    inside: bool,
}

/// An address of a Service port.
#[derive(Debug, Clone, Copy)]
pub struct Frontend<'a> {
    /// The Service.
    pub service: &'a NamedService,
    /// Its port.
    pub port: &'a NamedPort,
    /// What kind of address it is.
    pub kind: AddressKind,
    /// In IPVS mode, the second list of an address with the policy Local: what pods and the node itself get.
    pub inside: bool,
}

/// An endpoint of a Service port.
#[derive(Debug, Clone, Copy)]
pub struct Endpoint<'a> {
    /// What its EndpointSlice says; none if it is in no slice any more.
    pub named: Option<EndpointView<'a>>,
    /// What it does.
    pub state: EndpointState,
}

/// What an endpoint does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EndpointState {
    /// Gets new connections.
    Serving,
    /// Its pod is being deleted; it gets new connections only where nothing else serves.
    Terminating,
    /// Gets no new connections; open ones may go on for so long.
    Draining(Duration),
    /// Gets no new connections.
    NotReady,
    /// The cluster does not know it.
    Unlisted,
}

impl Names {
    /// Of these Services.
    #[must_use]
    pub fn new(services: Vec<NamedService>) -> Self {
        let frontends = HashMap::with_capacity_and_hasher(services.len(), foldhash::fast::RandomState::default());
        let mut names = Self { services, frontends, ..Self::default() };
        for (index, service) in (0..).zip(&names.services) {
            for (number, port) in (0..).zip(&service.ports) {
                let protocol = port.protocol.number();
                for named in &service.addresses {
                    let found = Found { service: index, port: number, kind: named.kind, inside: false };
                    names.frontends.entry((protocol, named.address, port.port)).or_insert(found);
                }
                if let Some(node_port) = port.node_port {
                    names.node_ports.entry((protocol, node_port)).or_insert((index, number));
                }
            }
        }
        names.add_shadows();
        names
    }

    /// None, for this reason.
    #[must_use]
    pub fn without(reason: String) -> Self {
        Self { missing: Some(reason), ..Self::default() }
    }

    /// Why there are none.
    #[must_use]
    pub fn missing(&self) -> Option<&str> {
        self.missing.as_deref()
    }

    /// All Services.
    #[must_use]
    pub fn services(&self) -> &[NamedService] {
        &self.services
    }

    /// How much room all endpoints take in a table.
    #[must_use]
    pub fn widths(&self) -> Widths {
        let slices = self.services.iter().flat_map(|service| &service.slices);
        slices.map(Packed::widths).fold(Widths::default(), Widths::max)
    }

    /// IPVS mode serves an address under its shadow as well, for senders from inside; never under a real address's place.
    fn add_shadows(&mut self) {
        let of_outside = |kind| matches!(kind, AddressKind::ExternalIp | AddressKind::LoadBalancer);
        let shadows: Vec<(Place, Found)> = self
            .frontends
            .iter()
            .filter(|(_, found)| of_outside(found.kind))
            .map(|((protocol, address, port), found)| {
                ((*protocol, shadow::of(*address), *port), Found { inside: true, ..*found })
            })
            .collect();
        for (place, found) in shadows {
            self.frontends.entry(place).or_insert(found);
        }
    }

    /// The Service port at an address. What no Service has there is a node port if any has one of that number: which
    /// addresses are the node's is for the caller to know.
    #[must_use]
    pub fn frontend(&self, protocol: u16, address: IpAddr, port: u16) -> Option<Frontend<'_>> {
        let found = self.frontends.get(&(protocol, address, port)).copied().or_else(|| {
            let (service, number) = *self.node_ports.get(&(protocol, port))?;
            let inside = shadow::is_one(address);
            Some(Found { service, port: number, kind: AddressKind::NodePort, inside })
        })?;
        let service = self.services.get(usize::try_from(found.service).ok()?)?;
        let port = service.ports.get(usize::try_from(found.port).ok()?)?;
        Some(Frontend { service, port, kind: found.kind, inside: found.inside })
    }
}

impl<'a> Frontend<'a> {
    /// `namespace/name:port`.
    #[must_use]
    pub fn name(&self) -> String {
        let (namespace, name) = (&self.service.namespace, &self.service.name);
        if self.port.name.is_empty() {
            format!("{namespace}/{name}")
        } else {
            format!("{namespace}/{name}:{}", self.port.name)
        }
    }

    /// `ClusterIP`, `NodePort`, `LoadBalancer, inside`, …
    #[must_use]
    pub fn kind_name(&self) -> String {
        let inside = if self.inside { ",inside" } else { "" };
        format!("{}{inside}", self.kind.as_str())
    }

    /// Its endpoints.
    #[must_use]
    pub fn endpoints(&self) -> Endpoints<'a> {
        let mut all = Vec::new();
        for slice in self.service.slices.iter().map(Packed::view) {
            let mine = |(name, protocol, _): &&(&str, _, _)| {
                *name == &*self.port.name && Transport::from(*protocol) == self.port.protocol
            };
            for (_, _, port) in slice.ports.iter().filter(mine) {
                let of_port = |endpoint: &EndpointView<'a>| {
                    let state = EndpointState::of(endpoint);
                    (SocketAddr::new(endpoint.address, *port), Endpoint { named: Some(*endpoint), state })
                };
                all.extend(slice.endpoints.iter().map(of_port));
            }
        }
        let mut all = Endpoints::new(all);
        let mine = |drain: &&NamedDrain| drain.port == self.port.name && drain.protocol == self.port.protocol;
        for drain in self.service.draining.iter().filter(mine) {
            all.drain(drain.endpoint, Duration::from_millis(drain.left_ms));
        }
        all
    }
}

/// The endpoints of a Service port, by address and port. A sorted list: there are few, and of very many Services.
#[derive(Debug, Default)]
pub struct Endpoints<'a>(Vec<(SocketAddr, Endpoint<'a>)>);

impl<'a> Endpoints<'a> {
    /// Of one that is there more than once the last counts.
    fn new(mut all: Vec<(SocketAddr, Endpoint<'a>)>) -> Self {
        all.reverse();
        all.sort_by_key(|(place, _)| *place);
        all.dedup_by_key(|(place, _)| *place);
        Self(all)
    }

    fn drain(&mut self, place: SocketAddr, left: Duration) {
        let state = EndpointState::Draining(left);
        match self.place(place) {
            Ok(at) => self.0.iter_mut().skip(at).take(1).for_each(|(_, endpoint)| endpoint.state = state),
            Err(at) => self.0.insert(at, (place, Endpoint { named: None, state })),
        }
    }

    fn place(&self, place: SocketAddr) -> Result<usize, usize> {
        self.0.binary_search_by_key(&place, |(known, _)| *known)
    }

    /// The one there.
    #[must_use]
    pub fn get(&self, place: SocketAddr) -> Option<&Endpoint<'a>> {
        self.0.get(self.place(place).ok()?).map(|(_, endpoint)| endpoint)
    }

    /// What they do.
    pub fn states(&self) -> impl Iterator<Item = EndpointState> {
        self.0.iter().map(|(_, endpoint)| endpoint.state)
    }
}

impl EndpointState {
    fn of(endpoint: &EndpointView<'_>) -> Self {
        match endpoint {
            EndpointView { ready: true, .. } => Self::Serving,
            EndpointView { terminating: true, serving: true, .. } => Self::Terminating,
            _ => Self::NotReady,
        }
    }

    /// One word, for programs and filters.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Serving => "serving",
            Self::Terminating => "terminating",
            Self::Draining(_) => "draining",
            Self::NotReady => "not-ready",
            Self::Unlisted => "unlisted",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names() -> Names {
        let line = r#"{"namespace":"shop","name":"web","addresses":[{"kind":"ClusterIP","address":"10.96.0.1"},
            {"kind":"LoadBalancer","address":"192.0.2.1"}],"ports":[{"name":"http","protocol":"TCP","port":80,
            "node_port":30080}],"slices":[{"ports":[{"name":"http","protocol":"TCP","port":8080},
            {"name":"other","protocol":"TCP","port":9}],"endpoints":[{"address":"10.0.0.1","pod":"web-0","ready":true},
            {"address":"10.0.0.2","pod":"web-1","ready":false,"terminating":true},
            {"address":"10.0.0.3","pod":"web-2","ready":false,"serving":false}]}],
            "draining":[{"port":"http","protocol":"TCP","endpoint":"10.0.0.4:8080","left_ms":5000},
            {"port":"http","protocol":"TCP","endpoint":"10.0.0.2:8080","left_ms":7000}]}"#;
        Names::new(vec![serde_json::from_str(line).unwrap()])
    }

    #[test]
    fn addresses_have_names_and_kinds() {
        let names = names();
        let of = |address: &str, port| {
            names.frontend(6, address.parse().unwrap(), port).map(|found| (found.name(), found.kind_name()))
        };
        let web = |kind: &str| Some(("shop/web:http".to_owned(), kind.to_owned()));
        assert_eq!(of("10.96.0.1", 80), web("ClusterIP"));
        assert_eq!(of("192.0.2.1", 80), web("LoadBalancer"));
        assert_eq!(of("240.0.2.1", 80), web("LoadBalancer,inside"));
        assert_eq!(of("198.51.100.7", 30080), web("NodePort"));
        assert_eq!(of("255.0.0.1", 30080), web("NodePort,inside"));
        assert_eq!(of("10.96.0.1", 81), None);
        assert!(names.frontend(17, "10.96.0.1".parse().unwrap(), 80).is_none());
    }

    #[test]
    fn endpoints_have_pods_and_states() {
        let names = names();
        let endpoints = names.frontend(6, "10.96.0.1".parse().unwrap(), 80).unwrap().endpoints();
        let of = |address: &str| {
            let endpoint = endpoints.get(address.parse().unwrap()).unwrap();
            (endpoint.named.map_or("", |named| named.pod), endpoint.state)
        };
        assert_eq!(endpoints.states().count(), 4);
        assert_eq!(of("10.0.0.1:8080"), ("web-0", EndpointState::Serving));
        assert_eq!(of("10.0.0.2:8080"), ("web-1", EndpointState::Draining(Duration::from_secs(7))));
        assert_eq!(of("10.0.0.3:8080"), ("web-2", EndpointState::NotReady));
        assert_eq!(of("10.0.0.4:8080"), ("", EndpointState::Draining(Duration::from_secs(5))));
    }
}
