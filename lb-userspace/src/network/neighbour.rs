//! What the kernel knows of neighbours, and the last good address of those that it lost.
//!
//! In: updates from dumps and events. Out: per neighbour, how sure its link-layer address is.
//!
//! An address that once worked stays in use while the kernel asks again: a probe, a garbage
//! collection or a deleted entry stops no traffic. Only the kernel's `FAILED`, which follows
//! unanswered probes, drops it.

use std::{collections::BTreeMap, net::IpAddr};

use crate::model::MacAddress;

/// A neighbour: an address on an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct NeighbourKey {
    pub(super) ifindex: u32,
    pub(super) address: IpAddr,
}

/// What the kernel says of a neighbour, as far as a balancer cares (`NUD_*`, linux/neighbour.h).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reachability {
    /// There is no entry, or it was never used.
    Absent,
    /// Asked for, not answered yet.
    Incomplete,
    /// Confirmed a while ago, or being confirmed.
    Known,
    /// Not confirmed lately.
    Stale,
    /// Set by the operator or by the interface: never confirmed.
    Fixed,
    /// It didn't answer.
    Failed,
}

/// One dump entry or event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct NeighbourUpdate {
    pub(super) key: NeighbourKey,
    pub(super) reachability: Reachability,
    pub(super) mac: Option<MacAddress>,
}

/// What is known of one neighbour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Neighbour {
    pub(super) reachability: Reachability,
    /// The address in use: the kernel's, or the last good one until the kernel says `FAILED`.
    pub(super) mac: Option<MacAddress>,
}

impl Neighbour {
    const UNKNOWN: Self = Self { reachability: Reachability::Absent, mac: None };
}

/// All neighbours, on all interfaces.
#[derive(Debug, Default)]
pub(super) struct Neighbours {
    entries: BTreeMap<NeighbourKey, Neighbour>,
}

impl Neighbours {
    /// One neighbour; one that was never heard of is `Absent`.
    pub(super) fn get(&self, key: &NeighbourKey) -> Neighbour {
        self.entries.get(key).copied().unwrap_or(Neighbour::UNKNOWN)
    }

    /// Takes one update in; says whether anything changed.
    pub(super) fn apply(&mut self, update: NeighbourUpdate) -> bool {
        let before = self.get(&update.key);
        let mac = match update.reachability {
            Reachability::Failed => None,
            Reachability::Absent | Reachability::Incomplete => before.mac,
            Reachability::Known | Reachability::Stale | Reachability::Fixed => update.mac,
        };
        let after = Neighbour { reachability: update.reachability, mac };
        if after == Neighbour::UNKNOWN {
            self.entries.remove(&update.key);
        } else {
            self.entries.insert(update.key, after);
        }
        before != after
    }

    /// Takes in a whole dump: what it doesn't hold is absent.
    pub(super) fn replace(&mut self, dump: &[NeighbourUpdate]) {
        let mut missing: BTreeMap<_, _> = self.entries.keys().map(|key| (*key, ())).collect();
        for update in dump {
            missing.remove(&update.key);
            self.apply(*update);
        }
        for key in missing.into_keys() {
            self.apply(NeighbourUpdate { key, reachability: Reachability::Absent, mac: None });
        }
    }

    /// Forgets the neighbours of an interface that is gone: its number may come back as another.
    pub(super) fn forget_interface(&mut self, ifindex: u32) {
        self.entries.retain(|key, _| key.ifindex != ifindex);
    }

    /// Forgets remembered addresses that nobody asks for.
    pub(super) fn forget_unwatched(&mut self, watched: impl Fn(&NeighbourKey) -> bool) {
        self.entries
            .retain(|key, entry| entry.reachability != Reachability::Absent || watched(key));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: NeighbourKey =
        NeighbourKey { ifindex: 2, address: IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 9)) };
    const MAC: MacAddress = MacAddress([2, 0, 0, 0, 0, 9]);
    const OTHER: MacAddress = MacAddress([2, 0, 0, 0, 0, 10]);

    fn update(reachability: Reachability, mac: Option<MacAddress>) -> NeighbourUpdate {
        NeighbourUpdate { key: KEY, reachability, mac }
    }

    #[test]
    fn the_last_good_address_stays_until_the_kernel_says_failed() {
        let mut neighbours = Neighbours::default();
        assert!(neighbours.apply(update(Reachability::Known, Some(MAC))));
        for lost in [Reachability::Stale, Reachability::Absent, Reachability::Incomplete] {
            let mac = (lost == Reachability::Stale).then_some(MAC);
            neighbours.apply(update(lost, mac));
            assert_eq!(neighbours.get(&KEY).mac, Some(MAC), "{lost:?}");
        }
        assert!(neighbours.apply(update(Reachability::Failed, Some(MAC))));
        assert_eq!(neighbours.get(&KEY).mac, None);
        neighbours.apply(update(Reachability::Incomplete, None));
        assert_eq!(neighbours.get(&KEY).mac, None);
    }

    #[test]
    fn a_new_address_is_taken_at_once() {
        let mut neighbours = Neighbours::default();
        neighbours.apply(update(Reachability::Known, Some(MAC)));
        assert!(neighbours.apply(update(Reachability::Stale, Some(OTHER))));
        assert_eq!(neighbours.get(&KEY).mac, Some(OTHER));
        assert!(!neighbours.apply(update(Reachability::Stale, Some(OTHER))));
    }

    #[test]
    fn a_dump_without_an_entry_keeps_only_what_is_watched() {
        let mut neighbours = Neighbours::default();
        neighbours.apply(update(Reachability::Known, Some(MAC)));
        neighbours.replace(&[]);
        let remembered = Neighbour { reachability: Reachability::Absent, mac: Some(MAC) };
        assert_eq!(neighbours.get(&KEY), remembered);
        neighbours.forget_unwatched(|key| *key == KEY);
        assert_eq!(neighbours.get(&KEY), remembered);
        neighbours.forget_unwatched(|_| false);
        assert_eq!(neighbours.get(&KEY), Neighbour::UNKNOWN);
    }

    #[test]
    fn an_interface_takes_its_neighbours_with_it() {
        let mut neighbours = Neighbours::default();
        neighbours.apply(update(Reachability::Known, Some(MAC)));
        neighbours.forget_interface(3);
        assert_eq!(neighbours.get(&KEY).mac, Some(MAC));
        neighbours.forget_interface(2);
        assert_eq!(neighbours.get(&KEY), Neighbour::UNKNOWN);
    }
}
