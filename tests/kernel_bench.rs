//! `bench table` has every figure; `bench sync --kube-proxy` with stand-ins for kube-proxy: this program itself, which has the same
//! metrics, and programs that fail. A real one is measured by hand (docs/benchmarks.md).

#![expect(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test")]

mod support;

use serde_json::Value;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use support::{Mode, in_both_modes};

const PROGRAM: &str = env!("CARGO_BIN_EXE_kube-ipvs");

in_both_modes!(a_kube_proxy_is_measured_beside_ours, one_that_fails_is_reported, one_table_has_every_figure);

/// A folder that goes when the test ends.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("kube-ipvs-stand-in-{}-{number}", std::process::id()));
        fs::create_dir(&path).unwrap();
        Self(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A program that is a shell script.
fn script(folder: &Path, text: &str) -> PathBuf {
    let path = folder.join("kube-proxy");
    fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    path
}

fn bench(mode: Mode, kube_proxy: &Path, arguments: &[&str]) -> Value {
    let mut command = Command::new(PROGRAM);
    command.args(["bench", "sync", "--services", "3", "--endpoints", "2", "--mode", mode.name(), "--output", "json"]);
    let output = command.args(["--runs", "1"]).arg("--kube-proxy").arg(kube_proxy).args(arguments).output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {errors}"))
}

fn a_kube_proxy_is_measured_beside_ours(mode: Mode) {
    let folder = Folder::new();
    let socket = folder.0.join("control.sock");
    // Whoever asks for the version gets kube-proxy's answer.
    let stand_in = script(
        &folder.0,
        &format!(
            "[ \"$1\" = --version ] && echo Kubernetes v9.8.7 && exit\n\
             exec {PROGRAM} run \"$@\" --oom-score-adj=0 --control-socket {}",
            socket.display()
        ),
    );
    let found = bench(mode, &stand_in, &["--changes", "2"]);
    assert_eq!(found["peer"], format!("kube-proxy 9.8.7, {} mode", mode.name()), "{found:#}");
    assert_eq!(found["peer_missing"], Value::Null, "{found:#}");
    for figure in [
        "peer_s",
        "peer_sync_s",
        "peer_change_ms",
        "peer_change_sync_ms",
        "peer_peak_rss_mb",
        "daemon_cold_start_s",
        "daemon_change_ms",
        "daemon_peak_rss_mb",
    ] {
        assert!(found[figure].as_f64().is_some_and(|value| value > 0.0), "{figure}: {found:#}");
    }
    let changes = found["sizes"][0]["kube_proxy"]["runs"][0]["changes"].as_array();
    assert_eq!(changes.map(Vec::len), Some(2), "{found:#}");
}

fn one_that_fails_is_reported(mode: Mode) {
    let folder = Folder::new();
    let reported = |kube_proxy: &Path| {
        let found = bench(mode, kube_proxy, &["--changes", "1", "--peer-timeout", "2"]);
        assert_eq!(found["peer_s"], Value::Null, "{found:#}");
        assert!(found["cold_start_s"].is_f64(), "ours is measured: {found:#}");
        found["peer_missing"].as_str().unwrap_or_else(|| panic!("{found:#}")).to_owned()
    };
    let plain = folder.0.join("plain");
    fs::write(&plain, "no program").unwrap();
    let reason = reported(&plain);
    assert!(reason.contains("plain: Permission denied"), "{reason}");
    let ends = script(&folder.0, "echo one; echo 'no such mode' >&2; exit 3");
    let reason = reported(&ends);
    assert!(reason.ends_with("it ended: exit status: 3; the last it said:\none\nno such mode"), "{reason}");
    let idle = script(&folder.0, "[ \"$1\" = --version ] && exit\necho waiting; exec sleep 60");
    let reason = reported(&idle);
    let expected = format!("kube-proxy, {} mode: not done after 2 s, stopped; the last it said:\nwaiting", mode.name());
    assert_eq!(reason, expected);
}

fn one_table_has_every_figure(mode: Mode) {
    let mut command = Command::new(PROGRAM);
    command.args([
        "bench",
        "table",
        "--mode",
        mode.name(),
        "--services",
        "6,10",
        "--endpoints",
        "2",
        "--output",
        "json",
    ]);
    let output = command.args(["--changes", "2", "--churn", "1", "--rest", "1"]).output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    let found: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {errors}"));
    assert!(output.status.success(), "{errors}");
    let rows = found["rows"].as_array().unwrap();
    assert_eq!(rows.iter().map(|row| row["services"].as_u64().unwrap()).collect::<Vec<_>>(), [6, 10]);
    let mut figures = vec![
        "cold_start_s",
        "floor_s",
        "peer_s",
        "change_ms",
        "change_p99_ms",
        "change_floor_ms",
        "messages_per_change",
        "churn_p99_ms",
        "audit_s",
        "audit_slice_ms",
        "daemon_mib",
        "first_packet_ms",
    ];
    if mode.name() == "ipvs" {
        figures.extend(["list_s", "ipvsadm_list_s"]);
    }
    for row in rows {
        assert_eq!(row["missing"], serde_json::json!({}), "{row:#}");
        for figure in &figures {
            assert!(row[figure].as_f64().is_some_and(|value| value > 0.0), "{figure}: {row:#}");
        }
    }
}
