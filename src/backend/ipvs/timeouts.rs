//! How long IPVS keeps connections on which nothing happens. One setting of the network namespace, for all virtual servers
//! and both families, whoever made them; so only what is asked for is touched.

use super::Op;
use crate::desired::ConnectionTimeouts;
use ipvs::{Command, Timeouts};

/// The step to those that are asked for, if they are not so; none as long as it is not known what they are.
pub fn plan(wanted: ConnectionTimeouts, found: Option<Timeouts>) -> Option<Op> {
    let found = found?;
    let differs = |wanted: u32, found: u32| wanted != 0 && wanted != found;
    let any =
        differs(wanted.tcp, found.tcp) || differs(wanted.tcp_fin, found.tcp_fin) || differs(wanted.udp, found.udp);
    // To the kernel, too, 0 means "as it is".
    let timeouts = Timeouts { tcp: wanted.tcp, tcp_fin: wanted.tcp_fin, udp: wanted.udp };
    any.then_some(Op::Ipvs(Command::SetTimeouts(timeouts)))
}

/// What they are after the kernel took a step.
pub fn after(set: Timeouts, before: Option<Timeouts>) -> Timeouts {
    let kept = before.unwrap_or_default();
    let either = |set: u32, kept: u32| if set == 0 { kept } else { set };
    Timeouts {
        tcp: either(set.tcp, kept.tcp),
        tcp_fin: either(set.tcp_fin, kept.tcp_fin),
        udp: either(set.udp, kept.udp),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_asked_for_and_differs() {
        let found = Timeouts { tcp: 900, tcp_fin: 120, udp: 300 };
        let wanted = |tcp, tcp_fin, udp| ConnectionTimeouts { tcp, tcp_fin, udp };
        assert_eq!(plan(wanted(0, 0, 0), Some(found)), None);
        assert_eq!(plan(wanted(900, 0, 300), Some(found)), None);
        assert_eq!(plan(wanted(1, 2, 3), None), None);
        let step = plan(wanted(900, 60, 0), Some(found)).unwrap();
        assert_eq!(step.to_string(), "set timeouts tcp 900 tcpfin 60 udp 0");
        let Op::Ipvs(Command::SetTimeouts(set)) = step else { panic!("{step}") };
        assert_eq!(after(set, Some(found)), Timeouts { tcp: 900, tcp_fin: 60, udp: 300 });
    }
}
