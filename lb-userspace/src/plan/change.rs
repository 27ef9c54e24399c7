//! What the maps hold, and the steps that change them.

use std::collections::BTreeMap;

use lb_common::{
    id::{BackendId, ServiceId},
    layout::{Affinity, AnswerEntry, AnswerKey, BackendRecord, Slot},
    network::Address,
};

use crate::model::ServiceKey;

/// A mirror of the maps: read from them once at the start, kept by [`Actual::apply`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Actual {
    /// The directory's services by number.
    pub services: BTreeMap<ServiceId, ActualService>,
    /// Records in force by number; vacant ones are left out.
    pub backends: BTreeMap<BackendId, BackendRecord>,
    /// The last generation that a number's record had, also of numbers that are vacant now; 1 or
    /// more.
    pub generations: BTreeMap<BackendId, u32>,
    /// What becomes of backends' answers, by where they come from.
    pub answers: BTreeMap<AnswerKey, AnswerEntry>,
    /// Addresses of pools, by place.
    pub pools: BTreeMap<u8, Address>,
    /// Ifindex of each entry of the device map, by index.
    pub ports: BTreeMap<u32, u32>,
    /// Slots outside of all rings that aren't vacant, by index in the slot table.
    pub unclaimed: BTreeMap<u32, Slot>,
    /// Places in the slot table, the backend table and the device map.
    pub capacity: Capacity,
}

/// How much the maps hold.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Capacity {
    /// Slots of all rings together.
    pub slots: u32,
    /// Backend numbers, 0 (none) included.
    pub backends: u32,
    /// Entries of the device map.
    pub ports: u32,
}

/// A service as the maps have it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ActualService {
    /// Its entry in the directory.
    pub entry: DirectoryService,
    /// Its ring, `entry.ring_size` slots from `entry.ring_start` on.
    pub ring: Vec<Slot>,
}

/// What the directory says of a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DirectoryService {
    /// Its number; 1 or more.
    pub id: ServiceId,
    /// What packets it takes.
    pub key: ServiceKey,
    /// First slot of its ring in the slot table.
    pub ring_start: u32,
    /// Slots of its ring.
    pub ring_size: u32,
    /// Which parts of a packet choose its slot.
    pub affinity: Affinity,
    /// How long in seconds a flow may be quiet and still be one.
    pub idle_seconds: u32,
    /// [`lb_common::layout::ServiceEntry::answers`].
    pub answers: u8,
    /// Echo requests to its VIP are answered.
    pub icmp_echo: bool,
}

/// One step. A plan's steps are safe in their order: after each one every packet is served by
/// whole records, rings and directories.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Point an entry of the device map at an interface.
    SetPort {
        /// Index in the device map.
        port: u32,
        /// The interface.
        ifindex: u32,
    },
    /// Empty an entry of the device map.
    ClearPort {
        /// Index in the device map.
        port: u32,
    },
    /// Put a backend's record in force (the program never sees half of it).
    SetBackend {
        /// Its number.
        id: BackendId,
        /// The record; `active` is the data plane's business.
        record: Box<BackendRecord>,
    },
    /// Make a backend's number vacant.
    ClearBackend {
        /// Its number.
        id: BackendId,
    },
    /// Turn answers from there back, at once.
    SetAnswer {
        /// Where they come from.
        key: AnswerKey,
        /// What becomes of them.
        entry: AnswerEntry,
    },
    /// Put an address of a pool into a vacant place.
    SetPool {
        /// The place.
        place: u8,
        /// The address; an IPv4 address is mapped.
        address: Address,
    },
    /// Vacate a place from which no flow is.
    ClearPool {
        /// The place.
        place: u8,
    },
    /// Turn answers from there back no longer.
    ClearAnswer {
        /// Where they come from.
        key: AnswerKey,
    },
    /// Write single slots, each at once.
    SetSlots {
        /// Index in the slot table, and the slot.
        slots: Vec<(u32, Slot)>,
    },
    /// Put a whole directory in force at once.
    SetDirectory {
        /// All services.
        services: Vec<DirectoryService>,
    },
    /// Wait until no program run that began before is still under way.
    Grace,
}

impl Actual {
    /// What the maps hold after a change. Hands back how many slots of rings that were there got
    /// another owner by it, by service.
    pub fn apply(&mut self, change: &Change) -> BTreeMap<ServiceKey, u64> {
        let mut moved = BTreeMap::new();
        match change {
            Change::SetPort { port, ifindex } => {
                self.ports.insert(*port, *ifindex);
            }
            Change::ClearPort { port } => {
                self.ports.remove(port);
            }
            Change::SetBackend { id, record } => {
                self.generations.insert(*id, record.generation);
                self.backends.insert(*id, BackendRecord { active: 0, ..**record });
            }
            Change::ClearBackend { id } => {
                self.backends.remove(id);
            }
            Change::SetAnswer { key, entry } => {
                self.answers.insert(*key, *entry);
            }
            Change::ClearAnswer { key } => {
                self.answers.remove(key);
            }
            Change::SetPool { place, address } => {
                self.pools.insert(*place, *address);
            }
            Change::ClearPool { place } => {
                self.pools.remove(place);
            }
            Change::SetSlots { slots } => moved = self.set_slots(slots),
            Change::SetDirectory { services } => self.set_directory(services),
            Change::Grace => {}
        }
        moved
    }

    fn set_slots(&mut self, slots: &[(u32, Slot)]) -> BTreeMap<ServiceKey, u64> {
        let mut moved = BTreeMap::new();
        let mut sorted = slots.to_vec();
        // Stable: of several writes to one slot the last one counts.
        sorted.sort_by_key(|&(index, _)| index);
        let from = |start: u64| sorted.partition_point(|&(index, _)| u64::from(index) < start);
        let mut outside = sorted.clone();
        for service in self.services.values_mut() {
            let start = u64::from(service.entry.ring_start);
            let end = start + u64::from(service.entry.ring_size);
            let mut differ = 0;
            for &(index, slot) in &sorted[from(start)..from(end)] {
                let place = &mut service.ring[(index - service.entry.ring_start) as usize];
                differ += u64::from(place.current() != slot.current());
                *place = slot;
            }
            if differ > 0 {
                moved.insert(service.entry.key, differ);
            }
            if from(start) < from(end) {
                outside.retain(|&(index, _)| !(start..end).contains(&index.into()));
            }
        }
        outside.into_iter().for_each(|(index, slot)| self.set_unclaimed(index, slot));
        moved
    }

    fn set_unclaimed(&mut self, index: u32, slot: Slot) {
        if slot == Slot::default() {
            self.unclaimed.remove(&index);
        } else {
            self.unclaimed.insert(index, slot);
        }
    }

    fn set_directory(&mut self, services: &[DirectoryService]) {
        for (_, service) in std::mem::take(&mut self.services) {
            (service.entry.ring_start..)
                .zip(service.ring)
                .for_each(|(index, slot)| self.set_unclaimed(index, slot));
        }
        for entry in services {
            let range = entry.ring_start..entry.ring_start + entry.ring_size;
            let mut ring = vec![Slot::default(); entry.ring_size as usize];
            for (&index, &slot) in self.unclaimed.range(range) {
                ring[(index - entry.ring_start) as usize] = slot;
            }
            self.services.insert(entry.id, ActualService { entry: *entry, ring });
        }
        // Afterwards, so that several services may share a ring.
        for entry in services {
            let mut rest = self.unclaimed.split_off(&entry.ring_start);
            self.unclaimed.append(&mut rest.split_off(&(entry.ring_start + entry.ring_size)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Protocol;

    fn service(id: u32, ring_start: u32, ring_size: u32) -> DirectoryService {
        let vip = std::net::Ipv4Addr::from(id).into();
        let key = ServiceKey { vip, port: None, protocol: Protocol::Tcp };
        let affinity = Affinity::Flow;
        DirectoryService {
            id: ServiceId(id),
            key,
            ring_start,
            ring_size,
            affinity,
            idle_seconds: 60,
            answers: 0,
            icmp_echo: false,
        }
    }

    fn slot(owner: u32) -> Slot {
        Slot::stable(BackendId(owner))
    }

    fn set_slots(slots: &[(u32, u32)]) -> Change {
        Change::SetSlots {
            slots: slots.iter().map(|&(index, owner)| (index, slot(owner))).collect(),
        }
    }

    fn set_directory(services: &[DirectoryService]) -> Change {
        Change::SetDirectory { services: services.to_vec() }
    }

    fn ring(actual: &Actual, id: u32) -> Vec<u32> {
        actual.services[&ServiceId(id)].ring.iter().map(|slot| slot.current().0).collect()
    }

    /// A plan writes a ring before the directory names it.
    #[test]
    fn a_ring_is_written_before_its_service_is_there() {
        let mut actual = Actual::default();
        actual.apply(&set_slots(&[(5, 1), (3, 9), (4, 2), (3, 3), (7, 7)]));
        actual.apply(&set_directory(&[service(1, 3, 4)]));
        assert_eq!(ring(&actual, 1), [3, 2, 1, 0]);
        assert_eq!(actual.unclaimed, BTreeMap::from([(7, slot(7))]));
    }

    #[test]
    fn slots_go_to_every_ring_that_holds_them() {
        let mut actual = Actual::default();
        actual.apply(&set_directory(&[service(1, 0, 3), service(2, 0, 3), service(3, 3, 2)]));
        let moved = actual.apply(&set_slots(&[(1, 4), (3, 5), (9, 6)]));
        assert_eq!(moved.into_values().collect::<Vec<_>>(), [1, 1, 1]);
        assert_eq!(
            [1, 2, 3].map(|id| ring(&actual, id)),
            [vec![0, 4, 0], vec![0, 4, 0], vec![5, 0]]
        );
        assert_eq!(actual.unclaimed, BTreeMap::from([(9, slot(6))]));
        actual.apply(&set_slots(&[(9, 0)]));
        assert!(actual.unclaimed.is_empty());
    }

    #[test]
    fn a_slot_moves_with_its_owner_alone() {
        let mut actual = Actual::default();
        let moved = actual.apply(&set_slots(&[(0, 1), (1, 1), (2, 1)]));
        assert!(moved.is_empty(), "nobody had the place");
        actual.apply(&set_directory(&[service(1, 0, 3)]));
        let toward = |owner| Slot::stable(BackendId(1)).toward(BackendId(owner));
        let slots = vec![(0, toward(2)), (1, slot(1)), (2, toward(3))];
        let moved = actual.apply(&Change::SetSlots { slots });
        assert_eq!(moved, BTreeMap::from([(service(1, 0, 3).key, 2)]));
        assert!(actual.apply(&set_slots(&[(0, 2), (2, 3)])).is_empty(), "they come to rest");
    }

    /// The slots of a removed service stay in the table; the next one with that place sees them.
    #[test]
    fn what_a_removed_service_leaves_is_known() {
        let mut actual = Actual::default();
        actual.apply(&set_directory(&[service(1, 0, 3)]));
        actual.apply(&set_slots(&[(0, 1), (2, 2)]));
        actual.apply(&set_directory(&[]));
        assert_eq!(actual.unclaimed, BTreeMap::from([(0, slot(1)), (2, slot(2))]));
        actual.apply(&set_directory(&[service(4, 1, 2)]));
        assert_eq!(ring(&actual, 4), [0, 2]);
    }

    #[test]
    fn generations_outlive_backends() {
        let mut actual = Actual::default();
        let id = BackendId(3);
        let record = BackendRecord { generation: 8, active: 1, kind: 2, ..BackendRecord::VACANT };
        actual.apply(&Change::SetBackend { id, record: Box::new(record) });
        assert_eq!(actual.backends[&id], BackendRecord { active: 0, ..record });
        actual.apply(&Change::ClearBackend { id });
        assert!(actual.backends.is_empty());
        assert_eq!(actual.generations[&id], 8);
    }

    #[test]
    fn ports_come_and_go() {
        let mut actual = Actual::default();
        actual.apply(&Change::SetPort { port: 1, ifindex: 7 });
        assert_eq!(actual.ports, BTreeMap::from([(1, 7)]));
        actual.apply(&Change::ClearPort { port: 1 });
        assert_eq!(actual, Actual::default());
    }
}
