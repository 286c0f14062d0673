//! The conversation with the kernel about flows.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};

use nix::errno::Errno;

use super::flow::{self, Filter, Flow};
use crate::kernel::netlink::Socket;
use crate::kernel::{IpFamily, NetlinkError};

/// `NETLINK_NETFILTER`.
const NETLINK_NETFILTER: isize = 12;
const UDP: u8 = 17;

/// What was tried with tracked connections, and why it failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{action}: {source}")]
pub struct ConntrackError {
    /// What was tried, on what.
    pub action: String,
    /// The kernel's answer.
    pub source: NetlinkError,
}

/// Connections of the network namespace of the thread that opened the client.
#[derive(Debug)]
pub struct Client {
    socket: Socket,
}

impl Client {
    /// Opens the way to the kernel's connection tracking.
    ///
    /// # Errors
    /// When no netlink socket can be opened. A kernel without ctnetlink answers the first question with an error.
    pub fn open() -> Result<Self, ConntrackError> {
        Socket::open(NETLINK_NETFILTER)
            .map(|socket| Self { socket })
            .map_err(|source| ConntrackError { action: "open a socket for connection tracking".to_owned(), source })
    }

    /// Hands over the flows that match as they arrive. The table is read without a lock: a flow that comes or goes
    /// meanwhile may be seen or not.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn dump(&mut self, filter: &Filter, mut each: impl FnMut(Flow)) -> Result<(), ConntrackError> {
        let outcome = self.socket.request(flow::dump(filter), |_, payload| {
            let found = flow::decode(payload).map_err(NetlinkError::malformed)?;
            if let Some(flow) = found.filter(|flow| filter.matches(flow)) {
                each(flow);
            }
            Ok(())
        });
        outcome.map_err(|source| ConntrackError { action: format!("list {} connections", filter.family), source })
    }

    /// Deletes a flow; `false` when it was gone already.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn delete(&mut self, flow: &Flow) -> Result<bool, ConntrackError> {
        self.delete_all(&[*flow]).map(|deleted| deleted > 0)
    }

    /// Deletes flows and returns how many there still were. One that fails does not stop the others; the first
    /// failure is returned.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn delete_all(&mut self, flows: &[Flow]) -> Result<usize, ConntrackError> {
        let mut messages: Vec<Vec<u8>> = flows.iter().map(flow::delete).collect();
        let (mut deleted, mut failure) = (0, None);
        for (result, flow) in self.socket.batch(&mut messages).into_iter().zip(flows) {
            match result {
                Ok(()) => deleted += 1,
                Err(error) if error.errno() == Some(Errno::ENOENT as i32) => {}
                Err(source) => {
                    failure.get_or_insert(ConntrackError { action: format!("delete connection {flow}"), source });
                }
            }
        }
        failure.map_or(Ok(deleted), Err)
    }

    /// Deletes the UDP flows to a service's address and port that go elsewhere than to its present endpoints, and
    /// returns how many. A flow that was not translated goes to the service's own address: it is deleted, too, unless
    /// that is among `endpoints`.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn delete_udp_flows(&mut self, service: SocketAddr, endpoints: &[IpAddr]) -> Result<usize, ConntrackError> {
        let filter = Filter {
            protocol: Some(UDP),
            destination: Some(service.ip()),
            destination_port: Some(service.port()),
            ..Filter::family(IpFamily::of(service.ip()))
        };
        let mut stale = Vec::new();
        self.dump(&filter, |flow| {
            if !endpoints.contains(&flow.reply.source.ip()) {
                stale.push(flow);
            }
        })?;
        self.delete_all(&stale)
    }

    /// As [`Self::delete_udp_flows`] for many services of one family: the table is read once.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn delete_stale_udp_flows(
        &mut self,
        family: IpFamily,
        services: &HashMap<SocketAddr, Vec<IpAddr>>,
    ) -> Result<usize, ConntrackError> {
        let mut stale = Vec::new();
        self.dump(&Filter { protocol: Some(UDP), ..Filter::family(family) }, |flow| {
            let endpoints = services.get(&flow.original.destination);
            if endpoints.is_some_and(|endpoints| !endpoints.contains(&flow.reply.source.ip())) {
                stale.push(flow);
            }
        })?;
        self.delete_all(&stale)
    }

    /// Deletes the UDP flows to a port of any of the node's addresses (a node port) that go elsewhere than to its
    /// present endpoints, and returns how many.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn delete_udp_node_port_flows(
        &mut self,
        family: IpFamily,
        node_addresses: &[IpAddr],
        port: u16,
        endpoints: &[IpAddr],
    ) -> Result<usize, ConntrackError> {
        let filter = Filter { protocol: Some(UDP), destination_port: Some(port), ..Filter::family(family) };
        let mut stale = Vec::new();
        self.dump(&filter, |flow| {
            let to_node = node_addresses.contains(&flow.original.destination.ip());
            if to_node && !endpoints.contains(&flow.reply.source.ip()) {
                stale.push(flow);
            }
        })?;
        self.delete_all(&stale)
    }
}
