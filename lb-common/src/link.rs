//! Ethernet with up to two VLAN tags.

use network_types::eth::{EthHdr, EtherType};

use crate::packet::{Buffer, Packet};

const IPV4: u16 = EtherType::Ipv4 as u16;
const IPV6: u16 = EtherType::Ipv6 as u16;
const CUSTOMER_TAG: u16 = EtherType::Ieee8021q as u16;
const SERVICE_TAG: u16 = EtherType::Ieee8021ad as u16;
/// Used for the outer tag before 802.1ad gave it a number of its own.
const OLD_SERVICE_TAG: u16 = EtherType::Ieee8021QinQ1 as u16;

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
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tags {
    /// Untagged.
    None,
    /// 802.1Q.
    One([u8; TAG_LEN]),
    /// 802.1ad, "QinQ".
    Two([u8; TAG_LEN], [u8; TAG_LEN]),
}

impl Tags {
    /// Length in bytes of the link header with these tags.
    #[inline(always)]
    pub const fn link_len(self) -> usize {
        match self {
            Self::None => EthHdr::LEN,
            Self::One(_) => EthHdr::LEN + TAG_LEN,
            Self::Two(..) => EthHdr::LEN + 2 * TAG_LEN,
        }
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
            return Some(Self { tags: Tags::None, network });
        }
        if !is_tag(ethernet.ether_type) {
            return None;
        }
        // The first tag's TPID is where the EtherType was.
        let outer: [u8; TAG_LEN] = packet.read(EthHdr::LEN - 2)?;
        let behind: u16 = packet.read(EthHdr::LEN - 2 + TAG_LEN)?;
        if let Some(network) = network(behind) {
            return Some(Self { tags: Tags::One(outer), network });
        }
        if !is_tag(behind) {
            return None;
        }
        let inner: [u8; TAG_LEN] = packet.read(EthHdr::LEN - 2 + TAG_LEN)?;
        let network = network(packet.read(EthHdr::LEN - 2 + 2 * TAG_LEN)?)?;
        Some(Self { tags: Tags::Two(outer, inner), network })
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
