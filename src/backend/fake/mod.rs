//! A kernel in memory that refuses what the real one refuses, and fails at random. For properties only: what packets do
//! is proved on real kernels.

mod annotations;
mod auto;
mod convergence;
mod events;
mod histories;
mod incomplete;
mod iptables;
mod ipvs;
mod kernel;
mod refusals;
mod retiring;
mod scenarios;
mod switch;

use kernel::FakeKernel;

use super::{Backend, Dataplane, Driver};
use crate::model::{IpFamily, PerFamily};
use std::sync::{Arc, Mutex};

/// One kernel, shared by the backends that run on it one after the other.
pub type Shared = Arc<Mutex<PerFamily<FakeKernel>>>;

/// A fake backend: the mode's real plan over the kernel in memory.
pub trait FakeBackend: Backend + Sized + Send + 'static {
    /// On this kernel.
    fn on(kernel: Shared) -> Self;
}

/// A driver over a fake backend, as after a (re)start: it believes nothing.
pub fn dataplane<B>(kernel: &Shared) -> Box<dyn Dataplane>
where
    B: FakeBackend,
    B::Observed: Send,
{
    Box::new(Driver::new(B::on(kernel.clone())))
}

/// A kernel that fails this many calls in a thousand.
pub fn kernel(faults_per_thousand: u32, seed: u64) -> Shared {
    Arc::new(Mutex::new(PerFamily::from_fn(|family| {
        FakeKernel::new(faults_per_thousand, seed ^ u64::from(family == IpFamily::V6))
    })))
}
