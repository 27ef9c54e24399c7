//! Flows while slots move: whatever changes, no flow leaves a backend that lives.

#![expect(clippy::unwrap_used, reason = "a test fails by it")]

#[expect(dead_code, reason = "other tests build more kinds of frames")]
mod frames;

use std::net::IpAddr;

use frames::{ethernet, ipv4, record, tcp, udp};
use lb_common::{
    balance::balance,
    directory_builder::{Entry, Transport},
    hash::Keys,
    id::BackendId,
    layout::{Affinity, BackendRecord, FlowRecord, FlowState, Kind, Slot},
    packet::Packet,
    tables::{MemoryBuffer, MemoryTables},
    verdict::{DropReason, Outcome},
};
use proptest::prelude::*;

const VIP: [u8; 4] = [203, 0, 113, 10];
const IDLE: u32 = 60;
const SYN: u8 = 0x02;
const RST: u8 = 0x04;
const ACK: u8 = 0x10;
const FIN_ACK: u8 = 0x11;
const A: BackendId = BackendId(1);
const B: BackendId = BackendId(2);
const C: BackendId = BackendId(3);
const NONE: BackendId = BackendId::NONE;

/// A TCP and a UDP service of one slot each, over the same three living backends.
fn tables(slot: Slot) -> MemoryTables {
    let entry = |transport, id| Entry {
        vip: IpAddr::from(VIP),
        port: Some(80),
        transport,
        id,
        ring_start: id - 1,
        ring_size: 1,
        affinity: Affinity::Flow,
        idle_seconds: IDLE,
        answers: 0,
        icmp_echo: false,
    };
    let services = [entry(Transport::Tcp, 1), entry(Transport::Udp, 2)];
    let mut tables = MemoryTables::new(Keys::from_seed(1), &services).unwrap();
    for id in [A, B, C] {
        let record = BackendRecord { alive: 1, generation: id.0, ..record(Kind::L2, true) };
        tables.set_backend(id, record);
    }
    set(&mut tables, slot);
    tables.now = 1000;
    tables
}

fn set(tables: &mut MemoryTables, slot: Slot) {
    tables.slots.fill(slot);
}

fn send(tables: &MemoryTables, segment: &[u8], protocol: u8) -> Result<BackendId, DropReason> {
    let frame = ethernet(&[], 0x0800, &ipv4(VIP, protocol, &[], segment));
    let outcome: Outcome =
        balance(Packet::new(&mut MemoryBuffer::new(&frame, 256, 3)), tables).into();
    outcome.reason.map_or(Ok(outcome.backend), Err)
}

/// The backend of a TCP packet from a port.
fn tcp_from(tables: &MemoryTables, port: u16, flags: u8) -> Result<BackendId, DropReason> {
    send(tables, &tcp(port, 80, flags, b""), 6)
}

fn udp_from(tables: &MemoryTables, port: u16) -> Result<BackendId, DropReason> {
    let mut datagram = udp(port, 53, b"data");
    datagram[2..4].copy_from_slice(&80u16.to_be_bytes());
    send(tables, &datagram, 17)
}

fn only_record(tables: &MemoryTables) -> FlowRecord {
    let records = tables.records();
    assert_eq!(records.len(), 1);
    records[0].1
}

#[test]
fn stable_slots_neither_read_nor_write_records() {
    let tables = tables(Slot::stable(A));
    for flags in [SYN, ACK, FIN_ACK, RST] {
        assert_eq!(tcp_from(&tables, 1, flags), Ok(A));
    }
    assert_eq!(udp_from(&tables, 1), Ok(A));
    assert!(tables.records().is_empty());
}

#[test]
fn new_flows_go_to_the_current_owner_and_old_ones_stay() {
    let tables = tables(Slot::stable(A).toward(B));
    assert_eq!(tcp_from(&tables, 1, SYN), Ok(B));
    assert_eq!(tcp_from(&tables, 1, ACK), Ok(B));
    assert_eq!(tcp_from(&tables, 2, ACK), Ok(A));
    assert_eq!(tcp_from(&tables, 2, SYN), Ok(A), "a SYN may be forged");
    assert_eq!(udp_from(&tables, 3), Ok(A));
    assert_eq!(tables.records().len(), 3);
}

#[test]
fn a_syn_takes_the_place_of_a_flow_that_ended() {
    for (end, state) in [(FIN_ACK, FlowState::Closing), (RST, FlowState::Reset)] {
        let tables = tables(Slot::stable(A).toward(B));
        assert_eq!(tcp_from(&tables, 1, ACK), Ok(A));
        assert_eq!(tcp_from(&tables, 1, end), Ok(A));
        assert_eq!(only_record(&tables).state, state);
        assert_eq!(tcp_from(&tables, 1, SYN), Ok(B));
        assert_eq!(only_record(&tables).state, FlowState::Opening);
    }
}

/// A RST that a packet of the flow follows was forged: the flow lives.
#[test]
fn a_forged_rst_shortens_no_life() {
    let tables = tables(Slot::stable(A).toward(B));
    for flags in [ACK, RST, ACK] {
        assert_eq!(tcp_from(&tables, 1, flags), Ok(A));
    }
    assert_eq!(only_record(&tables).state, FlowState::Open);
    assert_eq!(tcp_from(&tables, 1, SYN), Ok(A));
}

#[test]
fn a_rst_alone_is_not_remembered() {
    let tables = tables(Slot::stable(A).toward(B));
    assert_eq!(tcp_from(&tables, 1, RST), Ok(A));
    assert!(tables.records().is_empty());
}

#[test]
fn who_is_dead_or_another_is_replaced() {
    let mut tables = tables(Slot::stable(A).toward(B));
    assert_eq!(tcp_from(&tables, 1, ACK), Ok(A));
    assert_eq!(udp_from(&tables, 2), Ok(A));
    tables.backend_mut(A).alive = 0;
    assert_eq!(tcp_from(&tables, 1, ACK), Ok(B));
    assert_eq!(udp_from(&tables, 2), Ok(B));
    assert_eq!(tables.picked_anew.get(), 2);
    tables.backend_mut(A).alive = 1;
    assert_eq!(tcp_from(&tables, 1, ACK), Ok(B), "it lives there now");
    // The number was given to another backend.
    tables.backend_mut(B).generation += 1;
    assert_eq!(tcp_from(&tables, 1, ACK), Ok(A));
}

#[test]
fn nobody_takes_new_flows_of_a_slot_without_owner() {
    let tables = tables(Slot::stable(A).toward(NONE));
    assert_eq!(tcp_from(&tables, 1, SYN), Err(DropReason::NoBackend));
    assert_eq!(tcp_from(&tables, 2, ACK), Ok(A));
    assert_eq!(tcp_from(&tables, 2, SYN), Ok(A), "a SYN that came twice");
}

#[test]
fn a_udp_flow_that_was_quiet_too_long_is_new() {
    let mut tables = tables(Slot::stable(A).toward(B));
    assert_eq!(udp_from(&tables, 1), Ok(A));
    set(&mut tables, Slot::stable(A).toward(B).settled());
    tables.now += IDLE;
    assert_eq!(udp_from(&tables, 1), Ok(A));
    tables.now += IDLE + 1;
    assert_eq!(udp_from(&tables, 1), Ok(B));
}

/// Beyond the budget a new flow begins where it will be looked for without a record.
#[test]
fn without_a_record_a_flow_is_where_its_next_packet_goes() {
    let mut tables = tables(Slot::stable(A).toward(B));
    tables.budget.0.set(0);
    assert_eq!(tcp_from(&tables, 1, SYN), Ok(A));
    assert_eq!(tcp_from(&tables, 1, ACK), Ok(A));
    assert_eq!(tables.records().len(), 1, "the second packet is no forgery of a SYN");
    tables.budget.1.set(0);
    tables.backend_mut(A).alive = 0;
    assert_eq!(tcp_from(&tables, 2, SYN), Ok(B));
    assert_eq!(tcp_from(&tables, 2, ACK), Ok(B));
    assert_eq!(tables.records().len(), 1);
}

/// What may happen to a slot and its flows.
#[derive(Clone, Copy, Debug)]
enum Event {
    /// A client connects from this port: a SYN, and at once the ACK.
    Connect(u16),
    /// The client of this port sends.
    Send(u16),
    /// The ring gives the slot to another.
    Move(BackendId),
    /// A backend dies or comes back.
    Turn(BackendId),
    /// Time goes by, in seconds.
    Wait(u32),
    /// The agent looks for slots that may rest.
    Sweep,
    /// The budget of opening flows is this.
    Budget(u32),
}

fn event() -> impl Strategy<Value = Event> {
    let backend = (1..=3u32).prop_map(BackendId);
    prop_oneof![
        4 => (0..12u16).prop_map(Event::Connect),
        8 => (0..12u16).prop_map(Event::Send),
        3 => backend.clone().prop_map(Event::Move),
        1 => backend.prop_map(Event::Turn),
        4 => (1..IDLE).prop_map(Event::Wait),
        6 => Just(Event::Sweep),
        1 => prop_oneof![Just(0), Just(u32::MAX)].prop_map(Event::Budget),
    ]
}

/// A connection, as its client sees it.
#[derive(Clone, Copy)]
struct Connection {
    backend: BackendId,
    last: u32,
}

/// A slot as the agent keeps it.
struct Agent {
    slot: Slot,
    since: u32,
}

impl Agent {
    fn put(&mut self, tables: &mut MemoryTables, slot: Slot) {
        if slot != self.slot {
            (self.slot, self.since) = (slot, tables.now);
            set(tables, slot);
        }
    }

    /// As `xlb`'s sweep does it, without its slack for clocks: nothing here is at once.
    fn sweep(&mut self, tables: &mut MemoryTables) {
        let now = tables.now;
        tables.flows.borrow_mut().retain(|_, place| !place.get().is_over(now, IDLE));
        if !self.slot.is_moving() {
            return;
        }
        if !self.slot.is_settled() {
            if now > self.since + IDLE {
                let settled = self.slot.settled();
                self.put(tables, settled);
            }
            return;
        }
        let current = self.slot.current();
        if tables.records().iter().all(|(_, record)| record.owner.backend == current) {
            self.put(tables, Slot::stable(current));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1500))]

    /// The promise. A connection that was quiet no longer than it may be, and whose backend lives
    /// and lived all the time, is never given to another.
    #[test]
    fn no_connection_leaves_a_living_backend(events in prop::collection::vec(event(), 1..120)) {
        let mut tables = tables(Slot::stable(A));
        let mut agent = Agent { slot: Slot::stable(A), since: 0 };
        let mut connections: [Option<Connection>; 12] = [None; 12];
        for event in events {
            match event {
                Event::Connect(port) if connections[usize::from(port)].is_none() => {
                    let Ok(backend) = tcp_from(&tables, 100 + port, SYN) else { continue };
                    prop_assert!(tables.backend_mut(backend).alive != 0);
                    prop_assert_eq!(tcp_from(&tables, 100 + port, ACK), Ok(backend));
                    connections[usize::from(port)] =
                        Some(Connection { backend, last: tables.now });
                }
                Event::Connect(_) => {}
                Event::Send(port) => {
                    let Some(connection) = &mut connections[usize::from(port)] else { continue };
                    if tables.now - connection.last > IDLE {
                        connections[usize::from(port)] = None;
                        continue;
                    }
                    connection.last = tables.now;
                    prop_assert_eq!(tcp_from(&tables, 100 + port, ACK), Ok(connection.backend));
                }
                Event::Move(owner) if tables.backend_mut(owner).alive == 0 => {}
                Event::Move(owner) => {
                    let slot = agent.slot.toward(owner);
                    agent.put(&mut tables, slot);
                }
                Event::Turn(id) => {
                    let record = tables.backend_mut(id);
                    record.alive = 1 - record.alive;
                    if record.alive == 0 {
                        // Its connections die with it, whenever their clients notice.
                        connections.iter_mut().for_each(|connection| {
                            if connection.is_some_and(|c| c.backend == id) {
                                *connection = None;
                            }
                        });
                        if agent.slot.current() == id {
                            let living = [A, B, C].into_iter().find(|&id| tables.backend_mut(id).alive != 0);
                            let slot = agent.slot.toward(living.unwrap_or(NONE));
                            agent.put(&mut tables, slot);
                        }
                    }
                }
                Event::Wait(seconds) => tables.now += seconds,
                Event::Sweep => agent.sweep(&mut tables),
                Event::Budget(budget) => tables.budget.0.set(budget),
            }
        }
    }
}

/// A service's last backend drains; its window passes; a long-lived connection goes on. Then
/// another backend is added.
#[test]
fn a_drained_services_flow_survives_a_new_backend() {
    let mut tables = tables(Slot::stable(A));
    set(&mut tables, Slot::stable(A).toward(NONE));
    assert_eq!(tcp_from(&tables, 1, ACK), Ok(A));
    // The window has passed; the record keeps the slot moving.
    tables.now += IDLE - 1;
    let settled = Slot::stable(A).toward(NONE).settled();
    set(&mut tables, settled);
    assert_eq!(tcp_from(&tables, 1, ACK), Ok(A));
    // B is added, as plan::rings does it.
    set(&mut tables, settled.without_gone(|_| true).toward(B));
    assert_eq!(tcp_from(&tables, 1, ACK), Ok(A), "A lives, and so does the flow");
}

/// A and C drain, A's last flow ends and A goes; C's flows have records and C lives.
#[test]
fn who_goes_takes_no_other_backends_flows_along() {
    let mut tables = tables(Slot::stable(A).toward(C));
    assert_eq!(tcp_from(&tables, 1, SYN), Ok(C));
    assert_eq!(tcp_from(&tables, 1, ACK), Ok(C));
    let drained = Slot::stable(A).toward(C).toward(NONE);
    set(&mut tables, drained);
    assert_eq!(tcp_from(&tables, 1, ACK), Ok(C));
    tables.now += IDLE - 1;
    let settled = drained.settled();
    set(&mut tables, settled);
    assert_eq!(tcp_from(&tables, 1, ACK), Ok(C));
    set(&mut tables, settled.without_gone(|id| id != A).toward(NONE));
    assert_eq!(tcp_from(&tables, 1, ACK), Ok(C), "C lives, and so does the flow");
}

/// A service without owners: a port that is used again gets to the draining backend by its second
/// SYN.
#[test]
fn a_syn_that_comes_again_is_no_old_flow() {
    let tables = tables(Slot::stable(A).toward(NONE));
    assert_eq!(tcp_from(&tables, 1, ACK), Ok(A));
    assert_eq!(tcp_from(&tables, 1, FIN_ACK), Ok(A));
    assert_eq!(tcp_from(&tables, 1, SYN), Err(DropReason::NoBackend));
    assert_eq!(tcp_from(&tables, 1, SYN), Err(DropReason::NoBackend), "it is no flow of A's");
}

/// The budget of opening flows counts with 75 s for each.
#[test]
fn a_syn_with_fin_lives_no_longer_than_a_syn() {
    let tables = tables(Slot::stable(A).toward(B));
    tcp_from(&tables, 1, SYN | 0x01).unwrap();
    assert!(only_record(&tables).state.quiet_limit(900) <= 75);
}

/// As `event`, with drains to nobody and backends that go once the agent lets them go.
#[derive(Clone, Copy, Debug)]
enum Upheaval {
    /// A SYN and nothing more yet.
    Open(u16),
    Other(Event),
    /// All drain.
    Vacate,
    /// The agent lets a backend go, and its number is given again.
    Gone(BackendId),
}

fn upheaval() -> impl Strategy<Value = Upheaval> {
    prop_oneof![
        12 => event().prop_filter("budgets are another matter", |event| !matches!(event, Event::Budget(_))).prop_map(Upheaval::Other),
        3 => (0..12u16).prop_map(Upheaval::Open),
        1 => Just(Upheaval::Vacate),
        2 => (1..=3u32).prop_map(|id| Upheaval::Gone(BackendId(id))),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(3000))]

    #[test]
    fn no_connection_leaves_a_living_backend_when_others_go(events in prop::collection::vec(upheaval(), 1..120)) {
        let mut tables = tables(Slot::stable(A));
        let mut agent = Agent { slot: Slot::stable(A), since: 0 };
        let mut connections: [Option<Connection>; 12] = [None; 12];
        for event in events {
            match event {
                Upheaval::Open(port) | Upheaval::Other(Event::Connect(port)) => {
                    if connections[usize::from(port)].is_some() { continue }
                    let Ok(backend) = tcp_from(&tables, 100 + port, SYN) else { continue };
                    prop_assert!(tables.backend_mut(backend).alive != 0);
                    if matches!(event, Upheaval::Other(_)) {
                        prop_assert_eq!(tcp_from(&tables, 100 + port, ACK), Ok(backend));
                    }
                    connections[usize::from(port)] = Some(Connection { backend, last: tables.now });
                }
                Upheaval::Other(Event::Send(port)) => {
                    let Some(connection) = &mut connections[usize::from(port)] else { continue };
                    if tables.now - connection.last > IDLE {
                        connections[usize::from(port)] = None;
                        continue;
                    }
                    connection.last = tables.now;
                    prop_assert_eq!(tcp_from(&tables, 100 + port, ACK), Ok(connection.backend));
                }
                Upheaval::Other(Event::Move(owner)) if tables.backend_mut(owner).alive == 0 => {}
                Upheaval::Other(Event::Move(owner)) => {
                    let slot = agent.slot.toward(owner);
                    agent.put(&mut tables, slot);
                }
                Upheaval::Vacate => {
                    let slot = agent.slot.toward(NONE);
                    agent.put(&mut tables, slot);
                }
                Upheaval::Gone(id) => {
                    let slot = agent.slot;
                    let busy = slot.current() == id || slot.previous() == id
                        || tables.records().iter().any(|(_, r)| r.owner.backend == id && r.owner.generation == tables.backends[id.0 as usize].records[0].generation);
                    if busy { continue }
                    let slot = slot.without_gone(|other| other != id);
                    agent.put(&mut tables, slot);
                    tables.backend_mut(id).generation += 10;
                    tables.backend_mut(id).alive = 1;
                    connections.iter_mut().for_each(|c| if c.is_some_and(|c| c.backend == id && tables.now - c.last > IDLE) { *c = None });
                    prop_assert!(connections.iter().flatten().all(|c| c.backend != id), "{:?} had flows", id);
                }
                Upheaval::Other(Event::Turn(id)) => {
                    let record = tables.backend_mut(id);
                    record.alive = 1 - record.alive;
                    if record.alive == 0 {
                        connections.iter_mut().for_each(|connection| {
                            if connection.is_some_and(|c| c.backend == id) { *connection = None; }
                        });
                        if agent.slot.current() == id {
                            let living = [A, B, C].into_iter().find(|&id| tables.backend_mut(id).alive != 0);
                            let slot = agent.slot.toward(living.unwrap_or(NONE));
                            agent.put(&mut tables, slot);
                        }
                    }
                }
                Upheaval::Other(Event::Wait(seconds)) => tables.now += seconds,
                Upheaval::Other(Event::Sweep) => agent.sweep(&mut tables),
                Upheaval::Other(Event::Budget(_)) => {}
            }
        }
    }
}
