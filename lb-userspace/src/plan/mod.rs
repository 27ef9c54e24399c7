//! From what is desired and what is there to the changes between: pure.
//!
//! The order of a plan's changes is what keeps packets whole: what is pointed at comes before
//! what points at it (device map, backends, rings, directory), and goes after it, once no program
//! run can still hold it.

mod allocate;
#[cfg(test)]
mod answer_tests;
mod answers;
mod bases;
mod change;
mod pools;
mod record;
mod rings;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use lb_common::{
    id::{BackendId, ServiceId},
    layout::{BackendRecord, Slot},
};

pub use bases::Bases;
pub use change::{Actual, ActualService, Capacity, Change, DirectoryService};
pub use record::{address_bytes, backend_key, build as backend_record};
pub use rings::size as ring_size;

use crate::model::{BackendKey, Desired, Forward, Pools, Service, ServiceKey};
use allocate::{Numbers, Ranges};
use answers::Answers;
use pools::Places;
use rings::Before;

/// More is desired than the maps hold. Nothing was changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the maps are too small: {} slots, {} backends and {} egress interfaces are needed, \
     there is room for {}, {} and {}",
    needed.slots, needed.backends, needed.ports, present.slots, present.backends, present.ports
)]
pub struct TooSmall {
    /// Capacities that would do.
    pub needed: Capacity,
    /// Capacities that the maps have.
    pub present: Capacity,
}

/// The changes that make the maps do what is desired. Empty if they already do.
///
/// # Errors
/// [`TooSmall`] if the maps must grow first.
pub fn plan(desired: &Desired, actual: &Actual) -> Result<Vec<Change>, TooSmall> {
    plan_after(None, &mut Bases::default(), desired, actual)
}

/// The same, where `last` is what the maps were last made to do: rings of services that want
/// nothing else are not built again. `bases` are kept from one plan to the next.
///
/// # Errors
/// As [`plan`].
pub fn plan_after(
    last: Option<&Desired>,
    bases: &mut Bases,
    desired: &Desired,
    actual: &Actual,
) -> Result<Vec<Change>, TooSmall> {
    let last: BTreeMap<ServiceKey, &Service> = last
        .into_iter()
        .flat_map(|last| &last.services)
        .map(|service| (service.key, service))
        .collect();
    let mut planner = Planner::new(actual, &desired.pools);
    let sizes = rings::sizes(&desired.services, |service| planner.ring_size(service));
    let mut directory = Vec::new();
    for (service, ring_size) in desired.services.iter().zip(sizes) {
        let same = last.get(&service.key).is_some_and(|last| rings::same_inputs(last, service));
        directory.push(planner.service(service, ring_size, same, bases));
    }
    planner.check_room()?;
    Ok(planner.finish(directory))
}

/// Collects changes while services are gone through.
struct Planner<'a> {
    actual: &'a Actual,
    service_ids: BTreeMap<ServiceKey, ServiceId>,
    backend_ids: BTreeMap<(ServiceId, BackendKey), BackendId>,
    free_services: Numbers,
    free_backends: Numbers,
    free_ports: Numbers,
    ports: BTreeMap<u32, u32>,
    ranges: Ranges,
    answers: Answers,
    pools: &'a Pools,
    places: Places,
    kept_backends: BTreeSet<BackendId>,
    used_ports: BTreeSet<u32>,
    set_ports: Vec<Change>,
    set_backends: Vec<Change>,
    /// Deaths: packets of a slot that has moved already don't wait for them.
    bury_backends: Vec<Change>,
    set_slots: Vec<(u32, Slot)>,
    clear_slots: Vec<(u32, Slot)>,
}

impl<'a> Planner<'a> {
    fn new(actual: &'a Actual, pools: &'a Pools) -> Self {
        let taken = actual
            .services
            .values()
            .map(|service| (service.entry.ring_start, service.entry.ring_size));
        Self {
            actual,
            service_ids: actual.services.iter().map(|(id, s)| (s.entry.key, *id)).collect(),
            backend_ids: actual
                .backends
                .iter()
                .map(|(id, record)| ((ServiceId(record.service), backend_key(record)), *id))
                .collect(),
            free_services: Numbers::from(1, actual.services.keys().map(|id| id.0)),
            free_backends: Numbers::from(1, actual.backends.keys().map(|id| id.0)),
            free_ports: Numbers::from(0, actual.ports.keys().copied()),
            ports: actual.ports.iter().map(|(port, ifindex)| (*ifindex, *port)).collect(),
            ranges: Ranges::with(taken),
            answers: Answers::default(),
            pools,
            places: Places::of(&actual.pools),
            kept_backends: BTreeSet::new(),
            used_ports: BTreeSet::new(),
            set_ports: Vec::new(),
            set_backends: Vec::new(),
            bury_backends: Vec::new(),
            set_slots: Vec::new(),
            clear_slots: Vec::new(),
        }
    }

    /// Slots of a service's ring, as it is.
    fn ring_size(&self, service: &Service) -> Option<u32> {
        let id = self.service_ids.get(&service.key)?;
        Some(self.actual.services.get(id)?.entry.ring_size)
    }

    /// `same_ring`: its ring, if it has that size, is what it shall be.
    fn service(
        &mut self,
        service: &Service,
        ring_size: u32,
        same_ring: bool,
        bases: &mut Bases,
    ) -> DirectoryService {
        let id = match self.service_ids.get(&service.key) {
            Some(id) => *id,
            None => ServiceId(self.free_services.take()),
        };
        let ids: BTreeMap<BackendKey, BackendId> = service
            .backends
            .iter()
            .chain(&service.leaving)
            .map(|backend| (backend.key, self.backend(id, service, backend)))
            .collect();

        let present = self.actual.services.get(&id);
        let (ring_start, before) = match present {
            Some(present) if present.entry.ring_size == ring_size => {
                (present.entry.ring_start, Before::Same(&present.ring))
            }
            Some(present) => (self.ranges.take(ring_size), Before::Resized(&present.ring)),
            None => (self.ranges.take(ring_size), Before::Nothing),
        };
        if !(same_ring && matches!(before, Before::Same(_))) {
            self.set_slots
                .extend(rings::changes(service, &ids, &before, ring_start, ring_size, bases));
        }

        DirectoryService {
            id,
            key: service.key,
            ring_start,
            ring_size,
            affinity: service.affinity,
            idle_seconds: service.idle_seconds,
            answers: self.answers.add(service, id, &ids),
            icmp_echo: service.icmp_echo,
        }
    }

    fn backend(
        &mut self,
        service_id: ServiceId,
        service: &Service,
        backend: &crate::model::Backend,
    ) -> BackendId {
        let known = self.backend_ids.get(&(service_id, backend.key)).copied();
        let id = known.unwrap_or_else(|| BackendId(self.free_backends.take()));
        let present = known.and_then(|id| self.actual.backends.get(&id));
        let generation = match present {
            Some(present) => present.generation,
            // Never 0: that is a number which nobody had, and no map tells the two apart.
            None => self.actual.generations.get(&id).map_or(1, |last| last.wrapping_add(1).max(1)),
        };
        let port = match backend.route.as_ref().map_or(0, |route| route.egress_ifindex) {
            0 => 0,
            ifindex => self.port(ifindex),
        };
        let pool = (backend.forward == Forward::Fullnat).then(|| {
            let source = backend.route.as_ref().and_then(|route| route.outer_source);
            let addresses = self.pools.toward(backend.key.address, source);
            self.places.range(&addresses, &self.pools.ports)
        });
        let record =
            record::build(service_id, service.key.vip, backend, generation, port, pool.flatten());
        if present.is_none_or(|present| !same(present, &record)) {
            let dies = present.is_some_and(|present| present.alive > record.alive);
            let change = Change::SetBackend { id, record: Box::new(record) };
            let changes = if dies { &mut self.bury_backends } else { &mut self.set_backends };
            changes.push(change);
        }
        self.kept_backends.insert(id);
        id
    }

    /// The device map's index of an interface.
    fn port(&mut self, ifindex: u32) -> u32 {
        let port = match self.ports.get(&ifindex) {
            Some(port) => *port,
            None => {
                let port = self.free_ports.take();
                self.ports.insert(ifindex, port);
                self.set_ports.push(Change::SetPort { port, ifindex });
                port
            }
        };
        self.used_ports.insert(port);
        port
    }

    fn check_room(&self) -> Result<(), TooSmall> {
        let present = self.actual.capacity;
        let needed = Capacity {
            slots: self.ranges.end(),
            backends: self.free_backends.end(),
            ports: self.free_ports.end(),
        };
        let fits = needed.slots <= present.slots
            && needed.backends <= present.backends
            && needed.ports <= present.ports;
        if fits { Ok(()) } else { Err(TooSmall { needed, present }) }
    }

    fn finish(mut self, directory: Vec<DirectoryService>) -> Vec<Change> {
        let mut changes = self.set_ports;
        changes.append(&mut self.places.changes);
        let present: Vec<_> = self.actual.services.values().map(|s| s.entry).collect();
        let answers = self.answers.all();
        // Before any packet goes to where they come from.
        let new = answers.iter().filter(|(key, entry)| self.actual.answers.get(key) != Some(entry));
        changes.extend(new.map(|(&key, &entry)| Change::SetAnswer { key, entry }));
        changes.extend(heedful(&present, &directory));
        changes.append(&mut self.set_backends);
        if !self.set_slots.is_empty() {
            changes.push(Change::SetSlots { slots: self.set_slots });
        }
        let mut sorted = directory.clone();
        sorted.sort_by_key(|service| service.id);
        if sorted != present {
            changes.push(Change::SetDirectory { services: sorted.clone() });
        }
        changes.append(&mut self.bury_backends);

        // A ring that no service has any more is emptied: the next one there starts from nothing.
        for service in &present {
            let kept = sorted.iter().any(|kept| kept.ring_start == service.ring_start);
            if !kept {
                let ring = service.ring_start..service.ring_start + service.ring_size;
                self.clear_slots.extend(ring.map(|index| (index, Slot::default())));
            }
        }
        let gone = |id: &&BackendId| !self.kept_backends.contains(id);
        let mut removals: Vec<Change> = Vec::new();
        if !self.clear_slots.is_empty() {
            removals.push(Change::SetSlots { slots: self.clear_slots });
        }
        removals.extend(
            self.actual.backends.keys().filter(gone).map(|id| Change::ClearBackend { id: *id }),
        );
        let gone = self.actual.answers.keys().filter(|key| !answers.contains_key(key));
        removals.extend(gone.map(|&key| Change::ClearAnswer { key }));
        let unused = |port: &&u32| !self.used_ports.contains(port);
        removals.extend(
            self.actual.ports.keys().filter(unused).map(|port| Change::ClearPort { port: *port }),
        );
        if !removals.is_empty() {
            changes.push(Change::Grace);
            changes.append(&mut removals);
        }
        changes
    }
}

/// Where services that are there begin to be answered through the balancer: a directory that has
/// the program look for answers, before the first of their packets goes out.
fn heedful(present: &[DirectoryService], desired: &[DirectoryService]) -> Option<Change> {
    let heeds = |services: &[DirectoryService]| services.iter().fold(0, |all, s| all | s.answers);
    let flags = |id| desired.iter().find(|service| service.id == id).map_or(0, |s| s.answers);
    let services: Vec<_> = present
        .iter()
        .map(|service| DirectoryService {
            answers: service.answers | flags(service.id),
            ..*service
        })
        .collect();
    (heeds(&services) != heeds(present)).then_some(Change::SetDirectory { services })
}

/// Equal but for which of the two versions is in force, which is the data plane's business.
fn same(present: &BackendRecord, planned: &BackendRecord) -> bool {
    BackendRecord { active: 0, ..*present } == BackendRecord { active: 0, ..*planned }
}
