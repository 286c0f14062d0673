//! `kill -9` at random instants of a switch, and a restart: it always ends in one mode, no established connection is lost,
//! and nothing of the other mode is left.
//!
//! A few kills by default; `KUBE_IPVS_KILLS=100` asks for more, `KUBE_IPVS_SEED` for the same instants again.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "helpers of tests may fail loudly, too"
)]

mod support;

use std::thread;
use std::time::Instant;
use support::switching::{Traffic, assert_only, cluster, modes, start, switch, wait_gone};
use support::{Mode, emulated, may_run};

fn number(variable: &str, otherwise: u64) -> u64 {
    std::env::var(variable).ok().and_then(|value| value.parse().ok()).unwrap_or(otherwise)
}

#[test]
fn at_random_instants() {
    if !may_run(Mode::Ipvs) {
        return;
    }
    let kills = number("KUBE_IPVS_KILLS", if emulated() { 4 } else { 20 });
    let seed = number("KUBE_IPVS_SEED", 20_261_121);
    let mut random = fastrand::Rng::with_seed(seed);
    let cluster = cluster(Mode::Ipvs);
    let mut proxy = start(&cluster, &[]);
    // How long a switch takes here under traffic, until the old mode is retiring: without, all kills came too early.
    let traffic = Traffic::start(&cluster);
    let started = Instant::now();
    switch(&cluster, &["iptables", "--no-wait"]);
    switch(&cluster, &["ipvs", "--no-wait"]);
    let usual = started.elapsed() / 2;
    let (mut moved, mut stayed) = (0, 0);
    for kill in 0..kills {
        let from = modes(&cluster)[0].clone();
        let to = if from == "ipvs" { "iptables" } else { "ipvs" };
        // From before it is asked for until some time after it serves.
        let after = usual.mul_f64(random.f64() * 1.5);
        let asking = cluster.spawn(&["switch", to, "--no-wait"], "");
        thread::sleep(after);
        proxy.kill();
        drop(asking);
        traffic.goes_on();
        proxy = start(&cluster, &[]);
        let now = modes(&cluster);
        assert_eq!(now[0], now[1], "seed {seed}, kill {kill} after {after:?}: both families in one mode");
        assert!(now[0] == from || now[0] == to, "{now:?}");
        if now[0] == to {
            moved += 1
        } else {
            stayed += 1
        }
        let seconds = started.elapsed().as_secs();
        eprintln!("seed {seed}, kill {kill}: {after:?} after asking for {to}: {}; {seconds} s", now[0]);
        traffic.goes_on();
    }
    eprintln!("{kills} kills, {moved} switched, {stayed} not; a switch takes {usual:?}");
    let mode = if modes(&cluster)[0] == "ipvs" { Mode::Ipvs } else { Mode::Iptables };
    // Whatever failed, what is left of the other mode is looked for first.
    let ended = thread::spawn(move || traffic.end()).join();
    proxy.kill();
    let proxy = start(&cluster, &["--drain-timeout", "1s"]);
    wait_gone(&cluster);
    assert_only(&cluster, mode);
    assert!(!proxy.says(&["ERROR"]), "{}", proxy.log());
    eprintln!("nothing is left of the other mode");
    proxy.stop();
    match ended {
        Ok(counts) => eprintln!("connections, requests, datagrams, requests with affinity: {counts:?}"),
        Err(panic) => std::panic::resume_unwind(panic),
    }
}
