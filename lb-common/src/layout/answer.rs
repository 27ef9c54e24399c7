//! Whose answer a packet is that comes from a backend, under `nat`.

use super::Plain;
use crate::network::Address;

/// Where answers of a backend come from. No two services have the same.
///
/// In words of 64 bits: the program makes it on its stack, and the kernel, which hashes and compares
/// it at once, waits for what was stored by shorter words than it reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(C)]
pub struct AnswerKey {
    /// The backend's address as it lies in memory, an IPv4 address mapped.
    address: [u64; 2],
    /// Its port, host order; 0 is any, for backends whose services take any port. Above 16 bits,
    /// TCP's or UDP's number.
    end: u64,
}

/// What becomes of such an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct AnswerEntry {
    /// The address that it gets as its source; an IPv4 address is mapped.
    pub vip: Address,
    /// What checksums gain by that: [`crate::checksum::address_difference`].
    pub difference: u32,
    /// The service, a [`crate::id::ServiceId`].
    pub service: u32,
    /// The backend, a [`crate::id::BackendId`].
    pub backend: u32,
    /// The port that it gets as its source, host order; 0 where it keeps its own.
    pub port: u16,
    /// Zero.
    pub reserved: u16,
}

impl AnswerKey {
    /// From a backend's port; 0 is any.
    #[inline(always)]
    pub const fn new(address: Address, port: u16, protocol: u8) -> Self {
        let address = u128::from_ne_bytes(address);
        let (low, high) = (address as u64, (address >> 64) as u64);
        let address = if cfg!(target_endian = "little") { [low, high] } else { [high, low] };
        Self { address, end: port as u64 | (protocol as u64) << 16 }
    }

    /// It is for answers from any port.
    pub const fn is_of_any_port(&self) -> bool {
        self.end as u16 == 0
    }
}

// SAFETY: integers and an array of them; the assertions below leave no room for padding.
unsafe impl Plain for AnswerKey {}
// SAFETY: as above.
unsafe impl Plain for AnswerEntry {}

const _: () = {
    assert!(size_of::<AnswerKey>() == 3 * 8);
    assert!(size_of::<AnswerEntry>() == 16 + 3 * 4 + 2 + 2);
};
