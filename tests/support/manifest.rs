//! Services with their EndpointSlices as JSON, which is YAML.

use serde_json::{Value, json};

/// A Service in the namespace `default`, with a slice per family.
#[derive(Debug, Clone)]
pub struct Service {
    pub name: String,
    /// The last part of the cluster IPs: 172.30.0.N and fd00:172:30::N in hexadecimal.
    pub number: u8,
    pub protocol: &'static str,
    pub port: u16,
    pub node_port: Option<u16>,
    pub sticky: bool,
    pub external_ips: Vec<String>,
    /// Annotations of the Service.
    pub annotations: Vec<(&'static str, String)>,
    /// The port of the endpoints.
    pub target: u16,
    /// Endpoints by number and whether they are ready: 1 to 3 are on the node, 11 and 12 elsewhere.
    pub endpoints: Vec<(u8, bool)>,
}

impl Service {
    /// A ClusterIP Service of TCP port 80 with the endpoints pod-1, pod-2 and far-pod-1.
    pub fn new(name: &str, number: u8) -> Self {
        Self {
            name: name.to_owned(),
            number,
            protocol: "TCP",
            port: 80,
            node_port: None,
            sticky: false,
            external_ips: Vec::new(),
            annotations: Vec::new(),
            target: 80,
            endpoints: vec![(1, true), (2, true), (11, true)],
        }
    }

    /// The same with these endpoints, all ready.
    pub fn on(mut self, endpoints: &[u8]) -> Self {
        self.endpoints = endpoints.iter().map(|number| (*number, true)).collect();
        self
    }

    /// The same with this annotation and no other.
    pub fn annotated(mut self, name: &'static str, value: &str) -> Self {
        self.annotations = vec![(name, value.to_owned())];
        self
    }

    /// The cluster IPs with their port.
    pub fn addresses(&self) -> [String; 2] {
        let (number, port) = (self.number, self.port);
        [format!("172.30.0.{number}:{port}"), format!("[fd00:172:30::{number:x}]:{port}")]
    }

    /// The same, and the node's addresses with the node port if there is one.
    pub fn all_addresses(&self) -> Vec<String> {
        let on_node = |port: u16| [format!("192.168.0.2:{port}"), format!("[2001:db8::2]:{port}")];
        self.addresses().into_iter().chain(self.node_port.into_iter().flat_map(on_node)).collect()
    }

    /// The objects as one List.
    pub fn list(&self) -> String {
        serde_json::to_string_pretty(&json!({"apiVersion": "v1", "kind": "List", "items": self.objects()})).unwrap()
    }

    /// The objects: the Service first, then the slices.
    pub fn objects(&self) -> Vec<Value> {
        let number = self.number;
        let mut port = json!({"name": "web", "protocol": self.protocol, "port": self.port, "targetPort": self.target});
        if let Some(node_port) = self.node_port {
            port["nodePort"] = json!(node_port);
        }
        let annotations: Value =
            self.annotations.iter().map(|(name, value)| ((*name).to_owned(), json!(value))).collect();
        let ips = [format!("172.30.0.{number}"), format!("fd00:172:30::{number:x}")];
        let service = json!({
            "apiVersion": "v1", "kind": "Service", "metadata": {"name": self.name, "namespace": "default", "annotations": annotations},
            "spec": {
                "type": if self.node_port.is_some() { "NodePort" } else { "ClusterIP" },
                "clusterIP": ips[0], "clusterIPs": ips,
                "sessionAffinity": if self.sticky { "ClientIP" } else { "None" },
                "externalIPs": self.external_ips,
                "ports": [port],
            },
        });
        vec![service, self.slice("IPv4"), self.slice("IPv6")]
    }

    fn slice(&self, family: &str) -> Value {
        let endpoint = |(number, ready): &(u8, bool)| {
            json!({
                "addresses": [address(*number, family)],
                "conditions": {"ready": ready, "serving": ready, "terminating": false},
                "nodeName": if *number > 10 { "far-node" } else { "demo-node" },
            })
        };
        let endpoints: Vec<Value> = self.endpoints.iter().map(endpoint).collect();
        json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": family,
            "metadata": {
                "name": format!("{}-{}", self.name, family.to_lowercase()), "namespace": "default",
                "labels": {"kubernetes.io/service-name": self.name},
            },
            "ports": [{"name": "web", "protocol": self.protocol, "port": self.target}],
            "endpoints": endpoints,
        })
    }
}

fn address(number: u8, family: &str) -> String {
    let (net, number) = (number / 10, number % 10);
    match (family, net) {
        ("IPv4", _) => format!("10.180.{net}.{number}"),
        (_, 0) => format!("fd00:10:180::{number}"),
        _ => format!("fd00:10:180:{net}::{number}"),
    }
}
