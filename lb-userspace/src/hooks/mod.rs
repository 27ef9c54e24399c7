//! A command of the operator's that is run for each event, one after the other.
//!
//! In: the log of events and what the config says. Out: programs that run, and what became of
//! them. The log itself is the queue, so nobody waits for a hook: what a slow one doesn't get to
//! in time is forgotten there, counted, and told. Nothing that a hook does is an event, or it
//! would call itself.

mod run;
#[cfg(test)]
mod tests;

use std::{
    pin::pin,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::{sync::watch, time::timeout};

use crate::{
    api::{EventLog, HooksStatus},
    config::Hook,
    program::why_not,
};
use run::Outcome;

/// How long the last events may take when the agent ends.
const FAREWELL: Duration = Duration::from_secs(2);

/// What hooks are run, and what became of them.
#[derive(Clone, Debug)]
pub struct Hooks {
    hook: watch::Sender<Wanted>,
    status: Arc<Mutex<HooksStatus>>,
}

/// What is run, and the last event that it is not run for.
type Wanted = (Option<Hook>, u64);

impl Hooks {
    /// With the hook of the config, for every event from the first on.
    pub fn new(hook: Option<Hook>) -> Self {
        let (hook, _) = watch::channel((hook, 0));
        Self { hook, status: Arc::default() }
    }

    /// Another hook, or none, from the next event on.
    pub fn set(&self, hook: Option<Hook>, events: &EventLog) {
        self.hook.send_if_modified(|wanted| {
            let changed = wanted.0 != hook;
            if changed {
                *wanted = (hook, events.last());
            }
            changed
        });
    }

    /// What became of the hooks so far.
    pub fn status(&self) -> HooksStatus {
        self.status.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Runs the hook for event after event until `stop` is done; then for those that are left, as
    /// far as it gets in a short while.
    pub async fn serve(self, events: EventLog, stop: impl Future<Output = ()>) {
        let (end, ending) = watch::channel(false);
        let mut follow = pin!(self.follow(&events, ending));
        tokio::select! {
            () = &mut follow => return,
            () = stop => {}
        }
        end.send_replace(true);
        if timeout(FAREWELL, follow).await.is_err() {
            tracing::warn!("the agent ends before its hook was run for the last events");
        }
    }

    async fn follow(&self, events: &EventLog, mut ending: watch::Receiver<bool>) {
        let mut wanted = self.hook.subscribe();
        let mut served = 0;
        loop {
            if self.page(events, &mut wanted, &mut served).await {
                continue;
            }
            if *ending.borrow_and_update() {
                return;
            }
            // Neither sender goes before this ends.
            tokio::select! {
                _ = wanted.changed() => {}
                _ = ending.changed() => {}
                () = events.wait(served) => {}
            }
        }
    }

    /// Runs the hook for the events that are there; says whether there were any.
    async fn page(
        &self,
        events: &EventLog,
        wanted: &mut watch::Receiver<Wanted>,
        served: &mut u64,
    ) -> bool {
        let (hook, after) = wanted.borrow_and_update().clone();
        let Some(hook) = hook else {
            let last = events.last();
            let passed = *served != last;
            *served = last;
            return passed;
        };
        *served = (*served).max(after);
        let page = events.since(*served);
        if page.missed > 0 {
            self.note(Noted::Missed(page.missed));
            *served += page.missed;
        }
        for event in &page.events {
            // Somebody may have mended it meanwhile.
            if wanted.has_changed().unwrap_or(false) {
                return true;
            }
            *served = event.number;
            let outcome = run::run(&hook, event).await;
            self.note(Noted::Ran(&hook, event.number, outcome));
        }
        !page.events.is_empty()
    }

    /// Counts, and logs what is wrong: once, while it stays the same.
    fn note(&self, noted: Noted<'_>) {
        let mut status = self.status.lock().unwrap_or_else(PoisonError::into_inner);
        let trouble = match noted {
            Noted::Missed(events) => {
                status.missed_total += events;
                let told = format!(
                    "the hook was not run for {events} events, which came faster than it ends: \
                     make `on_event` a command that ends sooner"
                );
                tracing::warn!("{told}");
                return;
            }
            Noted::Ran(hook, number, outcome) => {
                let program = hook.program();
                match outcome {
                    Outcome::Done => {
                        status.ok_total += 1;
                        tracing::debug!("the hook {program} was run for event {number}");
                        None
                    }
                    Outcome::Failed(how) => {
                        status.failed_total += 1;
                        Some(format!("the hook {program} failed: {how}"))
                    }
                    Outcome::TimedOut(said) => {
                        status.timed_out_total += 1;
                        Some(format!(
                            "the hook {program} did not end within {:?} and was killed: raise \
                             `on_event_timeout`, or make it a command that ends sooner{said}",
                            hook.timeout
                        ))
                    }
                    Outcome::NotStarted(error) => {
                        status.not_started_total += 1;
                        Some(format!(
                            "the hook {program} can't be started: {}; mend `on_event`, or leave \
                             it out for none",
                            why_not(hook.program(), &error)
                        ))
                    }
                }
            }
        };
        if let Some(told) = &trouble {
            match status.trouble == trouble {
                true => tracing::debug!("{told}"),
                false => tracing::warn!("{told}"),
            }
        } else if status.trouble.is_some() {
            tracing::info!("the hook runs well again");
        }
        status.trouble = trouble;
    }
}

enum Noted<'a> {
    /// So many events went by.
    Missed(u64),
    /// The hook, the event's number, and how it went.
    Ran(&'a Hook, u64, Outcome),
}
