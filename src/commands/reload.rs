//! Follows the configuration files. What a running program can take over it takes over; for anything else it ends
//! cleanly, and whoever started it starts it again with the new configuration, as with kube-proxy. What is invalid is
//! told, and the old stays in force.

use super::{dataplane, duties};
use crate::config::{self, Config, Loaded, Loader};
use crate::reconcile::{Step, Switcher, Trigger, Wish};
use notify::{RecursiveMode, Watcher};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tracing::{error, info, warn};

/// A writer that is at work is given this long to finish.
const QUIET: Duration = Duration::from_millis(100);
/// Network file systems don't tell of changes; then they are found this late.
const POLL: Duration = Duration::from_secs(10);
/// A mode that could not be had is asked for again this much later, then after twice as long …
const AGAIN: Duration = Duration::from_secs(30);
/// … but no more than this: each time the other mode is written and taken back.
const LONGEST_WAIT: Duration = Duration::from_secs(600);

/// What becomes of the configuration.
#[derive(Debug)]
pub struct Following {
    restart: Option<mpsc::Receiver<()>>,
    config: watch::Receiver<Config>,
    configz: watch::Receiver<String>,
}

impl Following {
    /// Waits until the program has to end; perhaps forever.
    pub async fn restart(&mut self) {
        match &mut self.restart {
            Some(receiver) => drop(receiver.recv().await),
            None => std::future::pending().await,
        }
    }

    /// The configuration that is in force, as `/configz` shows it.
    pub fn configz(&self) -> watch::Receiver<String> {
        self.configz.clone()
    }

    /// The configuration that is in force, and whatever is taken over.
    pub fn configs(&self) -> watch::Receiver<Config> {
        self.config.clone()
    }

    /// The configuration that is in force.
    pub fn config(&self) -> Config {
        self.config.borrow().clone()
    }
}

/// Follows the files, if there are any, for as long as anybody listens.
///
/// # Errors
/// When their folders cannot be watched.
pub fn follow(loader: Loader, loaded: Loaded, triggers: mpsc::UnboundedSender<Trigger>) -> anyhow::Result<Following> {
    let files = loader.files();
    let (current, config) = watch::channel(loaded.config.clone());
    let (shown, configz) = watch::channel(config::configz(&loaded.kube_proxy));
    if files.is_empty() {
        return Ok(Following { restart: None, config, configz });
    }
    let (events, changed) = mpsc::unbounded_channel();
    let mut watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
        if event.is_ok_and(|event| !event.kind.is_access()) {
            // The receiver is gone only when the process ends.
            let _ = events.send(());
        }
    })?;
    for file in &files {
        // The folder, because a ConfigMap changes by a link in it that is put in place of another.
        let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        watcher
            .watch(folder, RecursiveMode::NonRecursive)
            .map_err(|error| anyhow::anyhow!("watching {}: {error}", folder.display()))?;
    }
    let (restart, receiver) = mpsc::channel(1);
    let follower = Follower { loader, loaded, triggers, current, shown, texts: Vec::new(), asking: JoinSet::new() };
    tokio::spawn(follower.run(changed, restart, watcher));
    Ok(Following { restart: Some(receiver), config, configz })
}

struct Follower {
    loader: Loader,
    loaded: Loaded,
    triggers: mpsc::UnboundedSender<Trigger>,
    current: watch::Sender<Config>,
    shown: watch::Sender<String>,
    texts: Vec<(PathBuf, Option<String>)>,
    /// Waits for the mode that is configured; ends with this.
    asking: JoinSet<()>,
}

impl Follower {
    async fn run(
        mut self,
        mut changed: mpsc::UnboundedReceiver<()>,
        restart: mpsc::Sender<()>,
        _watcher: notify::RecommendedWatcher,
    ) {
        loop {
            if self.has_changed() && self.must_end() {
                let _ = restart.send(()).await;
                return;
            }
            tokio::select! {
                event = changed.recv() => if event.is_none() { return },
                () = tokio::time::sleep(POLL) => {}
                () = restart.closed() => return,
            }
            while tokio::time::timeout(QUIET, changed.recv()).await.is_ok_and(|event| event.is_some()) {}
        }
    }

    /// Also true for the first look: a file may have changed between its reading and our watching.
    fn has_changed(&mut self) -> bool {
        let read = |file: PathBuf| {
            let text = std::fs::read_to_string(&file).ok();
            (file, text)
        };
        let texts: Vec<_> = self.loader.files().into_iter().map(read).collect();
        let differs = texts != self.texts;
        self.texts = texts;
        differs
    }

    /// Takes over what is new; true if that cannot be done.
    fn must_end(&mut self) -> bool {
        let new = match self.loader.load() {
            Ok(new) if new.config == self.loaded.config => return false,
            Ok(new) => new,
            Err(error) => {
                error!("{error}; the configuration of before stays in force");
                return false;
            }
        };
        for warning in new.warnings.iter().filter(|warning| !self.loaded.warnings.contains(warning)) {
            warn!("{warning}");
        }
        if let Some(what) = self.loaded.config.needs_restart(&new.config) {
            info!(
                "content of the proxy server's configuration file was updated: {what} changed, which takes a new start"
            );
            return true;
        }
        info!("content of the proxy server's configuration file was updated; taken over");
        self.current.send_replace(new.config.clone());
        self.shown.send_replace(config::configz(&new.kube_proxy));
        let settings = duties::perform(&new.config);
        // A closed channel means that the reconciler is gone and the process about to end.
        let _ = self.triggers.send(Trigger::Settings(settings, new.config.timings()));
        if new.config.mode != self.loaded.config.mode {
            self.ask_for(dataplane::wish_of(new.config.mode));
        }
        self.loaded = new;
        false
    }

    /// Asks for another mode until it is had, or the configuration asks for yet another one. The one of before serves
    /// meanwhile, whereas a new start would end with an error.
    fn ask_for(&mut self, wish: Wish) {
        info!(mode = %wish, "the configuration asks for another mode");
        let switcher = Switcher::new(self.triggers.clone());
        self.asking.abort_all();
        self.asking.spawn(async move {
            let mut again = AGAIN;
            while !is_had(switcher.configure(wish)).await {
                // Why not, the reconciler has told.
                tokio::time::sleep(again).await;
                again = again.saturating_mul(2).min(LONGEST_WAIT);
            }
        });
    }
}

/// Whether a switch came to it. How the old mode leaves does not matter.
async fn is_had(mut steps: mpsc::UnboundedReceiver<Step>) -> bool {
    while let Some(step) = steps.recv().await {
        match step {
            Step::Failed { .. } => return false,
            Step::InForce { .. } | Step::Draining { .. } | Step::Gone { .. } | Step::Done => return true,
            Step::Programming { .. } | Step::Programmed { .. } | Step::Verified { .. } => {}
        }
    }
    // The reconciler is gone.
    true
}
