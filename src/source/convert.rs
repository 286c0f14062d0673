//! From Kubernetes objects to ours: the only file that names k8s-openapi types.
//!
//! Anything that can't be used is left out and told as a [`Problem`] with its field; the rest of the object works.

use super::{Problem, annotations};
use crate::model::{
    AffinityTimeout, Endpoint, EndpointPort, EndpointSlice, Hints, IpFamily, Node, PackedSlice, Protocol, Service,
    ServiceName, ServicePort, ServiceType, TargetPort, Uid, intern, parse_address, parse_network,
};
use k8s_openapi::api::core::v1::{self as core, ServiceSpec};
use k8s_openapi::api::discovery::v1 as discovery;
use k8s_openapi::api::networking::v1 as networking;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use serde_json::Value;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::SystemTime;

const SERVICE_NAME_LABEL: &str = "kubernetes.io/service-name";
const PROXY_NAME_LABEL: &str = "service.kubernetes.io/service-proxy-name";
const HEADLESS_LABEL: &str = "service.kubernetes.io/headless";
const ZONE_LABEL: &str = "topology.kubernetes.io/zone";
/// The cluster autoscaler's taint on a node that it is about to delete.
const TO_BE_DELETED_TAINT: &str = "ToBeDeletedByClusterAutoscaler";
/// When what made a slice change happened.
const TRIGGER_ANNOTATION: &str = "endpoints.kubernetes.io/last-change-trigger-time";

/// An object that forwarding needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Object {
    /// A Service.
    Service(Arc<Service>),
    /// An EndpointSlice and the Service that it belongs to.
    Slice(ServiceName, PackedSlice),
    /// A Node.
    Node(Arc<Node>),
    /// The networks of a ServiceCIDR.
    ServiceRange(Vec<ipnet::IpNet>),
}

/// Kinds that are taken; everything else is ignored.
pub fn is_wanted(kind: &str, api_version: &str) -> bool {
    matches!(
        (kind, api_version),
        ("Service" | "Node", "v1") | ("EndpointSlice", "discovery.k8s.io/v1" | "discovery.k8s.io/v1beta1")
    )
}

/// Reads one object of a wanted kind from its JSON form.
///
/// # Errors
/// When a field has the wrong type or something without which the object has no meaning is missing; the error names
/// the field's path.
pub fn from_value(kind: &str, value: &Value, problems: &mut Vec<Problem>) -> Result<Option<Object>, Problem> {
    match kind {
        "Service" => service(&typed::<core::Service>(value)?, problems).map(|service| Some(Object::Service(service))),
        "EndpointSlice" => slice(&typed::<discovery::EndpointSlice>(value)?, problems),
        "Node" => node(&typed::<core::Node>(value)?, problems).map(|node| Some(Object::Node(node))),
        "ServiceCIDR" => Ok(Some(Object::ServiceRange(service_range(&typed(value)?, problems)))),
        _ => Ok(None),
    }
}

fn typed<T: serde::de::DeserializeOwned>(value: &Value) -> Result<T, Problem> {
    serde_path_to_error::deserialize(value).map_err(|error| {
        let field = error.path().to_string();
        Problem::in_field(field, error.into_inner().to_string())
    })
}

fn name(metadata: &ObjectMeta) -> Result<ServiceName, Problem> {
    let name = metadata.name.as_deref().filter(|name| !name.is_empty());
    let name = name.ok_or_else(|| Problem::in_field("metadata.name", "is missing"))?;
    Ok(ServiceName::new(intern(metadata.namespace.as_deref().unwrap_or("default")), name))
}

fn label<'a>(metadata: &'a ObjectMeta, key: &str) -> Option<&'a str> {
    metadata.labels.as_ref()?.get(key).map(String::as_str)
}

fn service(object: &core::Service, problems: &mut Vec<Problem>) -> Result<Arc<Service>, Problem> {
    let spec = object.spec.as_ref().ok_or_else(|| Problem::in_field("spec", "is missing"))?;
    let service_type = match spec.type_.as_deref() {
        None | Some("" | "ClusterIP") => ServiceType::ClusterIp,
        Some("NodePort") => ServiceType::NodePort,
        Some("LoadBalancer") => ServiceType::LoadBalancer,
        Some("ExternalName") => ServiceType::ExternalName,
        Some(other) => return Err(Problem::in_field("spec.type", format!("unknown type {other:?}"))),
    };
    let external = matches!(service_type, ServiceType::NodePort | ServiceType::LoadBalancer);
    let external_ips = addresses(spec.external_ips.as_deref(), "spec.externalIPs", problems);
    let accepts_external = external || !external_ips.is_empty();
    let load_balancer = service_type == ServiceType::LoadBalancer;
    let ports = ports(spec, external, problems);
    let udp = ports.iter().any(|port| port.protocol == Protocol::Udp);
    let balancing = annotations::of_service(object.metadata.annotations.as_ref(), udp, problems);
    Ok(Arc::new(Service {
        name: name(&object.metadata)?,
        uid: object.metadata.uid.as_deref().filter(|uid| !uid.is_empty()).map(Uid::from),
        service_type,
        cluster_ips: cluster_ips(spec, problems),
        external_ips,
        load_balancer_ips: if load_balancer { load_balancer_ips(object, problems) } else { Vec::new() },
        source_ranges: if load_balancer { source_ranges(spec, problems) } else { Vec::new() },
        ports,
        affinity: affinity(spec),
        external_policy_local: accepts_external && spec.external_traffic_policy.as_deref() == Some("Local"),
        internal_policy_local: spec.internal_traffic_policy.as_deref() == Some("Local"),
        health_check_node_port: spec
            .health_check_node_port
            .and_then(|port| u16::try_from(port).ok())
            .filter(|p| *p > 0),
        proxy_name: label(&object.metadata, PROXY_NAME_LABEL).map(Arc::from),
        labelled_headless: label(&object.metadata, HEADLESS_LABEL).is_some(),
        balancing,
        labels: labels(&object.metadata),
    }))
}

/// `a=1,b=2`: neither names nor values contain `=` or `,`.
fn labels(metadata: &ObjectMeta) -> Option<Arc<str>> {
    let labels = metadata.labels.as_ref().filter(|labels| !labels.is_empty())?;
    let pairs: Vec<String> = labels.iter().map(|(name, value)| format!("{name}={value}")).collect();
    Some(pairs.join(",").into())
}

fn cluster_ips(spec: &ServiceSpec, problems: &mut Vec<Problem>) -> Vec<IpAddr> {
    let listed = spec.cluster_ips.as_deref().unwrap_or_default();
    let single = spec.cluster_ip.as_ref().filter(|_| listed.is_empty());
    let texts: Vec<String> =
        listed.iter().chain(single).filter(|ip| !matches!(ip.as_str(), "" | "None")).cloned().collect();
    addresses(Some(&texts), "spec.clusterIPs", problems)
}

fn addresses(texts: Option<&[String]>, field: &str, problems: &mut Vec<Problem>) -> Vec<IpAddr> {
    let mut addresses = Vec::new();
    for (index, text) in texts.unwrap_or_default().iter().enumerate() {
        match parse_address(text) {
            Ok(address) if !addresses.contains(&address) => addresses.push(address),
            Ok(_) => {}
            Err(error) => problems.push(Problem::in_field(format!("{field}[{index}]"), format!("{error}; ignored"))),
        }
    }
    addresses.shrink_to_fit();
    addresses
}

fn load_balancer_ips(object: &core::Service, problems: &mut Vec<Problem>) -> Vec<IpAddr> {
    let balancer = object.status.as_ref().and_then(|status| status.load_balancer.as_ref());
    let ingress = balancer.and_then(|balancer| balancer.ingress.as_deref()).unwrap_or_default();
    // ipMode Proxy: the load balancer itself wants to see the traffic (KEP-1860).
    let ours = ingress.iter().filter(|ingress| ingress.ip_mode.as_deref().is_none_or(|mode| mode == "VIP"));
    let texts: Vec<String> = ours.filter_map(|ingress| ingress.ip.clone()).filter(|ip| !ip.is_empty()).collect();
    addresses(Some(&texts), "status.loadBalancer.ingress", problems)
}

fn source_ranges(spec: &ServiceSpec, problems: &mut Vec<Problem>) -> Vec<ipnet::IpNet> {
    let mut ranges = Vec::new();
    for (index, text) in spec.load_balancer_source_ranges.iter().flatten().enumerate() {
        match parse_network(text) {
            Ok(range) => ranges.push(range),
            Err(error) => {
                let field = format!("spec.loadBalancerSourceRanges[{index}]");
                problems.push(Problem::in_field(field, format!("{error}; ignored")));
            }
        }
    }
    // A range of everybody admits everybody of its family, and that family only. A family without any range is not
    // restricted either.
    let everybody: Vec<IpFamily> =
        ranges.iter().filter(|range| range.prefix_len() == 0).map(IpFamily::of_network).collect();
    ranges.retain(|range| !everybody.contains(&IpFamily::of_network(range)));
    ranges
}

fn affinity(spec: &ServiceSpec) -> Option<AffinityTimeout> {
    if spec.session_affinity.as_deref() != Some("ClientIP") {
        return None;
    }
    let client_ip = spec.session_affinity_config.as_ref().and_then(|config| config.client_ip.as_ref());
    let seconds = client_ip.and_then(|client_ip| client_ip.timeout_seconds);
    Some(seconds.map_or(AffinityTimeout::DEFAULT, |seconds| AffinityTimeout::clamped(seconds.into())))
}

fn ports(spec: &ServiceSpec, node_ports: bool, problems: &mut Vec<Problem>) -> Vec<ServicePort> {
    let mut ports = Vec::new();
    for (index, port) in spec.ports.iter().flatten().enumerate() {
        let field = format!("spec.ports[{index}]");
        let Some(protocol) = Protocol::from_api(port.protocol.as_deref().unwrap_or("")) else {
            problems.push(Problem::in_field(format!("{field}.protocol"), "not TCP, UDP or SCTP; port ignored"));
            continue;
        };
        let Some(number) = port_number(port.port) else {
            problems.push(Problem::in_field(format!("{field}.port"), "not within 1 to 65535; port ignored"));
            continue;
        };
        let target = port.target_port.as_ref().and_then(|target| match target {
            IntOrString::Int(number) => port_number(*number).map(TargetPort::Number),
            IntOrString::String(name) => Some(TargetPort::Name(name.as_str().into())),
        });
        ports.push(ServicePort {
            name: intern(port.name.as_deref().unwrap_or("")),
            protocol,
            port: number,
            node_port: port.node_port.filter(|_| node_ports).and_then(port_number),
            target,
        });
    }
    ports.shrink_to_fit();
    ports
}

fn port_number(number: i32) -> Option<u16> {
    u16::try_from(number).ok().filter(|number| *number > 0)
}

fn slice(object: &discovery::EndpointSlice, problems: &mut Vec<Problem>) -> Result<Option<Object>, Problem> {
    // kube-proxy does not even list slices with this label (`Run` in cmd/kube-proxy/app/server.go).
    if label(&object.metadata, HEADLESS_LABEL).is_some() {
        return Ok(None);
    }
    let own = name(&object.metadata)?;
    let family = match object.address_type.as_str() {
        "IPv4" => IpFamily::V4,
        "IPv6" => IpFamily::V6,
        "FQDN" => return Ok(None),
        other => return Err(Problem::in_field("addressType", format!("unknown type {other:?}"))),
    };
    let Some(service) = label(&object.metadata, SERVICE_NAME_LABEL).filter(|name| !name.is_empty()) else {
        let field = format!("metadata.labels[{SERVICE_NAME_LABEL}]");
        return Err(Problem::in_field(field, "is missing, so the slice belongs to no Service"));
    };
    let mut ports = Vec::new();
    for port in object.ports.iter().flatten() {
        // A slice port without a number means "all ports", which no Service port can use (upstream ignores it too).
        let Some(number) = port.port.and_then(port_number) else { continue };
        let Some(protocol) = Protocol::from_api(port.protocol.as_deref().unwrap_or("")) else { continue };
        ports.push(EndpointPort { name: intern(port.name.as_deref().unwrap_or("")), protocol, port: number });
    }
    let weights = annotations::of_slice(object.metadata.annotations.as_ref(), problems);
    let mut endpoints = Vec::new();
    for (index, entry) in object.endpoints.iter().flatten().enumerate() {
        match endpoint(entry, family) {
            Ok(mut endpoint) => {
                endpoint.weight = weights.of(&(&endpoint).into());
                let alike = endpoints.last().filter(|last: &&Endpoint| last.hints == endpoint.hints);
                endpoint.hints = alike.map_or(endpoint.hints, |last| last.hints.clone());
                endpoints.push(endpoint);
            }
            Err(message) => {
                let field = format!("endpoints[{index}].addresses[0]");
                problems.push(Problem::in_field(field, format!("{message}; endpoint ignored")));
            }
        }
    }
    let proxy_name = label(&object.metadata, PROXY_NAME_LABEL).map(Arc::from);
    let triggers = trigger(&object.metadata).into_iter().collect();
    let slice = EndpointSlice { name: own.name, proxy_name, family, ports, endpoints, triggers };
    // Packed at once: a list of tens of thousands is held until it is whole.
    Ok(Some(Object::Slice(ServiceName::new(own.namespace, service), (&slice).into())))
}

/// When what the slice tells of happened. As upstream, what is no time is passed over: only a metric lacks it.
fn trigger(metadata: &ObjectMeta) -> Option<SystemTime> {
    let text = metadata.annotations.as_ref()?.get(TRIGGER_ANNOTATION)?;
    let parsed: Result<jiff::Timestamp, _> = text.parse();
    parsed.inspect_err(|error| tracing::debug!("annotation {TRIGGER_ANNOTATION}: {error}")).ok().map(SystemTime::from)
}

fn endpoint(entry: &discovery::Endpoint, family: IpFamily) -> Result<Endpoint, String> {
    let text = entry.addresses.first().ok_or("is missing")?;
    let address = parse_address(text).map_err(|error| error.to_string())?;
    if IpFamily::of(address) != family {
        return Err(format!("{address} is no {family} address"));
    }
    if let Some(reason) = unusable(address) {
        return Err(format!("{address} is {reason}"));
    }
    let conditions = entry.conditions.clone().unwrap_or_default();
    let ready = conditions.ready.unwrap_or(true);
    let hints = entry.hints.as_ref();
    let zones = hints.and_then(|hints| hints.for_zones.as_deref()).unwrap_or_default();
    let nodes = hints.and_then(|hints| hints.for_nodes.as_deref()).unwrap_or_default();
    Ok(Endpoint {
        address,
        ready,
        // As upstream's endpointslicecache: what does not say that it fails serves, ready or not.
        serving: conditions.serving.unwrap_or(true),
        terminating: conditions.terminating.unwrap_or(false),
        node: entry.node_name.as_deref().map(intern),
        zone: entry.zone.as_deref().map(intern),
        hints: (!zones.is_empty() || !nodes.is_empty()).then(|| {
            let zones = zones.iter().map(|zone| intern(&zone.name)).collect();
            Arc::new(Hints { zones, nodes: nodes.iter().map(|node| intern(&node.name)).collect() })
        }),
        pod: entry.target_ref.as_ref().and_then(|target| target.name.as_deref()).map(Arc::from),
        weight: None,
    })
}

/// Addresses that the API server refuses as endpoints (`ValidateNonSpecialIP`): forwarding to them would reach the
/// node itself or nobody.
fn unusable(address: IpAddr) -> Option<&'static str> {
    let link_local = match address {
        IpAddr::V4(ip) => ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_unicast_link_local(),
    };
    match address {
        ip if ip.is_unspecified() => Some("unspecified"),
        ip if ip.is_loopback() => Some("loopback"),
        ip if ip.is_multicast() => Some("multicast"),
        _ if link_local => Some("link-local"),
        _ => None,
    }
}

fn node(object: &core::Node, problems: &mut Vec<Problem>) -> Result<Arc<Node>, Problem> {
    let own = name(&object.metadata)?;
    let listed = object.status.as_ref().and_then(|status| status.addresses.as_deref()).unwrap_or_default();
    let usable = listed.iter().filter(|address| matches!(address.type_.as_str(), "InternalIP" | "ExternalIP"));
    let texts: Vec<String> = usable.map(|address| address.address.clone()).collect();
    let cidrs = object.spec.as_ref().and_then(|spec| spec.pod_cidrs.as_deref()).unwrap_or_default();
    Ok(Arc::new(Node {
        name: own.name,
        zone: label(&object.metadata, ZONE_LABEL).map(Arc::from),
        addresses: addresses(Some(&texts), "status.addresses", problems),
        pod_cidrs: cidrs.iter().filter_map(|cidr| parse_network(cidr).ok()).collect(),
        leaving: object.metadata.deletion_timestamp.is_some() || is_to_be_deleted(object),
    }))
}

/// Whether the cluster autoscaler has marked a node for deletion. Upstream: `NodeEligible` in
/// `pkg/proxy/healthcheck/proxy_health.go`.
fn is_to_be_deleted(object: &core::Node) -> bool {
    let taints = object.spec.as_ref().and_then(|spec| spec.taints.as_deref()).unwrap_or_default();
    taints.iter().any(|taint| taint.key == TO_BE_DELETED_TAINT)
}

fn service_range(object: &networking::ServiceCIDR, problems: &mut Vec<Problem>) -> Vec<ipnet::IpNet> {
    let mut ranges = Vec::new();
    for (index, text) in object.spec.iter().flat_map(|spec| spec.cidrs.iter().flatten()).enumerate() {
        match parse_network(text) {
            Ok(range) => ranges.push(range),
            Err(error) => problems.push(Problem::in_field(format!("spec.cidrs[{index}]"), format!("{error}; ignored"))),
        }
    }
    ranges
}

#[cfg(test)]
#[path = "convert_tests.rs"]
mod tests;
