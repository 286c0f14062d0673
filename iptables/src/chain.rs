//! A chain: a name and its rules.

use std::fmt::Write;

use sha2::{Digest, Sha256};

use crate::{ChainName, Rule};

/// A chain with its whole content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chain {
    /// Name of the chain.
    pub name: ChainName,
    /// Its rules in order.
    pub rules: Vec<Rule>,
}

impl Chain {
    /// A chain with the given rules.
    #[must_use]
    pub const fn new(name: ChainName, rules: Vec<Rule>) -> Self {
        Self { name, rules }
    }

    /// Digest of the normalised rules; see [`hash_rules`].
    #[must_use]
    pub fn hash(&self) -> u64 {
        hash_rules(&self.rules)
    }
}

/// Digest of rules in normal form. Equal for what was wanted and for what iptables-save gives back of it, in both
/// variants; the chain's name does not count. SHA-256 underneath, because comments carry names chosen by users.
#[must_use]
pub fn hash_rules(rules: &[Rule]) -> u64 {
    let mut digest = RulesDigest::default();
    rules.iter().for_each(|rule| digest.add(rule));
    digest.finish()
}

/// [`hash_rules`] of rules that come one by one.
#[derive(Debug, Clone, Default)]
pub struct RulesDigest {
    digest: Sha256,
    line: String,
}

impl RulesDigest {
    /// The next rule.
    pub fn add(&mut self, rule: &Rule) {
        self.line.clear();
        // Writing into a String does not fail.
        let _ = rule.write(&mut self.line).and_then(|()| self.line.write_char('\n'));
        self.digest.update(self.line.as_bytes());
    }

    /// The digest of all rules since the last one; begins anew.
    pub fn finish(&mut self) -> u64 {
        self.digest.finalize_reset().iter().take(8).fold(0, |hash, byte| hash << 8 | u64::from(*byte))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_is_that_of_the_normal_form() {
        let written = vec![Rule::parse("-p tcp --dport 80 -j MARK --or-mark 1"), Rule::new().accept()];
        let saved = vec![Rule::parse("-p tcp -m tcp --dport 80 -j MARK --set-xmark 0x1/0x1"), Rule::new().accept()];
        assert_eq!(hash_rules(&written), hash_rules(&saved));
        assert_ne!(hash_rules(&written), hash_rules(&written[..1]));
        assert_ne!(hash_rules(&[]), hash_rules(&[Rule::new()]));
    }
}
