//! `kube-ipvs cleanup`: removes all that is ours from the kernel, and nothing else. The same code that syncs: the wish
//! is for nothing.

use super::{dataplane, require_root};
use crate::backend::ipvs::{Options, VipBinding};
use crate::control::Record;
use crate::desired::{Desired, Touched};
use crate::exit::Exit;
use crate::kernel::sysctl::Ledger;
use crate::reconcile::Wish;
use clap::Args;
use std::time::{Duration, Instant};
use tracing::{error, info};

/// Flags of `cleanup`.
#[derive(Debug, Default, Args)]
pub struct CleanupArgs {
    /// Leave the sysctls that `run` changed as they are
    #[arg(long)]
    keep_sysctls: bool,
    /// Leave what bears kube-proxy's names or is in its ipsets: for after it has taken over from us
    #[arg(long)]
    keep_kube_proxy: bool,
}

/// Removes everything of both modes.
///
/// # Errors
/// When the kernel cannot be talked to at all.
pub fn run(args: &CleanupArgs) -> anyhow::Result<Exit> {
    require_root("cleanup")?;
    let options = Options { binding: VipBinding::Route, drain_timeout: Duration::ZERO, strict_arp: false };
    let dataplane::Everything { mut planes, families } = dataplane::all(options, args.keep_kube_proxy)?;
    let mut failed = false;
    for plane in &mut planes {
        for family in &families {
            let report = plane.sync(*family, &Desired::default(), Touched::All, Instant::now());
            for failure in &report.failures {
                error!(mode = plane.name(), %family, "{failure}");
            }
            failed |= !report.is_clean();
            if report.done > 0 {
                info!(mode = plane.name(), %family, steps = report.done, "removed");
            }
        }
    }
    if let Err(error) = Record::open(Wish::Auto).and_then(|record| record.remove()) {
        error!("what was switched to could not be forgotten: {error}");
        failed = true;
    }
    if !args.keep_sysctls {
        for error in Ledger::open()?.restore()? {
            error!("{error}");
            failed = true;
        }
    }
    if failed {
        error!("not everything could be removed; run cleanup again");
        return Ok(Exit::Failure);
    }
    info!("nothing of ours is left");
    Ok(Exit::Success)
}
