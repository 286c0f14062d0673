//! What the screen shows of a sample: names, rates out of two samples, trouble; and their order.

use super::SortArg;
use super::sample::Sample;
use crate::commands::list::named::Namer;
use crate::commands::list::table::{Frontend, Traffic, VirtualServer};
use crate::commands::names::EndpointState;
use std::collections::HashMap;
use std::time::{Duration, Instant};

/// One line.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Row {
    /// Which virtual server of the sample.
    pub server: usize,
    /// `namespace/name:port`, or `-`.
    pub name: String,
    /// Kind of address.
    pub kind: String,
    /// Protocol and address.
    pub place: String,
    /// Endpoints that get new connections, and all.
    pub endpoints: (usize, usize),
    /// In a second.
    pub rates: Rates,
    /// Established connections.
    pub active: u64,
    /// Connections in other states.
    pub inactive: u64,
    /// What is wrong.
    pub trouble: Trouble,
}

/// What is counted in a second.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Rates {
    /// New connections.
    pub connections: f64,
    /// Packets, both ways.
    pub packets: f64,
    /// Bytes from clients.
    pub incoming: f64,
    /// Bytes to clients.
    pub outgoing: f64,
    /// Refused packets.
    pub refused: f64,
}

/// What is wrong with a virtual server; the worst last.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Trouble {
    /// Nothing.
    #[default]
    None,
    /// So many endpoints are not ready.
    NotReady(usize),
    /// Nothing gets new connections.
    NoEndpoints,
}

/// Counters of the sample before.
#[derive(Debug, Default)]
pub struct Before {
    at: Option<Instant>,
    counters: HashMap<Frontend, (Traffic, u64)>,
}

impl Before {
    /// The lines of a sample, which is the one before from then on.
    pub fn rows(&mut self, sample: &Sample) -> Vec<Row> {
        let elapsed = self.at.map(|at| sample.at.saturating_duration_since(at));
        let namer = Namer::new(&sample.names, sample.own.iter().copied());
        let rows = sample.servers.iter().enumerate().map(|(index, server)| {
            let before = self.counters.get(&server.frontend);
            row(index, server, &namer, elapsed.zip(before))
        });
        let rows = rows.collect();
        self.at = Some(sample.at);
        let counters = sample.servers.iter().map(|server| (server.frontend, (server.traffic, server.refused)));
        self.counters = counters.collect();
        rows
    }
}

fn row(index: usize, server: &VirtualServer, namer: &Namer<'_>, before: Option<(Duration, &(Traffic, u64))>) -> Row {
    let named = namer.server(server);
    let (mut name, mut place, reals) = (String::new(), String::new(), &server.real_servers);
    named.name(&mut name);
    named.place(&mut place);
    let serving = reals.iter().filter(|real| real.weight > 0).count();
    let not_ready = namer.endpoints(server).into_iter().filter(|state| *state == EndpointState::NotReady).count();
    Row {
        server: index,
        name: if name.is_empty() { "-".to_owned() } else { name },
        kind: named.kind_name().into_owned(),
        place,
        endpoints: (serving, reals.len()),
        rates: rates(server, before),
        active: reals.iter().map(|real| u64::from(real.active_connections)).sum(),
        inactive: reals.iter().map(|real| u64::from(real.inactive_connections)).sum(),
        trouble: match (serving, not_ready) {
            (0, _) => Trouble::NoEndpoints,
            (_, 0) => Trouble::None,
            (_, count) => Trouble::NotReady(count),
        },
    }
}

/// The kernel's own rates where it has some. It renews its counters every two seconds only, so that differences jump; they
/// are what is left where nothing estimates: in iptables mode, and with `run_estimation` off.
fn rates(server: &VirtualServer, before: Option<(Duration, &(Traffic, u64))>) -> Rates {
    let now = &server.traffic;
    let Some((elapsed, (then, refused))) = before else { return estimated(now, 0.0) };
    let seconds = elapsed.as_secs_f64().max(0.001);
    let grown = |now: u64, then: u64| number(now.saturating_sub(then)) / seconds;
    let refused = grown(server.refused, *refused);
    if now.cps + now.inpps + now.outpps + now.inbps + now.outbps > 0 {
        return estimated(now, refused);
    }
    Rates {
        connections: grown(now.connections, then.connections),
        packets: grown(now.incoming_packets, then.incoming_packets)
            + grown(now.outgoing_packets, then.outgoing_packets),
        incoming: grown(now.incoming_bytes, then.incoming_bytes),
        outgoing: grown(now.outgoing_bytes, then.outgoing_bytes),
        refused,
    }
}

fn estimated(now: &Traffic, refused: f64) -> Rates {
    Rates {
        connections: number(now.cps),
        packets: number(now.inpps) + number(now.outpps),
        incoming: number(now.inbps),
        outgoing: number(now.outbps),
        refused,
    }
}

#[expect(clippy::cast_precision_loss, reason = "a rate of more than 2^53 in a second is none")]
fn number(count: u64) -> f64 {
    count as f64
}

/// The lines that contain `filter`, in the order that is asked for; equal ones by name.
pub fn order(rows: &[Row], sort: SortArg, reversed: bool, filter: &str) -> Vec<usize> {
    let filter = filter.to_lowercase();
    let contains = |row: &Row| {
        let fields = [&row.name, &row.kind, &row.place];
        filter.is_empty() || fields.into_iter().any(|field| field.to_lowercase().contains(&filter))
    };
    let mut kept: Vec<(usize, &Row)> = rows.iter().enumerate().filter(|(_, row)| contains(row)).collect();
    kept.sort_by(|(_, a), (_, b)| {
        let key = |row: &Row| match sort {
            SortArg::Rate => [row.rates.connections, row.rates.packets],
            SortArg::Connections => [number(row.active), number(row.inactive)],
            SortArg::Errors => [row.rates.refused, severity(row.trouble)],
            SortArg::Name => [0.0, 0.0],
        };
        let ([a1, a2], [b1, b2]) = (key(a), key(b));
        let by_key = b1.total_cmp(&a1).then(b2.total_cmp(&a2));
        let by_name = a.name.cmp(&b.name).then_with(|| a.place.cmp(&b.place));
        if reversed { by_key.then(by_name).reverse() } else { by_key.then(by_name) }
    });
    kept.into_iter().map(|(index, _)| index).collect()
}

fn severity(trouble: Trouble) -> f64 {
    match trouble {
        Trouble::None => 0.0,
        Trouble::NotReady(_) => 1.0,
        Trouble::NoEndpoints => 2.0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::names::Names;
    use std::sync::Arc;

    fn server(port: u16, connections: u64, refused: u64) -> VirtualServer {
        VirtualServer {
            frontend: Frontend::Address { protocol: 6, address: "10.96.0.1".parse().unwrap(), port },
            scheduler: "rr".into(),
            scheduler_flags: [false; 3],
            persistence: None,
            engine: None,
            one_packet: false,
            traffic: Traffic { connections, ..Traffic::default() },
            refused,
            real_servers: Vec::new(),
        }
    }

    fn sample(at: Instant, servers: Vec<VirtualServer>) -> Sample {
        let names = Arc::new(Names::without("a test".into()));
        Sample { at, mode: "IPVS", servers: servers.into(), names, own: Arc::new([]), took: Duration::ZERO }
    }

    #[test]
    fn rates_come_from_two_samples_unless_the_kernel_knows_them() {
        let (start, mut before) = (Instant::now(), Before::default());
        before.rows(&sample(start, vec![server(80, 100, 5), server(81, 0, 0)]));
        let mut estimated = server(81, 50, 0);
        estimated.traffic.cps = 7;
        let later = sample(start + Duration::from_secs(2), vec![server(80, 140, 15), estimated, server(82, 9, 9)]);
        let rows = before.rows(&later);
        let found: Vec<(f64, f64)> = rows.iter().map(|row| (row.rates.connections, row.rates.refused)).collect();
        assert_eq!(found, [(20.0, 5.0), (7.0, 0.0), (0.0, 0.0)]);
    }

    #[test]
    fn the_order_is_what_was_asked_for() {
        let row = |name: &str, rate, active, refused, trouble| Row {
            name: name.into(),
            rates: Rates { connections: rate, refused, ..Rates::default() },
            active,
            trouble,
            ..Row::default()
        };
        let rows = [
            row("b", 1.0, 9, 0.0, Trouble::NoEndpoints),
            row("a", 1.0, 1, 2.0, Trouble::None),
            row("c", 5.0, 3, 0.0, Trouble::NotReady(1)),
        ];
        let names = |sort, reversed, filter| -> String {
            order(&rows, sort, reversed, filter).into_iter().map(|index| rows[index].name.as_str()).collect()
        };
        assert_eq!(names(SortArg::Rate, false, ""), "cab");
        assert_eq!(names(SortArg::Connections, false, ""), "bca");
        assert_eq!(names(SortArg::Errors, false, ""), "abc");
        assert_eq!(names(SortArg::Name, false, ""), "abc");
        assert_eq!(names(SortArg::Name, true, ""), "cba");
        assert_eq!(names(SortArg::Name, false, "B"), "b");
    }
}
