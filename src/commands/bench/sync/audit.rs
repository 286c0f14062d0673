//! The audit as `run` makes it: the belief is compared with the kernel in slices, between which changes are taken in.

use crate::backend::{Audit, Dataplane};
use crate::model::IpFamily;
use crate::reconcile::{AUDIT_PAUSE, AUDIT_SLICE};
use serde::{Deserialize, Serialize};
use std::time::{Duration, Instant};

/// What came of it.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct Audited {
    /// From its beginning to its end, pauses included, in seconds.
    pub seconds: f64,
    /// Slices.
    pub slices: u32,
    /// The longest of them, for which a change would have waited, in milliseconds.
    pub longest_ms: f64,
}

impl Audited {
    /// Audits to the end.
    ///
    /// # Errors
    /// When it does not hold: the benchmark has namespaces to itself.
    pub fn of(plane: &mut dyn Dataplane, family: IpFamily) -> anyhow::Result<Self> {
        let started = Instant::now();
        let (mut slices, mut longest) = (0, Duration::ZERO);
        loop {
            let began = Instant::now();
            let outcome = plane.audit(family, began + AUDIT_SLICE);
            (slices, longest) = (slices + 1, longest.max(began.elapsed()));
            match outcome {
                Audit::Unfinished => std::thread::sleep(AUDIT_PAUSE),
                Audit::Holds => break,
                Audit::Owes => anyhow::bail!("the kernel has not taken everything that is wanted"),
                Audit::Doubtful => anyhow::bail!("the audit found the kernel not as it was written"),
            }
        }
        let longest_ms = longest.as_secs_f64() * 1000.0;
        Ok(Self { seconds: started.elapsed().as_secs_f64(), slices, longest_ms })
    }

    /// The worst of several.
    pub fn worst(runs: impl Iterator<Item = Self>) -> Option<Self> {
        runs.max_by(|one, other| one.longest_ms.total_cmp(&other.longest_ms))
    }
}
