//! Random IPVS tables: every scheduler, flag, protocol, family and forwarding method that the kernel accepts.

use ipvs::{
    AddressFamily, Destination, ForwardMethod, Netmask, Protocol, Scheduler, Service, ServiceFlags, ServiceId, Tunnel,
    TunnelFlags, TunnelKind,
};
use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// A virtual server with its destinations.
#[derive(Debug, Clone)]
pub struct Wanted {
    pub service: Service,
    pub destinations: Vec<Destination>,
}

/// What the kernel has.
#[derive(Debug, Clone)]
pub struct Modules {
    pub schedulers: Vec<Scheduler>,
    /// The persistence engine for SIP.
    pub sip: bool,
}

/// `count` virtual servers, the same for the same seed and modules.
pub fn table(seed: u64, count: usize, modules: &Modules) -> Vec<Wanted> {
    let mut random = Random(seed);
    let mut ids = BTreeSet::new();
    let mut table = Vec::new();
    while table.len() < count {
        // Each scheduler in turn, so that none is left out.
        let scheduler = *modules.schedulers.iter().cycle().nth(table.len()).unwrap();
        let service = random.service(scheduler, modules.sip);
        if ids.insert(service.id) {
            let destinations = random.destinations(&service.id);
            table.push(Wanted { service, destinations });
        }
    }
    table
}

/// SplitMix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// `0..end`
    fn below(&mut self, end: u32) -> u32 {
        u32::try_from(self.next() % u64::from(end)).unwrap()
    }

    fn one_in(&mut self, count: u32) -> bool {
        self.below(count) == 0
    }

    fn of<T: Copy>(&mut self, choices: &[T]) -> T {
        let at = self.below(u32::try_from(choices.len()).unwrap());
        *choices.get(usize::try_from(at).unwrap()).unwrap()
    }

    fn port(&mut self) -> u16 {
        let any = u16::try_from(self.below(65535) + 1).unwrap();
        self.of(&[1, 53, 80, 443, 65535, any, any, any])
    }

    /// Near ones for long lists of neighbours, far ones for differences that do not fit into an `int`.
    fn v4(&mut self) -> IpAddr {
        let near = u8::try_from(self.below(12)).unwrap();
        let bits = u32::try_from(self.next() >> 32).unwrap();
        let [a, b, c, d] = bits.to_be_bytes();
        // The kernel refuses destinations that are not unicast.
        let anywhere = Ipv4Addr::new(if a == 127 { 126 } else { a % 223 + 1 }, b, c, d);
        let choices = [
            Ipv4Addr::new(10, 96, 0, near),
            Ipv4Addr::new(192, 168, near, 255),
            Ipv4Addr::new(100, 64, 0, near),
            anywhere,
        ];
        match self.of(&choices) {
            loopback if loopback.is_loopback() => IpAddr::V4(Ipv4Addr::new(128, b, c, d)),
            address => IpAddr::V4(address),
        }
    }

    fn v6(&mut self) -> IpAddr {
        let near = u16::try_from(self.below(12)).unwrap();
        let any = self.next();
        let long = Ipv6Addr::from((u128::from(any) << 64 | u128::from(self.next())) >> 3 | 1 << 125);
        IpAddr::V6(self.of(&[
            Ipv6Addr::new(0xfd00, 0x10, 0x96, 0, 0, 0, 0, near + 1),
            Ipv6Addr::new(0x2001, 0xdb8, near, 0, 0, 1, 0, 0),
            Ipv6Addr::new(0xa00, 0, 0, 0, 0, 0, 0, near),
            long,
        ]))
    }

    fn address(&mut self, family: AddressFamily) -> IpAddr {
        match family {
            AddressFamily::Ipv4 => self.v4(),
            AddressFamily::Ipv6 => self.v6(),
        }
    }

    fn id(&mut self) -> ServiceId {
        let family = self.of(&[AddressFamily::Ipv4, AddressFamily::Ipv6]);
        if self.one_in(6) {
            let any = self.below(u32::MAX - 1) + 1;
            let few = self.below(8) + 1;
            let mark = self.of(&[few, few, any, u32::MAX]);
            return ServiceId::fwmark(mark, family);
        }
        let protocol = self.of(&[Protocol::Tcp, Protocol::Tcp, Protocol::Udp, Protocol::Udp, Protocol::Sctp]);
        let mut address = self.address(family);
        if family == AddressFamily::Ipv6 && self.one_in(6) {
            // Written in a form of their own.
            let embedded = Ipv4Addr::new(192, 0, 2, 7);
            let choices =
                [embedded.to_ipv6_mapped(), Ipv6Addr::from(u128::from(embedded.to_bits())), Ipv6Addr::LOCALHOST];
            address = IpAddr::V6(self.of(&choices));
        }
        ServiceId::new(protocol, address, self.port())
    }

    fn service(&mut self, scheduler: Scheduler, sip: bool) -> Service {
        let mut service = Service::new(self.id(), scheduler);
        for flag in [ServiceFlags::SCHED_1, ServiceFlags::SCHED_2, ServiceFlags::SCHED_3] {
            if self.one_in(3) {
                service.flags |= flag;
            }
        }
        let udp = matches!(service.id, ServiceId::Address { protocol: Protocol::Udp, .. });
        if udp && self.one_in(3) {
            service.flags |= ServiceFlags::ONE_PACKET;
        }
        if self.one_in(3) {
            let any = self.below(2_678_400) + 1;
            service = service.with_persistence(self.of(&[1, 300, 10_800, any]));
            if let ServiceId::Address { port, .. } = &mut service.id
                && self.one_in(6)
            {
                *port = 0;
            }
        }
        if self.one_in(3) {
            let prefix = self.below(32) + 1;
            service.netmask = match service.id.family() {
                AddressFamily::Ipv4 => Netmask::Ipv4(Ipv4Addr::from_bits(u32::MAX << (32 - prefix))),
                AddressFamily::Ipv6 => Netmask::Ipv6(prefix * 4),
            };
        }
        if sip && udp && self.one_in(3) {
            service.pe_name = Some("sip".to_owned());
        }
        service
    }

    fn destinations(&mut self, id: &ServiceId) -> Vec<Destination> {
        let mut places = BTreeSet::new();
        let mut destinations = Vec::new();
        for _ in 0..self.of(&[0, 1, 2, 3, 5, 8, 13]) {
            let destination = self.destination(id);
            if places.insert((destination.address, destination.port)) {
                destinations.push(destination);
            }
        }
        destinations
    }

    fn destination(&mut self, id: &ServiceId) -> Destination {
        use ForwardMethod::{DirectRoute, Local, Masquerade, Tunnel as Tunnelled};
        let forward = self.of(&[Masquerade, Masquerade, Masquerade, Local, Tunnelled, Tunnelled, DirectRoute]);
        let mut family = id.family();
        if forward == Tunnelled && self.one_in(3) {
            family = if family == AddressFamily::Ipv4 { AddressFamily::Ipv6 } else { AddressFamily::Ipv4 };
        }
        let own_port = match id {
            ServiceId::Address { port, .. } => *port,
            ServiceId::Fwmark { .. } => 0,
        };
        let port = if forward == Masquerade && own_port != 0 { self.port() } else { own_port };
        let any = self.below(1000);
        let weight = self.of(&[0, 1, 1, 1, 100, 65535, i32::MAX.cast_unsigned(), any]);
        let mut destination = Destination::new(self.address(family), port, weight).with_forward(forward);
        if self.one_in(4) {
            destination.upper_threshold = self.below(1000) + 10;
            destination.lower_threshold = self.below(10);
        }
        if forward == Tunnelled {
            destination.tunnel = self.tunnel();
        }
        destination
    }

    fn tunnel(&mut self) -> Tunnel {
        let ipip = Tunnel::default();
        let gue = Tunnel { kind: TunnelKind::Gue, port: self.port(), flags: TunnelFlags::CHECKSUM };
        let gre = Tunnel { kind: TunnelKind::Gre, port: 0, flags: TunnelFlags::empty() };
        self.of(&[ipip, gue, gre])
    }
}
