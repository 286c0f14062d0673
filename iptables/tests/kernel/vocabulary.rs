//! Every test and target that the crate has a type for, written to the kernel and read back.

use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;
use iptables::{
    AddrType, AddrTypeMatch, AnyOf, Chain, ChainName, Commands, ConntrackMatch, CtDirection, CtState, CtStatus, DnatTo,
    Family, LimitIface, LimitMatch, Match, PhysdevMatch, PortRange, Probability, Protocol, RateUnit, RecentAction,
    RecentMatch, Rule, SetAction, SetDir, SetTarget, Statistic, Table, Target, Test, Transaction,
};

use crate::netns::{ALL, commands, in_netns, skip, tool};

const X: ChainName = ChainName::from_static("KUBE-VOCABULARY-28-BYTES-NAM");
const LEAF: ChainName = ChainName::from_static("KUBE-LEAF");

pub struct Addresses {
    pub host: IpAddr,
    pub other: IpAddr,
    pub net: IpNet,
    pub odd_net: IpNet,
    pub icmp: Protocol,
    pub echo: u8,
}

impl Addresses {
    pub fn of(family: Family) -> Self {
        let (host, other, net, odd_net) = match family {
            Family::V4 => ("10.1.2.3", "203.0.113.9", "10.0.0.0/8", "10.96.1.2/12"),
            Family::V6 => ("fd00::1:2", "2001:db8::9", "fd00::/8", "fd00:96::1:2/108"),
        };
        Self {
            host: host.parse().unwrap(),
            other: other.parse().unwrap(),
            net: net.parse().unwrap(),
            odd_net: odd_net.parse().unwrap(),
            icmp: if family == Family::V4 { Protocol::Icmp } else { Protocol::Icmpv6 },
            echo: if family == Family::V4 { 8 } else { 128 },
        }
    }
}

/// The fixed part, ports, comments, marks.
fn simple(a: &Addresses) -> Vec<Rule> {
    let every: IpNet = IpNet::new(a.host, 0).unwrap();
    let mut rules = vec![
        Rule::new(),
        Rule::new().source(a.host).destination(a.net).accept(),
        Rule::new().not_source(a.net).not_destination(a.other).return_(),
        Rule::new().source(a.odd_net).destination(every).source(every),
        Rule::new().in_interface("eth0").out_interface("veth+"),
        Rule::new().not_in_interface("cali+").not_out_interface("lo").in_interface("+"),
        Rule::new().protocol(Protocol::Tcp),
        Rule::new().not_protocol(Protocol::Udp),
        Rule::new().protocol(Protocol::Other(89)),
        Rule::new().protocol(Protocol::Other(17)).destination_port(53),
        Rule::new().protocol(Protocol::Sctp).destination_port(3868),
        Rule::new().protocol(Protocol::Other(33)).destination_port(5),
        Rule::new().destination_port(443).comment("ports apart").source_port(1024..=65535).protocol(Protocol::Tcp),
        Rule::new().source_port(0..=1023).comment("other order").destination_port(7).protocol(Protocol::Udp),
        Rule::new().protocol(Protocol::Tcp).source_port(PortRange::ALL).destination_port(80..=80),
        Rule::new().protocol(Protocol::Tcp).with(Match::DestinationPort { ports: (80..=90).into(), negated: true }),
        Rule::new().protocol(a.icmp).icmp_type(a.echo).accept(),
        Rule::new().protocol(a.icmp).with(Match::Icmp { kind: a.echo, code: Some(1), negated: true }),
        Rule::new().mark(0x4000, 0x4000).return_(),
        Rule::new().not_mark(0x4000, 0x4000).return_(),
        Rule::new().mark(4, u32::MAX),
        Rule::new().mark(0, 0xff00_0000),
        Rule::new().comment("first").comment("and second"),
    ];
    for text in [
        "plain",
        "",
        "default/web:http cluster IP",
        "it's \"quoted\" \\ and\tmore",
        "-j",
        "-m x",
        "ünï ☸",
        "a,b;c|d$e`f#g%h",
    ] {
        rules.push(Rule::new().comment(text));
    }
    rules.extend([
        Rule::new().comment("x".repeat(300)),
        Rule::new().comment("é".repeat(200)),
        Rule::new().comment("two\nlines"),
    ]);
    rules
}

/// `statistic`, `recent`, `addrtype`.
fn balancing() -> Vec<Rule> {
    let mut rules: Vec<Rule> = [1, 2, 3, 4, 5, 6, 7, 9, 11, 13, 50, 99, 1_000, 30_000]
        .map(|count| Rule::new().probability(Probability::one_in(count)).jump(LEAF))
        .into();
    let nth = |every, packet, negated| Rule::new().with(Match::Statistic(Statistic::Nth { every, packet, negated }));
    rules.extend([nth(3, 0, false), nth(5, 4, true)]);
    rules.push(
        Rule::new().with(Match::Statistic(Statistic::Random { probability: Probability::one_in(4), negated: true })),
    );
    rules.extend([
        Rule::new().recent(RecentMatch::set("KUBE-SEP-SXIVWICOYRO3J4NJ")),
        Rule::new().recent(RecentMatch::rcheck("KUBE-SEP-SXIVWICOYRO3J4NJ", 10_800)).jump(LEAF),
        Rule::new().recent(RecentMatch { action: RecentAction::Remove, negated: true, ..RecentMatch::set("A") }),
        Rule::new().recent(RecentMatch {
            action: RecentAction::Update,
            hitcount: Some(2),
            ttl: true,
            destination: true,
            ..RecentMatch::rcheck("A", 5)
        }),
    ]);
    let local = || AnyOf::new(&[AddrType::Local]);
    rules.extend([
        Rule::new().dst_type(AddrType::Local).jump(LEAF),
        Rule::new().not_src_type(AddrType::Local).not_dst_type(AddrType::Unicast),
        Rule::new().addrtype(AddrTypeMatch {
            source: Some(AnyOf::none_of(&[AddrType::Multicast, AddrType::Local, AddrType::Local])),
            destination: Some(local()),
            limit_iface: None,
        }),
        Rule::new().addrtype(AddrTypeMatch {
            destination: Some(local()),
            limit_iface: Some(LimitIface::In),
            source: None,
        }),
    ]);
    rules
}

/// `conntrack`, `limit`, `physdev`, `pkttype`, and what has no type.
fn filtering(a: &Addresses) -> Vec<Rule> {
    let mut rules = Vec::new();
    rules.extend([
        Rule::new().ctstate(&[CtState::Invalid]).drop(),
        Rule::new().ctstate(&[CtState::Established, CtState::Related]).accept(),
        Rule::new().ctstate(CtState::ALL),
        Rule::new()
            .conntrack(ConntrackMatch { state: Some(AnyOf::none_of(&[CtState::New])), ..ConntrackMatch::default() }),
        Rule::new().conntrack(ConntrackMatch {
            original_source: Some(a.net.into()),
            original_destination: Some(Test { value: a.host.into(), negated: true }),
            reply_source: Some(Test { value: a.odd_net, negated: false }),
            reply_destination: Some(IpNet::from(a.other).into()),
            protocol: Some(Protocol::Tcp.into()),
            original_source_port: Some(PortRange::from(1000).into()),
            original_destination_port: Some(PortRange::from(80..=90).into()),
            reply_source_port: Some(Test { value: 7.into(), negated: true }),
            reply_destination_port: Some(PortRange::from(9).into()),
            status: Some(AnyOf::new(&[CtStatus::Assured, CtStatus::Expected])),
            direction: Some(CtDirection::Reply),
            ..ConntrackMatch::states(&[CtState::Dnat])
        }),
        Rule::new().conntrack(ConntrackMatch { direction: Some(CtDirection::Original), ..ConntrackMatch::default() }),
    ]);
    for (rate, per, burst) in [
        (60, RateUnit::Minute, 5),
        (90, RateUnit::Minute, 7),
        (7, RateUnit::Hour, 5),
        (9, RateUnit::Second, 99),
        (48, RateUnit::Day, 1),
    ] {
        rules.push(Rule::new().with(Match::Limit(LimitMatch { rate, per, burst })));
    }
    rules.extend([
        Rule::new().with(Match::Physdev(Box::new(PhysdevMatch {
            is_in: Some(true),
            is_bridged: Some(false),
            ..PhysdevMatch::default()
        }))),
        Rule::new().with(Match::Physdev(Box::new(PhysdevMatch {
            input: Some(std::sync::Arc::<str>::from("veth+").into()),
            ..PhysdevMatch::default()
        }))),
        Rule::new().with(Match::PktType { kind: "multicast".into(), negated: false }),
        Rule::new().raw("-p tcp -m multiport --dports 80,443"),
        Rule::new().protocol(Protocol::Tcp).raw("-m tcp --tcp-flags FIN,SYN,RST,ACK SYN"),
    ]);
    rules
}

/// Targets that any table takes.
fn targets() -> Vec<Rule> {
    [
        Target::Jump(LEAF),
        Target::Goto(LEAF),
        Target::Accept,
        Target::Drop,
        Target::Return,
        Target::Mark { value: 0x4000, mask: 0 },
        Target::Mark { value: 7, mask: u32::MAX },
        Target::or_mark(0x4000),
        Target::and_mark(0x4000),
        Target::xor_mark(0x4000),
        Target::Other("LOG --log-prefix \"kube drop: \" --log-level 7".into()),
        Target::Other("MARK --set-mark 16384".into()),
        Target::Other("CONNMARK --save-mark --nfmask 0x4000 --ctmask 0x4000".into()),
    ]
    .map(|target| Rule::new().target(target))
    .into()
}

fn nat_targets(a: &Addresses) -> Vec<Rule> {
    let dnat = |to: DnatTo, persistent, random| {
        Rule::new().protocol(Protocol::Tcp).target(Target::Dnat { to, persistent, random })
    };
    let endpoint = SocketAddr::new(a.host, 8080);
    vec![
        dnat(endpoint.into(), false, false),
        dnat(endpoint.into(), true, false),
        dnat(endpoint.into(), false, true),
        dnat(a.host.into(), false, false),
        Rule::new().protocol(Protocol::Sctp).destination_port(1).dnat(endpoint),
        Rule::new().masquerade(false),
        Rule::new().masquerade(true),
        Rule::new().protocol(Protocol::Tcp).target(Target::Other("REDIRECT --to-ports 100".into())),
    ]
}

fn filter_targets(family: Family) -> Vec<Rule> {
    let answers: &[&str] = match family {
        Family::V4 => {
            &["icmp-port-unreachable", "icmp-host-prohibited", "icmp-admin-prohibited", "icmp-net-unreachable"]
        }
        Family::V6 => &["icmp6-port-unreachable", "icmp6-adm-prohibited", "icmp6-no-route"],
    };
    let mut rules: Vec<Rule> = answers.iter().map(|answer| Rule::new().reject_with(*answer)).collect();
    rules.extend([Rule::new().reject(), Rule::new().protocol(Protocol::Tcp).reject_with("tcp-reset")]);
    rules
}

fn set_rules() -> Vec<Rule> {
    use SetDir::{Dst, Src};
    let target =
        |action| Rule::new().target(Target::Set(SetTarget { action, name: "vips".into(), dirs: vec![Dst, Dst] }));
    vec![
        Rule::new().set("vips", &[Dst, Dst]).accept(),
        Rule::new().not_set("vips", &[Src, Dst]),
        Rule::new().target(Target::Set(SetTarget::map_mark("vips", &[Dst, Dst]))),
        target(SetAction::Map { mark: true, prio: true, queue: true }),
        target(SetAction::Add { exist: true, timeout: Some(30) }),
        target(SetAction::Add { exist: false, timeout: None }),
        target(SetAction::Del),
    ]
}

/// Writes the rules as one chain, each as a line of its own, and compares what comes back rule by rule.
pub fn prove(commands: &Commands, table: Table, rules: Vec<Rule>) {
    let about = format!("{} {:?} {table}", commands.variant, commands.family);
    let leaf = Chain::new(LEAF, vec![]);
    let chain = Chain::new(X, rules);
    let mut transaction = Transaction::new();
    transaction.replace_chain(table, &leaf).replace_chain(table, &chain);
    if let Err(error) = commands.restore(&transaction) {
        panic!("{about}: {error}");
    }
    let saved = commands.save(&[table]).unwrap_or_else(|error| panic!("{about}: {error}"));
    let found = saved.chain(table, X).unwrap();
    for (wanted, found) in chain.rules.iter().zip(&found.rules) {
        assert_eq!(*found, wanted.normalised(), "{about}: wrote {wanted}, read {found}");
    }
    assert_eq!(found.rules.len(), chain.rules.len(), "{about}");
    assert_eq!(found.hash(), chain.hash(), "{about}");
    assert!(saved.holds(table, &chain) && saved.holds(table, &leaf), "{about}");
    // A second writing of the same gives the same.
    commands.restore(&transaction).unwrap();
    assert!(commands.save(&[table]).unwrap().holds(table, &chain), "{about}");
}

#[test]
fn everything_comes_back_as_it_was_meant() {
    in_netns(|| {
        for (variant, family) in ALL {
            let Some(commands) = commands(variant, family) else { continue };
            let a = Addresses::of(family);
            let mut nat = simple(&a);
            nat.extend(balancing());
            nat.extend(filtering(&a));
            nat.extend(targets());
            nat.retain(|rule| rule.target != Some(Target::Drop));
            nat.extend(nat_targets(&a));
            prove(&commands, Table::Nat, nat);
            let mut filter = simple(&a);
            filter.extend(balancing());
            filter.extend(filtering(&a));
            filter.extend(targets());
            filter.extend(filter_targets(family));
            prove(&commands, Table::Filter, filter);
            prove(&commands, Table::Mangle, targets());
            prove(
                &commands,
                Table::Raw,
                vec![Rule::new().target(Target::Other("CT --notrack".into())), Rule::new().accept()],
            );
        }
    });
}

#[test]
fn ipset_rules_come_back() {
    in_netns(|| {
        for (variant, family) in ALL {
            let Some(commands) = commands(variant, family) else { continue };
            let inet = if family == Family::V4 { "inet" } else { "inet6" };
            let _ = tool("ipset", &["destroy", "-exist", "vips"]);
            if !tool("ipset", &["create", "vips", "hash:ip,port", "family", inet, "skbinfo", "timeout", "0"]) {
                return skip("no ipset program to make a set with");
            }
            prove(&commands, Table::Mangle, set_rules());
            commands.restore(&format!("*mangle\n:{X} - [0:0]\n-X {X}\nCOMMIT\n")).unwrap();
        }
    });
}
