//! Whose answer a packet is that comes from a backend, under `nat`.

use super::Plain;
use crate::network::{Address, words};

/// Where answers of a backend come from. No two services have the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(C)]
pub struct AnswerKey {
    /// The backend's address, an IPv4 address mapped; in [`words`].
    pub address: [u32; 4],
    /// Its port, host order; 0 is any, for backends whose services take any port.
    pub port: u16,
    /// TCP's or UDP's number.
    pub protocol: u8,
    /// Zero.
    pub reserved: u8,
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
        Self { address: words(address), port, protocol, reserved: 0 }
    }
}

// SAFETY: integers and an array of them; the assertions below leave no room for padding.
unsafe impl Plain for AnswerKey {}
// SAFETY: as above.
unsafe impl Plain for AnswerEntry {}

const _: () = {
    assert!(size_of::<AnswerKey>() == 16 + 2 + 1 + 1);
    assert!(size_of::<AnswerEntry>() == 16 + 3 * 4 + 2 + 2);
};
