//! Makes connection tracking forget UDP flows that no longer go where they should. The same for both modes: in IPVS mode
//! a connection has an entry there, too (`vs/conntrack`), and a deleted entry is what lets IPVS balance the very next
//! packet again instead of dropping it (`ip_vs_conn_uses_old_conntrack` in `net/netfilter/ipvs/ip_vs_core.c`).

use super::FlowTable;
use crate::desired::UdpFlows;
use crate::kernel::conntrack::{Client, ConntrackError, Filter, Flow};
use crate::model::IpFamily;
use std::collections::BTreeMap;
use std::net::IpAddr;

/// `IPPROTO_UDP`.
const UDP: u8 = 17;

/// With more questions than that, all UDP flows are read once instead. The kernel walks the whole table for each; what
/// it saves is handing flows over, which costs about ten times as much as passing them by.
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

    fn take_over(&mut self, family: IpFamily, flows: &UdpFlows) -> Result<usize, FlowError> {
        let mut client = self.0.take().map_or_else(Client::open, Ok)?;
        let (mut carried, mut lost) = (Vec::new(), Vec::new());
        client.dump(&Filter { protocol: Some(UDP), ..Filter::family(family) }, |flow| {
            let Flow { original, reply, translated, .. } = flow;
            if translated {
                return;
            }
            if flows.is_frontend(original.destination) {
                // IPVS enters the endpoint as the one who answers (`ip_vs_update_conntrack`); where nobody does yet, or
                // who does serves no more, the next packet is that of a new flow.
                let answered = reply.source != original.destination;
                let stale = flows.is_stale(original.destination, reply.source);
                if answered && !stale { carried.push(flow) } else { lost.push(flow) }
            } else if flows.is_frontend(reply.destination) {
                // An answer whose flow was just deleted begins one of its own, the other way round.
                lost.push(flow);
            }
        })?;
        if !lost.is_empty() {
            client.delete_all(&lost)?;
        }
        let taken = if carried.is_empty() { 0 } else { client.translate_all(&carried)? };
        self.0 = Some(client);
        Ok(taken)
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
    let mut ports: BTreeMap<u16, Vec<IpAddr>> = BTreeMap::new();
    for frontend in flows.frontends() {
        ports.entry(frontend.port()).or_default().push(frontend.ip());
    }
    let mut questions = Vec::new();
    for (port, addresses) in ports {
        let all = Filter { destination_port: Some(port), ..udp };
        // Loopback stands for all of 127.0.0.0/8, and IPv6 addresses are not filtered by the kernel (see `Filter`).
        let one_by_one = addresses.len() <= 2 && addresses.iter().all(|ip| ip.is_ipv4() && !ip.is_loopback());
        if one_by_one {
            questions.extend(addresses.into_iter().map(|ip| Filter { destination: Some(ip), ..all }));
        } else {
            questions.push(all);
        }
    }
    if questions.len() > MOST_QUESTIONS { vec![udp] } else { questions }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    fn asked(frontends: &[&str]) -> Vec<(Option<IpAddr>, Option<u16>)> {
        let each = frontends.iter().map(|frontend| (frontend.parse().unwrap(), BTreeSet::new()));
        let flows = each.collect();
        let questions = questions(IpFamily::V4, &flows);
        assert!(questions.iter().all(|question| question.protocol == Some(UDP)));
        questions.into_iter().map(|question| (question.destination, question.destination_port)).collect()
    }

    #[test]
    fn few_frontends_are_asked_for_one_by_one_and_many_at_once() {
        let ip = |text: &str| Some(text.parse::<IpAddr>().unwrap());
        assert_eq!(asked(&[]), []);
        assert_eq!(asked(&["10.0.0.1:53"]), [(ip("10.0.0.1"), Some(53))]);
        let two = asked(&["10.0.0.1:53", "10.0.0.2:53", "127.0.0.1:30053", "192.168.0.2:30053"]);
        assert_eq!(two, [(ip("10.0.0.1"), Some(53)), (ip("10.0.0.2"), Some(53)), (None, Some(30053))]);
        assert_eq!(asked(&["10.0.0.1:53", "10.0.0.2:53", "10.0.0.3:53"]), [(None, Some(53))]);
        let many = ["10.0.0.1:1", "10.0.0.1:2", "10.0.0.1:3", "10.0.0.1:4", "10.0.0.1:5"];
        assert_eq!(asked(&many), [(None, None)]);
    }
}
