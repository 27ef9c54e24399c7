//! Changes, put into the maps.

use std::mem::offset_of;

use lb_common::{
    directory_builder,
    id::BackendId,
    layout::{BackendEntry, BackendRecord, Directory, Half, SERVICE_POSITIONS, VIP_POSITIONS},
};

use super::{DataPlane, Error, read::entry, sys};
use crate::plan::{Change, DirectoryService};

impl DataPlane {
    /// Makes one change. After it, every packet is served by it; [`Change::Grace`] tells when no
    /// packet is served without it any more.
    ///
    /// # Errors
    /// If it names what the maps don't hold, or the kernel refuses. Nothing of it is in force then,
    /// but for slots.
    pub(crate) fn apply(&mut self, change: &Change) -> Result<(), Error> {
        match change {
            Change::SetPort { port, ifindex } => self.maps.set_port(*port, *ifindex),
            Change::ClearPort { port } => sys::delete(&self.maps.ports_fd, port).map_err(|error| {
                Error::kernel(format!("clear entry {port} of the map ports"), error)
            }),
            Change::SetBackend { id, record } => {
                if self.record(*id)?.kind == 0 {
                    self.clear_counters(*id)?;
                }
                self.put_backend(*id, record)
            }
            Change::ClearBackend { id } => {
                let generation = self.record(*id)?.generation;
                self.put_backend(*id, &BackendRecord { generation, ..BackendRecord::VACANT })
            }
            Change::SetAnswer { key, entry } => self.maps.set_answer(*key, *entry),
            Change::ClearAnswer { key } => self.maps.clear_answer(*key),
            Change::SetPool { place, address } => self.maps.pools.write(u32::from(*place), address),
            Change::ClearPool { place } => self.maps.pools.write(u32::from(*place), &[0; 16]),
            Change::SetSlots { slots } => {
                slots.iter().try_for_each(|(index, slot)| self.maps.slots.write(*index, slot))
            }
            Change::SetDirectory { services } => self.put_directory(services),
            Change::Grace => self.grace(),
        }
    }

    fn record(&self, id: BackendId) -> Result<BackendRecord, Error> {
        Ok(*self.maps.backends.read(id.0)?.active())
    }

    /// Writes the record that is not in force, then turns.
    fn put_backend(&mut self, id: BackendId, record: &BackendRecord) -> Result<(), Error> {
        if id == BackendId::NONE {
            return Err(Error::Inconsistent("backend number 0 means none".into()));
        }
        let backends = &mut self.maps.backends;
        let entry = backends.read(id.0)?;
        let active = entry.records[0].active & 1;
        let present = entry.records[active as usize];
        if (BackendRecord { alive: record.alive, active: record.active, ..present }) == *record {
            return self.set_alive(id, active, record);
        }
        if self.recent_backends.contains(&id) {
            self.grace()?;
        }
        let other = 1 - active;
        // In the first record the field goes on saying which is in force.
        let record = BackendRecord { active, ..*record };
        let backends = &mut self.maps.backends;
        backends.write_part(id.0, other as usize * size_of::<BackendRecord>(), &record)?;
        let field = offset_of!(BackendEntry, records) + offset_of!(BackendRecord, active);
        backends.write_u32(id.0, field, other)?;
        self.recent_backends.insert(id);
        Ok(())
    }

    /// Changes in the record in force whether the backend is alive: one word, so nothing waits.
    fn set_alive(
        &mut self,
        id: BackendId,
        active: u32,
        record: &BackendRecord,
    ) -> Result<(), Error> {
        let [a, b] = record.port.to_ne_bytes();
        let word = u32::from_ne_bytes([a, b, record.alive, record.reserved[0]]);
        let field = active as usize * size_of::<BackendRecord>() + offset_of!(BackendRecord, port);
        self.maps.backends.write_u32(id.0, field, word)
    }

    /// Writes the half that is not in force, then turns.
    fn put_directory(&mut self, services: &[DirectoryService]) -> Result<(), Error> {
        let entries: Vec<_> = services.iter().map(entry).collect();
        for service in services {
            let end = u64::from(service.ring_start) + u64::from(service.ring_size);
            let len = self.maps.slots.len();
            if end > len.into() {
                return Err(Error::OutOfBounds { map: "slots", index: end - 1, len });
            }
        }
        let tables = directory_builder::build(&entries)?;
        if self.recent_directory {
            self.grace()?;
        }
        let maps = &mut self.maps;
        let half = 1 - (maps.directory.read(0)?.active & 1);
        for (position, vip) in (half * VIP_POSITIONS..).zip(&tables.vips) {
            maps.vips.write(position, vip)?;
        }
        for (position, service) in (half * SERVICE_POSITIONS..).zip(&tables.services) {
            maps.services.write(position, service)?;
        }
        let offset = offset_of!(Directory, halves) + half as usize * size_of::<Half>();
        maps.directory.write_part(0, offset, &tables.half)?;
        maps.directory.write_u32(0, offset_of!(Directory, active), half)?;
        self.recent_directory = true;
        Ok(())
    }
}
