//! For an instant new connections of some clients' ports are dropped: while IPVS is made to forget what these ports were used
//! for before. Their next SYN, a second later, counts.

use super::Op;
use super::names::{self, Set};
use super::observed::Observed;
use super::steps::Steps;
use crate::backend::rules::{Jump, plan_chain, plan_jumps};
use crate::kernel::ipset::{self, Entry, EntryWithMark, IpsetError, Protocol, SetCommand};
use crate::model::IpFamily;
use iptables::{Chain, ChainName, CtState, Rule, SetDir, Table};
use ipvs::connections::Connection;
use std::thread;
use std::time::Duration;
use tracing::{debug, warn};

/// Packets that were past the rule when an entry came are in connection tracking after that.
const UNDER_WAY: Duration = Duration::from_millis(1);

/// What that needs while IPVS mode hands over: the set, and the rule that looks into it.
pub fn plan(family: IpFamily, observed: &Observed, steps: &mut Steps) {
    if !observed.sets.contains_key(&Set::Forgotten) {
        steps.settings.push(Op::MakeSet(Set::Forgotten));
    }
    let (chain, jumps) = rules(family);
    let (missing, _) = plan_jumps(&observed.rules, &jumps);
    let chain = plan_chain(&observed.rules, Table::Mangle, chain);
    steps.rules.extend(chain.into_iter().chain(missing).map(Op::Rule));
}

/// In mangle, where packets still have the address that the client asked for.
fn rules(family: IpFamily) -> (Chain, [Jump; 2]) {
    let forgotten = Rule::new()
        .ctstate(&[CtState::New])
        .set(Set::Forgotten.name(family), &[SetDir::Src, SetDir::Src, SetDir::Dst])
        .comment("IPVS forgets this port: the next SYN counts");
    let jump = |from| Jump {
        table: Table::Mangle,
        from: ChainName::from_static(from),
        rule: Rule::new().comment("kubernetes service ports that come again").jump(names::pause()),
    };
    (Chain { name: names::pause(), rules: vec![forgotten.drop()] }, [jump("PREROUTING"), jump("OUTPUT")])
}

/// The set, for as long as it is looked and told.
#[derive(Debug)]
pub struct Pause {
    sets: ipset::Client,
    name: &'static str,
    held: Vec<Entry>,
}

impl Pause {
    /// Empties the set: an earlier run may have left something. `None` if there is none, as handing over has but begun, say;
    /// then nothing is held back.
    pub fn open(family: IpFamily) -> Option<Self> {
        let name = Set::Forgotten.name(family);
        let opened = ipset::Client::open().and_then(|mut sets| sets.flush(name).map(|()| sets));
        match opened {
            Ok(sets) => Some(Self { sets, name, held: Vec::new() }),
            Err(error) => {
                debug!("{error}: ports that come again are not held back");
                None
            }
        }
    }

    /// Holds back new connections from the ports of these.
    pub fn hold(&mut self, connections: &[Connection]) {
        self.held = connections.iter().filter_map(entry).collect();
        self.change(|set, entry| SetCommand::Add { set, entry: EntryWithMark { entry, mark: None } });
        thread::sleep(UNDER_WAY);
    }

    /// Lets them pass again.
    pub fn release(&mut self) {
        self.change(|set, entry| SetCommand::Delete { set, entry });
        self.held.clear();
    }

    fn change(&mut self, command: impl Fn(String, Entry) -> SetCommand) {
        let commands: Vec<_> = self.held.iter().map(|entry| command(self.name.to_owned(), *entry)).collect();
        let done = |error: &IpsetError| error.is_already_there() || error.is_already_gone();
        if let Some(error) = self.sets.batch(&commands).into_iter().filter_map(Result::err).find(|error| !done(error)) {
            warn!("{error}");
        }
    }
}

impl Drop for Pause {
    fn drop(&mut self) {
        self.release();
    }
}

fn entry(connection: &Connection) -> Option<Entry> {
    let Connection { protocol, client, server, .. } = connection;
    let protocol = Protocol(protocol.number().try_into().ok()?);
    Some(Entry::IpPortIp { address: client.ip(), protocol, port: client.port(), second: server.ip() })
}
