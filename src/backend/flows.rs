//! Makes connection tracking forget UDP flows that no longer go where they should. The same for both modes: in IPVS mode
//! a connection has an entry there, too (`vs/conntrack`), and a deleted entry is what lets IPVS balance the very next
//! packet again instead of dropping it (`ip_vs_conn_uses_old_conntrack` in `net/netfilter/ipvs/ip_vs_core.c`).

use super::FlowTable;
use crate::desired::UdpFlows;
use crate::kernel::conntrack::{Client, ConntrackError, Filter, Flow};
use crate::model::IpFamily;
use std::collections::BTreeMap;
use std::net::SocketAddr;

/// `IPPROTO_UDP`.
const UDP: u8 = 17;

/// With more ports than that, all UDP flows are read once instead of those of each port. The kernel walks the whole
/// table each time; what it saves is handing flows over.
const MOST_QUESTIONS: usize = 4;

/// Why flows could not be made to be forgotten.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("stale UDP flows are still in the kernel's connection tracking: {0}")]
pub struct FlowError(#[from] ConntrackError);

#[cfg(test)]
impl FlowError {
    pub fn for_tests() -> Self {
        let source = crate::kernel::NetlinkError::for_tests(1);
        Self(ConntrackError { action: "list IPv4 connections".into(), source })
    }
}

/// The kernel's connection tracking in the network namespace of the thread that uses it first.
#[derive(Debug, Default)]
pub struct Conntrack(Option<Client>);

impl FlowTable for Conntrack {
    fn forget(&mut self, family: IpFamily, flows: &UdpFlows) -> Result<usize, FlowError> {
        self.delete(questions(family, flows), |flow| flows.is_stale(flow.original.destination, flow.reply.source))
    }

    fn release(&mut self, family: IpFamily, flows: &UdpFlows) -> Result<usize, FlowError> {
        // An answer that comes when its flow was just released begins one of its own, the other way round.
        let carried = |flow: &Flow| {
            !flow.translated && [flow.original, flow.reply].iter().any(|tuple| flows.is_frontend(tuple.destination))
        };
        self.delete(vec![Filter { protocol: Some(UDP), ..Filter::family(family) }], carried)
    }
}

impl Conntrack {
    fn delete(&mut self, questions: Vec<Filter>, wanted: impl Fn(&Flow) -> bool) -> Result<usize, FlowError> {
        // A socket that failed is not used again: what is left in it would be taken for the next answer.
        let mut client = self.0.take().map_or_else(Client::open, Ok)?;
        let mut found = Vec::new();
        for filter in questions {
            client.dump(&filter, |flow| {
                if wanted(&flow) {
                    found.push(flow);
                }
            })?;
        }
        let deleted = if found.is_empty() { 0 } else { client.delete_all(&found)? };
        self.0 = Some(client);
        Ok(deleted)
    }
}

/// What to ask the kernel for, so that it hands over few flows that are not of interest.
fn questions(family: IpFamily, flows: &UdpFlows) -> Vec<Filter> {
    let udp = Filter { protocol: Some(UDP), ..Filter::family(family) };
    let mut ports: BTreeMap<u16, Vec<SocketAddr>> = BTreeMap::new();
    for frontend in flows.frontends() {
        ports.entry(frontend.port()).or_default().push(frontend);
    }
    if ports.len() > MOST_QUESTIONS {
        return vec![udp];
    }
    let question = |(port, frontends): (u16, Vec<SocketAddr>)| {
        let destination = match frontends.as_slice() {
            // Loopback stands for all of 127.0.0.0/8.
            [only] if !only.ip().is_loopback() => Some(only.ip()),
            _ => None,
        };
        Filter { destination_port: Some(port), destination, ..udp }
    };
    ports.into_iter().map(question).collect()
}
