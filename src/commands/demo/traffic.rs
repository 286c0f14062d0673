//! Requests from everywhere to every address.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

use crate::lab::{Finished, Lab, Outcome, Probe, Prober, Protocol, Responder};

use super::interrupt::Interrupt;
use super::manifests::Change;
use super::progress::Progress;
use super::proxy::Proxy;
use super::services::{Frontend, Target};
use super::tally::{Group, Ledger};

/// Who asks, and what there is to say about it.
pub(super) const CLIENTS: [(&str, &str); 4] = [
    ("pod-1", "itself an endpoint, so it also reaches itself"),
    ("pod-3", "a pod"),
    ("demo-node", "the node"),
    (OUTSIDER, "outside the cluster"),
];

/// Who asks while waiting for something.
const OUTSIDER: &str = "client";

/// Requests that each client has under way at once.
const PARALLEL: usize = 16;

/// Time for one request; a healthy one takes a millisecond, many of them on a slow emulated machine a second.
const TIMEOUT: Duration = Duration::from_secs(15);

/// Time for one request while it is not yet expected to be answered.
const IMPATIENT: Duration = Duration::from_secs(1);

/// How often waiting looks around.
const PAUSE: Duration = Duration::from_millis(50);

/// The first source port of UDP requests. No datagram of the demo has the source port of another one: to connection
/// tracking it would be the same flow, which rightly stays where it is.
const FIRST_UDP_PORT: u16 = 10_000;

/// Requests to make of each target.
#[derive(Debug, Clone, Copy)]
pub(super) struct Amounts {
    /// Of a TCP target whose requests are to be spread.
    pub(super) tcp: u32,
    /// The same for other protocols.
    pub(super) udp: u32,
    /// Of a target with affinity.
    pub(super) sticky: u32,
}

impl Amounts {
    fn of(self, target: &Target) -> u32 {
        match target.protocol {
            _ if target.sticky => self.sticky,
            Protocol::Tcp => self.tcp,
            Protocol::Udp | Protocol::Sctp => self.udp,
        }
    }
}

/// The responders of all pods and the probers of all clients.
pub(super) struct Traffic<'a> {
    interrupt: &'a Interrupt,
    progress: &'a Progress,
    probers: Vec<(&'static str, Prober)>,
    next_udp_port: Cell<u16>,
    _responders: Vec<Responder>,
}

impl<'a> Traffic<'a> {
    /// Starts a responder in every pod, on every endpoint port of `targets`, and the clients' probers.
    pub(super) fn start(
        lab: &Lab,
        targets: &[Target],
        interrupt: &'a Interrupt,
        progress: &'a Progress,
    ) -> anyhow::Result<Self> {
        let ports: BTreeSet<_> = targets
            .iter()
            .flat_map(|target| target.endpoints.keys().map(|endpoint| (target.protocol, endpoint.port())))
            .collect();
        let ports: Vec<_> = ports.into_iter().collect();
        let pods = lab.hosts().iter().filter(|host| host.name != OUTSIDER);
        let responders = pods.map(|pod| Responder::start(&pod.ns, &pod.name, &ports)).collect::<Result<Vec<_>, _>>()?;
        let mut probers = Vec::new();
        for (name, _) in CLIENTS {
            let host = lab.host(name).with_context(|| format!("the demo's cluster has no {name}"))?;
            probers.push((name, Prober::start(&host.ns)?));
        }
        let next_udp_port = Cell::new(FIRST_UDP_PORT);
        Ok(Self { interrupt, progress, probers, next_udp_port, _responders: responders })
    }

    /// Waits until every address of every target answers a client outside. Returns how long it took.
    pub(super) fn wait_until_served(
        &self,
        targets: &[Target],
        proxy: &mut Proxy,
        patience: Duration,
    ) -> anyhow::Result<Duration> {
        let started = Instant::now();
        let all: Vec<_> =
            targets.iter().flat_map(|target| target.frontends.iter().map(move |at| (target, at))).collect();
        let mut pending = all.clone();
        while let Some((target, frontend)) = pending.last() {
            let outcome = self.ask_once(target, **frontend, IMPATIENT)?;
            if matches!(outcome, Outcome::Answered(_)) {
                pending.pop();
                continue;
            }
            proxy.must_run()?;
            if started.elapsed() > patience {
                let waited = started.elapsed().as_secs();
                bail!(
                    "{} of {} addresses do not answer after {waited} s; {}/{} of {}: {outcome}\nthe proxy's last words:\n{}",
                    pending.len(),
                    all.len(),
                    frontend.address,
                    target.protocol,
                    target.name,
                    proxy.last_lines(15),
                );
            }
            self.progress.show(|| format!("waiting for {} of {} addresses to answer", pending.len(), all.len()));
            thread::sleep(PAUSE);
        }
        let answering = started.elapsed();
        // The first endpoints may answer while the last are still being written; the spread is judged from then on.
        while !proxy.says_in_sync() && started.elapsed() < answering + Duration::from_secs(3) {
            self.interrupt.check()?;
            thread::sleep(PAUSE);
        }
        Ok(answering)
    }

    /// Makes requests from every client to every address, spread evenly, and enters all results.
    pub(super) fn ask_everywhere(&self, targets: &[Target], amounts: Amounts) -> anyhow::Result<Ledger> {
        let mut ledger = Ledger::default();
        let groups = |target: usize, at: &Target| -> Vec<Group> {
            let group = |client, frontend| Group { target, frontend, client };
            CLIENTS.iter().flat_map(|(client, _)| at.frontends.iter().map(move |at| group(client, *at))).collect()
        };
        // With affinity, what comes first decides: alone, since two first requests at once may both decide.
        for (number, target) in targets.iter().enumerate().filter(|(_, target)| target.sticky) {
            for group in groups(number, target) {
                self.ask(targets, vec![group], &mut ledger)?;
            }
        }
        let mut all = Vec::new();
        for (number, target) in targets.iter().enumerate() {
            let groups = groups(number, target);
            let wanted = usize::try_from(amounts.of(target)).unwrap_or(usize::MAX);
            let each = wanted.div_ceil(groups.len().max(1));
            all.extend(groups.into_iter().flat_map(|group| std::iter::repeat_n(group, each)));
        }
        self.ask(targets, all, &mut ledger)?;
        Ok(ledger)
    }

    /// After a change: asks until, for each target, a whole round is answered without the old endpoint, and with the
    /// new one where requests are spread. Every request counts. Returns how long it took, `None` if it did not happen.
    pub(super) fn wait_until_followed(
        &self,
        targets: &[Target],
        change: &Change,
        proxy: &mut Proxy,
        patience: Duration,
    ) -> anyhow::Result<(Option<Duration>, Ledger)> {
        let started = Instant::now();
        let mut everything = Ledger::default();
        while started.elapsed() < patience {
            proxy.must_run()?;
            let mut groups = Vec::new();
            for (number, target) in targets.iter().enumerate() {
                let group = |at: &Frontend| Group { target: number, frontend: *at, client: OUTSIDER };
                let first_of_family = |ipv4| target.frontends.iter().find(|at| at.address.is_ipv4() == ipv4);
                let frontends = [true, false].into_iter().filter_map(first_of_family).map(group);
                groups.extend(frontends.flat_map(|group| std::iter::repeat_n(group, 12)));
            }
            let mut round = Ledger::default();
            self.ask(targets, groups, &mut round)?;
            let followed = targets.iter().enumerate().all(|(number, target)| {
                let row = round.sum(|group| group.target == number);
                !row.answered.contains_key(&change.old) && (target.sticky || row.answered.contains_key(&change.new))
            });
            everything.absorb(round);
            if followed {
                return Ok((Some(started.elapsed()), everything));
            }
            self.progress.show(|| format!("waiting for traffic to follow, {:.1} s", started.elapsed().as_secs_f64()));
            thread::sleep(PAUSE);
        }
        Ok((None, everything))
    }

    /// One request from outside.
    fn ask_once(&self, target: &Target, frontend: Frontend, timeout: Duration) -> anyhow::Result<Outcome> {
        self.interrupt.check()?;
        let (_, prober) =
            self.probers.iter().find(|(name, _)| *name == OUTSIDER).context("there is no client outside")?;
        Ok(prober.probe(self.request(0, target, frontend, timeout))?)
    }

    /// Makes one request for each entry of `groups`, all clients at once, and enters the results.
    fn ask(&self, targets: &[Target], groups: Vec<Group>, ledger: &mut Ledger) -> anyhow::Result<()> {
        let (results, finished) = mpsc::channel();
        for (client, prober) in &self.probers {
            let own = groups.iter().enumerate().filter(|(_, group)| group.client == *client);
            let requests = own.filter_map(|(tag, group)| {
                Some(self.request(tag, targets.get(group.target)?, group.frontend, TIMEOUT))
            });
            prober.submit(interleaved(requests.collect()), PARALLEL, results.clone())?;
        }
        drop(results);
        let (mut done, mut failed) = (0, 0_u32);
        loop {
            self.interrupt.check()?;
            let result: Finished = match finished.recv_timeout(PAUSE) {
                Ok(result) => result,
                Err(RecvTimeoutError::Timeout) => continue,
                Err(RecvTimeoutError::Disconnected) => break,
            };
            done += 1;
            let Some(group) = groups.get(result.probe.tag) else { continue };
            let Some(target) = targets.get(group.target) else { continue };
            failed += u32::from(!ledger.record(group, target, &result.outcome));
            self.progress.show(|| format!("{done} of {} requests, {failed} failed", groups.len()));
        }
        if done < groups.len() {
            bail!("only {done} of {} requests came back", groups.len());
        }
        Ok(())
    }

    fn request(&self, tag: usize, target: &Target, frontend: Frontend, timeout: Duration) -> Probe {
        let mut probe = Probe { tag, ..Probe::ask(frontend.address, target.protocol, timeout) };
        if target.protocol == Protocol::Udp {
            let port = self.next_udp_port.get();
            probe.source_port = port;
            // Ports from here on belong to the kernel's own choice, see ip_local_port_range.
            self.next_udp_port.set(if port < 32_000 { port + 1 } else { FIRST_UDP_PORT });
        }
        probe
    }
}

/// Reorders so that neighbours are of different groups: all addresses are asked all the time.
fn interleaved(requests: Vec<Probe>) -> Vec<Probe> {
    let mut numbered: Vec<(usize, Probe)> = Vec::with_capacity(requests.len());
    let mut seen: std::collections::HashMap<_, usize> = std::collections::HashMap::new();
    for request in requests {
        let turn = seen.entry((request.to, request.protocol)).or_default();
        numbered.push((*turn, request));
        *turn += 1;
    }
    numbered.sort_by_key(|(turn, _)| *turn);
    numbered.into_iter().map(|(_, request)| request).collect()
}
