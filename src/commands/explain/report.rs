//! What `explain` found out: the two answers and how they differ. Pure data, which is also what `-o json` prints.

use crate::desired::verdict::{self, Fate, kind_of};
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

/// Everything.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// The packet.
    pub packet: Packet,
    /// What is to become of it; none where no source of Services was given.
    pub wanted: Option<Answer>,
    /// What the kernel does with it.
    pub kernel: Answer,
    /// Which modes' rules or virtual servers stand in the kernel.
    pub modes: Vec<&'static str>,
    /// Where the kernel does otherwise than is wanted.
    pub differences: Vec<String>,
    /// What could not be read or followed, so that the answer may be wrong.
    pub doubts: Vec<String>,
}

/// The packet that was asked about.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Packet {
    /// TCP, UDP or SCTP.
    pub protocol: &'static str,
    /// The sender; none where the node has no way to the destination.
    pub source: Option<IpAddr>,
    /// The sender's port, where it was given.
    pub source_port: Option<u16>,
    /// The address and port that it asks for.
    pub destination: SocketAddr,
    /// The interface by which it comes in; none for what the node itself sends.
    pub input: Option<String>,
}

/// One answer.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Answer {
    /// `refused`, `dropped`, `untouched`, `balanced`, `unroutable`; `mixed` where chance decides between these.
    pub fate: &'static str,
    /// The Service port, where it is known.
    pub service: Option<String>,
    /// The kind of address, where it is known.
    pub kind: Option<&'static str>,
    /// Who may get it.
    pub endpoints: Vec<Endpoint>,
    /// For so many seconds the sender stays with its endpoint.
    pub affinity_seconds: Option<u32>,
    /// The endpoint with which the sender stays now.
    pub sticks_to: Option<SocketAddr>,
    /// Its connection is open already, with this endpoint: none of the steps counts for it.
    pub open_with: Option<SocketAddr>,
    /// How it comes to that.
    pub steps: Vec<String>,
}

/// Who may get it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Endpoint {
    /// Where it listens.
    pub address: SocketAddr,
    /// Its share of new connections.
    pub share: f64,
    /// It sees an address of the node as the sender.
    pub masqueraded: bool,
    /// The pod behind it, where it is known.
    pub pod: Option<String>,
}

impl From<verdict::Verdict> for Answer {
    fn from(verdict: verdict::Verdict) -> Self {
        let endpoint = |chosen: verdict::Chosen| Endpoint {
            address: chosen.address,
            share: chosen.share,
            masqueraded: chosen.masqueraded,
            pod: chosen.pod.map(|pod| pod.to_string()),
        };
        let (service, kind) = verdict.service.unzip();
        Self {
            fate: match verdict.fate {
                Fate::Refused => "refused",
                Fate::Dropped => "dropped",
                Fate::Untouched => "untouched",
                Fate::Balanced => "balanced",
            },
            service,
            kind: kind.map(kind_of),
            endpoints: verdict.endpoints.into_iter().map(endpoint).collect(),
            affinity_seconds: verdict.affinity,
            sticks_to: None,
            open_with: None,
            steps: verdict.steps,
        }
    }
}

impl Answer {
    /// Takes over the names that the other answer knows.
    pub fn name_after(&mut self, named: &Self) {
        let pods: BTreeMap<SocketAddr, &Option<String>> =
            named.endpoints.iter().map(|endpoint| (endpoint.address, &endpoint.pod)).collect();
        for endpoint in &mut self.endpoints {
            endpoint.pod = pods.get(&endpoint.address).copied().cloned().flatten();
        }
    }
}

/// Where the kernel does otherwise than is wanted, each in a sentence.
pub fn differences(wanted: &Answer, kernel: &Answer) -> Vec<String> {
    let mut found = Vec::new();
    let fates = (wanted.fate, kernel.fate);
    // What has no route reaches nobody: so may what is left alone, and so does what is dropped.
    let nobody = kernel.fate == "unroutable" && matches!(wanted.fate, "untouched" | "dropped");
    if fates.0 != fates.1 && !nobody {
        found.push(format!("the packet is to be {}, and is {}", wanted.fate, kernel.fate));
    }
    let addresses = |answer: &Answer| -> BTreeMap<SocketAddr, bool> {
        answer.endpoints.iter().map(|endpoint| (endpoint.address, endpoint.masqueraded)).collect()
    };
    let (of_wanted, of_kernel) = (addresses(wanted), addresses(kernel));
    let keys: BTreeSet<&SocketAddr> = of_wanted.keys().chain(of_kernel.keys()).collect();
    for address in keys {
        match (of_wanted.get(address), of_kernel.get(address)) {
            (Some(_), None) if kernel.fate == "balanced" => {
                found.push(format!("endpoint {address} is to get connections, and gets none"));
            }
            (None, Some(_)) if wanted.fate == "balanced" => {
                found.push(format!("endpoint {address} is not to get connections, and does"));
            }
            (Some(true), Some(false)) => {
                found.push(format!("for endpoint {address} it is to be masqueraded, and is not"))
            }
            (Some(false), Some(true)) => {
                found.push(format!("for endpoint {address} it is not to be masqueraded, and is"))
            }
            _ => {}
        }
    }
    if fates == ("balanced", "balanced") && wanted.affinity_seconds != kernel.affinity_seconds {
        let seconds = |answer: &Answer| answer.affinity_seconds.map_or("none".into(), |seconds| format!("{seconds} s"));
        found.push(format!("session affinity is to be {}, and is {}", seconds(wanted), seconds(kernel)));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(fate: &'static str, endpoints: &[(&str, bool)]) -> Answer {
        let endpoint = |(address, masqueraded): &(&str, bool)| Endpoint {
            address: address.parse().unwrap(),
            share: 1.0,
            masqueraded: *masqueraded,
            pod: None,
        };
        Answer {
            fate,
            service: None,
            kind: None,
            endpoints: endpoints.iter().map(endpoint).collect(),
            affinity_seconds: None,
            sticks_to: None,
            open_with: None,
            steps: Vec::new(),
        }
    }

    #[test]
    fn differences_are_named() {
        let wanted = answer("balanced", &[("10.0.0.1:80", true), ("10.0.0.2:80", false)]);
        assert_eq!(differences(&wanted, &wanted), [""; 0]);
        let sticky = Answer { affinity_seconds: Some(9), ..wanted.clone() };
        assert_eq!(differences(&wanted, &sticky), ["session affinity is to be none, and is 9 s"]);
        let other = answer("balanced", &[("10.0.0.1:80", false), ("10.0.0.3:80", false)]);
        assert_eq!(differences(&wanted, &other).len(), 3);
        assert_eq!(differences(&wanted, &answer("dropped", &[])), ["the packet is to be balanced, and is dropped"]);
        assert_eq!(differences(&answer("untouched", &[]), &answer("unroutable", &[])), [""; 0]);
    }
}
