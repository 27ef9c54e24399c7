//! ICMP errors about flows between families: their own header, what they say, and the packet that
//! they quote become the other family's (RFC 7915 sections 4.2, 4.3, 5.2 and 5.3).

use super::{Across, Carried, kind_from, way_across};
use crate::{
    answer::{Ways, check, put_macs, verdict},
    checksum,
    flow::{destination_port, source_port},
    fullnat::{Translations, errors::Told, known},
    id::ServiceId,
    layout::{FlowKey, Sought, Way},
    link::MACS_LEN,
    network::{Fragment, ICMPV6, Network as _, words},
    packet::{Buffer, Packet},
    quoted::{ICMP_LEN, IcmpError},
    select,
    translate::{self, Becomes, End, Headers},
    verdict::{DropReason, MayBe, Packed},
};

use super::icmp::{Message, to_v4, to_v6};

/// An error about a client's packet is told to the client: here, whether, and by which way.
#[inline(always)]
pub fn error<N: Across, B: Buffer>(
    mut packet: Packet<B>,
    tables: &impl Translations,
    ways: &impl Ways,
) -> Packed {
    let Some(told) = Told::<N>::read(&mut packet) else { return Packed::PASS };
    let Some(known) = known(&told.about(), tables) else { return Packed::PASS };
    let who = known.who();
    let refused = |reason| Packed::refused(reason, who.0, who.1);
    if known.record.kind != kind_from::<N::Other>() as u8 {
        return refused(DropReason::Inconsistent);
    }
    if let Err(reason) = check(&packet, &told.frame) {
        return refused(reason);
    }
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
                MayBe::tell_across::<N>(),
                DropReason::Inconsistent,
                who.0,
                who.1,
            )
        }
        Err(reason) => refused(reason),
    }
}

/// And here, in its own words.
#[inline(always)]
pub fn tell<N: Across, B: Buffer>(mut packet: Packet<B>, tables: &impl Translations) -> Packed {
    let Some(Way { mtu, .. }) = tables.handed_way() else { return Packed::PASS };
    let Some(told) = Told::<N>::read(&mut packet) else { return Packed::PASS };
    let key = told.about();
    let Some(known) = known(&key, tables) else { return Packed::PASS };
    let who = known.who();
    let ingress_ifindex = packet.ingress_ifindex();
    // As the client counts.
    let limit = super::as_came::<N::Other>(known.record.mtu_across().into()).min(mtu);
    // Hosts between here and there have no addresses of the client's family: it is the VIP that tells
    // (RFC 6791 section 3 has a pool for that).
    let (source, destination) = (known.client(&key.pool), known.vip());
    let ends = Ends { source, destination, limit, mtu };
    match replace(packet, &told, tables.identification(), ends).and_then(|mut packet| {
        // Only now: the stack has no room for it until here.
        let way = tables.handed_way().ok_or(DropReason::Inconsistent)?;
        put_macs(&mut packet, &way)?;
        Ok(way.ifindex)
    }) {
        Ok(egress) => Packed::answered(verdict(ingress_ifindex, egress), who, egress),
        Err(reason) => Packed::refused(reason, who.0, who.1),
    }
}

/// An error to a VIP, that an answer met, is told to the backend that sent it, by the pool's address.
#[inline(always)]
pub fn error_about_answer<N: Across, B: Buffer>(
    mut packet: Packet<B>,
    tables: &impl Translations,
) -> Packed {
    let Some(told) = Told::<N>::read(&mut packet) else { return Packed::PASS };
    let Told { frame, error } = &told;
    let Some(directory) = tables.directory() else { return Packed::PASS };
    let in_force = select::InForce::of(directory);
    let Some(vip) = select::vip(&frame.header, in_force, tables) else { return Packed::PASS };
    // As the client's own packets have them.
    let ports = error.ports.rotate_left(16);
    let Some(service) = select::service(vip, error.protocol, ports, in_force, tables) else {
        return Packed::PASS;
    };
    let flow = FlowKey { source: error.quoted.destination_address(), ports, service: service.id };
    let Some(place) = tables.translated(&flow) else { return Packed::PASS };
    let translation = place.translation();
    let backend = translation.backend;
    let refused = |reason| Packed::refused(reason, ServiceId(service.id), backend);
    let record = match select::record(backend, tables) {
        Ok(record) if translation.is_of(record) => record,
        Ok(_) => return Packed::PASS,
        Err(reason) => return refused(reason),
    };
    let Some(pool) = tables.pool(translation.pool) else {
        return refused(DropReason::Inconsistent);
    };
    if record.kind != kind_from::<N>() as u8 {
        return refused(DropReason::Inconsistent);
    }
    if let Err(reason) = check(&packet, frame) {
        return refused(reason);
    }
    let mut to = translate::destination(record);
    if to.port == 0 {
        to.port = destination_port(ports);
    }
    let difference = checksum::address_difference(&flow.source, pool);
    let client = Becomes { address: pool, difference, port: translation.port };
    let mtu = record.mtu_across().into();
    let ends = Ends { source: to, destination: client, limit: mtu, mtu };
    let verdict = verdict(packet.ingress_ifindex(), record.egress_ifindex);
    let bytes = (frame.link.tags.link_len() + frame.header.total_len()) as u32;
    match replace(packet, &told, tables.identification(), ends)
        .and_then(|mut packet| packet.write::<[u8; MACS_LEN]>(0, record.macs))
    {
        Ok(()) => {
            let who = (ServiceId(service.id), backend);
            Packed::forwarded(verdict, who, record.egress_port, bytes, false)
        }
        Err(reason) => refused(reason),
    }
}

/// What the ends of the quoted packet become; the error itself goes the other way.
struct Ends<'a> {
    source: Becomes<'a>,
    destination: Becomes<'a>,
    /// The longest packet of who is told that the way takes, as far as it is known.
    limit: u32,
    /// The longest that the way to who is told takes.
    mtu: u32,
}

/// Puts the other family's headers in the place of an error's and of the quoted packet's. MAC
/// addresses are the caller's to write.
///
/// # Errors
/// [`DropReason::Fragment`], [`DropReason::Untranslatable`], [`DropReason::TooBig`], [`DropReason::NoHeadroom`],
/// [`DropReason::Truncated`].
#[inline(always)]
fn replace<N: Across, B: Buffer>(
    mut packet: Packet<B>,
    Told { frame, error }: &Told<N>,
    identification: u16,
    ends: Ends<'_>,
) -> Result<Packet<B>, DropReason> {
    let network = frame.link.tags.link_len();
    let transport = frame.transport;
    // The checksum of a piece covers the others, too.
    if transport.fragment != Fragment::Whole {
        return Err(DropReason::Fragment);
    }
    // As the balancer sent it, it has neither options nor extensions.
    if error.offset() != N::LEN {
        return Err(DropReason::Untranslatable);
    }
    N::check(&mut packet, network, transport)?;
    let mut outside = Carried::of(&packet, network, &frame.header, transport, identification);
    outside.protocol = N::Other::CONTROL;
    let icmp_len = u32::from(outside.payload_len);
    outside.payload_len = (icmp_len + N::Other::LEN as u32).wrapping_sub(N::LEN as u32) as u16;
    if outside.len::<N::Other>() > ends.mtu as usize {
        // Nobody is told of an error's end (RFC 1122 section 3.2.2).
        return Err(DropReason::TooBig);
    }
    let (message, rest_sum) = read(&mut packet, frame, error, icmp_len, ends.limit)?;
    let inside = Carried {
        traffic_class: error.quoted.traffic_class(),
        hops: error.quoted.hops(),
        protocol: error.protocol,
        may_be_fragmented: false,
        identification,
        payload_len: error.quoted.total_len().wrapping_sub(N::LEN) as u16,
    };

    let before = transport.offset + N::LEN;
    let growth = 2 * N::Other::LEN as i32 - before as i32;
    let mut packet = packet.grow_front(growth)?;
    let at = frame.link.tags.write_behind_macs(&mut packet, N::Other::PROTOCOL)?;
    let (from, to) = (ends.destination.address, ends.source.address);
    N::Other::put(&mut packet.behind(at), &outside, from, to)?;
    let mut message_at = packet.behind(at + N::Other::LEN);
    let Message { kind, code, rest } = message;
    message_at.write(0, [kind, code, 0, 0])?;
    message_at.write(4, rest.to_be())?;
    let mut quoted = message_at.behind(ICMP_LEN);
    N::Other::put(&mut quoted, &inside, ends.source.address, ends.destination.address)?;
    let header_sum = header_sum::<N::Other, _>(&quoted)?;
    let mut behind = quoted.behind(N::Other::LEN);
    let protocol = error.protocol;
    let headers = Headers { network: 0, transport: 0, protocol, end: error.len() };
    let ports = error.ports;
    let gained =
        translate::port(&mut behind, headers, End::Source, source_port(ports), ends.source)?
            + translate::port(
                &mut behind,
                headers,
                End::Destination,
                destination_port(ports),
                ends.destination,
            )?;
    let mut sum = (u32::from(kind) << 8) + u32::from(code) + (rest >> 16) + (rest & 0xffff);
    sum += rest_sum + header_sum + u32::from(checksum::fold(gained));
    if N::Other::CHECKSUM_AT.is_none() {
        sum += checksum::address_sum(from) + checksum::address_sum(to);
        sum += u32::from(outside.payload_len) + u32::from(ICMPV6);
    }
    message_at.write(2, (!checksum::fold(sum)).to_be())?;
    Ok(packet)
}

/// What the error says in the other family, and the sum over what stays of it: what is quoted behind
/// the network header. By the checksum that it has, so that a wrong one stays wrong.
#[inline(always)]
fn read<N: Across, B: Buffer>(
    packet: &mut Packet<B>,
    frame: &crate::answer::Frame<N>,
    error: &IcmpError<N>,
    icmp_len: u32,
    limit: u32,
) -> Result<(Message, u32), DropReason> {
    let mut message = packet.behind(frame.link.tags.link_len() + frame.transport.offset);
    let [kind, code, a, b, c, d, e, f] =
        message.read::<[u8; ICMP_LEN]>(0).ok_or(DropReason::Truncated)?;
    let rest = u32::from_be_bytes([c, d, e, f]);
    let quoted_sum = header_sum::<N, _>(&message.behind(ICMP_LEN))?;
    let mut known = (u32::from(kind) << 8) + u32::from(code) + (rest >> 16) + (rest & 0xffff);
    known += quoted_sum;
    if N::CHECKSUM_AT.is_none() {
        known += checksum::address_sum(&frame.header.source_address());
        known += checksum::address_sum(&frame.header.destination_address());
        known += icmp_len + u32::from(ICMPV6);
    }
    let whole = !u16::from_be_bytes([a, b]);
    let rest_sum = u32::from(whole) + u32::from(!checksum::fold(known));
    let said = Message { kind, code, rest };
    let translated = if N::CHECKSUM_AT.is_some() {
        to_v6(said, error.quoted.total_len() as u32, limit)
    } else {
        to_v4(said, limit)
    };
    Ok((translated.ok_or(DropReason::Untranslatable)?, rest_sum))
}

/// The folded sum over a header without options at the front.
#[inline(always)]
fn header_sum<N: Across, B: Buffer>(packet: &Packet<B>) -> Result<u32, DropReason> {
    let sum = if N::CHECKSUM_AT.is_some() { packet.sum::<5>(0) } else { packet.sum::<10>(0) };
    Ok(checksum::fold_words(sum.ok_or(DropReason::Truncated)?).into())
}
