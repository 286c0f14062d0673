//! Reading one chain with its counters: what a scrape of metrics can afford, as a table may have a hundred thousand rules.

use super::{Commands, RunFailure, SaveError, error};
use crate::save::Counters;
use crate::{ChainName, Rule, Table};
use std::path::PathBuf;

impl Commands {
    /// The rules of one chain, each with what it has counted. No other chain is read (legacy programs get the whole table
    /// from the kernel, but don't print it).
    ///
    /// # Errors
    /// When the program cannot be run, takes too long, or fails: also when there is no such chain.
    pub fn list_with_counters(&self, table: Table, chain: ChainName) -> Result<Vec<(Rule, Counters)>, SaveError> {
        let program = self.list_path();
        let mut arguments = vec!["-t".to_owned(), table.as_str().to_owned()];
        arguments.extend(self.lock_arguments());
        arguments.extend(["-v".to_owned(), "-S".to_owned(), chain.as_str().to_owned()]);
        let command = error::command_line(&program, &arguments);
        let fail = |failure: RunFailure| SaveError { command: command.clone(), failure: failure.into() };
        let output = self.run(&program, &arguments, &mut std::iter::empty()).map_err(|error| fail(error.into()))?;
        let text = String::from_utf8_lossy(&output.stdout);
        if !output.status.success() {
            let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
            return Err(fail(RunFailure::Refused { status: output.status, stderr }));
        }
        Ok(text.lines().filter_map(|line| counted_rule(line, chain.as_str())).collect())
    }

    /// `iptables-nft-save` → `iptables-nft`: all are one program under several names.
    fn list_path(&self) -> PathBuf {
        let name = self.save_path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        self.save_path.with_file_name(name.strip_suffix("-save").unwrap_or("iptables"))
    }
}

/// `-A CHAIN … -c PACKETS BYTES …`, without what is not the rule's own.
fn counted_rule(line: &str, chain: &str) -> Option<(Rule, Counters)> {
    let rest = line.strip_prefix("-A ")?.strip_prefix(chain)?;
    let (before, after) = rest.rsplit_once(" -c ")?;
    let mut words = after.splitn(3, ' ');
    let counters = Counters { packets: words.next()?.parse().ok()?, bytes: words.next()?.parse().ok()? };
    let text = format!("{before} {}", words.next().unwrap_or_default());
    Some((Rule::parse(text.trim()), counters))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{CtState, Family, Variant};

    #[test]
    fn rules_as_they_are_listed() {
        let (rule, counters) = counted_rule("-A X -m conntrack --ctstate INVALID -c 7 420 -j DROP", "X").unwrap();
        assert!(rule.is_same_as(&Rule::new().ctstate(&[CtState::Invalid]).drop()), "{rule}");
        assert_eq!((counters.packets, counters.bytes), (7, 420));
        let (rule, counters) = counted_rule("-A X -m mark --mark 0x1 -c 1 2", "X").unwrap();
        assert_eq!((rule.to_string().as_str(), counters.packets), ("-m mark --mark 0x1", 1));
        assert!(counted_rule("-N X", "X").is_none());
    }

    #[test]
    fn the_program_that_lists() {
        let commands = |save: &str| Commands::new(Family::V4, Variant::Nft, "/x".into(), save.into());
        assert_eq!(commands("/usr/sbin/iptables-nft-save").list_path(), PathBuf::from("/usr/sbin/iptables-nft"));
        assert_eq!(commands("/usr/sbin/ip6tables-save").list_path(), PathBuf::from("/usr/sbin/ip6tables"));
    }
}
