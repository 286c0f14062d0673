//! The source from the API server, against an API server of our own: what it asks, what it takes, what it makes of it.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "helpers of tests may fail loudly, too"
)]

mod support;

use kube_ipvs::model::ServiceName;
use serde_json::json;
use std::sync::Arc;
use std::time::Duration;
use support::follow::{fill, name, node, service, slice};
use support::{Api, Followed, quick};

#[tokio::test]
async fn lists_as_streams_and_follows() {
    let api = Api::start();
    fill(&api, 0..3);
    api.put(json!({"kind": "ServiceCIDR", "metadata": {"name": "kubernetes"}, "spec": {"cidrs": ["172.30.0.0/16"]}}));
    let followed = Followed::start(&api).await;
    assert!(!followed.now().complete && followed.now().services.is_empty());
    let first = followed.complete().await;
    assert_eq!((first.services.len(), first.slices.len()), (3, 3));
    assert_eq!(first.nodes["demo-node"].zone.as_deref(), Some("z1"));
    assert_eq!(first.service_ranges, ["172.30.0.0/16".parse().unwrap()]);

    api.put(slice(1, "10.180.0.9"));
    api.delete("Service", "default", "svc-0002");
    api.delete("EndpointSlice", "default", "svc-0002-x");
    api.put(service(7));
    api.put(node("z2"));
    let zone = |snapshot: &kube_ipvs::model::Snapshot| snapshot.nodes["demo-node"].zone.clone();
    let services = |s: &kube_ipvs::model::Snapshot| s.services.keys().cloned().collect::<Vec<_>>();
    let last = followed
        .until("the changes", |s| {
            zone(s).as_deref() == Some("z2") && s.slices.len() == 2 && services(s) == [name(0), name(1), name(7)]
        })
        .await;
    assert_eq!(last.slices[&name(1)].values().next().unwrap().endpoints[0].address.to_string(), "10.180.0.9");
    assert!(Arc::ptr_eq(&first.services[&name(0)], &last.services[&name(0)]), "what did not change is shared");
    assert_eq!(followed.said("WARN"), 0, "{}", followed.log());
}

#[tokio::test]
async fn asks_for_no_more_than_it_needs() {
    let api = Api::start();
    fill(&api, 0..1);
    let followed = Followed::start(&api).await;
    followed.complete().await;
    let requests = api.requests();
    assert_eq!(requests.len(), 5, "{requests:#?}");
    let labels = "labelSelector=!service.kubernetes.io/service-proxy-name,!service.kubernetes.io/headless&";
    let has = |path: &str, words: &[&str]| {
        let request =
            requests.iter().find(|request| request.starts_with(path) && request.contains(words.first().unwrap_or(&"")));
        let request = request.unwrap_or_else(|| panic!("no {path} with {words:?}: {requests:#?}"));
        for word in words.iter().chain(&["sendInitialEvents=true", "resourceVersionMatch=NotOlderThan"]) {
            assert!(request.contains(word), "{word} in {request}");
        }
        assert!(request.contains("&resourceVersion=&"), "no cache that may be behind: {request}");
    };
    has("/api/v1/services?", &[labels, "fieldSelector=spec.clusterIP!=None"]);
    has(
        "/api/v1/services?",
        &["labelSelector=service.kubernetes.io/service-proxy-name&", "fieldSelector=spec.clusterIP!=None"],
    );
    has("/apis/discovery.k8s.io/v1/endpointslices?", &[labels]);
    has("/api/v1/nodes?", &["fieldSelector=metadata.name=demo-node"]);
    has("/apis/networking.k8s.io/v1/servicecidrs?", &[]);
    let agent = api.header("user-agent").unwrap();
    assert!(agent.starts_with(concat!("kube-ipvs/", env!("CARGO_PKG_VERSION"))), "{agent}");
}

#[tokio::test]
async fn pages_where_there_are_no_streams() {
    let api = Api::start();
    api.adjust(|trouble| trouble.no_streams = true);
    fill(&api, 0..1203);
    let followed = Followed::start(&api).await;
    let first = followed.complete().await;
    assert_eq!((first.services.len(), first.slices.len()), (1203, 1203));
    let pages: Vec<String> = api
        .requests()
        .into_iter()
        .filter(|request| {
            request.starts_with("/api/v1/services?") && request.contains("!service.kubernetes.io/headless")
        })
        .filter(|request| !request.contains("watch=true"))
        .collect();
    assert_eq!(pages.len(), 3, "{pages:#?}");
    assert!(pages.iter().all(|page| page.contains("limit=500")), "{pages:#?}");
    assert_eq!(pages.iter().filter(|page| page.contains("continue=")).count(), 2, "{pages:#?}");
    // The answer is remembered.
    api.clear_requests();
    api.forget();
    api.put(service(2000));
    followed.until("the new service", |snapshot| snapshot.services.len() == 1204).await;
    assert!(!api.requests().iter().any(|request| request.contains("sendInitialEvents")), "{:#?}", api.requests());
    assert_eq!(followed.said("WARN"), 0, "{}", followed.log());
}

#[tokio::test]
async fn a_page_that_is_too_old_starts_the_list_over_in_one_piece() {
    let api = Api::start();
    api.adjust(|trouble| (trouble.no_streams, trouble.tokens_expire) = (true, true));
    fill(&api, 0..700);
    let followed = Followed::start(&api).await;
    assert_eq!(followed.complete().await.services.len(), 700);
}

#[tokio::test]
async fn a_server_that_never_marks_the_end_of_a_list_is_asked_for_pages() {
    let api = Api::start();
    api.adjust(|trouble| trouble.no_end_of_list = true);
    fill(&api, 0..5);
    let followed = Followed::start(&api).await;
    assert_eq!(followed.complete().await.services.len(), 5);
}

#[tokio::test]
async fn nothing_is_given_out_before_everything_is_listed() {
    let api = Api::start();
    fill(&api, 0..5);
    api.adjust(|trouble| {
        trouble.statuses.insert("/apis/discovery.k8s.io/v1/endpointslices", 503);
    });
    let followed = Followed::start(&api).await;
    followed
        .until_true("several attempts", || {
            api.requests().iter().filter(|request| request.contains("endpointslices")).count() > 3
        })
        .await;
    assert!(!followed.now().complete && followed.now().services.is_empty());
    assert_eq!(followed.cluster.failing().len(), 1, "{:?}", followed.cluster.failing());
    api.adjust(|trouble| trouble.statuses.clear());
    let first = followed.complete().await;
    assert_eq!((first.services.len(), first.slices.len()), (5, 5));
}

/// However long the lists are, or however long they fail to come.
#[tokio::test]
async fn the_api_server_itself_comes_first_where_that_is_wanted() {
    let kubernetes = ServiceName::new("default", "kubernetes");
    let api = Api::start();
    fill(&api, 0..5);
    let (mut service, mut slice) = (service(7), slice(7, "192.168.0.9"));
    service["metadata"]["name"] = "kubernetes".into();
    slice["metadata"]["name"] = "kubernetes".into();
    slice["metadata"]["labels"]["kubernetes.io/service-name"] = "kubernetes".into();
    api.put(service);
    api.put(slice);
    api.adjust(|trouble| {
        trouble.statuses.insert("/apis/discovery.k8s.io/v1/endpointslices", 503);
    });
    let followed = Followed::start_ahead(&api).await;
    let first = followed.until("the first of all", |snapshot| !snapshot.services.is_empty()).await;
    assert!(!first.complete && first.nodes.len() == 1);
    assert_eq!(first.services.keys().collect::<Vec<_>>(), [&kubernetes]);
    assert_eq!(first.slices.keys().collect::<Vec<_>>(), [&kubernetes]);
    api.adjust(|trouble| trouble.statuses.clear());
    let all = followed.complete().await;
    assert_eq!((all.services.len(), all.slices.len()), (6, 6));
    assert_eq!(followed.said("default/kubernetes alone"), 0, "{}", followed.log());
    // Without endpoints it would be refused: then it waits for the rest.
    let api = Api::start();
    fill(&api, 0..5);
    api.adjust(|trouble| {
        trouble.statuses.insert("/apis/discovery.k8s.io/v1/endpointslices", 503);
    });
    let followed = Followed::start_ahead(&api).await;
    let asked = || api.requests().iter().filter(|request| request.contains("endpointslices")).count() > 4;
    followed.until_true("several attempts", asked).await;
    assert!(followed.now().services.is_empty());
}

#[tokio::test]
async fn service_ranges_and_the_node_may_be_out_of_reach() {
    let api = Api::start();
    fill(&api, 0..2);
    api.adjust(|trouble| {
        trouble.statuses.insert("/apis/networking.k8s.io/v1/servicecidrs", 404);
        trouble.statuses.insert("/api/v1/nodes", 403);
    });
    let followed = Followed::start(&api).await;
    let first = followed.complete().await;
    assert!(first.services.len() == 2 && first.nodes.is_empty() && first.service_ranges.is_empty());
    followed.until_true("more attempts", || api.requests().len() > 20).await;
    assert_eq!(followed.said("servicecidrs cannot be listed (404"), 1, "{}", followed.log());
    assert_eq!(followed.said("nodes cannot be listed (403"), 1, "{}", followed.log());
    assert_eq!(followed.said("WARN"), 2, "{}", followed.log());
    // They may come within reach later.
    api.adjust(|trouble| trouble.statuses.clear());
    followed.until("the node", |snapshot| snapshot.nodes.contains_key("demo-node")).await;
}

#[tokio::test]
async fn a_broken_object_is_told_once_and_keeps_its_last_good_state() {
    let api = Api::start();
    fill(&api, 0..3);
    let mut bad = service(8);
    bad["spec"]["ports"] = json!("none");
    api.put(bad);
    let followed = Followed::start(&api).await;
    let first = followed.complete().await;
    assert_eq!(first.services.len(), 3);
    assert_eq!(followed.said("Service default/svc-0008: spec.ports: invalid type"), 1, "{}", followed.log());
    let mut bad = service(1);
    bad["spec"]["ports"][0]["port"] = json!("many");
    for _ in 0..3 {
        api.put(bad.clone());
    }
    api.put(service(2));
    api.put(service(5));
    let after = followed.until("the good one after it", |snapshot| snapshot.services.len() == 4).await;
    assert!(Arc::ptr_eq(&first.services[&name(1)], &after.services[&name(1)]));
    // Not even a new list, in pages or as a stream, stumbles over it.
    for no_streams in [false, true] {
        api.adjust(|trouble| trouble.no_streams = no_streams);
        api.forget();
        let number = if no_streams { 11 } else { 10 };
        api.put(service(number));
        let listed = followed.until("the new list", |snapshot| snapshot.services.contains_key(&name(number))).await;
        assert!(Arc::ptr_eq(&first.services[&name(1)], &listed.services[&name(1)]));
    }
    assert_eq!(followed.said("Service default/svc-0001: spec.ports[0].port: invalid type"), 1, "{}", followed.log());
    api.put(service(1));
    followed.until_true("the mending", || followed.said("mended: Service default/svc-0001") == 1).await;
}

#[tokio::test]
async fn a_burst_is_taken_in_together() {
    let api = Api::start();
    fill(&api, 0..200);
    let followed = Followed::start_with(&api, quick()).await;
    followed.complete().await;
    let mut seen = followed.snapshots.clone();
    let counter = tokio::spawn(async move {
        let mut count = 0;
        while tokio::time::timeout(Duration::from_secs(2), seen.changed()).await.is_ok_and(|changed| changed.is_ok()) {
            seen.borrow_and_update();
            count += 1;
        }
        count
    });
    for round in 0..10 {
        for number in 0..200 {
            api.put(slice(number, &format!("10.180.{round}.2")));
        }
    }
    // The runtime has one thread, this one: nobody reads while the server, however busy the machine is, sends the burst.
    std::thread::sleep(Duration::from_secs(1));
    let last = "10.180.9.2";
    followed
        .until("the last change", |snapshot| {
            snapshot
                .slices
                .values()
                .flat_map(|slices| slices.values())
                .all(|s| s.endpoints[0].address.to_string() == last)
        })
        .await;
    let snapshots = counter.await.unwrap();
    assert!(snapshots < 1000, "{snapshots} snapshots of 2000 changes");
}
