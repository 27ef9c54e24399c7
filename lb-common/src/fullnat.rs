//! Flows whose both ends are rewritten (`fullnat`): out to a backend from a pool's address and
//! port, and back.
//!
//! Each flow has an entry, by which packets of both directions go: with whom it lives, from which
//! port, and how far it is. A second table says which flow an answer belongs to; to enter it there
//! is how a port is taken, so two flows never have the same toward one backend. Entries are deleted
//! by the agent alone.

pub mod across;
mod errors;
mod search;

use core::ops::Deref;

use crate::{
    answer::{self, Frame, Request, Ways, answered},
    checksum,
    flow::{self, flag},
    id::{BackendId, ServiceId},
    layout::{
        BackendRecord, FULLNAT, FlowKey, Handed, Kind, Progress, ReturnKey, Sought,
        TranslatedPlace, TranslatedWords, Translation, Turn, Way,
    },
    link::MACS_LEN,
    network::{Address, Network, TCP, UDP, words},
    packet::{Buffer, Packet},
    select,
    tables::Tables,
    translate::{self, Becomes},
    verdict::{DropReason, MayBe, Packed},
};

pub use errors::{error, error_about_answer};
pub use search::{SEARCHED, Search};

/// Ports that are tried for a flow before one is searched for.
const TRIES: u32 = 16;
/// How often one is searched for: another CPU may be quicker to take what was found.
const SEARCHES: u32 = 4;

/// What became of a try to enter something that nobody may have entered before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entered {
    /// It is there.
    New,
    /// Somebody has it.
    Taken,
    /// The table is full.
    Full,
}

/// The tables of flows.
pub trait Translations: Tables {
    /// What the first program found of this packet.
    fn handed_over(&self) -> Option<Handed>;

    /// Tells the program that goes on with the packet which way it leaves by.
    fn hand_way(&self, way: &Way);

    /// The way that an earlier program found for this packet.
    fn handed_way(&self) -> Option<Way>;

    /// A flow's entry.
    fn translated<'t>(
        &'t self,
        flow: &FlowKey,
    ) -> Option<impl Deref<Target = TranslatedPlace> + use<'t, Self>>;

    /// Whose answer it is.
    fn returns<'t>(
        &'t self,
        answer: &ReturnKey,
    ) -> Option<impl Deref<Target = FlowKey> + use<'t, Self>>;

    /// An address of a pool; `None` past the end of the table.
    fn pool(&self, place: u8) -> Option<&Address>;

    /// Whose turn it is to get a port of the backend's pool.
    fn turn(&self, backend: BackendId) -> Turn;

    /// Whether a search ends at a free port: it goes on to [`SEARCHED`] ports at most, by
    /// [`Search::finds`].
    fn search(&self, search: &mut Search) -> bool;

    /// Takes a port for a flow: enters whose answers come by it.
    fn take(&self, answer: &ReturnKey, flow: &FlowKey) -> Entered;

    /// Gives back a port that was taken just now.
    fn give_back(&self, answer: &ReturnKey);

    /// Enters a flow; in the place of its former entry, where there is one to `replace`.
    fn enter(&self, flow: &FlowKey, entry: TranslatedWords, replace: bool) -> Entered;

    /// Counts a flow that begins.
    fn count_opened(&self);

    /// An IPv4 packet's identification, which nobody can guess from earlier ones (RFC 7739).
    fn identification(&self) -> u16;
}

/// The kind of records for VIPs of a family.
#[inline(always)]
pub const fn kind_of<N: Network>() -> Kind {
    if N::CHECKSUM_AT.is_some() { Kind::FullnatIpv4 } else { Kind::FullnatIpv6 }
}

/// A client's packet goes to its flow's backend; where it has none, to the ring's.
#[inline(always)]
pub fn toward<N: Network, B: Buffer>(mut packet: Packet<B>, tables: &impl Translations) -> Packed {
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
    let record = match select::record(backend, tables) {
        Ok(record) => record,
        Err(reason) => return refused(reason, backend),
    };
    let Some(pool) = tables.pool(translation.pool) else {
        return refused(DropReason::Inconsistent, backend);
    };
    if record.kind != kind_of::<N>() as u8 {
        if !record.is_across() {
            return refused(DropReason::Inconsistent, backend);
        }
        // The ring has one of the client's family now, but the flow lives with another.
        tables.hand_over(Handed::of_flow(service, translation));
        let next = MayBe::send_across::<N>();
        return Packed::refused_unless(next, DropReason::Inconsistent, service, backend);
    }
    if header.total_len() > usize::from(record.mtu) {
        return refused(DropReason::TooBig, backend);
    }
    let verdict = answer::verdict(packet.ingress_ifindex(), record.egress_ifindex);
    let bytes = (offset + header.total_len()) as u32;
    let difference = checksum::address_difference(&arrived.flow.source, pool);
    let source = Becomes { address: pool, difference, port: translation.port };
    let mut destination = translate::destination(record);
    if destination.port == 0 {
        destination.port = flow::destination_port(ports);
    }
    let headers = translate::headers(*link, transport.offset, transport.protocol);
    let written = packet
        .write::<[u8; MACS_LEN]>(0, record.macs)
        .and_then(|()| translate::both::<N, B>(&mut packet, headers, ports, source, destination));
    match written {
        Ok(()) => {
            let opens = flags & (flag::SYN | flag::ACK) == flag::SYN;
            Packed::forwarded(verdict, (service, backend), record.egress_port, bytes, opens)
        }
        Err(reason) => refused(reason, backend),
    }
}

/// A client's packet, as far as its flow's entry is concerned.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
struct Arrived {
    flow: FlowKey,
    /// Whom the ring has for it.
    backend: BackendId,
    idle_seconds: u32,
    protocol: u8,
    flags: u8,
    reserved: u16,
}

impl Arrived {
    #[inline(always)]
    const fn opens(&self) -> bool {
        self.protocol == TCP && self.flags & (flag::SYN | flag::ACK) == flag::SYN
    }
}

/// With whom the packet's flow lives; it begins here, where it must.
#[inline(always)]
fn lives_with(arrived: &Arrived, tables: &impl Translations) -> Result<Translation, DropReason> {
    let Some(place) = tables.translated(&arrived.flow) else {
        return begin(arrived, false, tables);
    };
    let translation = place.translation();
    if !is_alive(translation, tables) {
        return begin(arrived, true, tables);
    }
    let (now, before) = (tables.now(), place.progress());
    if arrived.opens() {
        let quiet =
            !before.stage.is_embryonic() && before.quiet_seconds(now) > arrived.idle_seconds;
        if before.stage.has_ended() | quiet {
            if translation.backend != arrived.backend {
                return begin(arrived, true, tables);
            }
            // The backend judges by sequence numbers whether it is new, as without a balancer.
            place.note(before, Progress::begins(now));
            tables.count_opened();
            return Ok(translation);
        }
    }
    let stage = before.stage.after_client(arrived.protocol, arrived.flags);
    place.note(before, Progress { began: before.began, seen: now, stage });
    Ok(translation)
}

/// The flow's backend may still be sent to.
#[inline(always)]
fn is_alive(translation: Translation, tables: &impl Tables) -> bool {
    tables.backend(translation.backend).is_some_and(|entry| {
        let record = entry.active();
        (record.alive != 0) & translation.is_of(record)
    })
}

/// Begins a flow with the ring's backend.
///
/// So does a packet in the midst of a connection that nobody knows: the backend resets it, and the
/// client need not wait.
#[inline(always)]
fn begin(
    arrived: &Arrived,
    replace: bool,
    tables: &impl Translations,
) -> Result<Translation, DropReason> {
    if arrived.protocol == TCP && arrived.flags & flag::RST != 0 {
        return Err(DropReason::NoFlow);
    }
    let word = take_port(arrived, u32::from(replace), tables);
    match word as u32 {
        0 => Err(match (word >> 32) as u32 {
            TABLE_FULL => DropReason::FlowTableFull,
            EXHAUSTED => DropReason::PortsExhausted,
            _ => DropReason::Inconsistent,
        }),
        _ => Ok(Translation::from_word(word)),
    }
}

const TABLE_FULL: u32 = 1;
const EXHAUSTED: u32 = 2;
const INCONSISTENT: u32 = 3;

/// What a packet that begins no flow is told by, in the place of a [`Translation::word`].
#[inline(always)]
const fn none(why: u32) -> u64 {
    (why as u64) << 32
}

/// Finds a port and enters the flow: a [`Translation::word`], or why there is none above 32 zero
/// bits.
///
/// Not inlined: what is rare shall not stand between the instructions of what is not.
#[inline(never)]
fn take_port(arrived: &Arrived, replace: u32, tables: &impl Translations) -> u64 {
    let Some(entry) = tables.backend(arrived.backend) else { return none(INCONSISTENT) };
    let record = entry.active();
    let range = record.pool();
    if range.total() == 0 || range.ports == 0 {
        return none(INCONSISTENT);
    }
    let turn = tables.turn(arrived.backend);
    let key = return_key(record, &[0; 16], 0, &arrived.flow, arrived.protocol);
    let mut search = Search::new(key, range, turn);
    let mut tries = 0;
    while tries < TRIES + SEARCHES {
        if tries >= TRIES {
            if !tables.search(&mut search) {
                break;
            }
        } else if !search.step(tables) {
            return none(INCONSISTENT);
        }
        let entered = if search.is_served(tables) {
            Entered::Taken
        } else {
            tables.take(search.key(), &arrived.flow)
        };
        match entered {
            Entered::New => {
                let (pool, port) = search.at();
                let translation = Translation::new(arrived.backend, record, pool, port);
                return enter(arrived, translation, search.key(), replace, tables);
            }
            Entered::Taken => tries += 1,
            Entered::Full => return none(TABLE_FULL),
        }
    }
    none(EXHAUSTED)
}

#[inline(always)]
fn enter(
    arrived: &Arrived,
    translation: Translation,
    key: &ReturnKey,
    replace: u32,
    tables: &impl Translations,
) -> u64 {
    let words = TranslatedWords::new(translation, Progress::begins(tables.now()));
    match tables.enter(&arrived.flow, words, replace != 0) {
        Entered::New => {
            tables.count_opened();
            return translation.word();
        }
        Entered::Full => {
            tables.give_back(key);
            return none(TABLE_FULL);
        }
        Entered::Taken => tables.give_back(key),
    }
    // Another CPU has just met a packet of the flow.
    match tables.translated(&arrived.flow) {
        Some(place) => place.translation().word(),
        None => none(INCONSISTENT),
    }
}

/// How answers of a flow come back.
#[inline(always)]
fn return_key(
    record: &BackendRecord,
    pool: &Address,
    port: u16,
    flow: &FlowKey,
    protocol: u8,
) -> ReturnKey {
    let (backend, own) = record.destination();
    let backend_port = if own == 0 { flow::destination_port(flow.ports) } else { own };
    let ports = (u32::from(backend_port) << 16 | u32::from(port)).to_be();
    ReturnKey::new(*backend, *pool, ports, protocol)
}

/// What is known of an answer's flow.
struct Known<'t, F, P> {
    flow: F,
    place: P,
    translation: Translation,
    record: &'t BackendRecord,
}

impl<F: Deref<Target = FlowKey>, P> Known<'_, F, P> {
    #[inline(always)]
    fn who(&self) -> (ServiceId, BackendId) {
        (ServiceId(self.flow.service), self.translation.backend)
    }

    /// What the source of the backend's packets becomes.
    #[inline(always)]
    fn vip(&self) -> Becomes<'_> {
        // What the sum gains the other way is taken off.
        let difference = u32::from(!(self.record.outer_sum as u16));
        let port = flow::destination_port(self.flow.ports);
        Becomes { address: self.record.vip(), difference, port }
    }

    /// What their destination becomes, where it was this one.
    #[inline(always)]
    fn client(&self, pool: &Address) -> Becomes<'_> {
        let address = &self.flow.source;
        let difference = checksum::address_difference(pool, address);
        Becomes { address, difference, port: flow::source_port(self.flow.ports) }
    }
}

/// The flow that answers like this one belong to. None where its port was given to another
/// connection of the client's, or its backend is gone.
#[inline(always)]
fn known<'t, T: Translations>(
    key: &ReturnKey,
    tables: &'t T,
) -> Option<
    Known<
        't,
        impl Deref<Target = FlowKey> + use<'t, T>,
        impl Deref<Target = TranslatedPlace> + use<'t, T>,
    >,
> {
    let flow = tables.returns(key)?;
    let place = tables.translated(&flow)?;
    let translation = place.translation();
    let record = tables.backend(translation.backend)?.active();
    let is_current = (translation.port == flow::destination_port(key.ports))
        & answer::same(tables.pool(translation.pool)?, &key.pool)
        & translation.is_of(record);
    is_current.then_some(Known { flow, place, translation, record })
}

/// A backend's answer goes to the client, from the VIP.
#[inline(always)]
pub fn back<N: Network, B: Buffer>(
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
    let Some(known) = known(&key, tables) else { return otherwise(header, false, tables) };
    let who = known.who();
    if known.record.kind != kind_of::<N>() as u8 {
        return Packed::refused_unless(
            MayBe::back_across::<N>(),
            DropReason::Inconsistent,
            who.0,
            who.1,
        );
    }
    let refused = |reason| Packed::refused(reason, who.0, who.1);
    let flags = match flow::flags(&packet, offset, header, *transport) {
        Ok(flags) => flags,
        Err(reason) => return refused(reason),
    };
    let before = known.place.progress();
    let stage = before.stage.after_backend(transport.protocol, flags);
    known.place.note(before, Progress { began: before.began, seen: tables.now(), stage });
    let (source, destination) = (known.vip(), known.client(&key.pool));
    let sought = Sought {
        client: words(*destination.address),
        service: who.0.0,
        ingress_ifindex: packet.ingress_ifindex(),
    };
    let request = Request { sought, source: source.address, family: N::FAMILY };
    let way = match ways.way(request) {
        Ok(way) => way,
        Err(reason) => return refused(reason),
    };
    if header.total_len() > way.mtu as usize {
        if !header.is_kept_whole() {
            return refused(DropReason::TooBig);
        }
        // The stack has no room for both.
        let (service, backend) = (who.0.0, who.1.0);
        tables.hand_over(Handed { service, backend, idle_seconds: 0, mtu: way.mtu });
        return Packed::refused_unless(MayBe::too_long::<N>(), DropReason::TooBig, who.0, who.1);
    }
    let headers = translate::headers(*link, transport.offset, transport.protocol);
    let written = answer::put_macs(&mut packet, &way)
        .and_then(|()| translate::both::<N, B>(&mut packet, headers, ports, source, destination));
    match written {
        Ok(()) => answered(&packet, who, &way),
        Err(reason) => refused(reason),
    }
}

/// What is said of a packet that belongs to no flow here: services may be answered by `nat`, too, but
/// not at a VIP; ICMP messages are for VIPs, too.
#[inline(always)]
fn otherwise<N: Network>(header: &N, is_control: bool, tables: &impl Tables) -> Packed {
    let Some(directory) = tables.directory() else { return Packed::PASS };
    let in_force = select::InForce::of(directory);
    let others = in_force.answers() & !u32::from(FULLNAT);
    match select::vip(header, in_force, tables) {
        Some(_) if is_control => Packed::pass_unless(MayBe::control::<N>()),
        None if others != 0 => Packed::pass_unless(MayBe::answer::<N>(is_control)),
        _ => Packed::PASS,
    }
}
