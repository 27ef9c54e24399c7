//! One place of a ring.

use super::Plain;
use crate::id::BackendId;

/// A slot of a ring: who owns it, and who owned it when it last was stable.
///
/// One aligned 64-bit word, so that it is read and written whole: `current` in the low half,
/// `previous` in the high half. All zero is a slot without backends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(transparent)]
pub struct Slot(pub u64);

impl Slot {
    /// A slot on its way from `previous` to `current`.
    pub const fn moving(current: BackendId, previous: BackendId) -> Self {
        Self(current.0 as u64 | (previous.0 as u64) << 32)
    }

    /// A slot that stays with `owner`.
    pub const fn stable(owner: BackendId) -> Self {
        Self::moving(owner, owner)
    }

    /// Takes new flows.
    #[inline(always)]
    pub const fn current(self) -> BackendId {
        BackendId(self.0 as u32)
    }

    /// The last stable owner.
    #[inline(always)]
    pub const fn previous(self) -> BackendId {
        BackendId((self.0 >> 32) as u32)
    }

    /// Both columns name the same backend.
    #[inline(always)]
    pub const fn is_stable(self) -> bool {
        self.0 as u32 == (self.0 >> 32) as u32
    }
}

// SAFETY: one u64, transparent.
unsafe impl Plain for Slot {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_do_not_mix() {
        let slot = Slot::moving(BackendId(7), BackendId(u32::MAX));
        assert_eq!(slot.current(), BackendId(7));
        assert_eq!(slot.previous(), BackendId(u32::MAX));
        assert!(!slot.is_stable());
        assert!(Slot::stable(BackendId(7)).is_stable());
    }
}
