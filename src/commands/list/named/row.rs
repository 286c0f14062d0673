//! A virtual server and its real servers with what the cluster calls them. Also what `-o json` prints.

use super::super::columns;
use super::super::format::{forward_name, protocol_name};
use super::super::table::{Frontend, RealServer, VirtualServer};
use crate::backend::ipvs::shadow;
use crate::commands::names::{self, EndpointState, Endpoints, Names};
use crate::control::names::AddressKind;
use crate::model::IpFamily;
use serde::Serialize;
use std::borrow::Cow;
use std::collections::HashSet;
use std::net::{IpAddr, SocketAddr};

/// A virtual server. The names are empty where it belongs to no Service, or where nobody told the names.
#[derive(Debug, Clone, Default, Serialize)]
pub struct ServerRow<'a> {
    /// Namespace of its Service.
    pub namespace: &'a str,
    /// Name of its Service.
    pub service: &'a str,
    /// Name of the Service's port.
    pub port_name: &'a str,
    /// `ClusterIP`, `NodePort`, `ExternalIP` or `LoadBalancer`; `foreign`: of no Service; `unknown`: there are no names.
    pub kind: &'static str,
    /// The second list of an address with the policy Local: what pods and the node itself get.
    pub inside: bool,
    /// `TCP`, `UDP`, `SCTP`; `FWM` for a firewall mark.
    pub protocol: &'static str,
    /// Its address; none for a firewall mark.
    pub address: Option<IpAddr>,
    /// Its port; 0 for a firewall mark.
    pub port: u16,
    /// The firewall mark.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fwmark: Option<u32>,
    /// The scheduler.
    pub scheduler: Cow<'static, str>,
    /// Seconds for which clients stay with their real server.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub persistent: Option<u32>,
    /// Connections so far.
    pub connections: u64,
    /// Packets that rules refused.
    pub refused: u64,
    /// Labels of its Service, for the filter.
    #[serde(skip)]
    pub labels: &'a str,
    /// Its real servers.
    pub real_servers: Vec<RealRow<'a>>,
}

/// A real server.
#[derive(Debug, Clone, Serialize)]
pub struct RealRow<'a> {
    /// Its address.
    pub address: IpAddr,
    /// Its port.
    pub port: u16,
    /// The pod behind it.
    pub pod: &'a str,
    /// The node of the pod.
    pub node: &'a str,
    /// The zone of the node.
    pub zone: &'a str,
    /// `serving`, `terminating`, `draining`, `not-ready`, `unlisted` (the cluster does not know it), or `unknown`.
    pub state: &'static str,
    /// Seconds for which its open connections may go on while it drains.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub drain_left: Option<u64>,
    /// How packets get there.
    pub forward: &'static str,
    /// Its share of new connections.
    pub weight: u32,
    /// Established connections.
    pub active: u32,
    /// Connections in other states.
    pub inactive: u32,
}

impl RealRow<'_> {
    /// Whether it is this one.
    #[must_use]
    pub fn is(&self, real: &RealServer) -> bool {
        (self.address, self.port) == (real.address, real.port)
    }
}

impl ServerRow<'_> {
    /// Writes `namespace/name:port`; nothing without a name.
    pub fn name(&self, text: &mut String) {
        if self.service.is_empty() {
            return;
        }
        text.extend([self.namespace, "/", self.service]);
        if !self.port_name.is_empty() {
            text.extend([":", self.port_name]);
        }
    }

    /// `ClusterIP`, `LoadBalancer,inside`
    #[must_use]
    pub fn kind_name(&self) -> Cow<'static, str> {
        if self.inside { format!("{},inside", self.kind).into() } else { self.kind.into() }
    }

    /// Writes `TCP 10.96.0.1:80`, `FWM 7`.
    pub fn place(&self, text: &mut String) {
        text.extend([self.protocol, " "]);
        match self.address {
            Some(address) => columns::place(text, address, self.port),
            None => columns::number_left(text, self.fwmark.unwrap_or_default(), 0),
        }
    }
}

/// Gives names.
#[derive(Debug)]
pub struct Namer<'a> {
    names: &'a Names,
    /// Where node ports can be.
    own: HashSet<IpAddr>,
}

impl<'a> Namer<'a> {
    /// From these names, on a node with these addresses.
    pub fn new(names: &'a Names, own: impl IntoIterator<Item = IpAddr>) -> Self {
        Self { names, own: own.into_iter().collect() }
    }

    fn frontend(&self, frontend: Frontend) -> Option<names::Frontend<'a>> {
        let Frontend::Address { protocol, address, port } = frontend else { return None };
        let found = self.names.frontend(protocol, address, port)?;
        // Another program's virtual server may well have a node port's number.
        let own = || self.own.contains(&address) || self.own.iter().any(|own| shadow::of(*own) == address);
        (found.kind != AddressKind::NodePort || address == shadow::LOCALHOST || own()).then_some(found)
    }

    /// A row without real servers.
    #[must_use]
    pub fn server(&self, server: &VirtualServer) -> ServerRow<'a> {
        let (protocol, address, port, fwmark) = match server.frontend {
            Frontend::Address { protocol, address, port } => (protocol_name(protocol), Some(address), port, None),
            Frontend::Fwmark { mark, family: IpFamily::V4 } => ("FWM", None, 0, Some(mark)),
            Frontend::Fwmark { mark, family: IpFamily::V6 } => ("FWM6", None, 0, Some(mark)),
        };
        let row = ServerRow {
            kind: if self.names.missing().is_some() { "unknown" } else { "foreign" },
            protocol,
            address,
            port,
            fwmark,
            scheduler: server.scheduler.clone(),
            persistent: server.persistence.map(|persistence| persistence.seconds),
            connections: server.traffic.connections,
            refused: server.refused,
            ..ServerRow::default()
        };
        match self.frontend(server.frontend) {
            None => row,
            Some(found) => ServerRow {
                namespace: &found.service.namespace,
                service: &found.service.name,
                port_name: &found.port.name,
                labels: &found.service.labels,
                kind: found.kind.as_str(),
                inside: found.inside,
                ..row
            },
        }
    }

    /// The states of all endpoints of the Service port, those that the kernel does not have among them.
    pub fn endpoints(&self, server: &VirtualServer) -> Vec<EndpointState> {
        let endpoints = self.frontend(server.frontend).map(|found| found.endpoints()).unwrap_or_default();
        endpoints.states().collect()
    }

    /// Puts the real servers in.
    pub fn real_servers(&self, server: &VirtualServer, row: &mut ServerRow<'a>) {
        let endpoints = self.frontend(server.frontend).map(|found| found.endpoints());
        let named = |real: &RealServer| real_row(real, endpoints.as_ref());
        row.real_servers = server.real_servers.iter().map(named).collect();
    }
}

fn real_row<'a>(real: &RealServer, endpoints: Option<&Endpoints<'a>>) -> RealRow<'a> {
    let place = SocketAddr::new(real.address, real.port);
    let found = endpoints.and_then(|endpoints| endpoints.get(place));
    let named = found.and_then(|endpoint| endpoint.named);
    let state = match (endpoints, found) {
        (None, _) => None,
        (Some(_), None) => Some(EndpointState::Unlisted),
        (Some(_), Some(endpoint)) => Some(endpoint.state),
    };
    RealRow {
        address: real.address,
        port: real.port,
        pod: named.map_or("", |named| named.pod),
        node: named.map_or("", |named| named.node),
        zone: named.map_or("", |named| named.zone),
        state: state.map_or("unknown", EndpointState::word),
        drain_left: match state {
            Some(EndpointState::Draining(left)) => Some(left.as_secs()),
            _ => None,
        },
        forward: forward_name(real.forward),
        weight: real.weight,
        active: real.active_connections,
        inactive: real.inactive_connections,
    }
}
