//! Settings of the namespace that the thread is in.

use kube_ipvs::kernel::sysctl::{KernelVersion, Needs, Sysctl, SysctlError, settings};

use crate::{Feature, in_namespace, run, skip};

#[test]
fn the_namespaces_own_settings_are_changed_and_put_back() {
    in_namespace(|| {
        let sysctl = Sysctl::default();
        run("sysctl", &["-qw", "net.ipv4.ip_forward=0", "net.ipv6.conf.all.forwarding=0"]);
        let needs = Needs { ipv6: true, localhost_node_ports: true, ..Needs::default() };
        let wanted = settings(&needs, KernelVersion::running().unwrap());
        let (changed, failed) = sysctl.apply(&wanted);
        assert!(failed.is_empty(), "{failed:?}");
        assert_eq!(changed.len(), 3, "{changed:?}");
        let names = ["net.ipv4.ip_forward", "net.ipv6.conf.all.forwarding", "net.ipv4.conf.all.route_localnet"];
        let shown = || run("sysctl", &[["-n"].as_slice(), &names].concat());
        assert_eq!(shown(), "1\n1\n1\n");
        assert_eq!(sysctl.apply(&wanted).0, []);
        assert!(sysctl.restore(&changed).is_empty());
        assert_eq!(shown(), "0\n0\n0\n");
    });
}

#[test]
fn ipvs_settings_are_right_after_applying() {
    // A module that is built in or loaded already, or cannot be: what counts is whether the settings are there.
    let _ = std::process::Command::new("modprobe").arg("ip_vs").output();
    in_namespace(|| {
        let sysctl = Sysctl::default();
        if sysctl.read("net/ipv4/vs/conntrack").as_ref().is_err_and(SysctlError::is_missing) {
            return skip(Feature::Ipvs, "this kernel has no IPVS (no net/ipv4/vs)");
        }
        let needs = Needs { ipvs: true, strict_arp: true, ..Needs::default() };
        let wanted = settings(&needs, KernelVersion::running().unwrap());
        let (changed, failed) = sysctl.apply(&wanted);
        assert!(failed.is_empty(), "{failed:?}");
        assert!(changed.iter().any(|previous| previous.path == "net/ipv4/vs/conntrack" && previous.value == "0"));
        for setting in &wanted {
            assert_eq!(sysctl.read(setting.path).unwrap(), setting.value, "{}", setting.path);
        }
        assert!(sysctl.restore(&changed).is_empty());
        assert_eq!(sysctl.read("net/ipv4/vs/conntrack").unwrap(), "0");
    });
}
