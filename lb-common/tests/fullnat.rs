//! `fullnat` on the host: flows out and back, ports that are taken, ICMP errors both ways, every
//! checksum by full computation.

#![expect(clippy::unwrap_used, reason = "a test fails by it")]

#[expect(dead_code, reason = "other tests use the rest")]
mod frames;
mod packets;
mod through;

use std::{collections::BTreeSet, net::IpAddr};

use frames::{MACS, TAGS, ethernet, ipv4, tcp, udp};
use lb_common::{
    checksum,
    directory_builder::{Entry, Transport},
    flow::flag::{ACK, FIN, RST, SYN},
    hash::Keys,
    id::{BackendId, ServiceId},
    layout::{
        ANSWERS, Affinity, AnswerEntry, AnswerKey, BackendRecord, FULLNAT, Kind, PoolRange, Slot,
        Stage,
    },
    network::mapped,
    tables::MemoryTables,
    verdict::{DropReason, Verdict},
};
use packets::{addresses, assert_right, ether_type, from, packet, sealed, shape};
use proptest::prelude::*;
use through::{run, run_by, v6};

const BACKEND_PORT: u16 = 8080;
const VIP4: [u8; 4] = [203, 0, 113, 10];
const BACKEND4: [u8; 4] = [10, 0, 0, 11];
const POOL4: [u8; 4] = [10, 0, 0, 2];
/// What [`ipv4`] and [`frames::ipv6`] send from.
const CLIENT4: [u8; 4] = [192, 0, 2, 1];
const FIRST_PORT: u16 = 1024;
const PORTS: u16 = 4;

/// VIP, backend, client and pool of a family.
fn hosts(is_v4: bool) -> [Vec<u8>; 4] {
    match is_v4 {
        true => [VIP4.to_vec(), BACKEND4.to_vec(), CLIENT4.to_vec(), POOL4.to_vec()],
        false => ["2001:db8::10", "fd00::11", "2001:db8::1", "fd00::2"].map(|a| v6(a).to_vec()),
    }
}

fn wide(address: &[u8]) -> [u8; 16] {
    match <[u8; 4]>::try_from(address) {
        Ok(address) => mapped(address),
        Err(_) => address.try_into().unwrap(),
    }
}

fn record(is_v4: bool, backend: &[u8], port: u16) -> BackendRecord {
    let [vip, ..] = hosts(is_v4);
    let (vip, address) = (wide(&vip), wide(backend));
    let mut record = BackendRecord {
        kind: if is_v4 { Kind::FullnatIpv4 } else { Kind::FullnatIpv6 } as u8,
        resolved: 1,
        alive: 1,
        generation: 1,
        mtu: 1500,
        macs: MACS,
        address,
        port,
        outer_sum: checksum::address_difference(&vip, &address),
        ..BackendRecord::VACANT
    };
    record.set_destination();
    let first = if is_v4 { 0 } else { 1 };
    let pool = PoolRange { first, count: 1, first_port: FIRST_PORT, ports: PORTS };
    record.set_fullnat(pool, &vip);
    record
}

/// TCP port 80 to port 8080 of the backend, and any UDP port, for both families.
fn tables() -> MemoryTables {
    let mut services = Vec::new();
    for is_v4 in [true, false] {
        let vip = IpAddr::from(std::net::Ipv6Addr::from(wide(&hosts(is_v4)[0]))).to_canonical();
        for (transport, port) in [(Transport::Tcp, Some(80)), (Transport::Udp, None)] {
            let id = services.len() as u32 + 1;
            services.push(Entry {
                vip,
                port,
                transport,
                id,
                ring_start: 7 * (id - 1),
                ring_size: 7,
                affinity: Affinity::Flow,
                idle_seconds: 60,
                answers: FULLNAT,
                icmp_echo: false,
            });
        }
    }
    let mut tables = MemoryTables::new(Keys::from_seed(1), &services).unwrap();
    tables.pools = [true, false].map(|is_v4| wide(&hosts(is_v4)[3])).to_vec();
    tables.now = 1000;
    for (index, service) in services.iter().enumerate() {
        let id = BackendId(index as u32 + 1);
        tables.slots[7 * index..7 * (index + 1)].fill(Slot::stable(id));
        let is_v4 = service.vip.is_ipv4();
        let port = if service.port.is_some() { BACKEND_PORT } else { 0 };
        tables.set_backend(id, record(is_v4, &hosts(is_v4)[1], port));
    }
    tables
}

/// Another backend for TCP by IPv4, that has the ring from now on.
const OTHER: BackendId = BackendId(9);

fn other_takes_over(tables: &mut MemoryTables) {
    let other = record(true, &[10, 0, 0, 12], BACKEND_PORT);
    tables.set_backend(OTHER, BackendRecord { generation: 5, ..other });
    tables.slots[..7].fill(Slot::stable(OTHER));
}

fn ports(packet: &[u8]) -> (u16, u16) {
    let at = shape(packet).0;
    let port = |at: usize| u16::from_be_bytes([packet[at], packet[at + 1]]);
    (port(at), port(at + 2))
}

/// A client's segment to the IPv4 service.
fn segment(port: u16, flags: u8) -> Vec<u8> {
    ethernet(&[], 0x0800, &packet(true, &CLIENT4, &VIP4, 6, &tcp(port, 80, flags, b"")))
}

/// An answer's to a port of the pool.
fn answer_from(backend: [u8; 4], port: u16, flags: u8) -> Vec<u8> {
    let segment = tcp(BACKEND_PORT, port, flags, b"");
    ethernet(&[], 0x0800, &packet(true, &backend, &POOL4, 6, &segment))
}

/// The pool's port that a client's segment leaves from, and its backend.
fn leaves(tables: &MemoryTables, port: u16, flags: u8) -> (u16, BackendId) {
    let (outcome, frame) = run(tables, &segment(port, flags));
    assert_eq!((outcome.verdict, outcome.reason), (Verdict::Transmit, None));
    (ports(&frame[14..]).0, outcome.backend)
}

fn answers(tables: &MemoryTables, port: u16, flags: u8) {
    let (outcome, _) = run(tables, &answer_from(BACKEND4, port, flags));
    assert!(outcome.is_answer, "{outcome:?}");
}

fn stage(tables: &MemoryTables) -> Stage {
    tables.translated.borrow().values().next().unwrap().progress().stage
}

#[test]
fn packets_go_out_and_answers_come_back() {
    for is_v4 in [true, false] {
        let [vip, backend, client, pool] = hosts(is_v4);
        for (tags, protocol) in [(0, 6), (1, 6), (2, 6), (0, 17), (2, 17)] {
            let tables = tables();
            let tags = &TAGS[..4 * tags];
            let link = 14 + tags.len();
            let (own, service) = if protocol == 6 { (BACKEND_PORT, 80) } else { (5353, 5353) };
            let payload = |source, destination, flags, data: &[u8]| match protocol {
                6 => tcp(source, destination, flags, data),
                _ => udp(source, destination, data),
            };
            for (turn, flags) in [(0, SYN), (1, ACK), (2, ACK)] {
                let out = payload(4711, service, flags, b"hello");
                let sent = packet(is_v4, &client, &vip, protocol, &out);
                let (outcome, frame) = run(&tables, &ethernet(tags, ether_type(is_v4), &sent));
                assert_eq!((outcome.verdict, outcome.reason), (Verdict::Transmit, None));
                let opens = protocol == 6 && turn == 0;
                assert!(!outcome.is_answer && outcome.opens == opens);
                assert_eq!(frame[..12], MACS);
                assert_eq!(outcome.bytes as usize, link + sent.len());
                let out = payload(FIRST_PORT, own, flags, b"hello");
                assert_eq!(frame[link..], packet(is_v4, &pool, &backend, protocol, &out));

                let back = payload(own, FIRST_PORT, flags | ACK, b"answer!");
                let sent = packet(is_v4, &backend, &pool, protocol, &back);
                let (outcome, frame) = run(&tables, &ethernet(tags, ether_type(is_v4), &sent));
                assert_eq!((outcome.verdict, outcome.egress_ifindex), (Verdict::Redirect, 9));
                assert!(outcome.is_answer && outcome.service != ServiceId::NONE);
                let back = payload(service, 4711, flags | ACK, b"answer!");
                assert_eq!(frame[link..], packet(is_v4, &vip, &client, protocol, &back));
            }
            assert_eq!(stage(&tables), Stage::Open);
        }
    }
}

#[test]
fn no_two_flows_have_the_same_port_toward_one_backend() {
    let tables = tables();
    let mut taken: Vec<u16> = (0..PORTS).map(|n| leaves(&tables, 5000 + n, SYN).0).collect();
    taken.sort_unstable();
    assert_eq!(taken, [1024, 1025, 1026, 1027]);
    let (outcome, _) = run(&tables, &segment(6000, SYN));
    assert_eq!(outcome.reason, Some(DropReason::PortsExhausted));
    // Those that are there go on.
    assert!(taken.contains(&leaves(&tables, 5002, ACK).0));
    // So do those of other protocols.
    let datagram = packet(true, &CLIENT4, &VIP4, 17, &udp(4711, 53, b"x"));
    assert_eq!(run(&tables, &ethernet(&[], 0x0800, &datagram)).0.verdict, Verdict::Transmit);
    assert_eq!(tables.returns.borrow().len(), 5);
}

/// Where nearly all are taken, those that are left are found.
#[test]
fn the_last_ports_are_found() {
    let mut tables = tables();
    let mut record = *tables.backend_mut(BackendId(1));
    record.set_fullnat(PoolRange { ports: 1000, ..record.pool() }, &mapped(VIP4));
    tables.set_backend(BackendId(1), record);
    let taken: BTreeSet<u16> = (0..980).map(|n| leaves(&tables, 5000 + n, SYN).0).collect();
    assert_eq!(taken.len(), 980);
    // Of those that nobody has, most are a service's.
    tables.pools[0] = mapped(VIP4);
    record.set_fullnat(PoolRange { first_port: 79, ports: 3, ..record.pool() }, &mapped(VIP4));
    tables.set_backend(BackendId(1), record);
    let taken: BTreeSet<u16> = (0..2).map(|n| leaves(&tables, 6000 + n, SYN).0).collect();
    assert_eq!(taken, [79, 81].into());
}

#[test]
fn a_full_table_takes_no_more() {
    let mut tables = tables();
    tables.translations = 2;
    assert_ne!(leaves(&tables, 5000, SYN), leaves(&tables, 5001, SYN));
    let (outcome, _) = run(&tables, &segment(5002, SYN));
    assert_eq!(outcome.reason, Some(DropReason::FlowTableFull));
    assert_eq!(tables.returns.borrow().len(), 2);
    leaves(&tables, 5001, ACK);
}

#[test]
fn a_reset_of_nothing_is_refused() {
    let tables = tables();
    for flags in [RST, RST | ACK] {
        let (outcome, _) = run(&tables, &segment(4711, flags));
        assert_eq!(outcome.reason, Some(DropReason::NoFlow));
    }
    // In the midst of something unknown the backend's own reset tells the client.
    let (port, _) = leaves(&tables, 4711, ACK);
    answers(&tables, port, RST);
    assert_eq!(stage(&tables), Stage::Reset);
}

/// A client that uses its port again meets the same backend from the same port, which judges by
/// sequence numbers; another backend sees another port, and the former one stays taken.
#[test]
fn a_connection_takes_the_place_of_an_ended_one() {
    let mut tables = tables();
    let (port, backend) = leaves(&tables, 4711, SYN);
    answers(&tables, port, SYN | ACK);
    leaves(&tables, 4711, ACK);
    // A forged SYN changes nothing.
    leaves(&tables, 4711, SYN);
    assert_eq!(stage(&tables), Stage::Open);
    answers(&tables, port, FIN | ACK);
    leaves(&tables, 4711, FIN | ACK);
    assert_eq!(stage(&tables), Stage::TimeWait);
    assert_eq!(leaves(&tables, 4711, SYN), (port, backend));
    assert_eq!(stage(&tables), Stage::Opening);

    leaves(&tables, 4711, RST);
    other_takes_over(&mut tables);
    let (other_port, other) = leaves(&tables, 4711, SYN);
    assert_eq!(other, OTHER);
    assert_eq!(tables.returns.borrow().len(), 2);
    // What still comes to the former port belongs to nothing.
    let (outcome, _) = run(&tables, &answer_from(BACKEND4, port, ACK));
    assert_eq!((outcome.verdict, outcome.service), (Verdict::Pass, ServiceId::NONE));
    assert!(run(&tables, &answer_from([10, 0, 0, 12], other_port, ACK)).0.is_answer);
}

#[test]
fn a_flow_stays_where_it_is_while_its_backend_lives() {
    let mut tables = tables();
    let (port, backend) = leaves(&tables, 4711, SYN);
    answers(&tables, port, SYN | ACK);
    leaves(&tables, 4711, ACK);
    other_takes_over(&mut tables);
    assert_eq!(leaves(&tables, 4711, ACK), (port, backend));
    assert_eq!(leaves(&tables, 4711, SYN), (port, backend), "it may be forged");
    tables.now += 61;
    assert_eq!(leaves(&tables, 4711, ACK), (port, backend), "late, and nobody minds");
    tables.now += 61;
    assert_eq!(leaves(&tables, 4711, SYN).1, OTHER, "a quiet one gives way to a new one");
}

#[test]
fn flows_of_the_dead_go_to_the_ring() {
    for change in [
        (|record| record.alive = 0) as fn(&mut BackendRecord),
        |record| record.generation += 1,
        |record| record.kind = 0,
    ] {
        let mut tables = tables();
        let (port, first) = leaves(&tables, 4711, SYN);
        answers(&tables, port, SYN | ACK);
        other_takes_over(&mut tables);
        change(tables.backend_mut(first));
        assert_eq!(leaves(&tables, 4711, ACK).1, OTHER);
        assert_eq!(leaves(&tables, 4711, ACK).1, OTHER);
        let (outcome, _) = run(&tables, &answer_from(BACKEND4, port, ACK));
        assert_eq!(outcome.verdict, Verdict::Pass);
    }
}

/// The address of the pool may be the VIP, whose ports are its services'.
#[test]
fn ports_of_services_are_left_alone() {
    let mut tables = tables();
    tables.pools[0] = mapped(VIP4);
    let mut record = *tables.backend_mut(BackendId(1));
    let pool = PoolRange { first_port: 79, ports: 3, ..record.pool() };
    record.set_fullnat(pool, &mapped(VIP4));
    tables.set_backend(BackendId(1), record);
    let mut taken = [leaves(&tables, 5000, SYN).0, leaves(&tables, 5001, SYN).0];
    taken.sort_unstable();
    assert_eq!(taken, [79, 81]);
    let (outcome, _) = run(&tables, &segment(5002, SYN));
    assert_eq!(outcome.reason, Some(DropReason::PortsExhausted));
    // Answers come to the VIP.
    let segment = tcp(BACKEND_PORT, 79, SYN | ACK, b"");
    let frame = ethernet(&[], 0x0800, &packet(true, &BACKEND4, &VIP4, 6, &segment));
    assert!(run(&tables, &frame).0.is_answer);
}

#[test]
fn what_is_nobodys_answer_passes_untouched() {
    let tables = tables();
    let (port, _) = leaves(&tables, 4711, SYN);
    let tcp = |source, destination: u16| tcp(source, destination, ACK, b"");
    let echo = [8, 0, 0, 0, 0, 1, 0, 1, 1, 2];
    let flow = packet(true, &POOL4, &BACKEND4, 6, &tcp(port, BACKEND_PORT));
    let other_sender = [&[3, 1, 0, 0, 0, 0, 0, 0], &flow[..28]].concat();
    for sent in [
        packet(true, &BACKEND4, &POOL4, 6, &tcp(8081, port)),
        packet(true, &BACKEND4, &POOL4, 6, &tcp(BACKEND_PORT, port + 1)),
        packet(true, &[10, 0, 0, 12], &POOL4, 6, &tcp(BACKEND_PORT, port)),
        packet(true, &BACKEND4, &[10, 0, 0, 3], 6, &tcp(BACKEND_PORT, port)),
        packet(true, &BACKEND4, &POOL4, 17, &udp(BACKEND_PORT, port, b"x")),
        packet(true, &BACKEND4, &VIP4, 6, &tcp(BACKEND_PORT, port)),
        packet(true, &BACKEND4, &POOL4, 1, &echo),
        packet(true, &CLIENT4, &VIP4, 1, &echo),
        packet(true, &BACKEND4, &[192, 0, 2, 99], 1, &other_sender),
        packet(true, &BACKEND4, &POOL4, 1, &other_sender[..20]),
    ] {
        let frame = ethernet(&[], 0x0800, &sent);
        let (outcome, after) = run(&tables, &frame);
        assert_eq!((outcome.verdict, outcome.service), (Verdict::Pass, ServiceId::NONE));
        assert_eq!(after, frame);
    }
}

/// Services under `nat` are there, too: what isn't of a flow may be an answer of theirs.
#[test]
fn answers_under_nat_are_found_behind() {
    let mut tables = tables();
    for half in &mut tables.directory.halves {
        half.answers |= u32::from(ANSWERS);
    }
    let backend = mapped([10, 0, 0, 13]);
    let entry = AnswerEntry {
        vip: mapped(VIP4),
        difference: checksum::address_difference(&backend, &mapped(VIP4)),
        service: 7,
        backend: 7,
        port: 81,
        reserved: 0,
    };
    tables.answers.insert(AnswerKey::new(backend, 8080, 6), entry);
    let sent = packet(true, &[10, 0, 0, 13], &CLIENT4, 6, &tcp(8080, 4711, ACK, b""));
    let (outcome, frame) = run(&tables, &ethernet(&[], 0x0800, &sent));
    assert!(outcome.is_answer && outcome.service == ServiceId(7));
    assert_eq!(frame[14..], packet(true, &VIP4, &CLIENT4, 6, &tcp(81, 4711, ACK, b"")));
    // To a VIP it is none: nobody under `nat` has a VIP for a client.
    let sent = packet(true, &[10, 0, 0, 13], &VIP4, 6, &tcp(8080, 4711, ACK, b""));
    assert_eq!(run(&tables, &ethernet(&[], 0x0800, &sent)).0.verdict, Verdict::Pass);
    let forwarded = packet(true, &CLIENT4, &[10, 0, 0, 13], 6, &tcp(4711, 8080, ACK, b""));
    let error = [&[11, 0, 0, 0, 0, 0, 0, 0], &forwarded[..28]].concat();
    let sent = packet(true, &[10, 0, 0, 1], &CLIENT4, 1, &error);
    assert!(run(&tables, &ethernet(&[], 0x0800, &sent)).0.is_answer);
}

#[test]
fn icmp_errors_are_told_in_the_words_of_whom_they_are_told() {
    for is_v4 in [true, false] {
        let tables = tables();
        let [vip, backend, client, pool] = hosts(is_v4);
        let opens = packet(is_v4, &client, &vip, 6, &tcp(4711, 80, SYN, b""));
        run(&tables, &ethernet(&[], ether_type(is_v4), &opens));
        let router = if is_v4 { vec![198, 51, 100, 7] } else { v6("2001:db8:7::7").to_vec() };
        let (control, header, kinds) = if is_v4 { (1, 20, [3, 11]) } else { (58, 40, [2, 3]) };
        for (kind, quoted_len) in kinds.into_iter().flat_map(|kind| [(kind, 8), (kind, 20)]) {
            let error = |quoted: &[u8]| {
                [&[kind, 4, 0, 0, 0, 0, 5, 0], &quoted[..header + quoted_len]].concat()
            };
            // About an answer: to the backend, about what it sent, from whom it knows.
            let answer = packet(is_v4, &vip, &client, 6, &tcp(80, 4711, ACK, b""));
            for source in [&router, &client] {
                let sent = packet(is_v4, source, &vip, control, &error(&answer));
                let (outcome, frame) = run(&tables, &ethernet(&[], ether_type(is_v4), &sent));
                assert_eq!(outcome.verdict, Verdict::Transmit, "{kind} {quoted_len}");
                assert_eq!(frame[..12], MACS);
                let quoted =
                    packet(is_v4, &backend, &pool, 6, &tcp(BACKEND_PORT, FIRST_PORT, ACK, b""));
                let expected = packet(is_v4, &pool, &backend, control, &error(&quoted));
                assert_eq!(frame[14..], expected);
            }

            // About what was forwarded: from the backend, then from a router before it.
            for (source, leaves_as) in [(&backend, &vip), (&router, &router)] {
                let forwarded =
                    packet(is_v4, &pool, &backend, 6, &tcp(FIRST_PORT, BACKEND_PORT, ACK, b""));
                let sent = packet(is_v4, source, &pool, control, &error(&forwarded));
                let (outcome, frame) = run(&tables, &ethernet(&[], ether_type(is_v4), &sent));
                assert!(outcome.is_answer && outcome.verdict == Verdict::Redirect);
                let quoted = packet(is_v4, &client, &vip, 6, &tcp(4711, 80, ACK, b""));
                let expected = packet(is_v4, leaves_as, &client, control, &error(&quoted));
                assert_eq!(frame[14..], expected);
            }
        }
    }
}

#[test]
fn refusals_have_names() {
    let mut tables = tables();
    let (port, backend) = leaves(&tables, 4711, SYN);
    let frame = answer_from(BACKEND4, port, SYN | ACK);
    for reason in [DropReason::NoRoute, DropReason::ForwardingOff, DropReason::ClientUnresolved] {
        let (outcome, _) = run_by(&tables, &frame, Err(reason));
        assert_eq!((outcome.verdict, outcome.reason), (Verdict::Drop, Some(reason)));
        assert_eq!((outcome.service, outcome.backend), (ServiceId(1), backend));
    }
    let short = run(&tables, &frame[..frame.len() - 1]).0;
    assert_eq!(short.reason, Some(DropReason::Truncated));
    tables.backend_mut(backend).mtu = 39;
    assert_eq!(run(&tables, &segment(4711, ACK)).0.reason, Some(DropReason::TooBig));
    let record = tables.backend_mut(backend);
    (record.mtu, record.kind) = (1500, Kind::FullnatIpv6 as u8);
    assert_eq!(run(&tables, &segment(4711, ACK)).0.reason, Some(DropReason::Inconsistent));
}

/// The kernel has the address of the pool, and would not forward the packet: nor tell the backend.
#[test]
fn the_backend_is_told_of_packets_that_are_too_long() {
    for is_v4 in [true, false] {
        let tables = tables();
        let [vip, backend, client, pool] = hosts(is_v4);
        let opens = packet(is_v4, &client, &vip, 6, &tcp(4711, 80, SYN, b""));
        run(&tables, &ethernet(&[], ether_type(is_v4), &opens));
        let segment = tcp(BACKEND_PORT, FIRST_PORT, ACK, &[7; 1400]);
        let mut sent = packet(is_v4, &backend, &pool, 6, &segment);
        if is_v4 {
            // Not to be fragmented.
            sent[6] = 0x40;
            sent = from(sent, &backend);
        }
        let tags = &TAGS[4..];
        let (outcome, frame) = run(&tables, &ethernet(tags, ether_type(is_v4), &sent));
        assert_eq!(outcome.verdict, Verdict::Transmit);
        assert_eq!(frame[..12], [2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1]);
        assert_eq!(frame[12..16], *tags);
        let error = &frame[18..];
        assert_right(error, "too big");
        assert_eq!(addresses(error), [&pool[..], &backend].concat());
        let (at, control) = if is_v4 { (20, [3, 4]) } else { (40, [2, 0]) };
        assert_eq!(error[at..at + 2], control);
        assert_eq!(error[at + 4..at + 8], 1400_u32.to_be_bytes());
        assert_eq!(error[at + 8..], sent[..at + 8]);
        assert_eq!(shape(error).2, error.len());
    }
    // What may be fragmented is too big.
    let tables = tables();
    let (port, _) = leaves(&tables, 4711, SYN);
    let segment = tcp(BACKEND_PORT, port, ACK, &[0; 1400]);
    let sent = ethernet(&[], 0x0800, &packet(true, &BACKEND4, &POOL4, 6, &segment));
    assert_eq!(run(&tables, &sent).0.reason, Some(DropReason::TooBig));
}

#[test]
fn a_datagram_without_checksum_stays_without() {
    let sent = ipv4(VIP4, 17, &[], &udp(4711, 53, b"x"));
    let (_, frame) = run(&tables(), &ethernet(&[], 0x0800, &sent));
    assert_eq!(frame[14 + 20 + 6..][..2], [0, 0]);
    assert_right(&frame[14..], "out");
}

proptest! {
    /// There and back again is the packet itself, and each checksum is right on the way.
    #[test]
    fn forward_and_back_is_the_same(
        is_v4: bool,
        is_tcp: bool,
        port in 1..=u16::MAX,
        other_port in 1..=u16::MAX,
        data in proptest::collection::vec(any::<u8>(), 0..64),
        options in 0..=10usize,
    ) {
        let tables = tables();
        let [vip, backend, client, pool] = hosts(is_v4);
        let service_port = if is_tcp { 80 } else { other_port };
        let payload = |source, destination| match is_tcp {
            true => tcp(source, destination, ACK, &data),
            false => udp(source, destination, &data),
        };
        let protocol = if is_tcp { 6 } else { 17 };
        let sent = match is_v4 {
            true => {
                let options = vec![1; 4 * options];
                sealed(ipv4(VIP4, protocol, &options, &payload(port, service_port)))
            }
            false => packet(false, &client, &vip, protocol, &payload(port, service_port)),
        };
        let (outcome, frame) = run(&tables, &ethernet(&[], ether_type(is_v4), &sent));
        prop_assert_eq!(outcome.verdict, Verdict::Transmit);
        assert_right(&frame[14..], "out");
        prop_assert_eq!(addresses(&frame[14..]), [&pool[..], &backend].concat());
        let (pool_port, backend_port) = ports(&frame[14..]);

        let answer = packet(is_v4, &backend, &pool, protocol, &payload(backend_port, pool_port));
        let (outcome, frame) = run(&tables, &ethernet(&[], ether_type(is_v4), &answer));
        prop_assert!(outcome.is_answer);
        let expected = packet(is_v4, &vip, &client, protocol, &payload(service_port, port));
        prop_assert_eq!(&frame[14..], &expected[..]);
    }

    /// Whatever clients and backends say, each live flow's answers come back to it alone.
    #[test]
    fn flows_never_mix(packets in proptest::collection::vec((0..6u16, any::<u8>(), any::<bool>()), 1..60)) {
        let mut tables = tables();
        for (client, flags, of_backend) in packets {
            tables.now += 1;
            if of_backend {
                run(&tables, &answer_from(BACKEND4, FIRST_PORT + client % PORTS, flags));
            } else {
                run(&tables, &segment(5000 + client, flags));
            }
            for (flow, place) in tables.translated.borrow().iter() {
                let port = place.translation().port;
                let whose = tables.returns.borrow();
                let takers = whose.iter().filter(|(key, _)| {
                    lb_common::flow::destination_port(key.ports) == port
                });
                let takers: Vec<_> = takers.map(|(_, flow)| **flow).collect();
                prop_assert_eq!(takers, vec![*flow]);
            }
            prop_assert!(tables.translated.borrow().len() <= usize::from(PORTS));
        }
    }

    /// Nothing that comes breaks anything.
    #[test]
    fn any_bytes(bytes in proptest::collection::vec(any::<u8>(), 0..200), v4: bool, control: bool) {
        let mut frame = ethernet(&[], ether_type(v4), &bytes);
        if frame.len() > 40 {
            frame[14] = if v4 { 0x45 } else { 0x60 };
            let at = if v4 { 23 } else { 20 };
            frame[at] = match (control, v4) { (true, true) => 1, (true, false) => 58, _ => 6 };
        }
        run(&tables(), &frame);
    }
}
