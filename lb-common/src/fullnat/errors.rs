//! ICMP errors about flows under `fullnat`, and the packets that they quote.

use core::ops::Deref;

use super::{Known, Translations, kind_of, known, otherwise};
use crate::{
    answer::{self, Frame, Request, Ways, answered, check},
    checksum,
    flow::{destination_port, source_port},
    id::ServiceId,
    layout::{FlowKey, ReturnKey, Sought},
    link::MACS_LEN,
    network::{Network, words},
    packet::{Buffer, Packet},
    quoted::IcmpError,
    select,
    translate::{self, Becomes, End},
    verdict::{DropReason, MayBe, Packed},
};

/// An ICMP error, and the frame that it came in.
pub(super) struct Told<N> {
    pub(super) frame: Frame<N>,
    pub(super) error: IcmpError<N>,
}

impl<N: Network> Told<N> {
    /// `None` for what is none, or is told to another than who sent the packet that it is about.
    #[inline(always)]
    pub(super) fn read<B: Buffer>(packet: &mut Packet<B>) -> Option<Self> {
        let frame = Frame::<N>::read(packet)?;
        if frame.transport.protocol != N::CONTROL {
            return None;
        }
        let at = frame.link.tags.link_len() + frame.transport.offset;
        let len = frame.header.total_len().saturating_sub(frame.transport.offset);
        let error = IcmpError::<N>::read(packet, at, len)?;
        let is_senders =
            answer::same(&error.quoted.source_address(), &frame.header.destination_address());
        is_senders.then_some(Self { frame, error })
    }

    /// How answers to the packet that it is about come.
    #[inline(always)]
    pub(super) fn about(&self) -> ReturnKey {
        let Self { error, .. } = self;
        ReturnKey::new(
            error.quoted.destination_address(),
            error.quoted.source_address(),
            // As an answer has them.
            error.ports.rotate_left(16),
            error.protocol,
        )
    }
}

/// What becomes of an ICMP message, where some services are under `fullnat`.
#[inline(always)]
pub fn error<N: Network, B: Buffer>(
    mut packet: Packet<B>,
    tables: &impl Translations,
    ways: &impl Ways,
) -> Packed {
    let Some(Told { frame, error }) = Told::<N>::read(&mut packet) else {
        return no_error::<N, B>(&packet, tables);
    };
    let key = ReturnKey::new(
        error.quoted.destination_address(),
        error.quoted.source_address(),
        // As an answer has them.
        error.ports.rotate_left(16),
        error.protocol,
    );
    if let Some(known) = known(&key, tables) {
        if known.record.kind != kind_of::<N>() as u8 {
            let who = known.who();
            return Packed::refused_unless(
                MayBe::error_across::<N>(),
                DropReason::Inconsistent,
                who.0,
                who.1,
            );
        }
        return about_forwarded(packet, &frame, &error, &key, &known, ways);
    }
    let Some(directory) = tables.directory() else { return Packed::PASS };
    match select::vip(&frame.header, select::InForce::of(directory), tables) {
        // The stack has no room for both.
        Some(_) => Packed::pass_unless(MayBe::about_answer::<N>()),
        None => otherwise(&frame.header, true, tables),
    }
}

/// What becomes of another ICMP message.
#[inline(always)]
fn no_error<N: Network, B: Buffer>(packet: &Packet<B>, tables: &impl Translations) -> Packed {
    match Frame::<N>::read(packet) {
        Some(frame) if frame.transport.protocol == N::CONTROL => {
            otherwise(&frame.header, true, tables)
        }
        _ => Packed::PASS,
    }
}

/// One that a packet met behind the balancer is told to the client, about the packet that the
/// client sent.
#[inline(always)]
fn about_forwarded<N: Network, B: Buffer, F: Deref<Target = FlowKey>, P>(
    mut packet: Packet<B>,
    frame: &Frame<N>,
    error: &IcmpError<N>,
    key: &ReturnKey,
    known: &Known<'_, F, P>,
    ways: &impl Ways,
) -> Packed {
    let who = known.who();
    let refused = |reason| Packed::refused(reason, who.0, who.1);
    if let Err(reason) = check(&packet, frame) {
        return refused(reason);
    }
    let (vip, client) = (known.vip(), known.client(&key.pool));
    // Other hosts on the way keep their addresses.
    let is_backend = answer::same(&frame.header.source_address(), &key.backend);
    let sought = Sought {
        client: words(known.flow.source),
        service: who.0.0,
        ingress_ifindex: packet.ingress_ifindex(),
    };
    let request = Request { sought, source: vip.address, family: N::FAMILY };
    let way = match ways.way(request) {
        Ok(way) if frame.header.total_len() > way.mtu as usize => {
            // Nobody is told of an error's end (RFC 1122 section 3.2.2).
            return refused(DropReason::TooBig);
        }
        Ok(way) => way,
        Err(reason) => return refused(reason),
    };
    let network = frame.link.tags.link_len();
    let written = answer::put_macs(&mut packet, &way)
        .and_then(|()| translate::address::<N, B>(&mut packet, network, End::Destination, client))
        .and_then(|_| match is_backend {
            true => translate::address::<N, B>(&mut packet, network, End::Source, vip),
            false => Ok(0),
        })
        .and_then(|_| {
            let outside = client.difference + if is_backend { vip.difference } else { 0 };
            quoted(error, &mut packet, client, vip, outside)
        });
    match written {
        Ok(()) => answered(&packet, who, &way),
        Err(reason) => refused(reason),
    }
}

/// What becomes of an ICMP error to a VIP: one that an answer met goes to the backend that sent it,
/// about the packet that the backend sent. It comes from the pool's address, whoever sent it: the
/// backend knows no other way.
#[inline(always)]
pub fn error_about_answer<N: Network, B: Buffer>(
    mut packet: Packet<B>,
    tables: &impl Translations,
) -> Packed {
    let Some(Told { frame, error }) = Told::<N>::read(&mut packet) else { return Packed::PASS };
    let Some(directory) = tables.directory() else { return Packed::PASS };
    let in_force = select::InForce::of(directory);
    let Some(vip) = select::vip(&frame.header, in_force, tables) else { return Packed::PASS };
    // As the client's own packets have them.
    let ports = error.ports.rotate_left(16);
    let Some(service) = select::service(vip, error.protocol, ports, in_force, tables) else {
        return Packed::PASS;
    };
    let flow = FlowKey { source: error.quoted.destination_address(), ports, service: service.id };
    let Some(place) = tables.translated(&flow) else {
        return otherwise(&frame.header, true, tables);
    };
    let translation = place.translation();
    let backend = translation.backend;
    let refused = |reason| Packed::refused(reason, ServiceId(service.id), backend);
    let record = match select::record(backend, tables) {
        Ok(record) if translation.is_of(record) => record,
        Ok(_) => return Packed::PASS,
        Err(reason) => return refused(reason),
    };
    if record.kind != kind_of::<N>() as u8 {
        let service = ServiceId(service.id);
        return Packed::refused_unless(
            MayBe::about_across::<N>(),
            DropReason::Inconsistent,
            service,
            backend,
        );
    }
    let Some(pool) = tables.pool(translation.pool) else {
        return refused(DropReason::Inconsistent);
    };
    if let Err(reason) = check(&packet, &frame) {
        return refused(reason);
    }
    if frame.header.total_len() > usize::from(record.mtu) {
        return refused(DropReason::TooBig);
    }
    let mut to = translate::destination(record);
    if to.port == 0 {
        to.port = destination_port(ports);
    }
    let of = |address| checksum::address_difference(address, pool);
    let port = translation.port;
    let client = Becomes { address: pool, difference: of(&flow.source), port };
    let sender = Becomes { difference: of(&frame.header.source_address()), ..client };
    let verdict = answer::verdict(packet.ingress_ifindex(), record.egress_ifindex);
    let network = frame.link.tags.link_len();
    let bytes = (network + frame.header.total_len()) as u32;
    let written = packet
        .write::<[u8; MACS_LEN]>(0, record.macs)
        .and_then(|()| translate::address::<N, B>(&mut packet, network, End::Destination, to))
        .and_then(|_| translate::address::<N, B>(&mut packet, network, End::Source, sender))
        .and_then(|_| quoted(&error, &mut packet, to, client, to.difference + sender.difference));
    match written {
        Ok(()) => {
            let who = (ServiceId(service.id), backend);
            Packed::forwarded(verdict, who, record.egress_port, bytes, false)
        }
        Err(reason) => refused(reason),
    }
}

/// Replaces both ends of the quoted packet.
#[inline(always)]
fn quoted<N: Network, B: Buffer>(
    error: &IcmpError<N>,
    packet: &mut Packet<B>,
    source: Becomes<'_>,
    destination: Becomes<'_>,
    outside: u32,
) -> Result<(), DropReason> {
    error.translate(packet, End::Source, source_port(error.ports), source, outside)?;
    error.translate(packet, End::Destination, destination_port(error.ports), destination, 0)
}
