//! `kube-ipvs run`: keeps the kernel as the Services want it, until stopped.

use super::source::Opened;
use super::{dataplane, node, require_root};
use crate::config::ProxyArgs;
use crate::exit::Exit;
use crate::observe::health_check;
use crate::reconcile::{self, Reconciler, Status};
use anyhow::Context;
use clap::Args;
use std::time::Duration;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tracing::info;

/// Flags of `run`.
#[derive(Debug, Args)]
pub struct RunArgs {
    #[command(flatten)]
    proxy: ProxyArgs,
    /// Exit once the kernel is as wanted, leaving it so; with status 1 if another program's objects are in the way
    #[arg(long)]
    once: bool,
}

/// Runs until SIGTERM or SIGINT. The kernel's state stays: traffic goes on without us.
///
/// # Errors
/// When a setting is wrong, the mode does not work here, a manifest path does not exist, or there is no way to an API
/// server. Nothing was changed then.
pub fn run(args: &RunArgs) -> anyhow::Result<Exit> {
    let config = args.proxy.validate()?;
    require_root("run")?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(async {
        let mut stop = Stop::new()?;
        let source = Opened::open(&config).await?;
        let planes = dataplane::choose(&config)?;
        // With an API server that is away this takes as long as that lasts; nothing is touched before.
        let snapshots = tokio::select! {
            snapshots = source.start() => snapshots?,
            () = stop.wait() => return Ok(Exit::Success),
        };
        let (sender, triggers) = mpsc::unbounded_channel();
        // First listen, then look: what changes in between is seen as a notification.
        node::follow(sender).context("following the kernel's notifications")?;
        let facts = node::facts().context("reading the node's addresses")?;
        let reconciler = Reconciler::new(config.settings.clone(), config.timing, planes, facts);
        let handle = reconcile::spawn(reconciler, snapshots, triggers)?;
        let mut servers = JoinSet::new();
        if !args.once {
            servers.spawn(health_check::run(health_check::Sources {
                checks: handle.health_checks.clone(),
                status: handle.status.clone(),
                patience: patience(config.timing.audit),
            }));
        }
        let exit = serve(handle.status.clone(), &mut stop, args.once).await?;
        // Before the reconciler, whose last step may take its time: load balancers are to look elsewhere at once.
        servers.shutdown().await;
        handle.stop();
        Ok(exit)
    })
}

/// For how long something may wait for the kernel before load balancers are told to avoid this node: as upstream, two
/// sync periods; but no short hiccup.
fn patience(sync_period: Duration) -> Duration {
    sync_period.saturating_mul(2).max(Duration::from_secs(10))
}

/// The signals that end the program.
struct Stop {
    terminate: Signal,
    interrupt: Signal,
}

impl Stop {
    fn new() -> anyhow::Result<Self> {
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    async fn wait(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
        info!("stopping; what is in the kernel stays");
    }
}

async fn serve(mut status: watch::Receiver<Status>, stop: &mut Stop, once: bool) -> anyhow::Result<Exit> {
    loop {
        tokio::select! {
            () = stop.wait() => return Ok(Exit::Success),
            changed = status.changed() => {
                anyhow::ensure!(changed.is_ok(), "the reconciler ended by itself");
                let status = status.borrow_and_update();
                if once && status.rounds > 0 && status.families_settled() {
                    return Ok(if status.families_in_sync() { Exit::Success } else { Exit::Failure });
                }
            }
        }
    }
}
