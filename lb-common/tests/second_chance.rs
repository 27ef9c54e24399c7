//! A backend's choice between its own sockets and another backend's, on the host.

#[expect(dead_code, reason = "other tests build more")]
mod frames;

use std::cell::RefCell;

use frames::{TAGS, ethernet, ipv4, ipv6, tcp, udp};
use lb_common::{
    checksum,
    decapsulate::{Decapsulation, Endpoints, decapsulate},
    layout::NextHop,
    network::{Address, Network, mapped},
    packet::{Buffer, Packet},
    rewrite::GUE_PORT,
    tables::MemoryBuffer,
    verdict::DropReason,
};
use proptest::prelude::*;

const ACK: u8 = 0x10;
const SYN: u8 = 0x02;
const VIP4: [u8; 4] = [203, 0, 113, 10];
const VIP6: Address = [0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x10];
const MACS: [u8; 12] = [2, 0, 0, 0, 0, 0x22, 2, 0, 0, 0, 0, 0x11];
const EGRESS: u32 = 9;

/// Host 11 is the one that decapsulates; 12 and 13 are others.
fn host(outer_is_ipv4: bool, last: u8) -> Address {
    match outer_is_ipv4 {
        true => mapped([10, 0, 0, last]),
        false => [0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, last],
    }
}

/// Where [`ipv4`] and [`ipv6`] say that packets come from.
fn sender(outer_is_ipv4: bool) -> Address {
    if outer_is_ipv4 { mapped([192, 0, 2, 1]) } else { host(false, 1) }
}

/// Source, destination, and both ports.
type Connection = (Address, Address, [u8; 4]);

struct MemoryEndpoints {
    local: Vec<Address>,
    /// Whether the host has every connection, or none.
    has_connection: bool,
    way: NextHop,
    /// Connections and ways that were asked for.
    asked: RefCell<(Vec<Connection>, Vec<Address>)>,
}

impl MemoryEndpoints {
    fn new() -> Self {
        Self {
            local: vec![host(true, 11), host(false, 11)],
            has_connection: false,
            way: NextHop { ifindex: EGRESS, mtu: 1500, macs: MACS, used: 0 },
            asked: RefCell::default(),
        }
    }
}

impl Endpoints for MemoryEndpoints {
    fn is_local(&self, address: &Address) -> bool {
        self.local.contains(address)
    }

    fn is_balancer(&self, address: &Address) -> bool {
        [sender(true), sender(false)].contains(address)
    }

    fn has_connection<N: Network, B: Buffer>(
        &self,
        packet: &Packet<B>,
        at: usize,
        tcp_at: usize,
    ) -> bool {
        let header = N::read(packet, at).expect("a network header");
        let ports = packet.read(tcp_at).expect("a TCP header");
        let segment = (header.source_address(), header.destination_address(), ports);
        self.asked.borrow_mut().0.push(segment);
        self.has_connection
    }

    fn next_hop(&self, address: &Address) -> NextHop {
        self.asked.borrow_mut().1.push(*address);
        self.way
    }
}

/// A packet in GUE with private data.
#[derive(Clone, Debug)]
struct Sent {
    outer_is_ipv4: bool,
    inner: Vec<u8>,
    private: Vec<u8>,
}

impl Sent {
    /// A segment with candidates 12 and 13 of the outer family, of which one is next.
    fn new(outer_is_ipv4: bool, inner_is_ipv4: bool, next: u8) -> Self {
        let inner = segment(inner_is_ipv4, ACK);
        let private = private(outer_is_ipv4, &[12, 13], next);
        Self { outer_is_ipv4, inner, private }
    }

    fn frame(&self, tags: &[u8]) -> Vec<u8> {
        let protocol = if self.inner[0] >> 4 == 4 { 4 } else { 41 };
        let words = (self.private.len() / 4) as u8;
        let gue = [&[words, protocol, 0, 0], &self.private[..], &self.inner].concat();
        let datagram = udp(0xc001, GUE_PORT, &gue);
        match self.outer_is_ipv4 {
            true => {
                let mut packet = ipv4([10, 0, 0, 11], 17, &[], &datagram);
                // Nothing that would be carried inward.
                packet[1] = 0;
                set_checksum(&mut packet);
                ethernet(tags, 0x0800, &packet)
            }
            false => {
                let mut packet = ipv6(host(false, 11), 17, &datagram);
                packet[1] &= 0x0f;
                ethernet(tags, 0x86dd, &packet)
            }
        }
    }
}

fn set_checksum(packet: &mut [u8]) {
    packet[10..12].fill(0);
    let sum = !checksum::sum(&packet[..20]);
    packet[10..12].copy_from_slice(&sum.to_be_bytes());
}

fn segment(is_ipv4: bool, flags: u8) -> Vec<u8> {
    let segment = tcp(4711, 80, flags, b"data");
    if is_ipv4 { ipv4(VIP4, 6, &[1, 1, 1, 0], &segment) } else { ipv6(VIP6, 6, &segment) }
}

fn private(outer_is_ipv4: bool, candidates: &[u8], next: u8) -> Vec<u8> {
    let len = if outer_is_ipv4 { 4 } else { 16 };
    let mut data = vec![1, candidates.len() as u8, next, 0];
    for &last in candidates {
        data.extend(&host(outer_is_ipv4, last)[16 - len..]);
    }
    data.resize(4 + 2 * len, 0);
    data
}

fn run(endpoints: &MemoryEndpoints, frame: &[u8]) -> (Result<Decapsulation, DropReason>, Vec<u8>) {
    let mut buffer = MemoryBuffer::new(frame, 0, 1);
    let result = decapsulate(Packet::new(&mut buffer), endpoints);
    (result, buffer.frame())
}

fn families() -> impl Iterator<Item = (bool, bool)> {
    [(true, true), (true, false), (false, true), (false, false)].into_iter()
}

/// That the packet is handed to this host's stack.
fn delivered(endpoints: &MemoryEndpoints, sent: &Sent) -> bool {
    let (result, out) = run(endpoints, &sent.frame(&[]));
    if !matches!(result, Ok(Decapsulation::Inner { .. })) {
        return false;
    }
    assert_eq!(out[14..], sent.inner);
    true
}

#[test]
fn a_stranger_goes_on_to_the_next_candidate() {
    for (outer_is_ipv4, inner_is_ipv4) in families() {
        for (next, candidate) in [(0, 12), (1, 13)] {
            for tags in [&TAGS[..0], &TAGS[..4], &TAGS] {
                let endpoints = MemoryEndpoints::new();
                let sent = Sent::new(outer_is_ipv4, inner_is_ipv4, next);
                let mut frame = sent.frame(tags);
                let (result, out) = run(&endpoints, &frame);
                assert_eq!(result, Ok(Decapsulation::SentOn { ifindex: EGRESS }), "{sent:?}");

                // The same frame, but for MACs, destination, one hop and the number of the next.
                let ip = 14 + tags.len();
                frame[..12].copy_from_slice(&MACS);
                let gue = match outer_is_ipv4 {
                    true => {
                        frame[ip + 16..ip + 20].copy_from_slice(&[10, 0, 0, candidate]);
                        frame[ip + 8] -= 1;
                        set_checksum(&mut frame[ip..]);
                        ip + 28
                    }
                    false => {
                        frame[ip + 24..ip + 40].copy_from_slice(&host(false, candidate));
                        frame[ip + 7] -= 1;
                        ip + 48
                    }
                };
                frame[gue + 4 + 2] = next + 1;
                assert_eq!(out, frame, "{sent:?}");

                let asked = endpoints.asked.into_inner();
                let (source, vip) = match inner_is_ipv4 {
                    true => (sender(true), mapped(VIP4)),
                    false => (sender(false), VIP6),
                };
                assert_eq!(asked.0, [(source, vip, [0x12, 0x67, 0, 80])]);
                // The one behind it, too, so that it is known here when it is the next one.
                let left = (candidate..=13).map(|last| host(outer_is_ipv4, last));
                assert_eq!(asked.1, left.collect::<Vec<_>>());
            }
        }
    }
}

#[test]
fn who_has_the_connection_keeps_it_and_asks_for_the_ways() {
    for (outer_is_ipv4, inner_is_ipv4) in families() {
        let endpoints = MemoryEndpoints { has_connection: true, ..MemoryEndpoints::new() };
        assert!(delivered(&endpoints, &Sent::new(outer_is_ipv4, inner_is_ipv4, 0)));
        assert_eq!(endpoints.asked.into_inner().1, [12, 13].map(|last| host(outer_is_ipv4, last)));
    }
}

#[test]
fn the_last_one_takes_everything() {
    for (outer_is_ipv4, inner_is_ipv4) in families() {
        let endpoints = MemoryEndpoints::new();
        assert!(delivered(&endpoints, &Sent::new(outer_is_ipv4, inner_is_ipv4, 2)));
        assert_eq!(endpoints.asked.into_inner(), (vec![], vec![]));
    }
}

#[test]
fn this_hosts_other_addresses_are_left_out() {
    for (outer_is_ipv4, inner_is_ipv4) in families() {
        let mut endpoints = MemoryEndpoints::new();
        endpoints.local.push(host(outer_is_ipv4, 12));
        let sent = Sent::new(outer_is_ipv4, inner_is_ipv4, 0);
        assert!(!delivered(&endpoints, &sent));
        assert_eq!(endpoints.asked.take().1, [host(outer_is_ipv4, 13)]);
        endpoints.local.push(host(outer_is_ipv4, 13));
        assert!(delivered(&endpoints, &sent));
    }
}

#[test]
fn what_no_socket_can_tell_of_stays() {
    for (outer_is_ipv4, inner_is_ipv4) in families() {
        let endpoints = MemoryEndpoints::new();
        let sent = Sent::new(outer_is_ipv4, inner_is_ipv4, 0);
        let with = |inner: Vec<u8>| Sent { inner, ..sent.clone() };
        assert!(delivered(&endpoints, &with(segment(inner_is_ipv4, SYN))), "a SYN");
        assert!(!delivered(&endpoints, &with(segment(inner_is_ipv4, SYN | ACK))));
        assert!(!delivered(&endpoints, &with(segment(inner_is_ipv4, 0x04))), "a RST");
        let datagram = udp(1, 53, b"query");
        let short = &tcp(4711, 80, ACK, &[])[..19];
        let (query, short) = match inner_is_ipv4 {
            true => (ipv4(VIP4, 17, &[], &datagram), ipv4(VIP4, 6, &[], short)),
            false => (ipv6(VIP6, 17, &datagram), ipv6(VIP6, 6, short)),
        };
        assert!(delivered(&endpoints, &with(query)), "UDP");
        assert!(delivered(&endpoints, &with(short)), "less than a TCP header");
        let fragment = if inner_is_ipv4 {
            let mut packet = segment(true, ACK);
            packet[6] = 0x20;
            packet
        } else {
            ipv6(VIP6, 44, &[&[6, 0, 0, 1, 0, 0, 0, 9], &tcp(4711, 80, ACK, &[])[..]].concat())
        };
        assert!(delivered(&endpoints, &with(fragment)), "a fragment");
    }
}

#[test]
fn what_can_not_go_on_is_refused_untouched() {
    for (outer_is_ipv4, inner_is_ipv4) in families() {
        let sent = Sent::new(outer_is_ipv4, inner_is_ipv4, 0);
        let refused = |endpoints: &MemoryEndpoints, frame: &[u8]| {
            let (result, out) = run(endpoints, frame);
            assert_eq!(out, frame);
            result.expect_err("refused")
        };
        let unknown = MemoryEndpoints { way: NextHop::wanted(0), ..MemoryEndpoints::new() };
        assert_eq!(refused(&unknown, &sent.frame(&[])), DropReason::CandidateUnresolved);
        let mut narrow = MemoryEndpoints::new();
        narrow.way.mtu = sent.frame(&[]).len() as u32 - 14;
        assert!(run(&narrow, &sent.frame(&[])).0.is_ok());
        narrow.way.mtu -= 1;
        assert_eq!(refused(&narrow, &sent.frame(&[])), DropReason::TooBig);
        for hops in [0, 1] {
            let mut frame = sent.frame(&[]);
            frame[14 + if outer_is_ipv4 { 8 } else { 7 }] = hops;
            assert_eq!(refused(&MemoryEndpoints::new(), &frame), DropReason::NoHopLeft);
        }
    }
}

#[test]
fn the_checksum_of_udp_is_void_after_it() {
    let sent = Sent::new(true, true, 0);
    let mut frame = sent.frame(&[]);
    frame[14 + 26..14 + 28].copy_from_slice(&[0xab, 0xcd]);
    let (result, out) = run(&MemoryEndpoints::new(), &frame);
    assert!(matches!(result, Ok(Decapsulation::SentOn { .. })));
    assert_eq!(out[14 + 26..14 + 28], [0, 0]);
}

#[test]
fn private_data_of_others_is_skipped() {
    for (outer_is_ipv4, inner_is_ipv4) in families() {
        for private in [vec![0; 4], vec![2, 9, 9, 9, 1, 2, 3, 4], vec![0xff; 124]] {
            let endpoints = MemoryEndpoints::new();
            let sent = Sent { private, ..Sent::new(outer_is_ipv4, inner_is_ipv4, 0) };
            assert!(delivered(&endpoints, &sent), "{sent:?}");
            assert_eq!(endpoints.asked.into_inner(), (vec![], vec![]));
        }
    }
}

#[test]
fn broken_private_data_is_refused() {
    for (outer_is_ipv4, inner_is_ipv4) in families() {
        let refused = |edit: &dyn Fn(&mut Vec<u8>)| {
            let mut sent = Sent::new(outer_is_ipv4, inner_is_ipv4, 0);
            edit(&mut sent.private);
            run(&MemoryEndpoints::new(), &sent.frame(&[])).0.expect_err("refused")
        };
        for (what, reason) in [
            ("more than there is room for", refused(&|private| private[1] = 3)),
            ("past the last", refused(&|private| private[2] = 3)),
            ("a byte that means nothing", refused(&|private| private[3] = 1)),
            ("too short", refused(&|private| private.truncate(private.len() - 4))),
            ("too long", refused(&|private| private.extend([0; 4]))),
        ] {
            assert_eq!(reason, DropReason::BadGue, "{what}");
        }
        let mut longer = Sent::new(outer_is_ipv4, inner_is_ipv4, 0).frame(&[]);
        let gue = 14 + if outer_is_ipv4 { 28 } else { 48 };
        longer[gue] = 31;
        longer[gue + 4] = 9;
        let reason = run(&MemoryEndpoints::new(), &longer).0.expect_err("past the end");
        assert_eq!(reason, DropReason::BadInner);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4096, ..ProptestConfig::default() })]

    /// Whatever a balancer's address sends, the frame is left as it is, uncovered, or sent on as
    /// long as it was.
    #[test]
    fn damaged_frames_have_an_outcome(
        families in (any::<bool>(), any::<bool>()),
        next in 0u8..3,
        tags in 0usize..=2,
        has_connection in any::<bool>(),
        damage in prop::collection::vec((14usize..170, any::<u8>()), 0..4),
        len in 0usize..200,
    ) {
        let mut frame = Sent::new(families.0, families.1, next).frame(&TAGS[..4 * tags]);
        for (at, byte) in damage {
            if let Some(place) = frame.get_mut(at) {
                *place = byte;
            }
        }
        frame.truncate(len);
        let endpoints = MemoryEndpoints { has_connection, ..MemoryEndpoints::new() };
        let (result, out) = run(&endpoints, &frame);
        match result {
            Ok(Decapsulation::SentOn { ifindex }) => {
                prop_assert_eq!(ifindex, EGRESS);
                prop_assert_eq!(out.len(), frame.len());
                prop_assert!(!has_connection);
            }
            Ok(Decapsulation::Inner { bytes }) => prop_assert!(bytes as usize <= out.len()),
            _ => prop_assert_eq!(out, frame),
        }
    }

    /// Hops end: each one has fewer candidates left, and the last delivers.
    #[test]
    fn nothing_goes_round(families in (any::<bool>(), any::<bool>()), count in 0usize..=2) {
        let candidates = &[12, 13][..count];
        let sent = Sent {
            private: private(families.0, candidates, 0),
            ..Sent::new(families.0, families.1, 0)
        };
        let mut frame = sent.frame(&[]);
        let mut hops = 0;
        let mut endpoints = MemoryEndpoints::new();
        while let (Ok(Decapsulation::SentOn { .. }), out) = run(&endpoints, &frame) {
            hops += 1;
            prop_assert!(hops <= count);
            frame = out;
            endpoints.local = vec![host(families.0, [12, 13][hops - 1])];
        }
        prop_assert_eq!(hops, count);
    }
}
