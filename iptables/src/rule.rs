//! A rule: tests in order, and a target.

use std::fmt;
use std::sync::Arc;

use ipnet::IpNet;

use crate::ext::AnyOf;
use crate::ext::addrtype::{AddrType, AddrTypeMatch};
use crate::ext::conntrack::{ConntrackMatch, CtState};
use crate::ext::masked::MaskedAddress;
use crate::ext::recent::RecentMatch;
use crate::ext::set::{SetDir, SetMatch};
use crate::ext::statistic::{Probability, Statistic};
use crate::matches::{Match, write_ports};
use crate::protocol::{PortRange, Protocol};
use crate::target::{DnatTo, Target};
use crate::{ChainName, parse_rule};

/// One rule. Built test by test; its text ([`Display`](fmt::Display)) is in normal form, which is what iptables-save
/// prints for it.
///
/// ```
/// use iptables::{ChainName, Protocol, Rule};
/// let rule = Rule::new()
///     .comment("default/web cluster IP")
///     .protocol(Protocol::Tcp)
///     .destination("10.96.0.7".parse::<std::net::IpAddr>().unwrap())
///     .destination_port(80)
///     .jump(ChainName::from_static("KUBE-SVC-XPGD46QRK7WJZT7O"));
/// assert_eq!(
///     rule.to_string(),
///     "-d 10.96.0.7/32 -p tcp -m comment --comment \"default/web cluster IP\" -m tcp --dport 80 \
///      -j KUBE-SVC-XPGD46QRK7WJZT7O"
/// );
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Rule {
    /// The tests, all of which a packet must pass.
    pub matches: Vec<Match>,
    /// What happens then; without one the packet is only counted.
    pub target: Option<Target>,
}

impl Rule {
    /// A rule that matches every packet and does nothing.
    #[must_use]
    pub const fn new() -> Self {
        Self { matches: Vec::new(), target: None }
    }

    /// Reads a rule as it stands after `-A CHAIN `; what is not known is kept as [`Match::Other`] and
    /// [`Target::Other`]. Never fails. The result is in normal form.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        parse_rule::rule(text, &|_| true)
    }

    /// Adds any test.
    #[must_use]
    pub fn with(mut self, test: Match) -> Self {
        self.matches.push(test);
        self
    }

    /// Sets any target.
    #[must_use]
    pub fn target(mut self, target: Target) -> Self {
        self.target = Some(target);
        self
    }

    /// The rule as it comes back from the kernel: fixed tests first and in iptables' order, values rewritten as the
    /// kernel keeps them, tests that pass every packet left out, source port beside destination port.
    #[must_use]
    pub fn normalised(&self) -> Self {
        let mut target = self.target.clone();
        if let Some(target) = &mut target {
            target.normalise();
        }
        let mut matches = Vec::with_capacity(self.matches.len());
        for test in &self.matches {
            match test {
                Match::Other(text) => matches.extend(parse_rule::matches(text)),
                known => matches.push(known.clone()),
            }
        }
        matches.retain_mut(|test| {
            test.normalise();
            !test.is_void()
        });
        // Stable: tests of extensions keep their order, which matters where they have effects (`recent --set`).
        matches.sort_by_key(|test| test.header_rank().unwrap_or(u8::MAX));
        join_ports(&mut matches);
        Self { matches, target }
    }

    /// Whether the kernel would hold the same for both.
    #[must_use]
    pub fn is_same_as(&self, other: &Self) -> bool {
        self.normalised() == other.normalised()
    }

    /// The first comment.
    #[must_use]
    pub fn comment_text(&self) -> Option<&str> {
        self.matches.iter().find_map(|test| match test {
            Match::Comment(text) => Some(&**text),
            _ => None,
        })
    }

    /// The rule's protocol, where it tests for one.
    #[must_use]
    pub fn protocol_tested(&self) -> Option<Protocol> {
        protocol_of(&self.matches)
    }

    /// Writes the normal form, each word with a space before it.
    pub(crate) fn write(&self, f: &mut dyn fmt::Write) -> fmt::Result {
        let rule = self.normalised();
        let protocol = protocol_of(&rule.matches);
        let mut tests = rule.matches.iter().peekable();
        while let Some(test) = tests.next() {
            let ports = matches!(test, Match::SourcePort { .. });
            match tests.next_if(|next| ports && matches!(next, Match::DestinationPort { .. })) {
                Some(destination) => write_ports(f, protocol, &[test, destination])?,
                None => test.write(f, protocol)?,
            }
        }
        rule.target.as_ref().map_or(Ok(()), |target| target.write(f))
    }
}

fn protocol_of(matches: &[Match]) -> Option<Protocol> {
    matches.iter().find_map(|test| match test {
        Match::Protocol { protocol, negated: false } => Some(Protocol::from_number(protocol.number())),
        _ => None,
    })
}

/// Brings the first source port and the first destination port together where the earlier one stands.
fn join_ports(matches: &mut Vec<Match>) {
    let source = matches.iter().position(|test| matches!(test, Match::SourcePort { .. }));
    let destination = matches.iter().position(|test| matches!(test, Match::DestinationPort { .. }));
    if let (Some(source), Some(destination)) = (source, destination)
        && source + 1 != destination
    {
        let later = matches.remove(source.max(destination));
        let at = source.min(destination);
        matches.insert(if source < destination { at + 1 } else { at }, later);
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = String::with_capacity(128);
        self.write(&mut text)?;
        f.pad(text.trim_start())
    }
}

/// Tests, as a builder.
impl Rule {
    /// `-m comment --comment TEXT`
    #[must_use]
    pub fn comment(self, text: impl Into<Arc<str>>) -> Self {
        self.with(Match::Comment(text.into()))
    }

    /// `-p PROTOCOL`
    #[must_use]
    pub fn protocol(self, protocol: Protocol) -> Self {
        self.with(Match::Protocol { protocol, negated: false })
    }

    /// `! -p PROTOCOL`
    #[must_use]
    pub fn not_protocol(self, protocol: Protocol) -> Self {
        self.with(Match::Protocol { protocol, negated: true })
    }

    /// `-s NET`
    #[must_use]
    pub fn source(self, net: impl Into<IpNet>) -> Self {
        self.with(Match::Source { net: net.into(), negated: false })
    }

    /// `! -s NET`
    #[must_use]
    pub fn not_source(self, net: impl Into<IpNet>) -> Self {
        self.with(Match::Source { net: net.into(), negated: true })
    }

    /// `-d NET`
    #[must_use]
    pub fn destination(self, net: impl Into<IpNet>) -> Self {
        self.with(Match::Destination { net: net.into(), negated: false })
    }

    /// `-d VALUE/MASK`: some bits of the destination, where those are no prefix.
    #[must_use]
    pub fn destination_bits(self, bits: MaskedAddress) -> Self {
        self.with(Match::DestinationBits { bits: Box::new(bits), negated: false })
    }

    /// `! -d NET`
    #[must_use]
    pub fn not_destination(self, net: impl Into<IpNet>) -> Self {
        self.with(Match::Destination { net: net.into(), negated: true })
    }

    /// `-i NAME`
    #[must_use]
    pub fn in_interface(self, name: impl Into<Arc<str>>) -> Self {
        self.with(Match::InInterface { name: name.into(), negated: false })
    }

    /// `! -i NAME`
    #[must_use]
    pub fn not_in_interface(self, name: impl Into<Arc<str>>) -> Self {
        self.with(Match::InInterface { name: name.into(), negated: true })
    }

    /// `-o NAME`
    #[must_use]
    pub fn out_interface(self, name: impl Into<Arc<str>>) -> Self {
        self.with(Match::OutInterface { name: name.into(), negated: false })
    }

    /// `! -o NAME`
    #[must_use]
    pub fn not_out_interface(self, name: impl Into<Arc<str>>) -> Self {
        self.with(Match::OutInterface { name: name.into(), negated: true })
    }

    /// `--dport PORTS`; the rule needs a protocol too.
    #[must_use]
    pub fn destination_port(self, ports: impl Into<PortRange>) -> Self {
        self.with(Match::DestinationPort { ports: ports.into(), negated: false })
    }

    /// `--sport PORTS`; the rule needs a protocol too.
    #[must_use]
    pub fn source_port(self, ports: impl Into<PortRange>) -> Self {
        self.with(Match::SourcePort { ports: ports.into(), negated: false })
    }

    /// `--icmp-type KIND`; the rule needs the protocol `Icmp` or `Icmpv6` too.
    #[must_use]
    pub fn icmp_type(self, kind: u8) -> Self {
        self.with(Match::Icmp { kind, code: None, negated: false })
    }

    /// `-m mark --mark VALUE/MASK`
    #[must_use]
    pub fn mark(self, value: u32, mask: u32) -> Self {
        self.with(Match::Mark { value, mask, negated: false })
    }

    /// `-m mark ! --mark VALUE/MASK`
    #[must_use]
    pub fn not_mark(self, value: u32, mask: u32) -> Self {
        self.with(Match::Mark { value, mask, negated: true })
    }

    /// `-m statistic --mode random --probability P`
    #[must_use]
    pub fn probability(self, probability: Probability) -> Self {
        self.with(Match::Statistic(Statistic::Random { probability, negated: false }))
    }

    /// `-m recent …`
    #[must_use]
    pub fn recent(self, recent: RecentMatch) -> Self {
        self.with(Match::Recent(Box::new(recent)))
    }

    /// `-m addrtype --src-type TYPE`
    #[must_use]
    pub fn src_type(self, kind: AddrType) -> Self {
        self.addrtype(AddrTypeMatch { source: Some(AnyOf::new(&[kind])), ..AddrTypeMatch::default() })
    }

    /// `-m addrtype ! --src-type TYPE`
    #[must_use]
    pub fn not_src_type(self, kind: AddrType) -> Self {
        self.addrtype(AddrTypeMatch { source: Some(AnyOf::none_of(&[kind])), ..AddrTypeMatch::default() })
    }

    /// `-m addrtype --dst-type TYPE`
    #[must_use]
    pub fn dst_type(self, kind: AddrType) -> Self {
        self.addrtype(AddrTypeMatch { destination: Some(AnyOf::new(&[kind])), ..AddrTypeMatch::default() })
    }

    /// `-m addrtype ! --dst-type TYPE`
    #[must_use]
    pub fn not_dst_type(self, kind: AddrType) -> Self {
        self.addrtype(AddrTypeMatch { destination: Some(AnyOf::none_of(&[kind])), ..AddrTypeMatch::default() })
    }

    /// `-m addrtype …`
    #[must_use]
    pub fn addrtype(self, addrtype: AddrTypeMatch) -> Self {
        self.with(Match::AddrType(Box::new(addrtype)))
    }

    /// `-m conntrack --ctstate …`
    #[must_use]
    pub fn ctstate(self, states: &[CtState]) -> Self {
        self.conntrack(ConntrackMatch::states(states))
    }

    /// `-m conntrack …`
    #[must_use]
    pub fn conntrack(self, conntrack: ConntrackMatch) -> Self {
        self.with(Match::Conntrack(Box::new(conntrack)))
    }

    /// `-m set --match-set NAME DIRS`
    #[must_use]
    pub fn set(self, name: impl Into<Arc<str>>, dirs: &[SetDir]) -> Self {
        self.with(Match::Set(Box::new(SetMatch { name: name.into(), dirs: dirs.to_vec(), negated: false })))
    }

    /// `-m set ! --match-set NAME DIRS`
    #[must_use]
    pub fn not_set(self, name: impl Into<Arc<str>>, dirs: &[SetDir]) -> Self {
        self.with(Match::Set(Box::new(SetMatch { name: name.into(), dirs: dirs.to_vec(), negated: true })))
    }

    /// Tests that this crate has no type for, as they are written: `-m multiport --dports 80,443`.
    #[must_use]
    pub fn raw(self, text: impl Into<Arc<str>>) -> Self {
        self.with(Match::Other(text.into()))
    }
}

/// Targets, which end the building.
impl Rule {
    /// `-j CHAIN`
    #[must_use]
    pub fn jump(self, chain: ChainName) -> Self {
        self.target(Target::Jump(chain))
    }

    /// `-g CHAIN`
    #[must_use]
    pub fn goto(self, chain: ChainName) -> Self {
        self.target(Target::Goto(chain))
    }

    /// `-j ACCEPT`
    #[must_use]
    pub fn accept(self) -> Self {
        self.target(Target::Accept)
    }

    /// `-j DROP`
    #[must_use]
    pub fn drop(self) -> Self {
        self.target(Target::Drop)
    }

    /// `-j RETURN`
    #[must_use]
    pub fn return_(self) -> Self {
        self.target(Target::Return)
    }

    /// `-j REJECT` with the family's port-unreachable.
    #[must_use]
    pub fn reject(self) -> Self {
        self.target(Target::Reject { with: None })
    }

    /// `-j REJECT --reject-with ANSWER`
    #[must_use]
    pub fn reject_with(self, answer: impl Into<Arc<str>>) -> Self {
        self.target(Target::Reject { with: Some(answer.into()) })
    }

    /// `-j DNAT --to-destination TO`
    #[must_use]
    pub fn dnat(self, to: impl Into<DnatTo>) -> Self {
        self.target(Target::Dnat { to: to.into(), persistent: false, random: false })
    }

    /// `-j MASQUERADE`, with `--random-fully` where asked for.
    #[must_use]
    pub fn masquerade(self, random_fully: bool) -> Self {
        self.target(Target::Masquerade { random_fully })
    }

    /// `-j MARK --or-mark BITS`
    #[must_use]
    pub fn or_mark(self, bits: u32) -> Self {
        self.target(Target::or_mark(bits))
    }

    /// `-j MARK --set-xmark VALUE/MASK`
    #[must_use]
    pub fn set_xmark(self, value: u32, mask: u32) -> Self {
        self.target(Target::Mark { value, mask })
    }
}
