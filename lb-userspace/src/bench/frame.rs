//! The frame of each class, and how it differs by flow.

use std::net::IpAddr;

use lb_common::{
    checksum,
    layout::{BENCH_FRAME_LEN, BenchPlan},
    network::{TCP, UDP},
};

use super::{
    class::{Case, Class},
    scene::{self, End},
};
use crate::model::Protocol;

const ETHERNET_LEN: usize = 14;
const IPV4_LEN: usize = 20;
const IPV6_LEN: usize = 40;
const TCP_LEN: usize = 20;
const UDP_LEN: usize = 8;
const SYN: u8 = 0x02;
const ACK: u8 = 0x10;

/// What Linux puts into a SYN: MSS 1460, SACK permitted, timestamps, window scale 7.
const SYN_OPTIONS: [u8; 20] = [2, 4, 5, 0xb4, 4, 2, 8, 10, 0, 0, 0, 1, 0, 0, 0, 0, 1, 3, 3, 7];

/// Last word of the first flow's client.
const FIRST_CLIENT: u32 = 0x0a00_0001;

/// What to tell the driver for a case; packets so far: 0.
pub(crate) fn plan(case: &Case) -> BenchPlan {
    let Frame { bytes, flow_offset, balance_offsets } = match case.class {
        Class::Arp => arp(),
        class => ip(class, scene::ends(case)),
    };
    BenchPlan {
        counter: 0,
        in_order: u32::from(case.class == Class::NewFlows),
        mask: case.flows.map_or(u32::MAX, |flows| flows - 1),
        flow_offset: flow_offset as u32,
        balance_offsets: balance_offsets.map(|offset| offset as u32),
        first_flow: FIRST_CLIENT,
        frame: bytes,
    }
}

struct Frame {
    bytes: [u8; BENCH_FRAME_LEN],
    flow_offset: usize,
    balance_offsets: [usize; 2],
}

/// An IP packet of a class between two ends. The word that differs by flow is the last of the
/// client's address; it is taken out of the checksums by the IPv4 identification, and by the low
/// half of TCP's sequence number or UDP's first payload bytes.
fn ip(class: Class, (from, to): (End, End)) -> Frame {
    let mut transport = transport(class, from.1, to.1);
    let len = transport.len();
    let is_v4 = to.0.is_ipv4();
    let mut header = match is_v4 {
        true => {
            let mut header = vec![0x45, 0, 0, (IPV4_LEN + len) as u8, 0, 0, 0x40, 0, 64];
            header.extend([protocol(class), 0, 0]);
            header
        }
        false => vec![0x60, 0, 0, 0, 0, len as u8, protocol(class), 64],
    };
    for address in [from.0, to.0] {
        match address {
            IpAddr::V4(address) => header.extend(address.octets()),
            IpAddr::V6(address) => header.extend(address.octets()),
        }
    }
    // The last word of the source, or of the destination.
    let client = header.len() - 4 - if class.is_answer() { 0 } else { if is_v4 { 4 } else { 16 } };
    let network_balance = is_v4.then_some(4);

    let addresses = header.len() - if is_v4 { 8 } else { 32 };
    let mut pseudo = header[addresses..].to_vec();
    pseudo.extend([0, protocol(class)]);
    pseudo.extend((len as u16).to_be_bytes());
    pseudo.extend(&transport);
    let sum_at = if protocol(class) == UDP { 6 } else { 16 };
    transport[sum_at..sum_at + 2].copy_from_slice(&(!checksum::sum(&pseudo)).to_be_bytes());
    if is_v4 {
        let sum = !checksum::sum(&header);
        header[10..12].copy_from_slice(&sum.to_be_bytes());
    }

    let ether_type = if is_v4 { 0x0800 } else { 0x86dd };
    let transport_at = ETHERNET_LEN + header.len();
    let transport_balance = transport_at + if protocol(class) == UDP { UDP_LEN } else { 6 };
    Frame {
        bytes: frame(ether_type, &[&header, &transport]),
        flow_offset: ETHERNET_LEN + client,
        balance_offsets: [
            network_balance.map_or(transport_balance, |at| ETHERNET_LEN + at),
            transport_balance,
        ],
    }
}

fn protocol(class: Class) -> u8 {
    match class.protocol() {
        Protocol::Tcp => TCP,
        Protocol::Udp => UDP,
    }
}

/// The transport header and what follows it; checksum zero.
fn transport(class: Class, from: u16, to: u16) -> Vec<u8> {
    let mut bytes = [from.to_be_bytes(), to.to_be_bytes()].concat();
    let (flags, options) = match class {
        Class::V4Udp => {
            let len = BENCH_FRAME_LEN - ETHERNET_LEN - IPV4_LEN;
            bytes.extend((len as u16).to_be_bytes());
            bytes.resize(len, 0);
            return bytes;
        }
        Class::NewFlows => (SYN, &SYN_OPTIONS[..]),
        Class::SynFlood => (SYN, &[][..]),
        _ => (ACK, &[][..]),
    };
    let header_words = ((TCP_LEN + options.len()) / 4) as u8;
    bytes.extend([0; 8]);
    bytes.extend([header_words << 4, flags, 0xff, 0xff, 0, 0, 0, 0]);
    bytes.extend(options);
    if flags == ACK {
        let header_len = if class.is_v6() { IPV6_LEN } else { IPV4_LEN };
        bytes.resize(BENCH_FRAME_LEN - ETHERNET_LEN - header_len, 0);
    }
    bytes
}

/// Who has the address of a VIP (RFC 826); the sender's address differs by flow, and the padding
/// takes what it will.
fn arp() -> Frame {
    let sender_address = ETHERNET_LEN + 14;
    let mut request = vec![0, 1, 8, 0, 6, 4, 0, 1, 2, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    request.extend([198, 18, 0, 10]);
    Frame {
        bytes: frame(0x0806, &[&request]),
        flow_offset: sender_address,
        balance_offsets: [60, 62],
    }
}

/// With a link header in front and padding behind.
fn frame(ether_type: u16, parts: &[&[u8]]) -> [u8; BENCH_FRAME_LEN] {
    let mut frame = [0; BENCH_FRAME_LEN];
    frame[..12].copy_from_slice(&[2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2]);
    frame[12..ETHERNET_LEN].copy_from_slice(&ether_type.to_be_bytes());
    let content = parts.concat();
    frame[ETHERNET_LEN..ETHERNET_LEN + content.len()].copy_from_slice(&content);
    frame
}

#[cfg(test)]
pub(crate) mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::bench::class::cases;

    /// The frame of a flow as the driver writes it.
    fn of_flow(plan: &BenchPlan, flow: u32) -> Vec<u8> {
        let mut frame = plan.frame.to_vec();
        let word = plan.first_flow.wrapping_add(flow & plan.mask).to_be_bytes();
        frame[plan.flow_offset as usize..][..4].copy_from_slice(&word);
        let balance = (!checksum::sum(&word)).to_be_bytes();
        for offset in plan.balance_offsets {
            frame[offset as usize..][..2].copy_from_slice(&balance);
        }
        frame
    }

    /// Fails unless all checksums in an Ethernet frame with an IP packet are right.
    #[track_caller]
    pub(crate) fn assert_valid(frame: &[u8]) {
        let packet = &frame[ETHERNET_LEN..];
        let (header_len, total_len, addresses, protocol) = match packet[0] >> 4 {
            4 => (20, usize::from(u16::from_be_bytes([packet[2], packet[3]])), 12, packet[9]),
            _ => (40, 40 + usize::from(u16::from_be_bytes([packet[4], packet[5]])), 8, packet[6]),
        };
        assert!(total_len <= packet.len(), "{total_len} of {}", packet.len());
        if packet[0] >> 4 == 4 {
            assert_eq!(checksum::sum(&packet[..header_len]), 0xffff, "IPv4 header");
        }
        let transport = &packet[header_len..total_len];
        let mut pseudo = packet[addresses..header_len].to_vec();
        pseudo.extend([0, protocol]);
        pseudo.extend((transport.len() as u16).to_be_bytes());
        pseudo.extend(transport);
        assert_eq!(checksum::sum(&pseudo), 0xffff, "transport of {frame:02x?}");
    }

    #[test]
    fn every_flow_of_every_class_is_a_valid_packet() {
        for case in cases().iter().filter(|case| case.class != Class::Arp) {
            let plan = plan(case);
            for flow in [0, 1, 0xfffe, 0xffff, 0x1_0000, 0x1234_5678, u32::MAX] {
                assert_valid(&of_flow(&plan, flow));
            }
        }
    }

    #[test]
    fn a_number_of_flows_is_as_many_sources() {
        let case = cases().into_iter().find(|case| case.flows == Some(1 << 14)).unwrap();
        let mut packets = vec![0u32; 1 << 14];
        let plan = plan(&case);
        for packet in 7..7 + (16u32 << 14) {
            packets[plan.flow(packet) as usize] += 1;
        }
        // 16 expected of each, as of balls thrown into bins.
        let (least, most) = (packets.iter().min().unwrap(), packets.iter().max().unwrap());
        assert!(*least > 0 && *most < 48, "{least} to {most}");
    }

    #[test]
    fn flows_come_in_no_order_but_where_they_count_up() {
        let flows = |class| -> Vec<u32> {
            let case = cases().into_iter().rfind(|case| case.class == class).unwrap();
            let plan = plan(&case);
            (0..1000).map(|packet| plan.flow(packet)).collect()
        };
        let strides = |class| -> HashSet<u32> {
            flows(class).windows(2).map(|pair| pair[1].wrapping_sub(pair[0])).collect()
        };
        assert_eq!(strides(Class::NewFlows), HashSet::from([1]));
        assert_eq!(HashSet::<u32>::from_iter(flows(Class::SynFlood)).len(), 1000);
        for class in [Class::V4Tcp, Class::SynFlood] {
            assert!(strides(class).len() > 990, "{class:?}");
        }
    }
}
