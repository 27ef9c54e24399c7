//! A header of the other family in the place of a packet's own (RFC 7915 sections 4.1 and 5.1).

use network_types::ip::{Ipv4Hdr, Ipv6Hdr};

use crate::{
    checksum, flow,
    link::{Link, NetworkProtocol},
    network::{Address, Network, Transport, UDP},
    packet::{Buffer, Packet},
    translate::{self, Becomes, Headers},
    verdict::DropReason,
};

/// The longest packet of IPv4 that routers may fragment: by IPv6, no link may be too small for it
/// (RFC 7915 section 5.1).
const MAY_BE_FRAGMENTED: usize = 1260;
const DONT_FRAGMENT: u16 = 0x4000;

/// IPv4 options that say by which hosts a packet goes (RFC 791), without the bit that has them copied
/// into fragments.
const LOOSE_ROUTE: u64 = 131;
const STRICT_ROUTE: u64 = 137;
const END_OF_OPTIONS: u64 = 0;
const NO_OPERATION: u64 = 1;
/// Bytes of such an option before its route.
const ROUTE_LEN: usize = 3;
/// The most that a header length has room for.
const OPTIONS_LEN: usize = 40;

/// The longest datagram, in bytes, whose missing checksum is made up for: a page, of which a frame's
/// first piece is at most.
const SUMMED_LEN: usize = 4096;

/// A network header that another one of the other family can stand for.
pub trait Across: Network {
    /// The other family's.
    type Other: Across;

    /// Its length in bytes, without options or extensions.
    const LEN: usize;

    /// Its place in a frame.
    const PROTOCOL: NetworkProtocol;

    /// TTL or hop limit.
    fn hops(&self) -> u8;

    /// The identification that fragments of the packet would have, where it tells.
    fn identification<B: Buffer>(
        packet: &Packet<B>,
        at: usize,
        transport: Transport,
    ) -> Option<u16>;

    /// Checks that nothing in a packet whose header is at `at` forbids that it becomes the other
    /// family's.
    ///
    /// # Errors
    /// [`DropReason::SourceRoute`], [`DropReason::Unsummed`], [`DropReason::Truncated`];
    /// [`DropReason::Malformed`] where a checksum is to be made up behind a damaged header.
    fn check<B: Buffer>(
        packet: &mut Packet<B>,
        at: usize,
        transport: Transport,
    ) -> Result<(), DropReason>;

    /// Writes a header at the front.
    ///
    /// # Errors
    /// [`DropReason::Truncated`].
    fn put<B: Buffer>(
        packet: &mut Packet<B>,
        carried: &Carried,
        source: &Address,
        destination: &Address,
    ) -> Result<(), DropReason>;
}

/// What the new header takes from the packet.
#[derive(Clone, Copy, Debug)]
pub struct Carried {
    /// DSCP and ECN.
    pub traffic_class: u8,
    /// TTL or hop limit: as it came, as in the other modes.
    pub hops: u8,
    /// The protocol of what follows.
    pub protocol: u8,
    /// The packet said that it may be fragmented, though it is long.
    pub may_be_fragmented: bool,
    /// Tells fragments of this packet from others'.
    pub identification: u16,
    /// Bytes that follow.
    pub payload_len: u16,
}

impl Carried {
    /// Of a whole packet whose header is at `at`; `fresh` is for one that has no identification.
    #[inline(always)]
    pub fn of<N: Across, B: Buffer>(
        packet: &Packet<B>,
        at: usize,
        header: &N,
        transport: Transport,
        fresh: u16,
    ) -> Self {
        let own = N::identification(packet, at, transport);
        Self {
            traffic_class: header.traffic_class(),
            hops: header.hops(),
            protocol: transport.protocol,
            may_be_fragmented: own.is_some(),
            identification: own.unwrap_or(fresh),
            payload_len: header.total_len().wrapping_sub(transport.offset) as u16,
        }
    }

    /// Length in bytes of the packet with the header.
    #[inline(always)]
    pub const fn len<N: Across>(&self) -> usize {
        N::LEN + self.payload_len as usize
    }
}

/// Puts the other family's header, with these ends, in the place of a whole packet's own. MAC
/// addresses are the caller's to write.
///
/// # Errors
/// [`DropReason::NoHeadroom`], [`DropReason::Truncated`]; [`DropReason::Unsummed`] for a datagram
/// without a checksum that can't be given one.
#[inline(always)]
pub fn replace<N: Across, B: Buffer>(
    packet: Packet<B>,
    link: Link,
    transport: Transport,
    carried: &Carried,
    ports: u32,
    source: Becomes<'_>,
    destination: Becomes<'_>,
) -> Result<Packet<B>, DropReason> {
    let growth = N::Other::LEN as i32 - transport.offset as i32;
    let mut packet = packet.grow_front(growth)?;
    let at = link.tags.write_behind_macs(&mut packet, N::Other::PROTOCOL)?;
    N::Other::put(&mut packet.behind(at), carried, source.address, destination.address)?;

    let mut behind = packet.behind(at + N::Other::LEN);
    let protocol = transport.protocol;
    let headers = Headers { network: 0, transport: 0, protocol, end: usize::MAX };
    let become_ports = u32::from(source.port) << 16 | u32::from(destination.port);
    behind.write(0, become_ports.to_be())?;
    let of_source = checksum::difference(flow::source_port(ports), source.port);
    let of_destination = checksum::difference(flow::destination_port(ports), destination.port);
    let of_addresses = source.difference + destination.difference;
    translate::transport_checksum(&mut behind, headers, of_addresses + of_source + of_destination)?;
    // IPv6 has no datagrams without a checksum.
    if (N::Other::CHECKSUM_AT.is_none()) & (protocol == UDP) {
        let [_, length, sum] = udp_words(&behind)?;
        if sum == 0 {
            let sum = datagram_sum(&behind, length, source.address, destination.address)?;
            behind.write(UDP_CHECKSUM_AT, sum.to_be())?;
        }
    }
    Ok(packet)
}

const UDP_CHECKSUM_AT: usize = 6;

/// Destination port, length and checksum of a UDP header at the front.
#[inline(always)]
fn udp_words<B: Buffer>(packet: &Packet<B>) -> Result<[u16; 3], DropReason> {
    let [a, b, c, d, e, f] = packet.read::<[u8; 6]>(2).ok_or(DropReason::Truncated)?;
    Ok([u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]), u16::from_be_bytes([e, f])])
}

/// The checksum of a datagram of that length, in which there is none yet (RFC 8200 section 8.1).
#[inline(always)]
fn datagram_sum<B: Buffer>(
    datagram: &Packet<B>,
    length: u16,
    source: &Address,
    destination: &Address,
) -> Result<u16, DropReason> {
    let whole = datagram.sum_of::<SUMMED_LEN>(usize::from(length)).ok_or(DropReason::Unsummed)?;
    let addresses = checksum::address_sum(source) + checksum::address_sum(destination);
    let pseudo = addresses + u32::from(length) + u32::from(UDP);
    let sum = !checksum::fold(u32::from(whole) + pseudo);
    Ok(if sum == 0 { u16::MAX } else { sum })
}

impl Across for Ipv4Hdr {
    type Other = Ipv6Hdr;
    const LEN: usize = Self::LEN;
    const PROTOCOL: NetworkProtocol = NetworkProtocol::Ipv4;

    #[inline(always)]
    fn hops(&self) -> u8 {
        self.ttl
    }

    #[inline(always)]
    fn identification<B: Buffer>(_: &Packet<B>, _: usize, _: Transport) -> Option<u16> {
        None
    }

    #[inline(always)]
    fn check<B: Buffer>(
        packet: &mut Packet<B>,
        at: usize,
        transport: Transport,
    ) -> Result<(), DropReason> {
        if transport.protocol == UDP {
            let [_, _, sum] = udp_words(&packet.behind(at + transport.offset))?;
            // What made up for the missing one would hide that the addresses are damaged.
            if sum == 0
                && packet.behind(at).sum_of::<SUMMED_LEN>(transport.offset) != Some(u16::MAX)
            {
                return Err(DropReason::Malformed);
            }
        }
        let len = transport.offset.wrapping_sub(Self::LEN);
        if len == 0 || !has_route(&packet.behind(at + Self::LEN), len as u64) {
            return Ok(());
        }
        Err(DropReason::SourceRoute)
    }

    #[inline(always)]
    fn put<B: Buffer>(
        packet: &mut Packet<B>,
        carried: &Carried,
        source: &Address,
        destination: &Address,
    ) -> Result<(), DropReason> {
        let len = carried.len::<Self>();
        let kept_whole = !carried.may_be_fragmented & (len > MAY_BE_FRAGMENTED);
        let flags = if kept_whole { DONT_FRAGMENT } else { 0 };
        let first = 0x4500 | u16::from(carried.traffic_class);
        let fifth = u16::from(carried.hops) << 8 | u16::from(carried.protocol);
        let words = [first, len as u16, carried.identification, flags, fifth];
        let [a, b, c, d, e] = words.map(u32::from);
        let addresses = checksum::address_sum(source) + checksum::address_sum(destination);
        let sum = !checksum::fold(a + b + c + d + e + addresses);
        packet.write(0, (a << 16 | b).to_be())?;
        packet.write(4, (c << 16 | d).to_be())?;
        packet.write(8, (e << 16 | u32::from(sum)).to_be())?;
        Self::write_address(packet, Self::SOURCE_AT, source)?;
        Self::write_address(packet, Self::DESTINATION_AT, destination)
    }
}

/// Whether options of that length have a route that hasn't ended. What else they are doesn't matter.
///
/// Byte by byte, and without a branch: the verifier would follow each way through them.
#[inline(always)]
fn has_route<B: Buffer>(options: &Packet<B>, len: u64) -> bool {
    let (mut at, mut next, mut found) = (0, 0, 0);
    while at <= OPTIONS_LEN - ROUTE_LEN {
        let Some(option) = options.read::<[u8; ROUTE_LEN]>(at) else { break };
        let [kind, own_len, pointer] = option.map(u64::from);
        let place = at as u64;
        let begins = is_zero(next ^ place) & is_less(place + ROUTE_LEN as u64 - 1, len);
        let is_route = is_zero((kind ^ LOOSE_ROUTE) * (kind ^ STRICT_ROUTE));
        // It has ended where the pointer is behind it.
        found |= begins & is_route & is_less(pointer, own_len + 1);
        let is_one_byte = is_zero(kind ^ NO_OPERATION);
        let is_last = is_zero(kind ^ END_OF_OPTIONS) | (1 - is_one_byte) & is_less(own_len, 2);
        let advance = is_one_byte + (1 - is_one_byte) * own_len + is_last * OPTIONS_LEN as u64;
        next += begins * advance;
        at += 1;
    }
    found != 0
}

/// 1 for 0, else 0; below 2⁶³.
#[inline(always)]
fn is_zero(number: u64) -> u64 {
    core::hint::black_box(number).wrapping_sub(1) >> 63
}

/// 1 where one number is less than the other, else 0; below 2⁶³.
#[inline(always)]
fn is_less(one: u64, other: u64) -> u64 {
    core::hint::black_box(one).wrapping_sub(other) >> 63
}

impl Across for Ipv6Hdr {
    type Other = Ipv4Hdr;
    const LEN: usize = Self::LEN;
    const PROTOCOL: NetworkProtocol = NetworkProtocol::Ipv6;

    #[inline(always)]
    fn hops(&self) -> u8 {
        self.hop_limit
    }

    /// An atomic fragment's: its sender knows that routers will fragment it (RFC 7915 section 5.1.1).
    #[inline(always)]
    fn identification<B: Buffer>(
        packet: &Packet<B>,
        at: usize,
        transport: Transport,
    ) -> Option<u16> {
        if transport.offset == Self::LEN {
            return None;
        }
        packet.read(at + Self::LEN + 6).map(u16::from_be_bytes)
    }

    #[inline(always)]
    fn check<B: Buffer>(
        packet: &mut Packet<B>,
        at: usize,
        transport: Transport,
    ) -> Result<(), DropReason> {
        // RFC 8200 section 8.1.
        if transport.protocol == UDP {
            let [_, _, sum] = udp_words(&packet.behind(at + transport.offset))?;
            if sum == 0 {
                return Err(DropReason::Unsummed);
            }
        }
        Ok(())
    }

    /// The flow label is 0 (RFC 7915 section 4.1).
    #[inline(always)]
    fn put<B: Buffer>(
        packet: &mut Packet<B>,
        carried: &Carried,
        source: &Address,
        destination: &Address,
    ) -> Result<(), DropReason> {
        let Carried { traffic_class, hops, protocol, payload_len, .. } = *carried;
        let [class, len, protocol, hops] =
            [u32::from(traffic_class), u32::from(payload_len), protocol.into(), hops.into()];
        packet.write(0, (6 << 28 | class << 20).to_be())?;
        packet.write(4, (len << 16 | protocol << 8 | hops).to_be())?;
        packet.write(Self::SOURCE_AT, *source)?;
        packet.write(Self::DESTINATION_AT, *destination)
    }
}
