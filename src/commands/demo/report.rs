//! The report, on stdout.

use std::time::Duration;

use super::manifests::Change;
use super::proxy::Proxy;
use super::services::Target;
use super::tally::{Ledger, Row, Verdict};

/// One block per service port, one line per address.
pub(super) fn services(targets: &[Target], ledger: &Ledger, mode: &str) {
    for (number, target) in targets.iter().enumerate() {
        let all = ledger.sum(|group| group.target == number);
        let affinity = if target.sticky { ", one endpoint for each client" } else { "" };
        println!();
        println!(
            "{} {} · mode {mode} · {} requests, {} failed{affinity}",
            target.name,
            target.protocol,
            all.requests(),
            all.failed
        );
        let width = target.frontends.iter().map(|at| at.address.to_string().len()).max().unwrap_or_default();
        for frontend in &target.frontends {
            let row = ledger.sum(|group| group.target == number && group.frontend == *frontend);
            println!("  {:<11}  {:<width$}  {}", frontend.kind, frontend.address, counts(target, &row));
        }
        println!("  {:<11}  {:<width$}  {}", "all", "", counts(target, &all));
    }
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
pub(super) fn listing(table: &str) {
    println!();
    println!("kube-ipvs list:");
    print!("{table}");
}

/// Who answers after the change.
pub(super) fn change(targets: &[Target], ledger: &Ledger, change: &Change, followed: Option<Duration>) {
    println!();
    match followed {
        Some(time) => println!("{change}: traffic followed within {:.2} s", time.as_secs_f64()),
        None => println!("{change}: traffic did not follow"),
    }
    for (number, target) in targets.iter().enumerate() {
        let all = ledger.sum(|group| group.target == number);
        println!("  {} {}: {}", target.name, target.protocol, counts(target, &all));
    }
}

/// The closing lines.
pub(super) fn verdict(verdict: &Verdict, mode: &str, time: Duration) {
    println!();
    for complaint in verdict.complaints() {
        println!("NOT AS IT SHOULD BE: {complaint}");
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
    println!(
        "{} TCP and {} UDP{sctp} requests in mode {mode}, {} failed; {} ({:.1} s)",
        verdict.tcp,
        verdict.udp,
        verdict.failed,
        said.join("; "),
        time.as_secs_f64()
    );
}

/// After something went wrong.
pub(super) fn last_words(proxy: &Proxy) {
    eprintln!("the proxy's last words:\n{}", proxy.last_lines(30));
}
