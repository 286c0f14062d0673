//! What the store makes of updates.

use super::*;
use serde_json::{Value, json};

fn service(name: &str, ip: &str) -> Value {
    json!({"metadata": {"name": name, "namespace": "n", "resourceVersion": "1"},
        "spec": {"clusterIP": ip, "ports": [{"port": 80}]}})
}

fn slice(name: &str, service: &str, endpoint: &str) -> Value {
    json!({"metadata": {"name": name, "namespace": "n", "labels": {"kubernetes.io/service-name": service}},
        "addressType": "IPv4", "ports": [{"port": 80}], "endpoints": [{"addresses": [endpoint]}]})
}

/// Takes in a list.
fn list(store: &mut Store, kind: Kind, values: &[Value]) {
    store.take(Update::Listed(kind, values.iter().map(|value| Arrival::read(kind, value)).collect()));
}

fn applied(kind: Kind, value: &Value) -> Update {
    Update::Applied(kind, Arrival::read(kind, value))
}

fn id(name: &str) -> ServiceName {
    ServiceName::new("n", name)
}

/// A store that has listed two Services with a slice each.
fn store() -> Store {
    let mut store = Store::default();
    list(&mut store, Kind::Service, &[service("a", "172.30.0.1"), service("b", "172.30.0.2")]);
    list(&mut store, Kind::EndpointSlice, &[slice("a-1", "a", "10.0.0.1"), slice("b-1", "b", "10.0.0.2")]);
    list(&mut store, Kind::Node, &[json!({"metadata": {"name": "me"}})]);
    assert!(store.fresh().is_none(), "service ranges have not been listed");
    list(&mut store, Kind::ServiceCidr, &[]);
    assert!(store.fresh().is_none(), "Services of others have not been listed");
    list(&mut store, Kind::OtherService, &[]);
    store
}

fn others(name: &str, ip: &str) -> Value {
    let mut service = service(name, ip);
    service["metadata"]["labels"] = json!({"service.kubernetes.io/service-proxy-name": "other"});
    service
}

/// Two watches tell of one Service, in either order.
#[test]
fn a_service_that_changes_hands_is_never_lost() {
    let of = |store: &mut Store| {
        let snapshot = store.fresh()?;
        Some(snapshot.services.get(&id("a"))?.proxy_name.clone())
    };
    for first in [Kind::Service, Kind::OtherService] {
        let mut store = store();
        store.fresh();
        for kind in if first == Kind::Service { [first, Kind::OtherService] } else { [first, Kind::Service] } {
            store.take(match kind {
                Kind::Service => Update::Deleted(kind, id("a")),
                _ => applied(kind, &others("a", "172.30.0.1")),
            });
        }
        assert_eq!(of(&mut store), Some(Some("other".into())), "given away, {first:?} first");
        // Another list of ours does not take it away.
        list(&mut store, Kind::Service, &[service("b", "172.30.0.2")]);
        assert!(store.fresh().is_none());
        for kind in if first == Kind::Service { [first, Kind::OtherService] } else { [first, Kind::Service] } {
            store.take(match kind {
                Kind::Service => applied(kind, &service("a", "172.30.0.1")),
                _ => Update::Deleted(kind, id("a")),
            });
        }
        assert_eq!(of(&mut store), Some(None), "taken back, {first:?} first");
    }
}

#[test]
fn nothing_is_given_out_before_everything_is_listed() {
    let snapshot = store().fresh().unwrap();
    assert!(snapshot.complete);
    assert_eq!((snapshot.services.len(), snapshot.slices.len(), snapshot.nodes.len()), (2, 2, 1));
}

#[test]
fn an_event_changes_what_it_names_and_shares_the_rest() {
    let mut store = store();
    let before = store.fresh().unwrap();
    store.take(applied(Kind::Service, &service("b", "172.30.0.9")));
    let after = store.fresh().unwrap();
    assert_eq!(before.changed_services(&after), [id("b")]);
    assert!(Arc::ptr_eq(&before.services[&id("a")], &after.services[&id("a")]));
    store.take(applied(Kind::Service, &service("b", "172.30.0.9")));
    assert!(store.fresh().is_none(), "the same again is no change");
    store.take(Update::Deleted(Kind::Service, id("a")));
    store.take(Update::Deleted(Kind::EndpointSlice, id("a-1")));
    let last = store.fresh().unwrap();
    assert_eq!(after.changed_services(&last), [id("a")]);
    assert_eq!((last.services.len(), last.slices.len()), (1, 1));
}

#[test]
fn a_new_list_swaps_at_once_and_takes_away_what_it_lacks() {
    let mut store = store();
    let before = store.fresh().unwrap();
    list(&mut store, Kind::Service, &[service("b", "172.30.0.2"), service("c", "172.30.0.3")]);
    let after = store.fresh().unwrap();
    assert_eq!(before.changed_services(&after), [id("a"), id("c")]);
    assert!(Arc::ptr_eq(&before.services[&id("b")], &after.services[&id("b")]));
}

#[test]
fn a_slice_may_change_its_service() {
    let mut store = store();
    store.take(applied(Kind::EndpointSlice, &slice("a-1", "b", "10.0.0.1")));
    let snapshot = store.fresh().unwrap();
    assert!(!snapshot.slices.contains_key(&id("a")));
    assert_eq!(snapshot.slices[&id("b")].len(), 2);
    store.take(Update::Deleted(Kind::EndpointSlice, id("a-1")));
    assert_eq!(store.fresh().unwrap().slices[&id("b")].len(), 1);
}

#[test]
fn a_broken_object_keeps_its_last_good_state() {
    let mut store = store();
    let before = store.fresh().unwrap();
    let mut broken = service("a", "172.30.0.1");
    broken["spec"]["ports"][0]["port"] = json!("many");
    list(&mut store, Kind::Service, &[broken, service("b", "172.30.0.7"), json!({"metadata": {}}), json!(7)]);
    let after = store.fresh().unwrap();
    assert_eq!(before.changed_services(&after), [id("b")]);
    let problems: Vec<String> = store.problems().map(ToString::to_string).collect();
    assert!(
        problems.iter().any(|problem| {
            problem.starts_with("Service n/a: spec.ports[0].port: invalid type")
                && problem.ends_with("its last good state is kept")
        }),
        "{problems:?}"
    );
    list(&mut store, Kind::Service, &[service("a", "172.30.0.1"), service("b", "172.30.0.7")]);
    assert_eq!(store.problems().count(), 0);
    assert!(store.fresh().is_none());
}

#[test]
fn service_ranges_are_merged() {
    let mut store = store();
    let cidr = |name: &str, cidrs: &[&str]| json!({"metadata": {"name": name}, "spec": {"cidrs": cidrs}});
    store.take(applied(Kind::ServiceCidr, &cidr("kubernetes", &["10.96.0.0/16", "fd00:96::/108"])));
    store.take(applied(Kind::ServiceCidr, &cidr("more", &["10.96.128.0/20", "10.97.0.0/16", "nonsense"])));
    let ranges: Vec<String> = store.fresh().unwrap().service_ranges.iter().map(ToString::to_string).collect();
    assert_eq!(ranges, ["10.96.0.0/15", "fd00:96::/108"]);
    store.take(Update::Deleted(Kind::ServiceCidr, ServiceName::new("", "more")));
    let ranges: Vec<String> = store.fresh().unwrap().service_ranges.iter().map(ToString::to_string).collect();
    assert_eq!(ranges, ["10.96.0.0/16", "fd00:96::/108"]);
}

#[test]
fn an_api_that_is_not_there_holds_nothing_up() {
    let mut store = Store::default();
    list(&mut store, Kind::Service, &[]);
    list(&mut store, Kind::EndpointSlice, &[]);
    store.take(Update::Absent(Kind::Node));
    assert!(store.fresh().is_none());
    list(&mut store, Kind::OtherService, &[]);
    store.take(Update::Absent(Kind::ServiceCidr));
    assert!(store.fresh().unwrap().complete);
}

#[test]
fn slices_are_found_whatever_they_are_called() {
    let mut store = Store::default();
    let slices =
        [slice("a-b-1", "a", "10.0.0.1"), slice("a-b-2", "a-b", "10.0.0.2"), slice("plain", "a-b", "10.0.0.3")];
    list(&mut store, Kind::EndpointSlice, &slices);
    let mut names: Vec<String> = store.known(Kind::EndpointSlice).iter().map(|id| id.name.to_string()).collect();
    assert_eq!(names, ["a-b-1", "a-b-2", "plain"]);
    let owner = |store: &Store, slice: &str| store.owner(&id(slice)).map(|service| service.name.to_string());
    assert_eq!(owner(&store, "a-b-1").as_deref(), Some("a"));
    assert_eq!(owner(&store, "a-b-2").as_deref(), Some("a-b"));
    assert_eq!(owner(&store, "plain").as_deref(), Some("a-b"));
    assert_eq!(owner(&store, "a-b-3"), None, "there is no such slice");
    store.take(applied(Kind::EndpointSlice, &slice("a-b-1", "a-b", "10.0.0.1")));
    assert_eq!(owner(&store, "a-b-1").as_deref(), Some("a-b"), "it may change hands");
    store.take(applied(Kind::EndpointSlice, &slice("a-b-1", "a", "10.0.0.1")));
    assert_eq!(owner(&store, "a-b-1").as_deref(), Some("a"), "and back");
    for gone in names.drain(..) {
        store.take(Update::Deleted(Kind::EndpointSlice, id(&gone)));
        assert_eq!(owner(&store, &gone), None);
    }
    assert!(store.snapshot.slices.is_empty() && store.owners.is_empty());
}
