//! The border between the reconciler and the ways of programming the kernel.
//!
//! The reconciler hands over complete wishes ([`Desired`]); a [`Backend`] observes, plans and applies; the [`Driver`]
//! keeps the belief about the kernel between the calls. There is no teardown: leaving is wishing for nothing.

mod driver;
#[cfg(test)]
mod fake;
mod flows;
pub mod iptables;
pub mod ipvs;
pub mod kube_proxy;
mod report;
pub mod rules;
mod seen;
mod settings;
mod traffic;

pub use driver::Driver;
pub use flows::{Conntrack, FlowError};
pub use report::{Aftermath, Effort, Failure, Report, RuleCount, RuleCounts, Times};
pub use traffic::{Counters, PacketSource, Place, RulePackets, Sample, TrafficSource};

use crate::desired::{Desired, Extent, NodeRules, ServicePort, ServicePortKey, Touched, UdpFlows};
use crate::model::{IpFamily, Protocol};
use ipnet::IpNet;
use std::fmt::Display;
use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

/// One way of programming the kernel. Blocking; lives on the reconciler's thread. A thread of its own, which
/// waits for the kernel meanwhile, ends before anything else is asked ([`Backend::settle`]).
pub trait Backend {
    /// This backend's own kernel objects in one family.
    type Observed: Default;
    /// One step: what `plan` prints and what a failure quotes.
    type Op: Display;

    /// The mode's name, for people.
    fn name(&self) -> &'static str;

    /// Reads what the kernel has. Never writes.
    ///
    /// # Errors
    /// When something could not be read; then nothing is known.
    fn observe(&mut self, family: IpFamily) -> Result<Self::Observed, ObserveError>;

    /// Brings the belief about these service ports up to date where the kernel changes by itself (connections of
    /// draining endpoints). A cheap, partial `observe`; doing nothing is right for a mode in which nothing drains.
    ///
    /// # Errors
    /// As [`Backend::observe`].
    fn refresh(
        &mut self,
        _family: IpFamily,
        _desired: &Desired,
        _touched: Touched<'_>,
        _observed: &mut Self::Observed,
    ) -> Result<(), ObserveError> {
        Ok(())
    }

    /// The steps from what is observed to what is desired. Pure: no I/O, no clock. Make before break. Empty = in sync.
    fn plan(
        &self,
        family: IpFamily,
        desired: &Desired,
        observed: &Self::Observed,
        touched: Touched<'_>,
        now: Instant,
    ) -> Vec<Self::Op>;

    /// The next steps of a plan that would be large, which may be carried out before the rest of it is known; `None` when
    /// [`Backend::plan`] is to tell the rest, which sees what these have done. Asked only where everything may differ.
    /// It keeps a cold start from holding every rule of the node in memory at once, and lets what matters most come
    /// first. Pure.
    fn plan_ahead(
        &self,
        _family: IpFamily,
        _desired: &Desired,
        _observed: &Self::Observed,
        _now: Instant,
        _ahead: &mut Ahead,
    ) -> Option<Vec<Self::Op>> {
        None
    }

    /// Carries out the steps. `observed` moves forward only for what the kernel acknowledged; a step that fails never
    /// stops those that don't need it.
    fn apply(&mut self, family: IpFamily, plan: Vec<Self::Op>, observed: &mut Self::Observed) -> Vec<Failure>;

    /// Carries out a piece of [`Backend::plan_ahead`]. Some of it may be under way still when this returns: `observed` has
    /// it as done already, and [`Backend::settle`] takes back what failed. Failures may be of earlier pieces.
    fn apply_ahead(&mut self, family: IpFamily, piece: Vec<Self::Op>, observed: &mut Self::Observed) -> Vec<Failure> {
        self.apply(family, piece, observed)
    }

    /// Waits for pieces that are under way. After it, and before anything but another piece is asked for, `observed` is
    /// what the kernel acknowledged.
    fn settle(&mut self, _observed: &mut Self::Observed) -> Vec<Failure> {
        Vec::new()
    }

    /// What is no step and follows each sync: a mode that hands over sees to it that nothing it still remembers meets what the
    /// other mode has begun since. Does not wait for it; what goes wrong is told and tried again next time.
    fn tend(&mut self, _family: IpFamily, _desired: &Desired, _observed: &Self::Observed) {}

    /// Compares the belief with the kernel, until that instant; goes on where it stopped with the next call, and what is
    /// written meanwhile is taken into account. A mode for which reading is cheap leaves it to [`Backend::observe`] by
    /// doubting at once.
    ///
    /// # Errors
    /// As [`Backend::observe`]; the comparison begins anew with the next call.
    fn audit(&mut self, _family: IpFamily, _believed: &Self::Observed, _until: Instant) -> Result<Audit, ObserveError> {
        Ok(Audit::Doubtful)
    }

    /// Gives up a comparison that is under way.
    fn end_audit(&mut self, _family: IpFamily) {}

    /// Whether an object that somebody deleted is one that we believe to be there (and did not delete ourselves).
    fn believes(&self, _observed: &Self::Observed, _lost: &Lost) -> bool {
        false
    }

    /// How many endpoints still have connections of which the end is awaited.
    fn draining(&self, _observed: &Self::Observed) -> usize {
        0
    }

    /// Whether any endpoint of a service port is among them, as believed.
    fn still_drains(&self, _rules: &NodeRules, _port: &ServicePort, _observed: &Self::Observed) -> bool {
        false
    }

    /// How many connections those endpoints have together; 0 where only connection tracking knows.
    fn connections(&self, _observed: &Self::Observed) -> u64 {
        0
    }

    /// The clients that stay with an endpoint, as far as this mode can tell.
    ///
    /// # Errors
    /// As [`Backend::observe`].
    fn affinities(&mut self, _family: IpFamily) -> Result<Vec<Affinity>, ObserveError> {
        Ok(Vec::new())
    }

    /// The next [`Backend::apply`] brings this mode up beside another one that serves. These clients come from there, and are
    /// to stay with their endpoints as far as this mode can take that over.
    fn expect(&mut self, _family: IpFamily, _desired: &Desired, _affinities: &[Affinity]) {}

    /// This mode serves: nothing of what [`Backend::expect`] announced is still to come.
    fn serve(&mut self, _family: IpFamily) {}

    /// The kernel now is as desired: what is remembered of that makes the next change cheap.
    fn remember(&self, _desired: &Desired, _touched: Touched<'_>, _observed: &mut Self::Observed) {}

    /// How many rules of ours each table has, and how many of them were written since the last call.
    fn count_rules(&self, _observed: &mut Self::Observed) -> RuleCounts {
        RuleCounts::new()
    }

    /// How much the kernel was talked to since the last call, for benchmarks and logs.
    fn take_effort(&mut self) -> Effort {
        Effort::default()
    }
}

/// How far the comparison of the belief with the kernel is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Audit {
    /// There is more to compare.
    Unfinished,
    /// The kernel is as believed.
    Holds,
    /// The same, and it has not taken everything that is wanted: the next sync tries that again, and need not read.
    Owes,
    /// It is not, or nobody knows: the kernel has to be read by the next sync.
    Doubtful,
}

/// How far a plan was carried out piece by piece.
#[derive(Debug, Clone, Default)]
pub struct Ahead {
    /// Pieces so far.
    pub pieces: usize,
    /// The last service port that was looked at.
    pub last: Option<ServicePortKey>,
    /// How far what is desired is known; `None` if all of it is.
    pub extent: Option<Extent>,
    /// There are no further pieces.
    pub ended: bool,
    /// The pieces were everything: nothing was there before, so that nothing is left for the plan as a whole.
    pub covers: bool,
}

/// A client that stays with an endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Affinity {
    /// The transport protocol.
    pub protocol: Protocol,
    /// The client.
    pub client: IpAddr,
    /// The address and port that it asks for.
    pub frontend: SocketAddr,
    /// Who answers it.
    pub endpoint: SocketAddr,
}

/// A mode as the reconciler sees it. Object safe; two can be alive during a switch.
pub trait Dataplane: Send {
    /// The mode's name, for people.
    fn name(&self) -> &'static str;

    /// What a sync would do, in words, changing nothing.
    ///
    /// # Errors
    /// When the kernel's state could not be read.
    fn preview(&mut self, family: IpFamily, desired: &Desired, now: Instant) -> Result<Vec<String>, ObserveError>;

    /// Begins to bring the kernel to what is desired, as far as that is known, so that the first Services are written while
    /// the last are still decided on. The sync that follows goes on from there. Returns whether to call it again as more is
    /// known: not every mode, and not every state of the kernel, has a use for it.
    fn begin(&mut self, _family: IpFamily, _desired: &Desired, _extent: &Extent, _now: Instant) -> bool {
        false
    }

    /// Brings the kernel to what is desired, as far as it lets us.
    fn sync(&mut self, family: IpFamily, desired: &Desired, touched: Touched<'_>, now: Instant) -> Report;

    /// Whether any endpoint of a service port still has connections of which the end is awaited, as believed.
    fn still_drains(&self, _family: IpFamily, _desired: &Desired, _port: &ServicePort) -> bool {
        false
    }

    /// The kernel told that an object went; true if it should be there, and then the next call reads the kernel first.
    fn lost(&mut self, family: IpFamily, lost: &Lost) -> bool;

    /// The next call reads the kernel first.
    fn distrust(&mut self, family: IpFamily);

    /// Compares what is believed with the kernel, until that instant; goes on with the next call. Between the calls
    /// changes may be synced as ever.
    fn audit(&mut self, _family: IpFamily, _until: Instant) -> Audit {
        Audit::Doubtful
    }

    /// The clients that stay with an endpoint, as far as this mode can tell.
    ///
    /// # Errors
    /// When the kernel's state could not be read.
    fn affinities(&mut self, _family: IpFamily) -> Result<Vec<Affinity>, ObserveError> {
        Ok(Vec::new())
    }

    /// The next sync brings this mode up beside another one that serves; these clients come from there.
    fn expect(&mut self, _family: IpFamily, _desired: &Desired, _affinities: &[Affinity]) {}

    /// This mode serves, and the other one no more.
    fn serve(&mut self, _family: IpFamily) {}
}

/// The flows that the kernel remembers, whichever mode serves.
pub trait FlowTable: Send {
    /// Makes the kernel forget the flows of these frontends that do not go to one of their endpoints, and returns how
    /// many there were.
    ///
    /// # Errors
    /// When the table could not be read, or not every flow deleted. What was deleted stays so; trying again is safe.
    fn forget(&mut self, family: IpFamily, flows: &UdpFlows) -> Result<usize, FlowError>;

    /// Has connection tracking translate the flows to these frontends that it does not translate yet, those that IPVS
    /// carries: to the same endpoints. Returns how many there were. When IPVS forgets a connection, it deletes the entry of
    /// that address and port, whoever made it (`ip_vs_conn_drop_conntrack`): the next packet then is that of a new flow.
    ///
    /// # Errors
    /// When the table could not be read, or not every flow taken over. Trying again is safe.
    fn take_over(&mut self, family: IpFamily, flows: &UdpFlows) -> Result<usize, FlowError>;
}

/// A kernel object that went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lost {
    /// A route to our device.
    Route(IpNet),
    /// An address of our device.
    Address(IpNet),
    /// Our device itself went, or went down, which takes its routes along.
    Interface,
}

/// Something that could not be read from the kernel.
#[derive(Debug, thiserror::Error)]
#[error("could not read {what}: {source}")]
pub struct ObserveError {
    /// What was to be read.
    pub what: String,
    /// Why it could not be.
    #[source]
    pub source: Box<dyn std::error::Error + Send + Sync>,
}

impl ObserveError {
    /// An error that says what was to be read.
    pub fn new(what: impl Into<String>, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self { what: what.into(), source: source.into() }
    }
}
