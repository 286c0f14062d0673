//! How the endpoints of a Service share its traffic, where its annotations ask for something else than the default.

use super::{LentEndpoint, SCHEDULERS};
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

/// What a Service asks for. The default asks for nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Balancing {
    /// IPVS scheduler; one of [`SCHEDULERS`].
    pub scheduler: Option<Arc<str>>,
    /// `sh` and `mh`: the client's port counts as well as its address.
    pub source_port: bool,
    /// IPVS balances every UDP packet by itself.
    pub one_packet: bool,
    /// Shares of the endpoints.
    pub weights: Weights,
}

impl Balancing {
    /// Whether it asks for anything that only IPVS has.
    pub fn needs_ipvs(&self) -> bool {
        self.scheduler.is_some() || self.one_packet
    }
}

/// Schedulers for which all endpoints are equal (`net/netfilter/ipvs/ip_vs_{rr,lc,dh}.c` test for weight 0 only).
const UNWEIGHTED: [&str; 3] = ["rr", "lc", "dh"];

/// Whether weights make a difference to a scheduler.
pub fn counts_weights(scheduler: &str) -> bool {
    !UNWEIGHTED.contains(&scheduler)
}

/// The scheduler that does the same with weights, where there is one.
pub fn with_weights(scheduler: &str) -> Option<&'static str> {
    let weighted = match scheduler {
        "rr" => "wrr",
        "lc" => "wlc",
        _ => return None,
    };
    SCHEDULERS.contains(&weighted).then_some(weighted)
}

/// The greatest weight; the least is 1.
pub const MAX_WEIGHT: u32 = 65_535;

/// Weights of endpoints by what they are, as a list: `zone:eu-1a=3,pod:web-0=5,*=1`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Weights(Vec<(Whose, u32)>);

/// Whose weight it is. What is more particular comes first, and counts before what is less so.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Whose {
    Address(IpAddr),
    Pod(Arc<str>),
    Node(Arc<str>),
    Zone(Arc<str>),
    Everybody,
}

impl Whose {
    fn is(&self, endpoint: &LentEndpoint<'_>) -> bool {
        match self {
            Self::Address(address) => *address == endpoint.address,
            Self::Pod(name) => endpoint.pod == Some(&**name),
            Self::Node(name) => endpoint.node == Some(&**name),
            Self::Zone(name) => endpoint.zone == Some(&**name),
            Self::Everybody => true,
        }
    }

    fn read(text: &str) -> Option<Self> {
        let named = |name: &str| (!name.is_empty()).then(|| name.into());
        match text.split_once(':') {
            _ if text == "*" => Some(Self::Everybody),
            Some(("pod", name)) => named(name).map(Self::Pod),
            Some(("node", name)) => named(name).map(Self::Node),
            Some(("zone", name)) => named(name).map(Self::Zone),
            _ => super::parse_address(text).ok().map(Self::Address),
        }
    }
}

/// What of a list of weights cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WeightsError {
    /// Not of the form `WHOSE=WEIGHT`.
    #[error("{0:?} is not WHOSE=WEIGHT")]
    Form(String),
    /// The part before the equals sign.
    #[error("{0:?} is not an IP address, pod:NAME, node:NAME, zone:NAME or *")]
    Whose(String),
    /// The part behind it.
    #[error("{weight:?}, the weight of {whose}, is not a whole number from 1 to {MAX_WEIGHT}")]
    Weight {
        /// The part before the equals sign.
        whose: String,
        /// The part behind it.
        weight: String,
    },
    /// One stands there twice.
    #[error("{0} has two weights")]
    Twice(String),
}

impl Weights {
    /// Reads a list. White space around its parts does not matter; an empty one has no weights.
    ///
    /// # Errors
    /// The first part that makes no sense.
    pub fn read(text: &str) -> Result<Self, WeightsError> {
        let mut weights: Vec<(Whose, u32)> = Vec::new();
        for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
            let (whose, weight) = part.split_once('=').ok_or_else(|| WeightsError::Form(part.to_owned()))?;
            let (name, weight) = (whose.trim(), weight.trim());
            let whose = Whose::read(name).ok_or_else(|| WeightsError::Whose(name.to_owned()))?;
            let number = weight.parse().ok().filter(|number| (1..=MAX_WEIGHT).contains(number));
            let error = || WeightsError::Weight { whose: name.to_owned(), weight: weight.to_owned() };
            let number = number.ok_or_else(error)?;
            if weights.iter().any(|(known, _)| *known == whose) {
                return Err(WeightsError::Twice(name.to_owned()));
            }
            weights.push((whose, number));
        }
        weights.sort_unstable();
        Ok(Self(weights))
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The weight of an endpoint, if any is meant for it.
    pub fn of(&self, endpoint: &LentEndpoint<'_>) -> Option<u32> {
        self.0.iter().find(|(whose, _)| whose.is(endpoint)).map(|(_, weight)| *weight)
    }
}

impl fmt::Display for Weights {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (whose, weight)) in self.0.iter().enumerate() {
            f.write_str(if index > 0 { "," } else { "" })?;
            match whose {
                Whose::Address(address) => write!(f, "{address}={weight}")?,
                Whose::Pod(name) => write!(f, "pod:{name}={weight}")?,
                Whose::Node(name) => write!(f, "node:{name}={weight}")?,
                Whose::Zone(name) => write!(f, "zone:{name}={weight}")?,
                Whose::Everybody => write!(f, "*={weight}")?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Endpoint;

    fn endpoint(address: &str, pod: &str, node: &str, zone: &str) -> Endpoint {
        Endpoint {
            address: address.parse().unwrap(),
            ready: true,
            serving: true,
            terminating: false,
            node: Some(node.into()),
            zone: Some(zone.into()),
            hints: None,
            pod: Some(pod.into()),
            weight: None,
        }
    }

    #[test]
    fn what_is_more_particular_counts() {
        let text = "*=2, zone:b = 3,node:n1=4 ,pod:web-0=5,10.0.0.9=6,fd00::9=7,";
        let weights = Weights::read(text).unwrap();
        let of = |address, pod, node, zone| weights.of(&(&endpoint(address, pod, node, zone)).into()).unwrap();
        assert_eq!(of("10.0.0.1", "web-1", "n2", "a"), 2);
        assert_eq!(of("10.0.0.1", "web-1", "n2", "b"), 3);
        assert_eq!(of("10.0.0.1", "web-1", "n1", "b"), 4);
        assert_eq!(of("10.0.0.1", "web-0", "n1", "b"), 5);
        assert_eq!(of("10.0.0.9", "web-0", "n1", "b"), 6);
        assert_eq!(of("fd00::9", "web-0", "n1", "b"), 7);
        assert_eq!(weights.to_string(), "10.0.0.9=6,fd00::9=7,pod:web-0=5,node:n1=4,zone:b=3,*=2");
        assert_eq!(Weights::read(&weights.to_string()).as_ref(), Ok(&weights));
        assert!(Weights::read("pod:web-0=5").unwrap().of(&(&endpoint("10.0.0.1", "web-1", "n", "z")).into()).is_none());
        assert!(Weights::read(" , ").unwrap().is_empty());
    }

    #[test]
    fn what_makes_no_sense_is_named() {
        for (text, expected) in [
            ("3", "\"3\" is not WHOSE=WEIGHT"),
            ("web-0=3", "\"web-0\" is not an IP address, pod:NAME, node:NAME, zone:NAME or *"),
            ("pod:=3", "\"pod:\" is not an IP address, pod:NAME, node:NAME, zone:NAME or *"),
            ("*=1,zone:a=0", "\"0\", the weight of zone:a, is not a whole number from 1 to 65535"),
            ("*=-1", "\"-1\", the weight of *, is not a whole number from 1 to 65535"),
            ("*=65536", "\"65536\", the weight of *, is not a whole number from 1 to 65535"),
            ("10.0.0.1=1,10.0.0.01=2", "10.0.0.01 has two weights"),
        ] {
            assert_eq!(Weights::read(text).unwrap_err().to_string(), expected);
        }
    }

    #[test]
    fn schedulers_and_weights() {
        assert!(!counts_weights("rr") && counts_weights("wrr") && counts_weights("mh"));
        assert_eq!([with_weights("rr"), with_weights("lc"), with_weights("dh")], [Some("wrr"), Some("wlc"), None]);
    }
}
