//! `kube-ipvs run`: keeps the kernel as the Services want it, until stopped.

use super::{dataplane, node, require_root};
use crate::config::ProxyArgs;
use crate::control::{self, Lock, LockError, Server, ServerError};
use crate::exit::Exit;
use crate::observe::health_check;
use crate::reconcile::{self, Reconciler, Status, Switcher};
use crate::source::manifests::{self, Inputs};
use anyhow::Context;
use clap::Args;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tracing::{info, warn};

/// Flags of `run`.
#[derive(Debug, Args)]
pub struct RunArgs {
    #[command(flatten)]
    proxy: ProxyArgs,
    /// Exit once the kernel is as wanted, leaving it so; with status 1 if another program's objects are in the way
    #[arg(long)]
    once: bool,
    /// Where `status` and `switch` find this daemon [default: control.sock in /run/kube-ipvs]
    #[arg(long, value_name = "PATH")]
    control_socket: Option<PathBuf>,
}

/// Runs until SIGTERM or SIGINT. The kernel's state stays: traffic goes on without us.
///
/// # Errors
/// When a setting is wrong, the mode does not work here, or a manifest path does not exist. Nothing was changed then.
pub fn run(args: &RunArgs) -> anyhow::Result<Exit> {
    let config = args.proxy.validate()?;
    require_root("run")?;
    let _lock = lock()?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(async {
        let server = if args.once { None } else { listen(args.control_socket.as_deref())? };
        let inputs = Inputs::open(&config.inputs)?;
        let planes = dataplane::choose(&config)?;
        let (sender, triggers) = mpsc::unbounded_channel();
        // First listen, then look: what changes in between is seen as a notification.
        node::follow(sender.clone()).context("following the kernel's notifications")?;
        let facts = node::facts().context("reading the node's addresses")?;
        let snapshots = manifests::start(inputs)?;
        let reconciler = Reconciler::new(config.settings.clone(), config.timing, planes, facts);
        let handle = reconcile::spawn(reconciler, snapshots, triggers)?;
        let mut servers = JoinSet::new();
        if !args.once {
            servers.spawn(health_check::run(health_check::Sources {
                checks: handle.health_checks.clone(),
                status: handle.status.clone(),
                patience: patience(config.timing.audit),
            }));
            if let Some(server) = server {
                servers.spawn(server.run(Switcher::new(sender.clone()), handle.status.clone()));
            }
            servers.spawn(dataplane::watch_ipvs(config.clone(), handle.status.clone(), sender));
        }
        let exit = serve(handle.status.clone(), args.once).await?;
        // Before the reconciler, whose last step may take its time: load balancers are to look elsewhere at once.
        servers.shutdown().await;
        handle.stop();
        Ok(exit)
    })
}

/// One daemon a network namespace. Where /run cannot be written, serving comes before being careful.
fn lock() -> Result<Option<Lock>, LockError> {
    match Lock::take() {
        Ok(lock) => Ok(Some(lock)),
        Err(error @ LockError::Taken { .. }) => Err(error),
        Err(error) => {
            warn!("{error}");
            Ok(None)
        }
    }
}

/// The control socket. Without it the daemon serves as well, unless a place was asked for.
fn listen(asked: Option<&Path>) -> Result<Option<Server>, ServerError> {
    match asked {
        Some(path) => Server::bind(path).map(Some),
        None => Ok(Server::bind(&control::default_socket())
            .inspect_err(|error| warn!("{error}; there will be no status and no switch"))
            .ok()),
    }
}

/// For how long something may wait for the kernel before load balancers are told to avoid this node: as upstream, two
/// sync periods; but no short hiccup.
fn patience(sync_period: Duration) -> Duration {
    sync_period.saturating_mul(2).max(Duration::from_secs(10))
}

async fn serve(mut status: watch::Receiver<Status>, once: bool) -> anyhow::Result<Exit> {
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    loop {
        tokio::select! {
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
            changed = status.changed() => {
                anyhow::ensure!(changed.is_ok(), "the reconciler ended by itself");
                let status = status.borrow_and_update();
                if once && status.rounds > 0 && status.families_settled() {
                    return Ok(if status.families_in_sync() { Exit::Success } else { Exit::Failure });
                }
            }
        }
    }
    info!("stopping; what is in the kernel stays");
    Ok(Exit::Success)
}
