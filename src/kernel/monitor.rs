//! News about changes that others make: the interface, its routes and addresses, the node's addresses.
//!
//! News are hints, not truth: our own changes are among them, and they can be lost. What is lost is reported as
//! [`Change::Overflow`], after which the receiver reads the kernel again.

use std::collections::HashMap;
use std::io;
use std::time::Duration;

use futures_channel::mpsc::UnboundedReceiver;
use netlink_packet_core::{NetlinkMessage, NetlinkPayload};
use netlink_packet_route::address::AddressMessage;
use netlink_packet_route::link::{LinkAttribute, LinkFlags, LinkMessage};
use netlink_packet_route::route::RouteMessage;
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use nix::sys::socket::{setsockopt, sockopt};
use rtnetlink::MulticastGroup;
use rtnetlink::proto::Connection;
use rtnetlink::sys::{AsyncSocket, SocketAddr};
use tokio::sync::mpsc::{self, error::TrySendError};

use super::addresses::{NodeAddress, node_address};
use super::interface::{Interface, InterfaceError, LocalRoute, local_route};

/// What happened, as far as it matters to a service proxy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// The interface appeared, changed or went.
    Link {
        /// The kernel's number for it, a new one when it was made anew.
        index: u32,
        /// Whether it is there (under its name).
        present: bool,
        /// Whether it is up; routes to it go when it goes down.
        up: bool,
    },
    /// An address of the interface went.
    InterfaceAddressDeleted(NodeAddress),
    /// An address of another interface appeared or changed (also its flags and lifetime).
    NodeAddressSet(NodeAddress),
    /// An address of another interface went. Routes of ours that have it as their source stay: IPv4 ones keep the
    /// source (`fib_sync_down_addr` sees to the main table only), so that the node's own connections to services
    /// would come from an address that it has no more; IPv6 ones lose it on newer kernels. Replace them.
    NodeAddressDeleted(NodeAddress),
    /// A local route of ours to the interface went. A device that goes takes its IPv4 routes along without a word:
    /// that is [`Change::Link`].
    RouteDeleted(LocalRoute),
    /// News were lost: believe nothing.
    Overflow,
}

/// The subscription could not be made.
#[derive(Debug, thiserror::Error)]
pub enum MonitorError {
    /// The socket failed.
    #[error("subscribe to route, address and link changes: {0}")]
    Subscribe(#[from] io::Error),
    /// The interface could not be looked up.
    #[error(transparent)]
    Interface(#[from] InterfaceError),
}

const GROUPS: [MulticastGroup; 5] = [
    MulticastGroup::Link,
    MulticastGroup::Ipv4Ifaddr,
    MulticastGroup::Ipv6Ifaddr,
    MulticastGroup::Ipv4Route,
    MulticastGroup::Ipv6Route,
];
/// Room for some ten thousand notifications; the default holds a few hundred, less than one start makes.
const RECEIVE_BUFFER: usize = 8 << 20;
/// Between attempts to subscribe again.
const PAUSE: Duration = Duration::from_secs(1);

type Messages = UnboundedReceiver<(NetlinkMessage<RouteNetlinkMessage>, SocketAddr)>;

/// A subscription. It sees everything that happens after [`Monitor::open`], so read the kernel after that.
pub struct Monitor {
    interface: String,
    index: Option<u32>,
    connection: Connection<RouteNetlinkMessage>,
    messages: Messages,
}

impl std::fmt::Debug for Monitor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Monitor")
            .field("interface", &self.interface)
            .field("index", &self.index)
            .finish_non_exhaustive()
    }
}

impl Monitor {
    /// Subscribes to changes in the network namespace of the calling thread, which must be in a tokio runtime with I/O.
    ///
    /// # Errors
    /// When the subscription or the look-up of the interface fails.
    pub fn open(interface: &str) -> Result<Self, MonitorError> {
        let (connection, messages) = subscribe()?;
        // After the subscription: what happens to the interface in between is seen twice rather than never.
        let index = Interface::open(interface)?.index()?;
        Ok(Self { interface: interface.to_owned(), index, connection, messages })
    }

    /// Sends changes until the receiver is dropped. When the channel is full, changes are dropped and one
    /// [`Change::Overflow`] follows as soon as there is room: the reader need not keep up.
    pub async fn run(mut self, changes: mpsc::Sender<Change>) {
        let mut lost = false;
        loop {
            tokio::select! {
                () = changes.closed() => return,
                permit = changes.reserve(), if lost => match permit {
                    Ok(permit) => {
                        permit.send(Change::Overflow);
                        lost = false;
                    }
                    Err(_) => return,
                },
                () = &mut self.connection => {
                    lost = true;
                    self.again().await;
                }
                message = self.messages.recv() => match message {
                    Ok((message, _)) => lost |= !self.forward(message, &changes),
                    Err(_) => {
                        lost = true;
                        self.again().await;
                    }
                },
            }
        }
    }

    /// Subscribes anew after a socket failed; the namespace is that of the thread that runs this.
    async fn again(&mut self) {
        loop {
            match subscribe() {
                Ok((connection, messages)) => {
                    (self.connection, self.messages) = (connection, messages);
                    let found = Interface::open(&self.interface).and_then(|mut interface| interface.index());
                    self.index = found.unwrap_or(self.index);
                    return;
                }
                Err(error) => {
                    tracing::warn!("subscribe to changes of {} again: {error}", self.interface);
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    }

    /// `false` when something was lost.
    fn forward(&mut self, message: NetlinkMessage<RouteNetlinkMessage>, changes: &mpsc::Sender<Change>) -> bool {
        let change = match message.payload {
            NetlinkPayload::InnerMessage(message) => self.change(message),
            NetlinkPayload::Overrun(_) => return false,
            _ => None,
        };
        match change.map(|change| changes.try_send(change)) {
            None | Some(Ok(())) => true,
            Some(Err(TrySendError::Full(_) | TrySendError::Closed(_))) => false,
        }
    }

    /// What a notification means to us, `None` for nothing.
    fn change(&mut self, message: RouteNetlinkMessage) -> Option<Change> {
        match message {
            RouteNetlinkMessage::NewLink(link) => self.link(&link, true),
            RouteNetlinkMessage::DelLink(link) => self.link(&link, false),
            RouteNetlinkMessage::NewAddress(address) => self.address(&address, true),
            RouteNetlinkMessage::DelAddress(address) => self.address(&address, false),
            RouteNetlinkMessage::DelRoute(route) => self.route(&route),
            _ => None,
        }
    }

    fn link(&mut self, link: &LinkMessage, present: bool) -> Option<Change> {
        // A bridge tells of its ports in the same messages: a port that leaves it is not a device that goes.
        if link.header.interface_family != AddressFamily::Unspec {
            return None;
        }
        let index = link.header.index;
        let name = link.attributes.iter().find_map(|attribute| match attribute {
            LinkAttribute::IfName(name) => Some(name.as_str()),
            _ => None,
        });
        let named = name == Some(self.interface.as_str());
        if !named && self.index != Some(index) {
            return None;
        }
        // Another name under our number: the interface was renamed, so that there is none of our name.
        let present = present && named;
        self.index = present.then_some(index);
        Some(Change::Link { index, present, up: present && link.header.flags.contains(LinkFlags::Up) })
    }

    fn address(&self, message: &AddressMessage, present: bool) -> Option<Change> {
        let ours = self.index == Some(message.header.index);
        let address = node_address(message, &HashMap::new())?;
        match (ours, present) {
            (true, true) => None,
            (true, false) => Some(Change::InterfaceAddressDeleted(address)),
            (false, true) => Some(Change::NodeAddressSet(address)),
            (false, false) => Some(Change::NodeAddressDeleted(address)),
        }
    }

    fn route(&self, message: &RouteMessage) -> Option<Change> {
        local_route(message, self.index?).map(Change::RouteDeleted)
    }
}

fn subscribe() -> io::Result<(Connection<RouteNetlinkMessage>, Messages)> {
    let (mut connection, _, messages) = rtnetlink::new_multicast_connection(&GROUPS)?;
    let socket = connection.socket_mut().socket_mut();
    if setsockopt(socket, sockopt::RcvBufForce, &RECEIVE_BUFFER).is_err() {
        // Without CAP_NET_ADMIN over the machine: as much as net.core.rmem_max allows.
        setsockopt(socket, sockopt::RcvBuf, &RECEIVE_BUFFER)?;
    }
    Ok((connection, messages))
}
