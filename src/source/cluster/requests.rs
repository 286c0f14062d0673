//! The three requests: a list in pages, a list as a stream, and what changes after a version.

use super::Timing;
use super::access::Gateway;
use super::arrival::Arrival;
use super::failure::Failure;
use super::page;
use super::resource::Resource;
use futures_util::{Stream, StreamExt};
use kube::api::{ListParams, WatchParams};
use kube::core::{Request, WatchEvent};
use serde_json::Value;
use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::timeout;

/// Objects per page, as client-go has it.
const PAGE: u32 = 500;
/// Marks the end of a list that comes as a stream (KEP-3157).
const END_OF_LIST: &str = "k8s.io/initial-events-end";
/// The server ends a watch after 5 to 10 minutes (client-go: `minWatchTimeout`): a different time for each, so that the
/// proxies of a cluster do not come back all at once.
const WATCH_SECONDS: std::ops::Range<u32> = 300..600;
/// A watch that ends before was cut.
pub const SHORTEST_WATCH: Duration = Duration::from_secs(290);

/// What a watch sends.
pub type Events = Pin<Box<dyn Stream<Item = Result<WatchEvent<Value>, Failure>> + Send>>;

/// A list, and what comes after it if it came as a stream.
pub struct Listed {
    /// The objects.
    pub arrivals: Vec<Arrival>,
    /// The version at which this was so.
    pub version: String,
    /// The changes since.
    pub events: Option<Events>,
}

/// Asks for one resource.
pub struct Requests {
    gateway: Arc<Gateway>,
    resource: Resource,
    timing: Timing,
}

impl Requests {
    /// Asks through this gateway for that resource.
    pub fn new(gateway: Arc<Gateway>, resource: Resource, timing: Timing) -> Self {
        Self { gateway, resource, timing }
    }

    /// Reads the way to the server again: it may have changed since it was opened.
    pub async fn renew(&self) {
        self.gateway.renew(self.timing.renew_every).await;
    }

    /// Everything, page by page, as it is now (no `resourceVersion`: a cache may be behind, and going back would take
    /// Services away that exist). A page whose version the server has forgotten meanwhile starts it over, in one piece.
    ///
    /// # Errors
    /// Whatever kept any page from coming.
    pub async fn pages(&self) -> Result<Listed, Failure> {
        match self.list(Some(PAGE)).await {
            Err(Failure::Expired) => self.list(None).await,
            other => other,
        }
    }

    async fn list(&self, limit: Option<u32>) -> Result<Listed, Failure> {
        let mut params = ListParams {
            label_selector: self.resource.labels.clone(),
            field_selector: self.resource.fields.clone(),
            limit,
            ..ListParams::default()
        };
        let mut arrivals = Vec::new();
        loop {
            let request = Request::new(self.resource.path()).list(&params).map_err(impossible)?;
            let text = within(self.timing.patience, self.gateway.client().request_text(request)).await?;
            let read = page::read(&text, |item| arrivals.push(Arrival::read(self.resource.kind, item)));
            let page = read.map_err(|error| Failure::Unreachable(error.to_string()))?;
            match page.next.filter(|next| !next.is_empty()) {
                Some(next) => params.continue_token = Some(next),
                None if page.resource_version.is_empty() => {
                    return Err(Failure::Unreachable("the answer is no list of the Kubernetes API".to_owned()));
                }
                None => return Ok(Listed { arrivals, version: page.resource_version, events: None }),
            }
        }
    }

    /// Everything as the beginning of a watch (KEP-3157): the server need not build a list, and we need not hold one.
    ///
    /// # Errors
    /// When it breaks off before its end; [`Failure::is_unsupported`] when the server does not offer it.
    pub async fn stream(&self) -> Result<Listed, Failure> {
        let mut events = self.open(self.params().initial_events(), "").await?;
        let mut arrivals = BTreeMap::new();
        loop {
            let event = timeout(self.timing.patience, events.next()).await;
            match event.map_err(|_| Failure::Silent(self.timing.patience))?.ok_or(Failure::Incomplete)?? {
                WatchEvent::Added(object) | WatchEvent::Modified(object) => {
                    let arrival = Arrival::read(self.resource.kind, &object);
                    arrivals.insert(arrival.id.clone(), arrival);
                }
                WatchEvent::Deleted(object) => {
                    arrivals.remove(&Arrival::read(self.resource.kind, &object).id);
                }
                WatchEvent::Bookmark(bookmark) => {
                    if bookmark.metadata.annotations.contains_key(END_OF_LIST) {
                        let version = bookmark.metadata.resource_version;
                        return Ok(Listed {
                            arrivals: arrivals.into_values().collect(),
                            version,
                            events: Some(events),
                        });
                    }
                }
                WatchEvent::Error(status) => return Err(Failure::from_status(&status)),
            }
        }
    }

    /// What changes after a version.
    ///
    /// # Errors
    /// When the server does not begin to answer.
    pub async fn watch(&self, version: &str) -> Result<Events, Failure> {
        self.open(self.params(), version).await
    }

    fn params(&self) -> WatchParams {
        WatchParams {
            label_selector: self.resource.labels.clone(),
            field_selector: self.resource.fields.clone(),
            timeout: Some(fastrand::u32(WATCH_SECONDS)),
            bookmarks: true,
            send_initial_events: false,
        }
    }

    async fn open(&self, params: WatchParams, version: &str) -> Result<Events, Failure> {
        let request = Request::new(self.resource.path()).watch(&params, version).map_err(impossible)?;
        let events = within(self.timing.patience, self.gateway.client().request_events::<Value>(request)).await?;
        Ok(Box::pin(events.map(|event: kube::Result<WatchEvent<Value>>| event.map_err(Failure::from))))
    }
}

/// A request that cannot be written; our selectors are none of those.
fn impossible(error: kube::core::request::Error) -> Failure {
    Failure::Unreachable(error.to_string())
}

async fn within<T>(limit: Duration, request: impl Future<Output = kube::Result<T>>) -> Result<T, Failure> {
    timeout(limit, request).await.map_err(|_| Failure::Silent(limit))?.map_err(Failure::from)
}
