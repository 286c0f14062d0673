//! Random rules, written to the kernel and read back.

use ipnet::IpNet;
use iptables::{
    AddrType, AnyOf, ConntrackMatch, CtState, Match, PortRange, Probability, Protocol, RecentMatch, Rule, Statistic,
    Table, Target,
};
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::{Config, TestRunner};

use crate::netns::{ALL, commands, in_netns};
use crate::vocabulary::{Addresses, prove};

/// An address of the family with any prefix length but 0, which cannot be negated.
fn net(v4: bool) -> BoxedStrategy<IpNet> {
    if v4 {
        (any::<std::net::Ipv4Addr>(), 1_u8..=32).prop_map(|(ip, len)| IpNet::new(ip.into(), len).unwrap()).boxed()
    } else {
        (any::<std::net::Ipv6Addr>(), 1_u8..=128).prop_map(|(ip, len)| IpNet::new(ip.into(), len).unwrap()).boxed()
    }
}

fn ports() -> impl Strategy<Value = (PortRange, bool)> {
    ((1_u16..).prop_flat_map(|first| (Just(first), first..)), any::<bool>())
        .prop_map(|((a, b), not)| (PortRange::new(a, b), not))
}

fn fixed(v4: bool) -> impl Strategy<Value = Vec<Match>> {
    use prop::option::of;
    let name = || "[a-z][a-z0-9.-]{0,12}\\+?";
    (
        of((net(v4), any::<bool>())),
        of((net(v4), any::<bool>())),
        of((name(), any::<bool>())),
        of((name(), any::<bool>())),
        of((prop::sample::select(vec![6_u8, 17, 132]), of(ports()), of(ports()))),
    )
        .prop_map(|(source, destination, input, output, transport)| {
            let mut tests = Vec::new();
            tests.extend(source.map(|(net, negated)| Match::Source { net, negated }));
            tests.extend(destination.map(|(net, negated)| Match::Destination { net, negated }));
            tests.extend(input.map(|(name, negated)| Match::InInterface { name: name.into(), negated }));
            tests.extend(output.map(|(name, negated)| Match::OutInterface { name: name.into(), negated }));
            if let Some((protocol, from, to)) = transport {
                tests.push(Match::Protocol { protocol: Protocol::Other(protocol), negated: false });
                tests.extend(from.map(|(ports, negated)| Match::SourcePort { ports, negated }));
                tests.extend(to.map(|(ports, negated)| Match::DestinationPort { ports, negated }));
            }
            tests
        })
}

/// xt_addrtype refuses some types for IPv6 (`addrtype_mt_checkentry_v1`).
fn address_types(v4: bool) -> Vec<AddrType> {
    let refused = [AddrType::Broadcast, AddrType::Blackhole, AddrType::Prohibit];
    AddrType::ALL.iter().copied().filter(|kind| v4 || !refused.contains(kind)).collect()
}

fn extension(v4: bool) -> impl Strategy<Value = Match> {
    let states = prop::collection::vec(prop::sample::select(CtState::ALL), 1..4);
    let types = prop::collection::vec(prop::sample::select(address_types(v4)), 1..4);
    prop_oneof![
        "[^\\x00]{0,60}".prop_map(|text| Match::Comment(text.into())),
        (any::<u32>(), any::<u32>(), any::<bool>()).prop_map(|(value, mask, negated)| Match::Mark {
            value: value & mask,
            mask,
            negated
        }),
        (0.0_f64..=1.0, any::<bool>()).prop_map(|(p, negated)| {
            Match::Statistic(Statistic::Random { probability: Probability::from_f64(p), negated })
        }),
        (1_u32..50)
            .prop_map(|n| Match::Statistic(Statistic::Random { probability: Probability::one_in(n), negated: false })),
        ("[A-Z0-9-]{1,25}", 1_u32..100_000)
            .prop_map(|(name, seconds)| Match::Recent(Box::new(RecentMatch::rcheck(name, seconds)))),
        (states, any::<bool>()).prop_map(|(members, negated)| {
            Match::Conntrack(Box::new(ConntrackMatch {
                state: Some(AnyOf { members, negated }),
                ..ConntrackMatch::default()
            }))
        }),
        (types, any::<bool>()).prop_map(|(members, negated)| {
            Match::AddrType(Box::new(iptables::AddrTypeMatch {
                destination: Some(AnyOf { members, negated }),
                ..Default::default()
            }))
        }),
    ]
}

fn target() -> impl Strategy<Value = Option<Target>> {
    prop_oneof![
        Just(None),
        Just(Some(Target::Return)),
        (any::<u32>(), any::<u32>()).prop_map(|(value, mask)| Some(Target::Mark { value, mask })),
    ]
}

fn rule(v4: bool) -> impl Strategy<Value = Rule> {
    (fixed(v4), prop::collection::vec(extension(v4), 0..4), target(), any::<bool>()).prop_map(
        |(fixed, mut more, target, first)| {
            // Tests of extensions may be given before the fixed ones.
            let matches = if first {
                more.extend(fixed);
                more
            } else {
                [fixed, more].concat()
            };
            Rule { matches, target }
        },
    )
}

#[test]
fn random_rules_come_back() {
    in_netns(|| {
        for (variant, family) in ALL {
            let Some(commands) = commands(variant, family) else { continue };
            let v4 = Addresses::of(family).host.is_ipv4();
            // One chain of many rules is one case: every rule is compared, and the kernel is asked only once.
            let mut runner = TestRunner::new(Config::default());
            for _ in 0..3 {
                let rules = prop::collection::vec(rule(v4), 200).new_tree(&mut runner).unwrap().current();
                prove(&commands, Table::Mangle, rules);
            }
        }
    });
}
