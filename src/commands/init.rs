//! `--init-only`: what needs more rights than serving does, and then the end. Afterwards `run` finds it done.

use super::{duties, require_root};
use crate::config::{Config, ProxyMode};
use crate::exit::Exit;
use crate::kernel::sysctl::{KernelVersion, Ledger, Needs, settings};
use anyhow::Context;
use tracing::{info, warn};

/// Sets the node's sysctls.
///
/// # Errors
/// Without root, and where /proc cannot be read.
pub fn run(config: &Config) -> anyhow::Result<Exit> {
    require_root("init-only")?;
    duties::perform(config);
    let ledger = Ledger::open().context("the network namespace")?;
    let kernel = KernelVersion::running().context("the kernel's version")?;
    let needs = Needs {
        ipvs: config.mode != ProxyMode::Iptables,
        ipv6: std::path::Path::new("/proc/sys/net/ipv6").exists(),
        strict_arp: config.ipvs.strict_arp,
        localhost_node_ports: config.mode != ProxyMode::Ipvs && config.settings.localhost_node_ports,
    };
    let mut failed = false;
    for setting in settings(&needs, kernel) {
        match ledger.ensure(&setting) {
            Ok(()) => {}
            Err(error) if error.is_missing() => info!("{error}; it comes with its module"),
            Err(error) => {
                warn!("{error}");
                failed = true;
            }
        }
    }
    Ok(if failed { Exit::Failure } else { Exit::Success })
}
