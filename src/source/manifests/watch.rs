//! Rereads the manifests when their folders change.

use super::{Inputs, Manifests};
use crate::source::{Problem, Snapshots};
use notify::{RecursiveMode, Watcher};
use std::collections::BTreeSet;
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tracing::{info, warn};

/// A writer that is at work is given this long to finish …
const QUIET: Duration = Duration::from_millis(50);
/// … but not longer than this.
const PATIENCE: Duration = Duration::from_millis(500);
/// Network file systems don't tell of changes; then they are found this late.
const POLL: Duration = Duration::from_secs(10);

/// Reads the manifests and goes on doing so in the background for as long as the receiver lives. The first snapshot is
/// complete already.
///
/// # Errors
/// When the folders cannot be watched.
pub fn start(inputs: Inputs) -> anyhow::Result<Snapshots> {
    let mut manifests = Manifests::default();
    let mut told = BTreeSet::new();
    let (events, changed) = mpsc::unbounded_channel();
    // Watch first, then read: what changes in between is seen as an event.
    let mut watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
        if event.is_ok_and(|event| !event.kind.is_access()) {
            // The receiver is gone only when the process ends.
            let _ = events.send(());
        }
    })?;
    for folder in inputs.folders() {
        watcher
            .watch(&folder, RecursiveMode::NonRecursive)
            .map_err(|error| anyhow::anyhow!("watching {}: {error}", folder.display()))?;
    }
    tell(manifests.load(inputs.read()), &mut told);
    let (sender, receiver) = watch::channel(manifests.snapshot().clone());
    tokio::spawn(follow(inputs, manifests, told, changed, sender, watcher));
    Ok(receiver)
}

async fn follow(
    inputs: Inputs,
    mut manifests: Manifests,
    mut told: BTreeSet<Problem>,
    mut changed: mpsc::UnboundedReceiver<()>,
    sender: watch::Sender<crate::model::Snapshot>,
    _watcher: notify::RecommendedWatcher,
) {
    loop {
        tokio::select! {
            event = changed.recv() => if event.is_none() { return } else { settle(&mut changed).await },
            () = tokio::time::sleep(POLL) => {}
            () = sender.closed() => return,
        }
        let before = manifests.snapshot().clone();
        tell(manifests.load(inputs.read()), &mut told);
        let after = manifests.snapshot();
        let services = before.changed_services(after).len();
        if services > 0 || before.nodes != after.nodes || before.complete != after.complete {
            info!(services, "manifests changed");
            sender.send_replace(after.clone());
        }
    }
}

async fn settle(changed: &mut mpsc::UnboundedReceiver<()>) {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while tokio::time::timeout(QUIET, changed.recv()).await.is_ok_and(|event| event.is_some()) {
        if tokio::time::Instant::now() >= deadline {
            return;
        }
    }
}

/// Says each problem once, for as long as it lasts.
fn tell(problems: Vec<Problem>, told: &mut BTreeSet<Problem>) {
    let problems: BTreeSet<Problem> = problems.into_iter().collect();
    for problem in problems.difference(told) {
        warn!("{problem}");
    }
    for problem in told.difference(&problems) {
        info!("mended: {problem}");
    }
    *told = problems;
}
