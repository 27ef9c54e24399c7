//! The maps read back: what a starting agent finds in force.

use lb_common::{
    directory_builder::{self, Entry, Transport},
    id::{BackendId, ServiceId},
    layout::{BackendRecord, POOLS, SERVICE_POSITIONS, Slot, VIP_POSITIONS},
    network::Address,
};

use super::{DataPlane, Error, memory::MappedArray};
use crate::{
    model::{Protocol, ServiceKey},
    plan::{Actual, ActualService, DirectoryService},
};

impl DataPlane {
    /// All that is in force.
    ///
    /// # Errors
    /// If the maps contradict themselves, or the device map can't be read.
    pub(crate) fn actual(&self) -> Result<Actual, Error> {
        let mut actual = Actual { capacity: self.capacity, ..Actual::default() };
        for port in 0..self.capacity.ports {
            if let Some(ifindex) = self.maps.port(port)? {
                actual.ports.insert(port, ifindex);
            }
        }
        for id in (1..self.capacity.backends).map(BackendId) {
            let record = *self.maps.backends.read(id.0)?.active();
            if record.generation != 0 {
                actual.generations.insert(id, record.generation);
            }
            if record.kind != 0 {
                actual.backends.insert(id, BackendRecord { active: 0, ..record });
            }
        }
        actual.answers = self.maps.answers()?;
        for place in 0..=(POOLS - 1) as u8 {
            let address = self.maps.pools.read(u32::from(place))?;
            if address != Address::default() {
                actual.pools.insert(place, address);
            }
        }
        for service in self.services()? {
            let ring = part(&self.maps.slots, service.ring_start, service.ring_size)?;
            actual.services.insert(service.id, ActualService { entry: service, ring });
        }
        let slots = part(&self.maps.slots, 0, self.capacity.slots)?;
        actual.unclaimed = (0..).zip(slots).filter(|&(_, slot)| slot != Slot::default()).collect();
        for service in actual.services.values() {
            let DirectoryService { ring_start, ring_size, .. } = service.entry;
            let mut rest = actual.unclaimed.split_off(&ring_start);
            actual.unclaimed.append(&mut rest.split_off(&(ring_start + ring_size)));
        }
        Ok(actual)
    }

    /// The services of the directory's half that is in force.
    fn services(&self) -> Result<Vec<DirectoryService>, Error> {
        let half = self.maps.directory.read(0)?.active & 1;
        let vips = part(&self.maps.vips, half * VIP_POSITIONS, VIP_POSITIONS)?;
        let services = part(&self.maps.services, half * SERVICE_POSITIONS, SERVICE_POSITIONS)?;
        let entries = directory_builder::read(&vips, &services)
            .ok_or_else(|| Error::Inconsistent("the directory holds impossible entries".into()))?;
        Ok(entries.iter().map(service).collect())
    }
}

fn part<T: lb_common::layout::Plain>(
    array: &MappedArray<T>,
    start: u32,
    len: u32,
) -> Result<Vec<T>, Error> {
    let end = start
        .checked_add(len)
        .ok_or_else(|| Error::Inconsistent(format!("a ring of {len} slots from {start} on")))?;
    (start..end).map(|index| array.read(index)).collect()
}

/// A service for the directory's builder.
pub(super) fn entry(service: &DirectoryService) -> Entry {
    Entry {
        vip: service.key.vip,
        port: service.key.port,
        transport: match service.key.protocol {
            Protocol::Tcp => Transport::Tcp,
            Protocol::Udp => Transport::Udp,
        },
        id: service.id.0,
        ring_start: service.ring_start,
        ring_size: service.ring_size,
        affinity: service.affinity,
        idle_seconds: service.idle_seconds,
        answers: service.answers,
        icmp_echo: service.icmp_echo,
    }
}

fn service(entry: &Entry) -> DirectoryService {
    let protocol = match entry.transport {
        Transport::Tcp => Protocol::Tcp,
        Transport::Udp => Protocol::Udp,
    };
    DirectoryService {
        id: ServiceId(entry.id),
        key: ServiceKey { vip: entry.vip, port: entry.port, protocol },
        ring_start: entry.ring_start,
        ring_size: entry.ring_size,
        affinity: entry.affinity,
        idle_seconds: entry.idle_seconds,
        answers: entry.answers,
        icmp_echo: entry.icmp_echo,
    }
}
