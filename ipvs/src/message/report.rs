//! What the kernel reports, straight from the wire: as `from_attributes`, without a list of every counter in between. A dump
//! of ten thousand virtual servers has four hundred thousand of them.

use netlink_packet_core::{DecodeError, ErrorContext, NlaBuffer, NlasIterator, Parseable};

use super::payload::{read, read_u32};
use super::{DestinationAttribute, ServiceAttribute};
use crate::{AddressFamily, DestinationEntry, ServiceEntry, Stats};

/// Attributes of a virtual server or destination as a kernel of today sends them.
const USUAL: usize = 16;
/// `IPVS_CMD_ATTR_SERVICE`, `IPVS_CMD_ATTR_DEST`.
const SERVICE: u16 = 1;
const DESTINATION: u16 = 2;
/// `IPVS_SVC_ATTR_STATS`, `IPVS_SVC_ATTR_STATS64`.
const SERVICE_STATS: [u16; 2] = [10, 12];
/// `IPVS_DEST_ATTR_STATS`, `IPVS_DEST_ATTR_STATS64`.
const DESTINATION_STATS: [u16; 2] = [10, 12];

impl ServiceEntry {
    /// The virtual server in the attributes of a message of the family.
    ///
    /// # Errors
    /// There is none, or as [`ServiceEntry::from_attributes`].
    pub fn parse(attributes: &[u8]) -> Result<Self, DecodeError> {
        let nest = nest(attributes, SERVICE)?.ok_or("no virtual server")?;
        let (fields, stats) =
            fields::<ServiceAttribute>(nest.value(), SERVICE_STATS).context("IPVS_CMD_ATTR_SERVICE")?;
        Ok(Self { stats, ..Self::from_attributes(fields)? })
    }
}

impl DestinationEntry {
    /// The destination, of a virtual server of `family`, in the attributes of a message of the family.
    ///
    /// # Errors
    /// There is none, or as [`DestinationEntry::from_attributes`].
    pub fn parse(attributes: &[u8], family: AddressFamily) -> Result<Self, DecodeError> {
        let nest = nest(attributes, DESTINATION)?.ok_or("no destination")?;
        let (fields, stats) =
            fields::<DestinationAttribute>(nest.value(), DESTINATION_STATS).context("IPVS_CMD_ATTR_DEST")?;
        Ok(Self { stats, ..Self::from_attributes(fields, family)? })
    }
}

/// The first attribute of this kind.
fn nest(attributes: &[u8], kind: u16) -> Result<Option<NlaBuffer<&[u8]>>, DecodeError> {
    for attribute in NlasIterator::new(attributes) {
        let attribute = attribute?;
        if attribute.kind() == kind {
            return Ok(Some(attribute));
        }
    }
    Ok(None)
}

/// All attributes but the counters, and these: those of 64 bits where there are any.
fn fields<A>(nest: &[u8], [narrow, wide]: [u16; 2]) -> Result<(Vec<A>, Stats), DecodeError>
where
    A: for<'a> Parseable<NlaBuffer<&'a [u8]>>,
{
    let mut fields = Vec::with_capacity(USUAL);
    let (mut counters, mut counters64) = (None, None);
    for attribute in NlasIterator::new(nest) {
        let attribute = attribute?;
        match attribute.kind() {
            kind if kind == narrow => counters = Some(attribute),
            kind if kind == wide => counters64 = Some(attribute),
            _ => fields.push(A::parse(&attribute)?),
        }
    }
    let stats = counters64.or(counters).map(|nest| Stats::parse(nest.value())).transpose()?;
    Ok((fields, stats.unwrap_or_default()))
}

impl Stats {
    /// The counters in the content of one nest; what is missing is 0.
    ///
    /// # Errors
    /// A counter has neither 32 nor 64 bits.
    pub fn parse(nest: &[u8]) -> Result<Self, DecodeError> {
        let mut stats = Self::default();
        for attribute in NlasIterator::new(nest) {
            let attribute = attribute?;
            let counter = match attribute.kind() {
                1 => &mut stats.connections,
                2 => &mut stats.incoming_packets,
                3 => &mut stats.outgoing_packets,
                4 => &mut stats.incoming_bytes,
                5 => &mut stats.outgoing_bytes,
                6 => &mut stats.cps,
                7 => &mut stats.inpps,
                8 => &mut stats.outpps,
                9 => &mut stats.inbps,
                10 => &mut stats.outbps,
                // Padding that aligns the 64-bit values, or something unknown.
                _ => continue,
            };
            let value = attribute.value();
            *counter = match value.len() {
                4 => u64::from(read_u32(value)?),
                _ => u64::from_ne_bytes(read(value).context("IPVS_STATS_ATTR")?),
            };
        }
        Ok(stats)
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Attribute, Counter, IpvsCommand, IpvsMessage, StatsAttribute};
    use super::*;
    use crate::{Destination, Netmask, Protocol, Scheduler, Service, ServiceId};
    use netlink_packet_core::Emitable;
    use proptest::prelude::*;

    fn bytes(attribute: Attribute) -> Vec<u8> {
        let message = IpvsMessage { command: IpvsCommand::NewService, attributes: vec![attribute] };
        let mut bytes = vec![0; message.buffer_len()];
        message.emit(&mut bytes);
        bytes
    }

    /// Counters of which those of 64 bits differ from those of 32.
    fn nests(first: u64) -> [Vec<StatsAttribute>; 2] {
        let narrow = Counter::Narrow(7);
        let narrow = vec![StatsAttribute::Connections(narrow), StatsAttribute::Cps(narrow)];
        let stats = Stats { connections: first, outbps: 9, ..Stats::default() };
        [narrow, stats.to_attributes()]
    }

    #[test]
    fn a_virtual_server_is_read_as_by_its_list_of_attributes() {
        let id = ServiceId::new(Protocol::Udp, "2001:db8::1".parse().unwrap(), 53);
        let mut service = Service::new(id, Scheduler::Sh).with_persistence(300);
        service.netmask = Netmask::Ipv6(64);
        service.pe_name = Some("sip".to_owned());
        for (with_narrow, with_wide) in [(true, true), (true, false), (false, true), (false, false)] {
            let [narrow, wide] = nests(1 << 40);
            let mut attributes = service.to_attributes();
            attributes.extend(with_narrow.then_some(ServiceAttribute::Stats(narrow)));
            attributes.extend(with_wide.then_some(ServiceAttribute::Stats64(wide)));
            let expected = ServiceEntry::from_attributes(attributes.clone()).unwrap();
            assert_eq!(ServiceEntry::parse(&bytes(Attribute::Service(attributes))).unwrap(), expected);
            assert_eq!(expected.service, service);
        }
        assert!(ServiceEntry::parse(&[]).is_err());
    }

    #[test]
    fn a_destination_is_read_as_by_its_list_of_attributes() {
        let destination = Destination::new("10.1.0.1".parse().unwrap(), 8080, 5);
        let [narrow, wide] = nests(1 << 40);
        let mut attributes = destination.to_attributes();
        attributes.extend([DestinationAttribute::Stats(narrow), DestinationAttribute::Stats64(wide)]);
        attributes.push(DestinationAttribute::ActiveConnections(3));
        let expected = DestinationEntry::from_attributes(attributes.clone(), AddressFamily::Ipv4).unwrap();
        let parsed = DestinationEntry::parse(&bytes(Attribute::Destination(attributes)), AddressFamily::Ipv4);
        assert_eq!((parsed.unwrap(), expected.stats.connections), (expected, 1 << 40));
    }

    proptest! {
        #[test]
        fn any_bytes_end_without_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = ServiceEntry::parse(&bytes);
            let _ = DestinationEntry::parse(&bytes, AddressFamily::Ipv6);
            let _ = Stats::parse(&bytes);
        }
    }
}
