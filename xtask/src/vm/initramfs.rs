//! The initramfs of the virtual machine: a "newc" cpio archive, written without the cpio program.
//!
//! Format: Documentation/driver-api/early-userspace/buffer-format.rst in the kernel's tree.

use anyhow::{Context, Result};

const FILE: u32 = 0o100_000;
const DIRECTORY: u32 = 0o040_000;

/// A cpio archive in memory.
#[derive(Debug, Default)]
pub struct Archive {
    bytes: Vec<u8>,
    entries: u32,
}

impl Archive {
    /// Adds a directory. Parents come first: the kernel doesn't create them.
    pub fn directory(&mut self, path: &str) -> Result<()> {
        self.entry(path, DIRECTORY | 0o755, &[])
    }

    /// Adds a regular file with its permission bits.
    pub fn file(&mut self, path: &str, permissions: u32, content: &[u8]) -> Result<()> {
        self.entry(path, FILE | permissions, content)
    }

    /// Closes the archive.
    pub fn finish(mut self) -> Result<Vec<u8>> {
        self.entry("TRAILER!!!", 0, &[])?;
        Ok(self.bytes)
    }

    fn entry(&mut self, path: &str, mode: u32, content: &[u8]) -> Result<()> {
        let size = u32::try_from(content.len()).with_context(|| format!("{path} is too large for a cpio archive"))?;
        let name_size = u32::try_from(path.len() + 1).with_context(|| format!("the name {path} is too long"))?;
        self.entries += 1;
        let links = if mode & DIRECTORY == DIRECTORY { 2 } else { 1 };
        // inode, mode, uid, gid, links, mtime, size, device (2), special device (2), size of the name, checksum
        let fields = [self.entries, mode, 0, 0, links, 0, size, 0, 0, 0, 0, name_size, 0];
        self.bytes.extend_from_slice(b"070701");
        for field in fields {
            self.bytes.extend_from_slice(format!("{field:08X}").as_bytes());
        }
        self.bytes.extend_from_slice(path.as_bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend_from_slice(content);
        self.pad();
        Ok(())
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_is_a_header_of_110_bytes_then_padded_name_and_content() {
        let mut archive = Archive::default();
        archive.file("init", 0o755, b"abcde").unwrap();
        let bytes = &archive.bytes;
        assert_eq!(&bytes[..6], b"070701");
        assert_eq!(&bytes[14..22], b"000081ED", "mode 0100755");
        assert_eq!(&bytes[54..62], b"00000005", "size");
        assert_eq!(&bytes[94..102], b"00000005", "the name counts its closing zero");
        assert_eq!(&bytes[110..116], b"init\0\0", "padded to a multiple of four from the header's start");
        assert_eq!(&bytes[116..], b"abcde\0\0\0");
    }

    #[test]
    fn a_finished_archive_ends_with_the_trailer() {
        let mut archive = Archive::default();
        archive.directory("bin").unwrap();
        let bytes = archive.finish().unwrap();
        assert_eq!(bytes.len() % 4, 0);
        assert_eq!(bytes.windows(10).filter(|w| w == b"TRAILER!!!").count(), 1);
    }

    #[test]
    fn the_cpio_program_reads_it_back() {
        use std::io::Write;
        use std::process::{Command, Stdio};
        let mut archive = Archive::default();
        archive.directory("bin").unwrap();
        archive.file("bin/tool", 0o755, b"#!/bin/sh\n").unwrap();
        let bytes = archive.finish().unwrap();
        let Some((program, args)) = reader() else {
            eprintln!("SKIPPED: neither cpio nor busybox is installed");
            return;
        };
        let mut command = Command::new(program);
        command.args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().expect("runs");
        child.stdin.take().unwrap().write_all(&bytes).unwrap();
        let output = child.wait_with_output().unwrap();
        assert_eq!(String::from_utf8_lossy(&output.stdout), "bin\nbin/tool\n");
    }

    fn reader() -> Option<(&'static str, Vec<&'static str>)> {
        let runs = |program: &str| std::process::Command::new(program).arg("--help").output().is_ok();
        if runs("cpio") {
            Some(("cpio", vec!["--quiet", "-t"]))
        } else if runs("busybox") {
            Some(("busybox", vec!["cpio", "-t"]))
        } else {
            None
        }
    }
}
