//! Turns a packet toward its backend: copy the record's headers, patch what differs per packet.

use network_types::{
    ip::{Ipv4Hdr, Ipv6Hdr},
    udp::UdpHdr,
};

use crate::{
    checksum,
    layout::{BackendRecord, Kind},
    link::{Link, MACS_LEN, NetworkProtocol, Tags},
    network::Network,
    packet::{Buffer, Packet},
    verdict::DropReason,
};

/// Port of GUE (IANA "gue").
pub const GUE_PORT: u16 = 6080;
/// Length in bytes of a GUE header without fields.
pub const GUE_LEN: usize = 4;

/// What the outer header takes from the packet.
#[derive(Clone, Copy, Debug)]
pub struct Inner {
    /// Length in bytes of the inner IP packet.
    pub len: usize,
    /// Its DSCP and ECN, which the outer header repeats (RFC 2983 uniform model, RFC 6040
    /// section 4.1 normal mode).
    pub traffic_class: u8,
    /// Differs from flow to flow: the paths between spread flows by it (RFC 6438, RFC 8085
    /// section 5.1.1).
    pub entropy: u64,
}

impl Inner {
    /// What an outer header takes from a packet of the flow with this entropy.
    #[inline(always)]
    pub fn of(header: &impl Network, entropy: u64) -> Self {
        Self { len: header.total_len(), traffic_class: header.traffic_class(), entropy }
    }
}

/// What became of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Done {
    /// It is as it leaves.
    Written,
    /// Another program goes on with it.
    HandedOver,
}

/// Writes the frame toward the backend.
///
/// # Errors
/// [`DropReason::TooBig`] before anything is written, [`DropReason::NoHeadroom`],
/// [`DropReason::Inconsistent`] for a record of unknown kind.
#[inline(always)]
pub fn toward<B: Buffer>(
    packet: Packet<B>,
    link: Link,
    inner: Inner,
    record: &BackendRecord,
) -> Result<(), DropReason> {
    let gue = |packet, kind| gue(packet, link, inner, record, kind).map(|()| Done::Written);
    toward_or(packet, link, inner, record, gue).map(|_| ())
}

/// The same, where the caller knows how GUE headers are written, and addresses rewritten: only the
/// arms of those pay for what it asks.
///
/// # Errors
/// As [`toward`].
#[inline(always)]
pub(crate) fn toward_or<B: Buffer>(
    packet: Packet<B>,
    link: Link,
    inner: Inner,
    record: &BackendRecord,
    otherwise: impl FnOnce(Packet<B>, Kind) -> Result<Done, DropReason>,
) -> Result<Done, DropReason> {
    let kind = Kind::try_from(record.kind).map_err(|_| DropReason::Inconsistent)?;
    if kind.outer_len() + inner.len > usize::from(record.mtu) {
        return Err(DropReason::TooBig);
    }
    match kind {
        Kind::L2 => l2(packet, record)?,
        Kind::Ipv4 => {
            let (mut packet, at) =
                encapsulate::<20, B>(packet, link.tags, NetworkProtocol::Ipv4, record)?;
            ipv4(&mut packet, at, Ipv4Hdr::LEN, inner, record)?;
        }
        Kind::Ipv6 => {
            let (mut packet, at) =
                encapsulate::<40, B>(packet, link.tags, NetworkProtocol::Ipv6, record)?;
            ipv6(&mut packet, at, Ipv6Hdr::LEN, inner)?;
        }
        _ => return otherwise(packet, kind),
    }
    Ok(Done::Written)
}

/// Puts IP, UDP and GUE headers in front of the packet.
///
/// # Errors
/// [`DropReason::NoHeadroom`], [`DropReason::Inconsistent`] for a record of another kind.
#[inline(always)]
pub(crate) fn gue<B: Buffer>(
    packet: Packet<B>,
    link: Link,
    inner: Inner,
    record: &BackendRecord,
    kind: Kind,
) -> Result<(), DropReason> {
    gue_in_front(packet, link, inner, record, kind).map(|_| ())
}

/// [`gue`], for who goes on with the frame.
#[inline(always)]
pub(crate) fn gue_in_front<B: Buffer>(
    packet: Packet<B>,
    link: Link,
    inner: Inner,
    record: &BackendRecord,
    kind: Kind,
) -> Result<Packet<B>, DropReason> {
    match kind {
        Kind::GueIpv4 => {
            let (mut packet, at) =
                encapsulate::<32, B>(packet, link.tags, NetworkProtocol::Ipv4, record)?;
            ipv4(&mut packet, at, Ipv4Hdr::LEN + UdpHdr::LEN + GUE_LEN, inner, record)?;
            udp(&mut packet, at + Ipv4Hdr::LEN, inner)?;
            Ok(packet)
        }
        Kind::GueIpv6 => {
            let (mut packet, at) =
                encapsulate::<52, B>(packet, link.tags, NetworkProtocol::Ipv6, record)?;
            ipv6(&mut packet, at, Ipv6Hdr::LEN + UdpHdr::LEN + GUE_LEN, inner)?;
            udp(&mut packet, at + Ipv6Hdr::LEN, inner)?;
            Ok(packet)
        }
        _ => Err(DropReason::Inconsistent),
    }
}

/// New MAC addresses, and nothing else.
#[inline(always)]
fn l2<B: Buffer>(mut packet: Packet<B>, record: &BackendRecord) -> Result<(), DropReason> {
    packet.write::<[u8; MACS_LEN]>(0, record.macs)
}

/// Puts the link header and `OUTER` bytes of the record's outer header in front of the inner
/// packet. Returns where the outer header begins.
#[inline(always)]
fn encapsulate<const OUTER: usize, B: Buffer>(
    packet: Packet<B>,
    tags: Tags,
    outer: NetworkProtocol,
    record: &BackendRecord,
) -> Result<(Packet<B>, usize), DropReason> {
    let mut packet = packet.grow_front(OUTER as i32)?;
    let at = tags.write(&mut packet, record.macs, outer)?;
    let header: &[u8; OUTER] = record.outer.first_chunk().ok_or(DropReason::Inconsistent)?;
    packet.write(at, *header)?;
    Ok((packet, at))
}

/// Length, traffic class and checksum of an outer IPv4 header that is `outer_len` bytes with what
/// follows it.
#[inline(always)]
fn ipv4<B: Buffer>(
    packet: &mut Packet<B>,
    at: usize,
    outer_len: usize,
    inner: Inner,
    record: &BackendRecord,
) -> Result<(), DropReason> {
    let len = (outer_len + inner.len) as u16;
    packet.write(at + 1, inner.traffic_class)?;
    packet.write(at + 2, len.to_be())?;
    let sum = record.outer_sum + u32::from(len) + u32::from(inner.traffic_class);
    packet.write(at + 10, (!checksum::fold(sum)).to_be())
}

/// Traffic class, flow label and length of an outer IPv6 header.
#[inline(always)]
fn ipv6<B: Buffer>(
    packet: &mut Packet<B>,
    at: usize,
    outer_len: usize,
    inner: Inner,
) -> Result<(), DropReason> {
    let label = inner.entropy as u32 & 0x000f_ffff;
    let first = 6 << 28 | u32::from(inner.traffic_class) << 20 | label;
    packet.write(at, first.to_be())?;
    packet.write(at + 4, ((outer_len - Ipv6Hdr::LEN + inner.len) as u16).to_be())
}

/// Source port and length of a UDP header before GUE. Its checksum stays zero: the inner packet
/// has its own (RFC 6935, RFC 6936 section 4).
#[inline(always)]
fn udp<B: Buffer>(packet: &mut Packet<B>, at: usize, inner: Inner) -> Result<(), DropReason> {
    let source_port = 0xc000 | inner.entropy as u16 & 0x3fff;
    packet.write(at, source_port.to_be())?;
    packet.write(at + 4, ((UdpHdr::LEN + GUE_LEN + inner.len) as u16).to_be())
}
