//! From a packet to its service, its slot and its backend.

use crate::{
    flow::{Flow, destination_port},
    hash::reduce,
    id::BackendId,
    layout::{
        Affinity, BackendEntry, BackendRecord, Directory, FAMILY_V4, FAMILY_V6, FlowKey, Half,
        PROTOCOL_TCP, PROTOCOL_UDP, SERVICE_POSITIONS, ServiceEntry, Slot, VIP_POSITIONS, VipEntry,
        service_key,
    },
    moving::{self, Choice, MovingFlow},
    network::{Address, Network, TCP, UDP, is_mapped},
    tables::Tables,
    verdict::DropReason,
};

/// The half of the directory in force while one packet is looked up.
#[derive(Clone, Copy)]
pub struct InForce<'t> {
    half: &'t Half,
    number: u32,
}

impl<'t> InForce<'t> {
    /// Reads which half is in force, once.
    #[inline(always)]
    pub fn of(directory: &'t Directory) -> Self {
        let number = directory.active() & 1;
        Self { half: &directory.halves[number as usize], number }
    }

    /// [`Half::answers`].
    #[inline(always)]
    pub fn answers(self) -> u32 {
        self.half.answers
    }
}

/// The VIP that a packet is sent to, if it is one of ours.
#[inline(always)]
pub fn vip<'t, N: Network>(
    header: &N,
    in_force: InForce<'_>,
    tables: &'t impl Tables,
) -> Option<&'t VipEntry> {
    let address = header.destination();
    let position = in_force.half.vip_position(address);
    let vip = tables.vip(in_force.number * VIP_POSITIONS + position)?;
    (vip.address == address && vip.family == N::FAMILY).then_some(vip)
}

/// Whether a service takes packets to an address and port: what comes there is no answer.
#[inline(always)]
pub fn is_served(address: &Address, port: u16, protocol: u8, tables: &impl Tables) -> bool {
    let Some(directory) = tables.directory() else { return false };
    let in_force = InForce::of(directory);
    let number = u128::from_be_bytes(*address);
    let (key, family) = if is_mapped(address) {
        ([0, number as u64 & 0xffff_ffff], FAMILY_V4)
    } else {
        ([(number >> 64) as u64, number as u64], FAMILY_V6)
    };
    let position = in_force.number * VIP_POSITIONS + in_force.half.vip_position(key);
    tables.vip(position).is_some_and(|vip| {
        vip.address == key
            && vip.family == family
            && serves(vip, protocol)
            && service(vip, protocol, u32::from(port).to_be(), in_force, tables).is_some()
    })
}

/// Whether any service of the VIP speaks the protocol.
#[inline(always)]
pub fn serves(vip: &VipEntry, protocol: u8) -> bool {
    let bit = match protocol {
        TCP => PROTOCOL_TCP,
        UDP => PROTOCOL_UDP,
        _ => 0,
    };
    vip.protocols & bit != 0
}

/// The service of a VIP's port, else the VIP's any-port service.
#[inline(always)]
pub fn service<'t>(
    vip: &VipEntry,
    protocol: u8,
    ports: u32,
    in_force: InForce<'_>,
    tables: &'t impl Tables,
) -> Option<&'t ServiceEntry> {
    let key = service_key(vip.id, protocol, destination_port(ports));
    let first = in_force.number * SERVICE_POSITIONS;
    let service = tables.service(first + in_force.half.service_position(key))?;
    if service.key == key && service.id != 0 {
        return Some(service);
    }
    let any_port = u32::from(vip.any_port[usize::from(protocol == UDP)]);
    if any_port == 0 {
        return None;
    }
    tables.service(first + (any_port - 1) % SERVICE_POSITIONS)
}

/// The hash that chooses a packet's slot.
#[inline(always)]
pub fn hash<N: Network>(
    header: &N,
    flow: &Flow,
    service: &ServiceEntry,
    tables: &impl Tables,
) -> u64 {
    let keys = tables.keys();
    if service.affinity == Affinity::Source as u8 {
        header.source_hash(keys)
    } else {
        header.flow_hash(keys, flow.ports, flow.protocol)
    }
}

/// The slot of a hash.
///
/// # Errors
/// As [`backend`].
#[inline(always)]
pub fn slot(hash: u64, service: &ServiceEntry, tables: &impl Tables) -> Result<Slot, DropReason> {
    if service.ring_size == 0 {
        return Err(DropReason::NoBackend);
    }
    let index = service.ring_start.wrapping_add(reduce(hash, service.ring_size));
    tables.slot(index).ok_or(DropReason::Inconsistent)
}

/// Who takes a packet: the owner of the hash's slot, or, in a moving slot, whom the flow lives
/// with.
///
/// # Errors
/// [`DropReason::NoBackend`] where nobody does; [`DropReason::Inconsistent`] where the ring names
/// a place outside the tables.
#[inline(always)]
pub fn backend<N: Network>(
    header: &N,
    flow: &Flow,
    hash: u64,
    service: &ServiceEntry,
    tables: &impl Tables,
) -> Result<Choice, DropReason> {
    let slot = slot(hash, service, tables)?;
    if !slot.is_moving() {
        return Ok(Choice::stable(slot));
    }
    let moving = MovingFlow {
        key: FlowKey { source: header.source_address(), ports: flow.ports, service: service.id },
        hash,
        idle_seconds: service.idle_seconds,
        protocol: flow.protocol,
        flags: flow.flags,
        reserved: 0,
    };
    Ok(moving::choose(slot, &moving, tables))
}

/// The backend's record in force.
///
/// # Errors
/// [`DropReason::Inconsistent`] where there is none, [`DropReason::Unresolved`] where its next
/// hop isn't known.
#[inline(always)]
pub fn record<T: Tables>(id: BackendId, tables: &T) -> Result<&BackendRecord, DropReason> {
    let entry: &BackendEntry = tables.backend(id).ok_or(DropReason::Inconsistent)?;
    let record = entry.active();
    if record.resolved == 0 {
        return Err(if record.kind == 0 {
            DropReason::Inconsistent
        } else {
            DropReason::Unresolved
        });
    }
    Ok(record)
}
