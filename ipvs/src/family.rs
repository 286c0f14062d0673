//! Finding the number that the kernel gave to the generic netlink family `IPVS`.

use netlink_packet_core::{NetlinkMessage, ParseableParametrized};
use netlink_packet_generic::ctrl::nlas::GenlCtrlAttrs;
use netlink_packet_generic::ctrl::{GenlCtrl, GenlCtrlCmd};
use netlink_packet_generic::{GenlFamily, GenlHeader, GenlMessage};
use nix::errno::Errno;

use crate::message::IpvsMessage;
use crate::netlink::{Socket, SocketError};
use crate::{Attempt, Error};

/// The family's number. The question alone makes the kernel load `ip_vs` (`ctrl_getfamily` requests the module by its
/// alias `net-pf-16-proto-16-family-IPVS`).
pub(crate) fn resolve(socket: &mut Socket) -> Result<u16, Error> {
    let name = IpvsMessage::family_name();
    let question = GenlCtrl { cmd: GenlCtrlCmd::GetFamily, nlas: vec![GenlCtrlAttrs::FamilyName(name.to_owned())] };
    let mut whole = NetlinkMessage::from(GenlMessage::from_payload(question));
    whole.finalize();
    let mut bytes = vec![0; whole.buffer_len()];
    whole.serialize(&mut bytes);

    let mut number = None;
    let asked = socket.request::<SocketError>(bytes, &mut |_, payload| {
        number = number.or(family_number(payload)?);
        Ok(())
    });
    match (asked, number) {
        (Ok(()), Some(number)) => Ok(number),
        (Ok(()), None) => {
            Err(Error::Decode { attempt: Attempt::Connect, reason: "no number of the family".to_owned() })
        }
        (Err(error), _) if error.errno() == Some(Errno::ENOENT as i32) => Err(Error::FamilyMissing),
        (Err(error), _) => Err(Error::from_socket(Attempt::Connect, error)),
    }
}

fn family_number(payload: &[u8]) -> Result<Option<u16>, SocketError> {
    let malformed = |error: netlink_packet_core::DecodeError| SocketError::malformed(error.to_string());
    let header = GenlHeader::parse(payload).map_err(malformed)?;
    let answer = GenlCtrl::parse_with_param(payload.get(4..).unwrap_or(&[]), header).map_err(malformed)?;
    Ok(answer.nlas.into_iter().find_map(|attribute| match attribute {
        GenlCtrlAttrs::FamilyId(number) => Some(number),
        _ => None,
    }))
}
