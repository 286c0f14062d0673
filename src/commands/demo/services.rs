//! What the manifests say, seen from outside: which addresses a service has and who may answer there.
//!
//! Read from the plain documents and not through the proxy's own model: the demo is a judge of that model.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use anyhow::{Context, bail};
use serde_json::Value;

use crate::lab::{Lab, Protocol};

/// The label by which a slice belongs to a service.
const SERVICE_LABEL: &str = "/metadata/labels/kubernetes.io~1service-name";

/// One port of one service: what is asked and judged together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Target {
    /// `namespace/name:port`.
    pub(super) name: String,
    /// The port's protocol.
    pub(super) protocol: Protocol,
    /// Whether one client is to be answered by one endpoint.
    pub(super) sticky: bool,
    /// Every address at which it is to be had.
    pub(super) frontends: Vec<Frontend>,
    /// Who may answer: where the request arrives, and the name of the host there.
    pub(super) endpoints: BTreeMap<SocketAddr, String>,
}

impl Target {
    /// Names of the endpoints that serve in the family of `like`, in order.
    pub(super) fn endpoint_names(&self, like: SocketAddr) -> Vec<&str> {
        let same = |(at, _): &(&SocketAddr, &String)| at.is_ipv4() == like.is_ipv4();
        self.endpoints.iter().filter(same).map(|(_, name)| name.as_str()).collect()
    }
}

/// One address and port of a service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Frontend {
    /// Which kind of address it is.
    pub(super) kind: &'static str,
    /// Where to ask.
    pub(super) address: SocketAddr,
}

/// Everything there is to ask according to `objects`.
pub(super) fn targets(objects: &[&Value], lab: &Lab) -> anyhow::Result<Vec<Target>> {
    let kind = |object: &&&Value, kind: &str| text(object, "/kind") == Some(kind);
    let slices: Vec<_> = objects.iter().filter(|object| kind(object, "EndpointSlice")).copied().collect();
    let mut targets = Vec::new();
    for service in objects.iter().filter(|object| kind(object, "Service")) {
        let name = format!("{}/{}", namespace(service), text(service, "/metadata/name").unwrap_or_default());
        let own: Vec<_> = slices.iter().filter(|slice| belongs(slice, service)).copied().collect();
        for port in array(service, "/spec/ports") {
            let target = target(service, port, &name, &own, lab).with_context(|| format!("Service {name}"))?;
            targets.push(target);
        }
    }
    if targets.is_empty() {
        bail!("the manifests have no Service with a port");
    }
    Ok(targets)
}

fn target(service: &Value, port: &Value, name: &str, slices: &[&Value], lab: &Lab) -> anyhow::Result<Target> {
    let port_name = text(port, "/name").unwrap_or_default();
    let protocol = text(port, "/protocol").unwrap_or("TCP").parse().map_err(anyhow::Error::msg)?;
    let number = port_number(port, "/port").context("a port without a number")?;
    let mut frontends = Vec::new();
    let kinds = [
        ("cluster IP", strings(service, "/spec/clusterIPs")),
        ("external IP", strings(service, "/spec/externalIPs")),
        ("LB IP", array(service, "/status/loadBalancer/ingress").filter_map(|entry| text(entry, "/ip")).collect()),
    ];
    for (kind, addresses) in kinds {
        for address in addresses.into_iter().filter(|address| *address != "None") {
            let ip: IpAddr = address.parse().with_context(|| format!("{kind} {address}"))?;
            frontends.push(Frontend { kind, address: (ip, number).into() });
        }
    }
    if let Some(node_port) = port_number(port, "/nodePort") {
        let at = |ip| Frontend { kind: "node port", address: (ip, node_port).into() };
        frontends.extend(lab.node().addresses.map(at));
    }
    let mut endpoints = BTreeMap::new();
    for slice in slices {
        add_endpoints(&mut endpoints, slice, port_name, lab)?;
    }
    let sticky = text(service, "/spec/sessionAffinity") == Some("ClientIP");
    let name = if port_name.is_empty() { name.to_owned() } else { format!("{name}:{port_name}") };
    Ok(Target { name, protocol, sticky, frontends, endpoints })
}

fn add_endpoints(
    endpoints: &mut BTreeMap<SocketAddr, String>,
    slice: &Value,
    port_name: &str,
    lab: &Lab,
) -> anyhow::Result<()> {
    let port = array(slice, "/ports").find(|port| text(port, "/name").unwrap_or_default() == port_name);
    let Some(port) = port.and_then(|port| port_number(port, "/port")) else { return Ok(()) };
    let ready = |endpoint: &&Value| endpoint.pointer("/conditions/ready") != Some(&Value::Bool(false));
    for endpoint in array(slice, "/endpoints").filter(ready) {
        for address in strings(endpoint, "/addresses") {
            let ip: IpAddr = address.parse().with_context(|| format!("endpoint {address}"))?;
            let host = lab.host_at(ip).with_context(|| format!("the demo has no pod with the address {address}"))?;
            endpoints.insert((ip, port).into(), host.name.clone());
        }
    }
    Ok(())
}

fn belongs(slice: &Value, service: &Value) -> bool {
    namespace(slice) == namespace(service) && text(slice, SERVICE_LABEL) == text(service, "/metadata/name")
}

fn namespace(object: &Value) -> &str {
    text(object, "/metadata/namespace").unwrap_or("default")
}

fn text<'a>(value: &'a Value, pointer: &str) -> Option<&'a str> {
    value.pointer(pointer)?.as_str()
}

fn array<'a>(value: &'a Value, pointer: &str) -> impl Iterator<Item = &'a Value> {
    value.pointer(pointer).and_then(Value::as_array).into_iter().flatten()
}

fn strings<'a>(value: &'a Value, pointer: &str) -> Vec<&'a str> {
    array(value, pointer).filter_map(Value::as_str).collect()
}

fn port_number(value: &Value, pointer: &str) -> Option<u16> {
    value.pointer(pointer)?.as_u64()?.try_into().ok()
}
