//! `kube-ipvs run`: keeps the kernel as the Services want it, until stopped. And what kube-proxy does instead of running
//! when it is told so: `--write-config-to`, `--cleanup`, `--init-only`.

use super::observation::Observation;
use super::reload::{self, Following};
use super::source::Opened;
use super::{cleanup, dataplane, duties, init, node, require_root};
use crate::config::{Loaded, Loader, ProxyArgs, to_yaml};
use crate::control::{self, Lock, LockError, Server, ServerError};
use crate::exit::Exit;
use crate::model::{Event, Events, Reason};
use crate::observe::health_check;
use crate::reconcile::{self, Mode, Planes, Reconciler, Status, Switcher};
use anyhow::Context;
use clap::Args;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tracing::{info, warn};

/// Flags of `run`.
#[derive(Debug, Args)]
pub struct RunArgs {
    /// What is proxied, and how.
    #[command(flatten)]
    pub proxy: ProxyArgs,
    /// Exit once the kernel is as wanted, leaving it so; with status 1 if another program's objects are in the way
    #[arg(long)]
    once: bool,
    /// Where `status` and `switch` find this daemon [default: control.sock in /run/kube-ipvs]
    #[arg(long, value_name = "PATH")]
    control_socket: Option<PathBuf>,
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
/// When the mode does not work here, a manifest path does not exist, or there is no way to an API server. Nothing was
/// changed then.
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
    let _lock = lock()?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let outcome = runtime.block_on(follow(args, loader, loaded));
    // What still blocks (a probe, a reading of counters) has nothing to finish.
    runtime.shutdown_background();
    outcome
}

/// How long a stop waits for the step that is under way. Whoever stops a pod counts the seconds.
const STOP_PATIENCE: Duration = Duration::from_millis(500);

async fn follow(args: &RunArgs, loader: Loader, loaded: Loaded) -> anyhow::Result<Exit> {
    let mut stop = Stop::new()?;
    let config = loaded.config.clone();
    let server = if args.once { None } else { listen(args.control_socket.as_deref())? };
    let source = Opened::open(&config).await?;
    let (events, queue) = Events::queue();
    dataplane::forget_overruled(&config);
    let planes = dataplane::choose_and_tell(&config, &events)?;
    let later = !duties::tracking_is_loaded();
    let (mode, settings) = (starting_mode(&planes).name(), duties::perform(&config));
    let (sender, triggers) = mpsc::unbounded_channel();
    // Before the source: with an API server that is away it takes as long as that lasts, and another address may be
    // what helps. Nothing of Services is touched before.
    let mut following = reload::follow(loader, loaded, sender.clone())?;
    let observation = match args.once {
        true => None,
        false => Some(Observation::start(&config, mode, following.configz(), &events)?),
    };
    let snapshots = tokio::select! {
        // Who is to exit when all is there waits for all.
        snapshots = source.start(events.clone(), queue, !args.once) => snapshots?,
        () = stop.wait() => return Ok(Exit::Success),
        () = following.restart() => return Ok(Exit::Success),
    };
    // First listen, then look: what changes in between is seen as a notification.
    node::follow(sender.clone()).context("following the kernel's notifications")?;
    let facts = node::facts().context("reading the node's addresses")?;
    let mut reconciler = Reconciler::new(settings, config.timings(), planes, facts).telling(events.clone());
    if let Some(observation) = &observation {
        reconciler = reconciler.with_meter(observation.meter());
    }
    let handle = reconcile::spawn(reconciler, snapshots.clone(), triggers)?;
    if let Some(observation) = &observation {
        observation.follow(&handle, &config);
    }
    let mut servers = JoinSet::new();
    if !args.once {
        events
            .tell(Event::of_node(Reason::Starting, format!("kube-ipvs {} in mode {mode}", env!("CARGO_PKG_VERSION"))));
        let (checks, status) = (handle.health_checks.clone(), handle.status.clone());
        let sources = health_check::Sources { checks, status, events };
        servers.spawn(health_check::run(sources));
        if let Some(server) = server {
            servers.spawn(server.run(Switcher::new(sender.clone()), handle.status.clone(), snapshots));
        }
        servers.spawn(dataplane::watch_ipvs(following.configs(), handle.status.clone(), sender));
    }
    let mut running = Running { status: handle.status.clone(), stop, following, later, once: args.once };
    let exit = running.serve().await?;
    // Before the reconciler, whose last step may take its time: load balancers are to look elsewhere at once.
    servers.shutdown().await;
    if let Some(observation) = observation {
        observation.end().await;
    }
    if !handle.stop(STOP_PATIENCE) {
        info!("a sync is under way and takes long; the next start does the rest");
    }
    Ok(exit)
}

/// The mode whose periods count. Where the two families were switched to different ones, IPv4's.
fn starting_mode(planes: &Planes) -> Mode {
    planes.families.first().map_or(planes.active.v4, |family| *planes.active.get(*family))
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

/// What is waited for while the reconciler works.
struct Running {
    status: watch::Receiver<Status>,
    stop: Stop,
    following: Following,
    /// Connection tracking is loaded by the first rules, and set then.
    later: bool,
    once: bool,
}

impl Running {
    async fn serve(&mut self) -> anyhow::Result<Exit> {
        loop {
            tokio::select! {
                () = self.stop.wait() => return Ok(Exit::Success),
                () = self.following.restart() => return Ok(Exit::Success),
                changed = self.status.changed() => anyhow::ensure!(changed.is_ok(), "the reconciler ended by itself"),
            }
            let status = self.status.borrow_and_update().clone();
            if status.rounds == 0 {
                continue;
            }
            if std::mem::take(&mut self.later) {
                duties::perform(&self.following.config());
            }
            if self.once && status.families_settled() {
                return Ok(if status.families_in_sync() { Exit::Success } else { Exit::Failure });
            }
        }
    }
}
