//! The loop that keeps the kernel as desired: one named thread, one owner of all state, one select.
//!
//! Everything that may ask for work is a trigger (a new snapshot, a kernel change, a retry, the audit, a drain); every
//! trigger ends in the same place, [`Reconciler::round`], so that no path can skip a check.

mod auto;
mod configured;
mod decide;
mod draining;
mod flows;
mod leftovers;
mod meter;
mod pending;
mod retire;
mod round;
mod schedule;
mod status;
mod switch;
mod tell;
mod wish;

pub use decide::decide;
pub use draining::still_draining;
pub use meter::{Meter, Synced, WithoutLocal};
pub use retire::{Retirement, State};
pub use round::Reconciler;
pub use schedule::{AUDIT_PAUSE, AUDIT_SLICE, Timing, Timings};
pub use status::{DrainingEndpoint, FamilyStatus, Status};
pub use switch::{Progress, Step, Switch};
pub use wish::{Kept, Mode, Modes, Planes, Wish};

use crate::backend::Lost;
use crate::desired::{Desired, HealthChecks, NodeFacts, Settings};
use crate::model::{IpFamily, PerFamily};
use crate::source::Snapshots;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, watch};

/// Something that happened outside and may need work.
#[derive(Debug, Clone)]
pub enum Trigger {
    /// A kernel object went; perhaps by our own doing.
    Gone(IpFamily, Lost),
    /// The node's own addresses or gateways are these now.
    Facts(NodeFacts),
    /// These are the settings and periods from now on.
    Settings(Arc<Settings>, Timings),
    /// Notifications were lost: look at everything again.
    Lost,
    /// Somebody wants another mode.
    Switch(Switch),
    /// IPVS was tried: it works, or this is missing. Matters to families that follow it (`auto`).
    Probed(Result<(), String>),
}

/// Asks the running reconciler for another mode. For whoever may: the control socket, a configuration that changed.
#[derive(Debug, Clone)]
pub struct Switcher(mpsc::UnboundedSender<Trigger>);

impl Switcher {
    /// Through the queue of triggers.
    pub fn new(triggers: mpsc::UnboundedSender<Trigger>) -> Self {
        Self(triggers)
    }

    /// Wishes for a mode in these families (none = all that are programmed); open connections of the old one may go on
    /// for `drain` (`None` = the configured timeout). Returns how it goes; who does not care drops it. The channel ends
    /// after [`Step::Done`] or [`Step::Failed`], or when the reconciler stops.
    pub fn switch(
        &self,
        wish: Wish,
        families: Vec<IpFamily>,
        drain: Option<Duration>,
    ) -> mpsc::UnboundedReceiver<Step> {
        self.ask(|progress| Switch { wish, target: None, configured: false, families, drain, progress })
    }

    /// The configuration asks for another mode now, in all families. As [`Switcher::switch`]; but the next start is not
    /// told that somebody switched away from what is configured.
    pub fn configure(&self, wish: Wish) -> mpsc::UnboundedReceiver<Step> {
        self.ask(|progress| Switch {
            wish,
            target: None,
            configured: true,
            families: Vec::new(),
            drain: None,
            progress,
        })
    }

    fn ask(&self, switch: impl FnOnce(Progress) -> Switch) -> mpsc::UnboundedReceiver<Step> {
        let (sender, steps) = mpsc::unbounded_channel();
        // A reconciler that is gone tells by the channel that ends.
        let _ = self.0.send(Trigger::Switch(switch(Progress::to(sender))));
        steps
    }
}

/// The running reconciler.
#[derive(Debug)]
pub struct Handle {
    /// What it is doing; changes after every round.
    pub status: watch::Receiver<Status>,
    /// What is wanted of the kernel; changes with it, after the round that handled it. For who needs the names of what is
    /// in the kernel.
    pub desired: watch::Receiver<PerFamily<Desired>>,
    /// What load balancers are to be told; changes with the Services and endpoints, after the round that handled them.
    pub health_checks: watch::Receiver<HealthChecks>,
    stop: mpsc::Sender<()>,
    thread: JoinHandle<()>,
}

impl Handle {
    /// Ends the loop after the step that is under way, leaving the kernel as it is; false if that takes longer than
    /// `patience`. Who goes on without it may: a kernel that is left in the middle of something is put right by the next
    /// start.
    pub fn stop(self, patience: Duration) -> bool {
        // A full or closed channel means that it is stopping already.
        let _ = self.stop.try_send(());
        let deadline = Instant::now() + patience;
        while !self.thread.is_finished() {
            if Instant::now() >= deadline {
                return false;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        if self.thread.join().is_err() {
            tracing::error!("the reconciler thread panicked");
        }
        true
    }

    /// Whether the thread has ended by itself, which it never should.
    pub fn is_finished(&self) -> bool {
        self.thread.is_finished()
    }
}

/// Starts the reconciler's thread.
///
/// # Errors
/// When the thread or its timer cannot be made.
pub fn spawn(
    reconciler: Reconciler,
    snapshots: Snapshots,
    triggers: mpsc::UnboundedReceiver<Trigger>,
) -> std::io::Result<Handle> {
    let (stop, stopped) = mpsc::channel(1);
    let (status_sender, status) = watch::channel(reconciler.status());
    let (checks_sender, health_checks) = watch::channel(HealthChecks::default());
    let (desired_sender, desired) = watch::channel(PerFamily::default());
    let publish = Publish { status: status_sender, health_checks: checks_sender, desired: desired_sender };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build()?;
    let thread = std::thread::Builder::new().name("reconciler".into()).spawn(move || {
        runtime.block_on(run(reconciler, snapshots, triggers, stopped, publish));
    })?;
    Ok(Handle { status, desired, health_checks, stop, thread })
}

/// What the loop tells others.
#[derive(Debug)]
struct Publish {
    status: watch::Sender<Status>,
    health_checks: watch::Sender<HealthChecks>,
    desired: watch::Sender<PerFamily<Desired>>,
}

impl Publish {
    /// One round, and what came of it. That it began is there to be seen, but is no news: only a round that never ends
    /// matters.
    fn round(&self, reconciler: &mut Reconciler) {
        let now = Instant::now();
        self.status.send_if_modified(|status| {
            status.busy_since = Some(now);
            false
        });
        reconciler.round(now);
        self.status.send_replace(reconciler.status());
        self.desired.send_if_modified(|told| {
            // The maps are persistent: to compare and to clone them costs nothing.
            let desired = reconciler.desired();
            let same = |family| desired.get(family).is_same(told.get(family));
            let news = !IpFamily::BOTH.into_iter().all(same);
            if news {
                told.clone_from(desired);
            }
            news
        });
        if let Some(checks) = reconciler.health_checks() {
            // Comparing costs nothing where nothing changed: the maps are the same.
            self.health_checks.send_if_modified(|told| {
                let news = told.addresses != checks.addresses || !told.services.ptr_eq(&checks.services);
                if news {
                    told.clone_from(checks);
                }
                news
            });
        }
    }
}

async fn run(
    mut reconciler: Reconciler,
    mut snapshots: Snapshots,
    mut triggers: mpsc::UnboundedReceiver<Trigger>,
    mut stopped: mpsc::Receiver<()>,
    publish: Publish,
) {
    reconciler.take_snapshot(&snapshots.borrow_and_update().clone());
    // The configuration may have changed while the source was waited for.
    while let Ok(trigger) = triggers.try_recv() {
        reconciler.take_trigger(trigger);
    }
    // A source that ends leaves the last wish standing; retries and audits go on.
    let mut source_lives = true;
    loop {
        publish.round(&mut reconciler);
        let wake = tokio::time::Instant::from_std(reconciler.next_wake(Instant::now()));
        tokio::select! {
            biased;
            _ = stopped.recv() => return,
            changed = snapshots.changed(), if source_lives => source_lives = changed.is_ok(),
            Some(trigger) = triggers.recv() => reconciler.take_trigger(trigger),
            () = tokio::time::sleep_until(wake) => {}
        }
        while let Ok(trigger) = triggers.try_recv() {
            reconciler.take_trigger(trigger);
        }
        reconciler.take_snapshot(&snapshots.borrow_and_update().clone());
    }
}
