//! The lab of one scenario: who listens where, and who can be asked to send.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use anyhow::{Context, Result};
use kube_ipvs::lab::{Host, Lab, NetNs, Prober, Protocol, Responder};
use serde_json::Value;

use crate::flow::{Expect, Flow, From};
use crate::judge::View;
use crate::scenario::Scenario;
use crate::surroundings::{NODE, SINK, Surroundings};

/// A lab with all that a scenario needs in it, except for the proxy.
#[derive(Debug)]
pub struct World {
    lab: Lab,
    probers: BTreeMap<String, Prober>,
    _responders: Vec<Responder>,
    node_addresses: Vec<IpAddr>,
    node_listens: BTreeSet<(Protocol, u16)>,
}

/// Where a flow starts.
#[derive(Debug, Clone, Copy)]
pub struct Sender<'a> {
    /// The host.
    pub host: &'a Host,
    /// The source address to use; `None` leaves it to the kernel.
    pub bind: Option<IpAddr>,
    /// The address that packets have as source when nothing changes them; unknown where the kernel chooses.
    pub address: Option<IpAddr>,
}

impl World {
    /// Builds the lab, with SCTP listeners only where the kernel has `sctp`.
    pub fn build(surroundings: &Surroundings, scenario: &Scenario, sctp: bool) -> Result<Self> {
        let asked: Vec<IpAddr> = scenario.flows().map(|flow| flow.to.ip()).collect();
        let lab = Lab::build(&surroundings.topology(&asked)?).context("building the lab")?;
        let ports: Vec<_> =
            ports(scenario).into_iter().filter(|(protocol, _)| sctp || *protocol != Protocol::Sctp).collect();
        let mut responders = Vec::new();
        for host in lab.hosts().iter().filter(|host| host.name.contains("pod:")) {
            responders.push(Responder::start(&host.ns, &host.name, &ports)?);
        }
        if let Some(sink) = lab.sink() {
            responders.push(Responder::start(sink, SINK, &ports)?);
        }
        let health = health_check_ports(scenario);
        let on_node: Vec<_> = ports.iter().copied().filter(|port| !health.contains(port)).collect();
        responders.push(Responder::start(&lab.node().ns, NODE, &on_node)?);
        let mut world = Self {
            lab,
            probers: BTreeMap::new(),
            _responders: responders,
            node_addresses: surroundings.node_addresses(),
            node_listens: on_node.into_iter().collect(),
        };
        for flow in scenario.flows() {
            let host = world.sender(flow)?.host.clone();
            if !world.probers.contains_key(&host.name) {
                world.probers.insert(host.name.clone(), Prober::start(&host.ns)?);
            }
        }
        Ok(world)
    }

    /// The node's namespace.
    pub fn node(&self) -> &NetNs {
        &self.lab.node().ns
    }

    /// The namespace beyond eth0; `wire0` there is the other end of it.
    pub fn router(&self) -> &NetNs {
        self.lab.router()
    }

    /// Where a flow starts.
    pub fn sender(&self, flow: &Flow) -> Result<Sender<'_>> {
        let to = flow.to.ip();
        let found = match &flow.from {
            From::Node(_) => Some(self.lab.node()),
            From::Pod(address) => self.lab.host_at(*address),
            From::Outside(name) => self.lab.host(name),
        };
        let host = found.with_context(|| format!("flow {flow}: there is no such sender"))?;
        let bind = match &flow.from {
            From::Node(Some(address)) => Some(self.in_family_of(*address, to)),
            _ => None,
        };
        let address = match &flow.from {
            From::Node(_) => bind,
            From::Pod(_) | From::Outside(_) => Some(host.address_like(to)),
        };
        Ok(Sender { host, bind, address })
    }

    /// The same place's address in the family of `to`.
    fn in_family_of(&self, address: IpAddr, to: IpAddr) -> IpAddr {
        if address.is_ipv4() == to.is_ipv4() {
            return address;
        }
        match (address.is_loopback(), to.is_ipv4()) {
            (true, true) => Ipv4Addr::LOCALHOST.into(),
            (true, false) => Ipv6Addr::LOCALHOST.into(),
            (false, is_ipv4) => {
                // Pairs of an interface stand beside each other, IPv4 first.
                let pairs = self.node_addresses.chunks(2).find(|pair| pair.contains(&address));
                let other = pairs.and_then(|pair| pair.iter().find(|other| other.is_ipv4() == is_ipv4));
                other.copied().unwrap_or(address)
            }
        }
    }

    /// The thread that sends for a flow.
    pub fn prober(&self, flow: &Flow) -> Result<&Prober> {
        let host = self.sender(flow)?.host;
        self.probers.get(&host.name).with_context(|| format!("{} has no prober", host.name))
    }

    /// What judging a flow needs.
    pub fn view(&self, flow: &Flow) -> Result<View<'_>> {
        let sender = self.sender(flow)?.address;
        Ok(View { sender, node_addresses: &self.node_addresses, node_listens: &self.node_listens })
    }
}

/// Every port that the scenario names as a flow's or a slice's.
fn ports(scenario: &Scenario) -> BTreeSet<(Protocol, u16)> {
    let mut ports: BTreeSet<_> = scenario.flows().map(|flow| (flow.protocol, flow.to.port())).collect();
    for object in scenario.objects().filter(|object| kind(object) == "EndpointSlice") {
        for port in object.get("ports").and_then(Value::as_array).into_iter().flatten() {
            let protocol = port.get("protocol").and_then(Value::as_str).unwrap_or("TCP").parse();
            let number = port.get("port").and_then(Value::as_u64).and_then(|port| u16::try_from(port).ok());
            ports.extend(protocol.ok().zip(number));
        }
    }
    ports.retain(|(_, port)| *port != 0);
    ports
}

/// Where the proxy itself has to listen.
fn health_check_ports(scenario: &Scenario) -> BTreeSet<(Protocol, u16)> {
    let asked = scenario.flows().filter(|flow| matches!(flow.expect, Expect::Health { .. })).map(|flow| flow.to.port());
    let services = scenario.objects().filter(|object| kind(object) == "Service");
    let named = services
        .filter_map(|service| service.pointer("/spec/healthCheckNodePort")?.as_u64())
        .filter_map(|port| u16::try_from(port).ok());
    asked.chain(named).map(|port| (Protocol::Tcp, port)).collect()
}

fn kind(object: &Value) -> &str {
    object.get("kind").and_then(Value::as_str).unwrap_or_default()
}
