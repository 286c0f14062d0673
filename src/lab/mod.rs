//! A small cluster out of network namespaces, for the demo and for tests with real packets.
//!
//! One node, pods on it and on other nodes, clients outside: each is a network namespace of its own, wired by veth pairs
//! as real clusters wire them (pods routed, everything else behind the node's `eth0`). Nothing has a name outside of this
//! process: the namespaces are held by file descriptors alone, so they and all that is in them vanish when the process
//! ends, however it ends.
//!
//! | file | what |
//! |---|---|
//! | `netns.rs` | a namespace: run code in it, start a program in it |
//! | `route_socket.rs`, `links.rs` | rtnetlink: veth pairs, addresses, routes, neighbours |
//! | `sysctl.rs` | the settings every namespace gets, and why |
//! | `topology.rs`, `cluster.rs` | which hosts there are, and building them |
//! | `answer.rs`, `responder.rs`, `datagram.rs` | who answers on a port, and what it says about itself |
//! | `prober.rs`, `connection.rs` | asking from a namespace, thousands of times, and what came of it |

mod answer;
mod cluster;
mod connection;
mod datagram;
mod error;
mod links;
mod netns;
mod prober;
mod responder;
mod route_socket;
mod sysctl;
mod topology;

pub use answer::{Answer, Protocol};
pub use cluster::{Host, Lab};
pub use error::LabError;
pub use netns::NetNs;
pub use prober::{Finished, Outcome, Probe, Prober, Request};
pub use responder::Responder;
pub use topology::{HostSpec, Interface, Place, Topology};
