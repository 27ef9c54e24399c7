//! One place of a ring.

use super::Plain;
use crate::id::BackendId;

/// Bits of a slot that name a backend.
const ID_BITS: u32 = 21;
const ID_MASK: u64 = (1 << ID_BITS) - 1;
const MOVING: u64 = 1 << 63;

/// Backend numbers that a slot can hold, 0 (none) included.
pub const BACKEND_NUMBERS: u32 = 1 << ID_BITS;

/// A slot of a ring: who owns it, and, while it moves, where its flows may live.
///
/// One aligned 64-bit word, so that it is read and written whole. From the lowest bit on: 21 bits
/// each of `current`, `previous` and `elder`, then one bit that is set while the slot moves. All
/// zero is a slot without backends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(transparent)]
pub struct Slot(pub u64);

impl Slot {
    /// Nobody's.
    pub const VACANT: Self = Self(0);

    /// A slot in which all flows live with `owner`.
    pub const fn stable(owner: BackendId) -> Self {
        Self(owner.0 as u64 & ID_MASK | (owner.0 as u64 & ID_MASK) << ID_BITS)
    }

    /// A slot on its way to `current`: flows without a record live with `previous`, others may
    /// also have lived with `elder`.
    pub const fn moving(current: BackendId, previous: BackendId, elder: BackendId) -> Self {
        let columns = Self::stable(current).0 & ID_MASK
            | (previous.0 as u64 & ID_MASK) << ID_BITS
            | (elder.0 as u64 & ID_MASK) << (2 * ID_BITS);
        Self(columns | MOVING)
    }

    /// Takes new flows.
    #[inline(always)]
    pub const fn current(self) -> BackendId {
        self.column(0)
    }

    /// Has the flows that no record names: the last stable owner, or the current one once the
    /// slot is settled.
    #[inline(always)]
    pub const fn previous(self) -> BackendId {
        self.column(1)
    }

    /// Another former owner, where the flow tables that knew its flows may be gone.
    #[inline(always)]
    pub const fn elder(self) -> BackendId {
        self.column(2)
    }

    /// Flows of the slot may live with others than its current owner.
    #[inline(always)]
    pub const fn is_moving(self) -> bool {
        // The sign bit: one comparison.
        (self.0 as i64) < 0
    }

    /// It moves, but flows without a record live with the current owner.
    pub const fn is_settled(self) -> bool {
        self.is_moving() && self.current().0 == self.previous().0
    }

    #[inline(always)]
    const fn column(self, number: u32) -> BackendId {
        BackendId(((self.0 >> (number * ID_BITS)) & ID_MASK) as u32)
    }

    /// The slot once `owner` takes its new flows. It moves from then on, unless it was vacant.
    ///
    /// `previous` stays where the slot moves already: every flow of the owners between has a
    /// record. So does an elder: it may be from before the records.
    #[must_use]
    pub fn toward(self, owner: BackendId) -> Self {
        let (current, previous) = (self.current(), self.previous());
        if owner == current {
            return self;
        }
        if self == Self::VACANT {
            return Self::stable(owner);
        }
        // Nobody has flows without a record; some may live on by theirs.
        if previous == BackendId::NONE {
            let elder = if self.elder() == owner { BackendId::NONE } else { self.elder() };
            return Self::moving(owner, owner, elder);
        }
        let fits = |id: &BackendId| *id != BackendId::NONE && *id != owner && *id != previous;
        let elder = [self.elder(), current].into_iter().find(fits);
        Self::moving(owner, previous, elder.unwrap_or(BackendId::NONE))
    }

    /// The slot once no flow without a record lives with another than the current owner. The
    /// former `previous` stays as one who may have flows.
    #[must_use]
    pub fn settled(self) -> Self {
        if !self.is_moving() || self.is_settled() {
            return self;
        }
        Self::moving(self.current(), self.current(), self.previous())
    }

    /// The slot without backends that are gone: `lives` tells of the others. One that moves goes
    /// on moving: flows of those between may live by their records.
    #[must_use]
    pub fn without_gone(self, lives: impl Fn(BackendId) -> bool) -> Self {
        let kept =
            |id: BackendId| if id != BackendId::NONE && lives(id) { id } else { BackendId::NONE };
        let current = kept(self.current());
        if !self.is_moving() {
            return Self::stable(current);
        }
        let elder = kept(self.elder());
        match kept(self.previous()) {
            BackendId::NONE => Self::moving(current, current, elder),
            previous => Self::moving(current, previous, elder),
        }
    }

    /// Every backend that it names, `NONE` left out.
    pub fn names(self) -> impl Iterator<Item = BackendId> {
        [self.current(), self.previous(), self.elder()].into_iter().filter_map(BackendId::known)
    }
}

// SAFETY: one u64, transparent.
unsafe impl Plain for Slot {}

#[cfg(test)]
mod tests {
    use super::*;

    const HIGHEST: BackendId = BackendId(BACKEND_NUMBERS - 1);
    const NONE: BackendId = BackendId::NONE;
    const A: BackendId = BackendId(1);
    const B: BackendId = BackendId(2);
    const C: BackendId = BackendId(3);
    const D: BackendId = BackendId(4);

    #[test]
    fn columns_do_not_mix() {
        for slot in [Slot::moving(A, HIGHEST, B), Slot::moving(HIGHEST, A, NONE)] {
            assert_eq!(Slot::moving(slot.current(), slot.previous(), slot.elder()), slot);
            assert!(slot.is_moving());
        }
        assert_eq!(Slot::stable(HIGHEST).current(), HIGHEST);
        assert_eq!(Slot::stable(HIGHEST).previous(), HIGHEST);
        assert_eq!(Slot::stable(HIGHEST).elder(), NONE);
        assert!(!Slot::stable(HIGHEST).is_moving());
        assert_eq!(Slot::stable(NONE), Slot::VACANT);
    }

    #[test]
    fn the_last_stable_owner_stays_previous() {
        let slot = Slot::stable(A).toward(B);
        assert_eq!(slot, Slot::moving(B, A, NONE));
        assert_eq!(slot.toward(C), Slot::moving(C, A, B));
        assert_eq!(slot.toward(C).toward(D), Slot::moving(D, A, B));
        assert_eq!(slot.toward(C).toward(B), Slot::moving(B, A, C));
        assert_eq!(slot.toward(B), slot);
    }

    /// Back at the first owner, the flows of those between still have their records.
    #[test]
    fn a_slot_that_returns_still_moves() {
        let back = Slot::stable(A).toward(B).toward(A);
        assert_eq!(back, Slot::moving(A, A, B));
        assert!(back.is_moving() && back.is_settled());
        assert_eq!(back.toward(B), Slot::moving(B, A, NONE));
    }

    #[test]
    fn a_settled_slot_moves_from_its_owner() {
        let settled = Slot::stable(A).toward(B).settled();
        assert_eq!(settled, Slot::moving(B, B, A));
        assert_eq!(settled.toward(C), Slot::moving(C, B, A));
        assert_eq!(settled.settled(), settled);
        assert_eq!(Slot::stable(A).settled(), Slot::stable(A));
    }

    /// The last backend drains: its flows stay, new ones have nobody.
    #[test]
    fn nobody_may_be_current() {
        let slot = Slot::stable(A).toward(NONE);
        assert_eq!(slot, Slot::moving(NONE, A, NONE));
        assert_eq!(slot.toward(B), Slot::moving(B, A, NONE));
        assert_eq!(Slot::VACANT.toward(B), Slot::stable(B));
    }

    #[test]
    fn who_is_gone_is_named_no_more() {
        let without = |slot: Slot, gone: BackendId| slot.without_gone(|id| id != gone);
        assert_eq!(without(Slot::moving(B, A, C), A), Slot::moving(B, B, C));
        assert_eq!(without(Slot::moving(B, A, C), C), Slot::moving(B, A, NONE));
        assert_eq!(without(Slot::moving(NONE, A, C), A), Slot::moving(NONE, NONE, C));
        assert_eq!(without(Slot::stable(A), A), Slot::VACANT);
        assert_eq!(without(Slot::stable(A), B), Slot::stable(A));
        assert_eq!(without(Slot::moving(B, A, NONE), B), Slot::moving(NONE, A, NONE));
    }
}
