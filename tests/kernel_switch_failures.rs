//! A switch that fails, whatever fails, ends in the old mode working: iptables-restore that refuses once or for ever, now or
//! in the middle of it, and a full disk for what is to be remembered. A scheduler that is missing is in
//! `kernel_switch.rs`.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "helpers of tests may fail loudly, too"
)]

mod support;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use support::switching::{
    Traffic, assert_only, assert_works, cluster, modes, refused, switch, text, wait_draining, wait_gone,
};
use support::{Cluster, Mode, Proxy, may_run, wait_until};

/// iptables-restore of both families behind a script that fails when it is told to.
struct Wrapper(PathBuf);

impl Wrapper {
    fn new(cluster: &Cluster) -> Self {
        let folder = cluster.folder.with_extension("bin");
        fs::create_dir_all(&folder).unwrap();
        for name in
            ["iptables-nft-restore", "ip6tables-nft-restore", "iptables-legacy-restore", "ip6tables-legacy-restore"]
        {
            let real = ["/usr/sbin", "/sbin", "/usr/local/sbin"].map(|place| Path::new(place).join(name));
            let Some(real) = real.iter().find(|path| path.exists()) else { continue };
            let (real, folder_name) = (real.display(), folder.display());
            let script = format!(
                "#!/bin/sh\n\
                 case \"$*\" in *-V*|*--version*) exec {real} \"$@\";; esac\n\
                 order=$(cat {folder_name}/order 2>/dev/null || echo 0)\n\
                 pass=$(cat {folder_name}/pass-$order 2>/dev/null || echo 1000000)\n\
                 fail=$(cat {folder_name}/fail-$order 2>/dev/null || echo 0)\n\
                 if [ \"$pass\" -gt 0 ]; then echo $((pass-1)) > {folder_name}/pass-$order; exec {real} \"$@\"; fi\n\
                 if [ \"$fail\" -gt 0 ]; then echo $((fail-1)) > {folder_name}/fail-$order\n\
                 cat > /dev/null; echo 'injected: no buffer space' >&2; exit 4; fi\n\
                 exec {real} \"$@\"\n"
            );
            let path = folder.join(name);
            fs::write(&path, script).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        }
        Self(folder)
    }

    /// After so many calls so many fail. What is under way counts by the order before, and changes nothing of this one.
    fn arm(&self, pass: u32, fail: u32) {
        let path = |name: &str| self.0.join(name);
        let order = fs::read_to_string(path("order")).map_or(0, |order| order.parse::<u32>().unwrap()) + 1;
        fs::write(path(&format!("fail-{order}")), fail.to_string()).unwrap();
        fs::write(path(&format!("pass-{order}")), pass.to_string()).unwrap();
        fs::write(path("order.new"), order.to_string()).unwrap();
        fs::rename(path("order.new"), path("order")).unwrap();
    }

    fn heal(&self) {
        self.arm(1_000_000, 0);
    }
}

impl Drop for Wrapper {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Starts the daemon with a folder before all others in its PATH.
fn start_with(cluster: &Cluster, wrapper: &Wrapper) -> Proxy {
    let path = format!("{}:/usr/sbin:/sbin:/usr/bin:/bin", wrapper.0.display());
    let mut command = shell(cluster, "", &[]);
    command.env("PATH", path);
    launched(cluster, command)
}

/// The daemon, started by a shell that does something before.
fn shell(cluster: &Cluster, before: &str, further: &[&str]) -> Command {
    let folder = cluster.folder.display();
    let (program, mode) = (env!("CARGO_BIN_EXE_kube-ipvs"), cluster.mode.name());
    let script = format!(
        "{before}exec {program} run --manifests {folder} --proxy-mode {mode} --hostname-override demo-node \
         --cluster-cidr 10.180.0.0/16,fd00:10:180::/48 --service-cidr 172.30.0.0/16,fd00:172:30::/108 {}",
        further.join(" ")
    );
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "--", "sh", "-ec", &script]);
    command
}

fn launched(cluster: &Cluster, mut command: Command) -> Proxy {
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut proxy = Proxy::new(cluster.lab.node().ns.spawn_process(command).unwrap());
    proxy.wait_in_sync();
    proxy
}

/// The old mode needs no iptables-restore any more: the next run is the next switch's.
fn wait_idle(cluster: &Cluster, serves: &str) {
    if serves == "ipvs" {
        return wait_gone(cluster);
    }
    wait_draining(cluster, 1);
}

#[test]
fn iptables_restore_that_fails_once_is_tried_again() {
    if !may_run(Mode::Ipvs) {
        return;
    }
    let cluster = cluster(Mode::Ipvs);
    let wrapper = Wrapper::new(&cluster);
    let proxy = start_with(&cluster, &wrapper);
    wait_until("the control socket", || cluster.program(&["status"]).status.success());
    let traffic = Traffic::start(&cluster);
    for (pass, to) in [(0, "iptables"), (1, "ipvs"), (2, "iptables")] {
        wrapper.arm(pass, 1);
        switch(&cluster, &[to, "--no-wait"]);
        assert_eq!(modes(&cluster), [to, to]);
        wrapper.heal();
        traffic.goes_on();
        wait_idle(&cluster, to);
    }
    traffic.end();
    proxy.stop();
}

#[test]
fn iptables_restore_that_fails_for_ever_leaves_the_old_mode() {
    if !may_run(Mode::Ipvs) {
        return;
    }
    for (from, to) in [(Mode::Ipvs, "iptables"), (Mode::Iptables, "ipvs")] {
        let cluster = cluster(from);
        let wrapper = Wrapper::new(&cluster);
        let proxy = start_with(&cluster, &wrapper);
        wait_until("the control socket", || cluster.program(&["status"]).status.success());
        let traffic = Traffic::start(&cluster);
        for pass in 0..3 {
            wrapper.arm(pass, 1_000_000);
            let told = refused(&cluster, &[to, "--drain", "1s"]);
            assert!(told.contains("injected") && told.contains(to), "{told}");
            assert_eq!(modes(&cluster), [from.name(), from.name()]);
            traffic.goes_on();
            wrapper.heal();
            traffic.goes_on();
        }
        traffic.end();
        wait_gone(&cluster);
        assert_works(&cluster);
        assert_only(&cluster, from);
        proxy.stop();
    }
}

/// A daemon whose /run/kube-ipvs is a small file system of its own.
fn on_a_small_disk(cluster: &Cluster) -> (Proxy, PathBuf, String) {
    let socket = cluster.folder.with_extension("sock");
    let before = "unshare -m sh -ec 'mount --make-rprivate /; mkdir -p /run/kube-ipvs; mount -t tmpfs -o size=64k tmpfs \
                  /run/kube-ipvs; exec \"$@\"' small ";
    let argument = socket.display().to_string();
    let mut command = shell(cluster, "", &["--control-socket", &argument]);
    let words: Vec<String> = command.get_args().map(|word| word.to_str().unwrap().to_owned()).collect();
    let script = words.last().unwrap().replacen("exec ", &format!("exec {before}"), 1);
    command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "--", "sh", "-ec", &script]);
    let proxy = launched(cluster, command);
    wait_until("the control socket", || cluster.program(&["status", "--control-socket", &argument]).status.success());
    let disk = PathBuf::from(format!("/proc/{}/root/run/kube-ipvs", proxy.pid()));
    (proxy, disk, argument)
}

/// Writes until nothing more fits.
fn fill(disk: &Path) {
    use std::io::Write;
    let mut file = fs::File::create(disk.join("full")).unwrap();
    while file.write_all(&[0; 512]).is_ok() {}
    assert!(fs::write(disk.join("more"), "x").is_err(), "it is full");
}

/// What is asked for cannot be remembered: the next start would take it back, so that it is refused.
#[test]
fn a_full_disk_leaves_the_old_mode() {
    if !may_run(Mode::Iptables) {
        return;
    }
    let ipvs = support::no_ipvs().is_none();
    // Without IPVS there is only something else to wish for, which has to be remembered likewise.
    let (mode, wish) = if ipvs { (Mode::Ipvs, "iptables") } else { (Mode::Iptables, "auto") };
    let cluster = cluster(mode);
    let (proxy, disk, socket) = on_a_small_disk(&cluster);
    fill(&disk);
    let traffic = Traffic::start(&cluster);
    let told = refused(&cluster, &[wish, "--drain", "1s", "--control-socket", &socket]);
    assert!(told.contains("the next start would take it back") && told.contains("No space left"), "{told}");
    let status = text(&cluster.program(&["status", "--control-socket", &socket]));
    assert!(status.contains(&format!("IPv4: mode {}", mode.name())), "{status}");
    traffic.goes_on();
    traffic.end();
    wait_until("the half to be gone", || {
        let status = text(&cluster.program(&["status", "--control-socket", &socket]));
        status.matches("nothing of the other mode").count() == 2
    });
    assert_works(&cluster);
    assert_only(&cluster, mode);
    fs::remove_file(disk.join("full")).unwrap();
    let told = switch(&cluster, &[wish, "--drain", "1s", "--control-socket", &socket]);
    assert!(told.contains("done"), "{told}");
    assert_works(&cluster);
    proxy.stop();
    let _ = fs::remove_file(socket);
}
