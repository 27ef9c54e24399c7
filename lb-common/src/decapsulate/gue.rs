//! What a GUE header says.

use super::{IPV4_IN_IP, IPV6_IN_IP, second_chance::Outer};
use crate::{
    candidates::{HEAD_LEN, ROOM, TYPE, private_len},
    packet::{Buffer, Packet},
    rewrite::GUE_LEN,
    verdict::DropReason,
};

/// Version and control bit of the first byte: 0 both, for a data message of version 0.
const FORM_MASK: u8 = 0b1110_0000;
/// Length of what follows the header's 4 bytes, in 32-bit words.
const LEN_MASK: u8 = 0b0001_1111;

/// A GUE header. Flat, with every field always set: see [`crate::verdict::Outcome`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Gue {
    /// IPv4's or IPv6's number.
    pub(super) protocol: u8,
    /// Length in bytes, private data and all.
    pub(super) len: usize,
    /// Which candidate is next.
    pub(super) next: u32,
    /// How many candidates weren't tried yet, the next one among them.
    pub(super) left: u32,
}

impl Gue {
    /// Reads the header at `at` inside an outer header of that family. Private data that isn't
    /// ours is skipped.
    #[inline(always)]
    pub(super) fn read<N: Outer, B: Buffer>(
        packet: &Packet<B>,
        at: usize,
    ) -> Result<Self, DropReason> {
        let header: [u8; GUE_LEN] = packet.read(at).ok_or(DropReason::Truncated)?;
        // Flags would stand for optional fields, of which none is spoken.
        if header[0] & FORM_MASK != 0 || header[2] != 0 || header[3] != 0 {
            return Err(DropReason::BadGue);
        }
        if !matches!(header[1], IPV4_IN_IP | IPV6_IN_IP) {
            return Err(DropReason::BadGue);
        }
        let private = usize::from(header[0] & LEN_MASK) * 4;
        let mut gue = Self { protocol: header[1], len: GUE_LEN + private, next: 0, left: 0 };
        if private == 0 {
            return Ok(gue);
        }
        let head: [u8; HEAD_LEN] = packet.read(at + GUE_LEN).ok_or(DropReason::Truncated)?;
        if head[0] != TYPE {
            return Ok(gue);
        }
        let [_, count, next, reserved] = head;
        let sound = usize::from(count) <= ROOM && next <= count && reserved == 0;
        if !sound || private != private_len(N::ADDRESS_LEN) {
            return Err(DropReason::BadGue);
        }
        gue.next = u32::from(next);
        gue.left = u32::from(count - next);
        Ok(gue)
    }
    /// What it says where it is of our form and has candidates: its length in words, the protocol,
    /// the type of the private data, the number of candidates.
    #[inline(always)]
    pub(super) const fn bytes(&self) -> [u8; 4] {
        let words = (self.len - GUE_LEN) / 4;
        [words as u8, self.protocol, TYPE, (self.next + self.left) as u8]
    }
}
