//! The process itself: names and HELP texts of client_golang's process collector, out of /proc/self. Own code because the
//! collector of the `prometheus` crate counts processor time in whole seconds and lacks three of these.

use super::OnDemand;
use super::family::{Description, Kind, number, size};
use nix::sys::resource::{Resource, getrlimit};
use nix::unistd::{SysconfVar, sysconf};
use prometheus::proto::MetricFamily;
use std::fs;

const fn describe(name: &'static str, kind: Kind, help: &'static str) -> Description {
    Description { name, kind, help, labels: &[] }
}

const CPU: Description =
    describe("process_cpu_seconds_total", Kind::Counter, "Total user and system CPU time spent in seconds.");
const OPEN_FDS: Description = describe("process_open_fds", Kind::Gauge, "Number of open file descriptors.");
const MAX_FDS: Description = describe("process_max_fds", Kind::Gauge, "Maximum number of open file descriptors.");
const VIRTUAL: Description = describe("process_virtual_memory_bytes", Kind::Gauge, "Virtual memory size in bytes.");
const VIRTUAL_MAX: Description =
    describe("process_virtual_memory_max_bytes", Kind::Gauge, "Maximum amount of virtual memory available in bytes.");
const RESIDENT: Description = describe("process_resident_memory_bytes", Kind::Gauge, "Resident memory size in bytes.");
const START: Description =
    describe("process_start_time_seconds", Kind::Gauge, "Start time of the process since unix epoch in seconds.");
const RECEIVED: Description = describe(
    "process_network_receive_bytes_total",
    Kind::Counter,
    "Number of bytes received by the process over the network.",
);
const SENT: Description = describe(
    "process_network_transmit_bytes_total",
    Kind::Counter,
    "Number of bytes sent by the process over the network.",
);

pub(super) const DESCRIPTIONS: &[Description] =
    &[CPU, OPEN_FDS, MAX_FDS, VIRTUAL, VIRTUAL_MAX, RESIDENT, START, RECEIVED, SENT];

/// This process.
#[derive(Debug)]
pub struct Process;

impl OnDemand for Process {
    fn each_family(&self, each: &mut dyn FnMut(MetricFamily)) {
        // What cannot be read is not there: a number that is made up would be worse.
        let mut tell = |description: &Description, value: Option<f64>| {
            value.into_iter().flat_map(|value| description.single(value)).for_each(&mut *each);
        };
        let stat = fs::read_to_string("/proc/self/stat").ok().and_then(|text| Stat::parse(&text));
        let ticks = sysconf(SysconfVar::CLK_TCK).ok().flatten().map(wide);
        let page = sysconf(SysconfVar::PAGE_SIZE).ok().flatten().map(wide);
        tell(&CPU, stat.zip(ticks).map(|(stat, ticks)| number(stat.ticks) / ticks));
        tell(&OPEN_FDS, fs::read_dir("/proc/self/fd").ok().map(|entries| size(entries.count()) - 1.0));
        tell(&MAX_FDS, limit(Resource::RLIMIT_NOFILE));
        tell(&VIRTUAL, stat.map(|stat| number(stat.virtual_bytes)));
        tell(&VIRTUAL_MAX, limit(Resource::RLIMIT_AS));
        tell(&RESIDENT, stat.zip(page).map(|(stat, page)| number(stat.resident_pages) * page));
        tell(&START, stat.zip(ticks).zip(boot()).map(|((stat, ticks), boot)| boot + number(stat.started) / ticks));
        let traffic = fs::read_to_string("/proc/self/net/netstat").ok().and_then(|text| octets(&text));
        tell(&RECEIVED, traffic.map(|(received, _)| number(received)));
        tell(&SENT, traffic.map(|(_, sent)| number(sent)));
    }
}

fn wide(value: nix::libc::c_long) -> f64 {
    number(u64::try_from(value).unwrap_or_default())
}

fn limit(resource: Resource) -> Option<f64> {
    getrlimit(resource).ok().map(|(soft, _)| number(soft))
}

/// When the machine was started, in seconds since 1970.
fn boot() -> Option<f64> {
    let text = fs::read_to_string("/proc/stat").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("btime "))?;
    line.trim().parse().ok()
}

/// Bytes in and out of the network namespace, as client_golang takes them (`IpExt: InOctets, OutOctets`).
fn octets(text: &str) -> Option<(u64, u64)> {
    let mut lines = text.lines().filter_map(|line| line.strip_prefix("IpExt: "));
    let (names, values) = (lines.next()?, lines.next()?);
    let value = |name: &str| {
        let index = names.split(' ').position(|found| found == name)?;
        values.split(' ').nth(index)?.parse().ok()
    };
    Some((value("InOctets")?, value("OutOctets")?))
}

/// Out of /proc/self/stat (proc_pid_stat(5)).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stat {
    ticks: u64,
    started: u64,
    virtual_bytes: u64,
    resident_pages: u64,
}

impl Stat {
    fn parse(text: &str) -> Option<Self> {
        // The name may have blanks and brackets in it; the third field follows the last bracket.
        let (_, rest) = text.rsplit_once(')')?;
        let fields: Vec<&str> = rest.split_whitespace().collect();
        let field = |number: usize| fields.get(number - 3)?.parse::<u64>().ok();
        Some(Self {
            ticks: field(14)? + field(15)?,
            started: field(22)?,
            virtual_bytes: field(23)?,
            resident_pages: field(24)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_files_of_proc() {
        let text = "7 (a ) b) S 1 7 7 0 -1 4194560 1 0 0 0 30 12 0 0 20 0 3 0 5000 1048576 256 18446744073709551615 1";
        let stat = Stat::parse(text).unwrap();
        assert_eq!(stat, Stat { ticks: 42, started: 5000, virtual_bytes: 1_048_576, resident_pages: 256 });
        let text = "TcpExt: A B\nTcpExt: 1 2\nIpExt: X InOctets OutOctets\nIpExt: 9 11 12\n";
        assert_eq!(octets(text), Some((11, 12)));
    }

    #[test]
    fn everything_is_told_of_this_process() {
        let mut names = Vec::new();
        Process.each_family(&mut |family| names.push(family.name().to_owned()));
        assert_eq!(names.len(), DESCRIPTIONS.len(), "{names:?}");
    }
}
