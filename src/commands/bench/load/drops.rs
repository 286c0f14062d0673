//! Packets that the machine let go because nobody came for them in time: no fault of the proxy, and what a request that was
//! not answered may owe it to.

use crate::lab::NetNs;
use serde::Serialize;
use std::fs;

/// Counters since the machine's or the namespace's start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Drops {
    /// From the queues between network interfaces and protocols, of the whole machine (`softnet_stat`).
    pub backlog: u64,
    /// Datagrams, as the receiver's buffer was full (`RcvbufErrors`).
    pub receive_buffers: u64,
    /// Connections, as too many waited to be accepted (`ListenDrops`).
    pub listen_queues: u64,
}

impl Drops {
    /// Of these namespaces together. What cannot be read counts as nothing: it is told beside the result, and decides nothing.
    pub fn of<'a>(namespaces: impl IntoIterator<Item = &'a NetNs>) -> Self {
        let own = |ns: &NetNs| {
            ns.run(|| {
                let read = |name: &str| fs::read_to_string(format!("/proc/thread-self/net/{name}")).unwrap_or_default();
                Self {
                    backlog: backlog(&read("softnet_stat")),
                    receive_buffers: column(&read("snmp"), "Udp", "RcvbufErrors"),
                    listen_queues: column(&read("netstat"), "TcpExt", "ListenDrops"),
                }
            })
        };
        namespaces.into_iter().filter_map(|ns| own(ns).ok()).fold(Self::default(), |all, one| Self {
            // The same in all namespaces.
            backlog: all.backlog.max(one.backlog),
            receive_buffers: all.receive_buffers + one.receive_buffers,
            listen_queues: all.listen_queues + one.listen_queues,
        })
    }

    /// What came to it since then.
    pub fn since(self, before: Self) -> Self {
        Self {
            backlog: self.backlog.saturating_sub(before.backlog),
            receive_buffers: self.receive_buffers.saturating_sub(before.receive_buffers),
            listen_queues: self.listen_queues.saturating_sub(before.listen_queues),
        }
    }

    /// With those of another run.
    pub fn and(self, other: Self) -> Self {
        Self {
            backlog: self.backlog + other.backlog,
            receive_buffers: self.receive_buffers + other.receive_buffers,
            listen_queues: self.listen_queues + other.listen_queues,
        }
    }
}

/// The second column of each processor's line, in hexadecimal.
fn backlog(softnet: &str) -> u64 {
    let dropped = |line: &str| u64::from_str_radix(line.split_whitespace().nth(1)?, 16).ok();
    softnet.lines().filter_map(dropped).sum()
}

/// A counter of `/proc/net/snmp` and its like: a line of names, and one of values.
fn column(text: &str, group: &str, name: &str) -> u64 {
    let mut lines = text.lines().filter_map(|line| line.strip_prefix(group)?.strip_prefix(':'));
    let (Some(names), Some(values)) = (lines.next(), lines.next()) else { return 0 };
    let mut both = names.split_whitespace().zip(values.split_whitespace());
    both.find(|(own, _)| *own == name).and_then(|(_, value)| value.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_found_by_their_names() {
        let snmp = "Tcp: InSegs OutSegs\nTcp: 7 8\nUdp: InDatagrams NoPorts RcvbufErrors\nUdp: 10 2 3\n";
        assert_eq!(column(snmp, "Udp", "RcvbufErrors"), 3);
        assert_eq!(column(snmp, "UdpLite", "RcvbufErrors"), 0);
        assert_eq!(column(snmp, "Udp", "Unknown"), 0);
    }

    #[test]
    fn the_backlog_is_that_of_all_processors() {
        let softnet = "00000010 00000003 00000000\n000000ff 0000000a 00000001\n";
        assert_eq!(backlog(softnet), 13);
    }
}
