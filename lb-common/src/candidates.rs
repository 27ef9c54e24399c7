//! Other backends that a packet's flow may live with, in the private data of its GUE header.
//!
//! Version 0 of GUE (draft-ietf-intarea-gue) leaves what the header's length covers beyond its
//! flags' fields to the sender; receivers that don't know it skip it. Ours is one word and room
//! for two addresses of the outer header's family, so each family has one length:
//!
//! ```text
//! | type 1 | count | next | 0 | first address | second address |
//! ```

use network_types::{
    ip::{Ipv4Hdr, Ipv6Hdr},
    udp::UdpHdr,
};

use crate::{
    id::BackendId,
    layout::{BackendRecord, Kind},
    link::Link,
    moving::Choice,
    network::Address,
    packet::{Buffer, Packet},
    rewrite::{self, Inner},
    tables::Tables,
    verdict::DropReason,
};

/// Addresses that there is room for.
pub const ROOM: usize = 2;
/// Length in bytes of the word before the addresses.
pub const HEAD_LEN: usize = 4;
/// The first byte: what this is, and in which form.
pub const TYPE: u8 = 1;

/// Length in bytes of the private data, whose addresses have that many bytes each.
pub const fn private_len(address_len: usize) -> usize {
    HEAD_LEN + ROOM * address_len
}

/// Writes the frame toward a backend under GUE, and with it the others that live and are reached
/// over the same family. Where they don't fit the way, the frame goes without them.
///
/// Not inlined: what is rare shall not stand between the instructions of what is not.
///
/// # Errors
/// As [`rewrite::toward`].
#[inline(never)]
pub fn toward<B: Buffer>(
    packet: Packet<B>,
    inner: &Inner,
    record: &BackendRecord,
    choice: Choice,
    tables: &impl Tables,
) -> Result<(), DropReason> {
    // Read again: the verifier believes no length that comes by memory.
    let Some(link) = Link::read(&packet) else { return Err(DropReason::Truncated) };
    let inner = *inner;
    let kind = Kind::try_from(record.kind).map_err(|_| DropReason::Inconsistent)?;
    let len = match kind {
        Kind::GueIpv4 => private_len(4),
        Kind::GueIpv6 => private_len(16),
        _ => return Err(DropReason::Inconsistent),
    };
    let [first, second] = choice.others();
    let (first, second) = (address(first, kind, tables), address(second, kind, tables));
    let (first, second) = if first.is_some() { (first, second) } else { (second, None) };
    let room = usize::from(record.mtu).checked_sub(kind.outer_len() + inner.len);
    let room = room.ok_or(DropReason::TooBig)?;
    let Some(first) = first.filter(|_| len <= room) else {
        return rewrite::gue(packet, link, inner, record, kind);
    };

    // The private data right before the inner packet; then all the rest, as if it were part of it.
    let at = link.tags.link_len();
    let mut packet = packet.grow_front(len as i32)?;
    let count = 1 + u8::from(second.is_some());
    packet.write(at, [TYPE, count, 0, 0])?;
    let second = second.unwrap_or(&[0; 16]);
    let gue_at = if matches!(kind, Kind::GueIpv4) {
        packet.write(at + HEAD_LEN, ipv4(first))?;
        packet.write(at + HEAD_LEN + 4, ipv4(second))?;
        at + Ipv4Hdr::LEN + UdpHdr::LEN
    } else {
        packet.write(at + HEAD_LEN, *first)?;
        packet.write(at + HEAD_LEN + 16, *second)?;
        at + Ipv6Hdr::LEN + UdpHdr::LEN
    };
    let inner = Inner { len: inner.len + len, ..inner };
    let mut packet = rewrite::gue_in_front(packet, link, inner, record, kind)?;
    packet.write(gue_at, (len / 4) as u8)
}

/// The address of a backend that lives and is reached as that kind says.
#[inline(always)]
fn address(id: BackendId, kind: Kind, tables: &impl Tables) -> Option<&Address> {
    let record = tables.backend(id.known()?)?.active();
    let takes = record.alive != 0 && record.resolved != 0 && record.kind == kind as u8;
    takes.then_some(&record.address)
}

/// The IPv4 address in 16 bytes.
#[inline(always)]
const fn ipv4(address: &Address) -> [u8; 4] {
    let [.., a, b, c, d] = *address;
    [a, b, c, d]
}
