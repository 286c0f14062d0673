//! Chooses the mode: which ways of programming the kernel work here, and what is missing where one does not.

use crate::backend::iptables::{Iptables, RuleCounters};
use crate::backend::ipvs::names::{DETOUR, INTERFACE, Set};
use crate::backend::ipvs::{Ipvs, Options};
use crate::backend::kube_proxy::Leftovers;
use crate::backend::{Conntrack, Dataplane, Driver};
use crate::config::{Config, ProxyMode};
use crate::control::Record;
use crate::desired::Settings;
use crate::kernel::interface::{Detour, Interface};
use crate::kernel::ipset;
use crate::kernel::sysctl::{KernelVersion, Ledger, Sysctl};
use crate::model::{Event, Events, IpFamily, PerFamily, Reason};
use crate::reconcile::{Kept, Mode, Modes, Planes, Status, Trigger, Wish};
use anyhow::Context;
use iptables::{Chain, ChainName, Commands, Family, Rule, SetDir, Table, Target, Transaction};
use ipvs::{Client, Command, Protocol, Scheduler, Service, ServiceId};
use nix::sched::{CloneFlags, unshare};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tracing::{info, warn};

/// As [`choose_and_tell`], telling nobody but the log.
///
/// # Errors
/// When the mode that was asked for does not work here; nothing was changed then.
pub fn choose(config: &Config) -> anyhow::Result<Planes> {
    choose_and_tell(config, &Events::default())
}

/// Chooses the modes and logs why. What was switched to under the same flags counts more than the flags. That the node
/// has to do with the second best is an event.
///
/// # Errors
/// When the mode that was asked for does not work here; nothing was changed then.
pub fn choose_and_tell(config: &Config, events: &Events) -> anyhow::Result<Planes> {
    let asked = wish_of(config.mode);
    let mut modes = NodeModes::open(config, asked)?;
    let families: Vec<IpFamily> =
        IpFamily::BOTH.into_iter().filter(|family| modes.commands.get(*family).is_some()).collect();
    let recorded = modes.record.read();
    let configured = Kept { wish: PerFamily { v4: asked, v6: asked }, ..Kept::default() };
    let Kept { mut wish, fell_back } = recorded.unwrap_or(configured);
    let wanted =
        |wish: &PerFamily<Wish>| families.iter().any(|family| *wish.get(*family) != Wish::Only(Mode::Iptables));
    let missing = if wanted(&wish) { modes.probe(Mode::Ipvs).err() } else { None };
    if let Some(missing) = &missing
        && without_ipvs(&mut wish, asked, &families)
    {
        let note = format!("what was switched to does not work any more: {missing}; back to what is configured");
        warn!("{note}");
        events.tell(Event::of_node(Reason::ModeFallback, note));
    }
    let active = PerFamily::from_fn(|family| match wish.get(family) {
        // It takes over once it was seen working for a while, as ever after a fall-back.
        Wish::Auto if missing.is_none() && !fell_back.get(family) => Mode::Ipvs,
        Wish::Auto => Mode::Iptables,
        Wish::Only(mode) => *mode,
    });
    let needs_ipvs = families.iter().any(|family| *wish.get(*family) == Wish::Only(Mode::Ipvs));
    match (asked, missing) {
        (_, Some(missing)) if needs_ipvs => {
            anyhow::bail!("--proxy-mode ipvs does not work on this node: {missing}; nothing was changed")
        }
        _ if recorded.is_some_and(|recorded| recorded.wish == wish) => {
            info!(ipv4 = %active.v4, ipv6 = %active.v6, "proxy modes as they were before");
        }
        (Wish::Auto, Some(missing)) => {
            let note = format!("proxy mode iptables, as IPVS does not work here: {missing}");
            info!("{note}");
            events.tell(Event::of_node(Reason::ModeFallback, note));
        }
        (Wish::Only(Mode::Iptables), _) => info!("proxy mode iptables, as asked for"),
        (Wish::Only(Mode::Ipvs), _) | (Wish::Auto, None) => {
            info!(scheduler = &*config.settings.scheduler, "proxy mode ipvs")
        }
    }
    let iptables = Some(modes.open_iptables());
    // Without IPVS in the kernel there is nothing of that mode to retire. What a run left of it before it broke still
    // goes, if it can be talked to.
    let ipvs = match modes.open_ipvs() {
        Ok(plane) => Some(plane),
        Err(error) if families.iter().any(|family| *active.get(*family) == Mode::Ipvs) => return Err(error),
        Err(_) => None,
    };
    let leftovers = Driver::new(Leftovers::new(modes.commands.clone()));
    Ok(Planes {
        ipvs,
        iptables,
        leftovers: Some(Box::new(leftovers)),
        active,
        wish,
        modes: Box::new(modes),
        flows: Box::new(Conntrack::default()),
        families,
    })
}

/// Where IPVS does not work, who switched to nothing else gets what is configured; `auto` and iptables mode work all the same.
/// Whether that changes anything.
fn without_ipvs(wish: &mut PerFamily<Wish>, configured: Wish, families: &[IpFamily]) -> bool {
    let before = *wish;
    for family in families {
        let wish = wish.get_mut(*family);
        if *wish == Wish::Only(Mode::Ipvs) {
            *wish = configured;
        }
    }
    *wish != before
}

/// Forgets what was switched to under a configuration that asked for another mode: this one counts, and is newer than that.
pub fn forget_overruled(config: &Config) {
    if Record::open(wish_of(config.mode)).is_ok_and(|record| record.forget_overruled()) {
        info!("what was switched to before does not count any more: the configuration asks for another mode since");
    }
}

/// What a flag wishes for.
pub fn wish_of(mode: ProxyMode) -> Wish {
    match mode {
        ProxyMode::Auto => Wish::Auto,
        ProxyMode::Ipvs => Wish::Only(Mode::Ipvs),
        ProxyMode::Iptables => Wish::Only(Mode::Iptables),
    }
}

/// The modes that this node could have.
#[derive(Debug)]
struct NodeModes {
    commands: PerFamily<Option<Commands>>,
    kernel: KernelVersion,
    ledger: Ledger,
    options: Options,
    scheduler: Arc<str>,
    record: Record,
}

impl NodeModes {
    fn open(config: &Config, asked: Wish) -> anyhow::Result<Self> {
        Ok(Self {
            commands: find_commands()?,
            kernel: KernelVersion::running().context("the kernel's version")?,
            ledger: Ledger::open().context("the network namespace")?,
            options: config.ipvs,
            scheduler: config.settings.scheduler.clone(),
            record: Record::open(asked).context("the network namespace")?,
        })
    }

    fn open_iptables(&self) -> Box<dyn Dataplane> {
        Box::new(Driver::new(Iptables::new(self.commands.clone(), self.kernel, self.ledger.clone())))
    }

    fn open_ipvs(&self) -> anyhow::Result<Box<dyn Dataplane>> {
        let (commands, ledger) = (self.commands.clone(), self.ledger.clone());
        Ok(Box::new(Driver::new(Ipvs::open(commands, self.kernel, ledger, self.options)?)))
    }
}

impl Modes for NodeModes {
    fn probe(&mut self, mode: Mode) -> Result<(), String> {
        match mode {
            // Without iptables the program does not start, and what the kernel refuses the sync tells.
            Mode::Iptables => Ok(()),
            Mode::Ipvs => missing_for_ipvs(&self.scheduler, &self.commands),
        }
    }

    fn open(&mut self, mode: Mode) -> Result<Box<dyn Dataplane>, String> {
        match mode {
            Mode::Iptables => Ok(self.open_iptables()),
            Mode::Ipvs => self.open_ipvs().map_err(|error| format!("{error:#}")),
        }
    }

    fn take_settings(&mut self, settings: &Settings) {
        self.scheduler = settings.scheduler.clone();
    }

    fn record(&mut self, kept: &Kept, configured: Option<Wish>) -> Result<(), String> {
        let record = self.record.under(configured);
        record.write(kept).map_err(|error| error.to_string())?;
        self.record = record;
        Ok(())
    }
}

/// Tries IPVS from time to time for as long as some family follows it, and tells the reconciler, who judges.
pub async fn watch_ipvs(
    config: watch::Receiver<Config>,
    status: watch::Receiver<Status>,
    triggers: mpsc::UnboundedSender<Trigger>,
) {
    let mut commands = None;
    loop {
        tokio::time::sleep(PROBE_EVERY).await;
        let (follows, serves) = {
            let status = status.borrow();
            let families = || status.programmed.iter().map(|family| status.families.get(*family));
            let mut following = families().filter(|family| family.wish == Wish::Auto).peekable();
            (following.peek().is_some(), following.all(|family| family.mode == Some(Mode::Ipvs)))
        };
        if !follows {
            continue;
        }
        let (scheduler, known) = (config.borrow().settings.scheduler.clone(), commands.take());
        let tried = tokio::task::spawn_blocking(move || {
            // Where it serves, a look is enough: syncs tell the rest.
            if serves {
                return (Client::connect().map(drop).map_err(|error| error.to_string()), known);
            }
            match known.map_or_else(find_commands, Ok) {
                Ok(commands) => (missing_for_ipvs(&scheduler, &commands), Some(commands)),
                Err(error) => (Err(format!("{error:#}")), None),
            }
        });
        let Ok((outcome, known)) = tried.await else { continue };
        commands = known;
        if triggers.send(Trigger::Probed(outcome)).is_err() {
            return;
        }
    }
}

/// How often IPVS is tried.
const PROBE_EVERY: Duration = Duration::from_secs(15);

/// Every mode that can be talked to.
pub struct Everything {
    /// The modes.
    pub planes: Vec<Box<dyn Dataplane>>,
    /// The families that can be programmed.
    pub families: Vec<IpFamily>,
}

impl std::fmt::Debug for Everything {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Everything").field("families", &self.families).finish_non_exhaustive()
    }
}

/// Every mode that can be talked to, for `cleanup`; kube-proxy's leftovers are one, unless they are to be kept.
///
/// # Errors
/// When there is no iptables.
pub fn all(options: Options, keep_kube_proxy: bool) -> anyhow::Result<Everything> {
    let commands = find_commands()?;
    let kernel = KernelVersion::running().context("the kernel's version")?;
    let ledger = Ledger::open().context("the network namespace")?;
    let families = IpFamily::BOTH.into_iter().filter(|family| commands.get(*family).is_some()).collect();
    let mut planes: Vec<Box<dyn Dataplane>> = Vec::new();
    match Ipvs::open(commands.clone(), kernel, ledger.clone(), options) {
        Ok(ipvs) => planes.push(Box::new(Driver::new(if keep_kube_proxy { ipvs.sparing_kube_proxy() } else { ipvs }))),
        Err(error) => info!("nothing to remove of IPVS mode: {error}"),
    }
    let iptables = Iptables::new(commands.clone(), kernel, ledger);
    if keep_kube_proxy {
        planes.push(Box::new(Driver::new(iptables.sparing_kube_proxy())));
    } else {
        // Sets last: rules of both modes may refer to them, and they tell which virtual servers were kube-proxy's.
        planes.push(Box::new(Driver::new(iptables)));
        planes.push(Box::new(Driver::new(Leftovers::new(commands))));
    }
    Ok(Everything { planes, families })
}

/// What reads the counters of our rules.
pub fn rule_counters() -> RuleCounters {
    // What is missing was told when the mode was chosen.
    RuleCounters::new(|| PerFamily { v4: Commands::detect(Family::V4).ok(), v6: Commands::detect(Family::V6).ok() })
}

/// iptables of both families; a node without ip6tables keeps its IPv4 services.
fn find_commands() -> anyhow::Result<PerFamily<Option<Commands>>> {
    let v4 = Commands::detect(Family::V4)
        .context("both modes need iptables; install it (Debian: apt-get install iptables)")?;
    let v6 = if std::path::Path::new("/proc/sys/net/ipv6").exists() {
        match Commands::detect(Family::V6) {
            Ok(commands) => Some(commands),
            Err(error) => {
                warn!("IPv6 services are not served: {error}");
                None
            }
        }
    } else {
        info!("IPv6 services are not served: the kernel has no IPv6");
        None
    };
    Ok(PerFamily { v4: Some(v4), v6 })
}

/// Tries IPVS as `auto` would, for who only wants to know.
///
/// # Errors
/// What is missing, in a sentence.
pub fn try_ipvs(scheduler: &str) -> Result<(), String> {
    missing_for_ipvs(scheduler, &find_commands().map_err(|error| format!("{error:#}"))?)
}

/// What keeps IPVS from working here, found by doing: in a network namespace of its own, so that nothing of the node
/// is touched. Loads the kernel's modules as a side effect, as every use does.
fn missing_for_ipvs(scheduler: &str, commands: &PerFamily<Option<Commands>>) -> Result<(), String> {
    let scheduler: Scheduler = scheduler.parse().map_err(|_| format!("scheduler {scheduler:?} has no valid name"))?;
    let commands = commands.clone();
    let probe = std::thread::Builder::new().name("ipvs-probe".into()).spawn(move || {
        if unshare(CloneFlags::CLONE_NEWNET).is_err() {
            // Without CAP_SYS_ADMIN there is no namespace to try it in; the first sync will tell.
            return Client::connect().map(drop).map_err(|error| error.to_string());
        }
        probe(scheduler, &commands)
    });
    match probe.map(std::thread::JoinHandle::join) {
        Ok(Ok(outcome)) => outcome,
        Ok(Err(_)) => Err("the probe panicked".into()),
        Err(error) => Err(format!("the probe could not be started: {error}")),
    }
}

fn probe(scheduler: Scheduler, commands: &PerFamily<Option<Commands>>) -> Result<(), String> {
    let mut client = Client::connect().map_err(|error| error.to_string())?;
    let address = IpAddr::V4(Ipv4Addr::new(198, 51, 100, 0));
    let id = ServiceId::Address { protocol: Protocol::Tcp, address, port: 20_000 };
    let module = scheduler.module();
    client
        .execute(&Command::AddService(Service::new(id, scheduler)))
        .map_err(|error| format!("scheduler {scheduler} (module {module}): {error}"))?;
    let mut interface = Interface::open(INTERFACE).map_err(|error| error.to_string())?;
    interface.ensure_dummy().map_err(|error| format!("interface {INTERFACE}: {error}"))?;
    let mut sets = ipset::Client::open().map_err(|error| format!("ipset: {error}"))?;
    for set in Set::ALL {
        let spec = set.spec(IpFamily::V4);
        sets.create(&spec).map_err(|error| format!("ipset type {}: {error}", spec.set_type))?;
    }
    let detour = || Detour::open(DETOUR, Ipv4Addr::new(240, 0, 0, 1), Ipv4Addr::new(240, 0, 0, 2), Sysctl::default());
    detour().and_then(|mut detour| detour.ensure()).map_err(|error| error.to_string())?;
    let matching = || Rule::new().set(Set::ClusterIp.name(IpFamily::V4), &[SetDir::Dst, SetDir::Dst]);
    let mapping = matching().target(Target::Other("NETMAP --to 240.0.0.0/4".into()));
    let scratch = Chain::new(ChainName::from_static("KUBE-IPVS-PROBE"), vec![matching().masquerade(true), mapping]);
    let mut write = Transaction::new();
    write.add_chain(Table::Nat, scratch);
    let written = commands.v4.as_ref().map(|commands| commands.restore(&write));
    match written {
        Some(Err(error)) => Err(format!("iptables match set and target NETMAP: {}", error.stderr().trim())),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_ipvs_only_who_wanted_nothing_else_gets_what_is_configured() {
        let (ipvs, iptables) = (Wish::Only(Mode::Ipvs), Wish::Only(Mode::Iptables));
        for (configured, before, after, changes) in [
            (ipvs, [Wish::Auto, Wish::Auto], [Wish::Auto, Wish::Auto], false),
            (Wish::Auto, [Wish::Auto, iptables], [Wish::Auto, iptables], false),
            (iptables, [Wish::Auto, Wish::Auto], [Wish::Auto, Wish::Auto], false),
            (Wish::Auto, [ipvs, iptables], [Wish::Auto, iptables], true),
            (ipvs, [ipvs, iptables], [ipvs, iptables], false),
        ] {
            let mut wish = PerFamily { v4: before[0], v6: before[1] };
            let told = without_ipvs(&mut wish, configured, &IpFamily::BOTH);
            assert_eq!(([wish.v4, wish.v6], told), (after, changes), "{configured}: {before:?}");
        }
    }
}
