//! What the kernel saw of the connections and flows of a host: asked when one of them failed, and only then.

use std::collections::{BTreeSet, VecDeque};
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use kube_ipvs::lab::NetNs;

/// Some minutes of traffic.
const LINES: usize = 150_000;
/// The ports that everybody asks.
const SERVED: [u16; 3] = [53, 80, 30080];
/// Events arrive after what they tell.
const LATE: Duration = Duration::from_secs(3);

/// Listens to connection tracking and to resets (TCP) in one namespace, and keeps the last minutes.
pub struct Witness {
    ns: NetNs,
    lines: Arc<Mutex<VecDeque<String>>>,
    children: Vec<Child>,
}

impl Witness {
    pub fn start(ns: &NetNs) -> Self {
        let lines: Arc<Mutex<VecDeque<String>>> = Arc::default();
        let conntrack: &[&str] = &["conntrack", "-E", "-e", "NEW,DESTROY", "-o", "timestamp", "-b", "8388608"];
        // Those of the node's own stack; on all interfaces would take as much time as the traffic itself. The flags of a
        // packet: 13 bytes into TCP's header, which follows 40 bytes of IPv6's.
        let resets: &[&str] =
            &["tcpdump", "-i", "lo", "-nn", "-tt", "-l", "-B", "8192", "tcp[13] & 4 != 0 or ip6[53] & 4 != 0"];
        let children = [conntrack, resets].map(|words| {
            let mut command = Command::new(words[0]);
            command.args(&words[1..]).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
            let mut child = ns.spawn_process(command).unwrap();
            let (output, kept) = (child.stdout.take().unwrap(), Arc::clone(&lines));
            thread::spawn(move || {
                for line in BufReader::new(output).lines().map_while(Result::ok) {
                    let mut kept = kept.lock().unwrap();
                    kept.push_back(line.trim().to_owned());
                    if kept.len() > LINES {
                        kept.pop_front();
                    }
                }
            });
            child
        });
        Self { ns: ns.clone(), lines, children: children.into() }
    }

    /// What the kernel has now that may have to do with a port.
    pub fn now(&self, port: u16) -> Vec<String> {
        let script = format!(
            "echo at $(date +%s.%N); conntrack -L 2>/dev/null | grep -w '[sd]port={port}'; grep -w {port:04X} /proc/net/ip_vs_conn; \
             head /proc/sys/net/ipv4/vs/conntrack; for family in '' -6; do ipset list KUBE-IPVS-FORGOTTEN$family | tail -n +8; \
             done; iptables -t mangle -S | grep PAUSE; iptables -t nat -S | grep -e '-A OUTPUT' -e '-A PREROUTING'; \
             ipvsadm -L --daemon; iptables -t mangle -L KUBE-IPVS-PAUSE -vnx"
        );
        let mut command = Command::new("sh");
        command.args(["-c", &script]).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let output = self.ns.spawn_process(command).unwrap().wait_with_output().unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        format!("{}{}", text(output.stdout), text(output.stderr)).lines().map(str::to_owned).collect()
    }

    /// What was seen of the connections from a port, and of those that shared a port with them (masquerading gives some
    /// of them another one).
    pub fn about(&self, port: u16) -> Vec<String> {
        thread::sleep(LATE);
        let lines = self.lines.lock().unwrap();
        // Most lines do not even have the digits: to take all of them apart takes minutes in an emulated machine.
        let named = |line: &str, ports: &BTreeSet<u16>| {
            let digits = ports.iter().any(|port| line.contains(&port.to_string()));
            digits && !ports.is_disjoint(&ports_of(line))
        };
        let mut ports = BTreeSet::from([port]);
        for line in lines.iter().filter(|line| named(line, &BTreeSet::from([port]))) {
            ports.extend(ports_of(line).into_iter().filter(|port| !SERVED.contains(port)));
        }
        lines.iter().filter(|line| named(line, &ports)).cloned().collect()
    }
}

impl Drop for Witness {
    fn drop(&mut self) {
        for child in &mut self.children {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// The ports that a line of `conntrack -E` or of tcpdump names.
fn ports_of(line: &str) -> BTreeSet<u16> {
    let conntrack = line.contains(" src=");
    line.split_whitespace()
        .filter_map(|word| {
            let port = word.strip_prefix("sport=").or_else(|| word.strip_prefix("dport=")).or_else(|| {
                // tcpdump: address.port, then a colon behind the second one. In the other's lines that would be addresses.
                word.trim_end_matches(':').rsplit_once('.').map(|(_, port)| port).filter(|_| !conntrack)
            })?;
            port.parse().ok()
        })
        .collect()
}
