//! The program with no more rights than deploy/base gives it: two capabilities, `/proc/sys` read-only and the node's mounted
//! elsewhere.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "helpers of tests may fail loudly, too"
)]

mod support;

use std::process::{Command, Stdio};
use support::{Cluster, Mode, Proxy, Service, in_both_modes, may_run};

in_both_modes!(two_capabilities_are_enough);

/// What goes before the program, so that it has these capabilities and no other, and a container's view of /proc/sys.
fn confined(cluster: &Cluster, capabilities: &str, arguments: &str) -> Command {
    let folder = cluster.folder.display();
    let sysctls = cluster.folder.with_extension("sys");
    std::fs::create_dir_all(&sysctls).unwrap();
    let sysctls = sysctls.display();
    let script = format!(
        "mount --bind /proc/sys {sysctls}; mount --bind /proc/sys /proc/sys; mount -o remount,bind,ro /proc/sys\n\
         ! sysctl -qw net.ipv4.ip_forward=1 2>/dev/null || exit 99\n\
         exec env KUBE_IPVS_PROC_SYS={sysctls} setpriv --bounding-set=-all{capabilities} --inh-caps=-all --no-new-privs \
         {} {arguments} --manifests {folder} --proxy-mode {} --hostname-override demo-node --oom-score-adj=0 \
         --cluster-cidr 10.180.0.0/16,fd00:10:180::/48 --service-cidr 172.30.0.0/16,fd00:172:30::/108",
        env!("CARGO_BIN_EXE_kube-ipvs"),
        cluster.mode.name(),
    );
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "--", "unshare", "--mount", "sh", "-c", &script]);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn two_capabilities_are_enough(mode: Mode) {
    let cluster = Cluster::new(mode);
    let web = Service { node_port: Some(30080), ..Service::new("web", 20) };
    cluster.apply(&web);
    let command = confined(&cluster, ",+net_admin,+net_raw", "run");
    let mut proxy = Proxy::new(cluster.lab.node().ns.spawn_process(command).unwrap());
    proxy.wait_in_sync();
    let addresses = web.all_addresses();
    for from in ["client", "demo-node", "pod-3"] {
        for to in &addresses {
            assert!(cluster.answered_by(from, to).is_some(), "{from} to {to}:\n{}", proxy.log());
        }
    }
    assert!(cluster.answered_by("demo-node", "127.0.0.1:30080").is_some(), "{}", proxy.log());
    for word in ["ERROR", "Operation not permitted", "Read-only"] {
        assert!(!proxy.says(&[word]), "{}", proxy.log());
    }
    proxy.stop();
    cluster.assert_in_sync(&[]);
    let _ = std::fs::remove_dir(cluster.folder.with_extension("sys"));
}

#[test]
fn without_any_it_says_so() {
    if !may_run(Mode::Iptables) {
        return;
    }
    let cluster = Cluster::new(Mode::Iptables);
    let output =
        cluster.lab.node().ns.spawn_process(confined(&cluster, "", "plan")).unwrap().wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    eprintln!("{said}");
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("iptables") && (said.contains("ermission") || said.contains("not permitted")), "{said}");
    let _ = std::fs::remove_dir(cluster.folder.with_extension("sys"));
}

/// iptables asks for sets through a raw socket.
#[test]
fn ipvs_mode_needs_the_raw_socket() {
    if !may_run(Mode::Ipvs) {
        return;
    }
    let cluster = Cluster::new(Mode::Ipvs);
    let command = confined(&cluster, ",+net_admin", "run");
    let mut proxy = Proxy::new(cluster.lab.node().ns.spawn_process(command).unwrap());
    proxy.wait_to_say(&["ERROR", "set"]);
    eprintln!("{}", proxy.log());
    proxy.stop();
    let _ = std::fs::remove_dir(cluster.folder.with_extension("sys"));
}
