//! `bench fanout`: what the proxies of many nodes cost an API server. Each node's source runs as in `run` (its connections,
//! lists and watches), in one process; the server counts. Then a few endpoints change, and then every connection is cut at
//! once, as when an API server restarts.

use super::super::synthetic::Synthetic;
use super::server::{Server, Traffic};
use crate::model::Events;
use crate::source::cluster::{self, Access, Cluster, Interest, Timing};
use anyhow::Context;
use clap::Args;
use serde::Serialize;
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// Arguments of `bench fanout`. The result is one JSON object.
#[derive(Debug, Clone, Args)]
pub struct FanoutArgs {
    /// How many nodes
    #[arg(long, value_name = "K", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=1000))]
    nodes: u32,
    /// How many services
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    services: u32,
    /// How many endpoints each service has
    #[arg(long, value_name = "M", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=100))]
    endpoints: u32,
    /// How many endpoints are replaced
    #[arg(long, value_name = "C", default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=1000))]
    changes: u32,
}

/// For each node, on average.
#[derive(Debug, Serialize)]
struct PerNode {
    /// Requests until everything is listed and watched.
    start_requests: f64,
    /// Bytes of the answers.
    start_bytes: f64,
    /// Watches that stay open.
    watches: f64,
    /// Bytes of one changed EndpointSlice.
    bytes_per_change: f64,
}

/// After every connection was cut at once.
#[derive(Debug, Serialize)]
struct Return {
    /// From the cut to the first request, in seconds, and to the last.
    first_s: f64,
    last_s: f64,
    requests: usize,
    /// The most requests in any 100 ms: all of them, if nobody waited.
    most_in_100_ms: usize,
    /// Lists among them: watches go on where they were.
    lists: usize,
}

#[derive(Debug, Serialize)]
struct Found {
    nodes: u32,
    services: u32,
    endpoints: u32,
    per_node: PerNode,
    after_a_cut: Return,
    requests: Traffic,
}

/// Simulates.
///
/// # Errors
/// When a node did not come to know everything.
pub fn run(args: &FanoutArgs) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let found = runtime.block_on(simulate(args))?;
    println!("{}", serde_json::to_string_pretty(&found).context("writing the results")?);
    Ok(ExitCode::SUCCESS)
}

/// A watch that has lived for so long is not taken for broken when it ends.
const STEADY: Duration = Duration::from_secs(6);
const PATIENCE: Duration = Duration::from_secs(120);

async fn simulate(args: &FanoutArgs) -> anyhow::Result<Found> {
    let cluster = Synthetic { services: args.services, endpoints: args.endpoints };
    let server = Server::start(cluster).context("starting an API server")?;
    let mut nodes: Vec<Cluster> = Vec::new();
    for number in 0..args.nodes {
        let access = Access { kubeconfig: None, master: Some(format!("http://{}", server.address)) };
        let interest = Interest { node_name: format!("node-{number:04}").into(), proxy_name: None };
        nodes.push(cluster::start(access.open().await?, &interest, Timing::default(), Events::default(), true));
    }
    for node in &mut nodes {
        let listed = node.snapshots.wait_for(|snapshot| snapshot.complete);
        tokio::time::timeout(PATIENCE, listed).await.context("not everything was listed")??;
    }
    tokio::time::sleep(STEADY).await;
    let start = server.traffic();
    for number in 0..args.changes {
        server.replace_endpoint(number % args.services, args.services + number);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    let changed = server.traffic();
    let cut = Instant::now();
    server.cut();
    // Ten times the longest first wait.
    tokio::time::sleep(Duration::from_secs(16)).await;
    let end = server.traffic();
    let each = |count: u64| f64::from(u32::try_from(count).unwrap_or(u32::MAX)) / f64::from(args.nodes);
    let sum = |traffic: &Traffic, verb: &str| {
        traffic.requests.iter().filter(|(name, _)| name.starts_with(verb)).map(|(_, count)| count).sum::<u64>()
    };
    let watched = |traffic: &Traffic| traffic.bytes.get("watch endpointslices").copied().unwrap_or(0);
    let times: Vec<f64> =
        server.times().into_iter().filter(|at| *at >= cut).map(|at| at.duration_since(cut).as_secs_f64()).collect();
    Ok(Found {
        nodes: args.nodes,
        services: args.services,
        endpoints: args.endpoints,
        per_node: PerNode {
            start_requests: each(start.requests.values().sum()),
            start_bytes: each(start.bytes.values().sum()),
            watches: each(server.open_watches_before_cut()),
            bytes_per_change: each(watched(&changed) - watched(&start)) / f64::from(args.changes),
        },
        after_a_cut: Return {
            first_s: times.first().copied().unwrap_or(0.0),
            last_s: times.last().copied().unwrap_or(0.0),
            requests: times.len(),
            most_in_100_ms: most_within(&times, 0.1),
            lists: usize::try_from(sum(&end, "list") - sum(&changed, "list")).unwrap_or(usize::MAX),
        },
        requests: end,
    })
}

/// The most values within any span of that length, of ascending values.
fn most_within(times: &[f64], span: f64) -> usize {
    let within = |(index, at): (usize, &f64)| times.iter().skip(index).take_while(|later| **later < at + span).count();
    times.iter().enumerate().map(within).max().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_densest_span_is_found() {
        assert_eq!(most_within(&[0.0, 0.5, 0.55, 0.59, 0.7, 1.0], 0.1), 3);
        assert_eq!(most_within(&[], 0.1), 0);
    }
}
