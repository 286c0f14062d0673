//! Events: what is written to an API server of our own, how often, and what becomes of those that cannot be written.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "helpers of tests may fail loudly, too"
)]

mod support;

use kube_ipvs::model::{Event, Reason};
use serde_json::{Value, json};
use std::net::TcpListener;
use support::api::Trouble;
use support::follow::{fill, name, service, slice};
use support::{Api, Cluster, Followed, Mode, may_run, wait_for, wait_until};

fn refused(note: &str) -> Event {
    Event::of_service(&name(0), Reason::AddressRefused, note)
}

/// Service number N with a uid and these annotations.
fn annotated(number: usize, annotations: Value) -> Value {
    let mut service = service(number);
    service["metadata"]["uid"] = json!(format!("uid-{number}"));
    service["metadata"]["annotations"] = annotations;
    service
}

#[tokio::test]
async fn an_event_is_what_kubectl_looks_for() {
    let api = Api::start();
    fill(&api, 0..1);
    api.put(annotated(0, json!({})));
    let followed = Followed::start(&api).await;
    followed.complete().await;
    let mut writer = followed.cluster.event_writer();
    writer.write(&refused("x"), 1).await;
    writer.write(&Event::of_node(Reason::Starting, "ä".repeat(1000)), 1).await;
    let events = api.events();
    assert_eq!(events.len(), 2, "{}", followed.log());
    let service =
        json!({"apiVersion": "v1", "kind": "Service", "namespace": "default", "name": "svc-0000", "uid": "uid-0"});
    assert_eq!(events[0]["regarding"], service);
    let of = |event: &Value, keys: &[&str]| {
        keys.iter().map(|key| event[key].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    let keys = ["type", "reason", "action", "reportingController", "reportingInstance"];
    assert_eq!(of(&events[0], &keys), ["Warning", "AddressRefused", "Program", "kube-ipvs", "kube-ipvs-demo-node"]);
    assert_eq!(of(&events[1], &keys)[..3], ["Normal", "Starting", "StartKubeProxy"]);
    let node = json!({"apiVersion": "v1", "kind": "Node", "name": "demo-node", "uid": "demo-node"});
    assert_eq!(events[1]["regarding"], node);
    assert_eq!(events[1]["note"].as_str().unwrap().len(), 1024);
}

#[tokio::test]
async fn what_happens_again_is_counted_for_as_long_as_the_server_knows_it() {
    let api = Api::start();
    fill(&api, 0..1);
    let followed = Followed::start(&api).await;
    followed.complete().await;
    let mut writer = followed.cluster.event_writer();
    writer.write(&refused("x"), 1).await;
    writer.write(&refused("y"), 1).await;
    writer.write(&refused("x"), 4).await;
    let counts: Vec<Option<u64>> = api.events().iter().map(|event| event["series"]["count"].as_u64()).collect();
    assert_eq!(counts, [Some(5), None]);
    api.forget_events();
    writer.write(&refused("x"), 2).await;
    assert_eq!(api.events().len(), 1);
    assert_eq!(api.events()[0]["series"], Value::Null, "a new one");
    assert_eq!(followed.said("events cannot be written"), 0, "{}", followed.log());
}

#[tokio::test]
async fn what_cannot_be_written_is_told_once() {
    let api = Api::start();
    fill(&api, 0..1);
    let followed = Followed::start(&api).await;
    followed.complete().await;
    let mut writer = followed.cluster.event_writer();
    api.adjust(|trouble| trouble.events = Some(422));
    for note in ["a", "b", "c"] {
        writer.write(&refused(note), 1).await;
    }
    assert_eq!(followed.said("events cannot be written: 422"), 1, "{}", followed.log());
    api.trouble(Trouble::default());
    writer.write(&refused("d"), 1).await;
    assert_eq!((api.events().len(), followed.said("events can be written again")), (1, 1), "{}", followed.log());
    // A server that forbids it, or is away, is left alone for a while.
    api.adjust(|trouble| trouble.events = Some(403));
    writer.write(&refused("e"), 1).await;
    api.trouble(Trouble::default());
    writer.write(&refused("f"), 1).await;
    assert_eq!(api.events().len(), 1);
    assert_eq!(followed.said("it takes the verbs create and patch"), 1, "{}", followed.log());
}

/// The events of a reason, as object and note.
fn events(api: &Api, reason: &str) -> Vec<(String, String)> {
    let text = |event: &Value, pointer: &str| event.pointer(pointer).unwrap().as_str().unwrap().to_owned();
    let events = api.events().into_iter().filter(|event| event["reason"] == reason);
    let mut events: Vec<_> = events.map(|event| (text(&event, "/regarding/name"), text(&event, "/note"))).collect();
    events.sort();
    events
}

fn wait_for_events(api: &Api, reason: &str, count: usize) -> Vec<(String, String)> {
    let found = || Some(events(api, reason)).filter(|found| found.len() >= count);
    wait_for(&format!("{count} events {reason}"), found)
}

/// A load balancer's Service with the policy Local and this health check port.
fn balanced(number: usize, port: u16) -> Value {
    let mut service = service(number);
    service["spec"]["type"] = json!("LoadBalancer");
    service["spec"]["externalTrafficPolicy"] = json!("Local");
    service["spec"]["healthCheckNodePort"] = json!(port);
    service
}

#[test]
fn the_program_tells_who_is_concerned() {
    if !may_run(Mode::Iptables) {
        return;
    }
    let cluster = Cluster::new(Mode::Iptables);
    let api = cluster.lab.node().ns.run(Api::start).unwrap();
    let busy = cluster.lab.node().ns.run(|| TcpListener::bind("0.0.0.0:31999").unwrap()).unwrap();
    fill(&api, 0..5);
    api.put(annotated(0, json!({"kube-ipvs.io/scheduler": "fastest"})));
    api.put(annotated(1, json!({"kube-ipvs.io/scheduler": "mh"})));
    let mut gateway = service(2);
    gateway["spec"]["externalIPs"] = json!(["192.168.0.1"]);
    api.put(gateway);
    api.put(balanced(3, 31_999));
    let mut weighted = slice(4, "10.180.0.1");
    weighted["metadata"]["annotations"] = json!({"kube-ipvs.io/weights": "10.180.0.1=none"});
    api.put(weighted);
    let mut proxy = cluster.launch_on(&api);
    proxy.wait_in_sync();

    assert_eq!(wait_for_events(&api, "Starting", 1)[0].0, "demo-node");
    let invalid = wait_for_events(&api, "InvalidAnnotation", 2);
    assert!(invalid[0].0 == "svc-0000" && invalid[0].1.contains("\"fastest\" is not one of rr, wrr"), "{invalid:?}");
    assert!(invalid[1].0 == "svc-0004" && invalid[1].1.contains("EndpointSlice default/svc-0004-x"), "{invalid:?}");
    let without = wait_for_events(&api, "AnnotationWithoutEffect", 1);
    assert!(without[0].0 == "svc-0001" && without[0].1.contains("iptables mode"), "{without:?}");
    let addresses = wait_for_events(&api, "AddressRefused", 1);
    assert!(addresses[0].0 == "svc-0002" && addresses[0].1.contains("192.168.0.1"), "{addresses:?}");
    let health = wait_for_events(&api, "FailedToStartServiceHealthcheck", 1);
    assert!(health[0].0 == "svc-0003" && health[0].1.contains("31999"), "{health:?}");
    assert!(proxy.says(&["svc-0000", "fastest", "the default is used"]), "{}", proxy.log());

    // The same again within an hour is no news; what is different is.
    let before = api.events().len();
    api.put(annotated(0, json!({})));
    proxy.wait_to_say(&["mended", "fastest"]);
    api.put(annotated(0, json!({"kube-ipvs.io/scheduler": "fastest"})));
    api.put(annotated(0, json!({"kube-ipvs.io/scheduler": "fast"})));
    wait_for_events(&api, "InvalidAnnotation", 3);
    assert_eq!(api.events().len(), before + 1, "{:#?}", api.events());

    // A server that answers nothing to events holds nothing up.
    api.adjust(|trouble| trouble.events = Some(500));
    api.put(annotated(0, json!({"kube-ipvs.io/scheduler": "faster"})));
    proxy.wait_to_say(&["events cannot be written: 500"]);
    api.put(service(5));
    api.put(slice(5, "10.180.0.2"));
    wait_until("another Service", || cluster.shell("iptables-save -t nat").contains(&name(5).to_string()));
    proxy.stop();
    drop(busy);
}

#[test]
fn the_second_best_mode_is_told_on_the_node() {
    if !may_run(Mode::Iptables) {
        return;
    }
    if support::no_ipvs().is_none() {
        support::skipped("this kernel has IPVS: there is nothing to fall back from");
        return;
    }
    let cluster = Cluster::new(Mode::Iptables);
    let api = cluster.lab.node().ns.run(Api::start).unwrap();
    fill(&api, 0..1);
    let mut proxy = cluster.launch_on_as(&api, "auto");
    proxy.wait_in_sync();
    let fallback = wait_for_events(&api, "ModeFallback", 1);
    assert!(fallback[0].0 == "demo-node" && fallback[0].1.contains("IPVS does not work here"), "{fallback:?}");
    proxy.stop();
}
