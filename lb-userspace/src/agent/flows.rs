//! Flows in moving slots: surveys of their records, slots that come to rest, backends that are
//! done.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant, SystemTime},
};

use lb_common::{
    id::{BackendId, ServiceId},
    layout::{Affinity, FlowCounters},
};
use tokio::sync::mpsc;

use super::Agent;
use crate::{
    api::{Cause, EventKind, News},
    config::{BackendConfig, ServiceConfig},
    dataplane,
    model::{BackendKey, Desired, ServiceKey},
    plan::{Change, backend_key},
    sweep::{Extent, Survey, SurveyPlan, Transition},
};

/// A survey may take a part of a CPU: it rests so many times as long as it took.
const REST: u32 = 10;

/// A survey that ended, and how long it took.
pub(super) type Surveyed = Result<(Survey, Duration), dataplane::Error>;

/// What is known of flows in moving slots.
pub(super) struct FlowWatch {
    /// Since when which slots move.
    pub(super) transition: Transition,
    /// The last survey.
    pub(super) survey: Survey,
    /// The counters as they were last read.
    pub(super) counters: FlowCounters,
    /// Slots that got another owner since the agent started.
    pub(super) moved: BTreeMap<ServiceKey, u64>,
    /// Backends that leave, by service name: no longer desired, with flows that may live.
    pub(super) leaving: BTreeMap<String, Vec<BackendConfig>>,
    /// Draining backends that were found done.
    drained: BTreeSet<(ServiceKey, BackendKey)>,
    /// Ends of surveys.
    ends: mpsc::Sender<Surveyed>,
    surveying: bool,
    /// Not before then.
    next: Instant,
}

impl FlowWatch {
    /// `ends` takes the surveys that end.
    pub(super) fn new(transition: Transition, ends: mpsc::Sender<Surveyed>) -> Self {
        Self {
            transition,
            survey: Survey::default(),
            counters: FlowCounters::default(),
            moved: BTreeMap::new(),
            leaving: BTreeMap::new(),
            drained: BTreeSet::new(),
            ends,
            surveying: false,
            next: Instant::now(),
        }
    }
}

impl Agent {
    /// Looks after moving slots: once a second.
    pub(super) fn tend_flows(&mut self) {
        if let Err(error) = self.read_flow_counters() {
            tracing::error!("{error}");
        }
        if self.flows.transition.is_over() {
            self.settle_histories();
            // Where nothing moves, no survey tells that nothing is left to wait for.
            self.let_go();
        }
        let idle = self.flows.transition.is_over() && self.flows.survey.kept == 0;
        if !idle && !self.flows.surveying && Instant::now() >= self.flows.next {
            match self.plane.flow_table() {
                Ok(table) => self.begin_survey(table),
                Err(error) => tracing::error!("{error}"),
            }
        }
    }

    fn read_flow_counters(&mut self) -> Result<(), dataplane::Error> {
        let counters = self.plane.flow_counters()?;
        let lost = |counters: &FlowCounters| counters.over_budget + counters.table_full;
        if lost(&counters) > lost(&self.flows.counters) {
            self.flows.transition.note_unrecorded(dataplane::now());
        }
        if counters.over_budget_opening > self.flows.counters.over_budget_opening {
            self.flows.transition.note_unrecorded_opening(dataplane::now());
        }
        self.flows.counters = counters;
        Ok(())
    }

    /// In a thread of its own: a million records take most of a second.
    fn begin_survey(&mut self, table: dataplane::FlowTable) {
        let plan = self.survey_plan();
        let ends = self.flows.ends.clone();
        self.flows.surveying = true;
        tokio::task::spawn_blocking(move || {
            let began = Instant::now();
            let mut survey = Survey::new(&plan);
            let end = table
                .retain(|key, record| survey.visit(&plan, key, record))
                .map(|()| (survey, began.elapsed()));
            // The agent has ended meanwhile.
            let _ = ends.blocking_send(end);
        });
    }

    fn survey_plan(&self) -> SurveyPlan {
        let extent = |(id, service): (&ServiceId, &crate::plan::ActualService)| {
            let entry = service.entry;
            let (ring_start, ring_size) = (entry.ring_start, entry.ring_size);
            (*id, Extent { ring_start, ring_size, idle_seconds: entry.idle_seconds })
        };
        SurveyPlan {
            now: dataplane::now(),
            services: self.actual.services.iter().map(extent).collect(),
            generations: self.actual.backends.iter().map(|(id, r)| (*id, r.generation)).collect(),
            moving: self.flows.transition.moving(),
        }
    }

    /// Lets slots rest that need no records any more, and backends go that have no flows.
    pub(super) fn surveyed(&mut self, end: Surveyed) {
        self.flows.surveying = false;
        let (survey, took) = match end {
            Ok(end) => end,
            Err(error) => {
                tracing::error!("the records of flows can't be read, slots go on moving: {error}");
                return;
            }
        };
        self.flows.next = Instant::now() + REST * took;
        // What got no record since the last look is open as well.
        if let Err(error) = self.read_flow_counters() {
            tracing::error!("{error}");
            return;
        }
        let slots = self.flows.transition.rest(&self.actual, &survey, dataplane::now());
        self.flows.survey = survey;
        if !slots.is_empty() {
            let change = Change::SetSlots { slots };
            if let Err(error) = self.make(&change) {
                self.distrust(error);
                return;
            }
        }
        self.settle_histories();
        self.let_go();
    }

    /// Makes a change, and follows it.
    pub(super) fn make(&mut self, change: &Change) -> Result<(), dataplane::Error> {
        self.plane.apply(change)?;
        for (service, moved) in self.actual.apply(change) {
            *self.flows.moved.entry(service).or_default() += moved;
        }
        if let Change::SetDirectory { services } = change {
            let keys: BTreeSet<_> = services.iter().map(|service| service.key).collect();
            self.flows.moved.retain(|service, _| keys.contains(service));
        }
        self.flows.transition.note(change, dataplane::now());
        Ok(())
    }

    /// Forgets former rings of services whose slots all are stable.
    fn settle_histories(&mut self) {
        let moving = self.moving_slots();
        let mut settled = false;
        for service in &self.effective.services {
            if moving.get(&service.key).is_none_or(|&moving| moving == 0) {
                settled |= self.state.history.settle(service.key);
            }
        }
        self.saving.note(settled);
        if settled && !self.flows.leaving.is_empty() {
            self.take_effect();
        }
    }

    /// Moving slots of each service.
    pub(super) fn moving_slots(&self) -> BTreeMap<ServiceKey, u32> {
        if self.flows.transition.is_over() {
            return BTreeMap::new();
        }
        let count = |service: &crate::plan::ActualService| {
            let moving = service.ring.iter().filter(|slot| slot.is_moving()).count();
            (service.entry.key, moving as u32)
        };
        self.actual.services.values().map(count).collect()
    }

    /// Tells of draining backends that are done, and forgets leaving ones that are.
    fn let_go(&mut self) {
        if !self.awaits_departures() {
            return;
        }
        let busy = self.busy();
        let done = |service: &ServiceConfig, key: BackendKey| {
            self.backend_id(service.key, key).is_none_or(|id| !busy.contains(&id))
        };
        let mut drained = BTreeSet::new();
        let mut left = Vec::new();
        for service in &self.effective.services {
            let draining = |b: &&BackendConfig| self.is_draining(&service.name, b.key);
            for backend in service.backends.iter().filter(draining) {
                if done(service, backend.key) {
                    drained.insert((service.key, backend.key));
                }
            }
            for backend in self.flows.leaving.get(&service.name).into_iter().flatten() {
                if done(service, backend.key) {
                    left.push((service.key, service.name.clone(), backend.key));
                }
            }
        }
        let new: Vec<_> = drained.difference(&self.flows.drained).copied().collect();
        for (key, backend) in new {
            let service = self.effective.services.iter().find(|service| service.key == key);
            let Some(service) = service else { continue };
            let told = "it has no flows any more";
            let news = News::new(EventKind::BackendDrained, Cause::Traffic, told);
            self.event(news.about(&service.name, backend).became("draining", "drained"));
        }
        self.flows.drained = drained;
        if left.is_empty() {
            return;
        }
        for (key, name, backend) in left {
            self.state.history.forget(key, backend);
            let told = "its last flow ended";
            let news = News::new(EventKind::BackendLeft, Cause::Traffic, told).was("leaving");
            self.event(news.about(name, backend));
        }
        self.saving.note(true);
        self.take_effect();
    }

    /// Whether any backend may be found done.
    fn awaits_departures(&self) -> bool {
        !self.flows.leaving.is_empty() || self.effective.draining.len() != self.flows.drained.len()
    }

    /// Backends that flows may live with.
    pub(super) fn busy(&self) -> BTreeSet<BackendId> {
        let mut busy = self.flows.transition.busy(&self.actual, &self.flows.survey);
        // The records of slots that are at rest are of no more use.
        if !self.flows.transition.is_over() {
            busy.extend(self.flows.survey.by_backend.keys().copied());
        }
        busy.extend(self.fullnat.survey.by_backend.keys().copied());
        busy
    }

    /// Flows that are known to live with a backend.
    pub(super) fn flows_with(&self, backend: BackendId) -> u64 {
        let of = |flows: &BTreeMap<BackendId, u64>| flows.get(&backend).copied();
        // Under `fullnat` all are known, not just those in moving slots.
        of(&self.fullnat.survey.by_backend)
            .or_else(|| of(&self.flows.survey.by_backend))
            .unwrap_or(0)
    }

    /// Forgets what was found of backends that don't drain any more.
    pub(super) fn forget_undrained(&mut self) {
        let names = self.effective.services.iter().map(|service| (service.key, &service.name));
        let names: BTreeMap<_, _> = names.collect();
        let draining = &self.effective.draining;
        self.flows.drained.retain(|(service, backend)| {
            names.get(service).is_some_and(|&name| draining.contains(&(name.clone(), *backend)))
        });
    }

    /// Whether a backend that takes no new flows has none left.
    pub(super) fn is_drained(&self, service: ServiceKey, backend: BackendKey) -> bool {
        self.flows.drained.contains(&(service, backend))
    }

    pub(super) fn backend_id(&self, service: ServiceKey, backend: BackendKey) -> Option<BackendId> {
        let (service, _) = self.actual.services.iter().find(|(_, s)| s.entry.key == service)?;
        let of = |record: &lb_common::layout::BackendRecord| {
            record.service == service.0 && backend_key(record) == backend
        };
        self.actual.backends.iter().find(|(_, record)| of(record)).map(|(id, _)| *id)
    }

    /// Notes the rings that are in force now.
    pub(super) fn note_history(&mut self, desired: &Desired) {
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let now = since.map_or(0, |since| since.as_secs());
        let mut news = self.state.history.retain(&self.effective.services);
        let sizes: BTreeMap<ServiceKey, u32> = {
            let entries = self.actual.services.values().map(|service| service.entry);
            entries.map(|entry| (entry.key, entry.ring_size)).collect()
        };
        for (service, desired) in self.effective.services.iter().zip(&desired.services) {
            let size = sizes.get(&service.key).copied();
            let Some(size) = size.filter(|_| service.affinity != Affinity::Packet) else {
                continue;
            };
            let live: BTreeMap<BackendKey, u16> =
                desired.counted().map(|b| (b.key, b.live_permille)).collect();
            let live = |key| live.get(&key).copied();
            news |= self.state.history.note(service, size, now, live);
        }
        self.saving.note(news);
    }
}
