//! The tracer on kube-proxy's structure, built from typed rules and applied in memory.

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, SocketAddr};

    use iptables::tracer::{Packet, SetEntry, Tracer, Verdict};
    use iptables::{
        AddrType, Chain, ChainName, CtState, Position, Probability, Protocol, RecentMatch, Rule, Saved, SetDir,
        SetTarget, Table, Target, Transaction, parse_save,
    };

    const SERVICES: ChainName = ChainName::from_static("KUBE-SERVICES");
    const NODEPORTS: ChainName = ChainName::from_static("KUBE-NODEPORTS");
    const POSTROUTING: ChainName = ChainName::from_static("KUBE-POSTROUTING");
    const MARK_MASQ: ChainName = ChainName::from_static("KUBE-MARK-MASQ");
    const FORWARD: ChainName = ChainName::from_static("KUBE-FORWARD");
    const SVC: ChainName = ChainName::from_static("KUBE-SVC-XPGD46QRK7WJZT7O");
    const EXT: ChainName = ChainName::from_static("KUBE-EXT-XPGD46QRK7WJZT7O");
    const NODE: &str = "192.168.0.1";

    fn chain(name: &'static str) -> ChainName {
        ChainName::from_static(name)
    }

    fn at(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn endpoint_chain(number: u32) -> ChainName {
        ChainName::new(&format!("KUBE-SEP-{number}")).unwrap()
    }

    /// A service with three endpoints, a node port and, if asked for, session affinity.
    fn nat(affinity: bool) -> Transaction {
        let mut nat = Transaction::new();
        nat.add_chain(Table::Nat, Chain::new(MARK_MASQ, vec![Rule::new().or_mark(0x4000)]));
        let mut service = vec![Rule::new().not_source("10.0.0.0/8".parse::<ipnet::IpNet>().unwrap()).jump(MARK_MASQ)];
        let mut ladder = Vec::new();
        for number in 1..=3 {
            let pod = SocketAddr::new(ip(&format!("10.180.0.{number}")), 80);
            let name = endpoint_chain(number);
            let mut dnat = Rule::new().protocol(Protocol::Tcp);
            if affinity {
                dnat = dnat.recent(RecentMatch::set(name.as_str()));
                service.push(Rule::new().recent(RecentMatch::rcheck(name.as_str(), 10_800)).jump(name));
            }
            let hairpin = Rule::new().source(pod.ip()).jump(MARK_MASQ);
            nat.add_chain(Table::Nat, Chain::new(name, vec![hairpin, dnat.dnat(pod)]));
            let step = if number < 3 { Rule::new().probability(Probability::one_in(4 - number)) } else { Rule::new() };
            ladder.push(step.jump(name));
        }
        service.extend(ladder);
        nat.add_chain(Table::Nat, Chain::new(SVC, service));
        nat.add_chain(Table::Nat, Chain::new(EXT, vec![Rule::new().jump(MARK_MASQ), Rule::new().jump(SVC)]));
        let port = Rule::new().protocol(Protocol::Tcp).destination_port(30_080).jump(EXT);
        nat.add_chain(Table::Nat, Chain::new(NODEPORTS, vec![port]));
        let vip = Rule::new().protocol(Protocol::Tcp).destination(ip("172.30.0.41")).destination_port(80).jump(SVC);
        let last = Rule::new().dst_type(AddrType::Local).jump(NODEPORTS);
        nat.add_chain(Table::Nat, Chain::new(SERVICES, vec![vip, last]));
        let post = vec![
            Rule::new().not_mark(0x4000, 0x4000).return_(),
            Rule::new().set_xmark(0x4000, 0),
            Rule::new().masquerade(true),
        ];
        nat.add_chain(Table::Nat, Chain::new(POSTROUTING, post));
        for (builtin, to) in [("PREROUTING", SERVICES), ("OUTPUT", SERVICES), ("POSTROUTING", POSTROUTING)] {
            nat.insert_jump(Table::Nat, chain(builtin), Position::First, Rule::new().jump(to));
        }
        nat
    }

    fn cluster(affinity: bool) -> Saved {
        let mut whole = nat(affinity);
        let forward = vec![
            Rule::new().ctstate(&[CtState::Invalid]).drop(),
            Rule::new().mark(0x4000, 0x4000).accept(),
            Rule::new().ctstate(&[CtState::Related, CtState::Established]).accept(),
        ];
        whole.add_chain(Table::Filter, Chain::new(FORWARD, forward));
        let dead = Rule::new().protocol(Protocol::Tcp).destination(ip("172.30.0.99")).destination_port(80).reject();
        whole.add_chain(Table::Filter, Chain::new(SERVICES, vec![dead]));
        whole.insert_jump(Table::Filter, chain("FORWARD"), Position::First, Rule::new().jump(FORWARD));
        for builtin in ["FORWARD", "OUTPUT"] {
            let jump = Rule::new().ctstate(&[CtState::New]).jump(SERVICES);
            whole.insert_jump(Table::Filter, chain(builtin), Position::Last, jump);
        }
        let mut saved = Saved::default();
        saved.apply(&whole).unwrap();
        saved
    }

    fn tracer(rules: &Saved) -> Tracer<'_> {
        Tracer::new(rules).local(ip(NODE)).route("10.180.0.0/16".parse().unwrap(), "cni0")
    }

    fn tcp(from: &str, to: &str) -> Packet {
        Packet::new(Protocol::Tcp, at(from), at(to))
    }

    #[test]
    fn a_pod_reaches_every_endpoint_equally_and_unmasqueraded_but_for_itself() {
        let rules = cluster(false);
        let trace = tracer(&rules).trace(&tcp("10.180.0.2:4000", "172.30.0.41:80").arriving_at("cni0"));
        let destinations = trace.destinations();
        assert_eq!(destinations.len(), 3, "{trace}");
        for (destination, share) in &destinations {
            assert!((share - 1.0 / 3.0).abs() < 1e-8, "{destination} {share}");
        }
        for outcome in &trace.outcomes {
            let hairpin = outcome.destination == at("10.180.0.2:80");
            assert_eq!((outcome.masqueraded, outcome.mark), (hairpin, 0), "{trace}");
        }
        assert!(
            trace
                .to_string()
                .contains("33.3% accept 10.180.0.1:80, translated\n    nat PREROUTING #1: -j KUBE-SERVICES"),
            "{trace}"
        );
    }

    #[test]
    fn outsiders_are_masqueraded_and_pass_the_forward_chain() {
        let rules = cluster(false);
        for destination in ["172.30.0.41:80", "192.168.0.1:30080"] {
            let trace = tracer(&rules).trace(&tcp("203.0.113.9:4000", destination).arriving_at("eth0"));
            assert_eq!(trace.masqueraded(), Some(true), "{trace}");
            assert_eq!(trace.verdict(), Some(&Verdict::Accept));
            assert!(trace.visits(FORWARD) && trace.destinations().len() == 3, "{trace}");
        }
        let elsewhere = tracer(&rules).trace(&tcp("203.0.113.9:4000", "192.168.0.1:22").arriving_at("eth0"));
        assert!(elsewhere.destinations().is_empty() && elsewhere.outcomes[0].delivered_locally, "{elsewhere}");
    }

    #[test]
    fn the_node_itself_and_packets_that_are_refused() {
        let rules = cluster(false);
        let trace = tracer(&rules).trace(&tcp("192.168.0.1:4000", "172.30.0.41:80"));
        assert_eq!((trace.destinations().len(), trace.masqueraded()), (3, Some(true)));
        let refused = tracer(&rules).trace(&tcp("192.168.0.1:4000", "172.30.0.99:80"));
        assert_eq!(refused.verdict(), Some(&Verdict::Reject(None)));
        let invalid = tcp("203.0.113.9:4000", "172.30.0.41:80").arriving_at("eth0").in_state(CtState::Invalid);
        assert_eq!(tracer(&rules).trace(&invalid).verdict(), Some(&Verdict::Drop));
        let old = tcp("203.0.113.9:4000", "172.30.0.41:80").arriving_at("eth0").in_state(CtState::Established);
        assert!(tracer(&rules).trace(&old).destinations().is_empty(), "established flows never see nat");
    }

    #[test]
    fn affinity_keeps_a_client_with_its_endpoint() {
        let rules = cluster(true);
        let packet = tcp("10.180.0.77:4000", "172.30.0.41:80").arriving_at("cni0");
        let fresh = tracer(&rules).trace(&packet);
        assert_eq!(fresh.destinations().len(), 3);
        for outcome in &fresh.outcomes {
            assert_eq!(outcome.remembered.len(), 1, "{fresh}");
        }
        let known = tracer(&rules).recent("KUBE-SEP-2", ip("10.180.0.77")).trace(&packet);
        assert_eq!(known.destinations(), [(at("10.180.0.2:80"), 1.0)].into());
    }

    #[test]
    fn sets_give_marks_and_marks_are_matched() {
        let mut plan = Transaction::new();
        let map = Rule::new().target(Target::Set(SetTarget::map_mark("local", &[SetDir::Dst, SetDir::Dst])));
        plan.insert_jump(Table::Mangle, chain("PREROUTING"), Position::First, map);
        plan.insert_jump(Table::Filter, chain("INPUT"), Position::Last, Rule::new().mark(7, u32::MAX).accept());
        plan.insert_jump(
            Table::Filter,
            chain("INPUT"),
            Position::Last,
            Rule::new().not_set("vips", &[SetDir::Dst]).drop(),
        );
        let mut rules = Saved::default();
        rules.apply(&plan).unwrap();
        let answers = |set: &str, packet: &Packet, _: &[SetDir]| {
            (set == "local" && packet.destination_port == 80).then_some(SetEntry { mark: Some((7, u32::MAX)) })
        };
        let tracer = tracer(&rules).sets(answers);
        let marked = tracer.trace(&tcp("203.0.113.9:1", "192.168.0.1:80").arriving_at("eth0"));
        assert_eq!((marked.verdict(), marked.outcomes[0].mark), (Some(&Verdict::Accept), 7));
        let other = tracer.trace(&tcp("203.0.113.9:1", "192.168.0.1:81").arriving_at("eth0"));
        assert_eq!(other.verdict(), Some(&Verdict::Drop));
    }

    #[test]
    fn goto_policies_loops_and_what_cannot_be_followed() {
        let rules = parse_save(
            "*filter\n:INPUT DROP [0:0]\n:A - [0:0]\n:B - [0:0]\n:LOOP - [0:0]\n\
             -A INPUT -p tcp -m tcp --dport 1 -g A\n-A INPUT -p tcp -m tcp --dport 1 -j ACCEPT\n\
             -A INPUT -p tcp -m tcp --dport 2 -j B\n-A INPUT -p tcp -m tcp --dport 2 -j ACCEPT\n\
             -A INPUT -p tcp -m tcp --dport 3 -j LOOP\n-A INPUT -p tcp -m owner --uid-owner 7 -j ACCEPT\n\
             -A B -g A\n-A B -j DROP\n-A LOOP -j LOOP\nCOMMIT\n",
        )
        .unwrap();
        let verdict = |port: u16| {
            let packet = tcp("203.0.113.9:4000", &format!("{NODE}:{port}")).arriving_at("eth0");
            tracer(&rules).trace(&packet)
        };
        assert_eq!(verdict(1).verdict(), Some(&Verdict::Drop), "goto from a built-in chain ends at its policy");
        assert_eq!(verdict(2).verdict(), Some(&Verdict::Accept), "goto returns to the caller's caller");
        assert_eq!(verdict(3).verdict(), Some(&Verdict::Drop));
        assert!(verdict(4).outcomes[0].unknown.iter().any(|unknown| unknown.contains("owner")));
    }

    #[test]
    fn ipv6_and_long_ladders() {
        let mut plan = Transaction::new();
        let mut ladder = Vec::new();
        for number in 0..200_u32 {
            let pod: IpAddr = format!("fd00::{number:x}").parse().unwrap();
            let rule = Rule::new().protocol(Protocol::Udp).probability(Probability::one_in(200 - number));
            ladder.push(rule.dnat(SocketAddr::new(pod, 53)));
        }
        plan.add_chain(Table::Nat, Chain::new(SVC, ladder));
        plan.insert_jump(Table::Nat, chain("OUTPUT"), Position::Last, Rule::new().jump(SVC));
        let mut rules = Saved::default();
        rules.apply(&plan).unwrap();
        let packet = Packet::new(Protocol::Udp, at("[fd01::1]:4000"), at("[fd02::1]:53"));
        let trace = Tracer::new(&rules).trace(&packet);
        assert_eq!(trace.destinations().len(), 200);
        assert!(trace.destinations().values().all(|share| (share - 0.005).abs() < 1e-6));
        assert!((trace.outcomes.iter().map(|outcome| outcome.probability).sum::<f64>() - 1.0).abs() < 1e-9);
    }
}
