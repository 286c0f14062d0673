//! Kernel settings of the lab's namespaces. `/proc/sys/net` shows the settings of the namespace of the thread that looks.

use std::fs;
use std::path::Path;

use super::{LabError, NetNs};

/// (path below /proc/sys/net, value, why). Written before any link exists, because links copy `default` when they appear.
const FOR_ALL: &[(&str, &str, &str)] = &[
    ("ipv4/conf/all/rp_filter", "0", "answers may leave by another way than the question came"),
    ("ipv4/conf/default/rp_filter", "0", "the same; the larger of all and the link's own counts"),
    ("ipv4/conf/all/send_redirects", "0", "the node sends packets back out of eth0 on purpose"),
    ("ipv4/conf/default/send_redirects", "0", "the same"),
    ("ipv4/conf/all/accept_redirects", "0", "routes are what the lab says"),
    ("ipv4/conf/default/accept_redirects", "0", "the same"),
    ("ipv4/icmp_ratemask", "0", "every refusal is to be seen, however many"),
    ("ipv6/conf/all/accept_dad", "0", "addresses are usable at once"),
    ("ipv6/conf/default/accept_dad", "0", "the same"),
    ("ipv6/conf/all/accept_ra", "0", "routes are what the lab says"),
    ("ipv6/conf/default/accept_ra", "0", "the same"),
    ("ipv6/conf/all/accept_redirects", "0", "the same"),
    ("ipv6/conf/default/accept_redirects", "0", "the same"),
    ("ipv6/icmp/ratelimit", "0", "every refusal is to be seen, however many"),
    ("ipv6/icmp/ratemask", "\n", "the same, for the limit over all destinations"),
];

/// What a namespace that forwards gets besides.
const FOR_ROUTERS: &[(&str, &str, &str)] = &[
    ("ipv4/ip_forward", "1", "it forwards"),
    ("ipv6/conf/all/forwarding", "1", "it forwards"),
    ("ipv6/conf/default/forwarding", "1", "it forwards"),
];

/// Settings that not every kernel has in a namespace of its own.
const WHERE_PRESENT: &[(&str, &str, &str)] = &[
    ("ipv4/icmp_msgs_per_sec", "1000000", "every refusal is to be seen, however many"),
    ("ipv4/icmp_msgs_burst", "1000000", "the same"),
];

/// Applies the settings to `ns`; `forwards` for the node and the router behind it.
pub(super) fn apply(ns: &NetNs, forwards: bool) -> Result<(), LabError> {
    let host = ns.name();
    ns.run(|| {
        for (path, value, why) in FOR_ALL.iter().chain(if forwards { FOR_ROUTERS } else { &[] }) {
            write(path, value)
                .map_err(|error| LabError::step(host, format!("setting {path}={value} ({why})"), error))?;
        }
        for (path, value, _) in WHERE_PRESENT {
            // Older kernels have these for the whole machine only; the lab does not touch the machine.
            let _ = write(path, value);
        }
        Ok(())
    })?
}

/// Lets UDP sockets of `ns` answer from IPv6 addresses that it takes by a local route only.
pub(super) fn answer_from_any_address(ns: &NetNs) -> Result<(), LabError> {
    let path = "ipv6/ip_nonlocal_bind";
    ns.run(|| write(path, "1").map_err(|error| LabError::step(ns.name(), format!("setting {path}=1"), error)))?
}

fn write(path: &str, value: &str) -> std::io::Result<()> {
    fs::write(Path::new("/proc/sys/net").join(path), value)
}
