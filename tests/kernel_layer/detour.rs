//! The cable with both ends in one namespace: made, found damaged, mended, taken away.

use std::net::Ipv4Addr;

use kube_ipvs::kernel::interface::{Detour, FoundDetour};
use kube_ipvs::kernel::sysctl::Sysctl;

use crate::{in_namespace, run};

const ENDS: [&str; 2] = ["kube-ipvs-lo0", "kube-ipvs-lo1"];

fn detour() -> Detour {
    let (to, from) = (Ipv4Addr::new(255, 0, 0, 2), Ipv4Addr::new(255, 0, 0, 3));
    Detour::open(ENDS, to, from, Sysctl::default()).unwrap()
}

#[test]
fn it_is_made_mended_and_taken_away() {
    in_namespace(|| {
        let mut detour = detour();
        assert_eq!(detour.find().unwrap(), FoundDetour::Missing);
        detour.delete().unwrap();
        detour.ensure().unwrap();
        assert_eq!(detour.find().unwrap(), FoundDetour::Whole);
        assert_eq!(run("ip", &["route", "show", "proto", "75"]).lines().count(), 2);
        assert_eq!(run("ip", &["-6", "address", "show", "dev", ENDS[0]]), "", "no link-local address");
        for damage in [
            "ip link set kube-ipvs-lo0 down",
            "ip link set kube-ipvs-lo1 down",
            "ip route delete 255.0.0.2 dev kube-ipvs-lo0",
            "ip route delete 255.0.0.3 dev kube-ipvs-lo1",
            "sysctl -qw net.ipv4.conf.kube-ipvs-lo0.route_localnet=0",
            "ip link set kube-ipvs-lo1 down; ip link set kube-ipvs-lo1 name other",
        ] {
            run("sh", &["-c", damage]);
            assert_eq!(detour.find().unwrap_or(FoundDetour::Partly), FoundDetour::Partly, "{damage}");
            detour.ensure().unwrap();
            assert_eq!(detour.find().unwrap(), FoundDetour::Whole, "{damage}");
            detour.ensure().unwrap();
        }
        run("ip", &["link", "delete", ENDS[0]]);
        assert_eq!(detour.find().unwrap(), FoundDetour::Missing);
        detour.ensure().unwrap();
        detour.delete().unwrap();
        assert_eq!(detour.find().unwrap(), FoundDetour::Missing);
        assert_eq!(run("ip", &["route", "show"]), "");
    });
}

#[test]
fn somebody_else_s_device_of_that_name_is_left_alone() {
    in_namespace(|| {
        run("ip", &["link", "add", ENDS[0], "type", "bridge"]);
        let mut detour = detour();
        let refused = detour.ensure().unwrap_err().to_string();
        assert!(refused.contains("is of kind `bridge` instead of `veth`"), "{refused}");
        assert!(detour.delete().is_err());
        assert!(run("ip", &["link", "show", ENDS[0]]).contains(ENDS[0]), "it is still there");
    });
}
