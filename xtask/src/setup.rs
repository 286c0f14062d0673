//! Debian packages that the commands need: finds what is missing, says why it is needed, installs it with apt-get.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

use crate::process::{self, CommandExt as _};

/// A program from a Debian package.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Need {
    program: &'static str,
    package: &'static str,
    why: &'static str,
}

const fn need(program: &'static str, package: &'static str, why: &'static str) -> Need {
    Need { program, package, why }
}

/// To boot a virtual machine.
pub const VM: &[Need] = &[
    need("qemu-system-x86_64", "qemu-system-x86", "emulates the virtual machine"),
    need("busybox", "busybox-static", "is all that the machine's initramfs contains"),
    need("xz", "xz-utils", "unpacks kernel modules"),
    need("depmod", "kmod", "indexes kernel modules and loads them in the machine"),
];

/// To run the tests and the demo, here and in the virtual machine.
pub const KERNEL_TOOLS: &[Need] = &[
    need("iptables-restore", "iptables", "writes rules; the product needs it too"),
    need("ip", "iproute2", "lets tests build networks and compare routes"),
    need("ipset", "ipset", "shows tests the sets as others see them"),
    need("ipvsadm", "ipvsadm", "shows tests the virtual servers as others see them"),
    need("nft", "nftables", "builds and shows tests the tables of kube-proxy's nftables mode"),
    need("conntrack", "conntrack", "shows tests the tracked connections as others see them"),
    need("tcpdump", "tcpdump", "shows the packets of a scenario that failed"),
    need("modprobe", "kmod", "loads kernel modules"),
];

/// To count instructions.
pub const COUNTING: &[Need] = &[need("valgrind", "valgrind", "counts the instructions of a change")];

impl Need {
    fn is_met(self) -> bool {
        let Some(path) = process::find_program(self.program) else { return false };
        // Debian's other busybox package has the same program name and is linked dynamically.
        self.program != "busybox" || is_static(&path)
    }
}

/// Whether an ELF file names no dynamic loader near its start, where linkers put it.
fn is_static(path: &Path) -> bool {
    let Ok(content) = fs::read(path) else { return false };
    let head = content.get(..4096).unwrap_or(&content);
    !head.windows(6).any(|window| window == b"/ld-li" || window == b"/ld-mu")
}

/// Installs what is missing. Without Debian's apt-get it names the packages and fails.
pub fn install(needs: &[&[Need]]) -> Result<()> {
    let missing = missing(needs);
    if missing.is_empty() {
        return Ok(());
    }
    eprintln!("xtask: installing what is missing:");
    for need in &missing {
        eprintln!("  {}: {} {}", need.package, need.program, need.why);
    }
    let packages = packages(&missing);
    if process::find_program("apt-get").is_none() {
        bail!("no apt-get here; install what Debian calls: {}", packages.join(" "));
    }
    apt_lists()?;
    let install = [&["install", "-y", "-q", "--no-install-recommends"], packages.as_slice()].concat();
    // Lists that are some days old name versions which the archive no longer has.
    apt_get(&install).or_else(|_| apt_update().and_then(|()| apt_get(&install)))?;
    let still: Vec<_> = missing.iter().filter(|need| !need.is_met()).map(|need| need.program).collect();
    ensure!(still.is_empty(), "installed {}, but there is still no {}", packages.join(" "), still.join(" "));
    Ok(())
}

fn missing(needs: &[&[Need]]) -> Vec<Need> {
    needs.iter().flat_map(|list| list.iter()).copied().filter(|need| !need.is_met()).collect()
}

fn packages(needs: &[Need]) -> Vec<&'static str> {
    let mut packages: Vec<_> = needs.iter().map(|need| need.package).collect();
    packages.sort_unstable();
    packages.dedup();
    packages
}

/// Fetches apt's package lists when there are none, as on a fresh container.
pub fn apt_lists() -> Result<()> {
    let folder = Path::new("/var/lib/apt/lists");
    let present = fs::read_dir(folder).is_ok_and(|entries| {
        entries.filter_map(Result::ok).any(|entry| entry.file_name().to_string_lossy().contains("_Packages"))
    });
    if present { Ok(()) } else { apt_update() }
}

/// Fetches apt's package lists.
pub fn apt_update() -> Result<()> {
    apt_get(&["update", "-q"])
}

/// Runs apt-get as root: directly or by sudo. It must never wait for an answer.
fn apt_get(arguments: &[&str]) -> Result<()> {
    let mut command = if nix::unistd::geteuid().is_root() {
        Command::new("apt-get")
    } else {
        let sudo =
            process::find_program("sudo").with_context(|| format!("run as root: apt-get {}", arguments.join(" ")))?;
        let mut command = Command::new(sudo);
        command.args(["-n", "DEBIAN_FRONTEND=noninteractive", "apt-get"]);
        command
    };
    command.env("DEBIAN_FRONTEND", "noninteractive").args(arguments).run_quiet()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_package_is_installed_once_for_all_its_programs() {
        let needs = [need("modprobe", "kmod", ""), need("ip", "iproute2", ""), need("depmod", "kmod", "")];
        assert_eq!(packages(&needs), ["iproute2", "kmod"]);
    }

    #[test]
    fn a_program_that_is_there_is_not_missing() {
        let needs = [need("sh", "dash", ""), need("no-such-program-here", "nothing", "")];
        assert_eq!(missing(&[&needs]), [needs[1]]);
    }
}
