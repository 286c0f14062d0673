//! One size: traffic goes on, and the mode is switched again and again.
//!
//! Connections that talk go on through all switches, so that IPVS mode, which carries those that were opened in it, drains
//! until it serves again. At the first switch to iptables every second one is closed by its client and opened anew, so
//! that from then on each mode carries half of them. At the last switch to iptables all are, as connections in real life come
//! to their end; then the time until nothing of IPVS mode is left is measured. UDP flows likewise: a flow has no end that IPVS
//! could see, so that it forgets one `UDP_TIMEOUT` (`proxy.rs`) after its last datagram.

use super::report::{Run, Switched};
use super::{GLANCE, ModeSwitchArgs, PATIENCE, go_on, hold};
use crate::commands::bench::load::Load;
use crate::commands::bench::proxy::Daemon;
use crate::control::protocol::{Event, Retiring};
use crate::reconcile::{Mode, Wish};
use anyhow::{bail, ensure};
use ipvs::connections::Connection;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

/// How long the end of IPVS mode is waited for when its clients have left. What IPVS saw half-open it keeps for 120 s.
const LINGERING: Duration = Duration::from_secs(240);
/// So many of what is left then are told.
const MOST_TOLD: usize = 20;
/// Longer than any benchmark: nothing is to break because time is over.
const DRAIN: Duration = Duration::from_secs(86_400);

/// The daemon did not switch.
#[derive(Debug, thiserror::Error)]
#[error("switch {number}: {reason}")]
pub struct Refused {
    number: u32,
    reason: String,
}

/// Switches as often as asked for, and enters everything.
///
/// # Errors
/// [`Refused`] when the other mode does not work.
pub fn play(args: &ModeSwitchArgs, daemon: &Daemon, load: &Load, run: &mut Run) -> anyhow::Result<()> {
    hold(args.hold)?;
    run.period("before", Mode::Ipvs, load.cut());
    run.daemon = daemon.usage()?;
    let last_to_iptables = args.switches - (args.switches + 1) % 2;
    for number in 1..=args.switches {
        let to = if number % 2 == 1 { Mode::Iptables } else { Mode::Ipvs };
        let renew = match number {
            _ if number == last_to_iptables => Some(1),
            1 => Some(2),
            _ => None,
        };
        let switched = switch(args, daemon, load, run, Order { number, to, renew })?;
        eprintln!("bench: switch {number} to {}: {}; so far {}", to.name(), switched.in_short(), run.so_far(load));
        run.switches.push(switched);
    }
    run.daemon = daemon.usage()?;
    Ok(())
}

#[derive(Clone, Copy)]
struct Order {
    number: u32,
    to: Mode,
    /// Every so many-th talking connection is opened anew afterwards, if any.
    renew: Option<u32>,
}

fn switch(
    args: &ModeSwitchArgs,
    daemon: &Daemon,
    load: &Load,
    run: &mut Run,
    order: Order,
) -> anyhow::Result<Switched> {
    let Order { number, to, renew } = order;
    let before = daemon.usage()?;
    let asked = Instant::now();
    let events = daemon.switch(Wish::Only(to).into(), DRAIN)?;
    let mut switched = Switched::new(number, to, load.at(asked));
    let mut follow = Follow { events, asked, switched: &mut switched, over: false };
    follow.until(asked + PATIENCE, |switched| switched.in_force_ms.is_some())?;
    let name = to.name();
    ensure!(follow.switched.in_force_ms.is_some(), "switch {number}: {name} mode does not serve after {PATIENCE:?}");
    run.period(&format!("switch {number}"), to.other(), load.cut());
    follow.until(Instant::now() + args.hold, |_| false)?;
    if to == Mode::Iptables {
        // What IPVS carries is told once all of it was counted.
        let counted = |switched: &Switched| switched.drained_most > 0 || switched.gone_ms.is_some();
        follow.until(Instant::now() + PATIENCE, counted)?;
    } else {
        // Nothing of iptables mode has to drain; it takes as long as taking away the rules does.
        follow.until(Instant::now() + PATIENCE, |switched| switched.gone_ms.is_some())?;
        ensure!(follow.switched.gone_ms.is_some(), "switch {number}: the old mode is not gone after {PATIENCE:?}");
    }
    if let Some(every) = renew {
        load.renew(every);
        follow.until(Instant::now() + args.hold, |_| false)?;
        if every == 1 {
            let since = Instant::now();
            follow.until(since + LINGERING, |switched| switched.gone_ms.is_some())?;
            let ended = load.at(since) - args.hold.as_secs_f64() * 1000.0;
            follow.switched.ended_ms = follow.switched.gone_ms.map(|_| ended);
            if follow.switched.gone_ms.is_none() {
                follow.switched.left = left(daemon);
            }
        }
    }
    run.period(&format!("after {number}"), to, load.cut());
    ensure!(load.is_alive(), "the load generator has ended: {:?}", daemon.last_words(3));
    switched.take_usage(before, daemon.usage()?);
    Ok(switched)
}

/// What IPVS still has, when nobody should need it any more.
fn left(daemon: &Daemon) -> Vec<String> {
    // One to nowhere takes the place of one that was forgotten, for a second.
    let is_somewhere = |connection: &&Connection| !connection.destination.ip().is_unspecified();
    let mut left: Vec<String> = daemon.ipvs_connections().iter().filter(is_somewhere).map(told).collect();
    eprintln!("bench: IPVS is not gone {LINGERING:?} after its clients have left; it remembers {}:", left.len());
    left.truncate(MOST_TOLD);
    left.iter().for_each(|connection| eprintln!("    {connection}"));
    for family in daemon.status().into_iter().flat_map(|status| status.families) {
        if let Some(retiring) = family.retiring {
            let Retiring { connections, endpoints, failures, .. } = retiring;
            eprintln!(
                "    the daemon tells of {connections} to {endpoints} endpoints ({}) {failures:?}",
                family.family
            );
        }
    }
    left
}

fn told(connection: &Connection) -> String {
    let Connection { protocol, client, server, destination, state, expires } = connection;
    let state = state.map_or_else(String::new, |state| format!(" {state:?}"));
    format!("{protocol:?} {client} to {server} at {destination}{state}, for another {expires} s")
}

struct Follow<'a> {
    events: Receiver<(Instant, Event)>,
    asked: Instant,
    switched: &'a mut Switched,
    over: bool,
}

impl Follow<'_> {
    /// Takes in events until something is so, or until then.
    fn until(&mut self, end: Instant, done: impl Fn(&Switched) -> bool) -> anyhow::Result<()> {
        while !done(self.switched) {
            let left = end.saturating_duration_since(Instant::now());
            if self.over {
                return hold(left);
            }
            go_on()?;
            match self.events.recv_timeout(left.min(GLANCE)) {
                Ok((at, event)) => self.take(at, event)?,
                Err(RecvTimeoutError::Timeout) if left > GLANCE => {}
                Err(RecvTimeoutError::Timeout) => return Ok(()),
                Err(RecvTimeoutError::Disconnected) if self.over => {}
                Err(RecvTimeoutError::Disconnected) => bail!("the daemon ended in the midst of a switch"),
            }
        }
        Ok(())
    }

    fn take(&mut self, at: Instant, event: Event) -> anyhow::Result<()> {
        let ms = at.saturating_duration_since(self.asked).as_secs_f64() * 1000.0;
        let switched = &mut *self.switched;
        match event {
            Event::Programmed { steps, duration_ms, services, .. } => {
                switched.programmed_ms += f64::from(u32::try_from(duration_ms).unwrap_or(u32::MAX));
                switched.steps += steps;
                switched.service_ports = switched.service_ports.max(services);
            }
            Event::Verified { .. } => switched.verified_ms = Some(ms),
            Event::InForce { .. } => switched.in_force_ms = Some(ms),
            Event::Draining { connections, .. } => switched.drained_most = switched.drained_most.max(connections),
            Event::Done => {
                self.over = true;
                switched.gone_ms = Some(ms);
            }
            Event::Failed { reason } if switched.in_force_ms.is_none() => {
                bail!(Refused { number: switched.number, reason })
            }
            Event::Failed { .. } => self.over = true,
            Event::Programming { .. } | Event::Gone { .. } | Event::Status { .. } | Event::Names { .. } => {}
        }
        Ok(())
    }
}
