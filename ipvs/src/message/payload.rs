//! Reading and writing the values of attributes. Nothing here can panic, whatever the lengths.

use netlink_packet_core::DecodeError;

/// Copies `value` to the beginning of `buffer`; [`Nla::value_len`](netlink_packet_core::Nla::value_len) made it fit.
pub(super) fn write(buffer: &mut [u8], value: &[u8]) {
    for (target, byte) in buffer.iter_mut().zip(value) {
        *target = *byte;
    }
}

/// Writes `text` and a closing zero.
pub(super) fn write_string(buffer: &mut [u8], text: &str) {
    write(buffer, text.as_bytes());
    if let Some(end) = buffer.get_mut(text.len()) {
        *end = 0;
    }
}

/// Exactly `N` bytes.
pub(super) fn read<const N: usize>(value: &[u8]) -> Result<[u8; N], DecodeError> {
    value.try_into().map_err(|_| DecodeError::from(format!("{} bytes where {N} are expected", value.len())))
}

pub(super) fn read_u8(value: &[u8]) -> Result<u8, DecodeError> {
    read(value).map(u8::from_ne_bytes)
}

pub(super) fn read_u16(value: &[u8]) -> Result<u16, DecodeError> {
    read(value).map(u16::from_ne_bytes)
}

/// A port, which the kernel keeps in network byte order.
pub(super) fn read_u16_be(value: &[u8]) -> Result<u16, DecodeError> {
    read(value).map(u16::from_be_bytes)
}

pub(super) fn read_u32(value: &[u8]) -> Result<u32, DecodeError> {
    read(value).map(u32::from_ne_bytes)
}

/// Text up to the first zero.
pub(super) fn read_string(value: &[u8]) -> Result<String, DecodeError> {
    let text = value.split(|byte| *byte == 0).next().unwrap_or_default();
    String::from_utf8(text.to_vec()).map_err(DecodeError::from)
}
