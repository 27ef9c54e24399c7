//! A service's consistent-hash ring: which backend owns which slot.
//!
//! The base ring is Maglev (Eisenbud et al., NSDI 2016, section 3.4) over all *configured*
//! members by configured weight. A member at less than its full live weight gives up the slots
//! that it claimed last, down to its live share; the members below their share take those up, in
//! their own preference order. So a ring follows from the configured set and the live weights
//! alone: it has no history, every balancer computes the same one, a failure moves the failed
//! member's slots and no others, and recovery restores the ring exactly.

mod base;
mod hash;
mod share;
mod size;
#[cfg(test)]
mod tests;

pub use base::Base;
pub use hash::member_key;
pub use size::{MAX_SIZE, MAX_SLOTS, default_size};

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
    /// Whoever builds rings of one configured set again and again keeps its [`Base`].
    ///
    /// A slot count is within 1 of a member's live share, and above it only by rounding. The
    /// members' order doesn't matter.
    ///
    /// # Panics
    /// If there are more than [`MAX_MEMBERS`] members or [`MAX_SIZE`] slots.
    pub fn build(members: &[Member], size: u32) -> Option<Self> {
        Base::claim(members, size).ring(members)
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
