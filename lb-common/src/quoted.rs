//! ICMP and ICMPv6 errors, and the packets that they quote.
//!
//! An error is about a packet that its receiver sent. Where that packet had other addresses and
//! ports on a part of its way, the error gets those that its receiver knows (RFC 5508 section 4.2),
//! inside and outside.

use crate::{
    checksum,
    layout::FAMILY_V4,
    network::{Fragment, Network, TCP, Transport, UDP},
    packet::{Buffer, Packet},
    translate::{self, Becomes, End, Headers},
    verdict::DropReason,
};

/// Length in bytes of an ICMP error before the packet that it quotes.
pub const ICMP_LEN: usize = 8;
/// Bytes of the quoted transport header that any error has (RFC 792): with the ports.
const QUOTED_LEN: usize = 8;

/// Whether an ICMP message of this type quotes the packet that it is about (RFC 792, RFC 4443).
#[inline(always)]
pub fn is_error<N: Network>(kind: u8) -> bool {
    if N::FAMILY == FAMILY_V4 {
        // Destination unreachable, time exceeded, parameter problem.
        matches!(kind, 3 | 11 | 12)
    } else {
        matches!(kind, 1..=4)
    }
}

/// An ICMP error.
#[derive(Clone, Copy, Debug)]
pub struct IcmpError<N> {
    /// Where its own header is, from the frame's first byte on.
    at: usize,
    /// The network header of the packet that it quotes.
    pub quoted: N,
    /// That packet's protocol: TCP or UDP.
    pub protocol: u8,
    /// Where that packet's transport header is, behind its network header's first byte.
    offset: usize,
    /// Bytes that are quoted of the transport header and what follows it.
    len: usize,
    /// That packet's ports, as they lie in it.
    pub ports: u32,
}

impl<N: Network> IcmpError<N> {
    /// Reads a control message of `len` bytes at `at`. `None` for what is no error, or quotes too
    /// little, or nothing of TCP or UDP.
    #[inline(always)]
    pub fn read<B: Buffer>(packet: &mut Packet<B>, at: usize, len: usize) -> Option<Self> {
        let mut message = packet.behind(at);
        let header: [u8; ICMP_LEN] = message.read(0)?;
        if !is_error::<N>(header[0]) {
            return None;
        }
        let quoted = N::read(&message, ICMP_LEN)?;
        let Transport { protocol, offset, fragment } = quoted.transport(&message, ICMP_LEN).ok()?;
        let is_ours = (protocol == TCP) | (protocol == UDP);
        let before = ICMP_LEN + offset;
        if !is_ours
            | (fragment == Fragment::Later)
            | !quoted.is_well_formed()
            | (before + QUOTED_LEN > len)
        {
            return None;
        }
        let [a, b, c, d, ..] = message.behind(before).read::<[u8; QUOTED_LEN]>(0)?;
        let ports = u32::from_ne_bytes([a, b, c, d]);
        Some(Self { at, quoted, protocol, offset, len: len - before, ports })
    }

    /// Where the quoted transport header is, behind the network header's first byte.
    #[inline(always)]
    pub const fn offset(&self) -> usize {
        self.offset
    }

    /// Bytes that are quoted of the transport header and what follows it; one at least.
    #[inline(always)]
    #[expect(clippy::len_without_is_empty, reason = "ports are always quoted")]
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Replaces one end of the quoted packet, of which `port` is the port, host order. `outside` is
    /// what the addresses of the error's own header gain, which ICMPv6's checksum covers.
    ///
    /// # Errors
    /// [`DropReason::Truncated`] where the frame ends before what is written.
    #[inline(always)]
    pub fn translate<B: Buffer>(
        &self,
        packet: &mut Packet<B>,
        end: End,
        port: u16,
        to: Becomes<'_>,
        outside: u32,
    ) -> Result<(), DropReason> {
        let mut message = packet.behind(self.at);
        let mut gained = translate::address::<N, _>(&mut message, ICMP_LEN, end, to)?;
        let protocol = self.protocol;
        let headers = Headers { network: 0, transport: 0, protocol, end: self.len };
        let mut transport = message.behind(ICMP_LEN + self.offset);
        gained += translate::port(&mut transport, headers, end, port, to)?;
        let covered = if N::FAMILY == FAMILY_V4 { 0 } else { outside };
        let old = u16::from_be(message.read(2).ok_or(DropReason::Truncated)?);
        let new = checksum::updated(old, u32::from(checksum::fold(gained)) + covered);
        message.write(2, new.to_be())
    }
}
