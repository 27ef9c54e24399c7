//! The two network protocols, behind one trait, so that the packet path is written once and
//! compiled to straight code for each.

use network_types::ip::{Ipv4Hdr, Ipv6Hdr};

use crate::{
    hash::{self, KeySource},
    layout::{FAMILY_V4, FAMILY_V6},
    packet::{Buffer, Packet},
    verdict::DropReason,
};

/// Protocol number of TCP.
pub const TCP: u8 = 6;
/// Protocol number of UDP.
pub const UDP: u8 = 17;

/// Protocol number of ICMP.
pub const ICMP: u8 = 1;
/// Protocol number of ICMPv6.
pub const ICMPV6: u8 = 58;

const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const AUTHENTICATION: u8 = 51;
const DESTINATION_OPTIONS: u8 = 60;
const MOBILITY: u8 = 135;
const HIP: u8 = 139;
const SHIM6: u8 = 140;

/// What a network header says of fragmentation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fragment {
    /// The packet is whole.
    Whole,
    /// It begins a datagram, so its ports are there.
    First,
    /// It goes on with one.
    Later,
}

/// Where the transport header is, and whose it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transport {
    /// Its protocol number.
    pub protocol: u8,
    /// Length in bytes of everything between the network header's first byte and it.
    pub offset: usize,
    /// What the headers before it say of fragmentation.
    pub fragment: Fragment,
}

/// An address in 16 bytes; an IPv4 address is mapped (`::ffff:a.b.c.d`).
pub type Address = [u8; 16];

/// An IPv4 address in 16 bytes.
#[inline(always)]
pub const fn mapped(address: [u8; 4]) -> Address {
    // As one number: bytes would be put together one by one, behind a call that clears them.
    (0xffff_0000_0000 | u32::from_be_bytes(address) as u128).to_be_bytes()
}

/// Whether 16 bytes hold an IPv4 address.
#[inline(always)]
pub const fn is_mapped(address: &Address) -> bool {
    u128::from_be_bytes(*address) >> 32 == 0xffff
}

/// An address in words, as they lie in memory and in the packet: bytes would be copied one by one.
#[inline(always)]
pub const fn words(address: Address) -> [u32; 4] {
    let address = u128::from_ne_bytes(address);
    let (low, high) = (address as u64, (address >> 64) as u64);
    let [a, b, c, d] = [low as u32, (low >> 32) as u32, high as u32, (high >> 32) as u32];
    if cfg!(target_endian = "little") { [a, b, c, d] } else { [d, c, b, a] }
}

/// A network header.
pub trait Network: Sized + Copy {
    /// Value of [`crate::layout::VipEntry::family`].
    const FAMILY: u8;

    /// Protocol number of its control messages.
    const CONTROL: u8;

    /// Where in the header the source address is, in bytes.
    const SOURCE_AT: usize;

    /// Where in the header the destination address is, in bytes.
    const DESTINATION_AT: usize;

    /// Where in the header its checksum is, in bytes; `None` where it has none.
    const CHECKSUM_AT: Option<usize>;

    /// The header at `offset` bytes, if the frame is long enough.
    fn read<B: Buffer>(packet: &Packet<B>, offset: usize) -> Option<Self>;

    /// The destination as the VIP table has it.
    fn destination(&self) -> [u64; 2];

    /// Source, in the form that both families share.
    fn source_address(&self) -> Address;

    /// Destination, in the form that both families share.
    fn destination_address(&self) -> Address;

    /// The source is a single host that can be told something (RFC 1122 section 3.2.2, RFC 4443
    /// section 2.4): not the unspecified address, nobody's loopback, no group.
    fn source_is_host(&self) -> bool;

    /// The header of a packet the other way.
    fn reversed(self) -> Self;

    /// Routers may not fragment the packet.
    fn is_kept_whole(&self) -> bool;

    /// Writes an address, in the form that both families share, at its place in a header.
    ///
    /// # Errors
    /// [`DropReason::Truncated`] past the end of the frame.
    fn write_address<B: Buffer>(
        packet: &mut Packet<B>,
        at: usize,
        address: &Address,
    ) -> Result<(), DropReason>;

    /// Length in bytes that the header gives the whole packet.
    fn total_len(&self) -> usize;

    /// DSCP and ECN.
    fn traffic_class(&self) -> u8;

    /// Protocol number of what follows it.
    fn protocol(&self) -> u8;

    /// The header doesn't contradict itself.
    fn is_well_formed(&self) -> bool;

    /// The packet's last hop was before this one.
    fn is_expired(&self) -> bool;

    /// Follows the headers up to the transport's; what it says holds if the header
    /// [is well-formed](Network::is_well_formed).
    ///
    /// # Errors
    /// [`DropReason::Truncated`] or [`DropReason::Ipv6Extension`].
    fn transport<B: Buffer>(
        &self,
        packet: &Packet<B>,
        offset: usize,
    ) -> Result<Transport, DropReason>;

    /// Keyed hash of the whole five-tuple; `ports` as they lie in the packet.
    fn flow_hash(&self, keys: &impl KeySource, ports: u32, protocol: u8) -> u64;

    /// Keyed hash of the client's address and the VIP.
    fn source_hash(&self, keys: &impl KeySource) -> u64 {
        self.flow_hash(keys, 0, 0)
    }
}

impl Network for Ipv4Hdr {
    const FAMILY: u8 = FAMILY_V4;
    const CONTROL: u8 = ICMP;
    const SOURCE_AT: usize = 12;
    const DESTINATION_AT: usize = 16;
    const CHECKSUM_AT: Option<usize> = Some(10);

    #[inline(always)]
    fn read<B: Buffer>(packet: &Packet<B>, offset: usize) -> Option<Self> {
        packet.read(offset)
    }

    #[inline(always)]
    fn destination(&self) -> [u64; 2] {
        [0, u64::from(u32::from_be_bytes(self.dst_addr))]
    }

    #[inline(always)]
    fn source_address(&self) -> Address {
        mapped(self.src_addr)
    }

    #[inline(always)]
    fn destination_address(&self) -> Address {
        mapped(self.dst_addr)
    }

    #[inline(always)]
    fn source_is_host(&self) -> bool {
        let first = self.src_addr[0];
        (first != 0) & (first != 127) & (first < 224)
    }

    #[inline(always)]
    fn reversed(self) -> Self {
        Self { src_addr: self.dst_addr, dst_addr: self.src_addr, ..self }
    }

    #[inline(always)]
    fn is_kept_whole(&self) -> bool {
        u16::from_be_bytes(self.frags) & 0x4000 != 0
    }

    #[inline(always)]
    fn write_address<B: Buffer>(
        packet: &mut Packet<B>,
        at: usize,
        address: &Address,
    ) -> Result<(), DropReason> {
        let [.., a, b, c, d] = *address;
        packet.write(at, [a, b, c, d])
    }

    #[inline(always)]
    fn total_len(&self) -> usize {
        usize::from(u16::from_be_bytes(self.tot_len))
    }

    #[inline(always)]
    fn traffic_class(&self) -> u8 {
        self.tos
    }

    #[inline(always)]
    fn protocol(&self) -> u8 {
        self.proto
    }

    #[inline(always)]
    fn is_well_formed(&self) -> bool {
        let header_len = header_len(self);
        // Without branches, of which each would double the paths that the compiler lays out.
        (self.vihl >> 4 == 4) & (header_len >= Self::LEN) & (self.total_len() >= header_len)
    }

    #[inline(always)]
    fn is_expired(&self) -> bool {
        self.ttl == 0
    }

    #[inline(always)]
    fn transport<B: Buffer>(&self, _: &Packet<B>, _: usize) -> Result<Transport, DropReason> {
        // More fragments: 0x2000; offset: 0x1fff.
        let fragment = match u16::from_be_bytes(self.frags) & 0x3fff {
            0 => Fragment::Whole,
            0x2000 => Fragment::First,
            _ => Fragment::Later,
        };
        Ok(Transport { protocol: self.proto, offset: header_len(self), fragment })
    }

    #[inline(always)]
    fn flow_hash(&self, keys: &impl KeySource, ports: u32, protocol: u8) -> u64 {
        hash::ipv4(
            keys,
            u32::from_ne_bytes(self.src_addr),
            u32::from_ne_bytes(self.dst_addr),
            ports,
            protocol,
        )
    }
}

impl Network for Ipv6Hdr {
    const FAMILY: u8 = FAMILY_V6;
    const CONTROL: u8 = ICMPV6;
    const SOURCE_AT: usize = 8;
    const DESTINATION_AT: usize = 24;
    const CHECKSUM_AT: Option<usize> = None;

    #[inline(always)]
    fn read<B: Buffer>(packet: &Packet<B>, offset: usize) -> Option<Self> {
        packet.read(offset)
    }

    #[inline(always)]
    fn destination(&self) -> [u64; 2] {
        let address = u128::from_be_bytes(self.dst_addr);
        [(address >> 64) as u64, address as u64]
    }

    #[inline(always)]
    fn source_address(&self) -> Address {
        self.src_addr
    }

    #[inline(always)]
    fn destination_address(&self) -> Address {
        self.dst_addr
    }

    #[inline(always)]
    fn source_is_host(&self) -> bool {
        // `::` and `::1`; groups begin with `ff`.
        (self.src_addr[0] != 0xff) & (u128::from_be_bytes(self.src_addr) > 1)
    }

    #[inline(always)]
    fn reversed(self) -> Self {
        Self { src_addr: self.dst_addr, dst_addr: self.src_addr, ..self }
    }

    #[inline(always)]
    fn is_kept_whole(&self) -> bool {
        true
    }

    #[inline(always)]
    fn write_address<B: Buffer>(
        packet: &mut Packet<B>,
        at: usize,
        address: &Address,
    ) -> Result<(), DropReason> {
        packet.write(at, *address)
    }

    #[inline(always)]
    fn total_len(&self) -> usize {
        Self::LEN + usize::from(u16::from_be_bytes(self.payload_len))
    }

    #[inline(always)]
    fn traffic_class(&self) -> u8 {
        self.vcf[0] << 4 | self.vcf[1] >> 4
    }

    #[inline(always)]
    fn protocol(&self) -> u8 {
        self.next_hdr
    }

    #[inline(always)]
    fn is_well_formed(&self) -> bool {
        self.vcf[0] >> 4 == 6
    }

    #[inline(always)]
    fn is_expired(&self) -> bool {
        self.hop_limit == 0
    }

    #[inline(always)]
    fn transport<B: Buffer>(
        &self,
        packet: &Packet<B>,
        offset: usize,
    ) -> Result<Transport, DropReason> {
        match self.next_hdr {
            FRAGMENT => {
                let header: [u8; 8] =
                    packet.read(offset + Self::LEN).ok_or(DropReason::Truncated)?;
                // Offset: the upper 13 bits; more fragments: the lowest. Neither is an atomic
                // fragment, which is a whole packet (RFC 6946).
                let fragment = match u16::from_be_bytes([header[2], header[3]]) & 0xfff9 {
                    0 => Fragment::Whole,
                    1 => Fragment::First,
                    _ => Fragment::Later,
                };
                Ok(Transport { protocol: header[0], offset: Self::LEN + header.len(), fragment })
            }
            HOP_BY_HOP | ROUTING | AUTHENTICATION | DESTINATION_OPTIONS | MOBILITY | HIP
            | SHIM6 => Err(DropReason::Ipv6Extension),
            protocol => Ok(Transport { protocol, offset: Self::LEN, fragment: Fragment::Whole }),
        }
    }

    #[inline(always)]
    fn flow_hash(&self, keys: &impl KeySource, ports: u32, protocol: u8) -> u64 {
        hash::ipv6(keys, words(self.src_addr), words(self.dst_addr), ports, protocol)
    }
}

/// Length in bytes that an IPv4 header gives itself.
#[inline(always)]
fn header_len(header: &Ipv4Hdr) -> usize {
    usize::from(header.vihl & 0x0f) * 4
}
