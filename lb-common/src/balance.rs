//! A packet's journey: parse, service, ring slot, backend, rewrite, out.

use network_types::ip::{Ipv4Hdr, Ipv6Hdr};

use crate::{
    candidates,
    flow::{self, Flow},
    id::{BackendId, ServiceId},
    layout::{FULLNAT, Handed, Kind},
    link::{Link, NetworkProtocol},
    network::Network,
    packet::{Buffer, Packet},
    rewrite::{self, Done, Inner},
    select,
    tables::Tables,
    translate,
    verdict::{DropReason, MayBe, Packed, Verdict},
};

/// Decides what becomes of a frame, and rewrites it where it is forwarded. The content of a frame
/// that is dropped is not defined any more.
#[inline(always)]
pub fn balance<B: Buffer>(packet: Packet<B>, tables: &impl Tables) -> Packed {
    let Some(link) = Link::read(&packet) else { return Packed::PASS };
    match link.network {
        NetworkProtocol::Ipv4 => journey::<Ipv4Hdr, B>(packet, link, tables),
        NetworkProtocol::Ipv6 => journey::<Ipv6Hdr, B>(packet, link, tables),
    }
}

#[inline(always)]
fn journey<N: Network, B: Buffer>(packet: Packet<B>, link: Link, tables: &impl Tables) -> Packed {
    let offset = link.tags.link_len();
    let Some(header) = N::read(&packet, offset) else { return Packed::PASS };
    let Some(directory) = tables.directory() else { return Packed::PASS };
    let in_force = select::InForce::of(directory);
    let Some(vip) = select::vip(&header, in_force, tables) else {
        return not_ours(&header, in_force);
    };

    let unknown = |reason| Packed::refused(reason, ServiceId::NONE, BackendId::NONE);
    let transport = match header.transport(&packet, offset) {
        Ok(transport) if select::serves(vip, transport.protocol) => transport,
        // An ICMP error may be about an answer.
        Ok(transport) if transport.protocol == N::CONTROL => return control::<N>(in_force),
        Ok(_) => return to_vip::<N>(in_force),
        Err(reason) => return unknown(reason),
    };
    let ports = match flow::ports(&packet, offset, &header, transport) {
        Ok(ports) => ports,
        Err(reason) => return unknown(reason),
    };
    let Some(service) = select::service(vip, transport.protocol, ports, in_force, tables) else {
        return to_vip::<N>(in_force);
    };
    let id = ServiceId(service.id);
    let flags = match flow::flags(&packet, offset, &header, transport) {
        Ok(flags) => flags,
        Err(reason) => return Packed::refused(reason, id, BackendId::NONE),
    };
    let flow = Flow { protocol: transport.protocol, ports, flags };

    let hash = select::hash(&header, &flow, service, tables);
    let choice = match select::backend(&header, &flow, hash, service, tables) {
        Ok(choice) => choice,
        Err(reason) => return Packed::refused(reason, id, BackendId::NONE),
    };
    let Some(backend) = choice.backend() else {
        return Packed::refused(DropReason::NoBackend, id, BackendId::NONE);
    };
    let record = match select::record(backend, tables) {
        Ok(record) => record,
        Err(reason) => return Packed::refused(reason, id, backend),
    };
    let verdict = match record.egress_ifindex {
        0 => Verdict::Transmit,
        ifindex if ifindex == packet.ingress_ifindex() => Verdict::Transmit,
        _ => Verdict::Redirect,
    };
    let bytes = (offset + header.total_len()) as u32;
    let forwarded =
        Packed::forwarded(verdict, (id, backend), record.egress_port, bytes, flow.opens());
    // The hash may be that of the client's address alone. Whatever ports do to the bits of a flow's
    // own, they stay as random as they were.
    let inner = Inner::of(&header, hash ^ u64::from(ports));
    let done = rewrite::toward_or(packet, link, inner, record, |mut packet, kind| {
        if kind.is_nat() {
            let headers = translate::headers(link, transport.offset, transport.protocol);
            let port = flow::destination_port(ports);
            translate::toward::<N, B>(&mut packet, headers, port, record, kind)?;
        } else if kind.is_fullnat() {
            tables.hand_over(Handed {
                service: service.id,
                backend: backend.0,
                idle_seconds: service.idle_seconds,
                mtu: 0,
            });
            return Ok(Done::HandedOver);
        } else if choice.has_others() {
            candidates::toward(packet, &inner, record, choice, tables)?;
        } else {
            rewrite::gue(packet, link, inner, record, kind)?;
        }
        Ok(Done::Written)
    });
    match done {
        Ok(Done::Written) => forwarded,
        Ok(Done::HandedOver) if record.is_across() => {
            Packed::refused_unless(MayBe::across::<N>(), DropReason::Inconsistent, id, backend)
        }
        Ok(Done::HandedOver) => {
            Packed::refused_unless(MayBe::fullnat::<N>(), DropReason::Inconsistent, id, backend)
        }
        Err(DropReason::TooBig) if header.is_kept_whole() => {
            let outer_len = Kind::try_from(record.kind).map_or(0, Kind::outer_len);
            tables.hand_over(Handed {
                service: service.id,
                backend: backend.0,
                idle_seconds: 0,
                mtu: u32::from(record.mtu).saturating_sub(outer_len as u32),
            });
            Packed::refused_unless(MayBe::too_long::<N>(), DropReason::TooBig, id, backend)
        }
        Err(reason) => Packed::refused(reason, id, backend),
    }
}

/// What is said of a packet that no service takes. Where none answers through here, that costs one
/// comparison.
#[inline(always)]
fn not_ours<N: Network>(header: &N, in_force: select::InForce<'_>) -> Packed {
    if in_force.answers() == 0 {
        return Packed::PASS;
    }
    let is_error = header.protocol() == N::CONTROL;
    Packed::pass_unless(if in_force.answers() & u32::from(FULLNAT) == 0 {
        MayBe::answer::<N>(is_error)
    } else {
        MayBe::back::<N>(is_error)
    })
}

/// The same of an ICMP message to a VIP.
#[inline(always)]
fn control<N: Network>(in_force: select::InForce<'_>) -> Packed {
    Packed::pass_unless(if in_force.answers() & u32::from(FULLNAT) == 0 {
        MayBe::control::<N>()
    } else {
        MayBe::back::<N>(true)
    })
}

/// The same of one that is sent to a VIP: its address may be a pool's, too.
#[inline(always)]
fn to_vip<N: Network>(in_force: select::InForce<'_>) -> Packed {
    if in_force.answers() & u32::from(FULLNAT) == 0 {
        return Packed::PASS;
    }
    Packed::pass_unless(MayBe::back::<N>(false))
}
