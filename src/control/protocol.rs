//! The words of the control socket: a line of JSON each. docs/control-socket.md says the same for people.

use crate::model::{IpFamily, PerFamily};
use crate::reconcile::{self, Mode, State, Step, Wish};
use serde::{Deserialize, Serialize};
use std::time::{Duration, Instant};

/// The version of this protocol. A request of another one is refused.
pub const VERSION: u32 = 1;
/// The longest line that is read.
pub const LONGEST_LINE: u64 = 64 * 1024;

/// What a client sends.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// [`VERSION`].
    pub version: u32,
    /// Comes back with every answer.
    #[serde(default)]
    pub id: u64,
    /// What is asked for.
    #[serde(flatten)]
    pub ask: Ask,
}

/// What can be asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "request", rename_all = "kebab-case")]
pub enum Ask {
    /// How it stands. Answered by one [`Event::Status`].
    Status,
    /// Another mode. Answered by events until [`Event::Done`] or [`Event::Failed`].
    Switch {
        /// Which.
        mode: WishName,
        /// Where.
        #[serde(default)]
        family: Families,
        /// How long open connections of the old mode may go on; without: the daemon's `--drain-timeout`.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        drain_ms: Option<u64>,
    },
    /// The Services as people know them. Answered by one [`Event::Names`], as many lines of JSON as that says, each a
    /// [`super::names::NamedService`], and [`Event::Done`].
    Names,
    /// The same for a program of the same version: one [`Event::Names`], the pieces of [`super::packed`], and [`Event::Done`].
    PackedNames {
        /// The version of the program that asks.
        program: String,
    },
}

/// The name of a mode that can be wished for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum WishName {
    /// IPVS where it works, otherwise iptables
    Auto,
    /// IPVS
    Ipvs,
    /// iptables
    Iptables,
}

/// The families of a switch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, clap::ValueEnum)]
pub enum Families {
    /// IPv4
    #[serde(rename = "4")]
    #[value(name = "4")]
    V4,
    /// IPv6
    #[serde(rename = "6")]
    #[value(name = "6")]
    V6,
    /// All that are served
    #[default]
    #[serde(rename = "both")]
    Both,
}

/// What the daemon sends.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    /// [`VERSION`].
    pub version: u32,
    /// That of the request.
    pub id: u64,
    /// What happened.
    #[serde(flatten)]
    pub event: Event,
}

/// A family, by number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Family {
    /// IPv4.
    #[serde(rename = "4")]
    V4,
    /// IPv6.
    #[serde(rename = "6")]
    V6,
}

/// What can happen.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum Event {
    /// The new mode is being written beside the old one.
    Programming { family: Family, mode: String },
    /// The new mode has taken everything.
    Programmed { family: Family, mode: String, services: usize, steps: usize, duration_ms: u64 },
    /// The kernel was read again, and nothing was missing.
    Verified { family: Family, mode: String },
    /// The new mode serves what is new from here on.
    InForce { family: Family, mode: String },
    /// The old mode still has connections.
    Draining { family: Family, mode: String, connections: u64, endpoints: usize, left_ms: u64 },
    /// Nothing of the old mode is left.
    Gone { family: Family, mode: String },
    /// The last event of a switch that came to its end.
    Done,
    /// The last event of a request that was refused or failed.
    Failed { reason: String },
    /// How it stands.
    Status { status: Box<Status> },
    /// So many Services follow.
    Names { services: usize },
}

impl Event {
    /// Whether nothing comes after it.
    pub fn is_last(&self) -> bool {
        matches!(self, Self::Done | Self::Failed { .. } | Self::Status { .. })
    }
}

/// How the daemon stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// The daemon's version.
    pub daemon: String,
    /// Its process.
    pub pid: u32,
    /// Rounds so far.
    pub rounds: u64,
    /// For how long the round under way has been so; `null` between two.
    pub busy_ms: Option<u64>,
    /// The families that are served.
    pub families: Vec<FamilyStatus>,
}

/// How a family stands. All times are counted from now: `…_ago_ms` back, `…_left_ms` ahead.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FamilyStatus {
    /// Which.
    pub family: Family,
    /// The mode that serves.
    pub mode: String,
    /// Since when.
    pub mode_ago_ms: Option<u64>,
    /// The mode that was asked for.
    pub asked: String,
    /// Service ports that are served.
    pub services: usize,
    /// The kernel is as wanted.
    pub in_sync: bool,
    /// When the last sync ended, and how long it took.
    pub last_sync_ago_ms: Option<u64>,
    /// How long it took.
    pub last_sync_duration_ms: u64,
    /// When a sync last left nothing undone.
    pub last_success_ago_ms: Option<u64>,
    /// What the last sync could not do.
    pub failures: Vec<String>,
    /// When a sync last left something undone.
    pub last_failure_ago_ms: Option<u64>,
    /// The first of what it left.
    pub last_failure: Option<String>,
    /// Steps that put back what somebody else had changed.
    pub repaired: u64,
    /// When that was last.
    pub last_repair_ago_ms: Option<u64>,
    /// Endpoints that get no new connections while others of their Service do.
    pub draining: Vec<Draining>,
    /// Connections that those still have; 0 in iptables mode, where only connection tracking knows.
    pub draining_connections: u64,
    /// The other mode, while something of it is left.
    pub retiring: Option<Retiring>,
    /// Whether it was looked for since the daemon began; before, nobody knows whether something is left.
    #[serde(default)]
    pub retiring_known: bool,
}

/// An endpoint that drains.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Draining {
    /// `namespace/name:port`.
    pub service: String,
    /// Its address and port.
    pub endpoint: String,
    /// How long its open connections may go on.
    pub left_ms: u64,
}

/// A mode that leaves.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Retiring {
    /// Which.
    pub mode: String,
    /// Since when it takes nothing new.
    pub since_ago_ms: Option<u64>,
    /// How long its open connections may go on.
    pub left_ms: u64,
    /// Its open connections.
    pub connections: u64,
    /// Endpoints that have any.
    pub endpoints: usize,
    /// What of it would not go.
    pub failures: Vec<String>,
}

impl From<WishName> for Wish {
    fn from(name: WishName) -> Self {
        match name {
            WishName::Auto => Self::Auto,
            WishName::Ipvs => Self::Only(Mode::Ipvs),
            WishName::Iptables => Self::Only(Mode::Iptables),
        }
    }
}

impl From<Wish> for WishName {
    fn from(wish: Wish) -> Self {
        match wish {
            Wish::Auto => Self::Auto,
            Wish::Only(Mode::Ipvs) => Self::Ipvs,
            Wish::Only(Mode::Iptables) => Self::Iptables,
        }
    }
}

impl Families {
    /// As the reconciler takes them: none = all.
    pub fn list(self) -> Vec<IpFamily> {
        match self {
            Self::V4 => vec![IpFamily::V4],
            Self::V6 => vec![IpFamily::V6],
            Self::Both => Vec::new(),
        }
    }
}

impl From<IpFamily> for Family {
    fn from(family: IpFamily) -> Self {
        match family {
            IpFamily::V4 => Self::V4,
            IpFamily::V6 => Self::V6,
        }
    }
}

impl std::fmt::Display for Family {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        })
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn ago(now: Instant, then: Option<Instant>) -> Option<u64> {
    then.map(|then| millis(now.saturating_duration_since(then)))
}

impl Event {
    /// What a step of a switch is in the protocol.
    pub fn of_step(step: Step, now: Instant) -> Self {
        let name = |mode: Mode| mode.name().to_owned();
        match step {
            Step::Programming { family, mode } => Self::Programming { family: family.into(), mode: name(mode) },
            Step::Programmed { family, mode, services, steps, duration } => Self::Programmed {
                family: family.into(),
                mode: name(mode),
                services,
                steps,
                duration_ms: millis(duration),
            },
            Step::Verified { family, mode } => Self::Verified { family: family.into(), mode: name(mode) },
            Step::InForce { family, mode } => Self::InForce { family: family.into(), mode: name(mode) },
            Step::Draining { family, mode, connections, endpoints, until } => Self::Draining {
                family: family.into(),
                mode: name(mode),
                connections,
                endpoints,
                left_ms: millis(until.saturating_duration_since(now)),
            },
            Step::Gone { family, mode } => Self::Gone { family: family.into(), mode: name(mode) },
            Step::Done => Self::Done,
            Step::Failed { reason } => Self::Failed { reason },
        }
    }
}

impl Status {
    /// How the reconciler stands, in the protocol.
    pub fn of(status: &reconcile::Status, now: Instant) -> Self {
        let PerFamily { v4, v6 } = &status.families;
        let families = [(IpFamily::V4, v4), (IpFamily::V6, v6)].into_iter();
        let families = families.filter(|(family, _)| status.programmed.contains(family));
        Self {
            daemon: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            rounds: status.rounds,
            busy_ms: ago(now, status.busy_since),
            families: families.map(|(family, status)| FamilyStatus::of(family, status, now)).collect(),
        }
    }
}

impl FamilyStatus {
    fn of(family: IpFamily, status: &reconcile::FamilyStatus, now: Instant) -> Self {
        let left = |until: Instant| millis(until.saturating_duration_since(now));
        let draining = |endpoint: reconcile::DrainingEndpoint| Draining {
            service: endpoint.service.to_string(),
            endpoint: endpoint.address.to_string(),
            left_ms: left(endpoint.until),
        };
        let retirement = &status.retirement;
        let retiring = |until: Instant| Retiring {
            mode: status.mode.map_or("", |mode| mode.other().name()).to_owned(),
            since_ago_ms: ago(now, retirement.since),
            left_ms: left(until),
            connections: retirement.connections,
            endpoints: retirement.endpoints,
            failures: retirement.failures.clone(),
        };
        Self {
            family: family.into(),
            mode: status.mode.map_or("", Mode::name).to_owned(),
            mode_ago_ms: ago(now, status.mode_since),
            asked: status.wish.to_string(),
            services: status.ports,
            in_sync: status.in_sync,
            last_sync_ago_ms: ago(now, status.last_sync),
            last_sync_duration_ms: millis(status.last_duration),
            last_success_ago_ms: ago(now, status.last_success),
            failures: status.failures.clone(),
            last_failure_ago_ms: ago(now, status.last_failure.as_ref().map(|(at, _)| *at)),
            last_failure: status.last_failure.as_ref().map(|(_, what)| what.clone()),
            repaired: status.repaired,
            last_repair_ago_ms: ago(now, status.last_repair),
            draining: status.draining().map(draining).collect(),
            draining_connections: status.connections,
            retiring: match retirement.state {
                State::Until(until) => Some(retiring(until)),
                State::Waiting | State::Gone => None,
            },
            retiring_known: retirement.state != State::Waiting,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What docs/control-socket.md shows.
    #[test]
    fn lines_are_as_documented() {
        let ask = Ask::Switch { mode: WishName::Ipvs, family: Families::V4, drain_ms: Some(60_000) };
        let line = serde_json::to_string(&Request { version: VERSION, id: 7, ask }).unwrap();
        assert_eq!(line, r#"{"version":1,"id":7,"request":"switch","mode":"ipvs","family":"4","drain_ms":60000}"#);
        let short = r#"{"version":1,"request":"switch","mode":"auto"}"#;
        let request: Request = serde_json::from_str(short).unwrap();
        assert_eq!(request.ask, Ask::Switch { mode: WishName::Auto, family: Families::Both, drain_ms: None });
        let event =
            Event::Draining { family: Family::V6, mode: "ipvs".into(), connections: 3, endpoints: 2, left_ms: 5 };
        let line = serde_json::to_string(&Answer { version: VERSION, id: 7, event }).unwrap();
        assert_eq!(
            line,
            r#"{"version":1,"id":7,"event":"draining","family":"6","mode":"ipvs","connections":3,"endpoints":2,"left_ms":5}"#
        );
        assert!(serde_json::from_str::<Request>(r#"{"version":1,"request":"reboot"}"#).is_err());
    }
}
