//! Active health checks: probes run beside each other, transitions come out as events.
//!
//! In: the checks that shall run ([`Health::set`]). Out: a [`HealthEvent`] for every transition,
//! and a [`Report`] of each check at any time. A backend under a check that nothing is known of
//! takes no new flows until its first probe, which is sent at once, passes.

mod probe;
mod state;
#[cfg(test)]
mod tests;
mod watch;

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant, SystemTime},
};

use tokio::{sync::mpsc, task::JoinHandle};

use crate::{
    config::ActiveCheck,
    model::{BackendKey, ServiceKey},
    probe_path::Target,
};

/// How one backend of one service is checked.
#[derive(Clone, Debug, PartialEq)]
pub struct CheckSpec {
    /// The service.
    pub service: ServiceKey,
    /// The backend.
    pub backend: BackendKey,
    /// The service's name, for programs.
    pub name: Arc<str>,
    /// What is asked, how often, and what follows from the answers; all backends of a service
    /// have the same.
    pub check: Arc<ActiveCheck>,
    /// The way through the VIP; `None` asks the backend at its own address.
    pub via: Option<Arc<Target>>,
    /// What is known of the backend from before, such as from an earlier run of the agent. It only
    /// counts when the check is new: one that changes keeps its own state.
    pub known: Option<bool>,
}

impl CheckSpec {
    fn id(&self) -> CheckId {
        (self.service, self.backend)
    }

    /// Where probes go.
    fn reach(&self) -> probe::Reach<'_> {
        match &self.via {
            Some(target) => probe::Reach::Vip(target),
            None => {
                let port = self.check.port_of(self.backend);
                probe::Reach::Address(SocketAddr::new(self.backend.address, port))
            }
        }
    }
}

/// The service and the backend that a check is about.
pub type CheckId = (ServiceKey, BackendKey);

/// A backend became healthy or failed, or its first probe showed which it is.
///
/// Events of a check that was removed meanwhile may still be in the channel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HealthEvent {
    /// The service.
    pub service: ServiceKey,
    /// The backend.
    pub backend: BackendKey,
    /// What it was; `None` while nothing was known.
    pub before: Option<bool>,
    /// What it is now.
    pub healthy: bool,
    /// What the deciding probe saw.
    pub reason: String,
    /// When that probe ended.
    pub decided: Instant,
}

/// What a backend said about its load.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointLoad {
    /// The response header `endpoint-load-metrics` as it came, at most 4 KiB.
    pub text: String,
    /// When it came.
    pub at: Instant,
}

/// What a check knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// `None` until the first probe ended.
    pub healthy: Option<bool>,
    /// Since when it is so.
    pub since: SystemTime,
    /// What the last probe saw.
    pub reason: String,
    /// Probes in a row that contradict `healthy`.
    pub contradicting: u32,
    /// So many of them change it; 0 while none does.
    pub needed: u32,
    /// Probes that passed.
    pub passed: u64,
    /// Probes that failed.
    pub failed: u64,
    /// Probes that said nothing about the backend, because this host lacked what they need.
    pub inconclusive: u64,
    /// The last load that a response to an HTTP probe told, however old it is.
    pub endpoint_load: Option<EndpointLoad>,
}

/// From the first probe of one new check to that of the next: ten thousand new backends are known
/// within a second, and no burst of their answers makes them late.
const PACE: Duration = Duration::from_micros(100);

/// All running checks. They end when it is dropped. Needs a Tokio runtime.
#[derive(Debug)]
pub struct Health {
    running: BTreeMap<CheckId, Running>,
    means: Arc<probe::Means>,
    events: mpsc::Sender<HealthEvent>,
}

#[derive(Debug)]
struct Running {
    name: Arc<str>,
    check: Arc<ActiveCheck>,
    via: Option<Arc<Target>>,
    report: SharedReport,
    task: JoinHandle<()>,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
    }
}

#[derive(Clone, Debug)]
struct SharedReport(Arc<Mutex<Report>>);

impl SharedReport {
    fn new(healthy: Option<bool>) -> Self {
        let reason = match healthy {
            Some(_) => "known from before",
            None => "no probe has ended yet",
        };
        Self(Arc::new(Mutex::new(Report {
            healthy,
            since: SystemTime::now(),
            reason: reason.to_owned(),
            contradicting: 0,
            needed: 0,
            passed: 0,
            failed: 0,
            inconclusive: 0,
            endpoint_load: None,
        })))
    }

    fn read(&self) -> Report {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn look<T>(&self, of: impl FnOnce(&Report) -> T) -> T {
        of(&self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn update(&self, change: impl FnOnce(&mut Report)) {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

impl Health {
    /// No checks yet; transitions go to `events`.
    pub fn new(events: mpsc::Sender<HealthEvent>) -> Self {
        Self { running: BTreeMap::new(), means: Arc::new(probe::Means::new()), events }
    }

    /// Makes exactly these checks run. One that is the same runs on undisturbed; one that changed
    /// starts its next probe at once and keeps what it knows. Where many start, they do so
    /// [`PACE`] after each other, and are spread over their interval from then on.
    pub fn set(&mut self, checks: Vec<CheckSpec>) {
        let mut before = std::mem::take(&mut self.running);
        let mut start = Instant::now();
        let same = |running: &Running, spec: &CheckSpec| {
            running.check == spec.check && running.name == spec.name && running.via == spec.via
        };
        for spec in checks {
            let id = spec.id();
            let running = match before.remove(&id) {
                Some(running) if same(&running, &spec) => running,
                former => {
                    let report = match former {
                        Some(running) => running.report.clone(),
                        None => SharedReport::new(spec.known),
                    };
                    let running = self.start(spec, start, report);
                    start += PACE;
                    running
                }
            };
            self.running.insert(id, running);
        }
    }

    /// What a check knows; `None` when there is no such check.
    pub fn report(&self, service: ServiceKey, backend: BackendKey) -> Option<Report> {
        self.running.get(&(service, backend)).map(|running| running.report.read())
    }

    /// Whether a check passes, as [`Report::healthy`]; `None` when there is no such check.
    pub fn healthy(&self, service: ServiceKey, backend: BackendKey) -> Option<Option<bool>> {
        self.running.get(&(service, backend)).map(|running| running.report.look(|r| r.healthy))
    }

    /// Whether a check's first probe hasn't ended in any way.
    pub fn awaits_probe(&self, service: ServiceKey, backend: BackendKey) -> bool {
        self.running.get(&(service, backend)).is_some_and(|running| {
            running.report.look(|report| report.healthy.is_none() && report.inconclusive == 0)
        })
    }

    /// What a backend said of its load, if that came after `last`.
    pub fn endpoint_load(
        &self,
        service: ServiceKey,
        backend: BackendKey,
        last: Option<Instant>,
    ) -> Option<EndpointLoad> {
        let running = self.running.get(&(service, backend))?;
        running.report.look(|report| {
            let newer = |load: &&EndpointLoad| last.is_none_or(|last| load.at > last);
            report.endpoint_load.as_ref().filter(newer).cloned()
        })
    }

    fn start(&self, spec: CheckSpec, at: Instant, report: SharedReport) -> Running {
        let (name, check) = (Arc::clone(&spec.name), Arc::clone(&spec.check));
        let via = spec.via.clone();
        let (means, events) = (Arc::clone(&self.means), self.events.clone());
        let task = tokio::spawn(watch::run(spec, at.into(), report.clone(), means, events));
        Running { name, check, via, report, task }
    }
}
