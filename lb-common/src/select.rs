//! From a packet to its service, its slot and its backend.

use crate::{
    flow::{Flow, destination_port},
    hash::reduce,
    id::BackendId,
    layout::{
        Affinity, BackendEntry, BackendRecord, Directory, Half, PROTOCOL_TCP, PROTOCOL_UDP,
        SERVICE_POSITIONS, ServiceEntry, VIP_POSITIONS, VipEntry, service_key,
    },
    network::{Network, TCP, UDP},
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

/// The backend that owns the hash's slot.
///
/// # Errors
/// [`DropReason::NoBackend`] for an empty ring or slot; [`DropReason::Inconsistent`] where the
/// ring names a place outside the tables.
#[inline(always)]
pub fn backend<T: Tables>(
    hash: u64,
    service: &ServiceEntry,
    tables: &T,
) -> Result<BackendId, DropReason> {
    if service.ring_size == 0 {
        return Err(DropReason::NoBackend);
    }
    let index = service.ring_start.wrapping_add(reduce(hash, service.ring_size));
    let slot = tables.slot(index).ok_or(DropReason::Inconsistent)?;
    slot.current().known().ok_or(DropReason::NoBackend)
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
