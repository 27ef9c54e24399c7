//! ICMP and ICMPv6: errors about what goes through the balancer, and echo requests to VIPs.
//!
//! An error that an answer met comes to the VIP, which never sent anything: it goes to the backend
//! that did, by the ring and the records of the flow that the quoted packet is of. One that a packet
//! met behind the balancer, under `nat`, is told to the client.

use crate::{
    answer::{self, Frame, Ways, answered, check, put_macs},
    checksum,
    flow::{Flow, destination_port, source_port},
    id::{BackendId, ServiceId},
    layout::{BackendRecord, FAMILY_V4, FlowKey, Kind, VIP_ECHO, VipEntry},
    link::MACS_LEN,
    moving,
    network::{Fragment, Network},
    packet::{Buffer, Packet},
    quoted::{ICMP_LEN, IcmpError},
    rewrite::{self, Inner},
    select,
    tables::{Reply, Tables},
    translate::{self, End},
    verdict::{DropReason, Packed},
};

/// TTL or hop limit of messages that the balancer makes.
pub(crate) const TTL: u8 = 64;

/// What becomes of an ICMP message to a VIP.
#[inline(always)]
pub fn to_vip<N: Network, B: Buffer>(mut packet: Packet<B>, tables: &impl Tables) -> Packed {
    let Some(frame) = read::<N, B>(&packet) else { return Packed::PASS };
    let Some(directory) = tables.directory() else { return Packed::PASS };
    let in_force = select::InForce::of(directory);
    let Some(vip) = select::vip(&frame.header, in_force, tables) else { return Packed::PASS };
    if vip.flags & VIP_ECHO != 0 && is_echo(&mut packet, &frame) {
        return echo(packet, &frame, tables);
    }
    match error(&mut packet, &frame) {
        Some(error) => about_answer(packet, &frame, &error, vip, tables),
        None => Packed::PASS,
    }
}

/// What becomes of one to anybody else, where backends answer through the balancer: an error that a
/// packet met behind it is told to the client, about the packet that the client sent.
#[inline(always)]
pub fn to_client<N: Network, B: Buffer>(
    mut packet: Packet<B>,
    tables: &impl Tables,
    ways: &impl Ways,
) -> Packed {
    let Some(frame) = read::<N, B>(&packet) else { return Packed::PASS };
    match error(&mut packet, &frame) {
        Some(error) => about_forwarded(packet, &frame, &error, tables, ways),
        None => Packed::PASS,
    }
}

#[inline(always)]
fn read<N: Network, B: Buffer>(packet: &Packet<B>) -> Option<Frame<N>> {
    Frame::<N>::read(packet).filter(|frame| frame.transport.protocol == N::CONTROL)
}

#[inline(always)]
fn error<N: Network, B: Buffer>(packet: &mut Packet<B>, frame: &Frame<N>) -> Option<IcmpError<N>> {
    let at = frame.link.tags.link_len() + frame.transport.offset;
    let len = frame.header.total_len().saturating_sub(frame.transport.offset);
    IcmpError::read(packet, at, len)
}

/// The type of an echo request, and of its reply (RFC 792, RFC 4443 section 4).
#[inline(always)]
const fn echo_types<N: Network>() -> (u8, u8) {
    if N::FAMILY == FAMILY_V4 { (8, 0) } else { (128, 129) }
}

/// Whether it is an echo request, or a fragment that goes on with a message: what is sent to a VIP
/// in fragments is an echo request, errors aren't that long.
#[inline(always)]
fn is_echo<N: Network, B: Buffer>(packet: &mut Packet<B>, frame: &Frame<N>) -> bool {
    let at = frame.link.tags.link_len() + frame.transport.offset;
    // A source route would have to be turned (RFC 1122 section 3.2.2.6): the kernel knows how.
    let has_options = N::FAMILY == FAMILY_V4 && frame.transport.offset != size_of::<N>();
    if has_options | !frame.header.source_is_host() {
        return false;
    }
    match frame.transport.fragment {
        Fragment::Later => true,
        _ => packet
            .behind(at)
            .read::<[u8; ICMP_LEN]>(0)
            .is_some_and(|header| header[0] == echo_types::<N>().0 && header[1] == 0),
    }
}

/// An echo request goes back as its reply; so does each of its fragments.
#[inline(always)]
fn echo<N: Network, B: Buffer>(
    mut packet: Packet<B>,
    frame: &Frame<N>,
    tables: &impl Tables,
) -> Packed {
    let refused = |reason| Packed::refused(reason, ServiceId::NONE, BackendId::NONE);
    if let Err(reason) = check(&packet, frame) {
        return refused(reason);
    }
    if !tables.may_reply(Reply::Echo) {
        return refused(DropReason::RateLimited);
    }
    match turn(&mut packet, frame) {
        Ok(()) => Packed::ECHOED,
        Err(reason) => refused(reason),
    }
}

/// Turns an echo request into its reply.
#[inline(always)]
fn turn<N: Network, B: Buffer>(packet: &mut Packet<B>, frame: &Frame<N>) -> Result<(), DropReason> {
    let Frame { link, header, transport } = frame;
    let [a, b, c, d, e, f, g, h, i, j, k, l]: [u8; MACS_LEN] =
        packet.read(0).ok_or(DropReason::Truncated)?;
    packet.write(0, [g, h, i, j, k, l, a, b, c, d, e, f])?;
    let at = link.tags.link_len();
    // The sum over both addresses stays.
    N::write_address(packet, at + N::SOURCE_AT, &header.destination_address())?;
    N::write_address(packet, at + N::DESTINATION_AT, &header.source_address())?;
    match N::CHECKSUM_AT {
        Some(checksum_at) => {
            let [ttl, protocol]: [u8; 2] = packet.read(at + 8).ok_or(DropReason::Truncated)?;
            let word = |ttl| u16::from_be_bytes([ttl, protocol]);
            packet.write(at + 8, TTL)?;
            let old = u16::from_be(packet.read(at + checksum_at).ok_or(DropReason::Truncated)?);
            let new = checksum::updated(old, checksum::difference(word(ttl), word(TTL)));
            packet.write(at + checksum_at, new.to_be())?;
        }
        None => packet.write(at + 7, TTL)?,
    }
    if transport.fragment == Fragment::Later {
        return Ok(());
    }
    let (request, reply) = echo_types::<N>();
    let word = |kind| u16::from_be_bytes([kind, 0]);
    let mut message = packet.behind(at + transport.offset);
    message.write(0, reply)?;
    let old = u16::from_be(message.read(2).ok_or(DropReason::Truncated)?);
    let new = checksum::updated(old, checksum::difference(word(request), word(reply)));
    message.write(2, new.to_be())
}

#[inline(always)]
fn about_forwarded<N: Network, B: Buffer>(
    mut packet: Packet<B>,
    frame: &Frame<N>,
    error: &IcmpError<N>,
    tables: &impl Tables,
    ways: &impl Ways,
) -> Packed {
    let Frame { header, .. } = frame;
    let backend = error.quoted.destination_address();
    let port = destination_port(error.ports);
    // Whom it is told must be who sent the packet.
    if !answer::same(&error.quoted.source_address(), &header.destination_address()) {
        return Packed::PASS;
    }
    let Some(entry) = answer::entry(&backend, port, error.protocol, tables) else {
        return Packed::PASS;
    };
    let who = (ServiceId(entry.service), BackendId(entry.backend));
    let refused = |reason| Packed::refused(reason, who.0, who.1);
    if let Err(reason) = check(&packet, frame) {
        return refused(reason);
    }
    // Other hosts on the way keep their addresses.
    let source = header.source_address();
    let is_backend = answer::same(&source, &backend);
    let leaves_as = if is_backend { entry.vip } else { source };
    let way = match answer::way_of(frame, &entry, &leaves_as, packet.ingress_ifindex(), ways) {
        Ok(way) => way,
        Err(reason) => return refused(reason),
    };
    if header.total_len() > way.mtu as usize {
        return answer::too_long(header, who);
    }
    let to = answer::becomes(&entry);
    let outside = if is_backend { to.difference } else { 0 };
    let network = frame.link.tags.link_len();
    let written = put_macs(&mut packet, &way)
        .and_then(|()| match is_backend {
            true => translate::address::<N, B>(&mut packet, network, End::Source, to),
            false => Ok(0),
        })
        .and_then(|_| error.translate(&mut packet, End::Destination, port, to, outside));
    match written {
        Ok(()) => answered(&packet, who, &way),
        Err(reason) => refused(reason),
    }
}

/// An ICMP error that an answer met goes to the backend that sent it, about the packet that the
/// backend sent.
#[inline(always)]
fn about_answer<N: Network, B: Buffer>(
    packet: Packet<B>,
    frame: &Frame<N>,
    error: &IcmpError<N>,
    vip: &VipEntry,
    tables: &impl Tables,
) -> Packed {
    let Frame { link, header, .. } = frame;
    if !answer::same(&error.quoted.source_address(), &header.destination_address()) {
        return Packed::PASS;
    }
    let protocol = error.protocol;
    // As the client's own packets have them.
    let ports = error.ports.rotate_left(16);
    let Some(directory) = tables.directory() else { return Packed::PASS };
    let in_force = select::InForce::of(directory);
    let Some(service) = select::service(vip, protocol, ports, in_force, tables) else {
        return Packed::PASS;
    };
    let id = ServiceId(service.id);
    let client = error.quoted.reversed();
    let flow = Flow { protocol, ports, flags: 0 };
    let hash = select::hash(&client, &flow, service, tables);
    let slot = match select::slot(hash, service, tables) {
        Ok(slot) => slot,
        Err(reason) => return Packed::refused(reason, id, BackendId::NONE),
    };
    let backend = if slot.is_moving() {
        let key = FlowKey { source: client.source_address(), ports, service: service.id };
        moving::lives_with(slot, &key, tables)
    } else {
        slot.current()
    };
    let Some(backend) = backend.known() else {
        return Packed::refused(DropReason::NoBackend, id, BackendId::NONE);
    };
    let record = match select::record(backend, tables) {
        Ok(record) => record,
        Err(reason) => return Packed::refused(reason, id, backend),
    };
    let kind = Kind::try_from(record.kind);
    // Under `fullnat` it is about a flow that nobody knows.
    if kind.is_ok_and(Kind::is_fullnat) {
        return Packed::PASS;
    }
    let refused = |reason| Packed::refused(reason, id, backend);
    if let Err(reason) = check(&packet, frame) {
        return refused(reason);
    }
    let verdict = answer::verdict(packet.ingress_ifindex(), record.egress_ifindex);
    let network = link.tags.link_len();
    let bytes = (network + header.total_len()) as u32;
    let port = record.egress_port;
    let done = if kind.is_ok_and(Kind::is_nat) {
        translated(packet, frame, error, record)
    } else {
        // The backend has the VIP: the packet itself stays as it is. By the way of its flow's.
        let inner = Inner::of(header, hash ^ u64::from(ports));
        rewrite::toward(packet, *link, inner, record)
    };
    match done {
        Ok(()) => Packed::forwarded(verdict, (id, backend), port, bytes, false),
        Err(reason) => refused(reason),
    }
}

/// Under `nat`, an error becomes one about what the backend sent.
#[inline(always)]
fn translated<N: Network, B: Buffer>(
    mut packet: Packet<B>,
    frame: &Frame<N>,
    error: &IcmpError<N>,
    record: &BackendRecord,
) -> Result<(), DropReason> {
    if record.kind != translate::nat_of::<N>() as u8 {
        return Err(DropReason::Inconsistent);
    }
    if frame.header.total_len() > usize::from(record.mtu) {
        return Err(DropReason::TooBig);
    }
    let to = translate::destination(record);
    let port = source_port(error.ports);
    packet.write::<[u8; MACS_LEN]>(0, record.macs)?;
    let network = frame.link.tags.link_len();
    translate::address::<N, B>(&mut packet, network, End::Destination, to)?;
    error.translate(&mut packet, End::Source, port, to, to.difference)
}
