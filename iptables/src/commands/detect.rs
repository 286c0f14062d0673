//! Which programs are there, and which variant does the node use?

use std::env;
use std::path::{Path, PathBuf};
use std::time::Duration;

use thiserror::Error;

use super::error::complains;
use super::{Commands, RunFailure, Version, process};
use crate::{Family, Variant};

/// Chains that kubelet makes in the mangle table so that others see which variant it uses.
const KUBELET_CHAINS: [&str; 2] = [":KUBE-IPTABLES-HINT ", ":KUBE-KUBELET-CANARY "];

/// Directories where root's programs are even if `PATH` does not say so.
const SYSTEM_DIRECTORIES: [&str; 4] = ["/usr/sbin", "/sbin", "/usr/local/sbin", "/usr/bin"];

/// Why no programs can be used.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum DetectError {
    /// Not installed.
    #[error("no {program}-restore and {program}-save of the {variant} variant in {searched}")]
    Missing {
        /// `iptables` or `ip6tables`.
        program: &'static str,
        /// `legacy`, `nft`, or both.
        variant: String,
        /// The directories.
        searched: String,
    },
    /// Installed, and none works.
    #[error("{program} is installed but does not work here: {problems}")]
    Unusable {
        /// `iptables` or `ip6tables`.
        program: &'static str,
        /// What each variant said.
        problems: String,
    },
}

/// What one variant's iptables-save prints.
#[derive(Debug, Default)]
struct Found {
    kubelet: bool,
    rules: usize,
    problem: Option<String>,
}

pub(super) fn detect(family: Family) -> Result<Commands, DetectError> {
    let nft = with_variant(family, Variant::Nft).ok();
    let legacy = with_variant(family, Variant::Legacy).ok();
    let (nft, legacy) = match (nft, legacy) {
        (None, None) => return Err(missing(family, "legacy or nft")),
        (Some(only), None) | (None, Some(only)) => return only_one(only),
        (Some(nft), Some(legacy)) => (nft, legacy),
    };
    // nft first: it can be asked for the mangle table alone.
    if look_in_both(&nft, &["-t", "mangle"]).kubelet {
        return Ok(nft);
    }
    // Without -t: that reads /proc/net/ip_tables_names and does not create tables.
    let in_legacy = look_in_both(&legacy, &[]);
    if in_legacy.kubelet {
        return Ok(legacy);
    }
    let in_nft = look_in_both(&nft, &[]);
    match (&in_nft.problem, &in_legacy.problem) {
        (Some(nft), Some(legacy)) => {
            let problems = format!("nft: {nft}; legacy: {legacy}");
            return Err(DetectError::Unusable { program: family.program(), problems });
        }
        (Some(_), None) => return Ok(legacy),
        (None, Some(_)) => return Ok(nft),
        (None, None) => {}
    }
    Ok(match in_nft.rules.cmp(&in_legacy.rules) {
        std::cmp::Ordering::Greater => nft,
        std::cmp::Ordering::Less => legacy,
        std::cmp::Ordering::Equal if plain_variant(family) == Some(Variant::Legacy) => legacy,
        std::cmp::Ordering::Equal => nft,
    })
}

fn only_one(commands: Commands) -> Result<Commands, DetectError> {
    match look(&commands, &[]).problem {
        None => Ok(commands),
        Some(problem) => Err(DetectError::Unusable {
            program: commands.family.program(),
            problems: format!("{}: {problem}", commands.variant),
        }),
    }
}

/// Looks at the other family too, as upstream does: a node with one family of kubelet's chains uses one variant for
/// both. Whether the variant works is said by the wanted family alone.
fn look_in_both(commands: &Commands, arguments: &[&str]) -> Found {
    let mut found = look(commands, arguments);
    let other = match commands.family {
        Family::V4 => Family::V6,
        Family::V6 => Family::V4,
    };
    if let Ok(other) = with_variant(other, commands.variant) {
        let there = look(&other, arguments);
        found.kubelet |= there.kubelet;
        found.rules += there.rules;
    }
    found
}

fn look(commands: &Commands, arguments: &[&str]) -> Found {
    let arguments: Vec<String> = arguments.iter().map(|&argument| argument.to_owned()).collect();
    let mut seen = Seen::default();
    let (status, stderr) = match commands.read(&commands.save_path, &arguments, &mut |piece| seen.take(piece)) {
        Ok(ended) => ended,
        Err(error) => return Found { problem: Some(RunFailure::from(error).to_string()), ..Found::default() },
    };
    // iptables-nft-save may exit with 0 although it could not read anything.
    let failed = !status.success() || (!seen.anything && complains(&stderr));
    let problem = failed.then(|| stderr.trim().to_owned());
    seen.end_line();
    Found { kubelet: seen.kubelet, rules: seen.rules, problem }
}

/// What is told from what iptables-save prints, while it prints: of a node with 10,000 services that is 20 MB.
#[derive(Debug, Default)]
struct Seen {
    /// How the line begins.
    line: Vec<u8>,
    kubelet: bool,
    rules: usize,
    anything: bool,
}

impl Seen {
    /// Longer than anything that is looked for.
    const BEGINNING: usize = 32;

    fn take(&mut self, piece: &[u8]) {
        let mut lines = piece.split(|byte| *byte == b'\n');
        if let Some(rest) = lines.next() {
            self.append(rest);
        }
        for line in lines {
            self.end_line();
            self.append(line);
        }
    }

    fn append(&mut self, text: &[u8]) {
        self.anything |= !text.iter().all(u8::is_ascii_whitespace);
        let room = Self::BEGINNING.saturating_sub(self.line.len());
        self.line.extend_from_slice(text.get(..room).unwrap_or(text));
    }

    fn end_line(&mut self) {
        self.rules += usize::from(self.line.starts_with(b"-A"));
        self.kubelet |= KUBELET_CHAINS.iter().any(|chain| self.line.starts_with(chain.as_bytes()));
        self.line.clear();
    }
}

pub(super) fn with_variant(family: Family, variant: Variant) -> Result<Commands, DetectError> {
    let program = family.program();
    let named = |what: &str| find(&format!("{program}-{variant}-{what}"));
    let plain = |what: &str| find(&format!("{program}-{what}"));
    let (restore, save) = match (named("restore"), named("save")) {
        (Some(restore), Some(save)) => (restore, save),
        // A distribution with one variant only has just the plain names.
        _ => match (plain("restore"), plain("save")) {
            (Some(restore), Some(save)) if version(&restore).is_some_and(|(is, _)| is == variant) => (restore, save),
            _ => return Err(missing(family, variant.as_str())),
        },
    };
    let version = version(&restore).and_then(|(_, version)| version);
    Ok(Commands { version, ..Commands::new(family, variant, restore, save) })
}

fn missing(family: Family, variant: &str) -> DetectError {
    let searched = directories().iter().map(|at| at.display().to_string()).collect::<Vec<_>>().join(":");
    DetectError::Missing { program: family.program(), variant: variant.to_owned(), searched }
}

fn plain_variant(family: Family) -> Option<Variant> {
    version(&find(&format!("{}-restore", family.program()))?).map(|(variant, _)| variant)
}

/// `iptables-restore v1.8.9 (nf_tables)`; before 1.8 there was only legacy, and nothing in brackets.
fn version(program: &Path) -> Option<(Variant, Option<Version>)> {
    let output = process::run(program, &["-V".to_owned()], &mut std::iter::empty(), Duration::from_secs(10)).ok()?;
    parse_version(&String::from_utf8_lossy(&output.stdout))
}

fn parse_version(text: &str) -> Option<(Variant, Option<Version>)> {
    let number = text.split_ascii_whitespace().find_map(|word| word.strip_prefix('v'))?;
    let mut parts = number.split('.').map(|part| part.parse::<u32>().ok());
    let version = match (parts.next().flatten(), parts.next().flatten(), parts.next().flatten()) {
        (Some(major), Some(minor), patch) => Some((major, minor, patch.unwrap_or(0))),
        _ => None,
    };
    let variant = if text.contains("nf_tables") { Variant::Nft } else { Variant::Legacy };
    Some((variant, version))
}

fn find(program: &str) -> Option<PathBuf> {
    directories().into_iter().map(|directory| directory.join(program)).find(|path| path.is_file())
}

fn directories() -> Vec<PathBuf> {
    let mut directories: Vec<PathBuf> =
        env::var_os("PATH").map(|path| env::split_paths(&path).collect()).unwrap_or_default();
    directories.retain(|directory| directory.is_absolute());
    for system in SYSTEM_DIRECTORIES {
        if !directories.iter().any(|directory| directory == Path::new(system)) {
            directories.push(system.into());
        }
    }
    directories
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_printed_is_told_however_it_is_cut() {
        let text = "# x\n*mangle\n:KUBE-IPTABLES-HINT - [0:0]\n-A PREROUTING -j ACCEPT\n-A A -m comment --comment \"-A\" -j B\nCOMMIT";
        for size in [1, 2, 7, 1000] {
            let mut seen = Seen::default();
            text.as_bytes().chunks(size).for_each(|piece| seen.take(piece));
            seen.end_line();
            assert_eq!((seen.kubelet, seen.rules, seen.anything), (true, 2, true), "in pieces of {size}");
        }
        let mut nothing = Seen::default();
        nothing.take(b" \n\n");
        nothing.end_line();
        assert_eq!((nothing.kubelet, nothing.rules, nothing.anything), (false, 0, false));
    }

    #[test]
    fn versions() {
        assert_eq!(parse_version("iptables-restore v1.8.9 (nf_tables)\n"), Some((Variant::Nft, Some((1, 8, 9)))));
        assert_eq!(parse_version("iptables v1.8.9 (legacy)"), Some((Variant::Legacy, Some((1, 8, 9)))));
        assert_eq!(parse_version("iptables-restore v1.4.21"), Some((Variant::Legacy, Some((1, 4, 21)))));
        assert_eq!(parse_version("ip6tables-restore v1.9"), Some((Variant::Legacy, Some((1, 9, 0)))));
        assert_eq!(parse_version("sh: not found"), None);
    }
}
