//! The frame around messages of netfilter's subsystems (nfnetlink): header, family, attributes.

use super::attribute::Writer;

/// A request, answered.
pub const NLM_F_REQUEST: u16 = 0x01;
/// The whole table (`NLM_F_ROOT | NLM_F_MATCH`).
pub const NLM_F_DUMP: u16 = 0x300;
/// What is there already is an error.
pub const NLM_F_EXCL: u16 = 0x200;
/// Make it if it is not there.
pub const NLM_F_CREATE: u16 = 0x400;

/// `NFNL_SUBSYS_CTNETLINK`.
pub const SUBSYSTEM_CONNTRACK: u8 = 1;
/// `NFNL_SUBSYS_IPSET`.
pub const SUBSYSTEM_IPSET: u8 = 6;
/// `NFNL_SUBSYS_ACCT`.
pub const SUBSYSTEM_ACCOUNTING: u8 = 7;
/// `NFNL_SUBSYS_NFTABLES`.
pub const SUBSYSTEM_NFTABLES: u8 = 10;

/// `struct nfgenmsg`: family, version, resource id.
const FRAME: usize = 4;

/// Writes a message of a subsystem. The sequence number stays zero: the socket numbers what it sends.
pub fn message(subsystem: u8, command: u8, flags: u16, family: u8, fill: impl FnOnce(&mut Writer<'_>)) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(96);
    bytes.extend_from_slice(&[0; 4]);
    bytes.extend_from_slice(&(u16::from(subsystem) << 8 | u16::from(command)).to_ne_bytes());
    bytes.extend_from_slice(&(flags | NLM_F_REQUEST).to_ne_bytes());
    bytes.extend_from_slice(&[0; 8]);
    bytes.extend_from_slice(&[family, 0, 0, 0]);
    fill(&mut Writer::new(&mut bytes));
    let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
    for (place, byte) in bytes.iter_mut().zip(length.to_ne_bytes()) {
        *place = byte;
    }
    bytes
}

/// The family and the attributes of a message's payload (what follows the netlink header), `None` when it is too short
/// to have any.
pub fn payload(bytes: &[u8]) -> Option<(u8, &[u8])> {
    Some((*bytes.first()?, bytes.get(FRAME..)?))
}
