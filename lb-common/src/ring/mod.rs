//! A service's consistent-hash ring: which backend owns which slot.
//!
//! The base ring is Maglev (Eisenbud et al., NSDI 2016, section 3.4) over all *configured*
//! members by configured weight. A member at less than its full live weight gives up the slots
//! that it claimed last, down to its live share; the members below their share take those up, in
//! their own preference order. So a ring follows from the configured set and the live weights
//! alone: it has no history, every balancer computes the same one, a failure moves the failed
//! member's slots and no others, and recovery restores the ring exactly.

mod hash;
mod share;
mod size;
#[cfg(test)]
mod tests;

pub use hash::member_key;
pub use size::{MAX_SIZE, MAX_SLOTS, default_size};

use hash::Preference;
pub(crate) use hash::mix;

/// Live weight of a member that serves its full configured weight, in thousandths.
pub const FULL: u16 = 1000;

/// The most members that a ring takes.
pub const MAX_MEMBERS: usize = 1 << 16;

/// A backend as its ring sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Member {
    /// Chooses its preferred slots; unique in the ring and the same on every balancer:
    /// [`member_key`].
    pub key: u64,
    /// Configured weight; 0 owns nothing.
    pub weight: u16,
    /// The share of its weight that it serves now, in thousandths; more than [`FULL`] is `FULL`.
    pub live: u16,
}

/// The owner of every slot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ring {
    owners: Vec<u16>,
}

impl Ring {
    /// Builds the ring of `size` slots; `size` should be a prime (any other works, and spreads a
    /// little worse).
    ///
    /// `None` if nobody can own a slot: no member has live weight, or there are no slots.
    /// A slot count is within 1 of a member's live share, and above it only by rounding. The
    /// members' order doesn't matter.
    ///
    /// # Panics
    /// If there are more than [`MAX_MEMBERS`] members or [`MAX_SIZE`] slots.
    pub fn build(members: &[Member], size: u32) -> Option<Self> {
        assert!(members.len() <= MAX_MEMBERS, "{} members in a ring", members.len());
        assert!(size <= MAX_SIZE, "a ring of {size} slots");
        let mut order: Vec<u16> = (0..members.len()).map(|index| index as u16).collect();
        order.sort_unstable_by_key(|&index| (members[usize::from(index)], index));
        let sorted: Vec<Member> = order.iter().map(|&index| members[usize::from(index)]).collect();
        let configured: Vec<u64> = sorted.iter().map(|member| u64::from(member.weight)).collect();
        let live: Vec<u64> = sorted.iter().map(Member::live_weight).collect();
        if size == 0 || live.iter().all(|&weight| weight == 0) {
            return None;
        }

        let mut filling = Filling::new(&sorted, size);
        filling.fill(&configured, size);
        let kept = filling.keep(&configured, &live);
        let free = size - kept.iter().sum::<u32>();
        filling.fill(&share::lacks(&live, &kept, size), free);

        let owners = filling.owners.iter().map(|&owner| order[usize::from(owner)]).collect();
        Some(Self { owners })
    }

    /// For each slot, the index of its owner in the members that the ring was built from.
    pub fn owners(&self) -> &[u16] {
        &self.owners
    }
}

impl Member {
    fn live_weight(&self) -> u64 {
        u64::from(self.weight) * u64::from(self.live.min(FULL))
    }
}

/// A ring while its slots are claimed, by members in the order of their keys.
struct Filling {
    preferences: Vec<Preference>,
    /// Owner of each slot; means nothing where the slot isn't taken.
    owners: Vec<u16>,
    /// A bit for each slot that is taken.
    taken: Vec<u64>,
    /// Each claim, in the order of time: a slot.
    claims: Vec<u32>,
}

impl Filling {
    fn new(members: &[Member], size: u32) -> Self {
        Self {
            preferences: members.iter().map(|member| Preference::new(member.key, size)).collect(),
            owners: vec![0; size as usize],
            taken: vec![0; size.div_ceil(64) as usize],
            claims: Vec::with_capacity(size as usize),
        }
    }

    /// Lets the members claim `count` free slots, in turns at the given rates: each time the next
    /// one in the member's preference order that is free.
    fn fill(&mut self, rates: &[u64], count: u32) {
        let mut walks: Vec<_> = self.preferences.iter().map(Preference::walk).collect();
        for member in share::turns(rates, count) {
            let walk = &mut walks[usize::from(member)];
            let slot = loop {
                let slot = walk.next();
                if self.taken[(slot >> 6) as usize] & (1 << (slot & 63)) == 0 {
                    break slot;
                }
            };
            self.taken[(slot >> 6) as usize] |= 1 << (slot & 63);
            self.owners[slot as usize] = member;
            self.claims.push(slot);
        }
    }

    /// Makes each member give up its last claims above its live share, rounded up. Returns what
    /// each one kept.
    fn keep(&mut self, configured: &[u64], live: &[u64]) -> Vec<u32> {
        let size = self.owners.len() as u32;
        let limits = share::ceilings(live, size);
        let full = |member: usize| live[member] == configured[member] * u64::from(FULL);
        let mut kept = vec![0; limits.len()];
        for &slot in &self.claims {
            let member = usize::from(self.owners[slot as usize]);
            // A member at its full weight has a live share of at least its configured one.
            if kept[member] < limits[member] || full(member) {
                kept[member] += 1;
            } else {
                self.taken[(slot >> 6) as usize] &= !(1 << (slot & 63));
            }
        }
        kept
    }
}
