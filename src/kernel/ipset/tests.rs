//! The codec against bytes captured from `ipset` 7.17 (strace) on kernel 6.18, and against arbitrary bytes.

use proptest::prelude::*;

use super::codec;
use super::*;
use crate::kernel::IpFamily;

fn hash(name: &str, set_type: SetType, family: IpFamily) -> SetSpec {
    SetSpec { max_elements: 65536, ..SetSpec::new(name, set_type, family) }
}

fn marked(name: &str) -> SetSpec {
    SetSpec {
        max_elements: 200_000,
        hash_size: 4096,
        skbinfo: true,
        comment: true,
        counters: true,
        ..SetSpec::new(name, SetType::HashIpPort, IpFamily::V4)
    }
}

fn create(spec: SetSpec) -> SetCommand {
    SetCommand::Create(spec)
}

fn add(set: &str, entry: EntryWithMark) -> SetCommand {
    SetCommand::Add { set: set.to_owned(), entry }
}

fn ip(address: &str) -> Entry {
    Entry::Ip(address.parse().unwrap())
}

fn net(net: &str) -> Entry {
    Entry::Net(net.parse().unwrap())
}

fn marked_entry() -> EntryWithMark {
    let entry = Entry::IpPort { address: "10.0.0.1".parse().unwrap(), protocol: Protocol::TCP, port: 80 };
    EntryWithMark { entry, mark: Some(Mark { value: 0x10, mask: 0xff }) }
}

fn sctp() -> Entry {
    Entry::IpPort { address: "10.0.0.1".parse().unwrap(), protocol: Protocol::SCTP, port: 90 }
}

fn ip_port_ip() -> Entry {
    let (address, second) = ("10.0.0.1".parse().unwrap(), "10.0.0.2".parse().unwrap());
    Entry::IpPortIp { address, protocol: Protocol::TCP, port: 80, second }
}

fn ip_port_net() -> Entry {
    let (address, net) = ("10.0.0.1".parse().unwrap(), "10.2.0.0/16".parse().unwrap());
    Entry::IpPortNet { address, protocol: Protocol::UDP, port: 53, net }
}

/// `IPSET_ATTR_TIMEOUT` in network byte order, as the kernel tells it of a set, too.
#[test]
fn a_set_with_a_timeout_says_so_and_serves_nobody_else() {
    const ATTRIBUTE: [u8; 8] = [8, 0, 6, 0x40, 0, 0, 0, 2];
    let spec = hash("t2", SetType::HashIpPortIp, IpFamily::V4).with_timeout(2);
    let message = codec::encode(7, &create(spec.clone()));
    assert!(message.windows(ATTRIBUTE.len()).any(|bytes| bytes == ATTRIBUTE));
    // What follows netlink's own header reads as an answer does.
    let header = codec::decode_header(message.get(16..).unwrap()).unwrap();
    assert_eq!(header.timeout, Some(2));
    assert!(header.serves_as(&spec) && !header.serves_as(&SetSpec { timeout: None, ..spec }));
}

/// What was asked of `ipset`; [`CAPTURED`] is what it sent.
fn commands() -> [SetCommand; 20] {
    [
        create(marked("t1")),
        create(hash("t6", SetType::HashNet, IpFamily::V6)),
        create(hash("t7", SetType::BitmapPort, IpFamily::V4)),
        add("t1", marked_entry()),
        add("t6", net("fd00:1::/64").into()),
        add("t7", Entry::Port(80).into()),
        create(hash("t2", SetType::HashIpPortIp, IpFamily::V4)),
        add("t2", ip_port_ip().into()),
        create(hash("t3", SetType::HashIpPortNet, IpFamily::V4)),
        add("t3", ip_port_net().into()),
        create(hash("t4", SetType::HashIp, IpFamily::V6)),
        add("t4", ip("fd00::1").into()),
        SetCommand::Delete { set: "t4".to_owned(), entry: ip("fd00::1") },
        create(hash("t8", SetType::HashIpPort, IpFamily::V4)),
        add("t8", sctp().into()),
        SetCommand::Put { set: "t8".to_owned(), entry: sctp().into() },
        SetCommand::Flush("t8".to_owned()),
        SetCommand::Rename { from: "t8".to_owned(), to: "t9".to_owned() },
        SetCommand::Swap("t2".to_owned(), "t2".to_owned()),
        SetCommand::Destroy("t9".to_owned()),
    ]
}

/// Command, flags without `NLM_F_ACK`, and everything after the netlink header.
const CAPTURED: [(u8, u16, &str); 20] = [
    (
        0x02,
        0x601,
        "020000000500010007000000070002007431000011000300686173683a69702c706f727400000000050004000700000005000500020000001c000780080008400000005808001240000010000800134000030d40",
    ),
    (
        0x02,
        0x601,
        "02000000050001000700000007000200743600000d000300686173683a6e6574000000000500040007000000050005000a0000001400078008001240000004000800134000010000",
    ),
    (
        0x02,
        0x601,
        "0200000005000100070000000700020074370000100003006269746d61703a706f7274000500040003000000050005000000000014000780060004400000000006000540ffff0000",
    ),
    (
        0x09,
        0x201,
        "0200000005000100070000000700020074310000340007800c000180080001400a000001060004400050000005000700060000000c001b4000000010000000ff0800094000000000",
    ),
    (
        0x09,
        0x201,
        "02000000050001000700000007000200743600002c0007801800018014000240fd00000100000000000000000000000005000300400000000800094000000000",
    ),
    (0x09, 0x201, "02000000050001000700000007000200743700001400078006000440005000000800094000000000"),
    (
        0x02,
        0x601,
        "020000000500010007000000070002007432000014000300686173683a69702c706f72742c697000050004000600000005000500020000001400078008001240000004000800134000010000",
    ),
    (
        0x09,
        0x201,
        "0200000005000100070000000700020074320000340007800c000180080001400a000001060004400050000005000700060000000c001480080001400a0000020800094000000000",
    ),
    (
        0x02,
        0x601,
        "020000000500010007000000070002007433000015000300686173683a69702c706f72742c6e657400000000050004000800000005000500020000001400078008001240000004000800134000010000",
    ),
    (
        0x09,
        0x201,
        "02000000050001000700000007000200743300003c0007800c000180080001400a000001060004400035000005000700110000000c001480080001400a02000005001500100000000800094000000000",
    ),
    (
        0x02,
        0x601,
        "02000000050001000700000007000200743400000c000300686173683a6970000500040006000000050005000a0000001400078008001240000004000800134000010000",
    ),
    (
        0x09,
        0x201,
        "0200000005000100070000000700020074340000240007801800018014000240fd0000000000000000000000000000010800094000000000",
    ),
    (
        0x0a,
        0x201,
        "0200000005000100070000000700020074340000240007801800018014000240fd0000000000000000000000000000010800094000000000",
    ),
    (
        0x02,
        0x601,
        "020000000500010007000000070002007438000011000300686173683a69702c706f727400000000050004000700000005000500020000001400078008001240000004000800134000010000",
    ),
    (
        0x09,
        0x201,
        "0200000005000100070000000700020074380000280007800c000180080001400a00000106000440005a000005000700840000000800094000000000",
    ),
    (
        0x09,
        0x1,
        "0200000005000100070000000700020074380000280007800c000180080001400a00000106000440005a000005000700840000000800094000000000",
    ),
    (0x04, 0x1, "0200000005000100070000000700020074380000"),
    (0x05, 0x1, "02000000050001000700000007000200743800000700030074390000"),
    (0x06, 0x1, "02000000050001000700000007000200743200000700030074320000"),
    (0x03, 0x201, "0200000005000100070000000700020074390000"),
];

/// What the kernel answered to `ipset save`, and what `ipset` printed of it.
const LISTED: [(&str, &str, &str); 6] = [
    (
        "t1",
        "10.0.0.1,tcp:80 skbmark 0x10/0xff",
        "020000000500010007000000070002007431000011000300686173683a69702c706f7274000000000500050002000000050004000700000006000b40000000004400078008001240000010000800134000030d40050015000c00000008001140725cd0ff080019400000000008001a40000001a00800184000000001080008400000005848000880440007800c000180080001000a000001060004400050000005000700060000000c00184000000000000000000c00194000000000000000000c001b4000000010000000ff",
    ),
    (
        "t6",
        "fd00:1::/64",
        "02000000050001000700000007000200743600000d000300686173683a6e657400000000050005000a000000050004000700000006000b40000100003c00078008001240000004000800134000010000050015000c000000080011400e724342080019400000000008001a4000000520080018400000000128000880240007801800018014000200fd0000010000000000000000000000000500030040000000",
    ),
    (
        "t7",
        "80",
        "0200000005000100070000000700020074370000100003006269746d61703a706f7274000500050000000000050004000300000006000b40000200002c000780060004400000000006000540ffff0000080019400000000008001a40000020480800184000000001100008800c0007800600044000500000",
    ),
    (
        "t2",
        "10.0.0.1,tcp:80,10.0.0.2",
        "020000000500010007000000070002007432000014000300686173683a69702c706f72742c6970000500050002000000050004000600000006000b40000300003c00078008001240000004000800134000010000050015000c00000008001140a61cb127080019400000000008001a40000001080800184000000001300008802c0007800c000180080001000a0000010c001480080001000a00000206000440005000000500070006000000",
    ),
    (
        "t3",
        "10.0.0.1,udp:53,10.2.0.0/16",
        "020000000500010007000000070002007433000015000300686173683a69702c706f72742c6e6574000000000500050002000000050004000800000006000b40000400003c00078008001240000004000800134000010000050015000c0000000800114024047623080019400000000008001a4000000208080018400000000138000880340007800c000180080001000a0000010c001480080001000a020000060004400035000005001500100000000500070011000000",
    ),
    (
        "t4",
        "",
        "02000000050001000700000007000200743400000c000300686173683a697000050005000a000000050004000600000006000b40000500003c00078008001240000004000800134000010000050015000c000000080011401612a6c7080019400000000008001a40000000e0080018400000000004000880",
    ),
];

fn bytes(hex: &str) -> Vec<u8> {
    (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect()
}

/// `ipset` asks for the newest revision and numbers the lines of its input; we do neither.
fn as_we_do(mut captured: Vec<u8>, command: &SetCommand) -> Vec<u8> {
    match command {
        SetCommand::Create(spec) => {
            let revision = captured.windows(4).position(|header| header == [5, 0, 4, 0]).unwrap() + 4;
            captured[revision] = spec.set_type.revision();
        }
        SetCommand::Add { .. } | SetCommand::Put { .. } | SetCommand::Delete { .. } => {
            assert_eq!(captured.split_off(captured.len() - 8), [8, 0, 9, 0x40, 0, 0, 0, 0], "IPSET_ATTR_LINENO");
            assert_eq!(captured[22..24], [7, 0x80], "IPSET_ATTR_DATA");
            captured[20] -= 8;
        }
        _ => {}
    }
    captured
}

#[test]
fn commands_are_encoded_as_ipset_does() {
    for (command, (kind, flags, hex)) in commands().into_iter().zip(CAPTURED) {
        let message = codec::encode(7, &command);
        assert_eq!(message.len(), u32::from_ne_bytes(message[..4].try_into().unwrap()) as usize, "{command}");
        assert_eq!(message[4..6], [kind, 6], "{command}");
        assert_eq!(message[6..8], flags.to_ne_bytes(), "{command}");
        assert_eq!(message[16..], as_we_do(bytes(hex), &command), "{command}");
    }
}

#[test]
fn listed_sets_are_decoded_as_ipset_prints_them() {
    for (name, text, hex) in LISTED {
        let payload = bytes(hex);
        let header = codec::decode_header(&payload).unwrap();
        assert_eq!(header.name, name);
        let mut entries = Vec::new();
        codec::decode_entries(&payload, header.set_type().unwrap(), |entry| entries.push(entry.to_string())).unwrap();
        assert_eq!(entries.join("\n"), text, "{name}");
    }
    let header = codec::decode_header(&bytes(LISTED[0].2)).unwrap();
    assert_eq!((header.hash_size, header.max_elements, header.elements), (Some(4096), Some(200_000), Some(1)));
    assert!(header.skbinfo && header.comment && header.counters);
    assert_eq!((header.family(), header.references, header.memory), (Some(IpFamily::V4), 0, 0x1a0));
    assert!(header.serves_as(&marked("t1")));
    assert!(!header.serves_as(&hash("t1", SetType::HashIpPort, IpFamily::V4)));
}

#[test]
fn commands_read_like_ipset_s_own() {
    assert_eq!(add("t1", marked_entry()).to_string(), "add t1 10.0.0.1,tcp:80 skbmark 0x10/0xff");
    assert_eq!(
        create(marked("t1")).to_string(),
        "create t1 hash:ip,port family inet hashsize 4096 maxelem 200000 counters comment skbinfo"
    );
    let host = Entry::IpPortNet {
        address: "fd00::1".parse().unwrap(),
        protocol: Protocol(47),
        port: 0,
        net: "fd00::2/128".parse().unwrap(),
    };
    assert_eq!(host.to_string(), "fd00::1,47:0,fd00::2");
    assert_eq!(Mark { value: 0x4000, mask: u32::MAX }.to_string(), "0x4000");
}

#[test]
fn everywhere_takes_two_entries() {
    let parts = |net: &str| storable_networks(net.parse().unwrap()).map(|net| net.to_string()).collect::<Vec<_>>();
    assert_eq!(parts("0.0.0.0/0"), ["0.0.0.0/1", "128.0.0.0/1"]);
    assert_eq!(parts("::/0"), ["::/1", "8000::/1"]);
    assert_eq!(parts("10.1.2.3/16"), ["10.1.0.0/16"]);
}

fn entries() -> impl Strategy<Value = (SetType, EntryWithMark)> {
    let v4 = any::<u32>().prop_map(|bits| std::net::IpAddr::V4(bits.into()));
    let v6 = any::<u128>().prop_map(|bits| std::net::IpAddr::V6(bits.into()));
    let address = prop_oneof![v4, v6];
    let fields = (address.clone(), any::<u8>().prop_map(Protocol), any::<u16>(), address, 1..=32u8);
    let mark = proptest::option::of((any::<u32>(), any::<u32>()).prop_map(|(value, mask)| Mark { value, mask }));
    (0..6usize, fields, mark).prop_map(|(which, (address, protocol, port, second, length), mark)| {
        let net = ipnet::IpNet::new(second, length).unwrap();
        let entry = match SetType::ALL[which] {
            SetType::HashIp => Entry::Ip(address),
            SetType::HashIpPort => Entry::IpPort { address, protocol, port },
            SetType::HashIpPortIp => Entry::IpPortIp { address, protocol, port, second },
            SetType::HashIpPortNet => Entry::IpPortNet { address, protocol, port, net },
            SetType::HashNet => Entry::Net(net),
            SetType::HashNetPort => Entry::NetPort { net, protocol, port },
            SetType::BitmapPort => Entry::Port(port),
        };
        (SetType::ALL[which], EntryWithMark { entry, mark })
    })
}

/// An add message's data, wrapped as the kernel wraps it in a list (`IPSET_ATTR_ADT`).
fn listed(entry: EntryWithMark) -> Vec<u8> {
    let message = codec::encode(7, &add("t1", entry));
    let data = &message[16 + 20..];
    let mut payload = vec![2, 0, 0, 0];
    payload.extend_from_slice(&u16::try_from(data.len() + 4).unwrap().to_ne_bytes());
    payload.extend_from_slice(&0x8008u16.to_ne_bytes());
    payload.extend_from_slice(data);
    payload
}

proptest! {
    #[test]
    fn entries_survive_the_wire((set_type, entry) in entries()) {
        let mut found = Vec::new();
        codec::decode_entries(&listed(entry), set_type, |entry| found.push(entry)).unwrap();
        prop_assert_eq!(found, [entry]);
    }

    #[test]
    fn decoders_never_panic(
        which in 0..6usize,
        mut payload in proptest::collection::vec(any::<u8>(), 0..300),
        (_, entry) in entries(),
        flips in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..8),
    ) {
        let decode = |payload: &[u8]| {
            let _ = codec::decode_header(payload);
            let _ = codec::decode_protocol(payload);
            let _ = codec::decode_entries(payload, SetType::ALL[which], |_| {});
        };
        decode(&payload);
        payload = listed(entry);
        for (at, bits) in flips {
            let place = at.index(payload.len());
            payload[place] ^= bits;
        }
        decode(&payload);
    }
}
