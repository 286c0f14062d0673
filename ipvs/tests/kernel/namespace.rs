//! A network namespace for one test, and what the tests put into it.

use std::io::Write as _;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};

use ipvs::netlink::{Socket, SocketError, SocketOptions};
use ipvs::{Client, Command, Destination, Error, Options, Protocol, Scheduler, Service, ServiceId};
use nix::sched::{CloneFlags, unshare};

/// Runs `test` on a thread in a new network namespace, with a client there.
pub fn in_namespace(name: &str, test: impl FnOnce(&mut Client) + Send + 'static) {
    in_namespace_with(name, Options::default(), test);
}

/// One test at a time: kernels before 2026 keep the virtual servers of all namespaces in one table and number a dump's
/// rows by their place in it, so that a dump misses or repeats rows while another namespace adds or deletes some.
static ALONE: Mutex<()> = Mutex::new(());

pub fn in_namespace_with(name: &str, options: Options, test: impl FnOnce(&mut Client) + Send + 'static) {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let thread = std::thread::Builder::new().name(name.to_owned()).spawn(move || {
        if let Err(errno) = unshare(CloneFlags::CLONE_NEWNET) {
            return Some(format!("no network namespace can be made: {errno}"));
        }
        // Before any interface was up there is no local routing table, every address counts as broadcast, and the
        // kernel refuses all destinations with EINVAL.
        loopback_up();
        let mut client = match Client::connect_with(options) {
            Ok(client) => client,
            Err(error @ Error::FamilyMissing) => return Some(error.to_string()),
            Err(error) => panic!("{error}"),
        };
        test(&mut client);
        // The kernel removes a namespace some time after its last user is gone. With nothing left in it that does not
        // disturb the dumps of the next test.
        let _ = client.execute(&Command::Flush);
        None
    });
    let skipped = match thread.unwrap().join() {
        Ok(skipped) => skipped,
        Err(panic) => std::panic::resume_unwind(panic),
    };
    if let Some(reason) = skipped {
        assert!(std::env::var_os("KUBE_IPVS_REQUIRE_IPVS").is_none_or(|value| value != "1"), "{name}: {reason}");
        note(&format!("SKIPPED: {name}: {reason}"));
    }
}

/// Prints past the test harness, which swallows what passing tests print.
pub fn note(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}

pub fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}

pub fn tcp(text: &str, port: u16) -> ServiceId {
    ServiceId::new(Protocol::Tcp, address(text), port)
}

/// The `n`-th virtual server of a big table.
pub fn numbered(n: u16) -> ServiceId {
    let [high, low] = n.to_be_bytes();
    ServiceId::new(Protocol::Tcp, IpAddr::from([10, 96, high, low]), 80)
}

/// A table of virtual servers with `destinations` each.
pub fn table(services: u16, destinations: u8) -> Vec<Command> {
    let mut commands = Vec::new();
    for n in 0..services {
        let service = numbered(n);
        commands.push(Command::AddService(Service::new(service, Scheduler::Rr)));
        let [high, low] = n.to_be_bytes();
        commands.extend((0..destinations).map(|d| {
            let destination = Destination::new(IpAddr::from([10, 128 + d, high, low]), 8080, u32::from(d) + 1);
            Command::AddDestination { service, destination }
        }));
    }
    commands
}

pub fn execute(client: &mut Client, commands: &[Command]) {
    for result in client.execute_batch(commands) {
        result.unwrap();
    }
}

/// Brings `lo` up with the crate's own socket, which knows nothing of IPVS (`RTM_NEWLINK`, `IFF_UP`).
fn loopback_up() {
    let mut message = vec![0; 32];
    message[4..6].copy_from_slice(&16u16.to_ne_bytes());
    message[20..24].copy_from_slice(&1i32.to_ne_bytes());
    message[24..28].copy_from_slice(&1u32.to_ne_bytes());
    message[28..32].copy_from_slice(&1u32.to_ne_bytes());
    let mut socket = Socket::open(netlink_sys::protocols::NETLINK_ROUTE, &SocketOptions::default()).unwrap();
    let mut each = |_: u16, _: &[u8]| Ok::<(), SocketError>(());
    socket.request(message, &mut each).unwrap();
}
