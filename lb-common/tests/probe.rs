//! Probes through VIPs on the host: which frames go where, whose answers they are, and any bytes
//! at all.

mod frames;

use frames::{MACS, TAGS, UDP_DATA, ethernet, ipv4, ipv6, record, tcp, udp};
use lb_common::{
    layout::{Kind, ProbeTarget},
    network::{Address, mapped},
    packet::Packet,
    probe::{Probes, is_answer, send},
    tables::MemoryBuffer,
};
use proptest::prelude::*;

const VIP4: [u8; 4] = [203, 0, 113, 10];
const VIP6: Address = [0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x10];
/// Where [`ipv4`] and [`ipv6`] say that packets come from.
const SENDER4: [u8; 4] = [192, 0, 2, 1];
const SENDER6: Address = [0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
const ETH4: u16 = 0x0800;
const ETH6: u16 = 0x86dd;
const TCP: u8 = 6;
const UDP: u8 = 17;
const SYN: u8 = 2;
const SYN_ACK: u8 = 0x12;
/// The source port that is in use.
const PORT: u16 = 2048;
const SERVICE: u16 = 443;
const EGRESS: u32 = 7;

struct One(ProbeTarget);

impl Probes for One {
    fn target(&self, source_port: u16) -> Option<&ProbeTarget> {
        (source_port == PORT).then_some(&self.0)
    }
}

fn probes(kind: Kind, source: Address, vip: Address, inner_is_ipv4: bool) -> One {
    let mut record = record(kind, inner_is_ipv4);
    record.egress_ifindex = EGRESS;
    One(ProbeTarget::new(&record, source, vip, SERVICE))
}

fn over_ipv4(kind: Kind) -> One {
    probes(kind, mapped(SENDER4), mapped(VIP4), true)
}

fn over_ipv6(kind: Kind) -> One {
    probes(kind, SENDER6, VIP6, false)
}

/// Where a frame goes, and what it is then.
fn sent(frame: &[u8], probes: &One) -> Option<(u32, Vec<u8>)> {
    let mut buffer = MemoryBuffer::new(frame, 64, 3);
    let ifindex = send(Packet::new(&mut buffer), probes)?;
    Some((ifindex, buffer.frame()))
}

fn answers(frame: &[u8], probes: &One) -> bool {
    let mut buffer = MemoryBuffer::new(frame, 0, 3);
    is_answer(&Packet::new(&mut buffer), probes)
}

/// A packet with other addresses than the builder's.
fn from_vip4(mut packet: Vec<u8>) -> Vec<u8> {
    packet[12..16].copy_from_slice(&VIP4);
    packet
}

fn from_vip6(mut packet: Vec<u8>) -> Vec<u8> {
    packet[8..24].copy_from_slice(&VIP6);
    packet
}

#[test]
fn a_probe_leaves_in_the_frames_of_every_kind() {
    let four = ipv4(VIP4, TCP, &[], &tcp(PORT, SERVICE, SYN, &[]));
    let six = ipv6(VIP6, TCP, &tcp(PORT, SERVICE, SYN, &[]));
    for kind in [Kind::L2, Kind::Ipv4, Kind::Ipv6, Kind::GueIpv4, Kind::GueIpv6] {
        for (packet, ether_type, probes) in
            [(&four, ETH4, over_ipv4(kind)), (&six, ETH6, over_ipv6(kind))]
        {
            let (ifindex, frame) = sent(&ethernet(&[], ether_type, packet), &probes).unwrap();
            assert_eq!(ifindex, EGRESS);
            assert_eq!(frame[..12], MACS, "{kind:?}");
            assert_eq!(frame.len(), 14 + kind.outer_len() + packet.len(), "{kind:?}");
            assert!(frame.ends_with(packet), "{kind:?}: the packet itself is not changed");
        }
    }
}

#[test]
fn what_is_no_probe_goes_nowhere() {
    let probes = over_ipv4(Kind::Ipv4);
    let frame = |packet: &[u8]| ethernet(&[], ETH4, packet);
    let syn = |source, destination| tcp(source, destination, SYN, &[]);
    let good = ipv4(VIP4, TCP, &[], &syn(PORT, SERVICE));
    assert!(sent(&frame(&good), &probes).is_some());
    assert!(sent(&frame(&ipv4(VIP4, UDP, &[], &udp(PORT, SERVICE, UDP_DATA))), &probes).is_some());
    assert!(sent(&frame(&ipv4(VIP4, TCP, &[1; 4], &syn(PORT, SERVICE))), &probes).is_some());
    let mut fragment = good.clone();
    fragment[6] = 0x20;
    let mut other_source = good.clone();
    other_source[15] = 9;
    for (packet, why) in [
        (ipv4(VIP4, TCP, &[], &syn(PORT + 1, SERVICE)), "another source port"),
        (ipv4(VIP4, TCP, &[], &syn(PORT, SERVICE + 1)), "another port"),
        (ipv4([203, 0, 113, 11], TCP, &[], &syn(PORT, SERVICE)), "another address"),
        (ipv4(VIP4, 132, &[], &syn(PORT, SERVICE)), "another protocol"),
        (other_source, "another source"),
        (fragment, "a fragment"),
        (good[..23].to_vec(), "without ports"),
    ] {
        assert_eq!(sent(&frame(&packet), &probes), None, "{why}");
    }
    assert_eq!(sent(&ethernet(&[], 0x0806, &good), &probes), None, "ARP");
    let mut record = record(Kind::Ipv4, true);
    record.resolved = 0;
    let unresolved = One(ProbeTarget::new(&record, mapped(SENDER4), mapped(VIP4), SERVICE));
    assert_eq!(sent(&frame(&good), &unresolved), None, "without a next hop");
    record.resolved = 1;
    record.mtu = 59;
    let narrow = One(ProbeTarget::new(&record, mapped(SENDER4), mapped(VIP4), SERVICE));
    assert_eq!(sent(&frame(&good), &narrow), None, "too long for the way");
}

#[test]
fn answers_are_told_from_the_hosts_own_packets() {
    let four = over_ipv4(Kind::Ipv4);
    let six = over_ipv6(Kind::Ipv6);
    let answer = |payload: &[u8], options: &[u8]| from_vip4(ipv4(SENDER4, TCP, options, payload));
    let good = answer(&tcp(SERVICE, PORT, SYN_ACK, &[]), &[]);
    assert!(answers(&ethernet(&[], ETH4, &good), &four));
    let with_options = answer(&tcp(SERVICE, PORT, SYN_ACK, &[]), &[1; 8]);
    assert!(answers(&ethernet(&[], ETH4, &with_options), &four));
    let datagram = from_vip4(ipv4(SENDER4, UDP, &[], &udp(SERVICE, PORT, UDP_DATA)));
    assert!(answers(&ethernet(&[], ETH4, &datagram), &four));
    let good6 = from_vip6(ipv6(SENDER6, TCP, &tcp(SERVICE, PORT, SYN_ACK, &[])));
    assert!(answers(&ethernet(&[], ETH6, &good6), &six));

    assert!(!answers(&ethernet(&TAGS[4..], ETH4, &good), &four), "with a tag");
    assert!(!answers(&ethernet(&[], ETH6, &good6), &four), "of the other family");
    let mut fragment = good.clone();
    fragment[7] = 1;
    for (packet, why) in [
        (answer(&tcp(SERVICE, PORT + 1, SYN_ACK, &[]), &[]), "another port of ours"),
        (answer(&tcp(SERVICE + 1, PORT, SYN_ACK, &[]), &[]), "another port of the VIP"),
        (ipv4(SENDER4, TCP, &[], &tcp(SERVICE, PORT, SYN_ACK, &[])), "not from the VIP"),
        (from_vip4(ipv4([192, 0, 2, 7], TCP, &[], &tcp(SERVICE, PORT, 0, &[]))), "not to us"),
        (fragment, "a later fragment"),
    ] {
        assert!(!answers(&ethernet(&[], ETH4, &packet), &four), "{why}");
    }
}

/// An ICMP error about a packet.
fn error(kind: u8, quoted: &[u8]) -> Vec<u8> {
    let mut message = vec![kind, 3, 0, 0, 0, 0, 0, 0];
    message.extend(quoted);
    message
}

#[test]
fn errors_that_quote_a_probe_are_answers() {
    let (four, six) = (over_ipv4(Kind::L2), over_ipv6(Kind::L2));
    let probe4 = ipv4(VIP4, UDP, &[], &udp(PORT, SERVICE, UDP_DATA));
    let probe6 = ipv6(VIP6, UDP, &udp(PORT, SERVICE, UDP_DATA));
    let frame4 = |message: &[u8]| ethernet(&[], ETH4, &from_vip4(ipv4(SENDER4, 1, &[], message)));
    let frame6 = |message: &[u8]| ethernet(&[], ETH6, &from_vip6(ipv6(SENDER6, 58, message)));
    // Eight bytes behind the quoted header are all that must be quoted (RFC 792).
    assert!(answers(&frame4(&error(3, &probe4[..28])), &four));
    assert!(answers(&frame6(&error(1, &probe6)), &six));
    assert!(!answers(&frame4(&error(8, &probe4)), &four), "an echo request");
    assert!(!answers(&frame6(&error(128, &probe6)), &six), "an echo request");
    assert!(!answers(&frame4(&error(3, &probe4[..20])), &four), "cut before the ports");
    let other = ipv4(VIP4, UDP, &[], &udp(PORT + 1, SERVICE, UDP_DATA));
    assert!(!answers(&frame4(&error(3, &other)), &four), "about the host's own packet");
    let other = ipv4(VIP4, 132, &[], &udp(PORT, SERVICE, UDP_DATA));
    assert!(!answers(&frame4(&error(3, &other)), &four), "about another protocol's");
}

proptest! {
    #[test]
    fn any_bytes_do_no_harm(
        start in prop::sample::select(vec![ETH4, ETH6, 0x8100]),
        bytes in prop::collection::vec(any::<u8>(), 0..160),
    ) {
        let frame = ethernet(&[], start, &bytes);
        for probes in [over_ipv4(Kind::GueIpv6), over_ipv6(Kind::Ipv4)] {
            sent(&frame, &probes);
            answers(&frame, &probes);
        }
    }

    /// However a frame is cut, nothing beyond its end is read.
    #[test]
    fn cut_frames_do_no_harm(len in 0_usize..90) {
        let probe = ipv4(VIP4, UDP, &[], &udp(PORT, SERVICE, UDP_DATA));
        let whole = ethernet(&[], ETH4, &from_vip4(ipv4(SENDER4, 1, &[], &error(3, &probe))));
        let cut = &whole[..len.min(whole.len())];
        answers(cut, &over_ipv4(Kind::L2));
        sent(cut, &over_ipv4(Kind::L2));
    }
}
