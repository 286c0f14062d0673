//! What kube-proxy 1.36 leaves on a node, in each of its modes, for one Service of TCP port 80 with a node port, and for
//! one that nobody has any more; and the kubelet's chains beside it. Written after pkg/proxy/{ipvs,iptables,nftables}.

use std::io::Write;
use std::process::{Command, Stdio};

use super::{Cluster, Service};

/// A mode of kube-proxy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Peer {
    Ipvs,
    Iptables,
    Nftables,
}

/// The node's addresses and those of the Service in one family.
struct Family {
    name: &'static str,
    six: bool,
    vip: String,
    gone: &'static str,
    pods: &'static str,
    localhost: &'static str,
    endpoints: [&'static str; 3],
    node: &'static str,
}

impl Family {
    fn both(service: &Service) -> [Self; 2] {
        let vip = |index: usize| {
            let address: std::net::SocketAddr = service.addresses()[index].parse().unwrap();
            address.ip().to_string()
        };
        [
            Self {
                name: "ip",
                six: false,
                vip: vip(0),
                gone: "172.30.0.99",
                pods: "10.180.0.0/16",
                localhost: "127.0.0.0/8",
                endpoints: ["10.180.0.1", "10.180.0.2", "10.180.1.1"],
                node: "192.168.0.2",
            },
            Self {
                name: "ip6",
                six: true,
                vip: vip(1),
                gone: "fd00:172:30::63",
                pods: "fd00:10:180::/48",
                localhost: "::1/128",
                endpoints: ["fd00:10:180::1", "fd00:10:180::2", "fd00:10:180:1::1"],
                node: "2001:db8::2",
            },
        ]
    }

    /// Address and port.
    fn at(&self, address: &str, port: u16) -> String {
        if self.six { format!("[{address}]:{port}") } else { format!("{address}:{port}") }
    }

    /// The name of a set.
    fn set(&self, name: &str) -> String {
        let six = |name: &str| name.replacen("KUBE-", "KUBE-6-", 1).chars().take(31).collect();
        if self.six { six(name) } else { name.to_owned() }
    }

    fn length(&self) -> u8 {
        if self.six { 128 } else { 32 }
    }

    fn program(&self, rest: &str) -> String {
        format!("{}tables-{rest}", if self.six { "ip6" } else { "ip" })
    }
}

/// The kubelet's chains, which stay its own.
pub fn kubelet(cluster: &Cluster) {
    let text = "*mangle\n:PREROUTING ACCEPT\n:INPUT ACCEPT\n:FORWARD ACCEPT\n:OUTPUT ACCEPT\n:POSTROUTING ACCEPT\n\
                :KUBE-KUBELET-CANARY -\n:KUBE-IPTABLES-HINT -\nCOMMIT\n\
                *nat\n:PREROUTING ACCEPT\n:INPUT ACCEPT\n:OUTPUT ACCEPT\n:POSTROUTING ACCEPT\n:KUBE-KUBELET-CANARY -\n\
                :KUBE-MARK-DROP -\n-A KUBE-MARK-DROP -j MARK --set-xmark 0x8000/0x8000\nCOMMIT\n\
                *filter\n:INPUT ACCEPT\n:FORWARD ACCEPT\n:OUTPUT ACCEPT\n:KUBE-KUBELET-CANARY -\n:KUBE-FIREWALL -\n\
                -A INPUT -j KUBE-FIREWALL\n-A OUTPUT -j KUBE-FIREWALL\n\
                -A KUBE-FIREWALL -m mark --mark 0x8000/0x8000 -j DROP\nCOMMIT\n";
    for program in ["iptables-restore", "ip6tables-restore"] {
        feed(cluster, program, &["--noflush"], text);
    }
}

/// Sysctls that kube-proxy sets in every mode, and in IPVS mode.
pub fn sysctls(cluster: &Cluster, peer: Peer) {
    let mut script = "sysctl -qw net.ipv4.ip_forward=1 net.ipv4.conf.all.route_localnet=1\n".to_owned();
    if peer == Peer::Ipvs {
        // The first use loads the module, whose settings these are.
        script += "ipvsadm -Ln >/dev/null\nfor s in conntrack expire_nodest_conn expire_quiescent_template; do \
                   sysctl -qw net.ipv4.vs.$s=1; done\n";
    }
    cluster.shell(&script);
}

/// Leaves what kube-proxy leaves: it serves `service` then.
pub fn leave(cluster: &Cluster, peer: Peer, service: &Service) {
    for family in Family::both(service) {
        match peer {
            Peer::Ipvs => leave_ipvs(cluster, &family, service),
            Peer::Iptables => {
                feed(cluster, &family.program("restore"), &["--noflush"], &iptables_rules(&family, service));
            }
            Peer::Nftables => feed(cluster, "nft", &["-f", "-"], &nftables_table(&family, service)),
        }
    }
}

/// The same in IPVS mode over what another proxy left: the virtual servers that are there already are edited in place, as
/// kube-proxy does it.
pub fn leave_over(cluster: &Cluster, service: &Service) {
    for family in Family::both(service) {
        leave_ipvs_helpers(cluster, &family, service);
        for server in [family.at(&family.vip, 80), family.at(family.node, service.node_port.unwrap())] {
            cluster.on_node(&format!("ipvsadm -E -t {server} -s rr"));
        }
    }
}

fn feed(cluster: &Cluster, program: &str, arguments: &[&str], input: &str) {
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = cluster.lab.node().ns.spawn_process(command).unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{program}: {}\n{input}", String::from_utf8_lossy(&output.stderr));
}

const SETS: [(&str, &str); 17] = [
    ("KUBE-LOOP-BACK", "hash:ip,port,ip"),
    ("KUBE-CLUSTER-IP", "hash:ip,port"),
    ("KUBE-EXTERNAL-IP", "hash:ip,port"),
    ("KUBE-EXTERNAL-IP-LOCAL", "hash:ip,port"),
    ("KUBE-LOAD-BALANCER", "hash:ip,port"),
    ("KUBE-LOAD-BALANCER-FW", "hash:ip,port"),
    ("KUBE-LOAD-BALANCER-LOCAL", "hash:ip,port"),
    ("KUBE-LOAD-BALANCER-SOURCE-IP", "hash:ip,port,ip"),
    ("KUBE-LOAD-BALANCER-SOURCE-CIDR", "hash:ip,port,net"),
    ("KUBE-NODE-PORT-TCP", "bitmap:port"),
    ("KUBE-NODE-PORT-LOCAL-TCP", "bitmap:port"),
    ("KUBE-NODE-PORT-UDP", "bitmap:port"),
    ("KUBE-NODE-PORT-LOCAL-UDP", "bitmap:port"),
    ("KUBE-NODE-PORT-SCTP-HASH", "hash:ip,port"),
    ("KUBE-NODE-PORT-LOCAL-SCTP-HASH", "hash:ip,port"),
    ("KUBE-HEALTH-CHECK-NODE-PORT", "bitmap:port"),
    ("KUBE-IPVS-IPS", "hash:ip"),
];

fn leave_ipvs(cluster: &Cluster, family: &Family, service: &Service) {
    leave_ipvs_helpers(cluster, family, service);
    let (vip, gone, node_port) = (family.vip.as_str(), family.gone, service.node_port.unwrap());
    let mut servers = String::new();
    let virtuals = [(vip, 80), (gone, 80), (family.node, node_port), (family.node, node_port + 1)];
    for (address, port) in virtuals {
        let server = family.at(address, port);
        servers += &format!("-A -t {server} -s rr\n");
        for endpoint in family.endpoints {
            servers += &format!("-a -t {server} -r {} -m -w 1\n", family.at(endpoint, 80));
        }
    }
    feed(cluster, "ipvsadm", &["-R"], &servers);
}

/// Everything but the virtual servers.
fn leave_ipvs_helpers(cluster: &Cluster, family: &Family, service: &Service) {
    let mut sets = String::new();
    for (name, kind) in SETS {
        let inet = if family.six { "inet6" } else { "inet" };
        let options = match kind {
            "bitmap:port" => "range 0-65535".to_owned(),
            _ => format!("family {inet} hashsize 1024 maxelem 65536"),
        };
        sets += &format!("create {} {kind} {options}\n", family.set(name));
    }
    let Family { vip, gone, .. } = family;
    for address in [vip.as_str(), gone] {
        sets += &format!("add {} {address},tcp:80\n", family.set("KUBE-CLUSTER-IP"));
        sets += &format!("add {} {address}\n", family.set("KUBE-IPVS-IPS"));
    }
    for endpoint in &family.endpoints[..2] {
        sets += &format!("add {} {endpoint},tcp:80,{endpoint}\n", family.set("KUBE-LOOP-BACK"));
    }
    let node_port = service.node_port.unwrap();
    for port in [node_port, node_port + 1] {
        sets += &format!("add {} {port}\n", family.set("KUBE-NODE-PORT-TCP"));
    }
    feed(cluster, "ipset", &["restore"], &sets);
    feed(cluster, &family.program("restore"), &["--noflush"], &ipvs_rules(family));
    // kube-proxy never brings the device up.
    let device = "ip link show kube-ipvs0 >/dev/null 2>&1 || ip link add kube-ipvs0 type dummy\n".to_owned();
    let bind = |address: &str| format!("ip address add {address}/{} dev kube-ipvs0\n", family.length());
    cluster.shell(&(device + &bind(vip) + &bind(gone)));
}

fn ipvs_rules(family: &Family) -> String {
    let set = |name: &str| family.set(name);
    let Family { localhost, pods, .. } = family;
    let returns = ["KUBE-LOAD-BALANCER", "KUBE-CLUSTER-IP", "KUBE-EXTERNAL-IP", "KUBE-EXTERNAL-IP-LOCAL"];
    let returns =
        returns.map(|name| format!("-A KUBE-IPVS-FILTER -m set --match-set {} dst,dst -j RETURN\n", set(name)));
    format!(
        "*nat\n:KUBE-SERVICES -\n:KUBE-POSTROUTING -\n:KUBE-NODE-PORT -\n:KUBE-LOAD-BALANCER -\n:KUBE-MARK-MASQ -\n\
         -I OUTPUT -m comment --comment \"kubernetes service portals\" -j KUBE-SERVICES\n\
         -I PREROUTING -m comment --comment \"kubernetes service portals\" -j KUBE-SERVICES\n\
         -I POSTROUTING -m comment --comment \"kubernetes postrouting rules\" -j KUBE-POSTROUTING\n\
         -A KUBE-SERVICES -s {localhost} -j RETURN\n\
         -A KUBE-POSTROUTING -m comment --comment \"Kubernetes endpoints dst ip:port, source ip for solving hairpin \
         purpose\" -m set --match-set {loop_back} dst,dst,src -j MASQUERADE\n\
         -A KUBE-NODE-PORT -p tcp -m comment --comment \"Kubernetes nodeport TCP port for masquerade purpose\" -m set \
         --match-set {node_port} dst -j KUBE-MARK-MASQ\n\
         -A KUBE-SERVICES -m comment --comment \"Kubernetes service cluster ip + port for masquerade purpose\" -m set \
         --match-set {cluster} dst,dst ! -s {pods} -j KUBE-MARK-MASQ\n\
         -A KUBE-SERVICES -m addrtype --dst-type LOCAL -j KUBE-NODE-PORT\n\
         -A KUBE-LOAD-BALANCER -j KUBE-MARK-MASQ\n\
         -A KUBE-SERVICES -m set --match-set {cluster} dst,dst -j ACCEPT\n{POSTROUTING}\
         -A KUBE-MARK-MASQ -j MARK --or-mark 0x4000\nCOMMIT\n\
         *filter\n:KUBE-FORWARD -\n:KUBE-NODE-PORT -\n:KUBE-PROXY-FIREWALL -\n:KUBE-SOURCE-RANGES-FIREWALL -\n\
         :KUBE-IPVS-FILTER -\n:KUBE-IPVS-OUT-FILTER -\n\
         -I FORWARD -m comment --comment \"kubernetes forwarding rules\" -j KUBE-FORWARD\n\
         -I INPUT -m comment --comment \"kubernetes health check rules\" -j KUBE-NODE-PORT\n\
         -I INPUT -m comment --comment \"kube-proxy firewall rules\" -j KUBE-PROXY-FIREWALL\n\
         -I FORWARD -m comment --comment \"kube-proxy firewall rules\" -j KUBE-PROXY-FIREWALL\n\
         -I INPUT -m comment --comment \"kubernetes ipvs access filter\" -j KUBE-IPVS-FILTER\n\
         -I OUTPUT -m comment --comment \"kubernetes ipvs access filter\" -j KUBE-IPVS-OUT-FILTER\n\
         -A KUBE-SOURCE-RANGES-FIREWALL -j DROP\n{FORWARD}\
         -A KUBE-NODE-PORT -m comment --comment \"Kubernetes health check node port\" -m set --match-set {health} dst -j \
         ACCEPT\n{}-A KUBE-IPVS-FILTER -m set --match-set {health} dst -j RETURN\n\
         -A KUBE-IPVS-FILTER -m conntrack --ctstate NEW -m set --match-set {ips} dst -j REJECT\nCOMMIT\n",
        returns.concat(),
        loop_back = set("KUBE-LOOP-BACK"),
        node_port = set("KUBE-NODE-PORT-TCP"),
        cluster = set("KUBE-CLUSTER-IP"),
        health = set("KUBE-HEALTH-CHECK-NODE-PORT"),
        ips = set("KUBE-IPVS-IPS"),
    )
}

const POSTROUTING: &str = "-A KUBE-POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN\n\
    -A KUBE-POSTROUTING -j MARK --xor-mark 0x4000\n\
    -A KUBE-POSTROUTING -m comment --comment \"kubernetes service traffic requiring SNAT\" -j MASQUERADE --random-fully\n";

const FORWARD: &str = "-A KUBE-FORWARD -m comment --comment \"kubernetes forwarding rules\" -m mark --mark 0x4000/0x4000 \
    -j ACCEPT\n-A KUBE-FORWARD -m comment --comment \"kubernetes forwarding conntrack rule\" -m conntrack --ctstate \
    RELATED,ESTABLISHED -j ACCEPT\n";

fn iptables_rules(family: &Family, service: &Service) -> String {
    let node_port = service.node_port.unwrap();
    let mut nat =
        "*mangle\n:KUBE-PROXY-CANARY -\nCOMMIT\n*nat\n:KUBE-PROXY-CANARY -\n:KUBE-SERVICES -\n:KUBE-NODEPORTS -\n\
         :KUBE-POSTROUTING -\n:KUBE-MARK-MASQ -\n\
         -I OUTPUT -m comment --comment \"kubernetes service portals\" -j KUBE-SERVICES\n\
         -I PREROUTING -m comment --comment \"kubernetes service portals\" -j KUBE-SERVICES\n\
         -I POSTROUTING -m comment --comment \"kubernetes postrouting rules\" -j KUBE-POSTROUTING\n\
         -A KUBE-MARK-MASQ -j MARK --or-mark 0x4000\n"
            .to_owned();
    nat += POSTROUTING;
    // The names need not be those that the hashes give: kube-proxy's may change.
    for (name, vip, port) in [("WEB", family.vip.as_str(), node_port), ("GONE", family.gone, node_port + 1)] {
        nat += &format!(":KUBE-SVC-{name} -\n:KUBE-EXT-{name} -\n");
        for (index, endpoint) in family.endpoints.iter().enumerate() {
            nat += &format!(
                ":KUBE-SEP-{name}{index} -\n-A KUBE-SEP-{name}{index} -s {endpoint} -j KUBE-MARK-MASQ\n\
                 -A KUBE-SEP-{name}{index} -p tcp -m tcp -j DNAT --to-destination {}\n",
                family.at(endpoint, 80)
            );
        }
        nat += &format!(
            "-A KUBE-SERVICES -m comment --comment \"default/{name}:web cluster IP\" -p tcp -m tcp -d {vip} --dport 80 -j \
             KUBE-SVC-{name}\n\
             -A KUBE-NODEPORTS -m comment --comment default/{name}:web -p tcp -m tcp --dport {port} -j KUBE-EXT-{name}\n\
             -A KUBE-EXT-{name} -j KUBE-MARK-MASQ\n-A KUBE-EXT-{name} -j KUBE-SVC-{name}\n\
             -A KUBE-SVC-{name} -p tcp -m tcp -d {vip} --dport 80 ! -s {} -j KUBE-MARK-MASQ\n\
             -A KUBE-SVC-{name} -m statistic --mode random --probability 0.3333333333 -j KUBE-SEP-{name}0\n\
             -A KUBE-SVC-{name} -m statistic --mode random --probability 0.5 -j KUBE-SEP-{name}1\n\
             -A KUBE-SVC-{name} -j KUBE-SEP-{name}2\n",
            family.pods
        );
    }
    nat += "-A KUBE-SERVICES -m comment --comment \"kubernetes service nodeports; NOTE: this must be the last rule in this \
            chain\" -m addrtype --dst-type LOCAL -j KUBE-NODEPORTS\nCOMMIT\n";
    let mut filter = "*filter\n:KUBE-PROXY-CANARY -\n".to_owned();
    let jumps = [
        ("INPUT", "KUBE-EXTERNAL-SERVICES", "-m conntrack --ctstate NEW"),
        ("FORWARD", "KUBE-EXTERNAL-SERVICES", "-m conntrack --ctstate NEW"),
        ("INPUT", "KUBE-NODEPORTS", ""),
        ("FORWARD", "KUBE-SERVICES", "-m conntrack --ctstate NEW"),
        ("OUTPUT", "KUBE-SERVICES", "-m conntrack --ctstate NEW"),
        ("FORWARD", "KUBE-FORWARD", ""),
        ("INPUT", "KUBE-PROXY-FIREWALL", "-m conntrack --ctstate NEW"),
        ("OUTPUT", "KUBE-PROXY-FIREWALL", "-m conntrack --ctstate NEW"),
        ("FORWARD", "KUBE-PROXY-FIREWALL", "-m conntrack --ctstate NEW"),
    ];
    for chain in ["KUBE-EXTERNAL-SERVICES", "KUBE-NODEPORTS", "KUBE-SERVICES", "KUBE-FORWARD", "KUBE-PROXY-FIREWALL"] {
        filter += &format!(":{chain} -\n");
    }
    for (from, to, test) in jumps {
        filter += &format!("-I {from} {test} -m comment --comment \"kubernetes rules\" -j {to}\n");
    }
    filter += "-A KUBE-FORWARD -m conntrack --ctstate INVALID -j DROP\n";
    nat + &filter + FORWARD + "COMMIT\n"
}

fn nftables_table(family: &Family, service: &Service) -> String {
    let Family { name, vip, gone, pods, endpoints: [one, two, three], .. } = family;
    let kind = if family.six { "ipv6_addr" } else { "ipv4_addr" };
    let node_port = service.node_port.unwrap();
    let endpoint = |number: u8, address: &str| {
        let to = family.at(address, 80);
        format!(
            "chain endpoint-{number} {{ {name} saddr {address} jump mark-for-masquerade; meta l4proto tcp dnat to {to} }}\n"
        )
    };
    format!(
        "table {name} kube-proxy {{\n comment \"rules for kube-proxy\"\n\
         set cluster-ips {{ type {kind}; elements = {{ {vip}, {gone} }} }}\n\
         set nodeport-ips {{ type {kind}; elements = {{ {node} }} }}\n\
         {}{}{}\
         chain mark-for-masquerade {{ meta mark set meta mark | 0x4000 }}\n\
         chain masquerading {{ meta mark & 0x4000 == 0 return; meta mark set meta mark ^ 0x4000; masquerade fully-random }}\n\
         chain cluster-ips-check {{ {name} daddr @cluster-ips reject }}\n\
         chain service-web {{ {name} daddr {vip} tcp dport 80 {name} saddr != {pods} jump mark-for-masquerade; \
           numgen random mod 3 vmap {{ 0 : goto endpoint-1, 1 : goto endpoint-2, 2 : goto endpoint-3 }} }}\n\
         chain external-web {{ jump mark-for-masquerade; goto service-web }}\n\
         map service-ips {{ type {kind} . inet_proto . inet_service : verdict; \
           elements = {{ {vip} . tcp . 80 : goto service-web }} }}\n\
         map service-nodeports {{ type inet_proto . inet_service : verdict; \
           elements = {{ tcp . {node_port} : goto external-web }} }}\n\
         chain services {{ {name} daddr . meta l4proto . th dport vmap @service-ips; \
           {name} daddr @nodeport-ips meta l4proto . th dport vmap @service-nodeports }}\n\
         chain nat-prerouting {{ type nat hook prerouting priority -100; jump services }}\n\
         chain nat-output {{ type nat hook output priority -100; jump services }}\n\
         chain nat-postrouting {{ type nat hook postrouting priority 100; jump masquerading }}\n\
         chain filter-forward {{ type filter hook forward priority -110; ct state new jump cluster-ips-check }}\n\
         chain filter-output-post-dnat {{ type filter hook output priority -90; ct state new jump cluster-ips-check }}\n\
         }}\n",
        endpoint(1, one),
        endpoint(2, two),
        endpoint(3, three),
        node = family.node,
    )
    // Each on one line, and nft wants the last statement of a block ended.
    .replace(" }\n", "; }\n")
}
