//! Ctrl-C, SIGTERM and SIGHUP: the demo stops at the next convenient moment and cleans up on its way out.

use std::process;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use anyhow::Context;
use tokio::signal::unix::{SignalKind, signal};

/// The error that unwinds the demo after a signal.
#[derive(Debug, thiserror::Error)]
#[error("interrupted")]
pub(super) struct Interrupted;

/// Whether a signal has come.
#[derive(Debug, Clone)]
pub(super) struct Interrupt(Arc<AtomicBool>);

impl Interrupt {
    /// Starts catching signals. Handlers instead of a blocked mask: a child starts with default handlers but would
    /// inherit the mask.
    pub(super) fn catch() -> anyhow::Result<Self> {
        let interrupt = Self(Arc::new(AtomicBool::new(false)));
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_io()
            .build()
            .context("starting an event loop for signals")?;
        let mut signals = {
            let _inside = runtime.enter();
            [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()]
                .map(signal)
                .into_iter()
                .collect::<Result<Vec<_>, _>>()
                .context("catching signals")?
        };
        let flag = interrupt.clone();
        thread::Builder::new()
            .name("signals".to_owned())
            .spawn(move || {
                runtime.block_on(async {
                    loop {
                        next_of(&mut signals).await;
                        // The second one means it: everything that is left goes away with this process anyway.
                        if flag.0.swap(true, Ordering::SeqCst) {
                            process::exit(130);
                        }
                    }
                });
            })
            .context("starting a thread for signals")?;
        Ok(interrupt)
    }

    /// Fails with [`Interrupted`] once a signal has come.
    pub(super) fn check(&self) -> Result<(), Interrupted> {
        if self.0.load(Ordering::SeqCst) { Err(Interrupted) } else { Ok(()) }
    }
}

/// Waits for any of the signals.
async fn next_of(signals: &mut [tokio::signal::unix::Signal]) {
    std::future::poll_fn(|context| {
        let ready = signals.iter_mut().any(|signal| signal.poll_recv(context).is_ready());
        if ready { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
    })
    .await;
}
