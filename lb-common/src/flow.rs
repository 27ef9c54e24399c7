//! What a packet says of its flow.

use network_types::udp::UdpHdr;

use crate::{
    network::{Fragment, Network, TCP, Transport, UDP},
    packet::{Buffer, Packet},
    verdict::DropReason,
};

const TCP_HEADER_LEN: usize = 20;

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
    /// Destination port, host order.
    pub destination_port: u16,
    /// TCP's flags; 0 for UDP.
    pub flags: u8,
    /// The datagram came in pieces, and this is the first.
    pub fragment: bool,
}

impl Flow {
    /// It opens a connection: a SYN without ACK.
    #[inline(always)]
    pub const fn opens(&self) -> bool {
        self.flags & (flag::SYN | flag::ACK) == flag::SYN
    }

    /// Checks the packet and reads the transport header, for a VIP; the network header is at `offset`.
    ///
    /// # Errors
    /// Every [`DropReason`] that a header can give: the packet's protocol is one that the VIP
    /// serves, so that it is ours.
    #[inline(always)]
    pub fn read<B: Buffer, N: Network>(
        packet: &Packet<B>,
        offset: usize,
        header: &N,
        transport: Transport,
    ) -> Result<Self, DropReason> {
        header.check()?;
        if !packet.has(offset, header.total_len()) {
            return Err(DropReason::Truncated);
        }
        if transport.fragment == Fragment::Later {
            return Err(DropReason::Fragment);
        }
        let start = offset + transport.offset;
        // What the network header leaves for the transport.
        let payload_len = header.total_len().wrapping_sub(transport.offset) as u32;
        let fragment = transport.fragment == Fragment::First;
        if transport.protocol == TCP {
            let tcp: [u8; TCP_HEADER_LEN] = packet.read(start).ok_or(DropReason::Truncated)?;
            let header_len = u32::from(tcp[12] >> 4) * 4;
            if header_len < TCP_HEADER_LEN as u32 || header_len > payload_len && !fragment {
                return Err(DropReason::Malformed);
            }
            Ok(Self {
                protocol: TCP,
                ports: u32::from_ne_bytes([tcp[0], tcp[1], tcp[2], tcp[3]]),
                destination_port: u16::from_be_bytes([tcp[2], tcp[3]]),
                flags: tcp[13],
                fragment,
            })
        } else {
            let udp: UdpHdr = packet.read(start).ok_or(DropReason::Truncated)?;
            let len = u32::from(u16::from_be_bytes(udp.len));
            if len < UdpHdr::LEN as u32 || len > payload_len && !fragment {
                return Err(DropReason::Malformed);
            }
            let [a, b] = udp.src;
            let [c, d] = udp.dst;
            Ok(Self {
                protocol: UDP,
                ports: u32::from_ne_bytes([a, b, c, d]),
                destination_port: u16::from_be_bytes(udp.dst),
                flags: 0,
                fragment,
            })
        }
    }
}
