//! Frames as balancers send them, as bytes: outer header, perhaps GUE, an inner UDP datagram.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use lb_common::{checksum, rewrite::GUE_PORT};

use crate::network::tests::namespace::{BALANCER_MAC, PEER_MAC};

/// Where the inner packets go.
pub(super) const VIP4: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 10);
pub(super) const VIP6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x10);
pub(super) const PORT: u16 = 5353;
/// Where the inner packets come from.
const CLIENT4: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);
const CLIENT6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0x99, 0, 0, 0, 0, 1);
/// The host that decapsulates, and a balancer on its network.
const HOST4: Ipv4Addr = Ipv4Addr::new(10, 7, 0, 1);
const HOST6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 7, 0, 0, 0, 0, 1);
const BALANCER4: Ipv4Addr = Ipv4Addr::new(10, 7, 0, 2);
const BALANCER6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 7, 0, 0, 0, 0, 2);

const IPV4_IN_IP: u8 = 4;
const IPV6_IN_IP: u8 = 41;
const TCP: u8 = 6;
const UDP: u8 = 17;

/// What is around the inner packet, and which that is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Tunnel {
    pub(super) outer_is_ipv4: bool,
    gue: bool,
    pub(super) inner_is_ipv4: bool,
}

/// All there are.
pub(super) fn tunnels() -> Vec<Tunnel> {
    let bits = |number: u8| Tunnel {
        outer_is_ipv4: number & 1 == 0,
        gue: number & 2 != 0,
        inner_is_ipv4: number & 4 == 0,
    };
    (0..8).map(bits).collect()
}

/// A frame to be.
#[derive(Clone, Copy, Debug)]
pub(super) struct Frame<'a> {
    pub(super) tunnel: Tunnel,
    /// Outer source; the balancer, if it isn't given.
    pub(super) source: Option<IpAddr>,
    /// Outer destination; the host, if it isn't given.
    pub(super) destination: Option<IpAddr>,
    pub(super) data: &'a [u8],
}

impl Default for Frame<'_> {
    fn default() -> Self {
        let tunnel = Tunnel { outer_is_ipv4: true, gue: false, inner_is_ipv4: true };
        Self { tunnel, source: None, destination: None, data: b"data" }
    }
}

impl Frame<'_> {
    /// The packet inside.
    pub(super) fn inner(&self) -> Vec<u8> {
        let (source, destination): (IpAddr, IpAddr) = match self.tunnel.inner_is_ipv4 {
            true => (CLIENT4.into(), VIP4.into()),
            false => (CLIENT6.into(), VIP6.into()),
        };
        packet(source, destination, UDP, &udp(Some((source, destination)), 4711, PORT, self.data))
    }

    /// All of it.
    pub(super) fn bytes(&self) -> Vec<u8> {
        let Tunnel { outer_is_ipv4, gue, inner_is_ipv4 } = self.tunnel;
        let (balancer, host): (IpAddr, IpAddr) = match outer_is_ipv4 {
            true => (BALANCER4.into(), HOST4.into()),
            false => (BALANCER6.into(), HOST6.into()),
        };
        let source = self.source.unwrap_or(balancer);
        let destination = self.destination.unwrap_or(host);
        let protocol = if inner_is_ipv4 { IPV4_IN_IP } else { IPV6_IN_IP };
        let packet = if gue {
            let gue = [&[0, protocol, 0, 0], &self.inner()[..]].concat();
            packet(source, destination, UDP, &udp(None, 0xc001, GUE_PORT, &gue))
        } else {
            packet(source, destination, protocol, &self.inner())
        };
        let ether_type: [u8; 2] = if outer_is_ipv4 { [0x08, 0x00] } else { [0x86, 0xdd] };
        [&BALANCER_MAC[..], &PEER_MAC, &ether_type, &packet].concat()
    }
}

/// A frame in GUE from that balancer, with one candidate: a TCP segment of nobody's connection.
pub(super) fn stranger(balancer: IpAddr, candidate: IpAddr) -> Vec<u8> {
    let mut segment = vec![0x12, 0x67, 0, 80, 0, 0, 0, 1, 0, 0, 0, 2, 0x50, 0x10];
    segment.resize(20, 0);
    let inner = packet(CLIENT4.into(), VIP4.into(), TCP, &segment);
    let octets = match candidate {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    };
    let words = (1 + 2 * octets.len() / 4) as u8;
    let none = vec![0; octets.len()];
    let gue = [&[words, IPV4_IN_IP, 0, 0, 1, 1, 0, 0], &octets[..], &none[..], &inner[..]].concat();
    let host: IpAddr = if balancer.is_ipv4() { HOST4.into() } else { HOST6.into() };
    let packet = packet(balancer, host, UDP, &udp(None, 0xc001, GUE_PORT, &gue));
    let ether_type: [u8; 2] = if balancer.is_ipv4() { [0x08, 0x00] } else { [0x86, 0xdd] };
    [&BALANCER_MAC[..], &PEER_MAC, &ether_type, &packet].concat()
}

fn packet(source: IpAddr, destination: IpAddr, protocol: u8, payload: &[u8]) -> Vec<u8> {
    if let (IpAddr::V4(source), IpAddr::V4(destination)) = (source, destination) {
        let len = (20 + payload.len() as u16).to_be_bytes();
        let mut header = vec![0x45, 0, len[0], len[1], 0, 0, 0x40, 0, 64, protocol, 0, 0];
        header.extend(source.octets());
        header.extend(destination.octets());
        let sum = !checksum::sum(&header);
        header[10..12].copy_from_slice(&sum.to_be_bytes());
        return [&header, payload].concat();
    }
    let mut header = vec![0x60, 0, 0, 0];
    header.extend((payload.len() as u16).to_be_bytes());
    header.extend([protocol, 64]);
    for address in [source, destination] {
        header.extend(in_ipv6(address));
    }
    [&header, payload].concat()
}

/// An IPv4 address is mapped.
fn in_ipv6(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
        IpAddr::V6(v6) => v6.octets(),
    }
}

/// A datagram; with a checksum, where the addresses for it are given.
fn udp(
    addresses: Option<(IpAddr, IpAddr)>,
    source_port: u16,
    destination_port: u16,
    data: &[u8],
) -> Vec<u8> {
    let len = 8 + data.len() as u16;
    let mut datagram = Vec::new();
    for field in [source_port, destination_port, len, 0] {
        datagram.extend(field.to_be_bytes());
    }
    datagram.extend(data);
    if let Some((source, destination)) = addresses {
        let octets = |address: IpAddr| match address {
            IpAddr::V4(v4) => v4.octets().to_vec(),
            IpAddr::V6(v6) => v6.octets().to_vec(),
        };
        let mut summed = [octets(source), octets(destination)].concat();
        summed.extend([0, UDP]);
        summed.extend(len.to_be_bytes());
        summed.extend(&datagram);
        summed.resize(summed.len().next_multiple_of(2), 0);
        let sum = !checksum::sum(&summed);
        datagram[6..8].copy_from_slice(&sum.to_be_bytes());
    }
    datagram
}
