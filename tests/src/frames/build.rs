//! Frames of clients.

use std::net::{IpAddr, SocketAddr};

use anyhow::{Context, Result, bail};
use etherparse::{
    IpDscp, IpEcn, IpHeaders, IpNumber, Ipv4Extensions, Ipv4Header, Ipv6Extensions, Ipv6Header,
    PacketBuilder,
};

use crate::xlb::Protocol;

/// Link-layer address of the balancer in fixtures.
pub const BALANCER_MAC: [u8; 6] = [0x02, 0, 0, 0, 0, 0xbb];

/// Link-layer address of the client, or of its router, in fixtures.
pub const CLIENT_MAC: [u8; 6] = [0x02, 0, 0, 0, 0, 0xcc];

/// Length in bytes of an Ethernet header without tags.
pub const ETHERNET: usize = 14;

/// VLAN tags of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tags {
    /// None.
    Untagged,
    /// One, IEEE 802.1Q.
    Dot1q,
    /// Two, IEEE 802.1ad around 802.1Q.
    Qinq,
}

impl Tags {
    /// All kinds.
    pub const ALL: [Self; 3] = [Self::Untagged, Self::Dot1q, Self::Qinq];

    /// The bytes between the MAC addresses and the last EtherType. The priorities aren't 0, so
    /// that losing them shows.
    fn bytes(self) -> &'static [u8] {
        match self {
            Self::Untagged => &[],
            Self::Dot1q => &[0x81, 0x00, 0xa0, 0x64],
            Self::Qinq => &[0x88, 0xa8, 0x60, 0xc8, 0x81, 0x00, 0xa0, 0x64],
        }
    }
}

/// A packet of a flow.
#[derive(Clone, Debug)]
pub struct Packet {
    /// The client.
    pub from: SocketAddr,
    /// The virtual address and port.
    pub to: SocketAddr,
    /// TCP or UDP.
    pub protocol: Protocol,
    /// VLAN tags.
    pub tags: Tags,
    /// DSCP and ECN: the whole octet.
    pub traffic_class: u8,
    /// TTL or hop limit.
    pub hops: u8,
    /// IPv4 options, a multiple of 4 bytes, at most 40.
    pub options: Vec<u8>,
    /// TCP: the first segment of a connection.
    pub syn: bool,
    /// What the transport carries.
    pub payload: Vec<u8>,
}

impl Packet {
    /// A packet with a small payload and usual header fields.
    pub fn new(from: SocketAddr, to: SocketAddr, protocol: Protocol) -> Self {
        Self {
            from,
            to,
            protocol,
            tags: Tags::Untagged,
            // AF41 and ECT(0): neither half is 0.
            traffic_class: 34 << 2 | 2,
            hops: 57,
            options: Vec::new(),
            syn: false,
            payload: b"GET / HTTP/1.1\r\nhost: fixture\r\n\r\n".to_vec(),
        }
    }

    /// The frame, all checksums right.
    ///
    /// # Errors
    /// Addresses of two families, or options that don't fit.
    pub fn frame(&self) -> Result<Vec<u8>> {
        let builder = PacketBuilder::ethernet2(CLIENT_MAC, BALANCER_MAC).ip(self.ip()?);
        let mut frame = Vec::new();
        match self.protocol {
            Protocol::Udp => {
                builder.udp(self.from.port(), self.to.port()).write(&mut frame, &self.payload)?
            }
            Protocol::Tcp => {
                let tcp = builder.tcp(self.from.port(), self.to.port(), 0x1234_5678, 64_240);
                let tcp = if self.syn { tcp.syn() } else { tcp.ack(0x9abc_def0).psh() };
                tcp.write(&mut frame, &self.payload)?;
            }
        }
        frame.splice(12..12, self.tags.bytes().iter().copied());
        Ok(frame)
    }

    fn ip(&self) -> Result<IpHeaders> {
        let dscp = IpDscp::try_new(self.traffic_class >> 2)?;
        let ecn = IpEcn::try_new(self.traffic_class & 3)?;
        Ok(match (self.from.ip(), self.to.ip()) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                let header = Ipv4Header {
                    dscp,
                    ecn,
                    identification: 0x4242,
                    time_to_live: self.hops,
                    protocol: IpNumber(0),
                    source: source.octets(),
                    destination: destination.octets(),
                    options: self.options.as_slice().try_into().context("IPv4 options")?,
                    ..Default::default()
                };
                IpHeaders::Ipv4(header, Ipv4Extensions::default())
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                let header = Ipv6Header {
                    traffic_class: self.traffic_class,
                    hop_limit: self.hops,
                    source: source.octets(),
                    destination: destination.octets(),
                    ..Default::default()
                };
                IpHeaders::Ipv6(header, Ipv6Extensions::default())
            }
            (from, to) => bail!("no packet goes from {from} to {to}"),
        })
    }
}

/// Fills zeros up to the 60 bytes that Ethernet asks for at least (IEEE 802.3, without the FCS).
pub fn pad(mut frame: Vec<u8>) -> Vec<u8> {
    frame.resize(frame.len().max(60), 0);
    frame
}

/// Changes bytes of an untagged frame's IPv4 header, then sets its checksum right again.
///
/// # Panics
/// The frame holds no 20 bytes of IPv4: a mistake of the test.
pub fn edit_ipv4(mut frame: Vec<u8>, edit: impl FnOnce(&mut [u8])) -> Vec<u8> {
    let header = &mut frame[ETHERNET..];
    edit(header);
    let length = usize::from(header[0] & 0xf) * 4;
    header[10..12].fill(0);
    let header_length = length.clamp(20, header.len());
    let sum = checksum(&header[..header_length]);
    header[10..12].copy_from_slice(&sum.to_be_bytes());
    frame
}

/// Puts an IPv6 extension header in front of what an untagged frame's IPv6 header carries.
/// `rest` is the extension header without its first byte.
///
/// # Panics
/// The frame holds no IPv6 header: a mistake of the test.
pub fn extend_ipv6(mut frame: Vec<u8>, next_header: u8, rest: &[u8]) -> Vec<u8> {
    let inner = frame[ETHERNET + 6];
    frame[ETHERNET + 6] = next_header;
    let length = u16::from_be_bytes([frame[ETHERNET + 4], frame[ETHERNET + 5]]);
    let longer = length + 1 + u16::try_from(rest.len()).expect("an extension header is short");
    frame[ETHERNET + 4..ETHERNET + 6].copy_from_slice(&longer.to_be_bytes());
    let at = ETHERNET + Ipv6Header::LEN;
    frame.splice(at..at, std::iter::once(inner).chain(rest.iter().copied()));
    frame
}

/// The Internet checksum (RFC 1071) of whole header bytes.
pub fn checksum(bytes: &[u8]) -> u16 {
    let words = bytes.chunks(2).map(|pair| {
        u32::from(u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or_default()]))
    });
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum >> 16) + (sum & 0xffff);
    }
    !(sum as u16)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksum_of_a_known_header() {
        // The header of RFC 1071's arithmetic: a header with its checksum sums to nothing.
        let packet = Packet::new(
            "192.0.2.1:4711".parse().unwrap(),
            "203.0.113.10:80".parse().unwrap(),
            Protocol::Tcp,
        );
        let frame = packet.frame().unwrap();
        assert_eq!(checksum(&frame[14..34]), 0);
        let edited = edit_ipv4(frame, |header| header[8] = 0);
        assert_eq!(checksum(&edited[14..34]), 0);
        assert_eq!(edited[22], 0);
    }

    #[test]
    fn tags_stand_before_the_ether_type() {
        let mut packet = Packet::new(
            "[2001:db8::1]:4711".parse().unwrap(),
            "[2001:db8::10]:80".parse().unwrap(),
            Protocol::Udp,
        );
        packet.tags = Tags::Qinq;
        let frame = packet.frame().unwrap();
        assert_eq!(frame[12..22], [0x88, 0xa8, 0x60, 0xc8, 0x81, 0x00, 0xa0, 0x64, 0x86, 0xdd]);
    }
}
