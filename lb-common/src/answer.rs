//! What comes of a packet that no service takes, where backends answer through the balancer
//! (`nat`): a backend's answer, or none.
//!
//! Nothing is remembered of flows: an answer's source says whose it is, by a table in which no two
//! services have the same.

use core::ops::Deref;

use crate::{
    flow::{self, source_port},
    id::{BackendId, ServiceId},
    layout::{ANSWERS_OF_ANY_PORT, AnswerEntry, AnswerKey, Sought, Way},
    link::Link,
    network::{Address, Network, TCP, Transport, UDP, words},
    packet::{Buffer, Packet},
    select,
    tables::Tables,
    translate::{self, Becomes, End},
    verdict::{DropReason, Packed, Verdict},
};

/// What a way to a client is asked for with.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// What it depends on.
    pub sought: Sought,
    /// The source that the packet leaves with; an IPv4 address is mapped.
    pub source: &'a Address,
    /// Value of [`crate::layout::VipEntry::family`].
    pub family: u8,
}

/// The ways to clients: the kernel's tables, or a test's.
pub trait Ways {
    /// How packets to a client leave.
    ///
    /// # Errors
    /// [`DropReason::NoRoute`], [`DropReason::ForwardingOff`] or [`DropReason::ClientUnresolved`].
    fn way(&self, request: Request<'_>) -> Result<Way, DropReason>;
}

/// A packet as it came.
pub(crate) struct Frame<N> {
    pub(crate) link: Link,
    pub(crate) header: N,
    pub(crate) transport: Transport,
}

impl<N: Network> Frame<N> {
    #[inline(always)]
    pub(crate) fn read<B: Buffer>(packet: &Packet<B>) -> Option<Self> {
        let link = Link::read(packet)?;
        let offset = link.tags.link_len();
        let header = N::read(packet, offset)?;
        let transport = header.transport(packet, offset).ok()?;
        header.is_well_formed().then_some(Self { link, header, transport })
    }
}

/// A backend's answer becomes the VIP's.
#[inline(always)]
pub fn from_backend<N: Network, B: Buffer>(
    mut packet: Packet<B>,
    tables: &impl Tables,
    ways: &impl Ways,
) -> Packed {
    let Some(frame) = Frame::<N>::read(&packet) else { return Packed::PASS };
    let Frame { link, header, transport } = &frame;
    let offset = link.tags.link_len();
    if (transport.protocol != TCP) & (transport.protocol != UDP) {
        return Packed::PASS;
    }
    let Ok(ports) = flow::ports(&packet, offset, header, *transport) else { return Packed::PASS };
    let port = source_port(ports);
    let source = header.source_address();
    let Some(entry) = entry(&source, port, transport.protocol, tables) else {
        return Packed::PASS;
    };
    let who = (ServiceId(entry.service), BackendId(entry.backend));
    let refused = |reason| Packed::refused(reason, who.0, who.1);
    if let Err(reason) = flow::flags(&packet, offset, header, *transport) {
        return refused(reason);
    }
    let way = match way_of(&frame, &entry, &entry.vip, packet.ingress_ifindex(), ways) {
        Ok(way) => way,
        Err(reason) => return refused(reason),
    };
    if header.total_len() > way.mtu as usize {
        return too_long(header, who);
    }
    let headers = translate::headers(*link, transport.offset, transport.protocol);
    let to = becomes(&entry);
    let written = put_macs(&mut packet, &way)
        .and_then(|()| translate::end::<N, B>(&mut packet, headers, End::Source, port, to));
    match written {
        Ok(_) => answered(&packet, who, &way),
        Err(reason) => refused(reason),
    }
}

/// What becomes of answers from an address and port.
#[inline(always)]
pub(crate) fn entry(
    address: &Address,
    port: u16,
    protocol: u8,
    tables: &impl Tables,
) -> Option<impl Deref<Target = AnswerEntry>> {
    if let Some(entry) = tables.answer(AnswerKey::new(*address, port, protocol)) {
        return Some(entry);
    }
    let directory = tables.directory()?;
    if select::InForce::of(directory).answers() & u32::from(ANSWERS_OF_ANY_PORT) == 0 {
        return None;
    }
    tables.answer(AnswerKey::new(*address, 0, protocol))
}

#[inline(always)]
pub(crate) fn becomes(entry: &AnswerEntry) -> Becomes<'_> {
    Becomes { address: &entry.vip, difference: entry.difference, port: entry.port }
}

/// The way to the client.
#[inline(always)]
pub(crate) fn way_of<N: Network>(
    frame: &Frame<N>,
    entry: &AnswerEntry,
    source: &Address,
    ingress_ifindex: u32,
    ways: &impl Ways,
) -> Result<Way, DropReason> {
    let client = words(frame.header.destination_address());
    let sought = Sought { client, service: entry.service, ingress_ifindex };
    ways.way(Request { sought, source, family: N::FAMILY })
}

/// What becomes of a packet that is longer than its way takes. Where it may not be fragmented, the
/// kernel tells who sent it so, in its own terms: it gets the packet as it came.
#[inline(always)]
pub(crate) fn too_long<N: Network>(header: &N, who: (ServiceId, BackendId)) -> Packed {
    if header.is_kept_whole() {
        return Packed::PASS;
    }
    Packed::refused(DropReason::TooBig, who.0, who.1)
}

/// What [`flow::flags`] checks of packets of every protocol.
#[inline(always)]
pub(crate) fn check<N: Network, B: Buffer>(
    packet: &Packet<B>,
    frame: &Frame<N>,
) -> Result<(), DropReason> {
    if frame.header.is_expired() {
        return Err(DropReason::Expired);
    }
    if !packet.has(frame.link.tags.link_len(), frame.header.total_len()) {
        return Err(DropReason::Truncated);
    }
    Ok(())
}

#[inline(always)]
pub(crate) fn put_macs<B: Buffer>(packet: &mut Packet<B>, way: &Way) -> Result<(), DropReason> {
    packet.write(0, way.macs[0])?;
    packet.write(4, way.macs[1])?;
    packet.write(8, way.macs[2])
}

#[inline(always)]
pub(crate) fn answered<B: Buffer>(
    packet: &Packet<B>,
    who: (ServiceId, BackendId),
    way: &Way,
) -> Packed {
    Packed::answered(verdict(packet.ingress_ifindex(), way.ifindex), who, way.ifindex)
}

#[inline(always)]
pub(crate) fn verdict(ingress_ifindex: u32, egress_ifindex: u32) -> Verdict {
    match egress_ifindex {
        0 => Verdict::Transmit,
        egress if egress == ingress_ifindex => Verdict::Transmit,
        _ => Verdict::Redirect,
    }
}

#[inline(always)]
pub(crate) fn same(one: &Address, other: &Address) -> bool {
    u128::from_ne_bytes(*one) == u128::from_ne_bytes(*other)
}
