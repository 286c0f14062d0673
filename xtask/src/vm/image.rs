//! Takes the kernel proper out of a compressed image, so that the emulated processor needn't unpack it at every boot:
//! that is 2 of 7 seconds where it is compressed with xz. qemu starts such a kernel at its PVH entry point.
//!
//! Layout: Documentation/arch/x86/boot.rst in the kernel's tree, fields setup_sects, payload_offset, payload_length.

/// First bytes of an xz stream.
const XZ_MAGIC: &[u8] = b"\xfd7zXZ\0";

/// The compressed kernel within an image, where it is compressed with xz.
pub fn xz_payload(image: &[u8]) -> Option<&[u8]> {
    if image.get(0x202..0x206)? != b"HdrS" {
        return None;
    }
    let setup_sectors = match image.get(0x1f1)? {
        0 => 4,
        count => usize::from(*count),
    };
    let start = (setup_sectors + 1) * 512 + number(image, 0x248)?;
    // The length of the unpacked kernel follows the stream, in four bytes that belong to the payload.
    let length = number(image, 0x24c)?.checked_sub(4)?;
    let payload = image.get(start..start.checked_add(length)?)?;
    payload.starts_with(XZ_MAGIC).then_some(payload)
}

fn number(image: &[u8], offset: usize) -> Option<usize> {
    let bytes = image.get(offset..offset + 4)?.try_into().ok()?;
    usize::try_from(u32::from_le_bytes(bytes)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(payload: &[u8]) -> Vec<u8> {
        let mut image = vec![0; 3 * 512 + 16];
        image[0x1f1] = 2;
        image[0x202..0x206].copy_from_slice(b"HdrS");
        image[0x248..0x24c].copy_from_slice(&16_u32.to_le_bytes());
        image[0x24c..0x250].copy_from_slice(&u32::try_from(payload.len() + 4).unwrap().to_le_bytes());
        image.extend_from_slice(payload);
        image.extend_from_slice(b"size and more");
        image
    }

    #[test]
    fn the_payload_is_found_by_the_boot_header() {
        assert_eq!(xz_payload(&image(b"\xfd7zXZ\0stream")), Some(&b"\xfd7zXZ\0stream"[..]));
    }

    #[test]
    fn another_compression_and_no_image_at_all_are_left_alone() {
        assert_eq!(xz_payload(&image(b"\x28\xb5\x2f\xfdzstd")), None);
        assert_eq!(xz_payload(b"short"), None);
    }
}
