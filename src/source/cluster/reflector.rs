//! Follows one resource for good: lists it, watches it, and finds back after whatever happens.
//!
//! kube's own `runtime::watcher` is not used; docs/decisions/0013-cluster-source.md says why.

use super::Timing;
use super::arrival::{self, Arrival};
use super::failure::Failure;
use super::outage::Outage;
use super::pace::Pace;
use super::requests::{Events, Listed, Requests};
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

/// How following a watch ended.
struct End {
    /// The last version that was seen.
    version: String,
    /// Nothing if the server ended it in good order.
    failure: Option<Failure>,
    /// It went well for a while.
    steady: bool,
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
        Self { kind, requests, outage, updates, timing, pace, streams: true, failing_since: None, absent: 0 }
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
    fn after(&mut self, end: Result<End, (Option<String>, &'static str, Failure)>) -> (Option<String>, Duration) {
        let (version, failure) = match end {
            Ok(End { version, failure, steady }) => {
                if steady {
                    self.pace.reset();
                }
                match failure {
                    None | Some(Failure::Silent(_)) if steady => return (Some(version), Duration::ZERO),
                    // A connection that was cut, or a version that expired, is no outage yet.
                    Some(failure) if steady => {
                        debug!("watch {}: {failure}", self.kind.plural());
                        let delay = if failure == Failure::Expired { Duration::ZERO } else { self.pace.next() };
                        return (failure.allows_resuming().then_some(version), delay);
                    }
                    None => return (Some(version), self.pace.next()),
                    Some(failure) => (Some(version), ("watch", failure)),
                }
            }
            Err((version, tried, failure)) => (version, (tried, failure)),
        };
        let (tried, failure) = failure;
        if self.absent > 0 {
            // A server that has just started may deny what it allows a moment later; after that it is not likely to change.
            self.absent = self.absent.saturating_add(1);
            let rarely = self.timing.absent_retry.mul_f32(0.5 + fastrand::f32());
            return (None, if self.absent < ABSENT_SOON { self.pace.next() } else { rarely });
        }
        let wait = match &failure {
            Failure::Refused { retry_after, .. } => *retry_after,
            _ => Duration::ZERO,
        };
        if failure != Failure::Expired {
            self.outage.failed(tried, self.kind.plural(), &failure);
        }
        // What a server says after a long time may come from a store that was restored: its versions mean nothing then.
        let since = *self.failing_since.get_or_insert_with(Instant::now);
        let resumes = failure.allows_resuming() && since.elapsed() < self.timing.resume_within;
        (version.filter(|_| resumes), self.pace.next().max(wait))
    }

    async fn list_and_follow(&mut self) -> Result<Result<End, (Option<String>, &'static str, Failure)>, Closed> {
        match self.list().await {
            Ok(listed) => {
                self.works();
                self.absent = 0;
                self.send(Update::Listed(self.kind, listed.arrivals)).await?;
                match listed.events {
                    Some(events) => Ok(Ok(self.follow(events, listed.version).await?)),
                    None => self.watch_and_follow(listed.version).await,
                }
            }
            Err(failure) => {
                if let Some(consequence) = self.kind.without().filter(|_| failure.is_absence()) {
                    self.tell_absence(&failure, consequence).await?;
                }
                Ok(Err((None, "list", failure)))
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

    async fn watch_and_follow(
        &mut self,
        version: String,
    ) -> Result<Result<End, (Option<String>, &'static str, Failure)>, Closed> {
        match self.requests.watch(&version).await {
            Ok(events) => Ok(Ok(self.follow(events, version).await?)),
            Err(failure) => Ok(Err((Some(version), "watch", failure))),
        }
    }

    /// Passes on what a watch sends, to its end.
    async fn follow(&mut self, mut events: Events, mut version: String) -> Result<End, Closed> {
        let steady_at = Instant::now() + self.timing.steady;
        let mut steady = false;
        loop {
            let event = tokio::select! {
                biased;
                () = sleep_until(steady_at), if !steady => {
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
            return Ok(End { version, failure, steady: steady || Instant::now() >= steady_at });
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
