//! What a service proxy does for its node besides forwarding: connection tracking's limits and timeouts, and its own
//! place in line when memory is short. None of it keeps traffic from being served: what fails is told.

use crate::config::Config;
use crate::desired::Settings;
use crate::kernel::sysctl::{Ledger, Outcome, Sysctl, is_liberal};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;
use tracing::{debug, info, warn};

const OOM_SCORE_ADJ: &str = "/proc/self/oom_score_adj";

/// Does them. Returns the settings as they count then: where connection tracking is liberal, whoever said so, nothing is
/// dropped for being invalid.
pub fn perform(config: &Config) -> Arc<Settings> {
    let mut conntrack = config.conntrack;
    if !in_first_namespace() {
        debug!("the limit of connection tracking is the first network namespace's, and left to it");
        conntrack.max_per_core = 0;
    }
    let outcome = match Ledger::open() {
        Ok(_) if !tracking_is_loaded() => {
            info!("connection tracking is not loaded yet; its settings follow the first rules");
            Outcome::default()
        }
        Ok(ledger) => conntrack.apply(&ledger),
        Err(error) => {
            warn!("connection tracking: the network namespace: {error}");
            Outcome::default()
        }
    };
    if !outcome.changed.is_empty() {
        info!("connection tracking: {}", outcome.changed.join(", "));
    }
    for error in &outcome.errors {
        let advice = if error.is_read_only_sysfs() { "; /sys is read-only, problems may arise later" } else { "" };
        warn!("connection tracking: {error}{advice}");
    }
    if let Some(score) = config.oom_score_adj
        && let Err(error) = std::fs::write(OOM_SCORE_ADJ, score.to_string())
    {
        // Without the right to lower it. Upstream says as little about it.
        info!("the oom score stays as it is: write {score} to {OOM_SCORE_ADJ}: {error}");
    }
    settings(config)
}

/// Whether connection tracking is there to be set. The kernel loads it with the first rule that needs it.
pub fn tracking_is_loaded() -> bool {
    Path::new("/proc/sys/net/netfilter/nf_conntrack_max").exists()
}

/// Whether this is the network namespace of the machine's, or the container's, first process. Elsewhere the limit cannot
/// be written (`nf_conntrack_standalone_init_sysctl`).
fn in_first_namespace() -> bool {
    let inode = |path: &str| std::fs::metadata(path).map(|namespace| namespace.ino());
    match (inode("/proc/1/ns/net"), inode("/proc/thread-self/ns/net")) {
        (Ok(first), Ok(own)) => first == own,
        _ => true,
    }
}

/// The settings as they count on this node, with nothing done.
pub fn settings(config: &Config) -> Arc<Settings> {
    let mut settings = config.settings.clone();
    if settings.drop_invalid && is_liberal(&Sysctl::default()) {
        Arc::make_mut(&mut settings).drop_invalid = false;
    }
    settings
}
