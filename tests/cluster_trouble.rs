//! The source from the API server while that has every trouble that one can have: nothing that exists is ever missing, it
//! finds back by itself, and it says so once.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "helpers of tests may fail loudly, too"
)]

mod support;

use kube_ipvs::source::Snapshots;
use kube_ipvs::source::cluster::{Access, Kind, Timing};
use std::time::Duration;
use support::api::Trouble;
use support::follow::{fill, name, service, slice};
use support::{Api, Followed, quick};

/// Watches all snapshots: from the first complete one on, these Services and their endpoints are in each.
fn never_missing(mut snapshots: Snapshots, services: std::ops::Range<usize>) -> tokio::task::JoinHandle<usize> {
    tokio::spawn(async move {
        let mut count = 0;
        while snapshots.changed().await.is_ok() {
            let snapshot = snapshots.borrow_and_update().clone();
            for number in services.clone() {
                assert!(snapshot.complete && snapshot.services.contains_key(&name(number)), "service {number}");
                assert!(snapshot.slices.contains_key(&name(number)), "endpoints of {number}");
            }
            count += 1;
        }
        count
    })
}

/// A server with a hundred Services and a source that has listed them.
async fn ready(timing: Timing) -> (Api, Followed, tokio::task::JoinHandle<usize>) {
    let api = Api::start();
    fill(&api, 0..100);
    let followed = Followed::start_with(&api, timing).await;
    followed.complete().await;
    let watcher = never_missing(followed.snapshots.clone(), 0..100);
    followed.until_true("the watches", || api.watches() == Kind::ALL.len()).await;
    tokio::time::sleep(timing.steady * 2).await;
    api.clear_requests();
    (api, followed, watcher)
}

/// A change is seen, and nothing was missing in between.
async fn still_follows(api: &Api, followed: &Followed, watcher: &tokio::task::JoinHandle<usize>, number: usize) {
    api.put(service(number));
    followed.until("a change", |snapshot| snapshot.services.contains_key(&name(number))).await;
    assert!(!watcher.is_finished(), "something was missing");
}

fn lists(api: &Api) -> usize {
    let is_list = |request: &&String| !request.contains("watch=true") || request.contains("sendInitialEvents");
    api.requests().iter().filter(is_list).count()
}

#[tokio::test]
async fn a_connection_that_is_cut_is_resumed_where_it_was() {
    let (api, followed, watcher) = ready(quick()).await;
    api.put(service(200));
    followed.until("a change", |snapshot| snapshot.services.contains_key(&name(200))).await;
    for round in 0..3 {
        api.cut();
        api.put(service(300 + round));
        still_follows(&api, &followed, &watcher, 400 + round).await;
        assert!(followed.now().services.contains_key(&name(300 + round)), "what happened meanwhile");
        tokio::time::sleep(Duration::from_millis(250)).await;
    }
    assert_eq!(lists(&api), 0, "{:#?}", api.requests());
    assert_eq!(followed.said("WARN"), 0, "{}", followed.log());
}

#[tokio::test]
async fn a_bookmark_is_where_it_resumes() {
    let (api, followed, watcher) = ready(quick()).await;
    for number in 500..520 {
        api.put(slice(number, "10.180.0.1"));
    }
    api.bookmark();
    tokio::time::sleep(Duration::from_millis(300)).await;
    api.clear_requests();
    api.cut();
    still_follows(&api, &followed, &watcher, 600).await;
    let services: Vec<String> = api.requests().into_iter().filter(|request| request.contains("/services?")).collect();
    // 1 node, 100 Services with slices, 20 slices.
    assert!(services[0].contains("&resourceVersion=221&"), "{services:#?}");
}

#[tokio::test]
async fn a_version_that_is_too_old_lists_again_and_swaps_at_once() {
    let (api, followed, watcher) = ready(quick()).await;
    for round in 0..3 {
        api.put(service(700 + round));
        followed.until("it", |snapshot| snapshot.services.contains_key(&name(700 + round))).await;
        // What goes while nobody can see it is found by the list.
        api.cut();
        api.delete("Service", "default", &name(700 + round).name);
        api.forget();
        followed.until("its end", |snapshot| !snapshot.services.contains_key(&name(700 + round))).await;
        still_follows(&api, &followed, &watcher, 800 + round).await;
    }
    assert!(lists(&api) >= 3);
    assert_eq!(followed.said("WARN"), 0, "{}", followed.log());
}

#[tokio::test]
async fn a_watch_that_is_refused_as_too_old_lists_again() {
    let (api, followed, watcher) = ready(quick()).await;
    api.adjust(|trouble| trouble.watch_status = Some(410));
    api.cut();
    api.put(service(900));
    followed.until("the list", |snapshot| snapshot.services.contains_key(&name(900))).await;
    api.adjust(|trouble| trouble.watch_status = None);
    still_follows(&api, &followed, &watcher, 901).await;
}

#[tokio::test]
async fn a_server_that_is_away_changes_nothing_and_is_told_once() {
    let (mut api, followed, watcher) = ready(quick()).await;
    let before = followed.now();
    api.stop();
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert!(before.changed_services(&followed.now()).is_empty());
    assert_eq!(followed.said("WARN"), 1, "{}", followed.log());
    let words = ["the API server http://127.0.0.1:", "watch ", "Connection refused", "what is known stays in place"];
    assert!(followed.log().lines().any(|line| words.iter().all(|word| line.contains(word))), "{}", followed.log());
    api.delete("Service", "default", "nothing");
    api.put(service(1000));
    api.restart();
    still_follows(&api, &followed, &watcher, 1001).await;
    assert!(followed.now().services.contains_key(&name(1000)));
    followed.until_true("the end of the outage", || followed.said("answers again, after") == 1).await;
    // After so long everything is listed anew: the store may be another one.
    followed.until_true("lists of all kinds", || lists(&api) >= Kind::ALL.len()).await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!((followed.said("WARN"), followed.said("answers again")), (1, 1), "{}", followed.log());
}

#[tokio::test]
async fn errors_change_nothing() {
    let (api, followed, watcher) = ready(quick()).await;
    let before = followed.now();
    for (round, status) in [500, 429, 503, 401, 403, 504].into_iter().enumerate() {
        api.trouble(Trouble { status: Some(status), ..Trouble::default() });
        api.cut();
        let so_far = api.requests().len();
        followed.until_true("attempts", || api.requests().len() > so_far + 12).await;
        assert!(before.changed_services(&followed.now()).iter().all(|changed| *changed >= name(1100)), "{status}");
        api.trouble(Trouble::default());
        still_follows(&api, &followed, &watcher, 1100 + round).await;
        followed.until_true("the end of the outage", || followed.said("answers again, after") == round + 1).await;
    }
    assert_eq!(followed.said("the API server http"), 12, "{}", followed.log());
}

#[tokio::test]
async fn a_list_that_breaks_off_takes_nothing_away() {
    for no_streams in [false, true] {
        let (api, followed, watcher) = ready(quick()).await;
        let before = followed.now();
        api.trouble(Trouble { lists_break_off: true, no_streams, ..Trouble::default() });
        api.forget();
        followed.until_true("lists", || lists(&api) > 8).await;
        assert!(before.changed_services(&followed.now()).is_empty());
        api.trouble(Trouble { no_streams, ..Trouble::default() });
        still_follows(&api, &followed, &watcher, 1200).await;
    }
}

#[tokio::test]
async fn a_server_that_says_nothing_is_left_and_asked_again() {
    let (api, followed, watcher) = ready(quick()).await;
    api.trouble(Trouble { mute: true, ..Trouble::default() });
    api.cut();
    followed.until_true("the end of patience", || followed.said("no answer within 2s") == 1).await;
    api.trouble(Trouble::default());
    still_follows(&api, &followed, &watcher, 1300).await;
}

#[tokio::test]
async fn a_watch_that_is_silent_for_too_long_is_opened_again() {
    let timing = Timing { idle: Duration::from_millis(400), ..quick() };
    let (api, followed, watcher) = ready(timing).await;
    followed.until_true("new watches", || api.requests().len() >= 8).await;
    assert_eq!(lists(&api), 0, "{:#?}", api.requests());
    still_follows(&api, &followed, &watcher, 1400).await;
    assert_eq!(followed.said("WARN"), 0, "{}", followed.log());
}

#[tokio::test]
async fn a_slow_server_is_waited_for() {
    let api = Api::start();
    fill(&api, 0..10);
    api.adjust(|trouble| trouble.delay = Duration::from_millis(900));
    let followed = Followed::start(&api).await;
    assert_eq!(followed.complete().await.services.len(), 10);
    assert_eq!(followed.said("WARN"), 0, "{}", followed.log());
}

#[tokio::test]
async fn a_server_that_is_not_there_yet_is_waited_for() {
    let mut api = Api::start();
    fill(&api, 0..10);
    api.stop();
    let followed = Followed::start(&api).await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert!(!followed.now().complete);
    api.restart();
    assert_eq!(followed.complete().await.services.len(), 10);
    assert_eq!(followed.said("WARN"), 1, "{}", followed.log());
}

#[tokio::test]
async fn a_configuration_that_changes_is_read_again() {
    let (mut old, new) = (Api::start(), Api::start());
    fill(&old, 0..10);
    fill(&new, 0..10);
    let path = std::env::temp_dir().join(format!("kube-ipvs-kubeconfig-{}", std::process::id()));
    std::fs::write(&path, old.kubeconfig()).unwrap();
    let followed = Followed::start_on(Access { kubeconfig: Some(path.clone()), master: None }, quick()).await;
    followed.complete().await;
    assert_eq!(old.header("authorization").as_deref(), Some("Bearer secret"));
    old.stop();
    std::fs::write(&path, "half a kubeconf").unwrap();
    tokio::time::sleep(Duration::from_millis(500)).await;
    std::fs::write(&path, new.kubeconfig()).unwrap();
    new.put(service(1500));
    followed.until("what the new server has", |snapshot| snapshot.services.contains_key(&name(1500))).await;
    std::fs::remove_file(path).unwrap();
}

#[tokio::test]
async fn it_ends_with_the_last_reader() {
    let (api, followed, watcher) = ready(quick()).await;
    watcher.abort();
    let _ = watcher.await;
    drop(followed);
    tokio::time::timeout(Duration::from_secs(10), async {
        while api.watches() > 0 {
            // The server notices when it writes.
            api.bookmark();
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await
    .expect("the watches are closed");
}
