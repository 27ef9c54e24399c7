//! Live weights: hands on what is known, and tells what came of it.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use super::Agent;
use crate::{
    agent_check::{AgentEvent, AgentSpec},
    api::{Cause, EventKind, LoadStatus, News},
    config::{BackendConfig, ServiceConfig},
    live::{AgentState, Check, Input, Live, LiveEvent, LoadSource, Reported, Standing, orca},
    model::{Backend, BackendKey, Desired, Service, ServiceKey},
};

/// What backends report of their load.
#[derive(Debug, Default)]
pub(super) struct LoadReports(BTreeMap<(ServiceKey, BackendKey), LoadReport>);

/// The least utilisation that an agent can tell, which says whole percents.
const AGENT_LEAST: f64 = 0.005;

#[derive(Debug, Default)]
struct LoadReport {
    /// When the last report came, whatever it said.
    read: Option<Instant>,
    last: Option<Reported>,
    understood: u64,
    ignored: u64,
    error: Option<String>,
}

impl LoadReport {
    /// Takes in a header. What there is to complain of, where that is new.
    fn read(&mut self, text: &str, at: Instant) -> Option<String> {
        self.read = Some(at);
        let complaint = match orca::parse(text) {
            Ok(parsed) => {
                self.ignored += u64::from(parsed.ignored);
                if let Some(utilization) = parsed.utilization {
                    self.understood += 1;
                    self.last = Some(Reported { utilization, at });
                }
                let nothing = || "its load report tells no utilisation".to_owned();
                let complaint = parsed.complaint.map(|why| format!("its load report: {why}"));
                complaint.or_else(|| parsed.utilization.is_none().then(nothing))
            }
            Err(error) => {
                self.ignored += 1;
                Some(format!("its load report: {error}"))
            }
        };
        let news = complaint.clone().filter(|_| self.error.is_none());
        self.error = complaint;
        news
    }

    /// Takes in what an agent says that its backend has idle, in percent.
    fn read_idle(&mut self, percent: u8, at: Instant) {
        if self.read.is_none_or(|read| read < at) {
            self.read = Some(at);
            self.understood += 1;
            let utilization = (1.0 - f64::from(percent) / 100.0).max(AGENT_LEAST);
            self.last = Some(Reported { utilization, at });
        }
    }
}

impl Agent {
    /// Asks the agents of the services that have some.
    pub(super) fn watch_agents(&mut self) {
        let mut specs = Vec::new();
        for service in &self.effective.services {
            let Some(check) = &service.agent_check else { continue };
            specs.extend(service.backends.iter().map(|backend| AgentSpec {
                service: service.key,
                backend: backend.key,
                check: check.clone(),
            }));
        }
        self.agents.set(specs);
    }

    /// Decides anew what each backend serves, from all that is known now. Whether that is something
    /// else than before.
    pub(super) fn update_lives(&mut self) -> bool {
        self.read_loads();
        let now = Instant::now();
        // Once, at the start: what a former agent left goes on.
        let first = !self.lives_begun;
        self.lives_begun = true;
        let mut changed = false;
        let mut told = Vec::new();
        for service in &self.effective.services {
            let known =
                match first && self.actual.services.values().any(|s| s.entry.key == service.key) {
                    true => self.state.history.last_live(service.key),
                    false => BTreeMap::new(),
                };
            let inputs: Vec<Input> = service
                .backends
                .iter()
                .map(|backend| self.input(service, backend, known.get(&backend.key).copied()))
                .collect();
            let update = self.lives.update(service.key, now, &service.live, &inputs);
            changed |= update.changed;
            told.extend(update.events.into_iter().map(|event| (service.name.clone(), event)));
        }
        let keys: BTreeSet<_> = self.effective.services.iter().map(|service| service.key).collect();
        self.lives.retain(|service| keys.contains(&service));
        for (service, event) in told {
            self.tell_live(service, &event);
        }
        changed
    }

    fn input(&self, service: &ServiceConfig, backend: &BackendConfig, known: Option<u16>) -> Input {
        let check = match self.health.healthy(service.key, backend.key) {
            None | Some(Some(true)) => Check::Passing,
            Some(Some(false)) => Check::Failing,
            Some(None) => Check::Pending,
        };
        Input {
            key: backend.key,
            weight: backend.weight,
            backup: backend.backup,
            draining: self.is_draining(&service.name, backend.key),
            check,
            agent: set_by_agent(service, self.agents.state(service.key, backend.key)),
            load: self.loads.0.get(&(service.key, backend.key)).and_then(|load| load.last),
            known_permille: known,
        }
    }

    /// What a backend does now. One that leaves takes no new flows.
    pub(super) fn live(&self, service: &ServiceConfig, backend: BackendKey) -> Live {
        self.lives.of(service.key, backend).unwrap_or_else(|| {
            let alive = self.health.healthy(service.key, backend).is_none_or(|h| h == Some(true));
            Live { permille: 0, alive, standing: Standing::Draining }
        })
    }

    /// Reads what came of load reports since the last time.
    fn read_loads(&mut self) {
        let mut reports = std::mem::take(&mut self.loads.0);
        let mut kept = BTreeMap::new();
        let mut complaints = Vec::new();
        for service in &self.effective.services {
            let Some(policy) = &service.live.load else { continue };
            for backend in &service.backends {
                let id = (service.key, backend.key);
                let mut report = reports.remove(&id).unwrap_or_default();
                let complaint = match policy.source {
                    LoadSource::Agent => {
                        let said = self.agents.percent(service.key, backend.key);
                        if let Some((percent, at)) = said {
                            report.read_idle(percent, at);
                        }
                        None
                    }
                    LoadSource::Orca => {
                        let new = self.health.endpoint_load(service.key, backend.key, report.read);
                        new.and_then(|new| report.read(&new.text, new.at))
                    }
                };
                let named = |why| (service.name.clone(), backend.key, why);
                complaints.extend(complaint.map(named));
                kept.insert(id, report);
            }
        }
        self.loads.0 = kept;
        for (service, backend, complaint) in complaints {
            tracing::warn!("{service} {backend}: {complaint}");
        }
    }

    pub(super) fn load_status(
        &self,
        service: &ServiceConfig,
        backend: BackendKey,
    ) -> Option<LoadStatus> {
        let report = self.loads.0.get(&(service.key, backend))?;
        let source = service.live.load.as_ref()?.source;
        Some(LoadStatus {
            utilization: report.last.map(|last| last.utilization),
            source: source.word().to_owned(),
            age_seconds: report.last.map(|last| last.at.elapsed().as_secs_f64()),
            reports_total: report.understood,
            ignored_total: report.ignored,
            error: report.error.clone(),
        })
    }

    /// A sentence for each service that uses failed backends.
    pub(super) fn panics(&self) -> Vec<String> {
        let panics = |service: &&ServiceConfig| self.lives.mode(service.key).panic;
        let sentence = |service: &ServiceConfig| {
            format!(
                "service {:?} is in panic: less than {} % of its weight is healthy, failed \
                 backends are used as well",
                service.name, service.live.panic_percent
            )
        };
        self.effective.services.iter().filter(panics).map(sentence).collect()
    }

    /// A sentence for each service that takes no new flows, for want of a backend.
    pub(super) fn down(&self) -> Vec<String> {
        let services = self.last_desired.iter().flat_map(|desired| &desired.services);
        let down = services.filter(|service| !service.is_up());
        down.map(|service| format!("service {:?} {}", service.name, why_down(service))).collect()
    }

    /// Tells of services that drop their new flows, and of those that don't any more.
    pub(super) fn tell_services(&mut self, desired: &Desired) {
        let (mut up, mut down) = (BTreeSet::new(), BTreeSet::new());
        for service in &desired.services {
            let was_down = self.down.contains(&service.key);
            if service.is_up() {
                up.insert(service.key);
                if was_down {
                    let told = "some backend takes its new flows again";
                    let news = News::new(EventKind::ServiceUp, Cause::Agent, told);
                    self.event(news.about(&*service.name, None).became("down", "up"));
                }
                continue;
            }
            // A new one may be up in a moment.
            let pends = |b: &Backend| self.health.awaits_probe(service.key, b.key);
            let was_up = self.up.contains(&service.key);
            if was_up || was_down || !service.backends.iter().any(pends) {
                down.insert(service.key);
                if !was_down {
                    let news = News::new(EventKind::ServiceDown, Cause::Agent, why_down(service));
                    self.event(news.about(&*service.name, None).became("up", "down"));
                }
            }
        }
        (self.up, self.down) = (up, down);
    }

    /// An agent says something else: told where that is no mere percentage.
    pub(super) fn agent_said(&mut self, event: &AgentEvent) {
        let AgentEvent { before, after, .. } = event;
        let service = self.effective.services.iter().find(|s| s.key == event.service);
        let Some(service) = service
            .filter(|service| service.backends.iter().any(|backend| backend.key == event.backend))
        else {
            return;
        };
        let sort = |state: &AgentState| {
            let set = set_by_agent(service, *state);
            (set.wanted, set.up, set.drains())
        };
        if sort(before) == sort(after) {
            return;
        }
        let (before, after) = (before.sentence(), after.sentence());
        let told = format!("its agent says {:?}: {before} became {after}", event.said);
        let news = News::new(EventKind::BackendAgent, Cause::Load, told);
        self.event(news.about(&service.name, event.backend).became(before, after));
    }

    fn tell_live(&self, service: String, event: &LiveEvent) {
        let news = |kind, message: String| News::new(kind, Cause::Health, message);
        self.event(match event {
            LiveEvent::PanicBegan { healthy_percent } => {
                let told = format!(
                    "only {healthy_percent} % of the weight is healthy: failed backends are used \
                     as well"
                );
                news(EventKind::PanicBegan, told).about(service, None).became("healthy", "panic")
            }
            LiveEvent::PanicEnded => {
                let told = "only healthy backends are used again".to_owned();
                news(EventKind::PanicEnded, told).about(service, None).became("panic", "healthy")
            }
            LiveEvent::BackupActive => {
                let told = "no other backend lives: backups serve".to_owned();
                let news = news(EventKind::BackupActive, told).about(service, None);
                news.became("backups idle", "backups active")
            }
            LiveEvent::BackupIdle => {
                let told = "backups don't serve any more".to_owned();
                let news = news(EventKind::BackupIdle, told).about(service, None);
                news.became("backups active", "backups idle")
            }
            LiveEvent::Damped(backend, time) => {
                let told =
                    format!("it fails too often: it takes no new flows for {}", seconds(*time));
                let news = news(EventKind::BackendDamped, told).about(service, *backend);
                news.became("serving", "damped")
            }
            LiveEvent::Undamped(backend) => {
                let told = "it may take new flows again".to_owned();
                let news = news(EventKind::BackendUndamped, told).about(service, *backend);
                news.became("damped", "serving")
            }
        });
    }
}

/// Why nobody takes a service's new flows.
fn why_down(service: &Service) -> String {
    if service.backends.iter().any(Backend::wants_flows) {
        let why = "the next hop of none of its backends is known";
        return format!("drops new flows (unresolved): {why}");
    }
    let why = match service.backends.len() {
        0 => "has no backend".to_owned(),
        1 => "has a single backend, and that takes none".to_owned(),
        all => format!("has {all} backends, and none of them takes any"),
    };
    format!("drops new flows (no_backend): it {why}")
}

/// What of an agent's words decides by itself: where its percentage tells load, that doesn't.
fn set_by_agent(service: &ServiceConfig, said: AgentState) -> AgentState {
    match service.live.load.as_ref().map(|load| load.source) {
        Some(LoadSource::Agent) => AgentState { percent: AgentState::default().percent, ..said },
        _ => said,
    }
}

fn seconds(time: Duration) -> String {
    format!("{} s", time.as_secs_f64())
}
