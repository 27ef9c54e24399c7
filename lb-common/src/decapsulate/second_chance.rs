//! The second chance: a packet whose connection isn't here goes on to who may have it.

use network_types::ip::{Ipv4Hdr, Ipv6Hdr};

use super::{Decapsulation, Endpoints, TcpHeader, gue::Gue, inner::Inner};
use crate::{
    candidates::{HEAD_LEN, ROOM},
    checksum,
    flow::flag,
    layout::NextHop,
    network::{Address, Fragment, Network, TCP, mapped},
    packet::{Buffer, Packet},
    rewrite::GUE_LEN,
    verdict::DropReason,
};

/// Outer headers that can be turned toward another backend.
pub(super) trait Outer: Network {
    /// Length in bytes of an address.
    const ADDRESS_LEN: usize;

    /// The address at `at`, in the form that both families share.
    fn address<B: Buffer>(packet: &Packet<B>, at: usize) -> Option<Address>;

    /// TTL or hop limit.
    fn hops(&self) -> u8;

    /// Gives the header that lies at `at` another destination, and one hop less.
    fn readdress<B: Buffer>(
        &self,
        packet: &mut Packet<B>,
        at: usize,
        destination: &Address,
    ) -> Result<(), DropReason>;
}

impl Outer for Ipv4Hdr {
    const ADDRESS_LEN: usize = 4;

    #[inline(always)]
    fn address<B: Buffer>(packet: &Packet<B>, at: usize) -> Option<Address> {
        packet.read::<[u8; 4]>(at).map(mapped)
    }

    #[inline(always)]
    fn hops(&self) -> u8 {
        self.ttl
    }

    #[inline(always)]
    fn readdress<B: Buffer>(
        &self,
        packet: &mut Packet<B>,
        at: usize,
        destination: &Address,
    ) -> Result<(), DropReason> {
        let [.., a, b, c, d] = *destination;
        let new = [a, b, c, d];
        // RFC 1624 equation 3, for the words of TTL and destination.
        let removed = inverted(self.dst_addr[0], self.dst_addr[1])
            + inverted(self.dst_addr[2], self.dst_addr[3])
            + inverted(self.ttl, 0);
        let added = word(new[0], new[1]) + word(new[2], new[3]) + word(self.ttl - 1, 0);
        let sum = inverted(self.check[0], self.check[1]) + removed + added;
        packet.write(at + 8, self.ttl - 1)?;
        packet.write(at + 10, (!checksum::fold(sum)).to_be())?;
        packet.write(at + 16, new)
    }
}

#[inline(always)]
const fn word(high: u8, low: u8) -> u32 {
    (high as u32) << 8 | low as u32
}

#[inline(always)]
const fn inverted(high: u8, low: u8) -> u32 {
    !word(high, low) & 0xffff
}

impl Outer for Ipv6Hdr {
    const ADDRESS_LEN: usize = 16;

    #[inline(always)]
    fn address<B: Buffer>(packet: &Packet<B>, at: usize) -> Option<Address> {
        packet.read(at)
    }

    #[inline(always)]
    fn hops(&self) -> u8 {
        self.hop_limit
    }

    #[inline(always)]
    fn readdress<B: Buffer>(
        &self,
        packet: &mut Packet<B>,
        at: usize,
        destination: &Address,
    ) -> Result<(), DropReason> {
        packet.write(at + 7, self.hop_limit - 1)?;
        packet.write(at + 24, *destination)
    }
}

/// Another backend, or none. Flat, with every field always set, as an [outcome] is; and aligned,
/// because the compiler writes the address by the word, which the verifier allows on the stack
/// only at whole words.
///
/// [outcome]: crate::verdict::Outcome
#[derive(Clone, Copy, Debug)]
#[repr(C, align(8))]
pub(super) struct Candidate {
    pub(super) address: Address,
    /// Which one is to be tried after it; 0 if it is none.
    next: u32,
}

impl Candidate {
    pub(super) const NONE: Self = Self { address: [0; 16], next: 0 };

    #[inline(always)]
    pub(super) const fn is_none(&self) -> bool {
        self.next == 0
    }
}

/// The first candidate from the next one on that is another host. `gue_at` is where the header
/// begins.
#[inline(always)]
pub(super) fn next_candidate<N: Outer, B: Buffer>(
    packet: &Packet<B>,
    gue_at: usize,
    gue: &Gue,
    endpoints: &impl Endpoints,
) -> Candidate {
    let addresses_at = gue_at + GUE_LEN + HEAD_LEN;
    let mut index = 0;
    // By constant places, which the verifier follows more easily than computed ones.
    while index < ROOM {
        if index as u32 >= gue.next && (index as u32) < gue.next + gue.left {
            let place = addresses_at + index * N::ADDRESS_LEN;
            let Some(address) = N::address(packet, place) else { return Candidate::NONE };
            let candidate = Candidate { address, next: index as u32 + 1 };
            if !endpoints.is_local(&candidate.address) {
                return candidate;
            }
        }
        index += 1;
    }
    Candidate::NONE
}

/// Asks for the ways to the candidates behind this one, so that they are known here once they are
/// the next ones.
#[inline(always)]
pub(super) fn ask_for_later_ones<N: Outer, B: Buffer>(
    packet: &Packet<B>,
    gue_at: usize,
    gue: &Gue,
    candidate: &Candidate,
    endpoints: &impl Endpoints,
) {
    let addresses_at = gue_at + GUE_LEN + HEAD_LEN;
    let mut index = 1;
    while index < ROOM {
        if index as u32 >= candidate.next && (index as u32) < gue.next + gue.left {
            let Some(address) = N::address(packet, addresses_at + index * N::ADDRESS_LEN) else {
                return;
            };
            if !endpoints.is_local(&address) {
                endpoints.next_hop(&address);
            }
        }
        index += 1;
    }
}

/// Whether the inner packet at `at`, of at most `room` bytes, is this host's to take: all but a
/// TCP segment of a connection that isn't here. A SYN opens one wherever it gets.
#[inline(always)]
pub(super) fn belongs_here<N: Inner, B: Buffer>(
    packet: &Packet<B>,
    at: usize,
    room: usize,
    endpoints: &impl Endpoints,
) -> bool {
    let Some(header) = N::read(packet, at) else { return true };
    if !header.fits(room) || !header.is_well_formed() {
        return true;
    }
    let Ok(transport) = header.transport(packet, at) else { return true };
    if transport.protocol != TCP || transport.fragment != Fragment::Whole {
        return true;
    }
    if transport.offset + size_of::<TcpHeader>() > header.total_len() {
        return true;
    }
    let Some(tcp) = packet.read::<TcpHeader>(at + transport.offset) else { return true };
    if tcp[13] & (flag::SYN | flag::ACK) == flag::SYN {
        return true;
    }
    endpoints.has_connection::<N, B>(packet, at, at + transport.offset)
}

/// Turns the frame toward a candidate. Its source stays the balancer's, who is the one that the
/// next backend believes. `at` is where the outer header begins, `udp_at` where UDP's does.
///
/// # Errors
/// Before anything is written, but for those of a frame that ends too early.
#[inline(always)]
pub(super) fn send_on<N: Outer, B: Buffer>(
    mut packet: Packet<B>,
    at: usize,
    header: &N,
    udp_at: usize,
    gue: &Gue,
    candidate: &Candidate,
    way: &NextHop,
) -> Result<Decapsulation, DropReason> {
    if !way.is_known() {
        return Err(DropReason::CandidateUnresolved);
    }
    if header.total_len() > way.mtu as usize {
        return Err(DropReason::TooBig);
    }
    if header.hops() <= 1 {
        return Err(DropReason::NoHopLeft);
    }
    // UDP's checksum, which would be wrong with the former destination if it weren't zero anyway,
    // and what follows it up to the number of the next one. In one piece: where a write ends with
    // something that was read, the compiler takes the check away which the verifier wants to see.
    let [words, protocol, kind, count] = gue.bytes();
    let next = candidate.next as u8;
    packet.write(udp_at + 6, [0, 0, words, protocol, 0, 0, kind, count, next])?;
    header.readdress(&mut packet, at, &candidate.address)?;
    packet.write(0, way.macs)?;
    Ok(Decapsulation::SentOn { ifindex: way.ifindex })
}
