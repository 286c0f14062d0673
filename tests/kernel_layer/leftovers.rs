//! Tables of nftables and accounting objects: found and deleted, with others beside them.

use kube_ipvs::kernel::{IpFamily, accounting, nftables};
use netlink_sys::protocols::NETLINK_NETFILTER;
use netlink_sys::{Socket, SocketAddr};

use crate::{Feature, in_namespace, run, skip};

#[test]
fn a_table_is_found_and_deleted_whole() {
    in_namespace(|| {
        if !std::process::Command::new("nft").arg("list").arg("tables").output().is_ok_and(|o| o.status.success()) {
            return skip(Feature::Iptables, "nft cannot be run");
        }
        for table in ["ip kube-proxy", "ip6 kube-proxy", "inet kube-proxy", "ip other"] {
            run("nft", &["add", "table", table]);
            run("nft", &[&format!("add chain {table} hooked {{ type filter hook input priority 0 ; }}")]);
            run("nft", &["add", "rule", table, "hooked", "counter"]);
        }
        for (family, left) in [(IpFamily::V4, 3), (IpFamily::V6, 2)] {
            assert!(nftables::has_table(family, "kube-proxy").unwrap());
            nftables::delete_table(family, "kube-proxy").unwrap();
            assert!(!nftables::has_table(family, "kube-proxy").unwrap());
            assert_eq!(run("nft", &["list", "tables"]).lines().count(), left);
            // Somebody else was faster.
            nftables::delete_table(family, "kube-proxy").unwrap();
        }
        let left = run("nft", &["list", "tables"]);
        assert!(left.contains("table inet kube-proxy") && left.contains("table ip other"), "{left}");
    });
}

/// Makes an accounting object: `NFNL_MSG_ACCT_NEW` with `NFACCT_NAME`. Whether the kernel can.
fn make(name: &str) -> bool {
    let mut message = vec![0, 0, 0, 0, 0, 7, 0x05, 0x06, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    message.extend(u16::try_from(4 + name.len() + 1).unwrap().to_ne_bytes());
    message.extend([1, 0]);
    message.extend(name.as_bytes());
    message.push(0);
    message.resize(message.len().next_multiple_of(4), 0);
    let length = u32::try_from(message.len()).unwrap().to_ne_bytes();
    message.splice(..4, length);
    let mut socket = Socket::new(NETLINK_NETFILTER).unwrap();
    socket.bind_auto().unwrap();
    socket.send_to(&message, &SocketAddr::new(0, 0), 0).unwrap();
    let (answer, _) = socket.recv_from_full().unwrap();
    answer.get(16..20) == Some(&[0; 4])
}

#[test]
fn an_accounting_object_is_idle_until_a_rule_uses_it() {
    in_namespace(|| {
        if !make("used") || !make("idle") {
            return skip(Feature::Iptables, "the kernel has no accounting objects");
        }
        run("iptables", &["-A", "INPUT", "-m", "nfacct", "--nfacct-name", "used"]);
        let idle = |name| accounting::is_idle(name).unwrap();
        assert_eq!((idle("used"), idle("idle"), idle("missing")), (false, true, false));
        accounting::delete("idle").unwrap();
        assert!(!idle("idle"));
        accounting::delete("idle").unwrap();
        let error = accounting::delete("used").unwrap_err().to_string();
        assert!(error.starts_with("delete accounting object used: "), "{error}");
        run("iptables", &["-F", "INPUT"]);
        assert!(idle("used"));
    });
}
