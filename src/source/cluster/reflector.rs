//! Follows one resource for good: lists it, watches it, and finds back after whatever happens.
//!
//! kube's own `runtime::watcher` is not used; docs/decisions/0017-cluster-source.md says why.

use super::Timing;
use super::arrival::{self, Arrival};
use super::failure::Failure;
use super::outage::Outage;
use super::pace::Pace;
use super::requests::{Events, Listed, Requests, SHORTEST_WATCH};
use super::resource::Kind;
use super::store::Update;
use futures_util::StreamExt;
use kube::core::WatchEvent;
use serde_json::Value;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tracing::{debug, warn};

/// So often an API that is not there is looked for at the usual pace.
const ABSENT_SOON: u32 = 6;

/// The store went: the program ends.
struct Closed;

/// How an attempt ended.
enum End {
    /// A watch was followed for a while.
    Followed {
        /// The last version that was seen.
        version: String,
        /// Nothing if the server ended it.
        failure: Option<Failure>,
        /// How long it lived.
        lived: Duration,
    },
    /// There was nothing to follow.
    Failed {
        /// What was tried.
        tried: &'static str,
        /// The version from which it would have gone on.
        version: Option<String>,
        /// Why not.
        failure: Failure,
    },
}

/// Follows one resource.
pub struct Reflector {
    kind: Kind,
    requests: Requests,
    outage: Arc<Outage>,
    updates: mpsc::Sender<Update>,
    timing: Timing,
    pace: Pace,
    /// Lists as streams are tried until the server says that it knows nothing of them.
    streams: bool,
    /// When it began to fail.
    failing_since: Option<Instant>,
    /// A version expired, and no watch has lived long since.
    expired: bool,
    /// How often it was found in vain that this API is not there.
    absent: u32,
}

impl Reflector {
    /// A reflector that has not asked for anything yet.
    pub fn new(
        kind: Kind,
        requests: Requests,
        outage: Arc<Outage>,
        updates: mpsc::Sender<Update>,
        timing: Timing,
    ) -> Self {
        let pace = Pace::new(timing);
        Self {
            kind,
            requests,
            outage,
            updates,
            timing,
            pace,
            streams: true,
            failing_since: None,
            expired: false,
            absent: 0,
        }
    }

    /// Follows until nobody takes the updates any more.
    pub async fn run(mut self) {
        let store = self.updates.clone();
        tokio::select! {
            _ = self.go_on() => {}
            () = store.closed() => {}
        }
    }

    async fn go_on(&mut self) -> Result<(), Closed> {
        let mut version = None;
        loop {
            let end = match version.take() {
                None => self.list_and_follow().await?,
                Some(version) => self.watch_and_follow(version).await?,
            };
            let (next, delay) = self.after(end);
            version = next;
            sleep(delay).await;
            if self.failing_since.is_some() {
                self.requests.renew().await;
            }
        }
    }

    /// From which version it goes on, if from any, and when.
    fn after(&mut self, end: End) -> (Option<String>, Duration) {
        match end {
            End::Followed { version, failure, lived } if lived >= self.timing.steady => {
                self.pace.reset();
                self.expired = false;
                self.after_a_steady_watch(version, failure, lived)
            }
            End::Followed { version, failure: None, .. } => (Some(version), self.pace.next()),
            End::Followed { version, failure: Some(failure), .. } => {
                self.after_failure("watch", Some(version), &failure)
            }
            End::Failed { tried, version, failure } => self.after_failure(tried, version, &failure),
        }
    }

    /// An end in good time, a connection that was cut, and a version that expired are no outage yet. But a server that went
    /// down cut all its watches at once, and they must not all come back at once.
    fn after_a_steady_watch(
        &mut self,
        version: String,
        failure: Option<Failure>,
        lived: Duration,
    ) -> (Option<String>, Duration) {
        match failure {
            None if lived >= SHORTEST_WATCH => (Some(version), Duration::ZERO),
            None => (Some(version), self.timing.retry_min.mul_f32(fastrand::f32())),
            Some(Failure::Silent(_)) => (Some(version), Duration::ZERO),
            Some(failure) => {
                debug!("watch {}: {failure}", self.kind.plural());
                (failure.allows_resuming().then_some(version), self.pace.next())
            }
        }
    }

    fn after_failure(&mut self, tried: &str, version: Option<String>, failure: &Failure) -> (Option<String>, Duration) {
        if self.absent > 0 {
            // A server that has just started may deny what it allows a moment later; after that it is not likely to change.
            self.absent = self.absent.saturating_add(1);
            let rarely = self.timing.absent_retry.mul_f32(0.5 + fastrand::f32());
            return (None, if self.absent < ABSENT_SOON { self.pace.next() } else { rarely });
        }
        let wait = match failure {
            Failure::Refused { retry_after, .. } => *retry_after,
            _ => Duration::ZERO,
        };
        if *failure != Failure::Expired {
            self.outage.failed(tried, self.kind.plural(), failure);
        } else if !std::mem::replace(&mut self.expired, true) {
            // A server that was restarted knows no version from before. It answers: the list need not wait for as long as
            // the outage has made the waits. Where versions go on to expire, waits grow as ever.
            self.pace.reset();
        }
        // What a server says after a long time may come from a store that was restored: its versions mean nothing then.
        let since = *self.failing_since.get_or_insert_with(Instant::now);
        let resumes = failure.allows_resuming() && since.elapsed() < self.timing.resume_within;
        (version.filter(|_| resumes), self.pace.next().max(wait))
    }

    async fn list_and_follow(&mut self) -> Result<End, Closed> {
        match self.list().await {
            Ok(listed) => {
                self.works();
                self.absent = 0;
                self.send(Update::Listed(self.kind, listed.arrivals)).await?;
                match listed.events {
                    Some(events) => self.follow(events, listed.version).await,
                    None => self.watch_and_follow(listed.version).await,
                }
            }
            Err(failure) => {
                if let Some(consequence) = self.kind.without().filter(|_| failure.is_absence()) {
                    self.tell_absence(&failure, consequence).await?;
                }
                Ok(End::Failed { tried: "list", version: None, failure })
            }
        }
    }

    async fn list(&mut self) -> Result<Listed, Failure> {
        if !self.streams {
            return self.requests.pages().await;
        }
        match self.requests.stream().await {
            Err(failure) if failure.is_unsupported() => {
                debug!("no list of {} as a stream: {failure}", self.kind.plural());
                let listed = self.requests.pages().await?;
                self.streams = false;
                Ok(listed)
            }
            // A server too old to know streams may never mark their end.
            Err(Failure::Silent(_) | Failure::Incomplete | Failure::Expired) => self.requests.pages().await,
            other => other,
        }
    }

    async fn tell_absence(&mut self, failure: &Failure, consequence: &str) -> Result<(), Closed> {
        if self.absent == 0 {
            self.absent = 1;
            self.outage.answered(self.kind.plural());
            warn!("{} cannot be listed ({failure}); {consequence}", self.kind.plural());
            self.send(Update::Absent(self.kind)).await?;
        }
        Ok(())
    }

    async fn watch_and_follow(&mut self, version: String) -> Result<End, Closed> {
        match self.requests.watch(&version).await {
            Ok(events) => self.follow(events, version).await,
            Err(failure) => Ok(End::Failed { tried: "watch", version: Some(version), failure }),
        }
    }

    /// Passes on what a watch sends, to its end.
    async fn follow(&mut self, mut events: Events, mut version: String) -> Result<End, Closed> {
        let started = Instant::now();
        let mut steady = false;
        loop {
            let event = tokio::select! {
                biased;
                () = sleep_until(started + self.timing.steady), if !steady => {
                    steady = true;
                    self.works();
                    continue;
                }
                event = timeout(self.timing.idle, events.next()) => event,
            };
            let failure = match event {
                Ok(Some(Ok(WatchEvent::Error(status)))) => Some(Failure::from_status(&status)),
                Ok(Some(Ok(event))) => {
                    self.pass_on(event, &mut version).await?;
                    continue;
                }
                Ok(Some(Err(failure))) => Some(failure),
                Ok(None) => None,
                Err(_) => Some(Failure::Silent(self.timing.idle)),
            };
            return Ok(End::Followed { version, failure, lived: started.elapsed() });
        }
    }

    async fn pass_on(&mut self, event: WatchEvent<Value>, version: &mut String) -> Result<(), Closed> {
        let (object, update) = match event {
            WatchEvent::Added(object) | WatchEvent::Modified(object) => {
                let arrival = Arrival::read(self.kind, &object);
                (object, Update::Applied(self.kind, arrival))
            }
            WatchEvent::Deleted(object) => {
                let id = Arrival::read(self.kind, &object).id;
                (object, Update::Deleted(self.kind, id))
            }
            WatchEvent::Bookmark(bookmark) => {
                *version = bookmark.metadata.resource_version;
                return Ok(());
            }
            WatchEvent::Error(_) => return Ok(()),
        };
        if let Some(newer) = arrival::version(&object) {
            *version = newer;
        }
        self.send(update).await
    }

    fn works(&mut self) {
        self.failing_since = None;
        self.outage.answered(self.kind.plural());
    }

    async fn send(&self, update: Update) -> Result<(), Closed> {
        self.updates.send(update).await.map_err(|_| Closed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::cluster::access::Access;
    use crate::source::cluster::resource::Resource;

    async fn reflector(timing: Timing) -> Reflector {
        let access = Access { kubeconfig: None, master: Some("http://127.0.0.1:1".to_owned()) };
        let gateway = Arc::new(access.open().await.unwrap());
        let outage = Arc::new(Outage::new(gateway.server()));
        let requests = Requests::new(gateway, Resource::of(Kind::Service, "node", None), timing);
        Reflector::new(Kind::Service, requests, outage, mpsc::channel(1).0, timing)
    }

    fn watched(failure: Failure) -> End {
        End::Followed { version: "7".to_owned(), failure: Some(failure), lived: Duration::ZERO }
    }

    /// kube-apiserver after a restart: the first watch is told that its version is too old.
    #[tokio::test]
    async fn a_version_that_expired_in_an_outage_is_listed_soon() {
        let timing = Timing::default();
        let mut reflector = reflector(timing).await;
        for _ in 0..10 {
            let failure = Failure::Unreachable("connection refused".to_owned());
            let (version, _) = reflector.after(End::Failed { tried: "watch", version: Some("7".to_owned()), failure });
            assert_eq!(version.as_deref(), Some("7"));
        }
        let (version, delay) = reflector.after(watched(Failure::Expired));
        assert_eq!(version, None);
        assert!(delay <= timing.retry_min * 2, "{delay:?}");
        let delays: Vec<Duration> = (0..10).map(|_| reflector.after(watched(Failure::Expired)).1).collect();
        assert!(delays.iter().skip(6).all(|delay| *delay >= timing.retry_max / 2), "{delays:?}");
    }
}
