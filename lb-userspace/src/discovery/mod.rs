//! Backends that are found: by name, by files in a directory, by their own word.
//!
//! In: the sources that shall be followed ([`Discovery::set`]). Out: [`Findings`], one for each
//! time that a source was asked. What becomes of them is the agent's to decide; registrations come
//! by [`door`], as commands, and [`Leases`] knows how long they last.

mod directory;
mod dns;
pub mod door;
mod leases;
mod report;

use std::{
    collections::BTreeMap,
    net::IpAddr,
    time::{Duration, SystemTime},
};

use tokio::{sync::mpsc, task::JoinHandle};

use crate::{
    config::{DiscoveryConfig, DiscoverySource},
    model::Forward,
    state::Found,
};

pub use leases::{Ended, LeaseChange, Leases};
pub use report::{Outcome, Report, judge};

/// Most backends of one service that a source may tell.
pub const FOUND_MAX: usize = 4096;

/// A source of backends of one service.
#[derive(Clone, Debug, PartialEq)]
pub struct SourceSpec {
    /// The service's name.
    pub service: String,
    /// What is asked.
    pub config: DiscoveryConfig,
    /// The service's VIP.
    pub vip: IpAddr,
    /// How its packets travel.
    pub forward: Forward,
}

/// What came of asking a source.
#[derive(Clone, Debug, PartialEq)]
pub struct Findings {
    /// The service's name.
    pub service: String,
    /// Which source: those that were replaced meanwhile have a lower one.
    generation: u64,
    /// The backends, or why there is no answer.
    pub result: Result<Answer, String>,
    /// When it is asked again.
    pub next: Option<SystemTime>,
}

/// What a source told.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Answer {
    /// In an order that is the same on all balancers.
    pub backends: Vec<Found>,
    /// What is wrong beside; a part of the source kept its last word.
    pub trouble: Option<String>,
}

/// All sources that are followed. They end when it is dropped. Needs a Tokio runtime.
#[derive(Debug)]
pub struct Discovery {
    running: BTreeMap<String, Running>,
    findings: mpsc::Sender<Findings>,
    generation: u64,
}

#[derive(Debug)]
struct Running {
    spec: SourceSpec,
    generation: u64,
    report: Report,
    /// `None` where there is nobody to ask.
    task: Option<JoinHandle<()>>,
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

impl Discovery {
    /// No sources yet; what they tell goes to `findings`.
    pub fn new(findings: mpsc::Sender<Findings>) -> Self {
        Self { running: BTreeMap::new(), findings, generation: 0 }
    }

    /// Makes exactly these sources be followed. One that is the same goes on undisturbed; one that
    /// is new is asked at once, and begins with what `last` says that it told.
    pub fn set(&mut self, specs: Vec<SourceSpec>, last: impl Fn(&SourceSpec) -> Vec<Found>) {
        let mut before = std::mem::take(&mut self.running);
        for spec in specs {
            let running = match before.remove(&spec.service) {
                Some(running) if running.spec == spec => running,
                _ => {
                    let last = last(&spec);
                    self.start(spec, last)
                }
            };
            self.running.insert(running.spec.service.clone(), running);
        }
    }

    fn start(&mut self, spec: SourceSpec, last: Vec<Found>) -> Running {
        self.generation += 1;
        let teller = Teller {
            service: spec.service.clone(),
            generation: self.generation,
            findings: self.findings.clone(),
        };
        let report = Report::new(&spec, last.len());
        let task = match spec.config.source.clone() {
            DiscoverySource::Dns(source) => {
                let families = dns::Families::of(&source, spec.vip, spec.forward);
                Some(tokio::spawn(dns::run(source, families, last, teller)))
            }
            DiscoverySource::Directory(path) => {
                let service = directory::Service { vip: spec.vip, forward: spec.forward };
                Some(tokio::spawn(directory::run(path, service, last, teller)))
            }
            DiscoverySource::Register { .. } => None,
        };
        Running { spec, generation: self.generation, report, task }
    }

    /// The source that findings are of, unless it was replaced meanwhile.
    pub fn source_of(&mut self, findings: &Findings) -> Option<(&SourceSpec, &mut Report)> {
        let running = self.running.get_mut(&findings.service)?;
        let current = running.generation == findings.generation;
        current.then_some((&running.spec, &mut running.report))
    }

    /// The source of a service.
    pub fn source(&mut self, service: &str) -> Option<(&SourceSpec, &mut Report)> {
        self.running.get_mut(service).map(|running| (&running.spec, &mut running.report))
    }

    /// What is known of a service's source.
    pub fn report(&self, service: &str) -> Option<&Report> {
        self.running.get(service).map(|running| &running.report)
    }

    /// Whether a source that has told nothing yet was asked, and the answer is on its way.
    pub fn is_pending(&self) -> bool {
        self.running.values().any(|running| running.task.is_some() && running.report.is_pending())
    }
}

/// A source's way to the agent.
#[derive(Debug)]
struct Teller {
    service: String,
    generation: u64,
    findings: mpsc::Sender<Findings>,
}

impl Teller {
    /// Tells what came of asking, and when the next time is. Whether anybody listens.
    async fn tell(&self, result: Result<Answer, String>, next: Option<Duration>) -> bool {
        let findings = Findings {
            service: self.service.clone(),
            generation: self.generation,
            result,
            next: next.and_then(|next| SystemTime::now().checked_add(next)),
        };
        self.findings.send(findings).await.is_ok()
    }
}
