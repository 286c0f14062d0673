//! The rules that both modes write into chains of their own: who is marked for masquerading, what becomes of the mark,
//! what FORWARD lets through, and who does not get to 127.0.0.1.

use crate::desired::DetectLocal;
use iptables::{ChainName, CtState, Rule};

/// `route_localnet`, which iptables mode needs for node ports on localhost and which stays set when it leaves, lets neighbours
/// reach what listens on 127.0.0.1 (kubernetes issue 90259): not through us.
pub fn block_localnet() -> Rule {
    Rule::parse(
        "-d 127.0.0.0/8 ! -s 127.0.0.0/8 -m comment --comment \"block incoming localnet connections\" \
         -m conntrack ! --ctstate RELATED,ESTABLISHED,DNAT -j DROP",
    )
}

/// Masquerades what is marked. Also what keeps NAT registered in the namespace for as long as this mode serves.
pub fn postrouting(mark: u32) -> Vec<Rule> {
    vec![
        Rule::new().not_mark(mark, mark).return_(),
        // Cleared, so that a packet that passes the stack again is not masqueraded again.
        Rule::new().set_xmark(mark, 0),
        Rule::new().comment("kubernetes service traffic requiring SNAT").masquerade(true),
    ]
}

/// Accepts what is forwarded for services even where the policy of FORWARD is to drop, and drops what conntrack calls
/// invalid: it would reach the client untranslated and reset the connection (kubernetes issue 74839).
/// Where connection tracking is liberal, what is left invalid is not of TCP's doing, and upstream lets it pass as well.
pub fn forward(mark: u32, drop_invalid: bool) -> Vec<Rule> {
    let accepted = [
        Rule::new().comment("kubernetes forwarding rules").mark(mark, mark).accept(),
        Rule::new()
            .comment("kubernetes forwarding conntrack rule")
            .ctstate(&[CtState::Related, CtState::Established])
            .accept(),
    ];
    drop_invalid.then(|| Rule::new().ctstate(&[CtState::Invalid]).drop()).into_iter().chain(accepted).collect()
}

/// What sends traffic of senders that are no local pods to be marked for masquerading; `None` if local traffic cannot
/// be told. Of several ranges a rule can only test one, so those are left to a chain (see [`off_cluster`]).
pub fn masquerade_if_not_local(
    rule: Rule,
    detect: &DetectLocal,
    mark: ChainName,
    off_cluster: ChainName,
) -> Option<Rule> {
    Some(match detect {
        DetectLocal::None | DetectLocal::NodeCidrs => return None,
        DetectLocal::Cidrs(nets) => match nets.as_slice() {
            [net] => rule.not_source(*net).jump(mark),
            _ => rule.jump(off_cluster),
        },
        DetectLocal::BridgeInterface(name) => rule.not_in_interface(name.clone()).jump(mark),
        DetectLocal::InterfacePrefix(prefix) => rule.not_in_interface(format!("{prefix}+")).jump(mark),
    })
}

/// The chain that marks senders outside of all of several ranges; empty, and unused, where there is one or none.
pub fn off_cluster(detect: &DetectLocal, mark: ChainName) -> Vec<Rule> {
    match detect {
        DetectLocal::Cidrs(nets) if nets.len() > 1 => {
            let inside = nets.iter().map(|net| Rule::new().source(*net).return_());
            inside.chain([Rule::new().jump(mark)]).collect()
        }
        _ => Vec::new(),
    }
}

/// Adds the test "from a local pod": several rules where there are several ranges.
pub fn if_local(rule: &Rule, detect: &DetectLocal) -> Vec<Rule> {
    match detect {
        DetectLocal::None | DetectLocal::NodeCidrs => Vec::new(),
        DetectLocal::Cidrs(nets) => nets.iter().map(|net| rule.clone().source(*net)).collect(),
        DetectLocal::BridgeInterface(name) => vec![rule.clone().in_interface(name.clone())],
        DetectLocal::InterfacePrefix(prefix) => vec![rule.clone().in_interface(format!("{prefix}+"))],
    }
}
