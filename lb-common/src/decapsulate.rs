//! The backend's side: takes off what a balancer put in front of a packet.

use network_types::{
    ip::{Ipv4Hdr, Ipv6Hdr},
    udp::UdpHdr,
};

use crate::{
    checksum,
    layout::FAMILY_V6,
    link::{Link, MACS_LEN, NetworkProtocol, Tags},
    network::{Address, Fragment, Network, UDP, is_mapped},
    packet::{Buffer, Packet},
    rewrite::{GUE_LEN, GUE_PORT},
    verdict::DropReason,
};

/// Protocol number of IPv4 in IP.
const IPV4_IN_IP: u8 = 4;
/// Protocol number of IPv6 in IP.
const IPV6_IN_IP: u8 = 41;

const ECN_MASK: u8 = 0b11;
const ECN_NOT_ECT: u8 = 0b00;
const ECN_ECT_1: u8 = 0b01;
const ECN_ECT_0: u8 = 0b10;
const ECN_CE: u8 = 0b11;

/// Whom tunnel packets may come from, and whom they must be sent to.
pub trait Endpoints {
    /// It is an address of this host.
    fn is_local(&self, address: &Address) -> bool;

    /// Balancers send from it.
    fn is_balancer(&self, address: &Address) -> bool;
}

/// What becomes of a frame that isn't dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decapsulation {
    /// No tunnel packet for this host: untouched.
    Untouched,
    /// A tunnel packet for this host, but not from a balancer: untouched too, since it may belong
    /// to another tunnel.
    Foreign,
    /// The frame now holds the inner packet.
    Inner {
        /// Length in bytes of the inner packet with its link header.
        bytes: u32,
    },
}

/// Takes the outer headers off a frame that a balancer sent to this host.
///
/// # Errors
/// [`DropReason`]: the frame came from a balancer's address and is not what a balancer sends.
#[inline(always)]
pub fn decapsulate<B: Buffer>(
    packet: Packet<B>,
    endpoints: &impl Endpoints,
) -> Result<Decapsulation, DropReason> {
    let Some(link) = Link::read(&packet) else { return Ok(Decapsulation::Untouched) };
    match link.network {
        NetworkProtocol::Ipv4 => outer::<Ipv4Hdr, B>(packet, link.tags, endpoints),
        NetworkProtocol::Ipv6 => outer::<Ipv6Hdr, B>(packet, link.tags, endpoints),
    }
}

#[inline(always)]
fn outer<N: Network, B: Buffer>(
    packet: Packet<B>,
    tags: Tags,
    endpoints: &impl Endpoints,
) -> Result<Decapsulation, DropReason> {
    let at = tags.link_len();
    let Some(header) = N::read(&packet, at) else { return Ok(Decapsulation::Untouched) };
    // A packet for this host: it may have arrived with its last hop.
    if !header.is_well_formed() {
        return Ok(Decapsulation::Untouched);
    }
    let Ok(transport) = header.transport(&packet, at) else {
        return Ok(Decapsulation::Untouched);
    };
    let tunnelled = match transport.protocol {
        IPV4_IN_IP | IPV6_IN_IP => true,
        UDP if transport.fragment != Fragment::Later => packet
            .read::<UdpHdr>(at + transport.offset)
            .is_some_and(|udp| u16::from_be_bytes(udp.dst) == GUE_PORT),
        _ => false,
    };
    let (source, destination) = (header.source_address(), header.destination_address());
    // In an IPv6 header such an address is a forgery: it would be believed as the IPv4 one. Linux
    // drops the packet, too.
    if N::FAMILY == FAMILY_V6 && (is_mapped(&source) || is_mapped(&destination)) {
        return Ok(Decapsulation::Untouched);
    }
    if !tunnelled || !endpoints.is_local(&destination) {
        return Ok(Decapsulation::Untouched);
    }
    if !endpoints.is_balancer(&source) {
        return Ok(Decapsulation::Foreign);
    }
    if transport.fragment != Fragment::Whole {
        return Err(DropReason::Fragment);
    }
    if !packet.has(at, header.total_len()) {
        return Err(DropReason::Truncated);
    }
    let (protocol, outer_len) = match transport.protocol {
        UDP => {
            let gue: [u8; GUE_LEN] =
                packet.read(at + transport.offset + UdpHdr::LEN).ok_or(DropReason::Truncated)?;
            // Version 0, a data message, no optional fields, no flags.
            if gue[0] != 0 || gue[2] != 0 || gue[3] != 0 {
                return Err(DropReason::BadGue);
            }
            (gue[1], transport.offset + UdpHdr::LEN + GUE_LEN)
        }
        protocol => (protocol, transport.offset),
    };
    let room = header.total_len().checked_sub(outer_len).ok_or(DropReason::BadInner)?;
    let ecn = header.traffic_class() & ECN_MASK;
    match protocol {
        IPV4_IN_IP => inner::<Ipv4Hdr, B>(packet, tags, outer_len, room, ecn),
        IPV6_IN_IP => inner::<Ipv6Hdr, B>(packet, tags, outer_len, room, ecn),
        _ => Err(DropReason::BadGue),
    }
}

/// Inner headers that can take a congestion mark.
trait Inner: Network {
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

#[inline(always)]
fn inner<N: Inner, B: Buffer>(
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
    let macs: [u8; MACS_LEN] = packet.read(0).ok_or(DropReason::Truncated)?;

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
