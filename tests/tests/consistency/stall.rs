//! How long this machine kept a program's threads waiting that were ready to run.

use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

/// From one look to the next.
const PACE: Duration = Duration::from_millis(1);

/// When it was looked, and what the threads had waited by then.
type Sample = (Instant, Duration);

/// A thread that keeps looking at what the scheduler says of another process.
pub(crate) struct Watch {
    stop: Arc<AtomicBool>,
    samples: Arc<Mutex<Vec<Sample>>>,
    thread: Option<JoinHandle<()>>,
}

impl Watch {
    /// # Errors
    /// There is no such process, or the kernel keeps no such figures.
    pub(crate) fn start(pid: u32) -> Result<Self> {
        let first = (Instant::now(), waited(pid).context("read what the agent's threads waited")?);
        let stop = Arc::new(AtomicBool::new(false));
        let samples = Arc::new(Mutex::new(vec![first]));
        let (stopped, shared) = (Arc::clone(&stop), Arc::clone(&samples));
        let thread = thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                thread::sleep(PACE);
                // A thread that ends in between is no reason to look no more.
                if let Ok(waited) = waited(pid) {
                    let mut samples = shared.lock().unwrap_or_else(PoisonError::into_inner);
                    samples.push((Instant::now(), waited));
                }
            }
        });
        Ok(Self { stop, samples, thread: Some(thread) })
    }

    /// What all threads together waited in that time.
    pub(crate) fn between(&self, from: Instant, until: Instant) -> Duration {
        let samples = self.samples.lock().unwrap_or_else(PoisonError::into_inner);
        let before = samples.iter().rfind(|(at, _)| *at <= from).or(samples.first());
        let after = samples.iter().find(|(at, _)| *at >= until).or(samples.last());
        let waited = |sample: Option<&Sample>| sample.map_or(Duration::ZERO, |(_, waited)| *waited);
        waited(after).saturating_sub(waited(before))
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

/// What a process's threads waited so far: the second field of proc_pid_schedstat, in nanoseconds
/// (Documentation/scheduler/sched-stats.rst).
fn waited(pid: u32) -> Result<Duration> {
    let mut sum = Duration::ZERO;
    for thread in fs::read_dir(format!("/proc/{pid}/task"))? {
        let text = fs::read_to_string(thread?.path().join("schedstat"))?;
        let field = text.split_whitespace().nth(1).context("a line of schedstat is short")?;
        sum += Duration::from_nanos(field.parse()?);
    }
    Ok(sum)
}
