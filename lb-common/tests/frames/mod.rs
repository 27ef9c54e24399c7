//! Frames and records, built by hand.

use lb_common::{
    checksum,
    layout::{BackendRecord, Kind},
};

/// What records put in front of frames: destination and source MAC.
pub const MACS: [u8; 12] = [2, 0, 0, 0, 0, 0x11, 2, 0, 0, 0, 0, 0x99];
/// An 802.1ad tag and an 802.1Q tag; the latter alone serves where one is wanted.
pub const TAGS: [u8; 8] = [0x81, 0x00, 0x20, 0x64, 0x81, 0x00, 0x00, 0x2a];
/// Content of datagrams.
pub const UDP_DATA: &[u8] = b"query";

/// A frame with tags, from a client to the balancer.
pub fn ethernet(tags: &[u8], ether_type: u16, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2];
    frame.extend(tags);
    frame.extend(ether_type.to_be_bytes());
    frame.extend(payload);
    frame
}

/// A packet from 192.0.2.1 with DSCP and ECN set and a right checksum.
pub fn ipv4(destination: [u8; 4], protocol: u8, options: &[u8], payload: &[u8]) -> Vec<u8> {
    let header_len = 20 + options.len();
    let mut packet = vec![0; 20];
    packet[0] = 0x40 | (header_len / 4) as u8;
    packet[1] = 0xb9;
    packet[2..4].copy_from_slice(&((header_len + payload.len()) as u16).to_be_bytes());
    packet[8] = 61;
    packet[9] = protocol;
    packet[12..16].copy_from_slice(&[192, 0, 2, 1]);
    packet[16..20].copy_from_slice(&destination);
    packet.extend(options);
    let sum = !checksum::sum(&packet);
    packet[10..12].copy_from_slice(&sum.to_be_bytes());
    packet.extend(payload);
    packet
}

/// A packet from 2001:db8::1 with a traffic class.
pub fn ipv6(destination: [u8; 16], next_header: u8, payload: &[u8]) -> Vec<u8> {
    let mut packet = vec![0x6b, 0x90, 0, 0];
    packet.extend((payload.len() as u16).to_be_bytes());
    packet.extend([next_header, 61]);
    packet.extend([0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
    packet.extend(destination);
    packet.extend(payload);
    packet
}

/// A segment without options.
pub fn tcp(source: u16, destination: u16, flags: u8, data: &[u8]) -> Vec<u8> {
    let mut segment = Vec::new();
    segment.extend(source.to_be_bytes());
    segment.extend(destination.to_be_bytes());
    segment.extend([0, 0, 0, 1, 0, 0, 0, 2, 0x50, flags, 0xff, 0xff, 0, 0, 0, 0]);
    segment.extend(data);
    segment
}

/// A datagram without checksum.
pub fn udp(source: u16, destination: u16, data: &[u8]) -> Vec<u8> {
    let mut datagram = Vec::new();
    datagram.extend(source.to_be_bytes());
    datagram.extend(destination.to_be_bytes());
    datagram.extend(((8 + data.len()) as u16).to_be_bytes());
    datagram.extend([0, 0]);
    datagram.extend(data);
    datagram
}

/// A resolved backend.
pub fn record(kind: Kind, inner_is_ipv4: bool) -> BackendRecord {
    let inner = if inner_is_ipv4 { 4 } else { 41 };
    let mut record = BackendRecord {
        kind: kind as u8,
        resolved: 1,
        mtu: u16::MAX,
        macs: MACS,
        ..BackendRecord::VACANT
    };
    let ip_len = match kind {
        Kind::L2 | Kind::NatIpv4 | Kind::NatIpv6 | Kind::FullnatIpv4 | Kind::FullnatIpv6 => {
            return record;
        }
        Kind::FullnatToIpv4 | Kind::FullnatToIpv6 => return record,
        Kind::Ipv4 | Kind::GueIpv4 => {
            let protocol = if kind == Kind::Ipv4 { inner } else { 17 };
            record.outer[..20].copy_from_slice(&[
                0x45, 0, 0, 0, 0, 0, 0x40, 0, 64, protocol, 0, 0, 198, 51, 100, 2, 10, 0, 0, 11,
            ]);
            record.outer_sum = checksum::sum(&record.outer[..20]).into();
            20
        }
        Kind::Ipv6 | Kind::GueIpv6 => {
            record.outer[0] = 0x60;
            record.outer[6] = if kind == Kind::Ipv6 { inner } else { 17 };
            record.outer[7] = 64;
            record.outer[23] = 2;
            record.outer[39] = 0x11;
            40
        }
    };
    if matches!(kind, Kind::GueIpv4 | Kind::GueIpv6) {
        record.outer[ip_len + 2..ip_len + 4].copy_from_slice(&6080u16.to_be_bytes());
        record.outer[ip_len + 9] = inner;
    }
    record
}
