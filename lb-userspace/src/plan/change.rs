//! What the maps hold, and the steps that change them.

use std::collections::BTreeMap;

use lb_common::{
    id::{BackendId, ServiceId},
    layout::{Affinity, BackendRecord, Slot},
};

use crate::model::ServiceKey;

/// A mirror of the maps: read from them once at the start, kept by [`Actual::apply`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Actual {
    /// The directory's services by number.
    pub services: BTreeMap<ServiceId, ActualService>,
    /// Records in force by number; vacant ones are left out.
    pub backends: BTreeMap<BackendId, BackendRecord>,
    /// The last generation that a number's record had, also of numbers that are vacant now.
    pub generations: BTreeMap<BackendId, u32>,
    /// Ifindex of each entry of the device map, by index.
    pub ports: BTreeMap<u32, u32>,
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
