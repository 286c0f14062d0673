//! The report's text.

use std::time::Duration;

use super::manifests::Change;
use super::services::Target;
use super::tally::{Ledger, Row, Verdict};
use super::traffic::CLIENTS;

/// One block per service port, one line per address.
pub(super) fn services(targets: &[Target], ledger: &Ledger, mode: &str) -> String {
    let clients = CLIENTS.map(|(name, what)| format!("{name} ({what})")).join(", ");
    let mut text = format!("\nAsked from {clients}, to every address of every service:\n");
    for (number, target) in targets.iter().enumerate() {
        let all = ledger.sum(|group| group.target == number);
        let affinity = if target.sticky { ", one endpoint for each client" } else { "" };
        let (name, protocol, requests, failed) = (&target.name, target.protocol, all.requests(), all.failed);
        text += &format!("\n{name} {protocol} · mode {mode} · {requests} requests, {failed} failed{affinity}\n");
        let width = target.frontends.iter().map(|at| at.address.to_string().len()).max().unwrap_or_default();
        for frontend in &target.frontends {
            let row = ledger.sum(|group| group.target == number && group.frontend == *frontend);
            let address = frontend.address.to_string();
            text += &format!("  {:<11}  {address:<width$}  {}\n", frontend.kind, counts(target, &row));
        }
        text += &format!("  {:<11}  {:<width$}  {}\n", "all", "", counts(target, &all));
    }
    text
}

/// `pod-1   83  pod-2   84  failed 0`; endpoints that got nothing are there too.
fn counts(target: &Target, row: &Row) -> String {
    let mut names: Vec<_> = target.endpoints.values().collect();
    names.sort_unstable();
    names.dedup();
    let counts = names.into_iter().map(|name| format!("{name} {:>5}", row.answered.get(name).unwrap_or(&0)));
    let mut columns: Vec<_> = counts.collect();
    columns.push(format!("failed {}", row.failed));
    columns.join("  ")
}

/// What `kube-ipvs list` prints.
pub(super) fn listing(table: &str) -> String {
    format!("\nkube-ipvs list:\n{table}")
}

/// Whether and when traffic followed a change.
pub(super) fn change(change: &Change, followed: Option<Duration>) -> String {
    match followed {
        Some(time) => format!("\n{change}: traffic followed within {:.2} s\n", time.as_secs_f64()),
        None => format!("\n{change}: traffic did not follow\n"),
    }
}

/// Who answers after the change.
pub(super) fn after_change(targets: &[Target], ledger: &Ledger) -> String {
    let width = targets.iter().map(|target| target.name.len()).max().unwrap_or_default();
    let mut text = String::new();
    for (number, target) in targets.iter().enumerate() {
        let all = ledger.sum(|group| group.target == number);
        let protocol = target.protocol.to_string();
        text += &format!("  {:<width$}  {protocol:<4}  {}\n", target.name, counts(target, &all));
    }
    text
}

/// The closing lines.
pub(super) fn verdict(verdict: &Verdict, mode: &str, time: Duration) -> String {
    let mut text = String::from("\n");
    for complaint in verdict.complaints() {
        text += &format!("NOT AS IT SHOULD BE: {complaint}\n");
    }
    let mut said = vec![if verdict.is_even() { "spread even" } else { "spread UNEVEN" }];
    if verdict.judged_affinity {
        said.push(if verdict.is_faithful() { "affinity kept" } else { "affinity NOT KEPT" });
    }
    if verdict.judged_change {
        let followed = verdict.followed();
        said.push(if followed { "traffic followed the change" } else { "traffic DID NOT FOLLOW the change" });
    }
    let sctp = if verdict.sctp > 0 { format!(" and {} SCTP", verdict.sctp) } else { String::new() };
    let (tcp, udp, failed) = (verdict.tcp, verdict.udp, verdict.failed);
    let (said, seconds) = (said.join("; "), time.as_secs_f64());
    text +=
        &format!("{tcp} TCP and {udp} UDP{sctp} requests in mode {mode}, {failed} failed; {said} ({seconds:.1} s)\n");
    text
}
