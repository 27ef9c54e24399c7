//! Flows under `fullnat`: which are over, what they take of ports and the table; what is told of
//! them, and how they are killed.

mod flows;
mod local_ports;

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use lb_common::{
    id::{BackendId, ServiceId},
    layout::{BackendRecord, FULLNAT, FullnatCounters, Kind},
    network::{Address, TCP, UDP},
};
use tokio::sync::mpsc;

pub(super) use local_ports::warning as local_ports_warning;

use super::Agent;
use crate::{
    api::{Cause, EventKind, FullnatPorts, FullnatStatus, News},
    config::ServiceConfig,
    dataplane,
    model::{BackendKey, Protocol, ServiceKey},
    plan::{Change, backend_key},
    sweep::{FullnatPlan, FullnatSurvey},
};

/// A survey may take a part of a CPU: it rests so many times as long as it took.
const REST: u32 = 10;
/// What is scarce, in percent, from which on it is told.
const SCARCE: u64 = 80;
/// And below which it is told that it isn't any more.
const EASED: u64 = 70;

/// A survey that ended, and how long it took.
pub(super) type FullnatSurveyed = Result<(FullnatSurvey, Duration), dataplane::Error>;

/// What is known of flows under `fullnat`.
pub(super) struct FullnatWatch {
    /// The last survey.
    pub(super) survey: FullnatSurvey,
    /// The counters as they were last read.
    counters: FullnatCounters,
    /// Backends toward which ports are scarce.
    scarce: BTreeSet<(ServiceKey, BackendKey)>,
    table_scarce: bool,
    /// Places of pools that no record named when the last survey began, and the one before.
    unused: [BTreeSet<u8>; 2],
    ends: mpsc::Sender<FullnatSurveyed>,
    surveying: bool,
    /// Not before then.
    next: Instant,
}

impl FullnatWatch {
    /// `ends` takes the surveys that end.
    pub(super) fn new(ends: mpsc::Sender<FullnatSurveyed>) -> Self {
        Self {
            survey: FullnatSurvey::default(),
            counters: FullnatCounters::default(),
            scarce: BTreeSet::new(),
            table_scarce: false,
            unused: Default::default(),
            ends,
            surveying: false,
            next: Instant::now(),
        }
    }
}

/// Of so many, with a limit: whether they are scarce, if they were or weren't before.
fn is_scarce(taken: u64, of: u64, was: bool) -> bool {
    taken * 100 >= of * if was { EASED } else { SCARCE } && of > 0
}

impl Agent {
    /// Looks after flows under `fullnat`: once a second.
    pub(super) fn tend_fullnat(&mut self) {
        let wanted = self.uses_fullnat() || self.fullnat.survey.taken > 0;
        if !wanted || self.fullnat.surveying || Instant::now() < self.fullnat.next {
            return;
        }
        let table = match self.plane.fullnat_table() {
            Ok(table) => table,
            Err(error) => return tracing::error!("{error}"),
        };
        let unused = self.unused_pools();
        self.fullnat.unused.rotate_left(1);
        self.fullnat.unused[1] = unused;
        let plan = self.fullnat_plan();
        let (pools, ends) = (self.actual.pools.clone(), self.fullnat.ends.clone());
        self.fullnat.surveying = true;
        // In a thread of its own: a million flows take most of a second.
        tokio::task::spawn_blocking(move || {
            let began = Instant::now();
            let mut survey = FullnatSurvey::default();
            let end = table
                .visit(
                    |place| pools.get(&place).copied(),
                    |key, flow, entry| survey.judge(&plan, key, flow, entry),
                )
                .map(|_| (survey, began.elapsed()));
            // The agent has ended meanwhile.
            let _ = ends.blocking_send(end);
        });
    }

    fn uses_fullnat(&self) -> bool {
        let answers = |service: &crate::plan::ActualService| service.entry.answers & FULLNAT != 0;
        !self.actual.pools.is_empty() || self.actual.services.values().any(answers)
    }

    fn fullnat_plan(&self) -> FullnatPlan {
        let config = &self.config.fullnat;
        let seconds = |duration: Duration| duration.as_secs().max(1) as u32;
        let services = self.actual.services.iter();
        let generation = |record: &BackendRecord| {
            lb_common::layout::Translation::new(BackendId::NONE, record, 0, 0)
        };
        FullnatPlan {
            now: dataplane::now(),
            idle_seconds: services.map(|(id, s)| (*id, s.entry.idle_seconds)).collect(),
            generations: self
                .actual
                .backends
                .iter()
                .map(|(id, record)| (*id, generation(record).generation))
                .collect(),
            opening_seconds: seconds(config.opening_timeout),
            closing_seconds: seconds(config.closing_timeout),
            hurry: self.fullnat.table_scarce || !self.fullnat.scarce.is_empty(),
            orphans: self.fullnat.survey.orphans.clone(),
        }
    }

    /// Takes in what a survey found.
    pub(super) fn fullnat_surveyed(&mut self, end: FullnatSurveyed) {
        self.fullnat.surveying = false;
        let (survey, took) = match end {
            Ok(end) => end,
            Err(error) => {
                return tracing::error!("flows under fullnat can't be read, none ends: {error}");
            }
        };
        self.fullnat.next = Instant::now() + REST * took;
        match self.plane.fullnat_counters() {
            Ok(counters) => self.fullnat.counters = counters,
            Err(error) => tracing::error!("{error}"),
        }
        self.fullnat.survey = survey;
        self.vacate_pools();
        self.tell_scarcity();
    }

    /// Places of pools that no record names.
    fn unused_pools(&self) -> BTreeSet<u8> {
        let mut unused: BTreeSet<u8> = self.actual.pools.keys().copied().collect();
        for record in self.actual.backends.values().filter(|record| is_fullnat(record)) {
            let pool = record.pool();
            unused.retain(|place| {
                !(pool.first..=pool.first + (pool.count.max(1) - 1)).contains(place)
            });
        }
        unused
    }

    /// Gives places free that no flow is from, and that no run of the program can name any more: the
    /// last survey began at least a second after the one before.
    fn vacate_pools(&mut self) {
        let unused = self.unused_pools();
        let [before, last] = &self.fullnat.unused;
        let mut vacant: Vec<u8> = unused.into_iter().collect();
        vacant.retain(|place| before.contains(place) && last.contains(place));
        vacant.retain(|place| !self.fullnat.survey.pools.contains(place));
        for place in vacant {
            if let Err(error) = self.make(&Change::ClearPool { place }) {
                return self.distrust(error);
            }
        }
    }

    /// Ports toward each backend under `fullnat`: those that are taken, and all.
    pub(super) fn fullnat_ports(&self) -> BTreeMap<(ServiceKey, BackendKey), FullnatPorts> {
        let ports = |record: &BackendRecord| {
            let service = self.actual.services.get(&ServiceId(record.service))?.entry.key;
            let protocol = match service.protocol {
                Protocol::Tcp => TCP,
                Protocol::Udp => UDP,
            };
            let key = backend_key(record);
            let address: Address = record.address;
            let used =
                self.fullnat.survey.ports_toward(address, protocol, key.port.or(service.port));
            Some(((service, key), FullnatPorts { used, total: record.pool().total() }))
        };
        self.actual
            .backends
            .values()
            .filter(|record| is_fullnat(record))
            .filter_map(ports)
            .collect()
    }

    fn tell_scarcity(&mut self) {
        let (taken, room) = (self.fullnat.survey.taken, self.plane.fullnat_capacity());
        let was = self.fullnat.table_scarce;
        let is = is_scarce(taken, room.into(), was);
        if is != was {
            let told = format!("{taken} of {room} entries of the fullnat flow table are taken");
            let kind = if is { EventKind::FlowTableScarce } else { EventKind::FlowTableEased };
            self.event(News::new(kind, Cause::Traffic, told));
        }
        self.fullnat.table_scarce = is;

        let ports = self.fullnat_ports();
        let was = std::mem::take(&mut self.fullnat.scarce);
        let scarce = |key| {
            let FullnatPorts { used, total } = ports[key];
            is_scarce(used.into(), total.into(), was.contains(key))
        };
        self.fullnat.scarce = ports.keys().filter(|key| scarce(key)).copied().collect();
        for (kind, keys) in [
            (EventKind::PortsScarce, self.fullnat.scarce.difference(&was)),
            (EventKind::PortsEased, was.difference(&self.fullnat.scarce)),
        ] {
            for (service, backend) in keys {
                let of = |s: &&ServiceConfig| s.key == *service;
                let Some(config) = self.effective.services.iter().find(of) else { continue };
                let Some(FullnatPorts { used, total }) = ports.get(&(*service, *backend)) else {
                    continue;
                };
                let told = format!("{used} of {total} ports of its pool are taken");
                self.event(News::new(kind, Cause::Traffic, told).about(&config.name, *backend));
            }
        }
    }

    /// Whether a pool is configured that packets to the backend come from.
    pub(super) fn has_pool(&self, backend: BackendKey) -> bool {
        !self.config.fullnat.pools.toward(backend.address, None).is_empty()
    }

    pub(super) fn fullnat_status(&self) -> FullnatStatus {
        let FullnatWatch { survey, counters, .. } = &self.fullnat;
        FullnatStatus {
            flows: survey.flows,
            embryonic: survey.embryonic,
            taken: survey.taken,
            capacity: self.plane.fullnat_capacity().into(),
            opened_total: counters.opened,
            ports_in_use_total: counters.taken,
            port_searches_total: counters.searches,
        }
    }
}

fn is_fullnat(record: &BackendRecord) -> bool {
    Kind::try_from(record.kind).is_ok_and(Kind::is_fullnat)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scarcity_begins_later_than_it_ends() {
        assert!(!is_scarce(79, 100, false) && is_scarce(80, 100, false));
        assert!(is_scarce(70, 100, true) && !is_scarce(69, 100, true));
        assert!(!is_scarce(0, 0, false) && !is_scarce(0, 0, true));
    }
}
