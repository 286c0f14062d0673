//! Whether what came is what was expected. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use kube_ipvs::lab::{Answer, Outcome, Protocol};
use serde_json::Value;

use crate::flow::{Affinity, Expect, Flow, Source};
use crate::surroundings::{NODE, SINK};

/// How far an endpoint's share may be from equal.
const UNEVEN: f64 = 0.12;

/// What has to be known beside the flow.
#[derive(Debug, Clone, Copy)]
pub struct View<'a> {
    /// The sender's address in the family of the target, where there is one.
    pub sender: Option<IpAddr>,
    /// All addresses of the node's interfaces.
    pub node_addresses: &'a [IpAddr],
    /// Where the node listens.
    pub node_listens: &'a BTreeSet<(Protocol, u16)>,
}

/// Judges all outcomes of a flow; the error says what came instead.
pub fn judge(flow: &Flow, outcomes: &[Outcome], view: View<'_>) -> Result<(), String> {
    if outcomes.is_empty() {
        return Err("nothing was tried".to_owned());
    }
    let bad: Vec<&Outcome> = outcomes.iter().filter(|outcome| !is_fine(flow, outcome, view)).collect();
    if !bad.is_empty() {
        return Err(summary(outcomes));
    }
    let Expect::Endpoints(endpoints) = &flow.expect else { return Ok(()) };
    let answers: Vec<&Answer> = outcomes.iter().filter_map(answer).collect();
    for answer in &answers {
        check_source(flow, answer, view)?;
    }
    let seen: BTreeSet<SocketAddr> = answers.iter().map(|answer| answer.local).collect();
    match flow.affinity {
        Some(Affinity::SameEndpoint) if seen.len() != 1 => {
            Err(format!("{} endpoints instead of one: {}", seen.len(), summary(outcomes)))
        }
        Some(Affinity::Expires) if seen.len() < 2 => Err(format!("one endpoint all the time: {}", summary(outcomes))),
        Some(_) => Ok(()),
        // A flow from one port is one connection, and that has one endpoint.
        None if flow.source_port != 0 => Ok(()),
        None => {
            let missing: Vec<_> = endpoints.difference(&seen).map(ToString::to_string).collect();
            if !missing.is_empty() {
                return Err(format!("{} never answered: {}", missing.join(", "), summary(outcomes)));
            }
            if flow.even { check_shares(&answers, endpoints.len(), outcomes) } else { Ok(()) }
        }
    }
}

fn answer(outcome: &Outcome) -> Option<&Answer> {
    match outcome {
        Outcome::Answered(answer) => Some(answer),
        _ => None,
    }
}

fn is_fine(flow: &Flow, outcome: &Outcome, view: View<'_>) -> bool {
    match &flow.expect {
        Expect::Endpoints(endpoints) => answer(outcome).is_some_and(|answer| endpoints.contains(&answer.local)),
        Expect::Reject => matches!(outcome, Outcome::Refused),
        Expect::Drop => matches!(outcome, Outcome::TimedOut | Outcome::NotSent),
        // What the sink answers has left the node, and outside of the lab nobody would be there.
        Expect::Closed => match outcome {
            Outcome::Answered(answer) => answer.name == SINK,
            Outcome::Refused | Outcome::Unreachable(_) | Outcome::TimedOut | Outcome::NotSent => true,
            Outcome::Replied(_) | Outcome::Broken(_) | Outcome::Failed(_) => false,
        },
        Expect::Untouched => is_untouched(flow, outcome, view),
        Expect::Health { code, local_endpoints } => {
            matches!(outcome, Outcome::Replied(reply) if health(reply) == Some((*code, *local_endpoints, *local_endpoints)))
        }
    }
}

fn is_untouched(flow: &Flow, outcome: &Outcome, view: View<'_>) -> bool {
    let to = flow.to;
    let is_node = to.ip().is_loopback() || view.node_addresses.contains(&to.ip());
    match outcome {
        Outcome::Answered(answer) if is_node => answer.name == NODE && answer.local == to,
        // A pod's own address is answered by that pod, unless something was translated.
        Outcome::Answered(answer) => answer.name != NODE && answer.local == to,
        Outcome::Refused => is_node && !view.node_listens.contains(&(flow.protocol, to.port())),
        _ => false,
    }
}

fn check_source(flow: &Flow, answer: &Answer, view: View<'_>) -> Result<(), String> {
    let Some(wanted) = flow.sources.get(&answer.local) else { return Ok(()) };
    let seen = answer.peer.ip();
    let good = match wanted {
        Source::Preserved => view.sender == Some(seen),
        Source::Masqueraded => view.sender != Some(seen) && view.node_addresses.contains(&seen),
    };
    if good {
        return Ok(());
    }
    let wanted = match (wanted, view.sender) {
        (Source::Preserved, Some(sender)) => format!("the sender's address {sender}"),
        (Source::Preserved, None) => "the sender's address".to_owned(),
        (Source::Masqueraded, _) => "an address of the node".to_owned(),
    };
    Err(format!("{} saw source {seen} instead of {wanted}", answer.local))
}

fn check_shares(answers: &[&Answer], endpoints: usize, outcomes: &[Outcome]) -> Result<(), String> {
    let mut counts: BTreeMap<SocketAddr, u32> = BTreeMap::new();
    for answer in answers {
        *counts.entry(answer.local).or_default() += 1;
    }
    let number = |count: usize| f64::from(u32::try_from(count).unwrap_or(u32::MAX));
    let (all, equal) = (number(answers.len()), 1.0 / number(endpoints));
    let uneven = counts.values().any(|count| (f64::from(*count) / all - equal).abs() > UNEVEN);
    if uneven { Err(format!("uneven: {}", summary(outcomes))) } else { Ok(()) }
}

/// Status, `localEndpoints` of the body, and the weight of the header.
fn health(reply: &[u8]) -> Option<(u16, u64, u64)> {
    let text = String::from_utf8_lossy(reply);
    let (head, body) = text.split_once("\r\n\r\n")?;
    let mut lines = head.lines();
    let code = lines.next()?.split_whitespace().nth(1)?.parse().ok()?;
    let header = |line: &str| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("X-Load-Balancing-Endpoint-Weight").then(|| value.trim().parse().ok())?
    };
    let weight = lines.find_map(header)?;
    // A chunked body has its lengths around the object.
    let object = body.get(body.find('{')?..=body.rfind('}')?)?;
    let body: Value = serde_json::from_str(object).ok()?;
    Some((code, body.get("localEndpoints")?.as_u64()?, weight))
}

/// What came, counted.
pub fn summary(outcomes: &[Outcome]) -> String {
    let mut counts: BTreeMap<String, u32> = BTreeMap::new();
    for outcome in outcomes {
        let what = match outcome {
            Outcome::Answered(answer) => {
                format!("answered by {} at {} (source {})", answer.name, answer.local, answer.peer.ip())
            }
            Outcome::Replied(bytes) => format!("reply {:?}", String::from_utf8_lossy(bytes)),
            other => other.to_string(),
        };
        *counts.entry(what).or_default() += 1;
    }
    counts.into_iter().map(|(what, count)| format!("{count} × {what}")).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::FlowFields;
    use serde_json::json;

    fn flow(extra: Value) -> Flow {
        let mut fields = json!({"from": "client", "to": "172.30.0.1:80/TCP", "expect": "endpoints"});
        fields.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        serde_json::from_value::<FlowFields>(fields).unwrap().try_into().unwrap()
    }

    fn answered(name: &str, local: &str, peer: &str) -> Outcome {
        Outcome::Answered(Answer {
            name: name.to_owned(),
            local: local.parse().unwrap(),
            peer: format!("{peer}:4711").parse().unwrap(),
            question: "ask 0".to_owned(),
        })
    }

    fn verdict(flow: &Flow, outcomes: &[Outcome]) -> bool {
        let node_addresses = ["192.168.0.2".parse().unwrap()];
        let node_listens = [(Protocol::Tcp, 80)].into();
        let sender = Some("203.0.113.2".parse().unwrap());
        judge(flow, outcomes, View { sender, node_addresses: &node_addresses, node_listens: &node_listens }).is_ok()
    }

    #[test]
    fn every_endpoint_has_to_answer_and_nobody_else() {
        let both = flow(json!({"endpoints": ["10.180.0.1:80", "10.180.0.2:80"]}));
        let one = answered("pod:10.180.0.1", "10.180.0.1:80", "203.0.113.2");
        let two = answered("pod:10.180.0.2", "10.180.0.2:80", "203.0.113.2");
        let three = answered("pod:10.180.0.3", "10.180.0.3:80", "203.0.113.2");
        assert!(verdict(&both, &[one.clone(), two.clone()]));
        assert!(!verdict(&both, &[one.clone(), one.clone()]));
        assert!(!verdict(&both, &[one.clone(), two.clone(), three]));
        assert!(!verdict(&both, &[one, two, Outcome::TimedOut]));
    }

    #[test]
    fn the_source_is_the_senders_or_the_nodes() {
        let kept = flow(json!({"endpoints": ["10.180.0.1:80"], "source": "preserved"}));
        let hidden = flow(json!({"endpoints": ["10.180.0.1:80"], "source": "masqueraded"}));
        let each = flow(json!({"endpoints": ["10.180.0.1:80"], "source": {"10.180.0.1:80": "masqueraded"}}));
        let from = |peer| [answered("pod:10.180.0.1", "10.180.0.1:80", peer)];
        assert!(verdict(&kept, &from("203.0.113.2")) && !verdict(&kept, &from("192.168.0.2")));
        assert!(verdict(&hidden, &from("192.168.0.2")) && !verdict(&hidden, &from("203.0.113.2")));
        assert!(!verdict(&hidden, &from("172.30.0.1")), "a service IP is no address of the node's");
        assert!(verdict(&each, &from("192.168.0.2")) && !verdict(&each, &from("203.0.113.2")));
    }

    #[test]
    fn untouched_is_the_sink_or_the_nodes_own_listener() {
        let away = flow(json!({"expect": "untouched"}));
        assert!(verdict(&away, &[answered(SINK, "172.30.0.1:80", "203.0.113.2")]));
        assert!(!verdict(&away, &[answered(NODE, "172.30.0.1:80", "203.0.113.2")]));
        assert!(!verdict(&away, &[Outcome::Refused]) && !verdict(&away, &[Outcome::TimedOut]));
        let own = flow(json!({"expect": "untouched", "to": "192.168.0.2:80/TCP"}));
        assert!(verdict(&own, &[answered(NODE, "192.168.0.2:80", "203.0.113.2")]));
        assert!(!verdict(&own, &[Outcome::Refused]));
        let silent = flow(json!({"expect": "untouched", "to": "192.168.0.2:81/TCP"}));
        assert!(verdict(&silent, &[Outcome::Refused]));
    }

    #[test]
    fn health_is_status_body_and_header() {
        let healthy = flow(json!({"expect": "health", "code": 200, "localEndpoints": 2}));
        let reply = |code: u16, body: u8, header: u8| {
            let body = format!("{{\"service\":{{\"name\":\"x\"}},\"localEndpoints\":{body}}}");
            let head = format!("HTTP/1.1 {code} X\r\nx-load-balancing-endpoint-weight: {header}\r\n\r\n");
            [Outcome::Replied((head + &body).into_bytes())]
        };
        assert!(verdict(&healthy, &reply(200, 2, 2)));
        for wrong in [reply(503, 2, 2), reply(200, 1, 2), reply(200, 2, 1)] {
            assert!(!verdict(&healthy, &wrong));
        }
    }

    #[test]
    fn affinity_and_shares() {
        let ends = json!(["10.180.0.1:80", "10.180.0.2:80"]);
        let same = flow(json!({"endpoints": ends, "affinity": "same-endpoint"}));
        let expires = flow(json!({"endpoints": ends, "affinity": "expires"}));
        let even = flow(json!({"endpoints": ends, "distribution": "even"}));
        let one = answered("pod:10.180.0.1", "10.180.0.1:80", "203.0.113.2");
        let two = answered("pod:10.180.0.2", "10.180.0.2:80", "203.0.113.2");
        let many = |ones, twos| [vec![one.clone(); ones], vec![two.clone(); twos]].concat();
        assert!(verdict(&same, &many(5, 0)) && !verdict(&same, &many(4, 1)));
        assert!(!verdict(&expires, &many(5, 0)) && verdict(&expires, &many(4, 1)));
        assert!(verdict(&even, &many(55, 45)) && !verdict(&even, &many(65, 35)));
    }
}
