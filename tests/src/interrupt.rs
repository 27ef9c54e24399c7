//! Signals that ask a program to end become errors, so that every guard still cleans up.

use std::io::Write as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::{io, thread};

use anyhow::{Context, Result, ensure};
use tokio::runtime::Builder;
use tokio::signal::unix::{SignalKind, signal};

static SEEN: AtomicBool = AtomicBool::new(false);

/// From now on SIGINT, SIGTERM and SIGHUP don't end this process: [`check`] fails instead, and
/// with it whatever waits by [`crate::wait::until`].
///
/// # Errors
/// The signals can't be handled.
pub fn catch() -> Result<()> {
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let (mut interrupt, mut terminate, mut hangup) = {
        let _inside = runtime.enter();
        let handle = |kind| signal(kind).context("handle signals");
        let [interrupt, terminate, hangup] =
            [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()].map(handle);
        (interrupt?, terminate?, hangup?)
    };
    thread::spawn(move || {
        runtime.block_on(async {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
                _ = hangup.recv() => {}
            }
        });
        SEEN.store(true, Ordering::Relaxed);
        // With its terminal gone, there is nobody to tell.
        let _ = writeln!(io::stderr(), "\nInterrupted; cleaning up.");
    });
    Ok(())
}

/// Whether such a signal came.
pub fn seen() -> bool {
    SEEN.load(Ordering::Relaxed)
}

/// # Errors
/// Such a signal came.
pub fn check() -> Result<()> {
    ensure!(!seen(), "interrupted");
    Ok(())
}
