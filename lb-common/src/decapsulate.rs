//! The backend's side: takes off what a balancer put in front of a packet, or sends the packet on
//! to another backend that may have its connection.

mod gue;
mod inner;
mod second_chance;

use network_types::{
    ip::{Ipv4Hdr, Ipv6Hdr},
    udp::UdpHdr,
};

use crate::{
    layout::{FAMILY_V6, NextHop},
    link::{Link, NetworkProtocol, Tags},
    network::{Address, Fragment, Network, UDP, is_mapped},
    packet::{Buffer, Packet},
    rewrite::GUE_PORT,
    verdict::DropReason,
};
use gue::Gue;
use inner::{ECN_MASK, uncover};
use second_chance::{Candidate, Outer, ask_for_later_ones, belongs_here, next_candidate, send_on};

/// Protocol number of IPv4 in IP.
const IPV4_IN_IP: u8 = 4;
/// Protocol number of IPv6 in IP.
const IPV6_IN_IP: u8 = 41;

/// A TCP header without its options, as it lies in the packet.
pub type TcpHeader = [u8; 20];

/// Whom tunnel packets may come from, whom they must be sent to, and who else takes them.
pub trait Endpoints {
    /// It is an address of this host.
    fn is_local(&self, address: &Address) -> bool;

    /// Balancers send from it.
    fn is_balancer(&self, address: &Address) -> bool;

    /// This host has the connection of the segment whose network header lies at `at` and whose TCP
    /// header at `tcp_at`; or it gave out the SYN cookie that the segment brings back.
    fn has_connection<N: Network, B: Buffer>(
        &self,
        packet: &Packet<B>,
        at: usize,
        tcp_at: usize,
    ) -> bool;

    /// The way to another backend. Where it isn't known, asking for it makes it so, later.
    fn next_hop(&self, address: &Address) -> NextHop;
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
    /// The frame is turned toward another backend.
    SentOn {
        /// The interface that leads there.
        ifindex: u32,
    },
}

/// Takes the outer headers off a frame that a balancer sent to this host.
///
/// # Errors
/// [`DropReason`]: the frame came from a balancer's address and is not what a balancer sends, or
/// it can't be sent on.
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
fn outer<N: Outer, B: Buffer>(
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
    let ecn = header.traffic_class() & ECN_MASK;
    if transport.protocol != UDP {
        let room = header.total_len().checked_sub(transport.offset).ok_or(DropReason::BadInner)?;
        return match transport.protocol {
            IPV4_IN_IP => uncover::<Ipv4Hdr, B>(packet, tags, transport.offset, room, ecn),
            _ => uncover::<Ipv6Hdr, B>(packet, tags, transport.offset, room, ecn),
        };
    }

    let gue_offset = transport.offset + UdpHdr::LEN;
    let gue = Gue::read::<N, B>(&packet, at + gue_offset)?;
    let outer_len = gue_offset + gue.len;
    let room = header.total_len().checked_sub(outer_len).ok_or(DropReason::BadInner)?;
    let candidate = match gue.left {
        0 => Candidate::NONE,
        _ => next_candidate::<N, B>(&packet, at + gue_offset, &gue, endpoints),
    };
    if !candidate.is_none() {
        // All ways are asked for, also where the packet stays: the next one may need them, and one
        // that is dropped comes again only after TCP's timeout.
        let way = endpoints.next_hop(&candidate.address);
        ask_for_later_ones::<N, B>(&packet, at + gue_offset, &gue, &candidate, endpoints);
        let stays = match gue.protocol {
            IPV4_IN_IP => belongs_here::<Ipv4Hdr, B>(&packet, at + outer_len, room, endpoints),
            _ => belongs_here::<Ipv6Hdr, B>(&packet, at + outer_len, room, endpoints),
        };
        if !stays {
            return send_on(packet, at, &header, at + transport.offset, &gue, &candidate, &way);
        }
    }
    match gue.protocol {
        IPV4_IN_IP => uncover::<Ipv4Hdr, B>(packet, tags, outer_len, room, ecn),
        _ => uncover::<Ipv6Hdr, B>(packet, tags, outer_len, room, ecn),
    }
}
