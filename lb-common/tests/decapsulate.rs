//! Decapsulation on the host: every pair of protocols, every reason, and any bytes at all.

#[expect(dead_code, reason = "what is in front of these packets is built here")]
mod frames;

use frames::{TAGS, UDP_DATA, ethernet, ipv4, ipv6, udp};
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

const HOST4: [u8; 4] = [10, 0, 0, 11];
const HOST6: Address = [0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x11];
/// Where [`ipv4`] and [`ipv6`] say that packets come from.
const SENDER4: [u8; 4] = [192, 0, 2, 1];
const SENDER6: Address = [0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
const VIP4: [u8; 4] = [203, 0, 113, 10];
const VIP6: Address = [0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x10];

const IPV4_IN_IP: u8 = 4;
const IPV6_IN_IP: u8 = 41;
const UDP: u8 = 17;
/// Of outer headers that mark nothing: ECN bits 00.
const NOT_ECT: u8 = 0b00;
const CE: u8 = 0b11;

struct MemoryEndpoints {
    local: Vec<Address>,
    balancers: Vec<Address>,
}

impl Endpoints for MemoryEndpoints {
    fn is_local(&self, address: &Address) -> bool {
        self.local.contains(address)
    }

    fn is_balancer(&self, address: &Address) -> bool {
        self.balancers.contains(address)
    }

    fn has_connection<N: Network, B: Buffer>(&self, _: &Packet<B>, _: usize, _: usize) -> bool {
        false
    }

    fn next_hop(&self, _: &Address) -> NextHop {
        NextHop::default()
    }
}

fn endpoints() -> MemoryEndpoints {
    MemoryEndpoints { local: vec![mapped(HOST4), HOST6], balancers: vec![mapped(SENDER4), SENDER6] }
}

/// What is around a packet.
#[derive(Clone, Copy, Debug)]
struct Tunnel {
    outer_is_ipv4: bool,
    gue: bool,
    ecn: u8,
}

impl Tunnel {
    const PLAIN: Self = Self { outer_is_ipv4: true, gue: false, ecn: NOT_ECT };

    fn all() -> impl Iterator<Item = Self> {
        (0..4).map(|bits| Self { outer_is_ipv4: bits & 1 == 0, gue: bits & 2 == 0, ecn: NOT_ECT })
    }

    /// The outer headers' length in bytes.
    fn len(self) -> usize {
        (if self.outer_is_ipv4 { 20 } else { 40 }) + if self.gue { 12 } else { 0 }
    }

    /// The packet with its outer headers.
    fn around(self, inner: &[u8]) -> Vec<u8> {
        let protocol = if inner[0] >> 4 == 4 { IPV4_IN_IP } else { IPV6_IN_IP };
        match self.gue {
            true => {
                let gue = [&[0, protocol, 0, 0], inner].concat();
                self.ip(UDP, &udp(0xc001, GUE_PORT, &gue))
            }
            false => self.ip(protocol, inner),
        }
    }

    fn ip(self, protocol: u8, payload: &[u8]) -> Vec<u8> {
        let mut packet = match self.outer_is_ipv4 {
            true => ipv4(HOST4, protocol, &[], payload),
            false => ipv6(HOST6, protocol, payload),
        };
        set_ecn(&mut packet, self.ecn);
        packet
    }

    fn frame(self, tags: &[u8], inner: &[u8]) -> Vec<u8> {
        ethernet(tags, self.ether_type(), &self.around(inner))
    }

    fn ether_type(self) -> u16 {
        ether_type(self.outer_is_ipv4)
    }
}

fn ether_type(is_ipv4: bool) -> u16 {
    if is_ipv4 { 0x0800 } else { 0x86dd }
}

/// Sets a packet's ECN bits, with a right checksum.
fn set_ecn(packet: &mut [u8], ecn: u8) {
    if packet[0] >> 4 == 6 {
        packet[1] = packet[1] & 0xcf | ecn << 4;
        return;
    }
    packet[1] = packet[1] & 0xfc | ecn;
    packet[10..12].fill(0);
    let header_len = usize::from(packet[0] & 15) * 4;
    let sum = !checksum::sum(&packet[..header_len]);
    packet[10..12].copy_from_slice(&sum.to_be_bytes());
}

/// Packets of both families, with ECN bits.
fn inner(is_ipv4: bool, ecn: u8) -> Vec<u8> {
    let datagram = udp(4711, 53, UDP_DATA);
    let mut packet = match is_ipv4 {
        true => ipv4(VIP4, UDP, &[1, 1, 1, 0], &datagram),
        false => ipv6(VIP6, UDP, &datagram),
    };
    set_ecn(&mut packet, ecn);
    packet
}

fn run(frame: &[u8]) -> (Result<Decapsulation, DropReason>, Vec<u8>) {
    let mut buffer = MemoryBuffer::new(frame, 0, 1);
    let result = decapsulate(Packet::new(&mut buffer), &endpoints());
    (result, buffer.frame())
}

/// The reason why an IP packet is dropped; it must be as it was.
fn refused(packet: &[u8]) -> DropReason {
    let frame = ethernet(&[], ether_type(packet[0] >> 4 == 4), packet);
    let (result, out) = run(&frame);
    assert_eq!(out, frame, "a frame that is refused stays as it is");
    result.expect_err("refused")
}

/// What is found of an IP packet that is left alone.
fn left_alone(packet: &[u8]) -> Decapsulation {
    let frame = ethernet(&[], ether_type(packet[0] >> 4 == 4), packet);
    let (result, out) = run(&frame);
    assert_eq!(out, frame);
    result.expect("not refused")
}

#[test]
fn the_inner_packet_alone_is_left_behind_the_link_header() {
    for tunnel in Tunnel::all() {
        for inner_is_ipv4 in [true, false] {
            for tags in [&TAGS[..0], &TAGS[..4], &TAGS[..]] {
                let inner = inner(inner_is_ipv4, 0b10);
                let (result, out) = run(&tunnel.frame(tags, &inner));
                let expected = ethernet(tags, ether_type(inner_is_ipv4), &inner);
                let bytes = expected.len() as u32;
                assert_eq!(result, Ok(Decapsulation::Inner { bytes }), "{tunnel:?}");
                assert_eq!(out, expected, "{tunnel:?}");
            }
        }
    }
}

#[test]
fn padding_is_not_counted_in() {
    let inner = ipv4(VIP4, UDP, &[], &udp(1, 2, &[]));
    let mut frame = Tunnel::PLAIN.frame(&[], &inner);
    frame.resize(80, 0xee);
    let bytes = 14 + inner.len() as u32;
    assert_eq!(run(&frame).0, Ok(Decapsulation::Inner { bytes }));
}

#[test]
fn outer_options_are_skipped() {
    let inner = inner(true, 0);
    let options = ipv4(HOST4, IPV4_IN_IP, &[7, 7, 4, 0, 0, 0, 0, 0], &inner);
    // An atomic fragment is whole (RFC 6946).
    let atomic = ipv6(HOST6, 44, &[&[IPV4_IN_IP, 0, 0, 0, 0, 0, 0, 9], &inner[..]].concat());
    for (outer_is_ipv4, mut packet) in [(true, options), (false, atomic)] {
        set_ecn(&mut packet, NOT_ECT);
        let (_, out) = run(&ethernet(&[], ether_type(outer_is_ipv4), &packet));
        assert_eq!(out, ethernet(&[], 0x0800, &inner));
    }
}

/// RFC 6040, figure 4; where nothing changes, nothing may.
#[test]
fn congestion_is_carried_inward() {
    for tunnel in Tunnel::all() {
        for inner_is_ipv4 in [true, false] {
            for (outer_ecn, inner_ecn) in (0..4).flat_map(|outer| (0..4).map(move |i| (outer, i))) {
                let expected = match (outer_ecn, inner_ecn) {
                    (CE, NOT_ECT) => None,
                    (CE, _) => Some(CE),
                    (0b01, 0b10) => Some(0b01),
                    (_, ecn) => Some(ecn),
                };
                let packet = inner(inner_is_ipv4, inner_ecn);
                let frame = Tunnel { ecn: outer_ecn, ..tunnel }.frame(&TAGS, &packet);
                let (result, out) = run(&frame);
                let what = format!("{tunnel:?}, outer {outer_ecn:02b}, inner {inner_ecn:02b}");
                let Some(expected) = expected else {
                    assert_eq!(result, Err(DropReason::EcnDiscard), "{what}");
                    assert_eq!(out, frame, "{what}");
                    continue;
                };
                let ether_type = ether_type(inner_is_ipv4);
                assert_eq!(
                    out,
                    ethernet(&TAGS, ether_type, &inner(inner_is_ipv4, expected)),
                    "{what}"
                );
            }
        }
    }
}

#[test]
fn only_packets_for_this_host_are_taken() {
    let inner = inner(true, 0);
    for tunnel in Tunnel::all() {
        let mut packet = tunnel.around(&inner);
        let last = if tunnel.outer_is_ipv4 { 19 } else { 39 };
        packet[last] ^= 1;
        assert_eq!(left_alone(&packet), Decapsulation::Untouched, "{tunnel:?}");
    }
    for packet in [&inner, &ipv4(HOST4, UDP, &[], &udp(1, GUE_PORT - 1, &[0; 40]))] {
        assert_eq!(left_alone(packet), Decapsulation::Untouched);
    }
    assert_eq!(left_alone(&ipv4(HOST4, 47, &[], &inner)), Decapsulation::Untouched, "GRE");
    let mut malformed = Tunnel::PLAIN.around(&inner);
    malformed[0] = 0x44;
    assert_eq!(left_alone(&malformed), Decapsulation::Untouched);
    let arp = ethernet(&[], 0x0806, &[0; 28]);
    assert_eq!(run(&arp), (Ok(Decapsulation::Untouched), arp));
}

#[test]
fn packets_of_others_are_foreign_and_untouched() {
    for tunnel in Tunnel::all() {
        let mut packet = tunnel.around(&inner(false, 0));
        let last = if tunnel.outer_is_ipv4 { 15 } else { 23 };
        packet[last] ^= 2;
        assert_eq!(left_alone(&packet), Decapsulation::Foreign, "{tunnel:?}");
        // Whatever else is wrong with it.
        packet[if tunnel.outer_is_ipv4 { 6 } else { 4 }] = 0x20;
        assert_eq!(left_alone(&packet), Decapsulation::Foreign, "{tunnel:?}");
    }
}

#[test]
fn an_ipv4_address_in_an_ipv6_header_is_nobody() {
    for (at, address) in [(8, mapped(SENDER4)), (24, mapped(HOST4))] {
        let mut packet = ipv6(HOST6, IPV4_IN_IP, &inner(true, 0));
        packet[at..at + 16].copy_from_slice(&address);
        assert_eq!(left_alone(&packet), Decapsulation::Untouched, "at {at}");
    }
}

#[test]
fn fragments_are_refused() {
    for (gue, tunnel) in Tunnel::all().map(|tunnel| (tunnel.gue, tunnel)) {
        let inner = inner(true, 0);
        if tunnel.outer_is_ipv4 {
            let mut packet = tunnel.around(&inner);
            packet[6] = 0x20;
            assert_eq!(refused(&packet), DropReason::Fragment, "{tunnel:?}");
            packet[6..8].copy_from_slice(&[0, 1]);
            // Of a later fragment the ports aren't known, so it isn't known to be ours.
            match gue {
                true => assert_eq!(left_alone(&packet), Decapsulation::Untouched),
                false => assert_eq!(refused(&packet), DropReason::Fragment),
            }
        } else {
            let protocol = if gue { UDP } else { IPV4_IN_IP };
            let fragment =
                [&[protocol, 0, 0, 1, 0, 0, 0, 9], &tunnel.around(&inner)[40..]].concat();
            assert_eq!(refused(&ipv6(HOST6, 44, &fragment)), DropReason::Fragment, "{tunnel:?}");
        }
    }
}

#[test]
fn cut_off_frames_are_refused() {
    for tunnel in Tunnel::all() {
        let packet = tunnel.around(&inner(true, 0));
        let ip_len = if tunnel.outer_is_ipv4 { 20 } else { 40 };
        let known = ip_len + if tunnel.gue { 8 } else { 0 };
        for len in 0..packet.len() {
            let frame = ethernet(&[], tunnel.ether_type(), &packet[..len]);
            let (result, out) = run(&frame);
            let expected = match len < known {
                true => Ok(Decapsulation::Untouched),
                false => Err(DropReason::Truncated),
            };
            assert_eq!(result, expected, "{tunnel:?}, {len} bytes");
            assert_eq!(out, frame);
        }
    }
}

#[test]
fn what_is_inside_must_be_an_ip_packet_that_fits() {
    for tunnel in Tunnel::all() {
        for is_ipv4 in [true, false] {
            let good = inner(is_ipv4, 0);
            let edit = |at: usize, bytes: &[u8]| {
                let mut packet = tunnel.around(&good);
                packet[tunnel.len() + at..][..bytes.len()].copy_from_slice(bytes);
                refused(&packet)
            };
            assert_eq!(edit(0, &[0x95]), DropReason::BadInner, "version, {tunnel:?}");
            let (at, len) = if is_ipv4 { (2, good.len()) } else { (4, good.len() - 40) };
            let longer = (len as u16 + 1).to_be_bytes();
            assert_eq!(edit(at, &longer), DropReason::BadInner, "longer than the outer one");
        }
        let no_header = tunnel.around(&inner(true, 0)[..19]);
        assert_eq!(refused(&no_header), DropReason::BadInner, "no whole header, {tunnel:?}");
    }
    let mut short = Tunnel::PLAIN.around(&inner(true, 0));
    short[20 + 2..20 + 4].copy_from_slice(&19u16.to_be_bytes());
    assert_eq!(refused(&short), DropReason::BadInner, "shorter than its header");
}

#[test]
fn gue_that_no_balancer_sends_is_refused() {
    for tunnel in Tunnel::all().filter(|tunnel| tunnel.gue) {
        for (at, value, what) in [
            (0, 0x40, "version 1"),
            (0, 0x20, "control message"),
            (1, 47, "another protocol"),
            (2, 0x80, "flags"),
            (3, 0x01, "flags"),
        ] {
            let mut packet = tunnel.around(&inner(true, 0));
            packet[tunnel.len() - 4 + at] = value;
            assert_eq!(refused(&packet), DropReason::BadGue, "{what}, {tunnel:?}");
        }
        let empty = tunnel.ip(UDP, &udp(1, GUE_PORT, &[]));
        assert_eq!(refused(&empty), DropReason::Truncated, "no GUE header, {tunnel:?}");
    }
}

fn check_any(frame: &[u8]) -> Result<(), TestCaseError> {
    let (result, out) = run(frame);
    match result {
        Ok(Decapsulation::Inner { bytes }) => {
            let taken = frame.len().checked_sub(out.len()).expect("it gets shorter");
            prop_assert!(taken >= 20);
            prop_assert!(bytes as usize <= out.len());
            prop_assert_eq!(&out[..12], &frame[..12]);
            // But for ECN and the header's checksum, which follow the link header.
            let behind = out.len().min(14 + 8 + 12);
            prop_assert_eq!(&out[behind..], &frame[taken + behind..]);
        }
        _ => prop_assert_eq!(out, frame),
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4096, ..ProptestConfig::default() })]

    #[test]
    fn any_bytes_have_an_outcome(frame in prop::collection::vec(any::<u8>(), 0..9000)) {
        check_any(&frame)?;
    }

    /// Tunnel packets with some bytes changed and some cut off: nearer to what is parsed.
    #[test]
    fn damaged_frames_have_an_outcome(
        which in 0usize..4,
        tags in 0usize..=2,
        inner_is_ipv4 in any::<bool>(),
        ecn in (0u8..4, 0u8..4),
        damage in prop::collection::vec((12usize..100, any::<u8>()), 0..4),
        len in 0usize..160,
    ) {
        let tunnel = Tunnel { ecn: ecn.0, ..Tunnel::all().nth(which).expect("one of four") };
        let mut frame = tunnel.frame(&TAGS[..4 * tags], &inner(inner_is_ipv4, ecn.1));
        for (at, byte) in damage {
            if let Some(place) = frame.get_mut(at) {
                *place = byte;
            }
        }
        frame.truncate(len);
        check_any(&frame)?;
    }
}
