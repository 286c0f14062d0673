//! `kube-ipvs run`: keeps the kernel as the Services want it, until stopped. And what kube-proxy does instead of running
//! when it is told so: `--write-config-to`, `--cleanup`, `--init-only`.

use super::reload::{self, Restart};
use super::{cleanup, dataplane, duties, init, node, require_root};
use crate::config::{Loaded, Loader, ProxyArgs, to_yaml};
use crate::exit::Exit;
use crate::reconcile::{self, Reconciler, Status};
use crate::source::manifests::{self, Inputs};
use anyhow::Context;
use clap::Args;
use std::path::PathBuf;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tracing::info;

/// Flags of `run`.
#[derive(Debug, Args)]
pub struct RunArgs {
    /// What is proxied, and how.
    #[command(flatten)]
    pub proxy: ProxyArgs,
    /// Exit once the kernel is as wanted, leaving it so; with status 1 if another program's objects are in the way
    #[arg(long)]
    once: bool,
    /// Write kube-proxy's part of the configuration to a file that --config reads, and exit
    #[arg(long, value_name = "FILE")]
    write_config_to: Option<PathBuf>,
    /// Do what `kube-ipvs cleanup` does, and exit [default: false]
    #[arg(long, value_name = "BOOL", value_parser = crate::config::pflag::boolean, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    cleanup: Option<bool>,
    /// Set the node's sysctls, and exit [default: false]
    #[arg(long, value_name = "BOOL", value_parser = crate::config::pflag::boolean, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    init_only: Option<bool>,
}

/// Runs until SIGTERM or SIGINT, or until the configuration changes so that only a new start helps. The kernel's state
/// stays: traffic goes on without us.
///
/// # Errors
/// When the mode does not work here, or a manifest path does not exist. Nothing was changed then.
pub fn run(args: &RunArgs, loader: Loader, loaded: Loaded) -> anyhow::Result<Exit> {
    if let Some(file) = &args.write_config_to {
        std::fs::write(file, to_yaml(&loaded.kube_proxy)?).with_context(|| format!("write {}", file.display()))?;
        info!("wrote the configuration to {}", file.display());
        return Ok(Exit::Success);
    }
    if args.cleanup == Some(true) {
        return cleanup::run(&cleanup::CleanupArgs::default());
    }
    if args.init_only == Some(true) {
        return init::run(&loaded.config);
    }
    require_root("run")?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(async {
        let config = loaded.config.clone();
        anyhow::ensure!(!config.inputs.is_empty(), "nothing says where Services come from: --manifests does");
        let inputs = Inputs::open(&config.inputs)?;
        let planes = dataplane::choose(&config)?;
        let later = !duties::tracking_is_loaded();
        let (mode, settings) = (planes.active.name(), duties::perform(&config));
        let (sender, triggers) = mpsc::unbounded_channel();
        // First listen, then look: what changes in between is seen as a notification.
        node::follow(sender.clone()).context("following the kernel's notifications")?;
        let facts = node::facts().context("reading the node's addresses")?;
        let snapshots = manifests::start(inputs)?;
        let reconciler = Reconciler::new(settings, config.timing(mode), planes, facts);
        let handle = reconcile::spawn(reconciler, snapshots, triggers)?;
        let mut restart = reload::follow(loader, loaded, mode, sender)?;
        if later {
            first_round(handle.status.clone()).await;
            duties::perform(&config);
        }
        let exit = serve(handle.status.clone(), &mut restart, args.once).await?;
        handle.stop();
        Ok(exit)
    })
}

/// Waits until the kernel has been programmed once.
async fn first_round(mut status: watch::Receiver<Status>) {
    // If the reconciler is gone, whoever waits for it next says so.
    let _ = status.wait_for(|status| status.rounds > 0).await;
}

async fn serve(mut status: watch::Receiver<Status>, restart: &mut Restart, once: bool) -> anyhow::Result<Exit> {
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    loop {
        tokio::select! {
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
            () = restart.wait() => break,
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
