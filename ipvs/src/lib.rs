//! IPVS, the kernel's layer-4 load balancer, over generic netlink.
//!
//! Everything that the kernel's family `IPVS` offers, typed: virtual servers ([`Service`]), real servers
//! ([`Destination`]), synchronisation daemons ([`Daemon`]), [`Timeouts`], [`Info`], counters. No `ipvsadm`, no C
//! library, no runtime: a blocking [`Client`] that sends about a hundred [`Command`]s in one system call and tells the
//! outcome of each.
//!
//! ```no_run
//! use ipvs::{Client, Command, Destination, Protocol, Scheduler, Service, ServiceId};
//!
//! fn main() -> Result<(), Box<dyn std::error::Error>> {
//!     let mut client = Client::connect()?;
//!     let web = ServiceId::new(Protocol::Tcp, "10.0.0.1".parse()?, 80);
//!     let commands = [
//!         Command::AddService(Service::new(web, Scheduler::Rr).with_persistence(10800)),
//!         Command::AddDestination { service: web, destination: Destination::new("10.1.0.1".parse()?, 8080, 1) },
//!         Command::AddDestination { service: web, destination: Destination::new("10.1.0.2".parse()?, 8080, 1) },
//!     ];
//!     for result in client.execute_batch(&commands) {
//!         match result {
//!             Err(error) if error.is_already_there() => println!("{error}"),
//!             result => result?,
//!         }
//!     }
//!     for entry in client.services()? {
//!         println!("{}: {} connections so far", entry.service, entry.stats.connections);
//!         for destination in client.destinations(&entry.service.id)? {
//!             println!("  -> {}", destination.destination);
//!         }
//!     }
//!     Ok(())
//! }
//! ```
//!
//! - **Configuration and report are two types**: [`Service`] and [`Destination`] are what one writes, and read back
//!   equal; [`ServiceEntry`] and [`DestinationEntry`] add counters and whatever this crate does not know.
//! - **Errors** keep the errno and say what was tried on what: `add service TCP 10.0.0.1:80 rr: the virtual server is
//!   there already: File exists (os error 17)`. A command whose outcome is unknown is never reported as done.
//! - A client belongs to **the network namespace of the thread** that made it, and needs `CAP_NET_ADMIN` there. The
//!   kernel loads `ip_vs` and the schedulers' modules by itself.
//! - [`connections`] reads the connection table, [`templates`] which client stays with which destination; [`sync`] is the
//!   protocol by which the table can be changed.
//! - [`proc`] reads the whole table in one pass, which is much faster than one dump for each virtual server.
//! - [`message`] is the wire format by itself, for programs with a netlink connection of their own; [`netlink`] is the
//!   socket by itself, for other protocols.
#![warn(missing_docs)]

mod client;
mod command;
mod config;
pub mod connections;
mod destination;
mod encode;
mod error;
mod execute;
mod family;
mod id;
pub mod message;
pub mod netlink;
mod preload;
pub mod proc;
mod scheduler;
mod service;
mod stats;
pub mod sync;
pub mod templates;
mod wire;

pub use client::{Client, Options};
pub use command::Command;
pub use config::{Daemon, DaemonState, Info, Timeouts};
pub use destination::{Destination, DestinationEntry, ForwardMethod, Tunnel, TunnelFlags, TunnelKind};
pub use error::{Attempt, Error};
pub use execute::{Prepared, encode_commands};
pub use id::{AddressFamily, Protocol, ServiceId};
pub use netlink::Counters;
pub use scheduler::{InvalidSchedulerName, Scheduler, SchedulerName};
pub use service::{Netmask, Service, ServiceEntry, ServiceFlags};
pub use stats::Stats;
