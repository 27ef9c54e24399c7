//! How long this machine kept a thread from running that had something to do.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// How often the watch wakes.
const PACE: Duration = Duration::from_millis(1);

/// A thread that only sleeps and looks at the clock: what it oversleeps, others may have, too.
pub(crate) struct Watch {
    stop: Arc<AtomicBool>,
    overslept: Arc<Mutex<Vec<(Instant, Duration)>>>,
    thread: Option<JoinHandle<()>>,
}

impl Watch {
    pub(crate) fn start() -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let overslept = Arc::new(Mutex::new(Vec::new()));
        let (stopped, shared) = (Arc::clone(&stop), Arc::clone(&overslept));
        let thread = thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                let due = Instant::now() + PACE;
                thread::sleep(PACE);
                let woken = Instant::now();
                shared
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .push((woken, woken.saturating_duration_since(due)));
            }
        });
        Self { stop, overslept, thread: Some(thread) }
    }

    /// All that was overslept by who woke in that time.
    pub(crate) fn between(&self, from: Instant, until: Instant) -> Duration {
        let overslept = self.overslept.lock().unwrap_or_else(PoisonError::into_inner);
        let inside = overslept.iter().filter(|(woken, by)| *woken >= from && *woken - *by <= until);
        inside.map(|(_, by)| *by).sum()
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // It can't panic, and the test's verdict doesn't hang on it.
            let _ = thread.join();
        }
    }
}
