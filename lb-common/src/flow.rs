//! What a packet says of its flow.

use crate::{
    network::{Fragment, Network, TCP, Transport},
    packet::{Buffer, Packet},
    verdict::DropReason,
};

const TCP_HEADER_LEN: u32 = 20;
const UDP_HEADER_LEN: u32 = 8;

/// TCP's flag bits (RFC 9293 section 3.1).
pub mod flag {
    /// No more data from the sender.
    pub const FIN: u8 = 0x01;
    /// Opens a connection.
    pub const SYN: u8 = 0x02;
    /// Resets the connection.
    pub const RST: u8 = 0x04;
    /// The acknowledgement is significant.
    pub const ACK: u8 = 0x10;
}

/// The transport's part of a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flow {
    /// TCP's or UDP's number.
    pub protocol: u8,
    /// Source and destination port as they lie in the packet.
    pub ports: u32,
    /// TCP's flags; 0 for UDP.
    pub flags: u8,
}

impl Flow {
    /// It opens a connection: a SYN without ACK.
    #[inline(always)]
    pub const fn opens(&self) -> bool {
        self.flags & (flag::SYN | flag::ACK) == flag::SYN
    }
}

/// The destination port of ports as they lie in the packet, host order.
#[inline(always)]
pub const fn destination_port(ports: u32) -> u16 {
    u32::from_be(ports) as u16
}

/// The source port of ports as they lie in the packet, host order.
#[inline(always)]
pub const fn source_port(ports: u32) -> u16 {
    (u32::from_be(ports) >> 16) as u16
}

/// Source and destination port, as they lie in the packet: what it takes to find the service.
/// `offset` is the network header's.
///
/// # Errors
/// [`DropReason::Malformed`] where the network header is no guide to them or the packet ends before
/// them, [`DropReason::Fragment`] where another fragment has them, [`DropReason::Truncated`].
#[inline(always)]
pub fn ports<B: Buffer, N: Network>(
    packet: &Packet<B>,
    offset: usize,
    header: &N,
    transport: Transport,
) -> Result<u32, DropReason> {
    if transport.fragment == Fragment::Later {
        return Err(DropReason::Fragment);
    }
    // What lies behind the packet's end is padding of the link: no ports.
    let ends_early = header.total_len() < transport.offset + size_of::<u32>();
    if !header.is_well_formed() | ends_early {
        return Err(DropReason::Malformed);
    }
    // As one word, which the hash takes.
    packet.read(offset + transport.offset).ok_or(DropReason::Truncated)
}

/// Checks everything else about a packet that belongs to a service, and gives TCP's flags. Its
/// [`ports`] were read.
///
/// # Errors
/// [`DropReason::Expired`], [`DropReason::Truncated`], [`DropReason::Fragment`] or
/// [`DropReason::Malformed`].
#[inline(always)]
pub fn flags<B: Buffer, N: Network>(
    packet: &Packet<B>,
    offset: usize,
    header: &N,
    transport: Transport,
) -> Result<u8, DropReason> {
    if header.is_expired() {
        return Err(DropReason::Expired);
    }
    if !packet.has(offset, header.total_len()) {
        return Err(DropReason::Truncated);
    }
    if transport.fragment == Fragment::First {
        return Err(DropReason::Fragment);
    }
    let start = offset + transport.offset;
    // What the network header leaves for the transport: no less than its ports.
    let payload_len = header.total_len().wrapping_sub(transport.offset) as u32;
    if transport.protocol == TCP {
        // From the data offset to the urgent pointer.
        let rest: [u8; 8] = packet.read(start + 12).ok_or(DropReason::Truncated)?;
        let header_len = u32::from(rest[0] >> 4) * 4;
        if header_len < TCP_HEADER_LEN || header_len > payload_len {
            return Err(DropReason::Malformed);
        }
        Ok(rest[1])
    } else {
        // Length and checksum.
        let rest: [u8; 4] = packet.read(start + 4).ok_or(DropReason::Truncated)?;
        let len = u32::from(u16::from_be_bytes([rest[0], rest[1]]));
        if len < UDP_HEADER_LEN || len > payload_len {
            return Err(DropReason::Malformed);
        }
        Ok(0)
    }
}
