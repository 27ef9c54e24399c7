//! A service's ring: its size, and which slots change.

use std::collections::BTreeMap;

use lb_common::{
    id::BackendId,
    layout::{Affinity, Slot},
    ring::{Member, Ring, default_size, member_key},
};

use super::record::address_bytes;
use crate::model::{BackendKey, FormerRing, Service};

/// Slots of a service's ring: a pure function of the config, so that every balancer has the same.
pub fn size(ring_size: Option<u32>, backends: usize) -> u32 {
    ring_size.unwrap_or_else(|| default_size(backends))
}

/// Whether both want the same ring of the same backends.
pub(super) fn same_inputs(one: &Service, other: &Service) -> bool {
    let inputs = |service: &Service| {
        let members = service.backends.iter().map(|b| (b.key, b.weight, b.live_permille));
        let leaving = service.leaving.iter().map(|b| b.key);
        let (members, leaving): (Vec<_>, Vec<_>) = (members.collect(), leaving.collect());
        (service.affinity, service.ring_size, members, leaving)
    };
    inputs(one) == inputs(other)
}

/// What a ring's place held before.
pub(super) enum Before<'a> {
    /// The service's own ring, of the same size.
    Same(&'a [Slot]),
    /// The service's own ring, of another size and in another place.
    Resized(&'a [Slot]),
    /// Nothing of this service: what its former rings say.
    Nothing,
}

/// The slots to write, by index in the slot table: those that differ from what the ring holds, or
/// all of a new ring, whose place may hold another's remains. `ids` are the numbers of the
/// service's backends, leaving ones too.
pub(super) fn changes(
    service: &Service,
    ids: &BTreeMap<BackendKey, BackendId>,
    before: &Before<'_>,
    ring_start: u32,
    ring_size: u32,
) -> Vec<(u32, Slot)> {
    let owners = owners(service.backends.iter().map(|b| (b.key, b.weight, b.live_permille)), ids);
    let ring = owners.ring(ring_size);
    let former: Vec<_> = match before {
        Before::Nothing => service.former.iter().map(|ring| former_owners(ring, ids)).collect(),
        Before::Same(_) | Before::Resized(_) => Vec::new(),
    };
    let kept: Vec<BackendId> = {
        let mut kept: Vec<_> = ids.values().copied().collect();
        kept.sort_unstable();
        kept
    };
    let lives = |id: BackendId| kept.binary_search(&id).is_ok();
    let from = |index: usize| match before {
        Before::Same(slots) => slots[index],
        Before::Resized(slots) => from_resized(slots, index, ring_size),
        Before::Nothing => former.iter().fold(Slot::VACANT, |slot, (ring, owners)| {
            slot.toward(owners.of(ring, resized(index, ring_size, ring_len(ring, ring_size))))
        }),
    };
    // Nearly all slots at nearly every change, and a dead backend's slots wait for this.
    let stays = |index: usize, owner: BackendId| match before {
        Before::Same(slots) => slots[index] == Slot::stable(owner),
        Before::Resized(_) | Before::Nothing => false,
    };
    (0..ring_size as usize)
        .map(|index| {
            let owner = owners.of(&ring, index);
            let slot = match service.affinity {
                // Each packet stands alone: no flow can break.
                Affinity::Packet => Slot::stable(owner),
                _ if stays(index, owner) => Slot::stable(owner),
                _ => from(index).without_gone(lives).toward(owner),
            };
            (index, slot)
        })
        .filter(|&(index, after)| match before {
            Before::Same(slots) => slots[index] != after,
            Before::Resized(_) | Before::Nothing => true,
        })
        .map(|(index, after)| (ring_start + index as u32, after))
        .collect()
}

/// What a slot was in the service's ring of another size. Where it has hashes of two slots, the
/// owner of most is `previous`, the other one an elder.
fn from_resized(before: &[Slot], index: usize, size: u32) -> Slot {
    let len = before.len() as u64;
    let slot = before[resized(index, size, before.len() as u32)];
    let first = before[(index as u64 * len / u64::from(size)) as usize];
    let last = before[(((index as u64 + 1) * len - 1) / u64::from(size)) as usize];
    let other = [first, last].into_iter().find(|other| other.previous() != slot.previous());
    match other {
        Some(other) => Slot::moving(slot.current(), slot.previous(), other.previous()),
        None => slot,
    }
}

/// The slot of a ring of `before` slots that has (most of) the hashes of slot `index` of one of
/// `size`: the reduction of a hash is monotonic.
fn resized(index: usize, size: u32, before: u32) -> usize {
    if size == before {
        return index;
    }
    let middle = (2 * index as u64 + 1) * u64::from(before) / (2 * u64::from(size));
    middle as usize
}

fn ring_len(ring: &Option<Ring>, otherwise: u32) -> u32 {
    ring.as_ref().map_or(otherwise, |ring| ring.owners().len() as u32)
}

/// Ring members with the numbers that they have now.
struct Owners {
    members: Vec<Member>,
    ids: Vec<BackendId>,
}

impl Owners {
    fn ring(&self, size: u32) -> Option<Ring> {
        Ring::build(&self.members, size)
    }

    fn of(&self, ring: &Option<Ring>, slot: usize) -> BackendId {
        match ring {
            Some(ring) => self.ids[usize::from(ring.owners()[slot])],
            None => BackendId::NONE,
        }
    }
}

/// Who is gone has no number: its slots are nobody's.
fn owners(
    members: impl Iterator<Item = (BackendKey, u16, u16)>,
    ids: &BTreeMap<BackendKey, BackendId>,
) -> Owners {
    let (members, ids) = members
        .map(|(key, weight, live)| {
            let member = Member {
                key: member_key(address_bytes(key.address), key.port.unwrap_or(0)),
                weight,
                live,
            };
            (member, ids.get(&key).copied().unwrap_or(BackendId::NONE))
        })
        .unzip();
    Owners { members, ids }
}

fn former_owners(
    former: &FormerRing,
    ids: &BTreeMap<BackendKey, BackendId>,
) -> (Option<Ring>, Owners) {
    let owners = owners(former.members.iter().map(|m| (m.key, m.weight, m.live_permille)), ids);
    (owners.ring(former.ring_size), owners)
}

#[cfg(test)]
mod tests {
    use lb_common::hash::reduce;

    use super::*;

    /// Most hashes of a slot were in the slot that it is taken to come from.
    #[test]
    fn a_resized_ring_keeps_most_hashes_where_they_were() {
        let cases = [(65_537, 131_071, 87), (131_071, 65_537, 49), (251, 251, 100), (13, 8191, 99)];
        for (before, after, least_percent) in cases {
            let same = (0..100_000_u64)
                .map(|n| n.wrapping_mul(0x9e37_79b9_7f4a_7c15))
                .filter(|&hash| {
                    let slot = reduce(hash, after) as usize;
                    resized(slot, after, before) == reduce(hash, before) as usize
                })
                .count();
            assert!(same >= least_percent * 1000, "{before} to {after}: {same}");
        }
    }
}
