//! Agents on backends, which say what their backend shall do: HAProxy's agent-check.
//!
//! In: the agents that shall be asked ([`AgentChecks::set`]). Out: an [`AgentEvent`] whenever one
//! says something else, and an [`AgentReport`] of each at any time. An agent that can't be
//! reached, or says nothing that is understood, changes nothing: what it said last holds.

mod ask;
#[cfg(test)]
mod tests;

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant, SystemTime},
};

use tokio::{sync::mpsc, task::JoinHandle, time::sleep_until};

use crate::{
    config::AgentCheck,
    live::{AgentState, Words},
    model::{BackendKey, ServiceKey},
};

/// The agent of one backend of one service.
#[derive(Clone, Debug, PartialEq)]
pub struct AgentSpec {
    /// The service.
    pub service: ServiceKey,
    /// The backend.
    pub backend: BackendKey,
    /// How it is asked.
    pub check: AgentCheck,
}

/// An agent says something else than before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AgentEvent {
    /// The service.
    pub service: ServiceKey,
    /// The backend.
    pub backend: BackendKey,
    /// What held until now.
    pub before: AgentState,
    /// What holds from now on.
    pub after: AgentState,
    /// The line that it said.
    pub said: String,
}

/// What is known of an agent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AgentReport {
    /// What holds.
    pub state: AgentState,
    /// Its last line, shortened.
    pub said: Option<String>,
    /// When it said that.
    pub said_at: Option<SystemTime>,
    /// When it last said a percentage.
    pub percent_at: Option<Instant>,
    /// Why the last question had no answer that is understood.
    pub error: Option<String>,
    /// Questions that were answered.
    pub answered: u64,
    /// Questions that were not.
    pub failed: u64,
}

/// All agents that are asked. The questions end when it is dropped. Needs a Tokio runtime.
#[derive(Debug)]
pub struct AgentChecks {
    running: BTreeMap<(ServiceKey, BackendKey), Running>,
    events: mpsc::Sender<AgentEvent>,
}

#[derive(Debug)]
struct Running {
    check: AgentCheck,
    report: SharedReport,
    task: JoinHandle<()>,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
    }
}

type SharedReport = Arc<Mutex<AgentReport>>;

impl AgentChecks {
    /// Nobody is asked yet; news goes to `events`.
    pub fn new(events: mpsc::Sender<AgentEvent>) -> Self {
        Self { running: BTreeMap::new(), events }
    }

    /// Asks exactly these. One that is asked the same way is asked on undisturbed; one that is
    /// asked otherwise keeps what it said.
    pub fn set(&mut self, specs: Vec<AgentSpec>) {
        let mut before = std::mem::take(&mut self.running);
        for spec in specs {
            let id = (spec.service, spec.backend);
            let running = match before.remove(&id) {
                Some(running) if running.check == spec.check => running,
                Some(running) => self.start(spec, running.report.clone()),
                None => self.start(spec, SharedReport::default()),
            };
            self.running.insert(id, running);
        }
    }

    /// What is known of an agent; `None` when it isn't asked.
    pub fn report(&self, service: ServiceKey, backend: BackendKey) -> Option<AgentReport> {
        self.running.get(&(service, backend)).map(|running| read(&running.report))
    }

    /// What an agent said last; what holds where nobody is asked.
    pub fn state(&self, service: ServiceKey, backend: BackendKey) -> AgentState {
        let running = self.running.get(&(service, backend));
        running.map(|running| lock(&running.report).state).unwrap_or_default()
    }

    /// The percentage that an agent said last, and when; `None` where it said none.
    pub fn percent(&self, service: ServiceKey, backend: BackendKey) -> Option<(u8, Instant)> {
        let report = lock(&self.running.get(&(service, backend))?.report);
        Some((report.state.percent, report.percent_at?))
    }

    /// Whether each was asked once, with or without an answer.
    pub fn all_asked(&self) -> bool {
        self.running.values().all(|running| {
            let report = lock(&running.report);
            report.answered + report.failed > 0
        })
    }

    fn start(&self, spec: AgentSpec, report: SharedReport) -> Running {
        let check = spec.check.clone();
        let task = tokio::spawn(run(spec, report.clone(), self.events.clone()));
        Running { check, report, task }
    }
}

fn lock(report: &SharedReport) -> std::sync::MutexGuard<'_, AgentReport> {
    report.lock().unwrap_or_else(PoisonError::into_inner)
}

fn read(report: &SharedReport) -> AgentReport {
    lock(report).clone()
}

/// Longest line in characters that is told.
const TOLD: usize = 200;

/// Asks until it is aborted or nobody listens any more.
async fn run(spec: AgentSpec, report: SharedReport, events: mpsc::Sender<AgentEvent>) {
    let target = SocketAddr::new(spec.backend.address, spec.check.port);
    let mut next = Instant::now();
    loop {
        sleep_until(next.into()).await;
        next += jittered(spec.check.interval);
        let answer = ask::ask(target, &spec.check).await;
        let event = note(&spec, &report, answer);
        if let Some(event) = event
            && events.send(event).await.is_err()
        {
            return;
        }
        // After a suspended host: go on from now, not in a burst.
        next = next.max(Instant::now());
    }
}

/// Takes an answer in; says whether it changed anything.
fn note(
    spec: &AgentSpec,
    report: &SharedReport,
    answer: Result<String, String>,
) -> Option<AgentEvent> {
    let mut report = lock(report);
    let line = match answer {
        Ok(line) => line,
        Err(error) => {
            report.failed += 1;
            report.error = Some(error);
            return None;
        }
    };
    let words = Words::parse(&line);
    let said: String = line.chars().filter(|c| !c.is_control()).take(TOLD).collect();
    report.answered += 1;
    report.error = (!words.unknown.is_empty())
        .then(|| format!("words that mean nothing: {}", words.unknown.join(", ")))
        .or_else(|| words.is_empty().then(|| "it said nothing".to_owned()));
    report.said = Some(said.clone());
    report.said_at = Some(SystemTime::now());
    report.percent_at = words.percent.map(|_| Instant::now()).or(report.percent_at);
    let before = report.state;
    report.state = before.after(&words);
    (report.state != before).then_some(AgentEvent {
        service: spec.service,
        backend: spec.backend,
        before,
        after: report.state,
        said,
    })
}

/// Between 0.9 and 1.1 of the interval, so that questions that began together drift apart.
fn jittered(interval: Duration) -> Duration {
    interval.mul_f64(0.9 + 0.2 * fastrand::f64())
}
