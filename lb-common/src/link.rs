//! Ethernet with up to two VLAN tags.

use network_types::eth::{EthHdr, EtherType};

use crate::{
    packet::{Buffer, Packet},
    verdict::DropReason,
};

const IPV4: u16 = EtherType::Ipv4 as u16;
const IPV6: u16 = EtherType::Ipv6 as u16;
const CUSTOMER_TAG: u16 = EtherType::Ieee8021q as u16;
const SERVICE_TAG: u16 = EtherType::Ieee8021ad as u16;
/// Used for the outer tag before 802.1ad gave it a number of its own.
const OLD_SERVICE_TAG: u16 = EtherType::Ieee8021QinQ1 as u16;

/// Length in bytes of a link header's two MAC addresses.
pub const MACS_LEN: usize = 12;
/// Length in bytes of a VLAN tag.
const TAG_LEN: usize = 4;

/// The network protocols that are balanced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NetworkProtocol {
    /// IPv4.
    Ipv4,
    /// IPv6.
    Ipv6,
}

impl NetworkProtocol {
    /// Its EtherType, in network order.
    #[inline(always)]
    pub const fn ether_type(self) -> u16 {
        match self {
            Self::Ipv4 => IPV4,
            Self::Ipv6 => IPV6,
        }
    }
}

/// VLAN tags as they lie in the frame, outermost first: TPID and TCI each.
///
/// Not an enum with the tags inside: where there are none, zeros stand in their places. The
/// compiler keeps both places in registers across branches, and the verifier refuses to let it
/// store one that was never set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tags {
    count: u32,
    tags: [[u8; TAG_LEN]; 2],
}

impl Tags {
    const NONE: Self = Self { count: 0, tags: [[0; TAG_LEN]; 2] };

    /// Length in bytes of the link header with these tags.
    #[inline(always)]
    pub const fn link_len(self) -> usize {
        EthHdr::LEN + self.count as usize * TAG_LEN
    }

    /// Writes a link header with these tags at the front of a frame. Returns its length in bytes.
    ///
    /// # Errors
    /// [`DropReason::Truncated`] if the frame is too short.
    #[inline(always)]
    pub fn write<B: Buffer>(
        self,
        packet: &mut Packet<B>,
        macs: [u8; MACS_LEN],
        network: NetworkProtocol,
    ) -> Result<usize, DropReason> {
        packet.write(0, macs)?;
        self.write_behind_macs(packet, network)
    }

    /// The same without the MAC addresses.
    ///
    /// # Errors
    /// As [`Tags::write`].
    #[inline(always)]
    pub fn write_behind_macs<B: Buffer>(
        self,
        packet: &mut Packet<B>,
        network: NetworkProtocol,
    ) -> Result<usize, DropReason> {
        if self.count > 0 {
            packet.write(MACS_LEN, self.tags[0])?;
        }
        if self.count > 1 {
            packet.write(MACS_LEN + TAG_LEN, self.tags[1])?;
        }
        let len = self.link_len();
        packet.write(len - (EthHdr::LEN - MACS_LEN), network.ether_type())?;
        Ok(len)
    }
}

/// What a frame's link header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Link {
    /// Kept on the way out.
    pub tags: Tags,
    /// What follows the link header.
    pub network: NetworkProtocol,
}

impl Link {
    /// Reads the link header; `None` for frames that aren't IP.
    #[inline(always)]
    pub fn read<B: Buffer>(packet: &Packet<B>) -> Option<Self> {
        let ethernet: EthHdr = packet.read(0)?;
        if let Some(network) = network(ethernet.ether_type) {
            return Some(Self { tags: Tags::NONE, network });
        }
        if !is_tag(ethernet.ether_type) {
            return None;
        }
        // The first tag's TPID is where the EtherType was.
        let outer: [u8; TAG_LEN] = packet.read(EthHdr::LEN - 2)?;
        let behind: u16 = packet.read(EthHdr::LEN - 2 + TAG_LEN)?;
        if let Some(network) = network(behind) {
            return Some(Self { tags: Tags { count: 1, tags: [outer, [0; TAG_LEN]] }, network });
        }
        if !is_tag(behind) {
            return None;
        }
        let inner: [u8; TAG_LEN] = packet.read(EthHdr::LEN - 2 + TAG_LEN)?;
        let network = network(packet.read(EthHdr::LEN - 2 + 2 * TAG_LEN)?)?;
        Some(Self { tags: Tags { count: 2, tags: [outer, inner] }, network })
    }
}

#[inline(always)]
const fn network(ether_type: u16) -> Option<NetworkProtocol> {
    match ether_type {
        IPV4 => Some(NetworkProtocol::Ipv4),
        IPV6 => Some(NetworkProtocol::Ipv6),
        _ => None,
    }
}

#[inline(always)]
const fn is_tag(ether_type: u16) -> bool {
    matches!(ether_type, CUSTOMER_TAG | SERVICE_TAG | OLD_SERVICE_TAG)
}
