//! Many services at once: the pieces are visible only as a whole, and quick.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Instant;

use iptables::{
    Chain, ChainName, Commands, Family, Position, Probability, Protocol, Rule, Table, Transaction, Variant, hash,
};

use crate::netns::{commands, in_netns};

const SERVICES: ChainName = ChainName::from_static("KUBE-SERVICES");
const MARK_MASQ: ChainName = ChainName::from_static("KUBE-MARK-MASQ");
const OUTPUT: ChainName = ChainName::from_static("OUTPUT");
const PREROUTING: ChainName = ChainName::from_static("PREROUTING");

fn address(first: u8, number: u32) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(first) << 24 | (number + 1))
}

/// kube-proxy's structure for `services` services with `endpoints` endpoints each.
fn cluster(services: u32, endpoints: u32) -> Vec<Chain> {
    let mut chains = vec![Chain::new(MARK_MASQ, vec![Rule::new().or_mark(0x4000)])];
    let mut entry = Chain::new(SERVICES, vec![]);
    for service in 0..services {
        let name = hash::service_port_name("bench", &format!("svc-{service}"), "http");
        let mut ladder = Chain::new(hash::service_chain(&name, "tcp"), vec![]);
        for endpoint in 0..endpoints {
            let pod = SocketAddr::new(address(10, service * endpoints + endpoint).into(), 8080);
            let chain = hash::endpoint_chain(&name, "tcp", &pod.to_string());
            let comment: std::sync::Arc<str> = format!("{name} -> {pod}").into();
            let masq = Rule::new().comment(name.as_str()).source(pod.ip()).jump(MARK_MASQ);
            let dnat = Rule::new().comment(name.as_str()).protocol(Protocol::Tcp).dnat(pod);
            chains.push(Chain::new(chain, vec![masq, dnat]));
            let step = Rule::new().comment(comment);
            let left = endpoints - endpoint;
            ladder.rules.push(if left > 1 { step.probability(Probability::one_in(left)) } else { step }.jump(chain));
        }
        let vip = address(11, service);
        let rule = Rule::new().comment(format!("{name} cluster IP")).protocol(Protocol::Tcp);
        entry.rules.push(rule.destination(std::net::IpAddr::from(vip)).destination_port(80).jump(ladder.name));
        chains.push(ladder);
    }
    chains.push(entry);
    chains
}

fn transaction(chains: &[Chain]) -> Transaction {
    let mut whole = Transaction::new();
    for chain in chains {
        whole.replace_chain(Table::Nat, chain);
    }
    for builtin in [PREROUTING, OUTPUT] {
        let jump = Rule::new().comment("kubernetes service portals").jump(SERVICES);
        whole.insert_jump(Table::Nat, builtin, Position::First, jump);
    }
    whole
}

fn cold_start(commands: &Commands, services: u32, endpoints: u32, max_chains: usize) {
    let started = Instant::now();
    let chains = cluster(services, endpoints);
    let whole = transaction(&chains);
    let built = started.elapsed();
    let rules = whole.rule_count();
    let report = commands.restore_chunked(whole, max_chains).unwrap_or_else(|error| panic!("{error}"));
    let written = started.elapsed();
    let saved = commands.save(&[Table::Nat]).unwrap();
    let read = started.elapsed();
    for chain in &chains {
        assert_eq!(saved.chain(Table::Nat, chain.name).map(iptables::SavedChain::hash), Some(chain.hash()));
    }
    let compared = started.elapsed();
    // One endpoint goes: its chain and its service's chain change.
    let change = Instant::now();
    let mut one = Transaction::new();
    let (endpoint, service) = (&chains[1], &chains[usize::try_from(endpoints).unwrap() + 1]);
    one.replace_chain(Table::Nat, &Chain::new(service.name, service.rules[1..].to_vec()));
    one.delete_chain(Table::Nat, endpoint.name);
    commands.restore(&one).unwrap();
    let changed = change.elapsed();
    assert!(commands.save(&[Table::Nat]).unwrap().chain(Table::Nat, endpoint.name).is_none());
    eprintln!(
        "{} {services} services x {endpoints}, {rules} rules, pieces of {max_chains} chains: built {built:.2?}, \
         written {:.2?} ({:.2?} in {} restores, {} bytes), read back {:.2?}, hashed twice {:.2?}; one endpoint less {changed:.2?}",
        commands.variant,
        written - built,
        report.duration,
        report.runs,
        report.bytes,
        read - written,
        compared - read,
    );
}

#[test]
fn a_cold_start_in_pieces() {
    in_netns(|| {
        for variant in [Variant::Nft, Variant::Legacy] {
            let Some(commands) = commands(variant, Family::V4) else { continue };
            cold_start(&commands, 100, 5, 60);
        }
    });
}

/// Measures: `cargo test -p iptables-rules --release --test kernel -- --ignored --nocapture cold_start`.
#[test]
#[ignore = "takes minutes; a measurement"]
fn measure_cold_start_of_5000_services() {
    for (variant, max_chains) in [
        (Variant::Nft, 100),
        (Variant::Nft, 200),
        (Variant::Nft, 300),
        (Variant::Nft, 600),
        (Variant::Nft, 1_200),
        (Variant::Legacy, usize::MAX),
        (Variant::Legacy, 5_000),
    ] {
        in_netns(move || {
            let Some(commands) = commands(variant, Family::V4) else { return };
            cold_start(&commands, 5_000, 5, max_chains);
        });
    }
}
