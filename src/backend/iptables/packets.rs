//! What two rules of iptables mode have counted. Upstream counts the same with nfacct objects; a rule's own counter needs
//! no kernel module.

use super::names;
use super::node::count_localhost;
use crate::backend::{ObserveError, PacketSource, RulePackets};
use crate::model::{IpFamily, PerFamily};
use iptables::{ChainName, Commands, CtState, Rule, Table};

/// Reads the counters of rules.
#[derive(Debug)]
pub struct RuleCounters {
    /// Finds the programs, when they are first needed: it starts some.
    find: fn() -> PerFamily<Option<Commands>>,
    commands: Option<PerFamily<Option<Commands>>>,
}

impl PacketSource for RuleCounters {
    fn read(&mut self, family: IpFamily) -> Result<RulePackets, ObserveError> {
        let invalid = Rule::new().ctstate(&[CtState::Invalid]).drop();
        // Where nothing is dropped for being invalid, there is no such rule.
        let invalid_dropped = self.count(family, Table::Filter, names::forward(), &invalid)?.unwrap_or(0);
        let localhost_accepted = match family {
            IpFamily::V4 => self.count(family, Table::Nat, names::postrouting(), &count_localhost())?,
            IpFamily::V6 => None,
        };
        Ok(RulePackets { invalid_dropped, localhost_accepted })
    }
}

impl RuleCounters {
    /// Nothing is started before something is read.
    #[must_use]
    pub fn new(find: fn() -> PerFamily<Option<Commands>>) -> Self {
        Self { find, commands: None }
    }

    fn count(
        &mut self,
        family: IpFamily,
        table: Table,
        chain: ChainName,
        wanted: &Rule,
    ) -> Result<Option<u64>, ObserveError> {
        let what = || format!("{family} rules of {table}/{chain}");
        let commands = self.commands.get_or_insert_with(self.find).get(family).as_ref();
        let commands = commands.ok_or_else(|| ObserveError::new(what(), "no iptables was found"))?;
        let rules = commands.list_with_counters(table, chain).map_err(|error| ObserveError::new(what(), error))?;
        Ok(rules.into_iter().find(|(rule, _)| rule.is_same_as(wanted)).map(|(_, counters)| counters.packets))
    }
}
