//! IPVS over generic netlink.
#![warn(missing_docs)]

mod client;
mod command;
mod config;
mod destination;
mod encode;
mod error;
mod family;
mod id;
pub mod message;
pub mod netlink;
pub mod proc;
mod scheduler;
mod service;
mod stats;

pub use client::{Client, Options};
pub use command::Command;
pub use config::{Daemon, DaemonState, Info, Timeouts};
pub use destination::{Destination, DestinationEntry, ForwardMethod, Tunnel, TunnelFlags, TunnelKind};
pub use error::{Attempt, Error};
pub use id::{AddressFamily, Protocol, ServiceId};
pub use netlink::Counters;
pub use scheduler::{InvalidSchedulerName, Scheduler, SchedulerName};
pub use service::{Netmask, Service, ServiceEntry, ServiceFlags};
pub use stats::Stats;
