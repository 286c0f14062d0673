//! From a rule line to a typed rule. What is not known stays as its own words, so that no rule is ever lost.

use ipnet::IpNet;

use crate::ext::addrtype::AddrTypeMatch;
use crate::ext::conntrack::{self, ConntrackMatch};
use crate::ext::limit::LimitMatch;
use crate::ext::masked::MaskedAddress;
use crate::ext::physdev::PhysdevMatch;
use crate::ext::recent::RecentMatch;
use crate::ext::set::SetMatch;
use crate::ext::statistic::Statistic;
use crate::ext::value_and_mask;
use crate::matches::Match;
use crate::options::Words;
use crate::protocol::{PortRange, Protocol};
use crate::quote::{self, Word};
use crate::rule::Rule;
use crate::target::Target;

/// Reads a rule line. `is_chain` says whether a target without options is a chain of the table.
pub(crate) fn rule(text: &str, is_chain: &dyn Fn(&str) -> bool) -> Rule {
    from_words(&quote::split(text), is_chain)
}

/// Like [`rule`], from words.
pub(crate) fn from_words(words: &[Word<'_>], is_chain: &dyn Fn(&str) -> bool) -> Rule {
    parse(words, is_chain).normalised()
}

/// The tests in a text, without values rewritten.
pub(crate) fn matches(text: &str) -> Vec<Match> {
    let words = quote::split(text);
    let found = parse(&words, &|_| false);
    // A target has no place among tests: the text stays as it is and iptables says what it thinks of it.
    if found.target.is_some() { vec![Match::Other(text.into())] } else { found.matches }
}

fn parse(words: &[Word<'_>], is_chain: &dyn Fn(&str) -> bool) -> Rule {
    let mut rule = Rule::new();
    let mut words = Words::new(words);
    while words.peek().is_some() {
        let start = words.position();
        if words.take("-j") || words.take("--jump") {
            rule.target = Target::parse(&mut words, false, is_chain);
        } else if words.take("-g") || words.take("--goto") {
            rule.target = Target::parse(&mut words, true, is_chain);
        } else {
            let mut attempt = words.clone();
            let mut found = Vec::new();
            if test(&mut attempt, &mut found).is_some() {
                words = attempt;
                rule.matches.append(&mut found);
            } else {
                unknown(&mut words);
                rule.matches.push(Match::Other(quote::join(words.since(start)).into()));
            }
        }
    }
    rule
}

/// Steps over one test that is not understood, together with its values.
fn unknown(words: &mut Words<'_, '_>) {
    words.take("!");
    words.value();
    words.rest();
}

/// One test of the fixed part or one extension with its options.
fn test(words: &mut Words<'_, '_>, found: &mut Vec<Match>) -> Option<()> {
    let before = words.clone();
    let negated = words.take("!");
    let option = words.peek().filter(|word| !word.quoted).map(|word| &*word.text)?;
    words.value();
    found.push(match option {
        "-s" | "--source" | "--src" => {
            address(words.value()?, |net| Match::Source { net, negated }, |bits| Match::SourceBits { bits, negated })?
        }
        "-d" | "--destination" | "--dst" => address(
            words.value()?,
            |net| Match::Destination { net, negated },
            |bits| Match::DestinationBits { bits, negated },
        )?,
        "-i" | "--in-interface" => Match::InInterface { name: words.value()?.into(), negated },
        "-o" | "--out-interface" => Match::OutInterface { name: words.value()?.into(), negated },
        "-p" | "--protocol" | "--proto" => Match::Protocol { protocol: Protocol::parse(words.value()?)?, negated },
        "-m" | "--match" if !negated => {
            extension(words.value()?, words, found)?;
            return words.at_boundary().then_some(());
        }
        _ => {
            // Ports of an implicit `-m tcp`.
            *words = before;
            ports(words, found)?;
            return (!found.is_empty()).then_some(());
        }
    });
    Some(())
}

/// A network, or bits of an address that are no prefix.
fn address(
    text: &str,
    network: impl FnOnce(IpNet) -> Match,
    bits: impl FnOnce(Box<MaskedAddress>) -> Match,
) -> Option<Match> {
    conntrack::net(text).map(network).or_else(|| MaskedAddress::parse(text).map(|masked| bits(Box::new(masked))))
}

fn extension(name: &str, words: &mut Words<'_, '_>, found: &mut Vec<Match>) -> Option<()> {
    found.push(match name {
        "tcp" | "udp" | "sctp" | "dccp" => return if words.at_boundary() { Some(()) } else { ports(words, found) },
        "icmp" => icmp(words, "--icmp-type")?,
        "icmp6" | "icmpv6" => icmp(words, "--icmpv6-type")?,
        "comment" => {
            let option = words.value()?;
            Match::Comment((option == "--comment").then(|| words.value())??.into())
        }
        "mark" => {
            let option = words.option().filter(|option| option.name == "--mark")?;
            let (value, mask) = value_and_mask(words.value()?)?;
            Match::Mark { value, mask, negated: option.negated }
        }
        "statistic" => Match::Statistic(Statistic::parse(words)?),
        "recent" => Match::Recent(Box::new(RecentMatch::parse(words)?)),
        "addrtype" => Match::AddrType(Box::new(AddrTypeMatch::parse(words)?)),
        "conntrack" => Match::Conntrack(Box::new(ConntrackMatch::parse(words)?)),
        "set" => Match::Set(Box::new(SetMatch::parse(words)?)),
        "physdev" => Match::Physdev(Box::new(PhysdevMatch::parse(words)?)),
        "limit" => Match::Limit(LimitMatch::parse(words)?),
        "pkttype" => {
            let option = words.option().filter(|option| option.name == "--pkt-type")?;
            Match::PktType { kind: words.value()?.into(), negated: option.negated }
        }
        _ => return None,
    });
    Some(())
}

fn ports(words: &mut Words<'_, '_>, found: &mut Vec<Match>) -> Option<()> {
    while let Some(option) = words.option() {
        let negated = option.negated;
        found.push(match option.name {
            "--sport" | "--source-port" => Match::SourcePort { ports: PortRange::parse(words.value()?)?, negated },
            "--dport" | "--destination-port" => {
                Match::DestinationPort { ports: PortRange::parse(words.value()?)?, negated }
            }
            _ => return None,
        });
    }
    Some(())
}

fn icmp(words: &mut Words<'_, '_>, name: &str) -> Option<Match> {
    let option = words.option().filter(|option| option.name == name)?;
    let value = words.value()?;
    let (kind, code) = match value.split_once('/') {
        Some((kind, code)) => (kind, Some(code.parse().ok()?)),
        None => (value, None),
    };
    let kind = kind.parse().ok().or_else(|| icmp_named(name, kind))?;
    Some(Match::Icmp { kind, code, negated: option.negated })
}

/// The names of types that rules commonly have; iptables-save prints numbers.
fn icmp_named(option: &str, name: &str) -> Option<u8> {
    Some(match (option, name) {
        ("--icmp-type", "echo-request") => 8,
        ("--icmp-type", "echo-reply") => 0,
        ("--icmp-type", "destination-unreachable") => 3,
        ("--icmp-type", "time-exceeded") => 11,
        ("--icmpv6-type", "echo-request") => 128,
        ("--icmpv6-type", "echo-reply") => 129,
        ("--icmpv6-type", "destination-unreachable") => 1,
        ("--icmpv6-type", "packet-too-big") => 2,
        ("--icmpv6-type", "time-exceeded") => 3,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Written form on the left, what iptables-save of either variant prints on the right.
    #[test]
    fn other_spellings_come_down_to_one() {
        let table = [
            ("-p tcp --dport 80 -d 1.2.3.4 -j ACCEPT", "-d 1.2.3.4/32 -p tcp -m tcp --dport 80 -j ACCEPT"),
            ("-m tcp -p tcp -d 1.2.3.4/32 --dport 80", "-d 1.2.3.4/32 -p tcp -m tcp --dport 80"),
            ("-s 10.1.2.3/8", "-s 10.0.0.0/8"),
            ("-s 10.0.0.0/255.0.0.0", "-s 10.0.0.0/8"),
            ("-s 0.0.0.0/0 -d ::/0 -i + -p 0", ""),
            ("-p 6 -m tcp", "-p tcp"),
            ("-j MARK --or-mark 0x4000", "-j MARK --set-xmark 0x4000/0x4000"),
            ("-j MARK --xor-mark 0x4000", "-j MARK --set-xmark 0x4000/0x0"),
            ("-j MARK --and-mark 0x4000", "-j MARK --set-xmark 0x0/0xffffbfff"),
            ("-j MARK --set-mark 16384", "-j MARK --set-xmark 0x4000/0xffffffff"),
            ("-m mark --mark 0x4/0xffffffff", "-m mark --mark 0x4"),
            ("-j REJECT --reject-with icmp6-port-unreachable", "-j REJECT"),
            (
                "-m recent --name A --rcheck --seconds 10800 --reap",
                "-m recent --rcheck --seconds 10800 --reap --name A --rsource",
            ),
            ("-m recent --set --name A --mask 255.255.255.255 --rsource", "-m recent --set --name A --rsource"),
            ("-m conntrack --ctstate ESTABLISHED,RELATED", "-m conntrack --ctstate RELATED,ESTABLISHED"),
            ("-m limit --limit 60/minute --limit-burst 5", "-m limit --limit 1/sec"),
            (
                "-m statistic --mode random --probability 0.3333333333",
                "-m statistic --mode random --probability 0.33333333349",
            ),
            (
                "-p tcp -m tcp --dport 80 -m comment --comment \"\" -m tcp --sport 81",
                "-p tcp -m tcp --sport 81 --dport 80 -m comment --comment \"\"",
            ),
            ("-p icmp -m icmp --icmp-type echo-request", "-p icmp -m icmp --icmp-type 8"),
            ("-p icmpv6 -m icmp6 --icmpv6-type echo-request", "-p ipv6-icmp -m icmp6 --icmpv6-type 128"),
            ("-p icmpv6 -m icmp6 --icmpv6-type 128", "-p ipv6-icmp -m icmp6 --icmpv6-type 128"),
        ];
        for (written, saved) in table {
            assert_eq!(Rule::parse(written).to_string(), saved, "{written}");
            assert_eq!(Rule::parse(saved).to_string(), saved, "{saved}");
        }
    }

    #[test]
    fn what_is_unknown_stays() {
        for line in [
            "-p tcp -m multiport --dports 80,443 -j RETURN",
            "-p tcp -m tcp --tcp-flags FIN,SYN,RST,ACK SYN -j ACCEPT",
            "-m string --string \"-j x\" --algo bm -j LOG --log-prefix \"foo bar: \" --log-level 7",
            "-m foo ! --bar -j CT --notrack",
            "-s 10.0.0.0/255.0.255.0 -j ACCEPT",
            "-p tcp -f -j REDIRECT --to-ports 100",
            "-j NOTRACK",
        ] {
            let rule = Rule::parse(line);
            assert_eq!(rule.to_string(), line);
            assert_eq!(Rule::parse(&rule.to_string()), rule, "{line}");
        }
    }

    #[test]
    fn a_comment_that_looks_like_an_option() {
        let rule = Rule::new().comment("-j DROP").accept();
        assert_eq!(Rule::parse(&rule.to_string()), rule);
        assert_eq!(Rule::parse("-m comment --comment -j -j ACCEPT"), Rule::new().comment("-j").accept());
    }

    #[test]
    fn raw_text_is_understood_where_it_can_be() {
        let raw = Rule::new().raw("-m mark --mark 0x4000/0x4000").target(Target::Other("MARK --or-mark 1".into()));
        assert_eq!(raw.normalised(), Rule::new().mark(0x4000, 0x4000).or_mark(1));
        let odd = Rule::new().raw("-j ACCEPT").accept();
        assert_eq!(odd.normalised(), odd);
    }

    /// kube-proxy's rules as it writes them (`proxier.go`), and as they come back.
    #[test]
    fn kube_proxys_rules() {
        let table = [
            (
                "-m comment --comment \"ns1/svc1:p80 cluster IP\" -m tcp -p tcp -d 172.30.0.41 --dport 80 ! -s 10.0.0.0/8 -j KUBE-MARK-MASQ",
                "! -s 10.0.0.0/8 -d 172.30.0.41/32 -p tcp -m comment --comment \"ns1/svc1:p80 cluster IP\" -m tcp --dport 80 -j KUBE-MARK-MASQ",
            ),
            (
                "-m comment --comment \"kubernetes service nodeports; NOTE: this must be the last rule in this chain\" -m addrtype --dst-type LOCAL -j KUBE-NODEPORTS",
                "-m comment --comment \"kubernetes service nodeports; NOTE: this must be the last rule in this chain\" -m addrtype --dst-type LOCAL -j KUBE-NODEPORTS",
            ),
            (
                "-m comment --comment ns5/svc5:p80 -m recent --name KUBE-SEP-I77PXRDZVX7PMWMN --set -m tcp -p tcp -j DNAT --to-destination 10.180.0.3:80",
                "-p tcp -m comment --comment \"ns5/svc5:p80\" -m recent --set --name KUBE-SEP-I77PXRDZVX7PMWMN --rsource -j DNAT --to-destination 10.180.0.3:80",
            ),
            (
                "-m comment --comment ns5/svc5:p80 -m recent --name KUBE-SEP-I77PXRDZVX7PMWMN --rcheck --seconds 10800 --reap -j KUBE-SEP-I77PXRDZVX7PMWMN",
                "-m comment --comment \"ns5/svc5:p80\" -m recent --rcheck --seconds 10800 --reap --name KUBE-SEP-I77PXRDZVX7PMWMN --rsource -j KUBE-SEP-I77PXRDZVX7PMWMN",
            ),
            (
                "-m comment --comment \"ns1/svc1:p80 -> 10.180.0.1:80\" -m statistic --mode random --probability 0.5000000000 -j KUBE-SEP-SXIVWICOYRO3J4NJ",
                "-m comment --comment \"ns1/svc1:p80 -> 10.180.0.1:80\" -m statistic --mode random --probability 0.50000000000 -j KUBE-SEP-SXIVWICOYRO3J4NJ",
            ),
            ("-m mark ! --mark 0x4000/0x4000 -j RETURN", "-m mark ! --mark 0x4000/0x4000 -j RETURN"),
            ("-j MARK --xor-mark 0x4000", "-j MARK --set-xmark 0x4000/0x0"),
            (
                "-m conntrack --ctstate INVALID -m nfacct --nfacct-name ct_state_invalid_dropped_pkts -j DROP",
                "-m conntrack --ctstate INVALID -m nfacct --nfacct-name ct_state_invalid_dropped_pkts -j DROP",
            ),
            (
                "-m comment --comment \"pod traffic for ns4/svc4:p80 external destinations\" -s 10.0.0.0/8 -j KUBE-SVC-4SW47YFZTEDKD3PK",
                "-s 10.0.0.0/8 -m comment --comment \"pod traffic for ns4/svc4:p80 external destinations\" -j KUBE-SVC-4SW47YFZTEDKD3PK",
            ),
            (
                "! -s 127.0.0.0/8 -d 127.0.0.0/8 -m conntrack ! --ctstate RELATED,ESTABLISHED,DNAT -j DROP",
                "! -s 127.0.0.0/8 -d 127.0.0.0/8 -m conntrack ! --ctstate RELATED,ESTABLISHED,DNAT -j DROP",
            ),
        ];
        for (written, saved) in table {
            let rule = Rule::parse(written);
            assert_eq!(rule.to_string(), saved, "{written}");
            assert_eq!(Rule::parse(saved), rule);
            let untyped = rule.matches.iter().filter(|test| matches!(test, Match::Other(_))).count();
            assert_eq!(untyped, usize::from(written.contains("nfacct")), "{written}");
        }
    }
}
