//! What the conversion takes, mends and refuses.

use super::*;
use serde_json::json;

fn read_service(spec: Value) -> (Arc<Service>, Vec<String>) {
    let value = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "a", "namespace": "n"},
        "spec": spec, "status": {"loadBalancer": {"ingress": [
            {"ip": "198.51.100.1"}, {"ip": "198.51.100.2", "ipMode": "Proxy"}, {"ip": "198.51.100.003", "ipMode": "VIP"}]}}});
    let mut problems = Vec::new();
    let object = from_value("Service", &value, &mut problems).unwrap().unwrap();
    let Object::Service(service) = object else { panic!("{object:?}") };
    (service, problems.iter().map(ToString::to_string).collect())
}

#[test]
fn load_balancer_service() {
    let (service, problems) = read_service(json!({
        "type": "LoadBalancer", "clusterIP": "172.30.0.041", "clusterIPs": ["172.30.0.041", "fd00::1"],
        "externalIPs": ["192.168.99.1", "nonsense"], "externalTrafficPolicy": "Local", "healthCheckNodePort": 31000,
        "loadBalancerSourceRanges": [" 203.0.113.0/25"], "sessionAffinity": "ClientIP",
        "ports": [{"name": "http", "port": 80, "targetPort": "web", "nodePort": 30080}, {"name": "x", "port": 70000}]
    }));
    assert_eq!(service.cluster_ips, ["172.30.0.41".parse::<IpAddr>().unwrap(), "fd00::1".parse().unwrap()]);
    let balancer: Vec<String> = service.load_balancer_ips.iter().map(ToString::to_string).collect();
    assert_eq!(balancer, ["198.51.100.1", "198.51.100.3"]);
    assert!(service.external_policy_local && !service.internal_policy_local);
    assert_eq!(service.affinity.unwrap().seconds(), 10_800);
    assert_eq!(service.ports.len(), 1);
    assert_eq!(service.ports[0].node_port, Some(30080));
    assert_eq!(
        problems,
        [
            "spec.externalIPs[1]: \"nonsense\" is not an IP address; ignored",
            "spec.ports[1].port: not within 1 to 65535; port ignored",
        ]
    );
}

#[test]
fn cluster_ip_service_has_no_outside() {
    let (service, _) = read_service(json!({"clusterIP": "172.30.0.1", "externalTrafficPolicy": "Local",
        "ports": [{"port": 80, "nodePort": 30080}]}));
    assert!(service.load_balancer_ips.is_empty());
    assert_eq!(service.ports[0].node_port, None);
    assert!(!service.external_policy_local);
}

#[test]
fn a_wrong_type_names_its_field() {
    let value = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "a"},
        "spec": {"ports": [{"port": "eighty"}]}});
    let problem = from_value("Service", &value, &mut Vec::new()).unwrap_err();
    assert_eq!(problem.field.as_deref(), Some("spec.ports[0].port"));
}

#[test]
fn endpoints_that_reach_the_node_itself_are_ignored() {
    let value = json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {"name": "a-1", "labels": {"kubernetes.io/service-name": "a"}},
        "ports": [{"port": 80}, {"name": "all"}],
        "endpoints": [{"addresses": ["127.0.0.1"]}, {"addresses": ["10.0.0.1"]},
            {"addresses": ["10.0.0.2"], "conditions": {"ready": false}},
            {"addresses": ["10.0.0.3"], "conditions": {"ready": false, "serving": true, "terminating": true}}]});
    let mut problems = Vec::new();
    let Some(Object::Slice(service, slice)) = from_value("EndpointSlice", &value, &mut problems).unwrap() else {
        panic!("no slice")
    };
    assert_eq!(service, ServiceName::new("default", "a"));
    let slice = slice.unpack();
    assert_eq!(slice.ports.len(), 1);
    let states: Vec<_> = slice.endpoints.iter().map(|e| (e.ready, e.serving, e.terminating)).collect();
    assert_eq!(states, [(true, true, false), (false, true, false), (false, true, true)]);
    assert_eq!(problems[0].to_string(), "endpoints[0].addresses[0]: 127.0.0.1 is loopback; endpoint ignored");
}

#[test]
fn a_range_of_everybody_counts_for_its_family_alone() {
    let ranges = |list: Value| -> Vec<String> {
        let (service, _) =
            read_service(json!({"type": "LoadBalancer", "clusterIP": "172.30.0.1", "loadBalancerSourceRanges": list}));
        service.source_ranges.iter().map(ToString::to_string).collect()
    };
    assert_eq!(ranges(json!(["10.0.0.0/8", "::/0", "fd00::/8"])), ["10.0.0.0/8"]);
    assert_eq!(ranges(json!(["10.0.0.0/8", "0.0.0.0/0", "fd00::/8"])), ["fd00::/8"]);
    assert_eq!(ranges(json!(["nonsense"])), Vec::<String>::new());
}

#[test]
fn what_is_labelled_headless_is_not_forwarded() {
    let metadata = json!({"name": "a", "labels": {"service.kubernetes.io/headless": ""}});
    let slice = json!({"kind": "EndpointSlice", "metadata": metadata, "addressType": "IPv4", "endpoints": []});
    assert_eq!(from_value("EndpointSlice", &slice, &mut Vec::new()), Ok(None));
    // The Service is kept: its cluster IP must not become local to the node.
    let service = json!({"kind": "Service", "metadata": metadata, "spec": {"clusterIP": "172.30.0.1"}});
    let Ok(Some(Object::Service(service))) = from_value("Service", &service, &mut Vec::new()) else {
        panic!("a Service was expected");
    };
    assert!(service.is_forwarded() && !service.is_served_by(None));
}
