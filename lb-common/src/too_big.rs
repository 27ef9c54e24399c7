//! A packet that its way doesn't take: who sent it is told so, and what would fit (RFC 792 with
//! RFC 1191, RFC 4443 section 3.2). It comes from the address that the packet was sent to.
//!
//! A client's packet, once it is encapsulated; under `fullnat` a backend's, too, since the kernel,
//! whose own address that has, would tell nobody.

use network_types::ip::{Ipv4Hdr, Ipv6Hdr};

use crate::{
    answer::Frame,
    checksum,
    control::TTL,
    fullnat::Translations,
    id::{BackendId, ServiceId},
    layout::FAMILY_V4,
    link::MACS_LEN,
    network::{ICMPV6, Network},
    packet::{Buffer, Packet},
    quoted::ICMP_LEN,
    tables::Reply,
    verdict::{DropReason, Packed},
};

/// Bytes that are quoted behind a header without options: with the ports.
const QUOTED_LEN: usize = 8;
/// What a link must take that IPv6 goes over (RFC 8200 section 5): less is nothing that a host could
/// follow.
const LEAST_IPV6: u32 = 1280;

/// The packet goes back to who sent it, as an error.
#[inline(always)]
pub fn too_long<N: Network, B: Buffer>(packet: Packet<B>, tables: &impl Translations) -> Packed {
    let Some(handed) = tables.handed_over() else { return Packed::PASS };
    let Some(frame) = Frame::<N>::read(&packet) else { return Packed::PASS };
    let who = (ServiceId(handed.service), BackendId(handed.backend));
    if !frame.header.source_is_host() || !tables.may_reply(Reply::TooBig) {
        return Packed::refused(DropReason::TooBig, who.0, who.1);
    }
    let mtu = if N::FAMILY == FAMILY_V4 { handed.mtu } else { handed.mtu.max(LEAST_IPV6) };
    match tell(packet, &frame, mtu) {
        Ok(()) => Packed::told(DropReason::TooBig, who.0, who.1),
        Err(reason) => Packed::refused(reason, who.0, who.1),
    }
}

/// Turns the frame into an error that goes back to its sender, from the address that it was sent to:
/// with headers in front, and without what isn't quoted.
///
/// # Errors
/// [`DropReason::TooBig`] for headers with options, [`DropReason::NoHeadroom`],
/// [`DropReason::Truncated`].
#[inline(always)]
fn tell<N: Network, B: Buffer>(
    mut packet: Packet<B>,
    frame: &Frame<N>,
    mtu: u32,
) -> Result<(), DropReason> {
    let is_v4 = N::FAMILY == FAMILY_V4;
    let header_len = if is_v4 { Ipv4Hdr::LEN } else { Ipv6Hdr::LEN };
    if frame.transport.offset != header_len {
        return Err(DropReason::TooBig);
    }
    let Frame { link, header, .. } = frame;
    let at = link.tags.link_len();
    let macs: [u8; MACS_LEN] = packet.read(0).ok_or(DropReason::Truncated)?;
    let [a, b, c, d, e, f, g, h, i, j, k, l] = macs;
    let quoted_len = header_len + QUOTED_LEN;
    let quoted = packet.behind(at);
    let quoted = if is_v4 { quoted.sum::<7>(0) } else { quoted.sum::<12>(0) };
    let quoted = checksum::fold_words(quoted.ok_or(DropReason::Truncated)?);
    let outer_len = header_len + ICMP_LEN;
    let mut packet = packet.cut(at + quoted_len)?.grow_front(outer_len as i32)?;
    link.tags.write(&mut packet, [g, h, i, j, k, l, a, b, c, d, e, f], link.network)?;

    let mut message = packet.behind(at);
    let (source, destination) = (header.destination_address(), header.source_address());
    N::write_address(&mut message, N::SOURCE_AT, &source)?;
    N::write_address(&mut message, N::DESTINATION_AT, &destination)?;
    let icmp_len = (ICMP_LEN + quoted_len) as u32;
    let mut put = |at: usize, word: u32| message.write(at, word.to_be());
    // Destination unreachable, fragmentation needed; or packet too big.
    let what: u32 = if is_v4 { 0x0304_0000 } else { 0x0200_0000 };
    let mut covered = u32::from(quoted) + (what >> 16) + (mtu >> 16) + (mtu & 0xffff);
    if is_v4 {
        let words = [
            0x4500_0000 | (Ipv4Hdr::LEN as u32 + icmp_len),
            0x4000,
            u32::from(TTL) << 24 | 1 << 16,
        ];
        put(0, words[0])?;
        put(4, words[1])?;
        // The addresses are those of the quoted header.
        let addresses = checksum::address_sum(&source) + checksum::address_sum(&destination);
        let [a, b, c] = words;
        let total = (a >> 16) + (a & 0xffff) + b + (c >> 16) + addresses;
        put(8, c | u32::from(!checksum::fold(total)))?;
    } else {
        put(0, 0x6000_0000)?;
        put(4, icmp_len << 16 | u32::from(ICMPV6) << 8 | u32::from(TTL))?;
        covered += icmp_len + u32::from(ICMPV6);
        covered += checksum::address_sum(&source) + checksum::address_sum(&destination);
    }
    put(header_len, what | u32::from(!checksum::fold(covered)))?;
    put(header_len + 4, mtu)
}

const _: () = {
    assert!(Ipv4Hdr::LEN + QUOTED_LEN == 7 * size_of::<u32>());
    assert!(Ipv6Hdr::LEN + QUOTED_LEN == 12 * size_of::<u32>());
};
