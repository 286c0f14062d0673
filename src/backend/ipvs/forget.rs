//! What IPVS remembers of connections that are over, while it hands over to another mode.
//!
//! IPVS remembers a connection for up to two minutes after its end. When it forgets one, it deletes what connection tracking
//! has of the same client's port and the same service address, whoever made that (`ip_vs_conn_drop_conntrack` in
//! `net/netfilter/ipvs/ip_vs_nfct.c`): if the port was used again by then, for a connection that iptables mode translates, that
//! one breaks. So what is over is forgotten soon, before ports come again; and where one came again already, its memory is
//! kept for as long as the new connection lasts.
//!
//! The only way into the kernel's connection table is IPVS's synchronisation protocol. For an instant the kernel is a backup
//! that listens on the loopback device, and is told other timeouts ([`ipvs::sync`]). What is lost is told again next time.

use super::observed::Observed;
use crate::backend::ObserveError;
use crate::kernel::conntrack::{self, ConntrackError, Tuple};
use crate::model::IpFamily;
use foldhash::{HashSet, HashSetExt as _};
use ipvs::connections::{self, Connection, TcpState};
use ipvs::{Client, Command, Daemon, DaemonState, ServiceId, sync};
use socket2::{Domain, Socket, Type};
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};
use tracing::{debug, warn};

/// The device, group, port and number by which a daemon is known to be ours, after a kill as well.
const DEVICE: &str = "lo";
/// Of the addresses for what stays within a site.
const GROUP: Ipv4Addr = Ipv4Addr::new(239, 255, 107, 118);
const PORT: u16 = 8849;
const SYNC_ID: u8 = 107;
/// The kernel takes a buffer of that size.
const LONGEST: u16 = 8192;

/// Seconds until what was reset is forgotten: nobody has anything left to say.
const AFTER_RESET: u32 = 1;
/// Seconds until what both sides have closed is forgotten: what got lost of their last words may still be sent again.
const AFTER_END: u32 = 10;
/// Seconds for which what must not be forgotten is remembered, from one time to the next.
const KEPT: u32 = 120;
/// What ends sooner than that may end before the next time.
const SOON: u32 = 20;

/// It rests so many times as long as it took: with very many connections reading them is work …
const REST: u32 = 5;
/// … but no longer than that: what is kept must not end meanwhile.
const LONGEST_REST: Duration = Duration::from_secs(8);

/// So many messages fit into the kernel's receive buffer, whatever is accounted for each.
const AT_ONCE: usize = 8;
/// Time for the kernel to take them …
const PAUSE: Duration = Duration::from_millis(10);
/// … and the last of them, before it no longer listens.
const LAST_PAUSE: Duration = Duration::from_millis(100);

/// Has old connections forgotten, by a thread that comes to its end each time.
#[derive(Debug, Default)]
pub struct Forgetting {
    thread: Option<JoinHandle<(Duration, Option<ObserveError>)>>,
    not_before: Option<Instant>,
    /// What went wrong last time: it is told once.
    complaint: Option<String>,
}

impl Forgetting {
    /// Begins, in the network namespace of the calling thread, with the connections to virtual servers of ours; unless the last
    /// time is still under way or was a moment ago.
    ///
    /// # Errors
    /// When there can be no further thread.
    pub fn begin(&mut self, family: IpFamily, observed: &Observed) -> Result<(), ObserveError> {
        if self.is_under_way() {
            return Ok(());
        }
        self.join();
        if self.not_before.is_some_and(|instant| Instant::now() < instant) {
            return Ok(());
        }
        let mut own = HashSet::new();
        own.extend(observed.servers.keys().filter(|id| observed.is_recorded(id)).copied());
        let work = move || {
            let began = Instant::now();
            let told = forget(family, &own);
            if let Ok(Told { forgotten, kept }) = told
                && forgotten + kept > 0
            {
                debug!(%family, forgotten, kept, "IPVS forgets connections that are over");
            }
            (began.elapsed(), told.err())
        };
        let thread = thread::Builder::new().name("ipvs forget".to_owned()).spawn(work);
        self.thread = Some(thread.map_err(|error| ObserveError::new("connections that are over", error))?);
        Ok(())
    }

    /// Whether it has something to come to the end with.
    pub fn is_under_way(&self) -> bool {
        self.thread.as_ref().is_some_and(|thread| !thread.is_finished())
    }

    /// Waits for the end of what is under way, a fraction of a second where connections are not many.
    pub fn join(&mut self) {
        // A panic has been told by whoever panicked.
        let Some((took, error)) = self.thread.take().and_then(|thread| thread.join().ok()) else { return };
        self.not_before = Some(Instant::now() + took.saturating_mul(REST).min(LONGEST_REST));
        let complaint = error.map(|error| error.to_string());
        if let Some(complaint) = complaint.as_ref().filter(|_| complaint != self.complaint) {
            warn!("{complaint}: a client whose port comes again within two minutes may lose its connection");
        }
        self.complaint = complaint;
    }
}

impl Drop for Forgetting {
    /// The kernel is not to listen any longer than the program runs.
    fn drop(&mut self) {
        self.join();
    }
}

/// What the kernel was told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Told {
    forgotten: usize,
    kept: usize,
}

fn forget(family: IpFamily, own: &HashSet<ServiceId>) -> Result<Told, ObserveError> {
    let mut found = Vec::new();
    let read = connections::for_each(connections::PATH, |connection| {
        if IpFamily::of(connection.server.ip()) == family && matters(&connection) && own.contains(&connection.service())
        {
            found.push(connection);
        }
    });
    read.map_err(|error| ObserveError::new("the connections of IPVS", error))?;
    let mut told = Told { forgotten: 0, kept: 0 };
    let mut tracking = conntrack::Client::open().map_err(untold)?;
    let mut changes = Vec::new();
    for connection in found {
        let Some(timeout) = timeout_of(&connection, came_again(&mut tracking, &connection)?) else { continue };
        if timeout == KEPT {
            told.kept += 1
        } else {
            told.forgotten += 1
        }
        changes.push((connection, timeout));
    }
    tell(&changes)?;
    Ok(told)
}

/// Whether it is over, as far as IPVS can know. `SYN_SENT` is what IPVS takes the first answer within a connection of
/// iptables mode for; those that it carries begin with `SYN_RECV`.
fn is_over(connection: &Connection) -> bool {
    matches!(connection.state, Some(TcpState::Close | TcpState::TimeWait | TcpState::SynSent))
}

/// Whether its timeout may have to be another one.
fn matters(connection: &Connection) -> bool {
    connection.state.is_some() && !connection.is_template() && (is_over(connection) || connection.expires <= SOON)
}

fn untold(error: ConntrackError) -> ObserveError {
    ObserveError::new("tracked connections", error)
}

/// Whether its address and port belong to a connection that connection tracking translates.
fn came_again(tracking: &mut conntrack::Client, connection: &Connection) -> Result<bool, ObserveError> {
    let Connection { protocol, client: source, server: destination, .. } = *connection;
    let Ok(protocol) = u8::try_from(protocol.number()) else { return Ok(false) };
    let flow = tracking.find(&Tuple { source, destination, protocol }).map_err(untold)?;
    Ok(flow.is_some_and(|flow| flow.translated))
}

/// The timeout that it is to have, in seconds; `None` leaves it as it is.
fn timeout_of(connection: &Connection, came_again: bool) -> Option<u32> {
    let after = match connection.state {
        _ if came_again => return (connection.expires <= KEPT / 2).then_some(KEPT),
        Some(TcpState::TimeWait) => AFTER_END,
        _ if is_over(connection) => AFTER_RESET,
        _ => return None,
    };
    // What ends by itself in no time might be gone when the kernel is told of it, and would be made anew.
    (connection.expires > after + 1).then_some(after)
}

/// Has the kernel take these timeouts. It can listen to one at a time.
fn tell(changes: &[sync::Told]) -> Result<(), ObserveError> {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _turn = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let failed = |what| move |error: ipvs::Error| ObserveError::new(what, error);
    let mut client = Client::connect().map_err(failed("the IPVS table"))?;
    if !changes.is_empty() {
        let messages = sync::messages(SYNC_ID, LONGEST, changes);
        match client.execute(&Command::StartDaemon(daemon())) {
            Err(error) if !(error.is_already_there() && is_running(&mut client)) => {
                return Err(ObserveError::new("connections that are over: the kernel does not listen", error));
            }
            _ => {
                send(&messages).map_err(|error| ObserveError::new("connections that are over: telling them", error))?
            }
        }
    }
    stop_listening(&mut client);
    Ok(())
}

/// Ends a daemon of ours, also one that an earlier run left. Somebody else's goes on.
pub fn stop_listening(client: &mut Client) {
    if is_running(client)
        && let Err(error) = client.execute(&Command::StopDaemon(DaemonState::Backup))
    {
        warn!("{error}");
    }
}

fn daemon() -> Daemon {
    Daemon {
        max_length: Some(LONGEST),
        group: Some(IpAddr::V4(GROUP)),
        port: Some(PORT),
        ..Daemon::new(DaemonState::Backup, DEVICE, SYNC_ID.into())
    }
}

/// Whether a daemon of ours runs.
fn is_running(client: &mut Client) -> bool {
    let ours = |found: &Daemon| {
        let key = |daemon: &Daemon| (daemon.state, daemon.sync_id, daemon.group, daemon.port);
        key(found) == key(&daemon()) && found.interface == DEVICE
    };
    client.daemons().is_ok_and(|daemons| daemons.iter().any(ours))
}

fn send(messages: &[Vec<u8>]) -> io::Result<()> {
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, None)?;
    socket.set_multicast_if_v4(&Ipv4Addr::LOCALHOST)?;
    let group = SocketAddr::from((GROUP, PORT)).into();
    for some in messages.chunks(AT_ONCE) {
        for message in some {
            socket.send_to(message, &group)?;
        }
        thread::sleep(PAUSE);
    }
    thread::sleep(LAST_PAUSE);
    Ok(())
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
            (Close, 9, false, Some(AFTER_RESET)),
            // Ends by itself.
            (Close, 2, false, None),
            (TimeWait, 119, false, Some(AFTER_END)),
            (TimeWait, 11, false, None),
            (SynSent, 119, false, Some(AFTER_RESET)),
            (Close, 9, true, Some(KEPT)),
            (Close, 0, true, Some(KEPT)),
            (SynSent, 119, true, None),
            (FinWait, 119, false, None),
            (FinWait, 5, false, None),
            (FinWait, 5, true, Some(KEPT)),
            (SynReceived, 3, true, Some(KEPT)),
            (Established, 5, false, None),
        ];
        for (state, expires, came_again, expected) in cases {
            let connection = connection(state, expires);
            let found = if matters(&connection) { timeout_of(&connection, came_again) } else { None };
            assert_eq!(found, expected, "{state:?} {expires} {came_again}");
        }
        assert!(!matters(&Connection { state: None, ..connection(Close, 5) }), "UDP has no end");
        let template = Connection { client: "203.0.113.2:0".parse().unwrap(), ..connection(Close, 5) };
        assert!(!matters(&template));
    }
}
