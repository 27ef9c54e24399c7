//! Taking the outer headers off: the inner packet is left, with the congestion mark of both.

use network_types::ip::{Ipv4Hdr, Ipv6Hdr};

use super::Decapsulation;
use crate::{
    checksum,
    link::{MACS_LEN, NetworkProtocol, Tags},
    network::Network,
    packet::{Buffer, Packet},
    verdict::DropReason,
};

pub(super) const ECN_MASK: u8 = 0b11;
const ECN_NOT_ECT: u8 = 0b00;
const ECN_ECT_1: u8 = 0b01;
const ECN_ECT_0: u8 = 0b10;
const ECN_CE: u8 = 0b11;

/// Inner headers that can take a congestion mark.
pub(super) trait Inner: Network {
    const PROTOCOL: NetworkProtocol;

    /// The header has this protocol's version, and a length that fits `room` bytes.
    fn fits(&self, room: usize) -> bool;

    /// Replaces the two ECN bits of the header that lies at `at`.
    fn set_ecn<B: Buffer>(packet: &mut Packet<B>, at: usize, ecn: u8) -> Result<(), DropReason>;
}

impl Inner for Ipv4Hdr {
    const PROTOCOL: NetworkProtocol = NetworkProtocol::Ipv4;

    #[inline(always)]
    fn fits(&self, room: usize) -> bool {
        self.vihl >> 4 == 4 && self.total_len() >= Self::LEN && self.total_len() <= room
    }

    #[inline(always)]
    fn set_ecn<B: Buffer>(packet: &mut Packet<B>, at: usize, ecn: u8) -> Result<(), DropReason> {
        let old_tos: u8 = packet.read(at + 1).ok_or(DropReason::Truncated)?;
        let old_sum: u16 = packet.read(at + 10).ok_or(DropReason::Truncated)?;
        let tos = old_tos & !ECN_MASK | ecn;
        packet.write(at + 1, tos)?;
        // RFC 1624 equation 3, for the one word that changed in its low byte.
        let sum =
            u32::from(!u16::from_be(old_sum)) + u32::from(!u16::from(old_tos)) + u32::from(tos);
        packet.write(at + 10, (!checksum::fold(sum)).to_be())
    }
}

impl Inner for Ipv6Hdr {
    const PROTOCOL: NetworkProtocol = NetworkProtocol::Ipv6;

    #[inline(always)]
    fn fits(&self, room: usize) -> bool {
        self.vcf[0] >> 4 == 6 && self.total_len() <= room
    }

    #[inline(always)]
    fn set_ecn<B: Buffer>(packet: &mut Packet<B>, at: usize, ecn: u8) -> Result<(), DropReason> {
        let old: u8 = packet.read(at + 1).ok_or(DropReason::Truncated)?;
        packet.write(at + 1, old & !(ECN_MASK << 4) | ecn << 4)
    }
}

/// Takes `outer_len` bytes of outer headers off. `room` is what they leave for the inner packet.
#[inline(always)]
pub(super) fn uncover<N: Inner, B: Buffer>(
    packet: Packet<B>,
    tags: Tags,
    outer_len: usize,
    room: usize,
    outer_ecn: u8,
) -> Result<Decapsulation, DropReason> {
    let at = tags.link_len();
    let Some(header) = N::read(&packet, at + outer_len) else {
        return Err(DropReason::BadInner);
    };
    if !header.fits(room) {
        return Err(DropReason::BadInner);
    }
    let ecn = header.traffic_class() & ECN_MASK;
    let merged = merge_ecn(outer_ecn, ecn)?;
    let Some(macs) = packet.read::<[u8; MACS_LEN]>(0) else { return Err(DropReason::Truncated) };

    let mut packet = packet.grow_front(-(outer_len as i32))?;
    tags.write(&mut packet, macs, N::PROTOCOL)?;
    if merged != ecn {
        N::set_ecn(&mut packet, at, merged)?;
    }
    Ok(Decapsulation::Inner { bytes: (at + header.total_len()) as u32 })
}

/// The inner header's ECN after decapsulation: RFC 6040, figure 4.
#[inline(always)]
const fn merge_ecn(outer: u8, inner: u8) -> Result<u8, DropReason> {
    match (outer, inner) {
        (ECN_CE, ECN_NOT_ECT) => Err(DropReason::EcnDiscard),
        (ECN_CE, _) => Ok(ECN_CE),
        (ECN_ECT_1, ECN_ECT_0) => Ok(ECN_ECT_1),
        (_, inner) => Ok(inner),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 6040, figure 4: rows are the inner field, columns the outer one, in the order
    /// Not-ECT, ECT(0), ECT(1), CE.
    #[test]
    fn ecn_merges_as_rfc_6040_says() {
        let order = [ECN_NOT_ECT, ECN_ECT_0, ECN_ECT_1, ECN_CE];
        let drop = 9;
        let table = [
            [ECN_NOT_ECT, ECN_NOT_ECT, ECN_NOT_ECT, drop],
            [ECN_ECT_0, ECN_ECT_0, ECN_ECT_1, ECN_CE],
            [ECN_ECT_1, ECN_ECT_1, ECN_ECT_1, ECN_CE],
            [ECN_CE, ECN_CE, ECN_CE, ECN_CE],
        ];
        for (row, inner) in table.iter().zip(order) {
            for (expected, outer) in row.iter().zip(order) {
                assert_eq!(merge_ecn(outer, inner).unwrap_or(drop), *expected, "{outer} {inner}");
            }
        }
    }
}
