//! The numbers of `/metrics`, in the Prometheus text format 0.0.4.
//!
//! Two kinds: what is counted as it happens (`upstream`, `own::Counted`; told by the reconciler through `meter`), and what is
//! read when somebody asks (`own`, `process`, `traffic`, `rules`), which costs nothing otherwise.

mod family;
mod meter;
mod own;
mod process;
mod rules;
mod traffic;
mod upstream;

pub use own::Counted;
pub use rules::{Packets, RulePackets};
pub use traffic::{Limits, Traffic};
pub use upstream::Upstream;

use super::health::Health;
use crate::reconcile::Status;
use prometheus::proto::MetricFamily;
use prometheus::{Registry, TextEncoder};
use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::{Arc, Mutex};
use tokio::sync::watch;

/// A metric, as it is documented.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Described {
    /// Its name.
    pub name: String,
    /// `counter`, `gauge` or `histogram`.
    pub kind: &'static str,
    /// Its labels, sorted.
    pub labels: Vec<String>,
    /// Its HELP text.
    pub help: String,
}

/// Numbers that are read when somebody asks. Reading may block.
pub trait OnDemand: Send + Sync + Debug {
    /// Hands over the numbers as they are now, a metric at a time.
    fn each_family(&self, each: &mut dyn FnMut(MetricFamily));
}

/// Everything that is counted. One for the life of the process.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    /// kube-proxy's.
    pub upstream: Upstream,
    /// Our own that are counted as they happen.
    pub counted: Counted,
    sources: Mutex<Vec<Arc<dyn OnDemand>>>,
}

impl Metrics {
    /// All metrics, none of which has a value yet.
    ///
    /// # Errors
    /// Never, unless two of them have one name.
    pub fn new() -> Result<Arc<Self>, prometheus::Error> {
        let registry = Registry::new();
        let upstream = Upstream::register(&registry)?;
        let counted = Counted::register(&registry)?;
        let sources: Vec<Arc<dyn OnDemand>> = vec![Arc::new(process::Process)];
        Ok(Arc::new(Self { registry, upstream, counted, sources: Mutex::new(sources) }))
    }

    /// From now on these numbers are there as well.
    pub fn add(&self, source: Arc<dyn OnDemand>) {
        self.sources.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push(source);
    }

    /// From now on it is told how the reconciler stands.
    pub fn add_status(&self, status: watch::Receiver<Status>) {
        self.add(Arc::new(own::Standing(status)));
    }

    /// What the reconciler is to tell its numbers to.
    pub fn meter(self: &Arc<Self>, health: Arc<Health>) -> Box<dyn crate::reconcile::Meter> {
        Box::new(meter::Recorder::new(self.clone(), health))
    }

    /// All numbers as text. It may block for as long as the kernel takes to tell its own.
    ///
    /// # Errors
    /// When the encoder fails, which it never should.
    pub fn text(&self) -> Result<String, prometheus::Error> {
        let sources = self.sources.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone();
        let mut texts: BTreeMap<String, String> = BTreeMap::new();
        let mut failed = None;
        // Text takes less than what it is made of, of which there is one metric at a time.
        let mut write = |family: MetricFamily| match TextEncoder::new().encode_to_string(std::slice::from_ref(&family))
        {
            Ok(text) => drop(texts.insert(family.name().to_owned(), text)),
            Err(error) => failed = Some(error),
        };
        self.registry.gather().into_iter().for_each(&mut write);
        sources.iter().for_each(|source| source.each_family(&mut write));
        failed.map_or_else(|| Ok(texts.into_values().collect()), Err)
    }

    /// Every metric that there can be, sorted by name, whether or not it has a value.
    #[must_use]
    pub fn described(&self) -> Vec<Described> {
        let mut all = self.upstream.described();
        all.extend(self.counted.described());
        all.extend(own::DESCRIPTIONS.iter().map(family::Description::described));
        all.extend(process::DESCRIPTIONS.iter().map(family::Description::described));
        all.extend(traffic::DESCRIPTIONS.iter().map(family::Description::described));
        all.extend(rules::DESCRIPTIONS.iter().map(family::Description::described));
        all.sort_by(|a, b| a.name.cmp(&b.name));
        all
    }
}

#[cfg(test)]
mod tests;
