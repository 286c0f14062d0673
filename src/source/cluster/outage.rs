//! What is said when the API server does not answer: one line when it starts, one when it is over.

use super::failure::Failure;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;
use tracing::{debug, info, warn};

/// The outage of one server, whatever is asked of it.
#[derive(Debug)]
pub struct Outage {
    server: String,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    since: Option<Instant>,
    attempts: u64,
    failing: BTreeMap<&'static str, String>,
    told: BTreeSet<&'static str>,
}

impl Outage {
    /// No outage yet.
    pub fn new(server: impl Into<String>) -> Self {
        Self { server: server.into(), state: Mutex::default() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Something was tried in vain.
    pub fn failed(&self, tried: &str, resource: &'static str, failure: &Failure) {
        let mut state = self.state();
        state.since.get_or_insert_with(Instant::now);
        state.attempts += 1;
        state.failing.insert(resource, format!("{tried} {resource}: {failure}"));
        let server = &self.server;
        if state.told.insert(failure.kind()) {
            warn!(
                "the API server {server} fails: {tried} {resource}: {failure}; what is known stays in place, and it is \
                 tried again and again"
            );
        } else {
            debug!("the API server {server} still fails: {tried} {resource}: {failure}");
        }
    }

    /// The server answers again what is asked of this resource.
    pub fn answered(&self, resource: &'static str) {
        let mut state = self.state();
        state.failing.remove(resource);
        if !state.failing.is_empty() {
            return;
        }
        if let Some(since) = state.since.take() {
            let (server, attempts, seconds) = (&self.server, state.attempts, since.elapsed().as_secs());
            info!("the API server {server} answers again, after {seconds} s and {attempts} attempts in vain");
        }
        (state.attempts, state.told) = (0, BTreeSet::new());
    }

    /// What fails at present.
    pub fn failing(&self) -> Vec<String> {
        self.state().failing.values().cloned().collect()
    }
}
