//! Why a client with affinity got another endpoint.

use super::report::Switched;
use crate::commands::bench::load::Broken;
use crate::reconcile::Mode;
use std::collections::BTreeSet;
use std::net::SocketAddr;

/// From iptables mode to IPVS mode.
pub const TO_IPVS: &str = "iptables to ipvs: IPVS takes persistence templates from another director only";
/// From IPVS mode to iptables mode.
const TO_IPTABLES: &str = "ipvs to iptables";
/// No cause is known.
const UNEXPLAINED: &str = "unexplained";

/// Why a client got another endpoint: for the last switch that was asked for before, if it was with its endpoint before
/// that was over, and only once a client and switch.
pub fn cause_of(switches: &[Switched], broken: &Broken, seen: &mut BTreeSet<(SocketAddr, u32)>) -> &'static str {
    let Some(switched) = switches.iter().rfind(|switched| switched.at_ms <= broken.at_ms) else { return UNEXPLAINED };
    let over = switched.gone_ms.map_or(f64::MAX, |gone| switched.at_ms + gone);
    if broken.since_ms > over || !seen.insert((broken.client, switched.number)) {
        return UNEXPLAINED;
    }
    if switched.to == Mode::Ipvs { TO_IPVS } else { TO_IPTABLES }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_endpoint_has_the_last_switch_as_its_cause_once() {
        let switched = |number, to, at| Switched { gone_ms: Some(50.0), ..Switched::new(number, to, at) };
        let switches = [switched(1, Mode::Iptables, 100.0), switched(2, Mode::Ipvs, 200.0)];
        let broken = |since_ms, at_ms| Broken {
            client: "10.126.1.0:0".parse().unwrap(),
            since_ms,
            at_ms,
            from: "10.128.0.1:8080".parse().unwrap(),
            to: "10.128.0.2:8080".parse().unwrap(),
        };
        let mut seen = BTreeSet::new();
        let mut cause = |since, at| cause_of(&switches, &broken(since, at), &mut seen);
        assert_eq!(cause(10.0, 20.0), UNEXPLAINED, "before any switch");
        assert_eq!(cause(90.0, 120.0), TO_IPTABLES);
        assert_eq!(cause(190.0, 210.0), TO_IPVS);
        assert_eq!(cause(215.0, 230.0), UNEXPLAINED, "a second time");
        assert_eq!(cause(260.0, 270.0), UNEXPLAINED, "it was with its endpoint when the old mode was gone");
    }
}
