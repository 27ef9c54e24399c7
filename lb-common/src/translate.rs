//! Other addresses and ports in a packet, with checksums updated by difference.
//!
//! What a checksum gains is added up, word by word that changes, and put into the checksums that
//! cover the words (RFC 1624): so a wrong checksum stays wrong, whoever made it.

use crate::{
    checksum, flow,
    layout::{BackendRecord, Kind},
    link::{Link, MACS_LEN},
    network::{Address, Network, TCP, UDP},
    packet::{Buffer, Packet},
    verdict::DropReason,
};

/// Which end of a packet's way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Where it comes from.
    Source,
    /// Where it goes.
    Destination,
}

/// What an end becomes.
#[derive(Clone, Copy, Debug)]
pub struct Becomes<'a> {
    /// The address; an IPv4 address is mapped.
    pub address: &'a Address,
    /// What checksums gain by it: [`checksum::address_difference`].
    pub difference: u32,
    /// The port, host order; 0 where it stays.
    pub port: u16,
}

/// Where the headers of a packet are, from the frame's first byte on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Headers {
    /// The network header.
    pub network: usize,
    /// The transport header.
    pub transport: usize,
    /// Its protocol: TCP or UDP.
    pub protocol: u8,
    /// Behind the last byte of the packet that may be read: less than what its lengths say, where
    /// it is quoted.
    pub end: usize,
}

impl End {
    /// Where its address is in a network header.
    #[inline(always)]
    const fn address_at<N: Network>(self) -> usize {
        match self {
            Self::Source => N::SOURCE_AT,
            Self::Destination => N::DESTINATION_AT,
        }
    }

    /// Where its port is in a transport header.
    #[inline(always)]
    const fn port_at(self) -> usize {
        match self {
            Self::Source => 0,
            Self::Destination => 2,
        }
    }
}

/// Turns a frame toward a backend under `nat`. `port` is its destination port, host order.
///
/// # Errors
/// [`DropReason::Inconsistent`] for a record that is for the other family, or of another kind;
/// [`DropReason::Truncated`].
#[inline(always)]
pub fn toward<N: Network, B: Buffer>(
    packet: &mut Packet<B>,
    headers: Headers,
    port: u16,
    record: &BackendRecord,
    kind: Kind,
) -> Result<(), DropReason> {
    if kind as u8 != nat_of::<N>() as u8 {
        return Err(DropReason::Inconsistent);
    }
    packet.write::<[u8; MACS_LEN]>(0, record.macs)?;
    let to = destination(record);
    end::<N, B>(packet, headers, End::Destination, port, to).map(|_| ())
}

/// What the destination of packets for a backend becomes.
#[inline(always)]
pub fn destination(record: &BackendRecord) -> Becomes<'_> {
    let (address, port) = record.destination();
    Becomes { address, difference: record.outer_sum, port }
}

/// The kind of records for VIPs of a family.
#[inline(always)]
pub const fn nat_of<N: Network>() -> Kind {
    if N::CHECKSUM_AT.is_some() { Kind::NatIpv4 } else { Kind::NatIpv6 }
}

/// Replaces one end of a packet, of which `port` is the port, host order. Returns what the sum over
/// the whole packet, headers and all, gains by it.
///
/// # Errors
/// [`DropReason::Truncated`] where the frame ends before what is written.
#[inline(always)]
pub fn end<N: Network, B: Buffer>(
    packet: &mut Packet<B>,
    headers: Headers,
    end: End,
    port: u16,
    to: Becomes<'_>,
) -> Result<u32, DropReason> {
    let gained = address::<N, B>(packet, headers.network, end, to)?;
    // Options may be before it.
    let mut transport = packet.behind(headers.transport);
    let headers = Headers { network: 0, transport: 0, ..headers };
    Ok(gained + self::port(&mut transport, headers, end, port, to)?)
}

/// Replaces both ends of a whole packet with these ports, as they lie in it. Neither port that they
/// become is 0.
///
/// # Errors
/// As [`end`].
#[inline(always)]
pub fn both<N: Network, B: Buffer>(
    packet: &mut Packet<B>,
    headers: Headers,
    ports: u32,
    source: Becomes<'_>,
    destination: Becomes<'_>,
) -> Result<(), DropReason> {
    let network = headers.network;
    N::write_address(packet, network + N::SOURCE_AT, source.address)?;
    N::write_address(packet, network + N::DESTINATION_AT, destination.address)?;
    let of_addresses = source.difference + destination.difference;
    if let Some(at) = N::CHECKSUM_AT {
        let old = u16::from_be(packet.read(network + at).ok_or(DropReason::Truncated)?);
        packet.write(network + at, checksum::updated(old, of_addresses).to_be())?;
    }
    // Options may be before it.
    let mut transport = packet.behind(headers.transport);
    let headers = Headers { network: 0, transport: 0, ..headers };
    let become_ports = u32::from(source.port) << 16 | u32::from(destination.port);
    transport.write(0, become_ports.to_be())?;
    let of_source = checksum::difference(flow::source_port(ports), source.port);
    let of_destination = checksum::difference(flow::destination_port(ports), destination.port);
    transport_checksum(&mut transport, headers, of_addresses + of_source + of_destination)?;
    Ok(())
}

/// Replaces the port of one end in a transport header, and updates the header's checksum, for the
/// address, too. Returns what the sum over the header gains by it.
///
/// # Errors
/// As [`end`].
#[inline(always)]
pub fn port<B: Buffer>(
    packet: &mut Packet<B>,
    headers: Headers,
    end: End,
    port: u16,
    to: Becomes<'_>,
) -> Result<u32, DropReason> {
    let becomes = if to.port == 0 { port } else { to.port };
    packet.write(headers.transport + end.port_at(), becomes.to_be())?;
    let of_port = checksum::difference(port, becomes);
    Ok(of_port + transport_checksum(packet, headers, to.difference + of_port)?)
}

/// Replaces the address of one end in a network header, and updates the header's checksum. Returns
/// what the sum over the header gains by it.
///
/// # Errors
/// As [`end`].
#[inline(always)]
pub fn address<N: Network, B: Buffer>(
    packet: &mut Packet<B>,
    network: usize,
    end: End,
    to: Becomes<'_>,
) -> Result<u32, DropReason> {
    N::write_address(packet, network + end.address_at::<N>(), to.address)?;
    match N::CHECKSUM_AT {
        Some(at) => {
            let old = u16::from_be(packet.read(network + at).ok_or(DropReason::Truncated)?);
            let new = checksum::updated(old, to.difference);
            packet.write(network + at, new.to_be())?;
            Ok(to.difference + checksum::difference(old, new))
        }
        None => Ok(to.difference),
    }
}

/// Updates the checksum of a TCP or UDP header, if there is one. Returns what the sum over the
/// header gains by that alone.
#[inline(always)]
pub(crate) fn transport_checksum<B: Buffer>(
    packet: &mut Packet<B>,
    headers: Headers,
    difference: u32,
) -> Result<u32, DropReason> {
    let at = headers.transport + if headers.protocol == TCP { 16 } else { 6 };
    // A quoted packet may end before it.
    if at + size_of::<u16>() > headers.end {
        return Ok(0);
    }
    let old = u16::from_be(packet.read(at).ok_or(DropReason::Truncated)?);
    // A datagram without a checksum (RFC 768).
    if (headers.protocol == UDP) & (old == 0) {
        return Ok(0);
    }
    let mut new = checksum::updated(old, difference);
    // One that comes out as 0 is sent as its other form, since 0 says that there is none.
    if (headers.protocol == UDP) & (new == 0) {
        new = 0xffff;
    }
    packet.write(at, new.to_be())?;
    Ok(checksum::difference(old, new))
}

/// Where the headers of a whole packet are.
#[inline(always)]
pub fn headers(link: Link, transport_offset: usize, protocol: u8) -> Headers {
    let network = link.tags.link_len();
    Headers { network, transport: network + transport_offset, protocol, end: usize::MAX }
}
