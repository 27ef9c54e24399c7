//! A service's ring: its size, and which slots change.

use lb_common::{
    id::BackendId,
    layout::Slot,
    ring::{Member, Ring, default_size, member_key},
};

use super::record::address_bytes;
use crate::model::{Backend, Service};

/// Fewest slots for each backend before a ring that has its size from the default must grow:
/// rounding to whole slots then costs a backend of average weight up to 3 %.
const FEWEST_SLOTS_EACH: usize = 34;

/// Slots of a service's ring. A ring that is there keeps its size while it can, since another
/// size moves every flow.
pub(super) fn size(service: &Service, present: Option<u32>) -> u32 {
    if let Some(configured) = service.ring_size {
        return configured;
    }
    let backends = service.backends.len();
    present
        .filter(|&size| size as usize >= backends * FEWEST_SLOTS_EACH)
        .unwrap_or_else(|| default_size(backends))
}

/// The slots to write, by index in the slot table: those that differ from what the ring holds, or
/// all of a new ring, whose place may hold another's remains. `ids` are the backends' numbers in
/// the service's order.
pub(super) fn changes(
    service: &Service,
    ids: &[BackendId],
    before: Option<&[Slot]>,
    ring_start: u32,
    ring_size: u32,
) -> Vec<(u32, Slot)> {
    let members: Vec<Member> = service.backends.iter().map(member).collect();
    let ring = Ring::build(&members, ring_size);
    let owner = |slot: usize| match &ring {
        Some(ring) => ids[usize::from(ring.owners()[slot])],
        None => BackendId::NONE,
    };
    (0..ring_size as usize)
        .map(|slot| (slot, Slot::stable(owner(slot))))
        .filter(|&(slot, after)| before.is_none_or(|before| before[slot] != after))
        .map(|(slot, after)| (ring_start + slot as u32, after))
        .collect()
}

fn member(backend: &Backend) -> Member {
    Member {
        key: member_key(address_bytes(backend.key.address), backend.key.port.unwrap_or(0)),
        weight: backend.weight,
        live: backend.live_permille,
    }
}
