//! The only way into the kernel's connection table is IPVS's synchronisation protocol. For an instant the kernel is a backup
//! that listens on the loopback device, and is told of connections ([`ipvs::sync`]). What is lost is told again next time.

use crate::backend::ObserveError;
use crate::kernel::sysctl::Sysctl;
use ipvs::{Client, Command, Daemon, DaemonState, ServiceId};
use socket2::{Domain, Socket, Type};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;
use tracing::warn;

/// The device, group, port and number by which a daemon is known to be ours, after a kill as well.
const DEVICE: &str = "lo";
/// Of the addresses for what stays within a site.
const GROUP: Ipv4Addr = Ipv4Addr::new(239, 255, 107, 118);
const PORT: u16 = 8849;
/// Its number.
pub const SYNC_ID: u8 = 107;
/// The kernel takes a buffer of that size.
pub const LONGEST: u16 = 8192;

/// So many messages fit into the kernel's receive buffer, whatever is accounted for each.
const AT_ONCE: usize = 8;
/// Time for the kernel to take them …
const PAUSE: Duration = Duration::from_millis(10);
/// … and the last of them, before it no longer listens.
const LAST_PAUSE: Duration = Duration::from_millis(100);

/// Whether IPVS enters its connections in connection tracking.
const TRACKING: &str = "net/ipv4/vs/conntrack";

static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// The kernel listens.
#[derive(Debug)]
pub struct Listening {
    client: Client,
    socket: Socket,
    sent: usize,
    _turn: MutexGuard<'static, ()>,
}

impl Listening {
    /// Has the kernel listen, in the network namespace of the calling thread. It can listen to one at a time: waits for whoever
    /// else is at it.
    ///
    /// # Errors
    /// The kernel does not listen, as it listens to somebody else already, say.
    pub fn begin() -> Result<Self, ObserveError> {
        let turn = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
        let socket = Socket::new(Domain::IPV4, Type::DGRAM, None).map_err(untold)?;
        socket.set_multicast_if_v4(&Ipv4Addr::LOCALHOST).map_err(untold)?;
        let mut client = Client::connect().map_err(unread)?;
        match client.execute(&Command::StartDaemon(daemon())) {
            Err(error) if !(error.is_already_there() && is_running(&mut client)) => {
                Err(ObserveError::new("connections that are over: the kernel does not listen", error))
            }
            _ => Ok(Self { client, socket, sent: 0, _turn: turn }),
        }
    }

    /// Ends a daemon of ours that an earlier run left.
    ///
    /// # Errors
    /// IPVS can't be talked to.
    pub fn end_what_was_left() -> Result<(), ObserveError> {
        let _turn = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
        stop_listening(&mut Client::connect().map_err(unread)?);
        Ok(())
    }

    /// Sends what the kernel is to be told, now.
    ///
    /// # Errors
    /// It can't be sent.
    pub fn tell(&mut self, messages: &[Vec<u8>]) -> Result<(), ObserveError> {
        let group = SocketAddr::from((GROUP, PORT)).into();
        for message in messages {
            self.socket.send_to(message, &group).map_err(untold)?;
            self.sent += 1;
            if self.sent.is_multiple_of(AT_ONCE) {
                thread::sleep(PAUSE);
            }
        }
        Ok(())
    }

    /// Has IPVS enter no connection in connection tracking until the value is dropped, after [`Self::finish`]; `None`
    /// where IPVS may have to enter one meanwhile: it has a virtual server that hands nothing over.
    ///
    /// # Errors
    /// The IPVS table can't be read.
    pub fn untracked<'settings>(
        &mut self,
        sysctl: &'settings Sysctl,
        hands_over: impl Fn(&ServiceId) -> bool,
    ) -> Result<Option<Untracked<'settings>>, ObserveError> {
        let mut all = true;
        self.client.for_each_service(|entry| all &= hands_over(&entry.service.id)).map_err(unread)?;
        if !all {
            return Ok(None);
        }
        Ok(sysctl.ensure(TRACKING, "0").is_ok().then_some(Untracked { sysctl }))
    }

    /// Gives the kernel the time to take what it was told.
    pub fn finish(&self) {
        thread::sleep(LAST_PAUSE);
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        stop_listening(&mut self.client);
    }
}

/// For an instant IPVS enters no connection in connection tracking.
#[derive(Debug)]
pub struct Untracked<'settings> {
    sysctl: &'settings Sysctl,
}

impl Drop for Untracked<'_> {
    fn drop(&mut self) {
        // As IPVS mode needs it, also where an earlier run could not put it back.
        if let Err(error) = self.sysctl.ensure(TRACKING, "1") {
            warn!("{error}");
        }
    }
}

fn unread(error: ipvs::Error) -> ObserveError {
    ObserveError::new("the IPVS table", error)
}

fn untold(error: std::io::Error) -> ObserveError {
    ObserveError::new("connections that are over: telling them", error)
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
