//! One file a subcommand, and the wiring that they share.

pub mod bench;
pub mod cleanup;
pub mod dataplane;
pub mod demo;
pub mod doctor;
pub mod duties;
pub mod explain;
pub mod init;
pub mod list;
pub mod names;
pub mod node;
mod observation;
pub mod output;
pub mod plan;
pub mod reload;
pub mod run;
mod source;
pub mod status;
pub mod switch;
pub mod top;

/// Refuses to go on without root, before anything is touched.
///
/// # Errors
/// When the process is not root.
pub fn require_root(command: &str) -> anyhow::Result<()> {
    if nix::unistd::geteuid().is_root() {
        return Ok(());
    }
    anyhow::bail!(
        "{command} needs root (CAP_NET_ADMIN, CAP_NET_RAW and CAP_SYS_ADMIN in the host's network namespace); nothing was changed. Run it with sudo"
    )
}
