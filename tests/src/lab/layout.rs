//! Addresses and sizes of the lab's networks.

use std::net::{Ipv4Addr, Ipv6Addr};

/// MTU of the client's link in bytes: what it sends fits the segment also when the largest outer
/// header is put in front (40 bytes of IPv6, 8 of UDP, and GUE with two candidates).
pub const CLIENT_MTU: u16 = 1380;

/// MTU of all other links, in bytes.
pub const SEGMENT_MTU: u16 = 1500;

/// Which network to build.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Topology {
    /// Client, balancer and backends share one layer-2 segment; the balancer has one NIC.
    OneSegment,
    /// The balancer stands between client and backends, and routes what isn't for it.
    TwoNics,
    /// One segment, one NIC, and the balancer is the gateway between the client's network and the
    /// backends', which know nothing of the virtual addresses.
    OneNicGateway,
    /// As [`Topology::TwoNics`], and the backends know nothing of the virtual addresses.
    TwoNicsGateway,
}

impl Topology {
    /// The balancer has an interface on either side.
    pub(super) fn has_two_nics(self) -> bool {
        matches!(self, Self::TwoNics | Self::TwoNicsGateway)
    }

    /// Backends have the virtual addresses.
    pub(super) fn is_direct(self) -> bool {
        matches!(self, Self::OneSegment | Self::TwoNics)
    }
}

/// A network's prefixes; a host is named by its last number.
#[derive(Clone, Copy, Debug)]
pub(super) struct Network(u8);

impl Network {
    /// Where the client is.
    pub(super) const CLIENT: Self = Self(71);

    /// Where the backends are.
    pub(super) fn of_backends(topology: Topology) -> Self {
        match topology {
            Topology::OneSegment => Self::CLIENT,
            _ => Self(72),
        }
    }

    /// A host's IPv4 address, in a /24 of private space.
    pub(super) fn v4(self, host: u8) -> Ipv4Addr {
        Ipv4Addr::new(10, self.0, 0, host)
    }

    /// A host's IPv6 address, in a /64 of unique local space.
    pub(super) fn v6(self, host: u8) -> Ipv6Addr {
        Ipv6Addr::new(0xfd00 | u16::from(self.0), 0, 0, 0, 0, 0, 0, u16::from(host))
    }

    /// A host's link-layer address, locally administered.
    pub(super) fn mac(self, host: u8) -> [u8; 6] {
        [0x02, self.0, 0, 0, 0, host]
    }
}
