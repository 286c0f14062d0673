//! The rules of one service port: kube-proxy's chains (`pkg/proxy/iptables/proxier.go`, `syncProxyRules`).

use super::names;
use super::node::to_node_ports;
use crate::backend::rules::{if_local, masquerade_if_not_local};
use crate::desired::{Endpoint, NodeRules, ServiceChains, ServicePort};
use crate::model::{IpFamily, Protocol};
use iptables::{AddrType, Chain, ChainName, Probability, RecentMatch, Rule, Table, hash};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

/// What a service port asks of the kernel.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rendered {
    /// Its own chains, all in nat; a chain stands behind those that it jumps to.
    pub chains: Vec<Chain>,
    /// Its rules in chains that all services share.
    pub shared: Vec<(Table, ChainName, Rule)>,
}

/// What comes before an endpoint's weight in the comment of its rule.
pub const WEIGHT_COMMENT: &str = " weight ";

/// The names of the chains that a service port may have besides those of its endpoints.
pub fn own_chains(name: &str, protocol: Protocol) -> [ChainName; 4] {
    let protocol = protocol.as_lower();
    [
        hash::service_chain(name, protocol),
        hash::service_local_chain(name, protocol),
        hash::external_chain(name, protocol),
        hash::firewall_chain(name, protocol),
    ]
}

/// The protocol as iptables calls it.
pub fn protocol(protocol: Protocol) -> iptables::Protocol {
    match protocol {
        Protocol::Tcp => iptables::Protocol::Tcp,
        Protocol::Udp => iptables::Protocol::Udp,
        Protocol::Sctp => iptables::Protocol::Sctp,
    }
}

struct Renderer<'a> {
    port: &'a ServicePort,
    node: &'a NodeRules,
    name: String,
    cluster: Vec<&'a Endpoint>,
    local: Vec<&'a Endpoint>,
    out: Rendered,
}

/// Renders a service port.
pub fn render(port: &ServicePort, node: &NodeRules) -> Rendered {
    let mut renderer = Renderer::new(port, node);
    renderer.own();
    renderer.captures();
    renderer.out
}

/// Only its own chains.
pub fn render_chains(port: &ServicePort, node: &NodeRules) -> Vec<Chain> {
    let mut renderer = Renderer::new(port, node);
    renderer.own();
    renderer.out.chains
}

/// Only its rules in those chains of a table that all services share.
pub fn render_shared(port: &ServicePort, node: &NodeRules, table: Table) -> impl Iterator<Item = (ChainName, Rule)> {
    let mut renderer = Renderer::new(port, node);
    renderer.captures();
    let rules = renderer.out.shared.into_iter();
    rules.filter(move |(of, _, _)| *of == table).map(|(_, chain, rule)| (chain, rule))
}

impl<'a> Renderer<'a> {
    fn new(port: &'a ServicePort, node: &'a NodeRules) -> Self {
        let uses_local = port.internal_policy_local || (port.external_policy_local && port.externally_accessible());
        Self {
            port,
            node,
            name: port.key.to_string(),
            cluster: port.cluster_endpoints().collect(),
            local: if uses_local { port.local_endpoints().collect() } else { Vec::new() },
            out: Rendered::default(),
        }
    }
}

/// The list of clients that stay with an endpoint: that of its `KUBE-SEP-` chain.
pub fn affinity_list(port: &ServicePort, endpoint: SocketAddr) -> ChainName {
    hash::endpoint_chain(&port.key.to_string(), port.key.protocol.as_lower(), &endpoint.to_string())
}

impl Renderer<'_> {
    /// Its own chains.
    fn own(&mut self) {
        if self.port.has_any_endpoints {
            let internal = self.internal_chain();
            self.endpoint_chains();
            self.policy_chain(self.svc(), self.cluster.clone(), internal.as_ref());
            self.policy_chain(self.svl(), self.local.clone(), internal.as_ref());
            self.ext_chain(self.external_chain().as_ref());
            self.firewall_chain();
        }
    }

    /// Its rules in shared chains.
    fn captures(&mut self) {
        let has_endpoints = self.external_chain().is_some();
        self.capture_cluster_ip(self.internal_chain().as_ref());
        self.capture_external(has_endpoints);
        self.capture_node_port(has_endpoints);
        self.accept_health_check();
    }

    fn protocol(&self) -> &'static str {
        self.port.key.protocol.as_lower()
    }

    fn svc(&self) -> ChainName {
        hash::service_chain(&self.name, self.protocol())
    }

    fn svl(&self) -> ChainName {
        hash::service_local_chain(&self.name, self.protocol())
    }

    fn ext(&self) -> ChainName {
        hash::external_chain(&self.name, self.protocol())
    }

    fn fw(&self) -> ChainName {
        hash::firewall_chain(&self.name, self.protocol())
    }

    fn sep(&self, endpoint: SocketAddr) -> ChainName {
        hash::endpoint_chain(&self.name, self.protocol(), &endpoint.to_string())
    }

    /// Where traffic to the cluster IP goes, if there is anywhere to go.
    fn internal_chain(&self) -> Option<ChainName> {
        match self.port.internal_policy_local {
            true => (!self.local.is_empty()).then(|| self.svl()),
            false => (!self.cluster.is_empty()).then(|| self.svc()),
        }
    }

    /// Where traffic from outside goes, if there is anywhere to go.
    fn external_chain(&self) -> Option<ChainName> {
        match self.port.external_policy_local {
            true => (!self.local.is_empty()).then(|| self.svl()),
            false => (!self.cluster.is_empty()).then(|| self.svc()),
        }
    }

    fn has_firewall(&self) -> bool {
        !self.port.source_ranges.is_empty() && !self.port.load_balancer_ips.is_empty()
    }

    /// The chain of nat in which services with this address are looked for.
    fn services(&self, address: IpAddr) -> ChainName {
        match self.node.service_chains {
            ServiceChains::Plain => names::services(),
            ServiceChains::ByAddress => names::addresses(names::last_bits(address)),
        }
    }

    /// A rule for an address and port of the Service.
    fn to_address(&self, comment: String, address: IpAddr) -> Rule {
        Rule::new()
            .comment(comment)
            .protocol(protocol(self.port.key.protocol))
            .destination(address)
            .destination_port(self.port.port)
    }

    fn shared(&mut self, table: Table, chain: ChainName, rule: Rule) {
        // An address that is asked for twice, as external IP and by the load balancer, is refused once: a change takes out one.
        let entry = (table, chain, rule);
        if !self.out.shared.contains(&entry) {
            self.out.shared.push(entry);
        }
    }

    /// The refusal of traffic for which there is no endpoint: at once if nobody could serve, in silence if a policy
    /// forbids what exists elsewhere, so that a load balancer tries another node.
    fn refuse(&self, rule: Rule) -> Rule {
        if self.port.has_any_endpoints { rule.drop() } else { self.reject(rule) }
    }

    fn reject(&self, rule: Rule) -> Rule {
        rule.reject_with(match IpFamily::of(self.port.cluster_ip) {
            IpFamily::V4 => "icmp-port-unreachable",
            IpFamily::V6 => "icmp6-port-unreachable",
        })
    }

    fn refusal_comment(&self) -> String {
        let which = if self.port.has_any_endpoints { "local " } else { "" };
        format!("{} has no {which}endpoints", self.name)
    }

    fn capture_cluster_ip(&mut self, internal: Option<&ChainName>) {
        let address = self.port.cluster_ip;
        if let Some(chain) = internal {
            let rule = self.to_address(format!("{} cluster IP", self.name), address).jump(*chain);
            self.shared(Table::Nat, self.services(address), rule);
        } else {
            let rule = self.refuse(self.to_address(self.refusal_comment(), address));
            self.shared(Table::Filter, names::services(), rule);
        }
        // IPVS mode refuses these as well. kube-proxy lets them go, usually to the default gateway.
        let comment = format!("{} has its cluster IP for itself", self.name);
        let rest = self.reject(Rule::new().comment(comment).destination(address));
        self.shared(Table::Filter, names::cluster_ips(), rest);
    }

    fn capture_external(&mut self, has_endpoints: bool) {
        for address in self.port.external_ips.clone() {
            let comment = format!("{} external IP", self.name);
            self.capture_one_external(address, comment, self.ext(), has_endpoints);
        }
        let chain = if self.has_firewall() { self.fw() } else { self.ext() };
        for address in self.port.load_balancer_ips.clone() {
            let comment = format!("{} loadbalancer IP", self.name);
            self.capture_one_external(address, comment, chain, has_endpoints);
            if self.has_firewall() && self.port.has_any_endpoints {
                let comment = format!("{} traffic not accepted by {}", self.name, self.fw());
                let rule = self.to_address(comment, address).drop();
                self.shared(Table::Filter, names::proxy_firewall(), rule);
            }
        }
    }

    fn capture_one_external(&mut self, address: IpAddr, comment: String, chain: ChainName, has_endpoints: bool) {
        if self.port.has_any_endpoints {
            let rule = self.to_address(comment, address).jump(chain);
            self.shared(Table::Nat, self.services(address), rule);
        }
        if !has_endpoints {
            let rule = self.refuse(self.to_address(self.refusal_comment(), address));
            self.shared(Table::Filter, names::external_services(), rule);
        }
    }

    fn capture_node_port(&mut self, has_endpoints: bool) {
        let Some(node_port) = self.port.node_port else { return };
        let to_port = |comment: String| {
            Rule::new().comment(comment).protocol(protocol(self.port.key.protocol)).destination_port(node_port)
        };
        let accept = to_port(self.name.clone()).jump(self.ext());
        if self.port.has_any_endpoints {
            self.shared(Table::Nat, names::node_ports(), accept);
        }
        if !has_endpoints {
            // Upstream refuses on all addresses of the node; what listens on the others is none of our business.
            let family = IpFamily::of(self.port.cluster_ip);
            for rule in to_node_ports(&to_port(self.refusal_comment()), self.node, family) {
                let refusal = self.refuse(rule);
                self.shared(Table::Filter, names::external_services(), refusal);
            }
        }
    }

    fn accept_health_check(&mut self) {
        let Some(port) = self.port.health_check_port else { return };
        let rule = Rule::new()
            .comment(format!("{} health check node port", self.name))
            .protocol(iptables::Protocol::Tcp)
            .destination_port(port)
            .accept();
        self.shared(Table::Filter, names::node_ports(), rule);
    }

    /// `KUBE-SEP-…`: masquerade a pod that reaches itself, remember the client, translate.
    fn endpoint_chains(&mut self) {
        let mut endpoints: Vec<SocketAddr> = self.cluster.iter().chain(&self.local).map(|e| e.address).collect();
        endpoints.sort_unstable();
        endpoints.dedup();
        for address in endpoints {
            let name = self.sep(address);
            let comment: Arc<str> = self.name.as_str().into();
            let hairpin = Rule::new().comment(comment.clone()).source(address.ip()).jump(names::mark_masq());
            let mut translate = Rule::new().comment(comment);
            if self.port.affinity.is_some() {
                translate = translate.recent(RecentMatch::set(name.as_str()));
            }
            let translate = translate.protocol(protocol(self.port.key.protocol)).dnat(address);
            self.out.chains.push(Chain { name, rules: vec![hairpin, translate] });
        }
    }

    /// `KUBE-SVC-…` and `KUBE-SVL-…`: affinity first, then the ladder of probabilities.
    fn policy_chain(&mut self, name: ChainName, endpoints: Vec<&Endpoint>, internal: Option<&ChainName>) {
        if endpoints.is_empty() {
            return;
        }
        let mut rules = Vec::with_capacity(endpoints.len() + 1);
        if internal == Some(&name) {
            rules.extend(self.masquerade_internal());
        }
        if let Some(timeout) = self.port.affinity {
            let comment: Arc<str> = self.name.as_str().into();
            for endpoint in &endpoints {
                let chain = self.sep(endpoint.address);
                let recent = RecentMatch::rcheck(chain.as_str(), timeout.seconds());
                rules.push(Rule::new().comment(comment.clone()).recent(recent).jump(chain));
            }
        }
        let mut left: u64 = endpoints.iter().map(|endpoint| u64::from(endpoint.weight())).sum();
        for (index, endpoint) in endpoints.iter().enumerate() {
            let weight = endpoint.weight();
            // The weight is said for people and for `list`; the usual 1 is not, as upstream has no weights.
            let weighted = if weight == 1 { String::new() } else { format!("{WEIGHT_COMMENT}{weight}") };
            let mut rule = Rule::new().comment(format!("{} -> {}{weighted}", self.name, endpoint.address));
            if index + 1 < endpoints.len() {
                rule = rule.probability(Probability::share(weight, left));
            }
            left = left.saturating_sub(weight.into());
            rules.push(rule.jump(self.sep(endpoint.address)));
        }
        self.out.chains.push(Chain { name, rules });
    }

    /// Off-cluster senders use the node as their way in; the answer must come back the same way.
    fn masquerade_internal(&self) -> Option<Rule> {
        let rule = self.to_address(format!("{} cluster IP", self.name), self.port.cluster_ip);
        if self.node.masquerade_all {
            return Some(rule.jump(names::mark_masq()));
        }
        masquerade_if_not_local(rule, &self.node.detect_local, names::mark_masq(), names::off_cluster())
    }

    /// `KUBE-EXT-…`: what comes from outside, or from inside to an outside address.
    fn ext_chain(&mut self, external: Option<&ChainName>) {
        if !self.port.externally_accessible() {
            return;
        }
        let mut rules = Vec::new();
        let comment = |what: &str| format!("{what} {} external destinations", self.name);
        if self.port.external_policy_local {
            // A pod's or the node's own traffic is treated as if it went out and came back: any endpoint will do.
            if !self.cluster.is_empty() {
                let pods = Rule::new().comment(comment("pod traffic for"));
                let pods = if_local(&pods, &self.node.detect_local);
                rules.extend(pods.into_iter().map(|rule| rule.jump(self.svc())));
            }
            let from_node = |what| Rule::new().comment(comment(what)).src_type(AddrType::Local);
            rules.push(from_node("masquerade LOCAL traffic for").jump(names::mark_masq()));
            if !self.cluster.is_empty() {
                rules.push(from_node("route LOCAL traffic for").jump(self.svc()));
            }
        } else {
            rules.push(Rule::new().comment(comment("masquerade traffic for")).jump(names::mark_masq()));
        }
        rules.extend(external.map(|chain| Rule::new().jump(*chain)));
        self.out.chains.push(Chain { name: self.ext(), rules });
    }

    /// `KUBE-FW-…`: who may use the load-balancer addresses. What comes out at its end was not translated and meets
    /// KUBE-PROXY-FIREWALL.
    fn firewall_chain(&mut self) {
        if !self.has_firewall() {
            return;
        }
        let comment = format!("{} loadbalancer IP", self.name);
        let admit = |net: ipnet::IpNet| Rule::new().comment(comment.clone()).source(net).jump(self.ext());
        let mut rules: Vec<Rule> = self.port.source_ranges.iter().map(|net| admit(*net)).collect();
        let node_admitted =
            self.node.node_addresses.iter().any(|ip| self.port.source_ranges.iter().any(|net| net.contains(ip)));
        if node_admitted {
            // Where the address is bound on the node, the node's own traffic to it has it as its source.
            rules.extend(self.port.load_balancer_ips.iter().map(|ip| admit((*ip).into())));
        }
        let rest = format!("other traffic to {} will be dropped by KUBE-PROXY-FIREWALL", self.name);
        rules.push(Rule::new().comment(rest));
        self.out.chains.push(Chain { name: self.fw(), rules });
    }
}
