//! A service's ring: its size, and which slots change.

use std::{cmp::Reverse, collections::BTreeMap};

use lb_common::{
    id::BackendId,
    layout::{Affinity, Slot},
    ring::{MAX_SLOTS, Member, Ring, default_size, member_key},
};

use super::{Bases, record::address_bytes};
use crate::model::{BackendKey, FormerRing, Service};

/// Slots of a service's ring, which has had `kept`. A configured size is obeyed; without one, a
/// ring grows with its backends and doesn't shrink: a smaller one costs flows and saves memory
/// alone.
pub fn size(configured: Option<u32>, backends: usize, kept: Option<u32>) -> u32 {
    configured.unwrap_or_else(|| default_size(backends).max(kept.unwrap_or(0)))
}

/// Slots of each service's ring. `present` tells of rings that are there; from empty maps, the
/// history tells. No ring keeps what would make all of them more than there may be.
pub(super) fn sizes(services: &[Service], present: impl Fn(&Service) -> Option<u32>) -> Vec<u32> {
    let least = |service: &Service| size(service.ring_size, service.backends.len(), None);
    let mut room = MAX_SLOTS.saturating_sub(services.iter().map(|s| u64::from(least(s))).sum());
    let size = |service: &Service| {
        let history = || service.former.last().map(|ring| ring.ring_size);
        let kept = present(service).or_else(history);
        let (least, kept) = (least(service), size(service.ring_size, service.backends.len(), kept));
        let more = u64::from(kept - least);
        if more > room {
            return least;
        }
        room -= more;
        kept
    };
    services.iter().map(size).collect()
}

/// Whether both want the same ring of the same backends.
pub(super) fn same_inputs(one: &Service, other: &Service) -> bool {
    let inputs = |service: &Service| {
        let members = service.counted().map(|b| (b.key, b.weight, b.live_permille));
        // Slots may name whom the ring hasn't: one that is gone has to be looked for.
        let named = service.backends.iter().chain(&service.leaving).map(|b| b.key);
        let (members, named): (Vec<_>, Vec<_>) = (members.collect(), named.collect());
        (service.affinity, service.ring_size, members, named)
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
    bases: &mut Bases,
) -> Vec<(u32, Slot)> {
    let owners = owners(service.counted().map(|b| (b.key, b.weight, b.live_permille)), ids);
    let ring = bases.ring(service.key, &owners.members, ring_size);
    let former = match before {
        Before::Nothing => laid_out(&service.former, ids, ring_size),
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
        Before::Nothing => former[index],
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

/// The slots of `size` that the former rings left, one after the other, in whatever size.
fn laid_out(former: &[FormerRing], ids: &BTreeMap<BackendKey, BackendId>, size: u32) -> Vec<Slot> {
    let mut slots = Vec::new();
    for former in former {
        let (ring, owners) = former_owners(former, ids);
        slots = resized(slots, former.ring_size);
        for (index, slot) in slots.iter_mut().enumerate() {
            *slot = slot.toward(owners.of(&ring, index));
        }
    }
    resized(slots, size)
}

fn resized(before: Vec<Slot>, size: u32) -> Vec<Slot> {
    if before.len() == size as usize {
        return before;
    }
    (0..size as usize).map(|index| from_resized(&before, index, size)).collect()
}

/// What a slot was in the service's ring of another size.
///
/// The reduction of a hash is monotonic, so a slot has the hashes of a few neighbours of the former
/// ring. Who had most of these, for flows without records, is `previous`, and who had most of the
/// others, an elder. `current` is that of the slot with most.
fn from_resized(before: &[Slot], index: usize, size: u32) -> Slot {
    let (index, len, size) = (index as u64, before.len() as u64, u64::from(size));
    // In parts of which a former slot has `size`, and this one `len`.
    let (start, end) = (index * len, (index + 1) * len);
    let neighbours = (start / size..end.div_ceil(size)).map(|former| {
        (before[former as usize], end.min((former + 1) * size) - start.max(former * size))
    });
    let Some((most, _)) = neighbours.clone().max_by_key(|&(_, parts)| parts) else {
        return Slot::VACANT;
    };
    if neighbours.clone().all(|(slot, _)| slot == most) {
        return most;
    }
    // Of flows without records, then of others.
    let mut parts_of: BTreeMap<BackendId, (u64, u64)> = BTreeMap::new();
    for (slot, parts) in neighbours {
        parts_of.entry(slot.previous()).or_default().0 += parts;
        for id in [slot.current(), slot.elder()] {
            parts_of.entry(id).or_default().1 += parts;
        }
    }
    parts_of.remove(&BackendId::NONE);
    let mut owners: Vec<_> = parts_of.into_iter().collect();
    owners.sort_by_key(|&(_, parts)| Reverse(parts));
    let mut owners = owners.into_iter().map(|(id, _)| id);
    let mut next = || owners.next().unwrap_or(BackendId::NONE);
    Slot::moving(most.current(), next(), next())
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
    use std::net::Ipv4Addr;

    use lb_common::hash::reduce;

    use super::*;
    use crate::model::{Backend, FormerMember, Forward, Protocol, ServiceKey};

    const FLOWS: u64 = 100_000;

    fn former_ring(ring_size: u32, count: u32) -> FormerRing {
        let key = |n| BackendKey { address: Ipv4Addr::from(0x0a00_0000 + n).into(), port: None };
        let member = |n| FormerMember { key: key(n), weight: 100, live_permille: 1000 };
        FormerRing { ring_size, members: (1..=count).map(member).collect() }
    }

    /// A service of so many backends; the others of `all` leave.
    fn crowd(count: u32, all: u32, former: Vec<FormerRing>) -> Service {
        let members = former_ring(0, all).members.into_iter();
        let mut backends: Vec<_> = members
            .map(|member| Backend {
                key: member.key,
                weight: member.weight,
                live_permille: member.live_permille,
                counted: true,
                alive: true,
                forward: Forward::Gue,
                route: None,
            })
            .collect();
        let leaving = backends.split_off(count as usize);
        Service {
            name: "web".into(),
            key: ServiceKey {
                vip: Ipv4Addr::new(203, 0, 113, 10).into(),
                port: Some(80),
                protocol: Protocol::Tcp,
            },
            affinity: Affinity::Flow,
            icmp_echo: false,
            idle_seconds: 900,
            ring_size: None,
            backends,
            leaving,
            former,
        }
    }

    #[test]
    fn a_ring_that_is_there_does_not_shrink_by_itself() {
        assert_eq!(size(None, 656, Some(65_537)), 131_071);
        assert_eq!(size(None, 655, Some(131_071)), 131_071);
        assert_eq!(size(Some(65_537), 655, Some(131_071)), 65_537);
        let services = [crowd(655, 655, Vec::new()), crowd(2, 2, vec![former_ring(524_287, 1)])];
        assert_eq!(sizes(&services, |_| None), [65_537, 524_287]);
        assert_eq!(sizes(&services, |_| Some(131_071)), [131_071, 131_071], "what is there counts");
    }

    /// Each of 4,096 services may have been large once: not all of them at the same time.
    #[test]
    fn kept_sizes_have_an_end() {
        let services = vec![crowd(1, 1, Vec::new()); 4096];
        let sizes = sizes(&services, |_| Some(1_048_573));
        let total: u64 = sizes.iter().map(|&size| u64::from(size)).sum();
        assert!(total <= MAX_SLOTS && total > MAX_SLOTS - 1_048_573, "{total}");
        assert_eq!((sizes[0], sizes[4095]), (1_048_573, 65_537));
    }

    /// Of 100,000 flows of the former ring, how many no column of their slot names any more, and
    /// how many go elsewhere without a second chance.
    fn lost((count, len): (u32, u32), (next, size): (u32, u32), cold: bool) -> [u64; 2] {
        let all = count.max(next);
        let (before, after) = (former_ring(len, count), former_ring(size, next));
        let keys = former_ring(0, all).members.into_iter().map(|member| member.key);
        let ids: BTreeMap<_, _> = keys.zip((1..).map(BackendId)).collect();
        let slots = laid_out(std::slice::from_ref(&before), &ids, len);
        let service = crowd(next, all, if cold { vec![before, after] } else { Vec::new() });
        let place = if cold { Before::Nothing } else { Before::Resized(&slots) };
        let changed = changes(&service, &ids, &place, 0, size, &mut Bases::default());
        let mut lost = [0, 0];
        for hash in (0..FLOWS).map(|n| n.wrapping_mul(0x9e37_79b9_7f4a_7c15)) {
            let owner = slots[reduce(hash, len) as usize].current();
            let (_, slot) = changed[reduce(hash, size) as usize];
            lost[0] += u64::from(slot.names().all(|id| id != owner));
            lost[1] += u64::from(slot.previous() != owner);
        }
        println!("{len} to {size}, cold: {cold}: {lost:?} of {FLOWS} flows are lost");
        lost
    }

    #[test]
    fn a_ring_that_grows_loses_no_flow_that_has_a_second_chance() {
        for cold in [false, true] {
            let [lost, without_gue] = lost((655, 65_537), (656, 131_071), cold);
            assert!(lost * 1000 < FLOWS, "{lost}");
            assert!(without_gue * 100 < FLOWS * 13, "{without_gue}");
        }
    }

    /// Three slots in one: no more is to be had by three columns.
    #[test]
    fn a_ring_that_shrinks_keeps_most_flows() {
        for cold in [false, true] {
            let [lost, without_gue] = lost((656, 131_071), (655, 65_537), cold);
            assert!(lost * 100 < FLOWS * 13, "{lost}");
            assert!(without_gue * 100 < FLOWS * 51, "{without_gue}");
        }
    }

    #[test]
    fn a_resized_slot_knows_who_had_most_of_its_hashes() {
        let ids = [1, 2, 3, 4].map(BackendId);
        let [a, b, c, d] = ids.map(Slot::stable);
        // Two of them take four former ones each, three take one and a third.
        assert_eq!(from_resized(&[a, a, a, a, a, b, b, c], 0, 2), a);
        let slot = from_resized(&[a, a, a, a, c, b, b, d], 1, 2);
        assert_eq!((slot.previous(), slot.elder()), (ids[1], ids[2]));
        assert_eq!(from_resized(&[a, b, c, d], 0, 3), Slot::moving(ids[0], ids[0], ids[1]));
        assert_eq!(from_resized(&[], 1, 3), Slot::VACANT);
        // Its flows have records, which a stable slot doesn't look for.
        let settled = Slot::moving(ids[0], ids[0], ids[1]);
        assert_eq!(from_resized(&[a, a, settled], 0, 1), settled);
    }
}
