//! Where probes through VIPs go, and whose answers are theirs.

use super::{BackendRecord, Plain};
use crate::network::Address;

/// Words of a [`BackendRecord`].
const RECORD_WORDS: usize = size_of::<BackendRecord>() / 8;

/// What a source port of probes is used for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct ProbePort {
    /// The number of a [`ProbeTarget`]; 0 is none.
    pub target: u32,
    /// Zero.
    pub reserved: u32,
}

/// One backend of one service, as probes reach it.
///
/// In a hash map that allocates each value: an update puts another one in its place, so a program
/// sees the old one or the new one, whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct ProbeTarget {
    /// A [`BackendRecord`], in words: values of hash maps lie at whole words, records want more.
    record: [u64; RECORD_WORDS],
    /// Where probes come from.
    pub source: Address,
    /// Where they go.
    pub vip: Address,
    /// And to which port, host order.
    pub port: u16,
    /// Zero.
    pub reserved: [u8; 6],
}

/// Where a packet comes from or goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Endpoint<'a> {
    /// An IPv4 address is mapped.
    pub address: &'a Address,
    /// Host order.
    pub port: u16,
}

impl ProbeTarget {
    /// Probes from `source` to a VIP and port, to the backend of this record.
    pub fn new(record: &BackendRecord, source: Address, vip: Address, port: u16) -> Self {
        // SAFETY: as many words, all of them initialised, since a record has no padding.
        let record = unsafe { core::ptr::from_ref(record).cast::<[u64; RECORD_WORDS]>().read() };
        Self { record, source, vip, port, reserved: [0; 6] }
    }

    /// The backend's record.
    #[inline(always)]
    pub fn record(&self) -> BackendRecord {
        // SAFETY: the words are as many as a record's, and any of them make one.
        unsafe { self.record.as_ptr().cast::<BackendRecord>().read_unaligned() }
    }

    /// Whether a packet from one of its source ports that goes there is one of its probes.
    #[inline(always)]
    pub fn sends(&self, source: &Address, to: Endpoint<'_>) -> bool {
        (self.port == to.port) & same(&self.vip, to.address) & same(&self.source, source)
    }
}

#[inline(always)]
fn same(one: &Address, other: &Address) -> bool {
    u128::from_ne_bytes(*one) == u128::from_ne_bytes(*other)
}

// SAFETY: two words, without padding.
unsafe impl Plain for ProbePort {}
// SAFETY: words, bytes and a word of two bytes; the assertions below leave no room for padding.
unsafe impl Plain for ProbeTarget {}

const _: () = {
    use core::mem::{align_of, offset_of, size_of};
    assert!(size_of::<ProbePort>() == 8);
    assert!(size_of::<ProbeTarget>() == 168);
    assert!(align_of::<ProbeTarget>() == 8);
    assert!(offset_of!(ProbeTarget, source) == 128);
    assert!(offset_of!(ProbeTarget, port) == 160);
    assert!(offset_of!(ProbeTarget, reserved) + 6 == 168);
};
