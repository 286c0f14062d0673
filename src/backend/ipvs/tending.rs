//! When IPVS is told to forget, while IPVS mode hands over: on a thread for each family, about once a second.

use super::forget::{Look, Retiring};
use super::listen;
use super::observed::Observed;
use crate::backend::ObserveError;
use crate::kernel::sysctl::Sysctl;
use crate::model::{IpFamily, PerFamily};
use ipvs::Client;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};
use tracing::warn;

/// It rests so many times as long as it took: with very many connections reading them is work …
const REST: u32 = 5;
/// … but from its beginning to the next one no longer than that: what is kept must not end meanwhile, and what was reset ends
/// ten seconds later (`IP_VS_TCP_S_CLOSE`), within which it has to be forgotten …
const LONGEST_ROUND: Duration = Duration::from_secs(5);
/// … nor what was to be forgotten, where the kernel did not hear of it: it is told again.
const REST_AFTER_TELLING: Duration = Duration::from_secs(1);

/// So long after one family began to hand over, the other one is taken to follow.
const TOGETHER: Duration = Duration::from_secs(5);

/// Both families, which count on each other.
#[derive(Debug, Default)]
pub struct Tending {
    forgetting: PerFamily<Forgetting>,
    /// What hands over.
    retiring: PerFamily<Retiring>,
    since: PerFamily<Option<Instant>>,
    /// Nothing of an earlier run listens any more.
    silent: bool,
}

impl Tending {
    /// While a family hands over: looks again, if it is time to.
    pub fn hand_over(&mut self, family: IpFamily, observed: &Observed, sysctl: &Sysctl) {
        self.silent = false;
        if !self.forgetting.get_mut(family).is_due() {
            return;
        }
        let patient = self.since.get_mut(family).get_or_insert_with(Instant::now).elapsed() < TOGETHER;
        let own = Look::own(observed);
        *self.retiring.get_mut(family) = own.clone();
        let others = match family {
            IpFamily::V4 => self.retiring.v6.clone(),
            IpFamily::V6 => self.retiring.v4.clone(),
        };
        let hurry = Arc::default();
        let look = Look { family, own, others, patient, sysctl: sysctl.clone(), hurry };
        if let Err(error) = self.forgetting.get_mut(family).begin(look) {
            warn!(%family, "{error}");
        }
    }

    /// While it does not: what an earlier run may have left is ended, once.
    pub fn serve(&mut self, family: IpFamily, client: &mut Client) {
        *self.retiring.get_mut(family) = Retiring::default();
        *self.since.get_mut(family) = None;
        let PerFamily { v4, v6 } = &self.forgetting;
        if !v4.is_under_way() && !v6.is_under_way() && !std::mem::replace(&mut self.silent, true) {
            listen::stop_listening(client);
        }
    }

    /// Before anything changes: what is under way for one family counts on what the other one has.
    pub fn join(&mut self) {
        let PerFamily { v4, v6 } = &mut self.forgetting;
        v4.join();
        v6.join();
    }
}

/// What came of a look.
#[derive(Debug)]
struct Looked {
    ended: Instant,
    took: Duration,
    /// Whether the kernel was told of anything.
    told: Result<bool, ObserveError>,
}

/// Has old connections forgotten, by a thread that comes to its end each time.
#[derive(Debug, Default)]
struct Forgetting {
    thread: Option<JoinHandle<Looked>>,
    /// Tells it that somebody waits.
    hurry: Arc<AtomicBool>,
    not_before: Option<Instant>,
    /// What went wrong last time: it is told once.
    complaint: Option<String>,
}

impl Forgetting {
    /// Begins, in the network namespace of the calling thread.
    ///
    /// # Errors
    /// When there can be no further thread.
    fn begin(&mut self, look: Look) -> Result<(), ObserveError> {
        self.hurry = look.hurry.clone();
        let work = move || {
            let began = Instant::now();
            let told = look.forget();
            Looked { ended: Instant::now(), took: began.elapsed(), told }
        };
        let thread = thread::Builder::new().name("ipvs forget".to_owned()).spawn(work);
        self.thread = Some(thread.map_err(|error| ObserveError::new("connections that are over", error))?);
        Ok(())
    }

    /// Whether it may begin: the last time is neither under way nor was a moment ago.
    fn is_due(&mut self) -> bool {
        if self.is_under_way() {
            return false;
        }
        self.join();
        self.not_before.is_none_or(|instant| Instant::now() >= instant)
    }

    /// Whether it has something to come to the end with.
    fn is_under_way(&self) -> bool {
        self.thread.as_ref().is_some_and(|thread| !thread.is_finished())
    }

    /// Waits for the end of what is under way: a second or two at most beside reading what IPVS remembers. What it does not come to
    /// is for the next time.
    fn join(&mut self) {
        self.hurry.store(true, Ordering::Relaxed);
        // A panic has been told by whoever panicked.
        let Some(Looked { ended, took, told }) = self.thread.take().and_then(|thread| thread.join().ok()) else {
            return;
        };
        // It may have ended long before somebody asks.
        self.not_before = Some(ended + rest(took, matches!(told, Ok(true))));
        let complaint = told.err().map(|error| error.to_string());
        if let Some(complaint) = complaint.as_ref().filter(|_| complaint != self.complaint) {
            warn!("{complaint}: a client whose port comes again within two minutes may lose its connection");
        }
        self.complaint = complaint;
    }
}

/// How long to rest after a look that took so long, and that told the kernel of something or did not. Always some, so that what
/// can't be read within a round at all leaves the processor to others.
fn rest(took: Duration, told: bool) -> Duration {
    let longest = if told { REST_AFTER_TELLING } else { LONGEST_ROUND.saturating_sub(took).max(REST_AFTER_TELLING) };
    took.saturating_mul(REST).min(longest)
}

impl Drop for Forgetting {
    /// The kernel is not to listen any longer than the program runs.
    fn drop(&mut self) {
        self.join();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_look_and_its_rest_are_over_before_what_was_closed_ends() {
        let ms = Duration::from_millis;
        assert_eq!(rest(ms(100), false), ms(500), "reading is work");
        assert_eq!(rest(ms(3000), false), ms(2000), "a round takes five seconds");
        assert_eq!(rest(ms(20_000), false), ms(1000), "others have the processor, too");
        assert_eq!(rest(ms(3000), true), ms(1000), "it is told again");
    }
}
