//! `fullnat` between families on the host: whole packets out and back, against packets that were built
//! for the other family, and every checksum by full computation.

#![expect(clippy::unwrap_used, reason = "a test fails by it")]

#[expect(dead_code, reason = "other tests use the rest")]
mod frames;
mod packets;
#[expect(dead_code, reason = "other tests use the rest")]
mod through;

use std::net::{IpAddr, Ipv6Addr};

use frames::{MACS, TAGS, ethernet, ipv4, tcp, udp};
use lb_common::{
    answer::{Request, Ways},
    checksum,
    directory_builder::{Entry, Transport},
    flow::flag::{ACK, SYN},
    hash::Keys,
    id::BackendId,
    layout::{Affinity, BackendRecord, FAMILY_V4, FULLNAT, Kind, PoolRange, Slot, Way},
    network::mapped,
    tables::MemoryTables,
    verdict::{DropReason, Outcome, Verdict},
};
use packets::{addresses, assert_right, ether_type, from, packet, sealed, shape};
use proptest::prelude::*;
use through::{HEADROOM, run_with};

const BACKEND_PORT: u16 = 8080;
const FIRST_PORT: u16 = 1024;
const WAY: Way = Way { macs: [1, 2, 3], ifindex: 9, mtu: 1500 };

/// VIP and client of a family, backend and pool of the other.
struct Hosts {
    vip: Vec<u8>,
    client: Vec<u8>,
    backend: Vec<u8>,
    pool: Vec<u8>,
}

fn v6(text: &str) -> Vec<u8> {
    text.parse::<Ipv6Addr>().unwrap().octets().to_vec()
}

fn hosts(vip_is_v4: bool) -> Hosts {
    if vip_is_v4 {
        let [vip, client] = [[203, 0, 113, 10], [192, 0, 2, 1]].map(Vec::from);
        Hosts { vip, client, backend: v6("fd00::11"), pool: v6("fd00::2") }
    } else {
        let [backend, pool] = [[10, 0, 0, 11], [10, 0, 0, 2]].map(Vec::from);
        Hosts { vip: v6("2001:db8::10"), client: v6("2001:db8::1"), backend, pool }
    }
}

fn wide(address: &[u8]) -> [u8; 16] {
    match <[u8; 4]>::try_from(address) {
        Ok(address) => mapped(address),
        Err(_) => address.try_into().unwrap(),
    }
}

/// TCP port 80 to the backend's 8080, and any UDP port, by a VIP of each family.
fn tables() -> MemoryTables {
    let mut services = Vec::new();
    for vip_is_v4 in [true, false] {
        let vip = IpAddr::from(Ipv6Addr::from(wide(&hosts(vip_is_v4).vip))).to_canonical();
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
    tables.now = 1000;
    for (index, service) in services.iter().enumerate() {
        let id = BackendId(index as u32 + 1);
        tables.slots[7 * index..7 * (index + 1)].fill(Slot::stable(id));
        let hosts = hosts(service.vip.is_ipv4());
        tables.pools.push(wide(&hosts.pool));
        let (vip, address) = (wide(&hosts.vip), wide(&hosts.backend));
        let kind =
            if service.vip.is_ipv4() { Kind::FullnatToIpv6 } else { Kind::FullnatToIpv4 } as u8;
        let mut record = BackendRecord {
            kind,
            resolved: 1,
            alive: 1,
            generation: 1,
            macs: MACS,
            address,
            port: if service.port.is_some() { BACKEND_PORT } else { 0 },
            outer_sum: checksum::address_difference(&vip, &address),
            ..BackendRecord::VACANT
        };
        record.set_destination();
        let first = index as u8;
        record.set_fullnat(PoolRange { first, count: 1, first_port: FIRST_PORT, ports: 64 }, &vip);
        record.set_mtu_across(1500);
        tables.set_backend(id, record);
    }
    tables
}

/// Ways to clients of a family alone.
struct To {
    is_v4: bool,
    mtu: u32,
}

impl Ways for To {
    fn way(&self, request: Request<'_>) -> Result<Way, DropReason> {
        assert_eq!(request.family == FAMILY_V4, self.is_v4, "the client's family is asked for");
        assert_eq!(*request.source, wide(&hosts(self.is_v4).vip));
        Ok(Way { mtu: self.mtu, ..WAY })
    }
}

struct Scene {
    tables: MemoryTables,
    hosts: Hosts,
    vip_is_v4: bool,
    tags: &'static [u8],
    mtu: u32,
}

impl Scene {
    fn new(vip_is_v4: bool) -> Self {
        let (tables, hosts) = (tables(), hosts(vip_is_v4));
        Self { tables, hosts, vip_is_v4, tags: &[], mtu: WAY.mtu }
    }

    /// What becomes of a packet, with its link header.
    fn run_whole(&self, sent: &[u8]) -> (Outcome, Vec<u8>) {
        let frame = ethernet(self.tags, ether_type(sent[0] >> 4 == 4), sent);
        self.run_behind(HEADROOM, &frame)
    }

    fn run_behind(&self, headroom: usize, frame: &[u8]) -> (Outcome, Vec<u8>) {
        let ways = To { is_v4: self.vip_is_v4, mtu: self.mtu };
        run_with(&self.tables, frame, headroom, &ways)
    }

    /// The same without.
    fn run(&self, sent: &[u8]) -> (Outcome, Vec<u8>) {
        let (outcome, frame) = self.run_whole(sent);
        (outcome, frame[14 + self.tags.len()..].to_vec())
    }

    fn refuses(&self, sent: &[u8], reason: DropReason) {
        let (outcome, _) = self.run(sent);
        assert_eq!((outcome.verdict, outcome.reason), (Verdict::Drop, Some(reason)));
    }

    fn sent_by_client(&self, protocol: u8, payload: &[u8]) -> Vec<u8> {
        packet(self.vip_is_v4, &self.hosts.client, &self.hosts.vip, protocol, payload)
    }

    fn to_backend(&self, protocol: u8, payload: &[u8]) -> Vec<u8> {
        packet(!self.vip_is_v4, &self.hosts.pool, &self.hosts.backend, protocol, payload)
    }

    fn sent_by_backend(&self, protocol: u8, payload: &[u8]) -> Vec<u8> {
        packet(!self.vip_is_v4, &self.hosts.backend, &self.hosts.pool, protocol, payload)
    }

    fn to_client(&self, protocol: u8, payload: &[u8]) -> Vec<u8> {
        packet(self.vip_is_v4, &self.hosts.vip, &self.hosts.client, protocol, payload)
    }

    /// Begins a connection from port 4711.
    fn open(self) -> Self {
        let (outcome, _) = self.run(&self.sent_by_client(6, &tcp(4711, 80, SYN, b"")));
        assert_eq!(outcome.verdict, Verdict::Transmit);
        self
    }
}

/// The packet with another identification and flags, with a right checksum: as RFC 7915 has it, where
/// it is IPv4's.
fn identified(mut packet: Vec<u8>, like: &[u8]) -> Vec<u8> {
    if packet[0] >> 4 == 4 {
        packet[4..6].copy_from_slice(&like[4..6]);
        packet[6] = if packet.len() > 1260 { 0x40 } else { 0 };
        let source = packet[12..16].to_vec();
        return from(packet, &source);
    }
    packet
}

/// Whether that is what became of a packet.
#[track_caller]
fn assert_same(became: &[u8], expected: Vec<u8>) {
    assert_right(became, "as it left");
    assert_eq!(became, identified(expected, became));
}

#[test]
fn packets_go_out_and_answers_come_back() {
    for vip_is_v4 in [true, false] {
        for (tags, protocol) in [(0, 6), (1, 6), (2, 6), (0, 17), (2, 17)] {
            let scene = Scene { tags: &TAGS[..4 * tags], ..Scene::new(vip_is_v4) };
            let link = 14 + 4 * tags;
            let (own, service) = if protocol == 6 { (BACKEND_PORT, 80) } else { (5353, 5353) };
            let payload = |source, destination, flags, data: &[u8]| match protocol {
                6 => tcp(source, destination, flags, data),
                _ => udp(source, destination, data),
            };
            for (turn, flags) in [(0, SYN), (1, ACK), (2, ACK)] {
                let sent = scene.sent_by_client(protocol, &payload(4711, service, flags, b"hello"));
                let (outcome, frame) = scene.run_whole(&sent);
                assert_eq!((outcome.verdict, outcome.reason), (Verdict::Transmit, None));
                assert!(!outcome.is_answer);
                assert_eq!(outcome.opens, protocol == 6 && turn == 0);
                assert_eq!(outcome.bytes as usize, link + sent.len());
                assert_eq!(frame[..12], MACS);
                assert_eq!(frame[12..link - 2], *scene.tags);
                assert_eq!(frame[link - 2..link], ether_type(!vip_is_v4).to_be_bytes());
                let out = payload(FIRST_PORT, own, flags, b"hello");
                assert_same(&frame[link..], scene.to_backend(protocol, &out));

                let back = payload(own, FIRST_PORT, flags | ACK, b"answer!");
                let (outcome, frame) = scene.run_whole(&scene.sent_by_backend(protocol, &back));
                assert_eq!((outcome.verdict, outcome.egress_ifindex), (Verdict::Redirect, 9));
                assert!(outcome.is_answer);
                let macs: Vec<u8> = WAY.macs.iter().flat_map(|word| word.to_ne_bytes()).collect();
                assert_eq!(frame[..12], macs);
                assert_eq!(frame[12..link - 2], *scene.tags);
                assert_eq!(frame[link - 2..link], ether_type(vip_is_v4).to_be_bytes());
                let back = payload(service, 4711, flags | ACK, b"answer!");
                assert_same(&frame[link..], scene.to_client(protocol, &back));
            }
        }
    }
}

/// RFC 7915 section 5.1: what is no longer than any link's least may be fragmented, and has an
/// identification; an atomic fragment says which.
#[test]
fn ipv4_packets_are_identified() {
    let scene = Scene::new(false).open();
    let mut seen = std::collections::BTreeSet::new();
    for (len, flags) in [(1260, 0), (1261, 0x40)] {
        let sent = scene.sent_by_client(6, &tcp(4711, 80, ACK, &vec![7; len - 40]));
        let (_, became) = scene.run(&sent);
        assert_eq!((became.len(), became[6], became[7]), (len, flags, 0));
        // Another flow, another one.
        scene.run(&scene.sent_by_client(6, &tcp(4712, 80, SYN, b"")));
        seen.insert([became[4], became[5]]);
    }
    assert_eq!(seen.len(), 2);

    let whole = scene.sent_by_client(6, &tcp(4711, 80, ACK, &[7; 1300]));
    let mut sent = whole.clone();
    sent[6] = 44;
    let len = (whole.len() - 40 + 8) as u16;
    sent[4..6].copy_from_slice(&len.to_be_bytes());
    sent.splice(40..40, [6, 0, 0, 0, 0xab, 0xcd, 0x12, 0x34]);
    let (outcome, became) = scene.run(&sent);
    assert_eq!(outcome.verdict, Verdict::Transmit);
    assert_right(&became, "atomic");
    assert_eq!((became.len(), &became[4..8]), (1340, &[0x12, 0x34, 0, 0][..]));
    // More are to come.
    sent[43] = 1;
    scene.refuses(&sent, DropReason::Fragment);
}

/// RFC 7915 section 4.1: options are left out, unless they say by which hosts the packet goes.
#[test]
fn options_are_left_out() {
    let scene = Scene::new(true).open();
    let segment = tcp(4711, 80, ACK, b"data");
    let with = |options: &[u8]| sealed(ipv4([203, 0, 113, 10], 6, options, &segment));
    let expected = scene.to_backend(6, &tcp(FIRST_PORT, BACKEND_PORT, ACK, b"data"));
    for options in [
        &[1, 1, 1, 1][..],
        &[7, 7, 4, 0, 0, 0, 0, 0],
        &[1; 40],
        // Routes that have ended.
        &[131, 7, 8, 10, 0, 0, 1, 0],
        &[1, 137, 7, 8, 10, 0, 0, 1],
        // No option at all.
        &[9, 0, 0, 0],
        &[9, 255, 131, 3],
        &[0, 131, 7, 4, 10, 0, 0, 1],
    ] {
        let (outcome, became) = scene.run(&with(options));
        assert_eq!((outcome.verdict, outcome.reason), (Verdict::Transmit, None), "{options:?}");
        assert_eq!(became, expected);
    }
    for options in [
        &[131, 7, 4, 10, 0, 0, 1, 0][..],
        &[1, 137, 7, 4, 10, 0, 0, 1],
        &[1, 1, 1, 1, 7, 3, 4, 131, 7, 4, 10, 0, 0, 1, 0, 0],
    ] {
        scene.refuses(&with(options), DropReason::SourceRoute);
    }
}

/// RFC 7915 section 4.5: IPv6 has no datagrams without a checksum.
#[test]
fn missing_checksums_are_made_up_for() {
    let mut scene = Scene::new(true);
    for len in (0..70).chain([1000, 1452]) {
        let data: Vec<u8> = (0..len).map(|at| (at * 37 + 5) as u8).collect();
        let sent = ipv4([203, 0, 113, 10], 17, &[], &udp(4711, 53, &data));
        let (outcome, became) = scene.run(&sent);
        assert_eq!((outcome.verdict, outcome.reason), (Verdict::Transmit, None), "{len}");
        assert_same(&became, scene.to_backend(17, &udp(FIRST_PORT, 53, &data)));
    }
    // One that comes out as 0 is sent as its other form.
    let rest = scene.to_backend(17, &udp(FIRST_PORT, 53, &[0, 0]));
    let rest = &rest[46..48];
    let (_, became) = scene.run(&ipv4([203, 0, 113, 10], 17, &[], &udp(4711, 53, rest)));
    assert_eq!(became[46..48], [0xff, 0xff]);
    assert_right(&became, "zero");

    let record = scene.tables.backend_mut(BackendId(2));
    record.set_mtu_across(u16::MAX);
    let long = ipv4([203, 0, 113, 10], 17, &[], &udp(4711, 53, &[1; 4096 - 8]));
    assert_right(&scene.run(&long).1, "long");
    let longer = ipv4([203, 0, 113, 10], 17, &[], &udp(4711, 53, &[1; 4097 - 8]));
    scene.refuses(&longer, DropReason::Unsummed);

    let scene = Scene::new(false);
    let mut sent = scene.sent_by_client(17, &udp(4711, 53, b"x"));
    scene.run(&sent);
    sent[46..48].fill(0);
    scene.refuses(&sent, DropReason::Unsummed);
    // Answers, too.
    let scene = Scene::new(true);
    scene.run(&scene.sent_by_client(17, &udp(4711, 53, b"x")));
    let mut sent = scene.sent_by_backend(17, &udp(53, FIRST_PORT, b"x"));
    assert!(scene.run(&sent).0.is_answer);
    sent[46..48].fill(0);
    scene.refuses(&sent, DropReason::Unsummed);
}

/// Who sent what doesn't fit is told how long it may be: in the length that it has there.
#[test]
fn both_sides_are_told_of_packets_that_are_too_long() {
    for vip_is_v4 in [true, false] {
        let scene = Scene { mtu: 1400, ..Scene::new(vip_is_v4) }.open();
        // Backend and client are as far as 1500 and 1400 bytes.
        for (of_client, limit) in [(true, 1500), (false, 1400)] {
            let is_v4 = of_client == vip_is_v4;
            let own_limit: u32 = if is_v4 { limit - 20 } else { limit + 20 };
            let header_len = if is_v4 { 40 } else { 60 };
            let of_len = |len: u32, whole: bool| {
                let data = vec![7; len as usize - header_len];
                let mut sent = match of_client {
                    true => scene.sent_by_client(6, &tcp(4711, 80, ACK, &data)),
                    false => scene.sent_by_backend(6, &tcp(BACKEND_PORT, FIRST_PORT, ACK, &data)),
                };
                if is_v4 && whole {
                    sent[6] = 0x40;
                    let source = sent[12..16].to_vec();
                    sent = from(sent, &source);
                }
                sent
            };
            let (outcome, became) = scene.run(&of_len(own_limit, true));
            assert_eq!((outcome.reason, became.len() as u32), (None, limit));
            let sent = of_len(own_limit + 1, true);
            let (outcome, error) = scene.run(&sent);
            assert_eq!(outcome.verdict, Verdict::Transmit);
            assert_right(&error, "too long");
            let at = shape(&error).0;
            let what = if is_v4 { [3, 4] } else { [2, 0] };
            assert_eq!(error[at..at + 2], what);
            assert_eq!(error[at + 4..at + 8], own_limit.to_be_bytes());
            assert_eq!(error[at + 8..], sent[..at + 8]);
            let (ours, theirs) = match of_client {
                true => (&scene.hosts.vip, &scene.hosts.client),
                false => (&scene.hosts.pool, &scene.hosts.backend),
            };
            assert_eq!(addresses(&error), [&ours[..], theirs].concat());
            if is_v4 {
                scene.refuses(&of_len(own_limit + 1, false), DropReason::TooBig);
            }
        }
    }
}

/// An error about a packet, quoting so much of it, with zeros where the checksum is.
fn error(what: [u8; 2], rest: u32, quoted: &[u8]) -> Vec<u8> {
    [&[what[0], what[1], 0, 0], &rest.to_be_bytes()[..], quoted].concat()
}

/// The quoted header as the balancer writes it: IPv4's identification is its own affair.
fn quoted(whole: Vec<u8>, like: &[u8], len: usize) -> Vec<u8> {
    let at = shape(like).0 + 8;
    let whole = identified(whole, &like[at..]);
    let header_len = shape(&whole).0;
    whole[..header_len + len].to_vec()
}

#[test]
fn icmp_errors_are_told_in_the_other_familys_words() {
    // By IPv4 and by IPv6: port unreachable, too big, time exceeded.
    let same = [
        (([3, 3], 0), ([1, 4], 0)),
        (([3, 4], 1400), ([2, 0], 1420)),
        (([11, 0], 0), ([3, 0], 0)),
        (([12, 0], 8 << 24), ([4, 0], 7)),
    ];
    for vip_is_v4 in [true, false] {
        let scene = Scene::new(vip_is_v4).open();
        let Hosts { vip, client, backend, pool } = &scene.hosts;
        let router = |is_v4: bool| if is_v4 { vec![198, 51, 100, 7] } else { v6("2001:db8:7::7") };
        let control = |is_v4: bool| if is_v4 { 1 } else { 58 };
        for ((v4, v6), len) in same.into_iter().flat_map(|one| [(one, 8), (one, 20), (one, 37)]) {
            let said = |is_v4: bool, quoted: &[u8]| {
                let (what, rest) = if is_v4 { v4 } else { v6 };
                error(what, rest, quoted)
            };
            let data = [9; 30];
            // About what a client sent: from the backend, and from a router before it.
            let is_v4 = !vip_is_v4;
            let forwarded = scene.to_backend(6, &tcp(FIRST_PORT, BACKEND_PORT, ACK, &data));
            let forwarded = &forwarded[..shape(&forwarded).0 + len];
            for source in [backend, &router(is_v4)] {
                let sent = packet(is_v4, source, pool, control(is_v4), &said(is_v4, forwarded));
                let (outcome, became) = scene.run(&sent);
                assert!(outcome.is_answer, "{outcome:?}");
                assert_right(&became, "about what a client sent");
                let about = scene.sent_by_client(6, &tcp(4711, 80, ACK, &data));
                let about = quoted(about, &became, len);
                let expected =
                    packet(vip_is_v4, vip, client, control(vip_is_v4), &said(vip_is_v4, &about));
                assert_eq!(became, identified(expected, &became));
            }
            // About an answer: from the client, and from a router before it.
            let answer = scene.to_client(6, &tcp(80, 4711, ACK, &data));
            let answer = &answer[..shape(&answer).0 + len];
            for source in [client, &router(vip_is_v4)] {
                let sent =
                    packet(vip_is_v4, source, vip, control(vip_is_v4), &said(vip_is_v4, answer));
                let (outcome, became) = scene.run(&sent);
                assert_eq!((outcome.verdict, outcome.reason), (Verdict::Transmit, None));
                assert!(!outcome.is_answer);
                let about = scene.sent_by_backend(6, &tcp(BACKEND_PORT, FIRST_PORT, ACK, &data));
                let about = quoted(about, &became, len);
                let expected = packet(is_v4, pool, backend, control(is_v4), &said(is_v4, &about));
                assert_eq!(became, identified(expected, &became));
            }
        }
        // What has no words there.
        let forwarded = scene.to_backend(6, &tcp(FIRST_PORT, BACKEND_PORT, ACK, b""));
        let what = if vip_is_v4 { [4, 2] } else { [3, 14] };
        let sent = error(what, 0, &forwarded);
        scene.refuses(
            &scene.sent_by_backend(control(!vip_is_v4), &sent),
            DropReason::Untranslatable,
        );
        // What is no error, or about nothing that is known, is the host's.
        let stranger = scene.to_backend(6, &tcp(FIRST_PORT + 1, BACKEND_PORT, ACK, b""));
        let kind = if vip_is_v4 { 1 } else { 3 };
        for about in [error([kind, 0], 0, &stranger), error([0, 0], 0, &forwarded)] {
            let sent = scene.sent_by_backend(control(!vip_is_v4), &about);
            let (outcome, became) = scene.run(&sent);
            assert_eq!((outcome.verdict, became), (Verdict::Pass, sent));
        }
    }
}

/// A wrong checksum stays wrong, whoever made it.
#[test]
fn nothing_is_healed() {
    for vip_is_v4 in [true, false] {
        let scene = Scene::new(vip_is_v4).open();
        let broken = |mut packet: Vec<u8>, at: usize| {
            let at = shape(&packet).0 + at;
            packet[at] ^= 0x10;
            packet
        };
        let is_wrong =
            |packet: &[u8]| std::panic::catch_unwind(|| assert_right(packet, "")).is_err();
        let sent = scene.sent_by_client(6, &tcp(4711, 80, ACK, b"data"));
        assert!(is_wrong(&scene.run(&broken(sent, 16)).1));
        let forwarded = scene.to_backend(6, &tcp(FIRST_PORT, BACKEND_PORT, ACK, b""));
        let (control, kind) = if vip_is_v4 { (58, 3) } else { (1, 11) };
        let sent = scene.sent_by_backend(control, &error([kind, 0], 0, &forwarded));
        assert!(!is_wrong(&scene.run(&sent).1));
        assert!(is_wrong(&scene.run(&broken(sent, 2)).1));
    }
}

#[test]
fn refusals_have_names() {
    for vip_is_v4 in [true, false] {
        let scene = Scene::new(vip_is_v4).open();
        let sent = scene.sent_by_client(6, &tcp(4711, 80, ACK, b""));
        scene.refuses(&sent[..sent.len() - 1], DropReason::Truncated);
        let frame = ethernet(&[], ether_type(vip_is_v4), &sent);
        let (outcome, _) = scene.run_behind(0, &frame);
        assert_eq!(outcome.reason, vip_is_v4.then_some(DropReason::NoHeadroom));

        let mut scene = scene;
        let id = BackendId(if vip_is_v4 { 1 } else { 3 });
        let record = scene.tables.backend_mut(id);
        record.kind = if vip_is_v4 { Kind::FullnatToIpv4 } else { Kind::FullnatToIpv6 } as u8;
        scene.refuses(&sent, DropReason::Inconsistent);
    }
}

proptest! {
    /// There and back again is the packet itself but for what IPv4 alone has, and each checksum is
    /// right on the way.
    #[test]
    fn forward_and_back_is_the_same(
        vip_is_v4: bool,
        is_tcp: bool,
        port in 1..=u16::MAX,
        other_port in 1..=u16::MAX,
        data in proptest::collection::vec(any::<u8>(), 0..1400),
    ) {
        let scene = Scene::new(vip_is_v4);
        let service_port = if is_tcp { 80 } else { other_port };
        let payload = |source, destination| match is_tcp {
            true => tcp(source, destination, ACK, &data),
            false => udp(source, destination, &data),
        };
        let protocol = if is_tcp { 6 } else { 17 };
        let (outcome, became) = scene.run(&scene.sent_by_client(protocol, &payload(port, service_port)));
        prop_assert_eq!((outcome.verdict, outcome.reason), (Verdict::Transmit, None));
        let backend_port = if is_tcp { BACKEND_PORT } else { other_port };
        assert_same(&became, scene.to_backend(protocol, &payload(FIRST_PORT, backend_port)));
        let answer = scene.sent_by_backend(protocol, &payload(backend_port, FIRST_PORT));
        let (outcome, became) = scene.run(&answer);
        prop_assert!(outcome.is_answer);
        assert_same(&became, scene.to_client(protocol, &payload(service_port, port)));
    }

    /// Nothing that comes breaks anything.
    #[test]
    fn any_bytes(
        bytes in proptest::collection::vec(any::<u8>(), 0..200),
        vip_is_v4: bool,
        is_v4: bool,
        to_us in 0..3usize,
        protocol in 0..4usize,
    ) {
        let scene = Scene::new(vip_is_v4).open();
        let mut sent = bytes;
        if sent.len() > 80 {
            let protocol = [6, 17, 1, 58][protocol];
            if is_v4 {
                sent[0] = 0x40 | sent[0] & 0xf;
                sent[9] = protocol;
            } else {
                sent[0] = 0x60 | sent[0] & 0xf;
                sent[6] = protocol;
            }
            let Hosts { vip, pool, .. } = &scene.hosts;
            let at = if is_v4 { 16 } else { 24 };
            if let Some(to) = [vip, pool].get(to_us) && (to.len() == 4) == is_v4 {
                sent[at..at + to.len()].copy_from_slice(to);
            }
        } else {
            sent.resize(1, 0);
        }
        scene.run(&sent);
    }
}

/// A flow lives with its backend, whichever family the ring has by now.
#[test]
fn flows_stay_where_backends_of_both_families_serve() {
    for (vip_is_v4, first_is_across) in [(true, true), (true, false), (false, true), (false, false)]
    {
        let mut scene = Scene::new(vip_is_v4);
        let across = BackendId(if vip_is_v4 { 1 } else { 3 });
        let same = BackendId(9);
        let kind = if vip_is_v4 { Kind::FullnatIpv4 } else { Kind::FullnatIpv6 } as u8;
        let own = hosts(!vip_is_v4);
        let (vip, address) = (wide(&scene.hosts.vip), wide(&own.backend));
        let mut record = BackendRecord {
            kind,
            service: across.0,
            resolved: 1,
            alive: 1,
            generation: 1,
            macs: MACS,
            address,
            mtu: 1500,
            port: BACKEND_PORT,
            outer_sum: checksum::address_difference(&vip, &address),
            ..BackendRecord::VACANT
        };
        record.set_destination();
        let first = if vip_is_v4 { 2 } else { 0 };
        record.set_fullnat(PoolRange { first, count: 1, first_port: FIRST_PORT, ports: 64 }, &vip);
        scene.tables.set_backend(same, record);
        let start = 7 * (across.0 as usize - 1);
        let owners = if first_is_across { [across, same] } else { [same, across] };
        for (owner, flags) in [(owners[0], SYN), (owners[0], ACK), (owners[1], ACK)] {
            scene.tables.slots[start..start + 7].fill(Slot::stable(owner));
            let (outcome, became) = scene.run(&scene.sent_by_client(6, &tcp(4711, 80, flags, b"")));
            assert_eq!((outcome.reason, outcome.backend), (None, owners[0]));
            assert_eq!(became[0] >> 4 == 4, vip_is_v4 != first_is_across);
            assert_right(&became, "to who has the flow");
        }
    }
}

/// Of an error in pieces none becomes a whole one.
#[test]
fn pieces_of_errors_are_none() {
    let scene = Scene::new(false).open();
    let forwarded = scene.to_backend(6, &tcp(FIRST_PORT, BACKEND_PORT, ACK, &[9; 30]));
    let Hosts { backend, pool, .. } = &scene.hosts;
    for fragment in [[0x20, 0], [0, 5]] {
        let mut sent = packet(true, backend, pool, 1, &error([3, 3], 0, &forwarded));
        sent[6..8].copy_from_slice(&fragment);
        scene.refuses(&from(sent, backend), DropReason::Fragment);
    }
}

/// Behind a checksum that was made up nobody would find the damage.
#[test]
fn damaged_headers_get_no_new_checksum() {
    let scene = Scene::new(true);
    for options in [&[][..], &[1; 8]] {
        let sent = ipv4([203, 0, 113, 10], 17, options, &udp(4711, 53, b"data"));
        let mut sent = from(sent, &scene.hosts.client);
        let checksum = 20 + options.len() + 6;
        sent[checksum..checksum + 2].fill(0);
        assert_eq!(scene.run(&sent).0.verdict, Verdict::Transmit);
        sent[10] ^= 0x55;
        scene.refuses(&sent, DropReason::Malformed);
    }
}
