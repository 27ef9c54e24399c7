//! Flows between families under `fullnat` (NAT64, NAT46): packets get another header, by RFC 7915.
//!
//! Programs of their own: the ones for a single family find that a flow is of two, and leave the
//! packet to these.

mod errors;
mod header;
mod icmp;

use super::{Arrived, Translations, known, lives_with};
use crate::{
    answer::{self, Frame, Request, Ways},
    checksum,
    flow::{self, flag},
    id::{BackendId, ServiceId},
    layout::{FlowKey, Handed, Kind, Progress, ReturnKey, Sought, Way},
    link::MACS_LEN,
    network::{Network as _, TCP, UDP, words},
    packet::{Buffer, Packet},
    select,
    translate::{self, Becomes},
    verdict::{DropReason, MayBe, Packed},
};

pub use errors::{error, error_about_answer, tell};
pub use header::Across;

use header::{Carried, replace};

/// The kind of records for VIPs of a family and backends of the other.
#[inline(always)]
const fn kind_from<N: Across>() -> Kind {
    if N::CHECKSUM_AT.is_some() { Kind::FullnatToIpv6 } else { Kind::FullnatToIpv4 }
}

/// A packet's length in the family that it came by, where it is so long in the other.
#[inline(always)]
const fn as_came<N: Across>(len: u32) -> u32 {
    (len + N::LEN as u32).saturating_sub(<N::Other as Across>::LEN as u32)
}

/// A client's packet goes to its flow's backend; where it has none, to the ring's. Here, whose that is
/// and from which port.
#[inline(always)]
pub fn toward<N: Across, B: Buffer>(mut packet: Packet<B>, tables: &impl Translations) -> Packed {
    let Some(handed) = tables.handed_over() else { return Packed::PASS };
    let Some(frame) = Frame::<N>::read(&packet) else { return Packed::PASS };
    let Frame { link, header, transport } = &frame;
    let offset = link.tags.link_len();
    let service = ServiceId(handed.service);
    let refused = |reason, backend| Packed::refused(reason, service, backend);
    let ring_has = BackendId(handed.backend);
    // The first program checked them.
    let (ports, flags) = match flow::ports(&packet, offset, header, *transport)
        .and_then(|ports| Ok((ports, flow::flags(&packet, offset, header, *transport)?)))
    {
        Ok(both) => both,
        Err(reason) => return refused(reason, ring_has),
    };
    if let Err(reason) = N::check(&mut packet, offset, *transport) {
        return refused(reason, BackendId::NONE);
    }
    let arrived = Arrived {
        flow: FlowKey { source: header.source_address(), ports, service: handed.service },
        backend: ring_has,
        idle_seconds: handed.idle_seconds,
        protocol: transport.protocol,
        flags,
        reserved: 0,
    };
    let translation = match lives_with(&arrived, tables) {
        Ok(translation) => translation,
        Err(reason) => return refused(reason, BackendId::NONE),
    };
    let backend = translation.backend;
    // Neither stack nor verifier has room for both.
    let next = match select::record(backend, tables) {
        Ok(record) if record.is_across() => {
            tables.hand_over(Handed::of_flow(service, translation));
            MayBe::send_across::<N>()
        }
        // The ring has one of the other family now, but the flow lives with another.
        Ok(_) => MayBe::fullnat::<N>(),
        Err(reason) => return refused(reason, backend),
    };
    Packed::refused_unless(next, DropReason::Inconsistent, service, backend)
}

/// And here, as the backend's family has it.
#[inline(always)]
pub fn send<N: Across, B: Buffer>(mut packet: Packet<B>, tables: &impl Translations) -> Packed {
    let Some(handed) = tables.handed_over() else { return Packed::PASS };
    let Some(frame) = Frame::<N>::read(&packet) else { return Packed::PASS };
    let Frame { link, header, transport } = &frame;
    let offset = link.tags.link_len();
    let (service, backend) = (ServiceId(handed.service), BackendId(handed.backend));
    let refused = |reason| Packed::refused(reason, service, backend);
    let (ports, flags) = match flow::ports(&packet, offset, header, *transport)
        .and_then(|ports| Ok((ports, flow::flags(&packet, offset, header, *transport)?)))
    {
        Ok(both) => both,
        Err(reason) => return refused(reason),
    };
    let record = match select::record(backend, tables) {
        Ok(record) => record,
        Err(reason) => return refused(reason),
    };
    // Not all packets come here by a program that did.
    if let Err(reason) = N::check(&mut packet, offset, *transport) {
        return refused(reason);
    }
    let (pool, port) = handed.pool_and_port();
    let Some(pool) = tables.pool(pool) else { return refused(DropReason::Inconsistent) };
    if record.kind != kind_from::<N>() as u8 {
        return refused(DropReason::Inconsistent);
    }
    let carried = Carried::of(&packet, offset, header, *transport, tables.identification());
    let mtu = record.mtu_across();
    if carried.len::<N::Other>() > usize::from(mtu) {
        if !header.is_kept_whole() {
            return refused(DropReason::TooBig);
        }
        return too_long::<N>(as_came::<N>(mtu.into()), (service, backend), tables);
    }
    let verdict = answer::verdict(packet.ingress_ifindex(), record.egress_ifindex);
    let bytes = (offset + header.total_len()) as u32;
    let difference = checksum::address_difference(&header.source_address(), pool);
    let source = Becomes { address: pool, difference, port };
    let mut destination = translate::destination(record);
    if destination.port == 0 {
        destination.port = flow::destination_port(ports);
    }
    let written = replace::<N, B>(packet, *link, *transport, &carried, ports, source, destination)
        .and_then(|mut packet| packet.write::<[u8; MACS_LEN]>(0, record.macs));
    match written {
        Ok(()) => {
            let opens = flags & (flag::SYN | flag::ACK) == flag::SYN;
            Packed::forwarded(verdict, (service, backend), record.egress_port, bytes, opens)
        }
        Err(reason) => refused(reason),
    }
}

/// A backend's answer goes to the client, from the VIP: here, by which way.
#[inline(always)]
pub fn back<N: Across, B: Buffer>(
    mut packet: Packet<B>,
    tables: &impl Translations,
    ways: &impl Ways,
) -> Packed {
    let Some(frame) = Frame::<N>::read(&packet) else { return Packed::PASS };
    let Frame { link, header, transport } = &frame;
    let offset = link.tags.link_len();
    if (transport.protocol != TCP) & (transport.protocol != UDP) {
        return Packed::PASS;
    }
    let Ok(ports) = flow::ports(&packet, offset, header, *transport) else { return Packed::PASS };
    let (backend, pool) = (header.source_address(), header.destination_address());
    let key = ReturnKey::new(backend, pool, ports, transport.protocol);
    let Some(known) = known(&key, tables) else { return Packed::PASS };
    let who = known.who();
    let refused = |reason| Packed::refused(reason, who.0, who.1);
    if known.record.kind != kind_from::<N::Other>() as u8 {
        return refused(DropReason::Inconsistent);
    }
    let flags = match flow::flags(&packet, offset, header, *transport)
        .and_then(|flags| N::check(&mut packet, offset, *transport).map(|()| flags))
    {
        Ok(flags) => flags,
        Err(reason) => return refused(reason),
    };
    let before = known.place.progress();
    let stage = before.stage.after_backend(transport.protocol, flags);
    known.place.note(before, Progress { began: before.began, seen: tables.now(), stage });
    let sought = Sought {
        client: words(known.flow.source),
        service: who.0.0,
        ingress_ifindex: packet.ingress_ifindex(),
    };
    match way_across::<N>(sought, known.vip(), ways) {
        Ok(way) => {
            tables.hand_way(&way);
            // The stack has no room for both.
            Packed::refused_unless(
                MayBe::return_across::<N>(),
                DropReason::Inconsistent,
                who.0,
                who.1,
            )
        }
        Err(reason) => refused(reason),
    }
}

/// And here, as the client's family has it.
#[inline(always)]
pub fn give_back<N: Across, B: Buffer>(packet: Packet<B>, tables: &impl Translations) -> Packed {
    let Some(way) = tables.handed_way() else { return Packed::PASS };
    let Some(frame) = Frame::<N>::read(&packet) else { return Packed::PASS };
    let Frame { link, header, transport } = &frame;
    let offset = link.tags.link_len();
    let Ok(ports) = flow::ports(&packet, offset, header, *transport) else { return Packed::PASS };
    let (backend, pool) = (header.source_address(), header.destination_address());
    let key = ReturnKey::new(backend, pool, ports, transport.protocol);
    let Some(known) = known(&key, tables) else { return Packed::PASS };
    let who = known.who();
    let refused = |reason| Packed::refused(reason, who.0, who.1);
    let (source, destination) = (known.vip(), known.client(&key.pool));
    let ingress_ifindex = packet.ingress_ifindex();
    let carried = Carried::of(&packet, offset, header, *transport, tables.identification());
    if carried.len::<N::Other>() > way.mtu as usize {
        if !header.is_kept_whole() {
            return refused(DropReason::TooBig);
        }
        return too_long::<N>(as_came::<N>(way.mtu), who, tables);
    }
    let written = replace::<N, B>(packet, *link, *transport, &carried, ports, source, destination)
        .and_then(|mut packet| answer::put_macs(&mut packet, &way));
    match written {
        Ok(()) => Packed::answered(answer::verdict(ingress_ifindex, way.ifindex), who, way.ifindex),
        Err(reason) => refused(reason),
    }
}

/// The way to a client of the other family.
#[inline(always)]
fn way_across<N: Across>(
    sought: Sought,
    source: Becomes<'_>,
    ways: &impl Ways,
) -> Result<Way, DropReason> {
    ways.way(Request { sought, source: source.address, family: N::Other::FAMILY })
}

/// Who sent it is told by another program: the stack has no room for both.
#[inline(always)]
fn too_long<N: Across>(
    mtu: u32,
    who: (ServiceId, BackendId),
    tables: &impl Translations,
) -> Packed {
    tables.hand_over(Handed { service: who.0.0, backend: who.1.0, idle_seconds: 0, mtu });
    Packed::refused_unless(MayBe::too_long::<N>(), DropReason::TooBig, who.0, who.1)
}
