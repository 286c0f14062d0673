//! What IPVS remembers of connections that are over, while it hands over to another mode.
//!
//! IPVS remembers a connection for up to two minutes after its end. When it forgets one, it deletes what connection tracking
//! has of the same client's port and the same service address, whoever made that (`ip_vs_conn_drop_conntrack` in
//! `net/netfilter/ipvs/ip_vs_nfct.c`): if the port was used again by then, for a connection that iptables mode translates, that
//! one breaks. So what is over is forgotten before ports come again; and where one came again already, its memory is kept for
//! as long as the new connection lasts.
//!
//! Between the question whether a port came again and the end of what IPVS has, none may come: new connections from it are
//! held back for that instant ([`Pause`]).

use super::listen::{self, Listening, SYNC_ID};
use super::observed::Observed;
use super::pause::Pause;
use crate::backend::ObserveError;
use crate::kernel::conntrack::{self, ConntrackError, Flow, Tuple};
use crate::kernel::sysctl::Sysctl;
use crate::model::IpFamily;
use foldhash::{HashSet, HashSetExt as _};
use ipvs::connections::{self, Connection, TcpState};
use ipvs::{ServiceId, sync};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};
use tracing::debug;

/// Seconds that IPVS remembers a connection that both sides have closed (`tcp_timeouts`).
const TIME_WAIT: u32 = 120;
/// Seconds for which such a one is left alone: what got lost of their last words may still be sent again.
const LAST_WORDS: u32 = 10;
/// Seconds for which what must not be forgotten is remembered, from one time to the next.
const KEPT: u32 = 120;
/// What ends sooner than that may end before the next time.
const SOON: u32 = 20;
/// Seconds: the shortest that the kernel takes.
const SHORTEST: u32 = 1;

/// So many ports are held back at once: few enough that it is for much less than the second after which a client repeats its
/// SYN.
const AT_ONCE: usize = 256;
/// A tick of the kernel's clock ends what it was told to end; two, as it hears of it on a thread of its own …
const TICKS: Duration = Duration::from_millis(20);
/// … and as often as it may take on a busy machine.
const LOOKS: u32 = 20;
/// So long somebody waits: some thousand connections are told of in that time.
const PATIENCE: Duration = Duration::from_secs(1);

/// Virtual servers of ours that hand over.
pub type Retiring = Arc<HashSet<ServiceId>>;

/// How much the kernel was told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Told {
    forgotten: usize,
    kept: usize,
}

impl Told {
    fn count(&mut self, change: Change) {
        match change {
            Change::Forget => self.forgotten += 1,
            Change::Keep => self.kept += 1,
        }
    }
}

/// A time to look, and to tell.
#[derive(Debug)]
pub struct Look {
    /// Whose connections.
    pub family: IpFamily,
    /// To these virtual servers.
    pub own: Retiring,
    /// Virtual servers of the other family that hand over as well.
    pub others: Retiring,
    /// Whether the other family may follow in a moment: what can't be forgotten at once until then can wait for it.
    pub patient: bool,
    /// The settings of the kernel.
    pub sysctl: Sysctl,
    /// Somebody waits for its end: what it does not come to within a second is for the next time.
    pub hurry: Arc<AtomicBool>,
}

impl Look {
    /// The virtual servers among what is found that are recorded as ours.
    pub fn own(observed: &Observed) -> Retiring {
        let mut own = HashSet::new();
        own.extend(observed.servers.keys().filter(|id| observed.is_recorded(id)).copied());
        Arc::new(own)
    }

    /// Looks, and tells the kernel. Returns whether there may be more to be forgotten in a moment.
    ///
    /// # Errors
    /// Something can't be read, or the kernel does not listen.
    pub fn forget(&self) -> Result<bool, ObserveError> {
        let Told { forgotten, kept } = self.look_and_tell()?;
        if forgotten + kept > 0 {
            debug!(family = %self.family, forgotten, kept, "IPVS forgets connections that are over");
        }
        Ok(forgotten > 0 || self.hurry.load(Ordering::Relaxed))
    }

    /// Whether somebody has waited for so long.
    fn hurries(&self, began: Instant, patience: Duration) -> bool {
        self.hurry.load(Ordering::Relaxed) && began.elapsed() >= patience
    }

    fn look_and_tell(&self) -> Result<Told, ObserveError> {
        // Empties its set as well: an earlier run may have ended with some in it.
        let pause = Pause::open(self.family);
        let mut tracking = conntrack::Client::open().map_err(untold)?;
        let (over, mut found) = (self.over()?, Vec::new());
        // Reading is not counted: whatever it took, some are told of.
        let began = Instant::now();
        for connection in over {
            if found.len() >= AT_ONCE && self.hurries(began, PATIENCE / 2) {
                break;
            }
            if decide(&mut tracking, &connection)?.is_some() {
                found.push(connection);
            }
        }
        let mut told = Told::default();
        if found.is_empty() {
            return Listening::end_what_was_left().map(|()| told);
        }
        let mut listening = Listening::begin()?;
        let hands_over = |id: &ServiceId| self.own.contains(id) || self.others.contains(id);
        let untracked = listening.untracked(&self.sysctl, hands_over)?;
        let way = match &untracked {
            Some(_) => Way::AtOnce,
            None if self.patient => Way::NotYet,
            None => Way::Soon,
        };
        let mut pause = pause.filter(|_| way == Way::AtOnce);
        for (number, some) in found.chunks(AT_ONCE).enumerate() {
            if number > 0 && self.hurries(began, PATIENCE) {
                break;
            }
            if let Some(pause) = &mut pause {
                pause.hold(some);
            }
            let mut changes = Changes::new(way);
            for connection in some {
                if let Some(change) = decide(&mut tracking, connection)? {
                    changes.add(connection, change);
                    told.count(change);
                }
            }
            listening.tell(&sync::messages(SYNC_ID, listen::LONGEST, &changes.told))?;
            if !changes.ended.is_empty() {
                wait_for_end(&mut tracking, changes.ended)?;
            }
            if let Some(pause) = &mut pause {
                pause.release();
            }
        }
        listening.finish();
        // Before somebody else's turn, who counts on it as well.
        drop(untracked);
        drop(listening);
        Ok(told)
    }

    /// What may have to be told; what ends first comes first, as there may not be time for all.
    fn over(&self) -> Result<Vec<Connection>, ObserveError> {
        let mut found = Vec::new();
        let read = connections::for_each(connections::PATH, |connection| {
            let own = IpFamily::of(connection.server.ip()) == self.family && self.own.contains(&connection.service());
            if matters(&connection) && own {
                found.push(connection);
            }
        });
        read.map_err(|error| ObserveError::new("the connections of IPVS", error))?;
        found.sort_unstable_by_key(|connection| connection.expires);
        Ok(found)
    }
}

/// What IPVS is to do with what it remembers of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Change {
    Forget,
    Keep,
}

/// How it forgets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    /// IPVS enters no connection in connection tracking meanwhile, and so none has to be deleted there later.
    AtOnce,
    /// It is made to remember, until it can forget at once.
    NotYet,
    /// By a timeout, in which ports may come again.
    Soon,
}

/// What the kernel is to be told.
#[derive(Debug)]
struct Changes {
    way: Way,
    /// They end now.
    ended: Vec<Connection>,
    told: Vec<sync::Told>,
}

impl Changes {
    const fn new(way: Way) -> Self {
        Self { way, ended: Vec::new(), told: Vec::new() }
    }

    fn add(&mut self, connection: &Connection, change: Change) {
        let told = match (change, self.way) {
            (Change::Keep, _) => stays(connection, KEPT),
            (Change::Forget, Way::AtOnce) => {
                self.ended.push(*connection);
                nowhere(connection)
            }
            (Change::Forget, Way::NotYet) if connection.expires <= SOON => stays(connection, KEPT),
            // By the time the kernel hears of it, it may be gone, and would be made anew.
            (Change::Forget, Way::Soon) if connection.expires > SHORTEST => stays(connection, SHORTEST),
            (Change::Forget, _) => return,
        };
        self.told.push(told);
    }
}

fn stays(connection: &Connection, timeout: u32) -> sync::Told {
    let active = connection.state == Some(TcpState::Established);
    sync::Told { connection: *connection, timeout, active }
}

/// The same connection to a destination that there is not takes its place. A client's next one is balanced anew, should IPVS
/// meet it (`is_new_conn_expected`).
fn nowhere(connection: &Connection) -> sync::Told {
    let unspecified =
        if connection.server.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let destination = SocketAddr::new(unspecified, connection.destination.port());
    let connection = Connection { destination, state: Some(TcpState::TimeWait), ..*connection };
    sync::Told { connection, timeout: SHORTEST, active: true }
}

/// Whether it is over, as far as IPVS can know. `SYN_SENT` is what IPVS takes the first answer within a connection of
/// iptables mode for; those that it carries begin with `SYN_RECV`.
fn is_over(connection: &Connection) -> bool {
    matches!(connection.state, Some(TcpState::Close | TcpState::TimeWait | TcpState::SynSent))
}

/// Whether there may be something to tell of it.
fn matters(connection: &Connection) -> bool {
    let is_somewhere = !connection.destination.ip().is_unspecified();
    let is_connection = connection.state.is_some() && !connection.is_template() && is_somewhere;
    is_connection && (is_over(connection) || connection.expires <= SOON)
}

fn untold(error: ConntrackError) -> ObserveError {
    ObserveError::new("tracked connections", error)
}

/// Whether its address and port belong to a connection that connection tracking translates.
fn came_again(tracking: &mut conntrack::Client, connection: &Connection) -> Result<bool, ObserveError> {
    Ok(find(tracking, connection)?.is_some_and(|flow| flow.translated))
}

/// What connection tracking has of its address and port.
fn find(tracking: &mut conntrack::Client, connection: &Connection) -> Result<Option<Flow>, ObserveError> {
    let Connection { protocol, client: source, server: destination, .. } = *connection;
    let Ok(protocol) = u8::try_from(protocol.number()) else { return Ok(None) };
    tracking.find(&Tuple { source, destination, protocol }).map_err(untold)
}

/// Waits until IPVS has ended these. It deletes what connection tracking has of each with it, and nothing else does so soon.
fn wait_for_end(tracking: &mut conntrack::Client, mut left: Vec<Connection>) -> Result<(), ObserveError> {
    for _ in 0..LOOKS {
        thread::sleep(TICKS);
        let mut still = Vec::new();
        for connection in left {
            if find(tracking, &connection)?.is_some() {
                still.push(connection);
            }
        }
        left = still;
        if left.is_empty() {
            break;
        }
    }
    Ok(())
}

fn decide(tracking: &mut conntrack::Client, connection: &Connection) -> Result<Option<Change>, ObserveError> {
    Ok(change(connection, came_again(tracking, connection)?))
}

/// What is to become of it; `None` leaves it as it is.
fn change(connection: &Connection, came_again: bool) -> Option<Change> {
    match connection.state {
        _ if came_again => (connection.expires <= KEPT / 2).then_some(Change::Keep),
        Some(TcpState::TimeWait) => (connection.expires + LAST_WORDS <= TIME_WAIT).then_some(Change::Forget),
        _ => is_over(connection).then_some(Change::Forget),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn connection(state: TcpState, expires: u32) -> Connection {
        let place = |text: &str| text.parse().unwrap();
        Connection {
            protocol: ipvs::Protocol::Tcp,
            client: place("203.0.113.2:41000"),
            server: place("172.30.0.20:80"),
            destination: place("10.180.0.2:80"),
            state: Some(state),
            expires,
        }
    }

    #[test]
    fn what_is_over_is_forgotten_unless_its_port_came_again() {
        use TcpState::{Close, Established, FinWait, SynReceived, SynSent, TimeWait};
        let cases = [
            (Close, 9, false, Some(Change::Forget)),
            (Close, 0, false, Some(Change::Forget)),
            (TimeWait, 111, false, None),
            (TimeWait, 110, false, Some(Change::Forget)),
            (SynSent, 119, false, Some(Change::Forget)),
            (Close, 9, true, Some(Change::Keep)),
            (Close, 0, true, Some(Change::Keep)),
            (SynSent, 119, true, None),
            (FinWait, 119, false, None),
            (FinWait, 5, false, None),
            (FinWait, 5, true, Some(Change::Keep)),
            (SynReceived, 3, true, Some(Change::Keep)),
            (Established, 5, false, None),
        ];
        for (state, expires, came_again, expected) in cases {
            let connection = connection(state, expires);
            let found = if matters(&connection) { change(&connection, came_again) } else { None };
            assert_eq!(found, expected, "{state:?} {expires} {came_again}");
        }
        assert!(!matters(&Connection { state: None, ..connection(Close, 5) }), "UDP has no end");
        let template = Connection { client: "203.0.113.2:0".parse().unwrap(), ..connection(Close, 5) };
        assert!(!matters(&template));
        assert!(!matters(&nowhere(&connection(Close, 1)).connection), "it was told already");
    }
}
