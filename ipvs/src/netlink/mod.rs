//! A blocking netlink socket for programs that configure the kernel: many messages a `send`, every error mapped to its
//! message, dumps of any size streamed, and a wait that ends.
//!
//! Nothing here knows IPVS. The same [`Socket`] serves generic netlink, rtnetlink (`NETLINK_ROUTE`) and nfnetlink
//! (`NETLINK_NETFILTER`): it takes whole messages as bytes and gives replies as bytes, so any codec fits on top.
//!
//! ```no_run
//! use ipvs::netlink::{Socket, SocketError, SocketOptions};
//!
//! # fn links(dump_request: Vec<u8>, create: Vec<Vec<u8>>) -> Result<(), SocketError> {
//! let mut socket = Socket::open(netlink_sys::protocols::NETLINK_ROUTE, &SocketOptions::default())?;
//! // One request, its replies one by one; NLM_F_DUMP in the request's flags makes it a dump.
//! socket.request::<SocketError>(dump_request, &mut |kind, payload| {
//!     println!("message type {kind}: {} bytes", payload.len());
//!     Ok(())
//! })?;
//! // Many requests, a hundred in one system call; one result for each.
//! for (index, result) in socket.batch(&create).into_iter().enumerate() {
//!     if let Err(error) = result {
//!         eprintln!("message {index}: {error}");
//!     }
//! }
//! # Ok(())
//! # }
//! ```

mod batch;
mod error;
mod frame;
mod messages;
mod request;
mod socket;

pub use error::SocketError;
pub(crate) use error::describe;
pub use messages::Messages;
pub use request::Each;
pub use socket::{Counters, Socket, SocketOptions};
