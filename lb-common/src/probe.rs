//! Probes through VIPs: out to the one backend that is asked, as the packet path would send a
//! client's packet there, and the answers back.
//!
//! Probes come from sockets in a network namespace of the agent's own. Each has a source port that
//! names what it is for.

use network_types::ip::{Ipv4Hdr, Ipv6Hdr};

use crate::{
    flow,
    layout::{Endpoint, ProbeTarget},
    link::{Link, NetworkProtocol},
    network::{Fragment, Network, TCP, UDP},
    packet::{Buffer, Packet},
    quoted::{ICMP_LEN, is_error},
    rewrite::{self, Inner},
};

/// Length in bytes of a link header without tags.
const UNTAGGED_LEN: usize = 14;

/// Of all headers that are looked at, so many bytes at the most: an ICMP error that quotes a
/// packet, both with IPv4 options.
pub const HEADERS_LEN: usize = UNTAGGED_LEN + 60 + ICMP_LEN + 60 + 8;

/// What the source ports of probes are for.
pub trait Probes {
    /// Where probes from that port go, host order; `None` for one that none uses.
    fn target(&self, source_port: u16) -> Option<&ProbeTarget>;
}

/// Turns a frame of a probe's socket toward its backend. Gives the interface that leads there;
/// `None` where it is no probe, or the frame can't be sent.
#[inline(always)]
pub fn send<B: Buffer>(packet: Packet<B>, probes: &impl Probes) -> Option<u32> {
    let link = Link::read(&packet)?;
    match link.network {
        NetworkProtocol::Ipv4 => send_as::<Ipv4Hdr, B>(packet, link, probes),
        NetworkProtocol::Ipv6 => send_as::<Ipv6Hdr, B>(packet, link, probes),
    }
}

#[inline(always)]
fn send_as<N: Network, B: Buffer>(
    packet: Packet<B>,
    link: Link,
    probes: &impl Probes,
) -> Option<u32> {
    let offset = link.tags.link_len();
    let header = N::read(&packet, offset)?;
    let transport = header.transport(&packet, offset).ok()?;
    if !is_probed(transport.protocol) | (transport.fragment != Fragment::Whole) {
        return None;
    }
    let ports = flow::ports(&packet, offset, &header, transport).ok()?;
    let target = probes.target(flow::source_port(ports))?;
    let destination = header.destination_address();
    let to = Endpoint { address: &destination, port: flow::destination_port(ports) };
    if !target.sends(&header.source_address(), to) {
        return None;
    }
    let record = target.record();
    if record.resolved == 0 {
        return None;
    }
    // As it lies in the packet: the source port comes first, and differs from probe to probe.
    let inner = Inner::of(&header, u64::from(ports));
    rewrite::toward(packet, link, inner, &record).ok()?;
    Some(record.egress_ifindex)
}

/// Whether a frame is an answer to a probe, or an ICMP error that one met.
#[inline(always)]
pub fn is_answer<B: Buffer>(packet: &Packet<B>, probes: &impl Probes) -> bool {
    let answer = match Link::read(packet) {
        // Probes go out without tags, and so do their answers come.
        Some(link) if link.tags.link_len() != UNTAGGED_LEN => None,
        Some(Link { network: NetworkProtocol::Ipv4, .. }) => answers::<Ipv4Hdr, B>(packet, probes),
        Some(Link { network: NetworkProtocol::Ipv6, .. }) => answers::<Ipv6Hdr, B>(packet, probes),
        None => None,
    };
    answer.is_some()
}

#[inline(always)]
fn answers<N: Network, B: Buffer>(packet: &Packet<B>, probes: &impl Probes) -> Option<()> {
    let header = N::read(packet, UNTAGGED_LEN)?;
    let transport = header.transport(packet, UNTAGGED_LEN).ok()?;
    if !header.is_well_formed() | (transport.fragment != Fragment::Whole) {
        return None;
    }
    let at = UNTAGGED_LEN + transport.offset;
    if is_probed(transport.protocol) {
        let ports: u32 = packet.read(at)?;
        let target = probes.target(flow::destination_port(ports))?;
        let source = header.source_address();
        let from = Endpoint { address: &source, port: flow::source_port(ports) };
        return target.sends(&header.destination_address(), from).then_some(());
    }
    // Whole: the verifier doesn't follow a comparison with the end that leaves room for one byte.
    let message: [u8; ICMP_LEN] = packet.read(at)?;
    if transport.protocol != N::CONTROL || !is_error::<N>(message[0]) {
        return None;
    }
    let at = at + ICMP_LEN;
    let quoted = N::read(packet, at)?;
    let transport = quoted.transport(packet, at).ok()?;
    if !is_probed(transport.protocol) | (transport.fragment == Fragment::Later) {
        return None;
    }
    let ports: u32 = packet.read(at + transport.offset)?;
    let target = probes.target(flow::source_port(ports))?;
    let destination = quoted.destination_address();
    let to = Endpoint { address: &destination, port: flow::destination_port(ports) };
    target.sends(&quoted.source_address(), to).then_some(())
}

/// Whether probes speak it: their source ports are unique over both.
#[inline(always)]
fn is_probed(protocol: u8) -> bool {
    (protocol == TCP) | (protocol == UDP)
}
