//! Whether `kube-ipvs explain` says of a flow what its packets did, from what is wanted and from the kernel.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::Path;

use anyhow::{Context, Result};
use serde::Deserialize;

use crate::flow::{Expect, Flow, From, Source};
use crate::held::Open;
use crate::proxy::{Mode, Program, arguments};
use crate::scenario::NodeSettings;
use crate::surroundings::Surroundings;
use crate::world::World;

/// What `explain -o json` prints, as far as it is compared.
#[derive(Debug, Deserialize)]
struct Report {
    wanted: Answer,
    kernel: Answer,
    differences: Vec<String>,
    doubts: Vec<String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Answer {
    fate: String,
    endpoints: Vec<Endpoint>,
    sticks_to: Option<SocketAddr>,
    open_with: Option<SocketAddr>,
    steps: Vec<String>,
}

#[derive(Debug, Deserialize)]
struct Endpoint {
    address: SocketAddr,
    masqueraded: bool,
}

/// Everything that is asked of the program.
#[derive(Debug, Clone, Copy)]
pub struct Explain<'a> {
    /// The lab.
    pub world: &'a World,
    /// The program under test.
    pub program: Program<'a>,
    /// The surroundings.
    pub surroundings: &'a Surroundings,
    /// The node's settings.
    pub settings: &'a NodeSettings,
    /// Where the objects are.
    pub folder: &'a Path,
    /// The mode that runs.
    pub mode: Mode,
}

impl Explain<'_> {
    /// Asks about a flow; the text says where the answer is not what the packets did.
    pub fn check(&self, flow: &Flow, open: Option<&Open>) -> Result<Result<(), String>> {
        let port = open.and_then(Open::port);
        let text = self.program.run_for_output(&self.words(flow, port)?)?;
        let report: Report = serde_json::from_str(&text).with_context(|| format!("explain printed {text:?}"))?;
        let lasting = open.is_some() && flow.held.as_ref().is_some_and(|held| !held.reopen);
        let verdict = if lasting { check_open(flow, &report) } else { check_new(flow, &report) };
        Ok(verdict.map_err(|what| format!("{what}\n{}", describe(&report))))
    }

    fn words(&self, flow: &Flow, port: Option<u16>) -> Result<Vec<String>> {
        let sender = self.world.sender(flow)?;
        let from = match (&flow.from, sender.address, port) {
            (From::Node(None), _, Some(port)) => format!("node:{port}"),
            (From::Node(None), _, None) => "node".to_owned(),
            (_, Some(address), Some(port)) => SocketAddr::new(address, port).to_string(),
            (_, Some(address), None) => address.to_string(),
            (_, None, _) => "node".to_owned(),
        };
        let to = format!("{}/{}", flow.to, flow.protocol.to_string().to_lowercase());
        let mut words: Vec<String> = ["explain", &from, &to, "-o", "json"].map(str::to_owned).into();
        words.extend(flow.inject.iter().flat_map(|interface| ["--in".to_owned(), interface.clone()]));
        words.extend(["--proxy-mode".to_owned(), self.mode.as_str().to_owned()]);
        words.extend(["--manifests".to_owned(), self.folder.display().to_string()]);
        words.extend(arguments(self.surroundings, self.settings)?);
        Ok(words)
    }
}

/// A connection that was open before the step goes on where it goes.
fn check_open(flow: &Flow, report: &Report) -> Result<(), String> {
    match (&flow.expect, report.kernel.open_with) {
        (Expect::Endpoints(endpoints), Some(with)) if endpoints.contains(&with) => Ok(()),
        // Refused and dropped connections leave no entry behind; those of the node's own listener do.
        (Expect::Endpoints(_), with) => Err(format!("explain says that its connection is open with {with:?}")),
        _ => check_fate(flow, "the kernel", &report.kernel),
    }
}

fn check_new(flow: &Flow, report: &Report) -> Result<(), String> {
    check_fate(flow, "wanted", &report.wanted)?;
    check_fate(flow, "the kernel", &report.kernel)?;
    if let Some(difference) = report.differences.first() {
        return Err(format!("explain says that the kernel does otherwise than is wanted: {difference}"));
    }
    match report.doubts.first() {
        Some(doubt) => Err(format!("explain is in doubt: {doubt}")),
        None => Ok(()),
    }
}

fn check_fate(flow: &Flow, who: &str, answer: &Answer) -> Result<(), String> {
    let fate = answer.fate.as_str();
    let fine = match &flow.expect {
        Expect::Endpoints(endpoints) => return check_endpoints(flow, who, answer, endpoints),
        Expect::Reject => fate == "refused",
        Expect::Drop => matches!(fate, "dropped" | "unroutable"),
        Expect::Untouched => matches!(fate, "untouched" | "unroutable"),
        Expect::Closed => fate != "balanced" && fate != "mixed",
        // The proxy itself answers, as anybody would who listens on the node.
        Expect::Health { .. } => fate == "untouched",
    };
    if fine { Ok(()) } else { Err(format!("{who}: {fate}")) }
}

fn check_endpoints(flow: &Flow, who: &str, answer: &Answer, expected: &BTreeSet<SocketAddr>) -> Result<(), String> {
    let seen: BTreeMap<SocketAddr, bool> =
        answer.endpoints.iter().map(|endpoint| (endpoint.address, endpoint.masqueraded)).collect();
    let found: BTreeSet<SocketAddr> = seen.keys().copied().collect();
    // Asked directly, an endpoint answers without our doing.
    if *expected == BTreeSet::from([flow.to]) && answer.fate == "untouched" {
        return Ok(());
    }
    // A client that is remembered may be expected at one of them.
    let fits = if flow.affinity.is_some() { expected.is_subset(&found) } else { *expected == found };
    if answer.fate != "balanced" || !fits {
        return Err(format!("{who}: {} over {found:?}", answer.fate));
    }
    if let Some(with) = answer.sticks_to.filter(|with| flow.affinity.is_some() && !expected.contains(with)) {
        return Err(format!("{who}: the sender is said to stay with {with}"));
    }
    for (endpoint, source) in &flow.sources {
        let Some(masqueraded) = seen.get(endpoint) else { continue };
        if *masqueraded != (*source == Source::Masqueraded) {
            return Err(format!("{who}: for {endpoint} masqueraded is {masqueraded}"));
        }
    }
    Ok(())
}

fn describe(report: &Report) -> String {
    let mut text = String::new();
    for (who, answer) in [("wanted", &report.wanted), ("kernel", &report.kernel)] {
        let steps: String = answer.steps.iter().map(|step| format!("        {step}\n")).collect();
        text += &format!("    explain, {who}: {}\n{steps}", answer.fate);
    }
    text
}
