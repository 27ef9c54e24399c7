//! `nat` on the host: packets out and back, ICMP errors both ways, every checksum by full
//! computation.

#![expect(clippy::unwrap_used, reason = "a test fails by it")]

#[expect(dead_code, reason = "other tests use the rest")]
mod frames;
mod packets;
mod through;

use std::net::IpAddr;

use frames::{MACS, TAGS, ethernet, ipv4, ipv6, tcp, udp};
use lb_common::{
    checksum,
    directory_builder::{Entry, Transport},
    hash::Keys,
    id::{BackendId, ServiceId},
    layout::{
        ANSWERS, ANSWERS_OF_ANY_PORT, Affinity, AnswerEntry, AnswerKey, BackendRecord, Kind, Slot,
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
/// What [`ipv4`] and [`ipv6`] send from.
const CLIENT4: [u8; 4] = [192, 0, 2, 1];

fn vip6() -> [u8; 16] {
    v6("2001:db8::10")
}

fn backend6() -> [u8; 16] {
    v6("fd00::11")
}

/// TCP port 80 to port 8080 of the backend, and any UDP port, for both families.
fn tables() -> MemoryTables {
    let mut services = Vec::new();
    for vip in [IpAddr::from(VIP4), vip6().into()] {
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
                answers: if port.is_none() { ANSWERS | ANSWERS_OF_ANY_PORT } else { ANSWERS },
                icmp_echo: false,
            });
        }
    }
    let mut tables = MemoryTables::new(Keys::from_seed(1), &services).unwrap();
    for (index, service) in services.iter().enumerate() {
        let number = index as u32 + 1;
        let id = BackendId(number);
        tables.slots[7 * index..7 * (index + 1)].fill(Slot::stable(id));
        let (vip, address, kind) = match service.vip {
            IpAddr::V4(vip) => (mapped(vip.octets()), mapped(BACKEND4), Kind::NatIpv4),
            IpAddr::V6(vip) => (vip.octets(), backend6(), Kind::NatIpv6),
        };
        let port = if service.port.is_some() { BACKEND_PORT } else { 0 };
        let mut record = BackendRecord {
            kind: kind as u8,
            resolved: 1,
            alive: 1,
            mtu: 1500,
            macs: MACS,
            address,
            port,
            outer_sum: checksum::address_difference(&vip, &address),
            ..BackendRecord::VACANT
        };
        record.set_destination();
        tables.set_backend(id, record);
        let entry = AnswerEntry {
            vip,
            difference: checksum::address_difference(&address, &vip),
            service: number,
            backend: number,
            port: service.port.unwrap_or(0),
            reserved: 0,
        };
        tables.answers.insert(AnswerKey::new(address, port, service.transport as u8), entry);
    }
    tables
}

/// VIP, backend and client of a family.
fn hosts(is_v4: bool) -> [Vec<u8>; 3] {
    match is_v4 {
        true => [VIP4.to_vec(), BACKEND4.to_vec(), CLIENT4.to_vec()],
        false => [vip6().to_vec(), backend6().to_vec(), v6("2001:db8::1").to_vec()],
    }
}

#[test]
fn packets_go_out_and_answers_come_back() {
    let tables = tables();
    for is_v4 in [true, false] {
        let [vip, backend, client] = hosts(is_v4);
        for (tags, protocol) in [(0, 6), (1, 6), (2, 6), (0, 17), (2, 17)] {
            let tags = &TAGS[..4 * tags];
            let link = 14 + tags.len();
            let [out, back] = match protocol {
                6 => [tcp(4711, 80, 0x02, b"hello"), tcp(8080, 4711, 0x12, b"answer!")],
                _ => [udp(4711, 5353, b"hello"), udp(5353, 4711, b"answer!")],
            };
            let sent = packet(is_v4, &client, &vip, protocol, &out);
            let (outcome, frame) = run(&tables, &ethernet(tags, ether_type(is_v4), &sent));
            assert_eq!(outcome.verdict, Verdict::Transmit);
            assert!(!outcome.is_answer && outcome.opens == (protocol == 6));
            assert_eq!(frame[..12], MACS);
            assert_right(&frame[link..], "out");
            assert_eq!(addresses(&frame[link..]), [&client[..], &backend].concat());

            let sent = packet(is_v4, &backend, &client, protocol, &back);
            let (outcome, frame) = run(&tables, &ethernet(tags, ether_type(is_v4), &sent));
            assert_eq!((outcome.verdict, outcome.egress_ifindex), (Verdict::Redirect, 9));
            assert!(outcome.is_answer && outcome.service != ServiceId::NONE);
            assert_right(&frame[link..], "back");
            assert_eq!(addresses(&frame[link..]), [&vip[..], &client].concat());
            let port = if protocol == 6 { 80u16 } else { 5353 };
            let at = link + shape(&frame[link..]).0;
            assert_eq!(frame[at..at + 2], port.to_be_bytes());
        }
    }
}

#[test]
fn icmp_errors_are_told_in_the_words_of_whom_they_are_told() {
    let tables = tables();
    for is_v4 in [true, false] {
        let [vip, backend, client] = hosts(is_v4);
        let router = if is_v4 { vec![198, 51, 100, 7] } else { v6("2001:db8:7::7").to_vec() };
        let (control, header, kinds) = if is_v4 { (1, 20, [3, 11]) } else { (58, 40, [2, 3]) };
        for (kind, quoted_len) in kinds.into_iter().flat_map(|kind| [(kind, 8), (kind, 20)]) {
            let error = |quoted: &[u8]| {
                [&[kind, 4, 0, 0, 0, 0, 5, 0], &quoted[..header + quoted_len]].concat()
            };
            // About an answer: to the backend, as if it were about what the backend sent.
            let answer = packet(is_v4, &vip, &client, 6, &tcp(80, 4711, 0x10, b""));
            let sent = packet(is_v4, &router, &vip, control, &error(&answer));
            let (outcome, frame) = run(&tables, &ethernet(&[], ether_type(is_v4), &sent));
            assert_eq!(outcome.verdict, Verdict::Transmit, "{kind} {quoted_len}");
            assert_eq!(frame[..12], MACS);
            assert_right(&frame[14..], "about an answer");
            let quoted = packet(is_v4, &backend, &client, 6, &tcp(8080, 4711, 0x10, b""));
            let expected = packet(is_v4, &router, &backend, control, &error(&quoted));
            assert_eq!(frame[14..], expected);

            // About what was forwarded: from the backend, then from a router before it.
            for (source, leaves_as) in [(&backend, &vip), (&router, &router)] {
                let forwarded = packet(is_v4, &client, &backend, 6, &tcp(4711, 8080, 0x10, b""));
                let sent = packet(is_v4, source, &client, control, &error(&forwarded));
                let (outcome, frame) = run(&tables, &ethernet(&[], ether_type(is_v4), &sent));
                assert!(outcome.is_answer && outcome.verdict == Verdict::Redirect);
                let quoted = packet(is_v4, &client, &vip, 6, &tcp(4711, 80, 0x10, b""));
                let expected = packet(is_v4, leaves_as, &client, control, &error(&quoted));
                assert_eq!(frame[14..], expected);
            }
        }
    }
}

/// In a slot that moves, an error goes where the quoted flow lives.
#[test]
fn errors_follow_a_moving_flow() {
    let mut tables = tables();
    let two = BackendId(9);
    let mut record = *tables.backend_mut(BackendId(1));
    record.address = mapped([10, 0, 0, 12]);
    record.outer_sum = checksum::address_difference(&mapped(VIP4), &record.address);
    record.set_destination();
    tables.set_backend(two, record);
    tables.slots[..7].fill(Slot::stable(BackendId(1)).toward(two));
    let answer = packet(true, &VIP4, &CLIENT4, 6, &tcp(80, 4711, 0x10, b""));
    let error = [&[3, 4, 0, 0, 0, 0, 5, 0], &answer[..28]].concat();
    let frame = ethernet(&[], 0x0800, &packet(true, &[198, 51, 100, 7], &VIP4, 1, &error));
    assert_eq!(run(&tables, &frame).0.backend, BackendId(1), "an unknown one lives where it was");
    assert!(tables.records().is_empty(), "nothing is remembered of an error");
    let opens = ethernet(&[], 0x0800, &packet(true, &CLIENT4, &VIP4, 6, &tcp(4711, 80, 2, b"")));
    assert_eq!(run(&tables, &opens).0.backend, two);
    assert_eq!(run(&tables, &frame).0.backend, two, "a known one where it is");
}

#[test]
fn what_is_nobodys_answer_passes_untouched() {
    let tables = tables();
    let tcp = |source, destination: u16| tcp(source, destination, 0x10, b"");
    let echo = [8, 0, 0, 0, 0, 1, 0, 1, 1, 2];
    let stranger = packet(true, &CLIENT4, &BACKEND4, 6, &tcp(4711, 8080));
    let other_sender = [&[3, 1, 0, 0, 0, 0, 0, 0], &stranger[..28]].concat();
    for sent in [
        packet(true, &BACKEND4, &CLIENT4, 6, &tcp(8081, 4711)),
        packet(true, &[10, 0, 0, 12], &CLIENT4, 6, &tcp(8080, 4711)),
        packet(true, &BACKEND4, &CLIENT4, 1, &echo),
        packet(true, &CLIENT4, &VIP4, 1, &echo),
        packet(true, &BACKEND4, &[192, 0, 2, 99], 1, &other_sender),
        packet(true, &CLIENT4, &VIP4, 1, &other_sender),
        packet(true, &BACKEND4, &CLIENT4, 1, &other_sender[..20]),
    ] {
        let frame = ethernet(&[], 0x0800, &sent);
        let (outcome, after) = run(&tables, &frame);
        assert_eq!((outcome.verdict, outcome.service), (Verdict::Pass, ServiceId::NONE));
        assert_eq!(after, frame);
    }
}

#[test]
fn answers_without_a_way_are_refused_by_name() {
    let tables = tables();
    let sent = packet(true, &BACKEND4, &CLIENT4, 6, &tcp(8080, 4711, 0x10, b""));
    let frame = ethernet(&[], 0x0800, &sent);
    for reason in [DropReason::NoRoute, DropReason::ForwardingOff, DropReason::ClientUnresolved] {
        let (outcome, _) = run_by(&tables, &frame, Err(reason));
        assert_eq!((outcome.verdict, outcome.reason), (Verdict::Drop, Some(reason)));
        assert_eq!((outcome.service, outcome.backend), (ServiceId(1), BackendId(1)));
    }
    // Not to be fragmented (the bit is set): the kernel tells the backend. Otherwise: too big.
    for (bits, expected) in [(0x40, Verdict::Pass), (0, Verdict::Drop)] {
        let mut sent = packet(true, &BACKEND4, &CLIENT4, 6, &tcp(8080, 4711, 0x10, &[0; 1400]));
        sent[6] = bits;
        let frame = ethernet(&[], 0x0800, &from(sent, &BACKEND4));
        let (outcome, after) = run(&tables, &frame);
        assert_eq!(outcome.verdict, expected);
        assert!(expected == Verdict::Drop || after == frame);
    }
    let expired = {
        let mut sent = sent.clone();
        sent[8] = 0;
        ethernet(&[], 0x0800, &from(sent, &BACKEND4))
    };
    assert_eq!(run(&tables, &expired).0.reason, Some(DropReason::Expired));
    assert_eq!(
        run(&tables, &frame[..frame.len() - 1]).0.reason,
        Some(DropReason::Truncated),
        "it ends early"
    );
}

#[test]
fn a_datagram_without_checksum_stays_without() {
    let tables = tables();
    let sent = ipv4(VIP4, 17, &[], &udp(4711, 53, b"x"));
    let (_, frame) = run(&tables, &ethernet(&[], 0x0800, &sent));
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
        let [vip, backend, client] = hosts(is_v4);
        let service_port = if is_tcp { 80 } else { other_port };
        let payload = |source, destination| match is_tcp {
            true => tcp(source, destination, 0x10, &data),
            false => udp(source, destination, &data),
        };
        let protocol = if is_tcp { 6 } else { 17 };
        let sent = match is_v4 {
            true => {
                let options = vec![1; 4 * options];
                sealed(ipv4(VIP4, protocol, &options, &payload(port, service_port)))
            }
            false => sealed(ipv6(vip6(), protocol, &payload(port, service_port))),
        };
        let (outcome, frame) = run(&tables, &ethernet(&[], ether_type(is_v4), &sent));
        prop_assert_eq!(outcome.verdict, Verdict::Transmit);
        assert_right(&frame[14..], "out");
        prop_assert_eq!(addresses(&frame[14..]), [&client[..], &backend].concat());

        let backend_port = if is_tcp { BACKEND_PORT } else { other_port };
        let answer = packet(is_v4, &backend, &client, protocol, &payload(backend_port, port));
        let (outcome, frame) = run(&tables, &ethernet(&[], ether_type(is_v4), &answer));
        prop_assert!(outcome.is_answer);
        let expected = packet(is_v4, &vip, &client, protocol, &payload(service_port, port));
        prop_assert_eq!(&frame[14..], &expected[..]);
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
