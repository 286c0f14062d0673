//! What it was measured on. A figure without this is worth nothing.

use iptables::{Commands, Family};
use serde::Serialize;

/// Kernel, processor, programs, build.
#[derive(Debug, Clone, Serialize)]
pub struct Machine {
    /// Release of the kernel, as `uname -r` has it.
    pub kernel: String,
    /// What the processor calls itself; an emulated one says so.
    pub processor: String,
    /// How many of them may be used.
    pub processors: usize,
    /// Variant and version of iptables.
    pub iptables: String,
    /// Version of this program.
    pub version: &'static str,
    /// How this program was built.
    pub build: &'static str,
}

impl Machine {
    /// Reads it from the kernel.
    pub fn read() -> Self {
        let kernel = nix::sys::utsname::uname().map(|name| name.release().to_string_lossy().into_owned());
        Self {
            kernel: kernel.unwrap_or_else(|error| format!("unknown ({error})")),
            processor: processor().unwrap_or_else(|| "unknown processor".to_owned()),
            processors: std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
            iptables: iptables(),
            version: env!("CARGO_PKG_VERSION"),
            build: if cfg!(debug_assertions) { "debug" } else { "release" },
        }
    }

    /// Says on standard error what is measured on, and what is wrong with it.
    pub fn introduce(&self) {
        if self.build == "debug" {
            eprintln!(
                "bench: this is a debug build; its own share of the time is several times that of a release build"
            );
        }
        eprintln!("bench: {}", self.describe());
    }

    /// In one line.
    pub fn describe(&self) -> String {
        let Self { kernel, processor, processors, iptables, .. } = self;
        let plural = if *processors == 1 { "" } else { "s" };
        format!("kernel {kernel}, {processors} processor{plural} ({processor}), iptables {iptables}")
    }
}

fn processor() -> Option<String> {
    let text = std::fs::read_to_string("/proc/cpuinfo").ok()?;
    let line = text.lines().find(|line| line.starts_with("model name"))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}

fn iptables() -> String {
    match Commands::detect(Family::V4) {
        Ok(Commands { variant, version: Some((major, minor, patch)), .. }) => {
            format!("{variant} {major}.{minor}.{patch}")
        }
        Ok(Commands { variant, version: None, .. }) => format!("{variant}, version unknown"),
        Err(_) => "not installed".to_owned(),
    }
}
