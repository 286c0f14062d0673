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
    let output = match commands.run(&commands.save_path, &arguments, "") {
        Ok(output) => output,
        Err(error) => return Found { problem: Some(RunFailure::from(error).to_string()), ..Found::default() },
    };
    let text = String::from_utf8_lossy(&output.stdout);
    let stderr = String::from_utf8_lossy(&output.stderr);
    // iptables-nft-save may exit with 0 although it could not read anything.
    let failed = !output.status.success() || (text.trim().is_empty() && complains(&stderr));
    let problem = failed.then(|| stderr.trim().to_owned());
    Found {
        kubelet: text.lines().any(|line| KUBELET_CHAINS.iter().any(|chain| line.starts_with(chain))),
        rules: text.lines().filter(|line| line.starts_with("-A")).count(),
        problem,
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
    let output = process::run(program, &["-V".to_owned()], b"", Duration::from_secs(10)).ok()?;
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
    fn versions() {
        assert_eq!(parse_version("iptables-restore v1.8.9 (nf_tables)\n"), Some((Variant::Nft, Some((1, 8, 9)))));
        assert_eq!(parse_version("iptables v1.8.9 (legacy)"), Some((Variant::Legacy, Some((1, 8, 9)))));
        assert_eq!(parse_version("iptables-restore v1.4.21"), Some((Variant::Legacy, Some((1, 4, 21)))));
        assert_eq!(parse_version("ip6tables-restore v1.9"), Some((Variant::Legacy, Some((1, 9, 0)))));
        assert_eq!(parse_version("sh: not found"), None);
    }
}
