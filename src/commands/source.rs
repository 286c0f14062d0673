//! Opens the source that was configured: manifest files or the API server.

use crate::config::{Config, Source};
use crate::model::{EventQueue, Events, Snapshot};
use crate::observe;
use crate::observe::events::{Due, Nowhere, Sink};
use crate::source::Snapshots;
use crate::source::cluster::{self, EventWriter, Gateway, Interest, Timing};
use crate::source::manifests::{self, Inputs, Manifests};
use anyhow::Context;
use std::time::Duration;
use tracing::warn;

/// How long `plan` waits for an API server.
const PLAN_PATIENCE: Duration = Duration::from_secs(120);

/// Events go to the API server.
struct ToServer(EventWriter);

impl Sink for ToServer {
    async fn tell(&mut self, due: Due) {
        self.0.write(&due.event, due.count).await;
    }
}

/// A source that can be read, as far as that can be told without reading it.
#[derive(Debug)]
pub enum Opened {
    /// The files exist.
    Manifests(Inputs),
    /// There is an address, and credentials.
    Cluster(Gateway, Interest),
}

impl Opened {
    /// Opens the configured source.
    ///
    /// # Errors
    /// When a path does not exist, or there is no way to an API server; the message names the remedy.
    pub async fn open(config: &Config) -> anyhow::Result<Self> {
        Ok(match &config.source {
            Source::Manifests(inputs) => Self::Manifests(Inputs::open(inputs)?),
            Source::Cluster(access) => {
                let settings = &config.settings;
                let interest =
                    Interest { node_name: settings.node_name.clone(), proxy_name: settings.proxy_name.clone() };
                Self::Cluster(access.open().await?, interest)
            }
        })
    }

    /// Starts following the source. With an API server this takes until everything was listed once, however long that
    /// is: a proxy that knows nothing must not touch what is there. With `head_start` it takes until the API server's own Service
    /// is known, which a new node needs at once; all else comes later, and until then nothing is taken away. Events go where the
    /// Services come from.
    ///
    /// # Errors
    /// When files cannot be watched.
    pub async fn start(self, events: Events, queue: EventQueue, head_start: bool) -> anyhow::Result<Snapshots> {
        match self {
            Self::Manifests(inputs) => {
                tokio::spawn(observe::events::run(queue, Nowhere));
                manifests::start(inputs)
            }
            Self::Cluster(gateway, interest) => {
                let mut cluster = cluster::start(gateway, &interest, Timing::default(), events, head_start);
                let enough = |snapshot: &Snapshot| snapshot.complete || head_start && !snapshot.services.is_empty();
                cluster.snapshots.wait_for(enough).await.context("the source ended by itself")?;
                // What happened until now waits in the queue: a server that was away before is there now.
                tokio::spawn(observe::events::run(queue, ToServer(cluster.event_writer())));
                Ok(cluster.snapshots)
            }
        }
    }

    /// Reads the source once.
    ///
    /// # Errors
    /// When the API server does not list everything in time.
    pub async fn look(self) -> anyhow::Result<Snapshot> {
        match self {
            Self::Manifests(inputs) => {
                let mut source = Manifests::default();
                for problem in source.load(inputs.read()) {
                    warn!("{problem}");
                }
                Ok(source.snapshot().clone())
            }
            Self::Cluster(gateway, interest) => {
                let server = gateway.server().to_owned();
                let cluster = cluster::start(gateway, &interest, Timing::default(), Events::default(), false);
                let mut snapshots = cluster.snapshots.clone();
                let complete = tokio::time::timeout(PLAN_PATIENCE, snapshots.wait_for(|snapshot| snapshot.complete));
                match complete.await {
                    Ok(found) => Ok(found.context("the source ended by itself")?.clone()),
                    Err(_) => {
                        let failing = cluster.failing().join("; ");
                        anyhow::bail!("the API server {server} did not list everything in {PLAN_PATIENCE:?}: {failing}")
                    }
                }
            }
        }
    }
}
