//! Packets with right checksums, and a look at them.

use lb_common::checksum;

use crate::frames::{ipv4, ipv6};

/// Where the transport header is, its protocol, and the packet's end.
pub fn shape(packet: &[u8]) -> (usize, u8, usize) {
    match packet[0] >> 4 {
        4 => {
            let total = usize::from(u16::from_be_bytes([packet[2], packet[3]]));
            (usize::from(packet[0] & 15) * 4, packet[9], total)
        }
        _ => (40, packet[6], 40 + usize::from(u16::from_be_bytes([packet[4], packet[5]]))),
    }
}

/// Source and destination, one behind the other.
pub fn addresses(packet: &[u8]) -> &[u8] {
    if packet[0] >> 4 == 4 { &packet[12..20] } else { &packet[8..40] }
}

/// The sum over a transport header, its data and its pseudo header.
fn transport_sum(packet: &[u8]) -> u16 {
    let (at, protocol, end) = shape(packet);
    let mut bytes = addresses(packet).to_vec();
    if protocol == 1 {
        bytes.clear();
    } else {
        bytes.extend([0, protocol]);
        bytes.extend(((end - at) as u16).to_be_bytes());
    }
    bytes.extend(&packet[at..end]);
    if bytes.len() % 2 == 1 {
        bytes.push(0);
    }
    checksum::sum(&bytes)
}

/// Writes the transport checksum.
pub fn sealed(mut packet: Vec<u8>) -> Vec<u8> {
    let (at, protocol, _) = shape(&packet);
    let at = at
        + match protocol {
            6 => 16,
            17 => 6,
            _ => 2,
        };
    packet[at..at + 2].fill(0);
    let sum = !transport_sum(&packet);
    let sum = if protocol == 17 && sum == 0 { 0xffff } else { sum };
    packet[at..at + 2].copy_from_slice(&sum.to_be_bytes());
    packet
}

/// Fails unless every checksum is right, those of a quoted packet, too.
pub fn assert_right(packet: &[u8], what: &str) {
    let (at, protocol, end) = shape(packet);
    if packet[0] >> 4 == 4 {
        assert_eq!(checksum::sum(&packet[..at]), 0xffff, "{what}: IPv4 header");
    }
    let is_unsummed = protocol == 17 && packet[at + 6..at + 8] == [0, 0];
    if !is_unsummed {
        assert_eq!(transport_sum(packet), 0xffff, "{what}: transport");
    }
    if matches!(protocol, 1 | 58) {
        let quoted = &packet[at + 8..end];
        let (at, protocol, end) = shape(quoted);
        if quoted.len() >= end {
            assert_right(quoted, "quoted");
        } else if quoted[0] >> 4 == 4 {
            assert_eq!(checksum::sum(&quoted[..at]), 0xffff, "{what}: quoted header, {protocol}");
        }
    }
}

/// The packet, from another source.
pub fn from(mut packet: Vec<u8>, source: &[u8]) -> Vec<u8> {
    if packet[0] >> 4 == 4 {
        packet[12..16].copy_from_slice(source);
        packet[10..12].fill(0);
        let at = shape(&packet).0;
        let sum = !checksum::sum(&packet[..at]);
        packet[10..12].copy_from_slice(&sum.to_be_bytes());
    } else {
        packet[8..24].copy_from_slice(source);
    }
    packet
}

/// A packet between two addresses.
pub fn packet(
    is_v4: bool,
    source: &[u8],
    destination: &[u8],
    protocol: u8,
    payload: &[u8],
) -> Vec<u8> {
    sealed(match is_v4 {
        true => from(ipv4(destination.try_into().unwrap(), protocol, &[], payload), source),
        false => from(ipv6(destination.try_into().unwrap(), protocol, payload), source),
    })
}

/// The EtherType of a family.
pub fn ether_type(is_v4: bool) -> u16 {
    if is_v4 { 0x0800 } else { 0x86dd }
}
