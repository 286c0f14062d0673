//! The static program of `cargo xtask dist`, given by the environment variable `KUBE_IPVS_DIST` or found in target/dist: it
//! is one file, small enough, and finds names by itself, in /etc/hosts and by DNS, although there is no libc beside it.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "helpers of tests may fail loudly, too"
)]

mod support;

use kube_ipvs::lab::NetNs;
use std::fs;
use std::net::UdpSocket;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use support::Api;
use support::follow::fill;

/// The program, if there is one.
fn program() -> Option<PathBuf> {
    let built = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/dist/kube-ipvs");
    let given = std::env::var_os("KUBE_IPVS_DIST").map_or(built, PathBuf::from);
    if given.is_file() {
        return Some(given);
    }
    support::skipped("no static binary is given: cargo xtask dist makes one");
    None
}

#[test]
fn it_is_one_small_file() {
    let Some(program) = program() else { return };
    let content = fs::read(&program).unwrap();
    assert!(content.len() <= 14_000_000, "{} bytes", content.len());
    let names_loader = content[..4096].windows(6).any(|window| window == b"/lib64" || window == b"/lib/l");
    assert!(!names_loader, "it names a dynamic loader");
    // Alone in its own root it still runs.
    let folder = std::env::temp_dir().join(format!("kube-ipvs-dist-{}", std::process::id()));
    fs::create_dir_all(&folder).unwrap();
    fs::copy(&program, folder.join("kube-ipvs")).unwrap();
    if nix::unistd::geteuid().is_root() {
        let output = Command::new("chroot").arg(&folder).args(["/kube-ipvs", "--version"]).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        eprintln!("{} bytes, alone in its root: {}", content.len(), String::from_utf8_lossy(&output.stdout).trim());
    }
    fs::remove_dir_all(folder).unwrap();
}

/// An API server under a name that only a DNS server of our own knows, and under one of /etc/hosts.
#[test]
fn it_finds_names() {
    let Some(program) = program() else { return };
    if !nix::unistd::geteuid().is_root() {
        return support::skipped("needs root to make network namespaces");
    }
    let ns = NetNs::create("names").unwrap();
    let mut up = Command::new("ip");
    up.args(["link", "set", "lo", "up"]);
    assert!(ns.spawn_process(up).unwrap().wait().unwrap().success());
    let dns = ns.run(|| UdpSocket::bind("127.0.0.1:53").unwrap()).unwrap();
    thread::spawn(move || answer(&dns));
    let api = ns.run(Api::start).unwrap();
    fill(&api, 0..3);
    let port = api.url().rsplit(':').next().unwrap().to_owned();
    let folder = std::env::temp_dir().join(format!("kube-ipvs-names-{}", std::process::id()));
    fs::create_dir_all(&folder).unwrap();
    fs::write(folder.join("resolv.conf"), "nameserver 127.0.0.1\n").unwrap();
    fs::write(folder.join("hosts"), "127.0.0.1 api-by-file.example\n").unwrap();
    for name in ["api-by-dns.example", "api-by-file.example"] {
        let script = format!(
            "mount --bind {0}/hosts /etc/hosts; mount --bind {0}/resolv.conf $(readlink -f /etc/resolv.conf); exec {1} plan \
             --master http://{name}:{port} --proxy-mode iptables --hostname-override node",
            folder.display(),
            program.display()
        );
        let mut command = Command::new("unshare");
        command.args(["--mount", "sh", "-ec", &script]);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let output = ns.spawn_process(command).unwrap().wait_with_output().unwrap();
        let (said, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert_eq!(output.status.code(), Some(2), "{name}: {errors}");
        assert!(said.contains("create chain nat/KUBE-SVC-"), "{name}: {said}\n{errors}");
        eprintln!("{name} was found");
    }
    fs::remove_dir_all(folder).unwrap();
}

/// Answers questions for the address of one name with 127.0.0.1, and all others with "no such address".
fn answer(dns: &UdpSocket) {
    let mut buffer = [0_u8; 512];
    while let Ok((length, client)) = dns.recv_from(&mut buffer) {
        let question = &buffer[..length];
        let known = question.windows(10).any(|window| window == b"api-by-dns");
        // The type stands before the class at the end of the question; what follows may be an OPT record.
        let end = 12 + question[12..].iter().position(|byte| *byte == 0).unwrap() + 5;
        let wants_ipv4 = question[end - 4..end - 2] == [0, 1];
        let found = known && wants_ipv4;
        let mut reply = question[..2].to_vec();
        reply.extend([0x81, 0x80, 0, 1, 0, u8::from(found), 0, 0, 0, 0]);
        reply.extend(&question[12..end]);
        if found {
            reply.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 127, 0, 0, 1]);
        }
        let _ = dns.send_to(&reply, client);
    }
}
