//! The Services as people know them, for this program itself: what `names` tells in lines of JSON, in pieces that cost a fifth
//! of the time. Daemon and tool have to be of the same version; where they are not, the tool asks for the lines.
//!
//! On the wire each piece is its length (4 bytes, the lowest first) and so many bytes of postcard; a piece of length 0 is the
//! last.

use super::names::Transport;
use super::names::{Draining, NamedAddress, NamedDrain, NamedPort, NamedService};
use crate::model::{Packed, Service, Slices, Snapshot};
use bytestring::ByteString;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use smallvec::SmallVec;
use std::collections::HashMap;
use std::net::SocketAddr;

/// About so many bytes of texts and slices are in a piece.
const SIZE: usize = 64 * 1024;

/// Some Services. All texts are in one, and stand in the others as where in it they begin, and how long they are.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Piece<'a> {
    text: String,
    #[serde(borrow)]
    services: Vec<PackedService<'a>>,
}

type Span = (u32, u32);

/// Name, protocol, port, node port.
type PackedPort = (Span, Transport, u16, Option<u16>);

#[derive(Debug, Serialize, Deserialize)]
struct PackedService<'a> {
    namespace: Span,
    name: Span,
    labels: Span,
    addresses: SmallVec<[NamedAddress; 1]>,
    ports: SmallVec<[PackedPort; 1]>,
    /// As the daemon has them.
    #[serde(borrow)]
    slices: SmallVec<[Bytes<'a>; 1]>,
    draining: Vec<(Span, Transport, SocketAddr, u64)>,
}

#[derive(Debug)]
struct Bytes<'a>(&'a [u8]);

impl Serialize for Bytes<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        // In one go; a list would be written byte by byte.
        serializer.serialize_bytes(self.0)
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Bytes<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        <&[u8]>::deserialize(deserializer).map(Bytes)
    }
}

/// All Services of a snapshot, piece by piece, each as it goes over the wire.
pub fn pieces<'a>(snapshot: &'a Snapshot, draining: &'a Draining) -> impl Iterator<Item = Vec<u8>> + 'a {
    let mut services = snapshot.services.iter();
    let mut over = false;
    std::iter::from_fn(move || {
        if over {
            return None;
        }
        let mut packer = Packer::default();
        while packer.size < SIZE {
            let Some((name, service)) = services.next() else {
                over = true;
                break;
            };
            packer.service(service, snapshot.slices.get(name), draining.of_service(name));
        }
        let mut bytes = if packer.piece.services.is_empty() { Vec::new() } else { framed(&packer.piece) };
        if over {
            bytes.extend([0; 4]);
        }
        Some(bytes)
    })
}

fn framed(piece: &Piece<'_>) -> Vec<u8> {
    // Memory is all that it needs.
    let bytes = postcard::to_allocvec(piece).unwrap_or_default();
    let length = u32::try_from(bytes.len()).unwrap_or_default();
    [length.to_le_bytes().as_slice(), &bytes].concat()
}

#[derive(Default)]
struct Packer<'a> {
    piece: Piece<'a>,
    size: usize,
    /// Where texts stand that come again and again: namespaces and names of ports.
    known: HashMap<&'a str, Span, foldhash::fast::RandomState>,
}

impl<'a> Packer<'a> {
    fn text(&mut self, text: &str) -> Span {
        let start = u32::try_from(self.piece.text.len()).unwrap_or_default();
        self.piece.text.push_str(text);
        self.size += text.len();
        (start, u32::try_from(text.len()).unwrap_or_default())
    }

    fn again(&mut self, text: &'a str) -> Span {
        if let Some(span) = self.known.get(text) {
            return *span;
        }
        let span = self.text(text);
        self.known.insert(text, span);
        span
    }

    fn service(&mut self, service: &'a Service, slices: Option<&'a Slices>, draining: &'a [NamedDrain]) {
        let packed = PackedService {
            namespace: self.again(&service.name.namespace),
            name: self.text(&service.name.name),
            labels: self.text(service.labels.as_deref().unwrap_or_default()),
            addresses: NamedAddress::all_of(service),
            ports: service
                .ports
                .iter()
                .map(|port| (self.again(&port.name), port.protocol.into(), port.port, port.node_port))
                .collect(),
            slices: slices.into_iter().flat_map(Slices::packed).map(|slice| self.slice(slice)).collect(),
            draining: draining
                .iter()
                .map(|drain| (self.again(&drain.port), drain.protocol, drain.endpoint, drain.left_ms))
                .collect(),
        };
        self.piece.services.push(packed);
    }

    fn slice(&mut self, slice: &'a Packed) -> Bytes<'a> {
        let bytes = slice.as_bytes();
        self.size += bytes.len();
        Bytes(bytes)
    }
}

/// The Services of a piece, without its length.
///
/// # Errors
/// The bytes are no such piece.
pub fn unpack(bytes: &[u8]) -> Result<Vec<NamedService>, postcard::Error> {
    let Piece { text, services } = postcard::from_bytes(bytes)?;
    let text = ByteString::from(text);
    Ok(services.into_iter().map(|service| named(&text, service)).collect())
}

/// Shares the text of the piece; what points out of it is empty.
fn cut(text: &ByteString, (start, length): Span) -> ByteString {
    let part = usize::try_from(start).ok().zip(usize::try_from(length).ok());
    let part = part.and_then(|(start, length)| text.get(start..start.checked_add(length)?));
    part.filter(|part| !part.is_empty()).map(|part| text.slice_ref(part)).unwrap_or_default()
}

fn named(text: &ByteString, service: PackedService<'_>) -> NamedService {
    let cut = |span| cut(text, span);
    let port = |(name, protocol, port, node_port)| NamedPort { name: cut(name), protocol, port, node_port };
    let drain = |(port, protocol, endpoint, left_ms)| NamedDrain { port: cut(port), protocol, endpoint, left_ms };
    NamedService {
        namespace: cut(service.namespace),
        name: cut(service.name),
        labels: cut(service.labels),
        addresses: service.addresses,
        ports: service.ports.into_iter().map(port).collect(),
        slices: service.slices.into_iter().map(|Bytes(slice)| slice.into()).collect(),
        draining: service.draining.into_iter().map(drain).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Endpoint, EndpointPort, EndpointSlice, Protocol, ServiceName};
    use proptest::prelude::*;
    use std::sync::Arc;

    fn all(snapshot: &Snapshot) -> Vec<NamedService> {
        let bytes: Vec<u8> = pieces(snapshot, &Draining::default()).flatten().collect();
        let (mut rest, mut found) = (bytes.as_slice(), Vec::new());
        loop {
            let (length, tail) = rest.split_first_chunk::<4>().unwrap();
            let (piece, tail) = tail.split_at(u32::from_le_bytes(*length).try_into().unwrap());
            if piece.is_empty() {
                assert!(tail.is_empty());
                return found;
            }
            found.extend(unpack(piece).unwrap());
            rest = tail;
        }
    }

    fn cluster(services: u32) -> Snapshot {
        let mut snapshot = Snapshot::default();
        for number in 0..services {
            let mut service = Service::for_test("shop", &format!("web-{number}"));
            service.cluster_ips = vec![std::net::Ipv4Addr::from(number).into(), "fd00::1".parse().unwrap()];
            service.labels = (number % 2 == 0).then(|| "app=web".into());
            let endpoint = |ready: bool| Endpoint {
                address: std::net::Ipv4Addr::from(!number).into(),
                ready,
                serving: !ready,
                terminating: number % 3 == 0,
                weight: None,
                node: ready.then(|| "node".into()),
                zone: None,
                hints: None,
                pod: Some(format!("web-{number}-0").into()),
            };
            let slice = EndpointSlice {
                ports: vec![EndpointPort { name: "http".into(), protocol: Protocol::Udp, port: 8080 }],
                endpoints: vec![endpoint(true), endpoint(false)],
                ..EndpointSlice::for_test("slice")
            };
            let name: ServiceName = service.name.clone();
            snapshot.slices.entry(name.clone()).or_default().insert(&slice);
            snapshot.services.insert(name, Arc::new(service));
        }
        snapshot
    }

    #[test]
    fn the_pieces_say_what_the_lines_say() {
        for services in [0, 1, 3000] {
            let snapshot = cluster(services);
            assert_eq!(all(&snapshot), NamedService::all(&snapshot, &Draining::default()).collect::<Vec<_>>());
        }
    }

    proptest! {
        #[test]
        fn any_bytes_end_without_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = unpack(&bytes);
        }
    }
}
