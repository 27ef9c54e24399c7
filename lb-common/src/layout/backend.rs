//! A backend's record: everything that a frame toward it needs, ready to copy.

use super::Plain;
use crate::network::Address;

/// Room for the longest outer header behind Ethernet: IPv6, UDP and GUE.
pub const OUTER_CAPACITY: usize = 56;

/// What becomes of a packet toward a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// Nothing: only the MAC addresses change.
    L2 = 1,
    /// An IPv4 header (RFC 2003, RFC 4213).
    Ipv4 = 2,
    /// An IPv6 header (RFC 2473).
    Ipv6 = 3,
    /// IPv4, UDP and GUE headers (draft-ietf-intarea-gue).
    GueIpv4 = 4,
    /// IPv6, UDP and GUE headers.
    GueIpv6 = 5,
    /// Another destination address and port (RFC 3022): VIP and backend are IPv4.
    NatIpv4 = 6,
    /// The same, VIP and backend are IPv6.
    NatIpv6 = 7,
    /// Another source as well, from a pool: VIP and backend are IPv4.
    FullnatIpv4 = 8,
    /// The same, VIP and backend are IPv6.
    FullnatIpv6 = 9,
    /// The same, VIP is IPv6 and backend IPv4: packets get headers of the other family (RFC 7915).
    FullnatToIpv4 = 10,
    /// The same, VIP is IPv4 and backend IPv6.
    FullnatToIpv6 = 11,
}

impl Kind {
    /// Length in bytes of the outer header, behind Ethernet.
    #[inline(always)]
    pub const fn outer_len(self) -> usize {
        match self {
            Self::L2 | Self::NatIpv4 | Self::NatIpv6 | Self::FullnatIpv4 | Self::FullnatIpv6 => 0,
            // Another header, in the place of the packet's own.
            Self::FullnatToIpv4 | Self::FullnatToIpv6 => 0,
            Self::Ipv4 => 20,
            Self::Ipv6 => 40,
            Self::GueIpv4 => 20 + 8 + 4,
            Self::GueIpv6 => 40 + 8 + 4,
        }
    }

    /// Whether packets change their destination, and answers come back through the balancer.
    #[inline(always)]
    pub const fn is_nat(self) -> bool {
        matches!(self, Self::NatIpv4 | Self::NatIpv6)
    }

    /// Whether packets change their source, too.
    #[inline(always)]
    pub const fn is_fullnat(self) -> bool {
        matches!(self, Self::FullnatIpv4 | Self::FullnatIpv6) | self.is_across()
    }

    /// Whether VIP and backend are of different families.
    #[inline(always)]
    pub const fn is_across(self) -> bool {
        matches!(self, Self::FullnatToIpv4 | Self::FullnatToIpv6)
    }
}

impl TryFrom<u8> for Kind {
    type Error = u8;

    #[inline(always)]
    fn try_from(raw: u8) -> Result<Self, u8> {
        match raw {
            1 => Ok(Self::L2),
            2 => Ok(Self::Ipv4),
            3 => Ok(Self::Ipv6),
            4 => Ok(Self::GueIpv4),
            5 => Ok(Self::GueIpv6),
            6 => Ok(Self::NatIpv4),
            7 => Ok(Self::NatIpv6),
            8 => Ok(Self::FullnatIpv4),
            9 => Ok(Self::FullnatIpv6),
            10 => Ok(Self::FullnatToIpv4),
            11 => Ok(Self::FullnatToIpv6),
            other => Err(other),
        }
    }
}

/// One version of what is known about a backend.
///
/// The first 68 bytes are what a packet in `ipip` over IPv4 reads: two cache lines at the worst.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C, align(64))]
pub struct BackendRecord {
    /// In the first record of a [`BackendEntry`]: which of the two is in force, 0 or 1.
    /// Means nothing in the second.
    pub active: u32,
    /// A [`Kind`]; 0 is a vacant record.
    pub kind: u8,
    /// 1 once the next hop's MAC address is known.
    pub resolved: u8,
    /// Longest packet (from the outer IP header on) that the way to the backend takes, in bytes:
    /// 65,535, the most that a length field says, where it has no other limit, and where packets
    /// become another family's: for those it is [`BackendRecord::mtu_across`].
    pub mtu: u16,
    /// The interface that leads to the backend; 0 is always the one the packet came in by.
    pub egress_ifindex: u32,
    /// That interface's index in the device map.
    pub egress_port: u32,
    /// Destination, then source MAC address.
    pub macs: [u8; 12],
    /// One's complement sum of the outer IPv4 header as `outer` holds it (length, TOS and checksum
    /// zero): 16-bit big-endian words, folded, not inverted. Under `nat` and `fullnat`, what checksums gain where
    /// the VIP becomes the backend's address: [`crate::checksum::address_difference`].
    pub outer_sum: u32,
    /// The outer header behind Ethernet: `Kind::outer_len` bytes, lengths, TOS, entropy and IPv4
    /// checksum zero. Under `nat` and `fullnat`, what [`BackendRecord::destination`] reads: the
    /// backend's address and port once more, in the cache line of what else such a packet needs.
    pub outer: [u8; OUTER_CAPACITY],
    /// The service that it belongs to, a [`crate::id::ServiceId`].
    pub service: u32,
    /// Told apart from former users of the same number.
    pub generation: u32,
    /// The backend's address; an IPv4 address is mapped (`::ffff:a.b.c.d`).
    pub address: [u8; 16],
    /// The backend's port, host order; 0 where the packet's port stays.
    pub port: u16,
    /// 1 while packets of its flows may be sent to it: it is healthy or drains.
    pub alive: u8,
    /// Zero.
    pub reserved: [u8; 13],
}

impl BackendRecord {
    /// [`Kind::is_across`] of its kind.
    #[inline(always)]
    pub const fn is_across(&self) -> bool {
        self.kind >= Kind::FullnatToIpv4 as u8
    }

    /// No backend.
    pub const VACANT: Self = Self {
        active: 0,
        kind: 0,
        resolved: 0,
        mtu: 0,
        egress_ifindex: 0,
        egress_port: 0,
        macs: [0; 12],
        outer_sum: 0,
        outer: [0; OUTER_CAPACITY],
        service: 0,
        generation: 0,
        address: [0; 16],
        port: 0,
        alive: 0,
        reserved: [0; 13],
    };

    /// Under `nat` and `fullnat`: the address that packets are sent to, mapped where it is IPv4, and the port,
    /// host order; 0 where the packet's stays.
    #[inline(always)]
    pub const fn destination(&self) -> (&Address, u16) {
        const { assert!(OUTER_CAPACITY >= size_of::<Address>() + 2) };
        // SAFETY: as many bytes, by the assertion.
        let address = unsafe { &*self.outer.as_ptr().cast::<Address>() };
        (address, u16::from_be_bytes([self.outer[16], self.outer[17]]))
    }

    /// Sets [`BackendRecord::destination`] to the record's own address and port.
    pub fn set_destination(&mut self) {
        self.outer[..16].copy_from_slice(&self.address);
        self.outer[16..18].copy_from_slice(&self.port.to_be_bytes());
    }
}

/// A backend's place in the backend table: two records, of which one is in force.
///
/// The agent writes the other one, whole, and then turns `records[0].active`: a packet sees the
/// old record or the new one. Before it writes again it waits until no program can still read it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct BackendEntry {
    /// The two versions.
    pub records: [BackendRecord; 2],
}

impl BackendEntry {
    /// No backend.
    pub const VACANT: Self = Self { records: [BackendRecord::VACANT; 2] };

    /// The record in force, chosen once: the agent may turn it at any time.
    #[inline(always)]
    pub fn active(&self) -> &BackendRecord {
        // SAFETY: a reference is readable and aligned.
        let active = unsafe { (&raw const self.records[0].active).read_volatile() };
        &self.records[(active & 1) as usize]
    }
}

// SAFETY: integers and arrays of them; the assertions below leave no room for padding.
unsafe impl Plain for BackendRecord {}
// SAFETY: two `Plain` records without padding between or behind.
unsafe impl Plain for BackendEntry {}

const _: () = {
    use core::mem::{offset_of, size_of};
    assert!(size_of::<BackendRecord>() == 128);
    assert!(size_of::<BackendEntry>() == 256);
    assert!(offset_of!(BackendRecord, macs) == 16);
    assert!(offset_of!(BackendRecord, outer_sum) == 28);
    assert!(offset_of!(BackendRecord, outer) == 32);
    assert!(offset_of!(BackendRecord, service) == 88);
    assert!(offset_of!(BackendRecord, address) == 96);
    assert!(offset_of!(BackendRecord, port) == 112);
    assert!(offset_of!(BackendRecord, reserved) + 13 == 128);
};
