//! The packet path on the host: every forward mode and address pair, byte by byte, and any bytes
//! at all.

#![expect(clippy::unwrap_used, reason = "a test fails by it")]

mod frames;

use std::{collections::BTreeSet, net::IpAddr};

use frames::{MACS, TAGS, UDP_DATA, ethernet, ipv4, ipv6, record, tcp, udp};
use lb_common::{
    balance::balance,
    checksum,
    directory_builder::{Entry, Transport},
    hash::Keys,
    id::{BackendId, ServiceId},
    layout::{Affinity, BackendRecord, Kind, Slot},
    packet::Packet,
    tables::{MemoryBuffer, MemoryTables},
    verdict::{DropReason, Outcome, Packed, Verdict},
};
use proptest::prelude::*;

const VIP4: [u8; 4] = [203, 0, 113, 10];
const VIP6: &str = "2001:db8::10";
const INGRESS: u32 = 3;
const HEADROOM: usize = 256;

fn vip6() -> [u8; 16] {
    let IpAddr::V6(vip) = VIP6.parse().unwrap() else { unreachable!() };
    vip.octets()
}

/// TCP port 80 and any UDP port of both VIPs; one backend of the given record in every slot.
fn tables(record: BackendRecord) -> MemoryTables {
    thread_local! {
        static SERVICES: MemoryTables = services();
    }
    let mut tables = SERVICES.with(Clone::clone);
    tables.slots.fill(Slot::stable(BackendId(1)));
    tables.set_backend(BackendId(1), record);
    tables
}

fn services() -> MemoryTables {
    let mut services = Vec::new();
    for vip in [IpAddr::from(VIP4), VIP6.parse().unwrap()] {
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
                answers: 0,
                icmp_echo: false,
            });
        }
    }
    MemoryTables::new(Keys::from_seed(1), &services).unwrap()
}

fn run(tables: &MemoryTables, frame: &[u8]) -> (Outcome, Vec<u8>) {
    let mut buffer = MemoryBuffer::new(frame, HEADROOM, INGRESS);
    let outcome = balance(Packet::new(&mut buffer), tables);
    (outcome.into(), buffer.frame())
}

fn refused(tables: &MemoryTables, frame: &[u8]) -> DropReason {
    run(tables, frame).0.reason.expect("refused")
}

/// Frames of every kind that is served: tags, network header, transport.
fn served() -> Vec<(usize, Vec<u8>, bool)> {
    let mut frames = Vec::new();
    for tags in 0..=2 {
        let link = &TAGS[..4 * tags];
        let segment = tcp(4711, 80, 0x10, b"hello");
        frames.push((tags, ethernet(link, 0x0800, &ipv4(VIP4, 6, &[], &segment)), true));
        frames.push((tags, ethernet(link, 0x0800, &ipv4(VIP4, 6, &[1, 1, 1, 0], &segment)), true));
        frames.push((tags, ethernet(link, 0x86dd, &ipv6(vip6(), 6, &segment)), false));
        let datagram = udp(4711, 53, UDP_DATA);
        frames.push((tags, ethernet(link, 0x0800, &ipv4(VIP4, 17, &[], &datagram)), true));
        frames.push((tags, ethernet(link, 0x86dd, &ipv6(vip6(), 17, &datagram)), false));
    }
    frames
}

#[test]
fn l2_rewrites_the_macs_alone() {
    let tables = tables(record(Kind::L2, true));
    for (_, frame, _) in served() {
        let (outcome, out) = run(&tables, &frame);
        assert_eq!(outcome.verdict, Verdict::Transmit);
        assert_eq!(outcome.backend, BackendId(1));
        assert_eq!(outcome.bytes as usize, frame.len());
        assert_eq!(out[..12], MACS);
        assert_eq!(out[12..], frame[12..]);
    }
}

#[test]
fn tunnels_put_right_headers_in_front() {
    for kind in [Kind::Ipv4, Kind::Ipv6, Kind::GueIpv4, Kind::GueIpv6] {
        for (tags, frame, inner_is_ipv4) in served() {
            let tables = tables(record(kind, inner_is_ipv4));
            let (outcome, out) = run(&tables, &frame);
            assert!(outcome.is_forwarded(), "{outcome:?}");
            let link = 14 + 4 * tags;
            assert_eq!(out.len(), frame.len() + kind.outer_len());
            assert_eq!(out[..12], MACS);
            assert_eq!(out[12..link - 2], frame[12..link - 2], "tags are kept");
            let inner = &frame[link..];
            let outer = &out[link..][..kind.outer_len()];
            assert_eq!(&out[link + kind.outer_len()..], inner, "the packet itself is untouched");
            check_outer(kind, &out[link - 2..link], outer, inner, inner_is_ipv4);
        }
    }
}

fn check_outer(kind: Kind, ether_type: &[u8], outer: &[u8], inner: &[u8], inner_is_ipv4: bool) {
    let ip_in_ip = if inner_is_ipv4 { 4 } else { 41 };
    let class = if inner_is_ipv4 { inner[1] } else { inner[0] << 4 | inner[1] >> 4 };
    let word = |at: usize| usize::from(u16::from_be_bytes([outer[at], outer[at + 1]]));
    let whole = outer.len() + inner.len();
    let (protocol, ip_len) = match kind {
        Kind::Ipv4 | Kind::GueIpv4 => {
            assert_eq!(ether_type, [0x08, 0x00]);
            assert_eq!(outer[0], 0x45);
            assert_eq!(outer[1], class);
            assert_eq!(word(2), whole);
            assert_eq!(word(4), 0, "identification");
            assert_eq!(word(6), 0x4000, "DF");
            assert_eq!(outer[8], 64, "TTL");
            assert_eq!(checksum::sum(&outer[..20]), 0xffff);
            (outer[9], 20)
        }
        Kind::Ipv6 | Kind::GueIpv6 => {
            assert_eq!(ether_type, [0x86, 0xdd]);
            assert_eq!(outer[0] >> 4, 6);
            assert_eq!(outer[0] << 4 | outer[1] >> 4, class);
            assert_ne!(word(2), 0, "flow label");
            assert_eq!(word(4), whole - 40);
            assert_eq!(outer[7], 64, "hop limit");
            (outer[6], 40)
        }
        _ => unreachable!(),
    };
    match kind {
        Kind::Ipv4 | Kind::Ipv6 => assert_eq!(protocol, ip_in_ip),
        _ => {
            assert_eq!(protocol, 17);
            assert!(word(ip_len) >= 0xc000, "source port");
            assert_eq!(word(ip_len + 2), 6080);
            assert_eq!(word(ip_len + 4), whole - ip_len);
            assert_eq!(word(ip_len + 6), 0, "UDP checksum");
            assert_eq!(outer[ip_len + 8..], [0, ip_in_ip, 0, 0], "GUE");
        }
    }
}

#[test]
fn padding_of_short_frames_is_not_counted_in() {
    let mut frame = ethernet(&[], 0x0800, &ipv4(VIP4, 6, &[], &tcp(1, 80, 0x10, &[])));
    frame.resize(60, 0);
    let (_, out) = run(&tables(record(Kind::Ipv4, true)), &frame);
    assert_eq!(u16::from_be_bytes([out[16], out[17]]), 20 + 40);
}

/// What follows a packet in its frame is none of it: neither ports nor headers.
#[test]
fn padding_of_short_frames_is_not_read() {
    let l2 = tables(record(Kind::L2, true));
    let padded = |ether_type, packet: Vec<u8>, payload_len: usize| {
        let mut frame = ethernet(&[], ether_type, &packet);
        let len = if ether_type == 0x0800 { 20 + payload_len } else { payload_len };
        let at = if ether_type == 0x0800 { 16 } else { 18 };
        frame[at..at + 2].copy_from_slice(&(len as u16).to_be_bytes());
        frame
    };
    let reason = |frame: &[u8]| run(&l2, frame).0.reason;
    let malformed = Some(DropReason::Malformed);
    // Port 81 has no service: a packet that names it passes, one that doesn't name it must not.
    for port in [80, 81] {
        let segment = tcp(1, port, 0x10, &[]);
        for len in 0..4 {
            assert_eq!(reason(&padded(0x0800, ipv4(VIP4, 6, &[], &segment), len)), malformed);
            assert_eq!(reason(&padded(0x86dd, ipv6(vip6(), 6, &segment), len)), malformed);
        }
        // The same in an atomic fragment (RFC 6946), whose header counts as payload.
        let atomic = [&[6, 0, 0, 0, 0, 0, 0, 1][..], &segment].concat();
        for len in 0..12 {
            assert_eq!(reason(&padded(0x86dd, ipv6(vip6(), 44, &atomic), len)), malformed, "{len}");
        }
    }
    let atomic = [&[6, 0, 0, 0, 0, 0, 0, 1][..], &tcp(1, 80, 0x10, &[])].concat();
    for len in 12..28 {
        assert_eq!(reason(&padded(0x86dd, ipv6(vip6(), 44, &atomic), len)), malformed, "{len}");
    }
    assert!(run(&l2, &padded(0x86dd, ipv6(vip6(), 44, &atomic), 28)).0.is_forwarded());
    // The last fragment of a datagram may be a single byte.
    let mut last = ipv4(VIP4, 17, &[], &[7]);
    last[6..8].copy_from_slice(&[0, 9]);
    last.resize(46, 0);
    assert_eq!(reason(&ethernet(&[], 0x0800, &last)), Some(DropReason::Fragment));
}

/// With `affinity = "source"` a client's flows meet on one backend, but not on one path to it.
#[test]
fn a_flow_has_its_own_entropy_whatever_chooses_its_slot() {
    let entropies = |affinity, kind| {
        let service = Entry {
            vip: VIP4.into(),
            port: Some(80),
            transport: Transport::Tcp,
            id: 1,
            ring_start: 0,
            ring_size: 7,
            affinity,
            idle_seconds: 60,
            answers: 0,
            icmp_echo: false,
        };
        let mut tables = MemoryTables::new(Keys::from_seed(1), &[service]).unwrap();
        for slot in 0..7 {
            tables.slots[slot as usize] = Slot::stable(BackendId(slot + 1));
            tables.set_backend(BackendId(slot + 1), record(kind, true));
        }
        let mut backends = BTreeSet::new();
        let mut entropies = BTreeSet::new();
        for source_port in 1..=64 {
            let frame = ethernet(&[], 0x0800, &ipv4(VIP4, 6, &[], &tcp(source_port, 80, 16, &[])));
            let (outcome, out) = run(&tables, &frame);
            backends.insert(outcome.backend.0);
            let at = if kind == Kind::GueIpv4 { 14 + 20 } else { 14 + 2 };
            entropies.insert([out[at], out[at + 1]]);
        }
        (backends.len(), entropies.len())
    };
    for kind in [Kind::GueIpv4, Kind::Ipv6] {
        let (backends, paths) = entropies(Affinity::Source, kind);
        assert_eq!(backends, 1);
        assert!(paths > 56, "{paths} values for 64 flows");
        assert_eq!(entropies(Affinity::Flow, kind), (7, paths));
    }
}

#[test]
fn services_are_told_apart() {
    let tables = tables(record(Kind::L2, true));
    let service = |frame: &[u8]| {
        let outcome = run(&tables, frame).0;
        assert_ne!(outcome.verdict, Verdict::Drop);
        outcome.service.known()
    };
    let v4 = |payload: &[u8], protocol| ethernet(&[], 0x0800, &ipv4(VIP4, protocol, &[], payload));
    let v6 = |payload: &[u8], protocol| ethernet(&[], 0x86dd, &ipv6(vip6(), protocol, payload));
    assert_eq!(service(&v4(&tcp(1, 80, 0, &[]), 6)), Some(ServiceId(1)));
    assert_eq!(service(&v4(&udp(1, 80, &[]), 17)), Some(ServiceId(2)));
    assert_eq!(service(&v4(&udp(1, 9999, &[]), 17)), Some(ServiceId(2)), "any port");
    assert_eq!(service(&v6(&tcp(1, 80, 0, &[]), 6)), Some(ServiceId(3)));
    assert_eq!(service(&v6(&udp(1, 5, &[]), 17)), Some(ServiceId(4)));
    assert_eq!(service(&v4(&tcp(1, 81, 0, &[]), 6)), None, "no service at this port");
    let mut icmp = ipv4(VIP4, 1, &[], &[8, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(service(&ethernet(&[], 0x0800, &icmp)), None, "ICMP");
    icmp[8] = 0;
    assert_eq!(service(&ethernet(&[], 0x0800, &icmp)), None, "expired, but not ours");
    let other = ipv4([203, 0, 113, 11], 6, &[], &tcp(1, 80, 0, &[]));
    assert_eq!(service(&ethernet(&[], 0x0800, &other)), None, "another address");
}

#[test]
fn syn_opens() {
    let tables = tables(record(Kind::L2, true));
    let opens = |flags| {
        let frame = ethernet(&[], 0x0800, &ipv4(VIP4, 6, &[], &tcp(1, 80, flags, &[])));
        run(&tables, &frame).0.opens
    };
    assert!(opens(0x02) && opens(0x42));
    assert!(!opens(0x12) && !opens(0x10) && !opens(0x11));
}

#[test]
fn egress_is_the_ingress_where_it_is_the_same() {
    let egress = |ifindex| {
        let mut record = record(Kind::L2, true);
        record.egress_ifindex = ifindex;
        record.egress_port = 5;
        let frame = ethernet(&[], 0x0800, &ipv4(VIP4, 6, &[], &tcp(1, 80, 0, &[])));
        let outcome = run(&tables(record), &frame).0;
        (outcome.verdict, outcome.port)
    };
    assert_eq!(egress(0).0, Verdict::Transmit);
    assert_eq!(egress(INGRESS).0, Verdict::Transmit);
    assert_eq!(egress(INGRESS + 1), (Verdict::Redirect, 5));
}

#[test]
fn every_reason_of_the_balancer() {
    let l2 = tables(record(Kind::L2, true));
    let segment = tcp(1, 80, 0, b"data");
    let packet = ipv4(VIP4, 6, &[], &segment);
    let edit = |at: usize, bytes: &[u8]| {
        let mut packet = packet.clone();
        packet[at..at + bytes.len()].copy_from_slice(bytes);
        refused(&l2, &ethernet(&[], 0x0800, &packet))
    };
    assert_eq!(edit(2, &[0, 200]), DropReason::Truncated, "longer than the frame");
    assert_eq!(edit(0, &[0x55]), DropReason::Malformed, "version");
    assert_eq!(edit(0, &[0x44]), DropReason::Malformed, "header length");
    assert_eq!(edit(2, &[0, 19]), DropReason::Malformed, "total length");
    assert_eq!(edit(8, &[0]), DropReason::Expired);
    let mut elsewhere = ipv4(VIP4, 6, &[], &tcp(1, 81, 0, &[]));
    elsewhere[8] = 0;
    let outcome = run(&l2, &ethernet(&[], 0x0800, &elsewhere)).0;
    assert_eq!(
        outcome,
        Outcome::from(Packed::PASS),
        "expired, at a port that nobody serves: not ours"
    );
    assert_eq!(edit(6, &[0x20, 0]), DropReason::Fragment, "first");
    assert_eq!(edit(6, &[0, 9]), DropReason::Fragment, "later");
    assert_eq!(edit(32, &[0x40]), DropReason::Malformed, "TCP header length");
    assert_eq!(edit(32, &[0xf0]), DropReason::Malformed, "TCP header past the end");
    let short = ipv4(VIP4, 6, &[], &segment[..12]);
    assert_eq!(refused(&l2, &ethernet(&[], 0x0800, &short)), DropReason::Truncated, "TCP");
    let mut datagram = udp(1, 53, UDP_DATA);
    datagram[5] = 7;
    let packet = ipv4(VIP4, 17, &[], &datagram);
    assert_eq!(refused(&l2, &ethernet(&[], 0x0800, &packet)), DropReason::Malformed, "UDP");

    let v6 = |next_header, payload: &[u8]| {
        refused(&l2, &ethernet(&[], 0x86dd, &ipv6(vip6(), next_header, payload)))
    };
    assert_eq!(v6(44, &[6, 0, 0, 1, 0, 0, 0, 1]), DropReason::Malformed, "ports cut off");
    assert_eq!(v6(44, &[6, 0, 1, 0, 0, 0, 0, 1, 9, 9]), DropReason::Fragment);
    assert_eq!(v6(0, &[6, 0, 1, 4, 0, 0, 0, 0]), DropReason::Ipv6Extension);
    let mut expired = ipv6(vip6(), 6, &segment);
    expired[7] = 0;
    assert_eq!(refused(&l2, &ethernet(&[], 0x86dd, &expired)), DropReason::Expired);

    let good = served().remove(0).1;
    let mut empty = l2.clone();
    empty.slots.fill(Slot::default());
    assert_eq!(refused(&empty, &good), DropReason::NoBackend);
    let unresolved = BackendRecord { resolved: 0, ..record(Kind::L2, true) };
    assert_eq!(refused(&tables(unresolved), &good), DropReason::Unresolved);
    assert_eq!(refused(&tables(BackendRecord::VACANT), &good), DropReason::Inconsistent);
    let narrow = BackendRecord { mtu: 64, ..record(Kind::Ipv4, true) };
    assert_eq!(refused(&tables(narrow), &good), DropReason::TooBig);
    // A length field says 65,535 bytes at the most: nothing is sent with one that wrapped.
    let longest = |payload: usize| ipv4(VIP4, 6, &[], &tcp(1, 80, 0, &vec![0; payload]));
    let whole = tables(record(Kind::Ipv4, true));
    let fits = ethernet(&[], 0x0800, &longest(65_535 - 20 - 20 - 20));
    assert!(run(&whole, &fits).0.is_forwarded());
    let longer = ethernet(&[], 0x0800, &longest(65_535 - 20 - 20 - 19));
    assert_eq!(refused(&whole, &longer), DropReason::TooBig);
    let mut buffer = MemoryBuffer::new(&good, 8, INGRESS);
    let outcome = balance(Packet::new(&mut buffer), &tables(record(Kind::Ipv4, true)));
    assert_eq!(Outcome::from(outcome).reason, Some(DropReason::NoHeadroom));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4096, ..ProptestConfig::default() })]

    /// Whatever arrives has an outcome; what passes is untouched, what is forwarded is whole.
    #[test]
    fn any_bytes_have_an_outcome(frame in prop::collection::vec(any::<u8>(), 0..9000)) {
        let tables = tables(record(Kind::GueIpv6, true));
        let (outcome, out) = run(&tables, &frame);
        if outcome.verdict == Verdict::Pass {
            prop_assert_eq!(outcome, Outcome::from(Packed::PASS));
            prop_assert_eq!(out, frame);
        }
    }

    /// Frames for the VIP with some bytes changed and some cut off: nearer to what is parsed.
    #[test]
    fn damaged_frames_have_an_outcome(
        which in any::<prop::sample::Index>(),
        damage in prop::collection::vec((0usize..80, any::<u8>()), 0..4),
        len in 0usize..120,
        kind in prop::sample::select(vec![Kind::L2, Kind::Ipv4, Kind::Ipv6, Kind::GueIpv4]),
    ) {
        let frames = served();
        let (_, mut frame, inner_is_ipv4) = which.get(&frames).clone();
        for (at, byte) in damage {
            if let Some(place) = frame.get_mut(at) {
                *place = byte;
            }
        }
        frame.truncate(len);
        let (outcome, out) = run(&tables(record(kind, inner_is_ipv4)), &frame);
        match outcome.verdict {
            Verdict::Pass => prop_assert_eq!(out, frame),
            Verdict::Transmit => {
                prop_assert_eq!(out.len(), frame.len() + kind.outer_len());
                let link = 14 + 8;
                prop_assert!(out.ends_with(&frame[link.min(frame.len())..]));
            }
            Verdict::Redirect => prop_assert!(false, "there is no other interface"),
            Verdict::Drop => prop_assert!(outcome.reason.is_some()),
        }
    }

    /// The same flow always gets the same backend, and the ring decides alone.
    #[test]
    fn flows_stay(source_port in any::<u16>(), seed in any::<u64>()) {
        let mut tables = tables(record(Kind::L2, true));
        tables.keys = Keys::from_seed(seed);
        tables.set_backend(BackendId(2), record(Kind::L2, true));
        for (index, slot) in tables.slots.iter_mut().enumerate() {
            *slot = Slot::stable(BackendId(1 + index as u32 % 2));
        }
        let frame = |payload: &[u8]| {
            ethernet(&[], 0x0800, &ipv4(VIP4, 6, &[], &tcp(source_port, 80, 0x10, payload)))
        };
        let backend = |frame: &[u8]| run(&tables, frame).0.backend;
        prop_assert!(backend(&frame(b"a")).known().is_some());
        prop_assert_eq!(backend(&frame(b"a")), backend(&frame(b"something longer")));
    }
}
