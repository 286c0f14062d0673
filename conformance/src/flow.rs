//! A flow of a scenario: from where to where, and what must come of it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use kube_ipvs::lab::Protocol;
use serde::Deserialize;
use serde_json::Value;

/// What must come of a flow.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Expect {
    /// Exactly these answer.
    Endpoints(BTreeSet<SocketAddr>),
    /// Refused at once.
    Reject,
    /// Nothing comes back.
    Drop,
    /// The proxy keeps out of it.
    Untouched,
    /// Nobody answers.
    Closed,
    /// An HTTP GET tells this.
    Health {
        /// The status.
        code: u16,
        /// The number of local endpoints in body and header.
        local_endpoints: u64,
    },
}

/// What an endpoint sees as the source.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// The sender's address.
    Preserved,
    /// An address of the node.
    Masqueraded,
}

/// Where a flow comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum From {
    /// The node, from this address or one of the kernel's choice.
    Node(Option<IpAddr>),
    /// The pod with this IPv4 address.
    Pod(IpAddr),
    /// A host outside, by name.
    Outside(String),
}

/// How connections of one client relate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Affinity {
    /// All reach one endpoint.
    SameEndpoint,
    /// They reach at least two.
    Expires,
}

/// Who answers before the step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Before {
    /// One of these.
    Endpoints(BTreeSet<SocketAddr>),
    /// Nobody: it is refused.
    Reject,
}

/// What makes a flow last across its step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Held {
    /// Who answers before.
    pub before: Before,
    /// The step, from 1, before which it is opened; its own if there is none.
    pub since_step: Option<usize>,
    /// Nothing is held: a connection before the step, and one from the same port after it.
    pub reopen: bool,
}

/// A flow.
#[derive(Debug, Clone)]
pub struct Flow {
    /// For people.
    pub name: String,
    /// The sender.
    pub from: From,
    /// The address asked.
    pub to: SocketAddr,
    /// Over which protocol.
    pub protocol: Protocol,
    /// What must come of it.
    pub expect: Expect,
    /// What endpoints must see; empty where it is not determined.
    pub sources: BTreeMap<SocketAddr, Source>,
    /// How connections relate.
    pub affinity: Option<Affinity>,
    /// Pause between connections made one by one.
    pub idle: Option<Duration>,
    /// How many connections are made one by one.
    pub rounds: Option<usize>,
    /// Each endpoint gets its share.
    pub even: bool,
    /// How many connections to make.
    pub connections: Option<usize>,
    /// The packet is put on the wire of this interface by hand.
    pub inject: Option<String>,
    /// The sender's port; 0 for any.
    pub source_port: u16,
    /// What a harness may lack.
    pub needs: Vec<String>,
    /// It lasts across the step.
    pub held: Option<Held>,
}

/// A flow as it is written.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FlowFields {
    #[serde(default)]
    pub(crate) name: String,
    from: String,
    to: String,
    expect: String,
    #[serde(default)]
    endpoints: Vec<String>,
    source: Option<OneOrEach>,
    code: Option<u16>,
    local_endpoints: Option<u64>,
    affinity: Option<String>,
    idle: Option<f64>,
    rounds: Option<usize>,
    distribution: Option<String>,
    connections: Option<usize>,
    inject: Option<String>,
    #[serde(default)]
    source_port: u16,
    #[serde(default)]
    needs: Vec<String>,
    during: Option<String>,
    since_step: Option<usize>,
    before: Option<OneOrMany>,
    #[serde(default)]
    reopen: bool,
    #[serde(default, rename = "unsure")]
    _unsure: Option<Value>,
    #[serde(flatten)]
    pub(crate) unknown: BTreeMap<String, Value>,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum OneOrEach {
    One(String),
    Each(BTreeMap<String, String>),
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum OneOrMany {
    One(String),
    Many(Vec<String>),
}

impl TryFrom<FlowFields> for Flow {
    type Error = anyhow::Error;

    fn try_from(fields: FlowFields) -> Result<Self> {
        let (to, protocol) = target(&fields.to)?;
        let endpoints = endpoints(&fields.endpoints)?;
        let sources = sources(fields.source.as_ref(), &endpoints)?;
        let expect = match fields.expect.as_str() {
            "endpoints" => {
                ensure!(!endpoints.is_empty(), "expect: endpoints, and none is listed");
                Expect::Endpoints(endpoints)
            }
            "reject" => Expect::Reject,
            "drop" => Expect::Drop,
            "untouched" => Expect::Untouched,
            "closed" => Expect::Closed,
            "health" => Expect::Health {
                code: fields.code.context("expect: health needs code")?,
                local_endpoints: fields.local_endpoints.context("expect: health needs localEndpoints")?,
            },
            other => bail!("expect: {other} is not a word of the format"),
        };
        let affinity = match fields.affinity.as_deref() {
            None => None,
            Some("same-endpoint") => Some(Affinity::SameEndpoint),
            Some("expires") => Some(Affinity::Expires),
            Some(other) => bail!("affinity: {other} is not a word of the format"),
        };
        let even = match fields.distribution.as_deref() {
            None => false,
            Some("even") => true,
            Some(other) => bail!("distribution: {other} is not a word of the format"),
        };
        let held = match (&fields.during, fields.reopen) {
            (None, false) => None,
            (during, reopen) => {
                ensure!(
                    during.as_deref().is_none_or(|during| during == "connection open across the step"),
                    "during: {during:?} is not a word of the format"
                );
                let before = before(fields.before.as_ref().context("a flow across a step needs before")?)?;
                Some(Held { before, since_step: fields.since_step, reopen })
            }
        };
        Ok(Self {
            name: fields.name,
            from: sender(&fields.from)?,
            to,
            protocol,
            expect,
            sources,
            affinity,
            idle: fields.idle.map(Duration::try_from_secs_f64).transpose().context("idle")?,
            rounds: fields.rounds,
            even,
            connections: fields.connections,
            inject: fields.inject,
            source_port: fields.source_port,
            needs: fields.needs,
            held,
        })
    }
}

impl fmt::Display for Flow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} ({} to {}/{})", self.name, self.from, self.to, self.protocol)
    }
}

impl fmt::Display for From {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Node(None) => f.write_str("node"),
            Self::Node(Some(address)) => write!(f, "node:{address}"),
            Self::Pod(address) => write!(f, "pod:{address}"),
            Self::Outside(name) => f.write_str(name),
        }
    }
}

impl fmt::Display for Expect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Endpoints(endpoints) => {
                let list: Vec<_> = endpoints.iter().map(ToString::to_string).collect();
                write!(f, "answers of {}", list.join(", "))
            }
            Self::Reject => f.write_str("a refusal at once"),
            Self::Drop => f.write_str("no answer at all"),
            Self::Untouched => f.write_str("the proxy to keep out of it"),
            Self::Closed => f.write_str("nobody to answer"),
            Self::Health { code, local_endpoints } => write!(f, "HTTP {code} with {local_endpoints} local endpoints"),
        }
    }
}

fn target(text: &str) -> Result<(SocketAddr, Protocol)> {
    let (address, protocol) = text.rsplit_once('/').with_context(|| format!("to: {text:?} has no protocol"))?;
    let address = address.parse().with_context(|| format!("to: {address:?} is no address and port"))?;
    Ok((address, protocol.parse().map_err(anyhow::Error::msg)?))
}

fn sender(text: &str) -> Result<From> {
    let address = |text: &str| text.parse::<IpAddr>().with_context(|| format!("from: {text:?} is no address"));
    Ok(match text.split_once(':') {
        Some(("node", at)) => From::Node(Some(address(at)?)),
        Some(("pod" | "remote-pod", at)) => From::Pod(address(at)?),
        Some(_) => bail!("from: {text:?} is not a place"),
        None if text == "node" => From::Node(None),
        None => From::Outside(text.to_owned()),
    })
}

fn endpoints(texts: &[String]) -> Result<BTreeSet<SocketAddr>> {
    let parse = |text: &String| text.parse().with_context(|| format!("{text:?} is no address and port"));
    texts.iter().map(parse).collect()
}

fn before(written: &OneOrMany) -> Result<Before> {
    Ok(match written {
        OneOrMany::One(word) if word == "reject" => Before::Reject,
        OneOrMany::One(one) => Before::Endpoints(endpoints(std::slice::from_ref(one))?),
        OneOrMany::Many(many) => Before::Endpoints(endpoints(many)?),
    })
}

fn sources(written: Option<&OneOrEach>, all: &BTreeSet<SocketAddr>) -> Result<BTreeMap<SocketAddr, Source>> {
    let word = |word: &str| match word {
        "preserved" => Ok(Source::Preserved),
        "masqueraded" => Ok(Source::Masqueraded),
        other => bail!("source: {other} is not a word of the format"),
    };
    match written {
        None => Ok(BTreeMap::new()),
        Some(OneOrEach::One(text)) => all.iter().map(|endpoint| Ok((*endpoint, word(text)?))).collect(),
        Some(OneOrEach::Each(each)) => {
            let parse = |key: &String| key.parse().with_context(|| format!("source: {key:?} is no endpoint"));
            each.iter().map(|(key, text)| Ok((parse(key)?, word(text)?))).collect()
        }
    }
}
