//! `cargo bench`: what deciding and encoding cost on this processor, without a kernel: of a table of 1,000 × 5, and of one
//! change in it.
//!
//! Whole syncs, with the kernel: `cargo xtask bench sync`. Instructions, which no other work on the machine changes, and of which
//! CI sees that a change among many services costs what it does among few: `cargo xtask bench instructions`.

use criterion::measurement::WallTime;
use criterion::{BatchSize, BenchmarkGroup, Criterion, Throughput, criterion_group, criterion_main};
use iptables::{Commands, Family, Rule, Variant};
use kube_ipvs::backend::{iptables as iptables_mode, ipvs as ipvs_mode};
use kube_ipvs::commands::bench::Synthetic;
use kube_ipvs::control::names::Draining;
use kube_ipvs::control::packed;
use kube_ipvs::desired::{Builder, Desired, NodeFacts, Touched};
use kube_ipvs::model::{IpFamily, Slices};
use std::collections::BTreeSet;
use std::hint::black_box;
use std::sync::Arc;
use std::time::Instant;

const CLUSTER: Synthetic = Synthetic { services: 1000, endpoints: 5 };
const FAMILY: IpFamily = IpFamily::V4;

/// Never run.
fn commands() -> Commands {
    Commands::new(Family::V4, Variant::Nft, "iptables-restore".into(), "iptables-save".into())
}

fn builder() -> Builder {
    let mut builder = Builder::new(Arc::new(CLUSTER.settings(true)));
    builder.update(&CLUSTER.snapshot(), &NodeFacts::default(), Instant::now());
    builder
}

/// Two states that differ in one endpoint, and what the change touches.
fn change() -> [(Desired, BTreeSet<kube_ipvs::desired::ServicePortKey>); 2] {
    let (mut builder, mut snapshot) = (builder(), CLUSTER.snapshot());
    [1, 2].map(|number| {
        CLUSTER.replace_with(&mut snapshot, 500, number);
        let change = builder.update(&snapshot, &NodeFacts::default(), Instant::now());
        (builder.desired().get(FAMILY).clone(), change.ports.get(FAMILY).iter().cloned().collect())
    })
}

fn desired(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("desired");
    group.throughput(Throughput::Elements(CLUSTER.services.into()));
    group.bench_function("1,000 services of 5 endpoints", |bencher| {
        let snapshot = CLUSTER.snapshot();
        bencher.iter_batched(
            || Builder::new(Arc::new(CLUSTER.settings(true))),
            |mut builder| builder.update(&snapshot, &NodeFacts::default(), Instant::now()),
            BatchSize::LargeInput,
        );
    });
    group.throughput(Throughput::Elements(1));
    group.bench_function("one endpoint of them", |bencher| {
        let (mut builder, mut snapshot, mut number) = (builder(), CLUSTER.snapshot(), 0);
        bencher.iter(|| {
            number = (number + 1) % 1000;
            CLUSTER.replace_with(&mut snapshot, 500, number);
            builder.update(&snapshot, &NodeFacts::default(), Instant::now())
        });
    });
    group.finish();
}

fn syncs(criterion: &mut Criterion) {
    let (builder, commands) = (builder(), commands());
    let all = builder.desired().get(FAMILY);
    let mut group = criterion.benchmark_group("plan and write down");
    group.throughput(Throughput::Elements(CLUSTER.services.into()));
    group.bench_function("IPVS mode, everything", |bencher| {
        bencher.iter(|| ipvs_mode::Rehearsal::default().sync(&commands, FAMILY, all, Touched::All).encoded());
    });
    group.bench_function("iptables mode, everything", |bencher| {
        bencher.iter(|| iptables_mode::Rehearsal::default().sync(&commands, FAMILY, all, Touched::All));
    });
    group.throughput(Throughput::Elements(1));
    let mut mode = ipvs_mode::Rehearsal::default();
    one_change(&mut group, "IPVS mode, one endpoint", all, |desired, touched| {
        drop(black_box(mode.sync(&commands, FAMILY, desired, touched).encoded()));
    });
    let mut mode = iptables_mode::Rehearsal::default();
    one_change(&mut group, "iptables mode, one endpoint", all, |desired, touched| {
        drop(black_box(mode.sync(&commands, FAMILY, desired, touched)));
    });
    group.finish();
}

/// After everything, one endpoint there and back.
fn one_change(
    group: &mut BenchmarkGroup<'_, WallTime>,
    name: &str,
    all: &Desired,
    mut sync: impl FnMut(&Desired, Touched<'_>),
) {
    let states = change();
    let mut turns = states.iter().cycle();
    sync(all, Touched::All);
    group.bench_function(name, |bencher| {
        bencher.iter(|| {
            let Some((desired, touched)) = turns.next() else { return };
            sync(desired, Touched::Ports(touched));
        });
    });
}

/// The kernel's table of 1,000 × 5 as text (`ip_vs_info_seq_show`).
fn table() -> String {
    let mut text = "IP Virtual Server version 1.2.1 (size=4096)\nProt LocalAddress:Port Scheduler Flags\n  -> \
                    RemoteAddress:Port Forward Weight ActiveConn InActConn\n"
        .to_owned();
    for service in 0..CLUSTER.services {
        text.push_str(&format!("TCP  {:08X}:0050 rr  \n", u32::from(CLUSTER.cluster_ip(service))));
        for endpoint in 0..CLUSTER.endpoints {
            let address = u32::from(CLUSTER.endpoint(service, endpoint));
            text.push_str(&format!("  -> {address:08X}:1F90      Masq    1      0          0         \n"));
        }
    }
    text
}

fn codecs(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("read and pack");
    group.throughput(Throughput::Elements(CLUSTER.services.into()));
    let table = table();
    group.bench_function("/proc/net/ip_vs", |bencher| bencher.iter(|| ipvs::proc::parse(black_box(&table))));
    let snapshot = CLUSTER.snapshot();
    let slices: Vec<_> = snapshot.slices.values().flat_map(Slices::values).collect();
    group.bench_function("EndpointSlices, packed", |bencher| {
        bencher.iter(|| slices.iter().collect::<Slices>());
    });
    group.bench_function("EndpointSlices, unpacked", |bencher| {
        bencher.iter(|| snapshot.slices.values().flat_map(Slices::values).count());
    });
    let pieces: Vec<Vec<u8>> = packed::pieces(&snapshot, &Draining::default()).collect();
    group.bench_function("names, told by the daemon", |bencher| {
        bencher.iter(|| packed::pieces(&snapshot, &Draining::default()).count());
    });
    group.bench_function("names, read by the tool", |bencher| {
        // A length of four bytes stands before each; the last ends with one more.
        let piece = |bytes: &Vec<u8>| {
            let (length, piece) = bytes.split_first_chunk::<4>()?;
            packed::unpack(piece.get(..usize::try_from(u32::from_le_bytes(*length)).ok()?)?).ok()
        };
        bencher.iter(|| pieces.iter().filter_map(piece).count());
    });
    group.throughput(Throughput::Elements(1));
    let rule =
        "-d 172.30.0.1/32 -p tcp -m comment --comment \"ns/web:http cluster IP\" -m tcp --dport 80 -j KUBE-SVC-A";
    group.bench_function("a rule, read", |bencher| bencher.iter(|| Rule::parse(black_box(rule))));
    group.bench_function("a rule, written", |bencher| {
        let rule = Rule::parse(rule);
        bencher.iter(|| rule.to_string());
    });
    group.finish();
}

criterion_group!(pure, desired, syncs, codecs);
criterion_main!(pure);
