//! The source from the API server: lists and watches what a proxy needs, and keeps a snapshot of it.
//!
//! ```text
//! access ─> reflector × 5 ─ Update ─> store ─ Snapshot ─> the slot
//!            │  └ requests, arrival (each object becomes one of the model at once)
//!            └ pace, failure, outage (when to ask again, what to say)
//! ```
//!
//! Nothing but `default/kubernetes` is given out before everything was listed once; from then on nothing but what the server said changes
//! anything. A server that is away for an hour changes nothing.

mod access;
mod arrival;
mod events;
mod failure;
mod outage;
mod pace;
mod page;
mod reflector;
mod requests;
mod resource;
mod store;

pub use access::{Access, AccessError, Gateway};
pub use events::EventWriter;
pub use resource::Kind;

use crate::model::{Events, Snapshot};
use crate::source::Snapshots;
use outage::Outage;
use reflector::Reflector;
use requests::Requests;
use resource::Resource;
use std::sync::Arc;
use std::time::Duration;
use store::{Store, Update};
use tokio::sync::{mpsc, watch};
use tracing::{debug, info};

/// Updates that may wait for the store; then the connections wait.
const QUEUE: usize = 1024;

/// Which objects are of interest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Interest {
    /// Our own node.
    pub node_name: Arc<str>,
    /// Services labelled with this `service-proxy-name`; `None`: those without the label.
    pub proxy_name: Option<Arc<str>>,
}

/// Periods, for tests to make shorter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timing {
    /// The first wait after a failure (client-go: 800 ms) …
    pub retry_min: Duration,
    /// … and the longest one (client-go: 30 s).
    pub retry_max: Duration,
    /// How long an answer, or the next event of a list, may take.
    pub patience: Duration,
    /// How long a watch may be silent. The server sends a bookmark every minute; asking again costs next to nothing.
    pub idle: Duration,
    /// A watch that has lived this long works.
    pub steady: Duration,
    /// After failing for longer than this everything is listed again.
    pub resume_within: Duration,
    /// How often, while nothing works, address and credentials are read again.
    pub renew_every: Duration,
    /// How often an API that is not there is looked for.
    pub absent_retry: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            retry_min: Duration::from_millis(800),
            retry_max: Duration::from_secs(30),
            patience: Duration::from_secs(60),
            idle: Duration::from_secs(150),
            steady: Duration::from_secs(5),
            resume_within: Duration::from_secs(60),
            renew_every: Duration::from_secs(60),
            absent_retry: Duration::from_secs(300),
        }
    }
}

/// The running source.
#[derive(Debug)]
pub struct Cluster {
    /// The slot: an incomplete snapshot until everything was listed once.
    pub snapshots: Snapshots,
    outage: Arc<Outage>,
    gateway: Arc<Gateway>,
    node_name: Arc<str>,
}

impl Cluster {
    /// What cannot be asked of the server at present, and why.
    pub fn failing(&self) -> Vec<String> {
        self.outage.failing()
    }

    /// Writes events to the same server.
    pub fn event_writer(&self) -> EventWriter {
        EventWriter::new(self.gateway.clone(), self.node_name.clone(), self.snapshots.clone())
    }
}

/// Begins to follow the API server in the background, for as long as somebody holds the slot. What is wrong with objects is
/// an event as well.
///
/// With `head_start` an incomplete snapshot comes first as a rule, with nothing but `default/kubernetes`: however long the lists
/// are, a new node can reach its API server by the address that every pod knows.
pub fn start(gateway: Gateway, interest: &Interest, timing: Timing, events: Events, head_start: bool) -> Cluster {
    let gateway = Arc::new(gateway);
    info!(server = gateway.server(), node = &*interest.node_name, "reading Services from the API server");
    let outage = Arc::new(Outage::new(gateway.server()));
    let (updates, arrived) = mpsc::channel(QUEUE);
    if head_start {
        tokio::spawn(ask_first(gateway.clone(), interest.clone(), timing, updates.clone()));
    }
    for kind in Kind::ALL {
        let resource = Resource::of(kind, &interest.node_name, interest.proxy_name.as_deref());
        let requests = Requests::new(gateway.clone(), resource, timing);
        tokio::spawn(Reflector::new(kind, requests, outage.clone(), updates.clone(), timing).run());
    }
    let (sender, snapshots) = watch::channel(Snapshot::default());
    tokio::spawn(keep(Store::telling(events), arrived, sender));
    Cluster { snapshots, outage, gateway, node_name: interest.node_name.clone() }
}

/// Asks for what a new node needs before anything else. The lists have it too: where this fails, nothing is lost but time.
async fn ask_first(gateway: Arc<Gateway>, interest: Interest, timing: Timing, updates: mpsc::Sender<Update>) {
    let mut foremost = Vec::new();
    for kind in [Kind::Service, Kind::EndpointSlice] {
        let Some(resource) = Resource::foremost(kind, &interest) else { return };
        match Requests::new(gateway.clone(), resource, timing).pages().await {
            Ok(listed) => foremost.extend(listed.arrivals),
            Err(failure) => return debug!("default/kubernetes alone: {failure}"),
        }
    }
    // Nobody takes it where the program ends.
    let _ = updates.send(Update::Foremost(foremost)).await;
}

/// Puts what arrives into the store, and one snapshot into the slot for all that arrived together.
async fn keep(mut store: Store, mut arrived: mpsc::Receiver<Update>, sender: watch::Sender<Snapshot>) {
    let mut batch = Vec::new();
    loop {
        tokio::select! {
            count = arrived.recv_many(&mut batch, QUEUE) => if count == 0 { return },
            () = sender.closed() => return,
        }
        for update in batch.drain(..) {
            store.take(update);
        }
        if let Some(snapshot) = store.fresh() {
            sender.send_replace(snapshot);
        }
    }
}
