//! From a packet's destination to its service: two collision-free tables.
//!
//! Both tables are built by "hash and displace" (Belazzougui, Botelho, Dietzfelbinger, ESA 2009):
//! a key's bucket has a *pilot*, chosen by the agent so that no two keys of the whole table land
//! on the same position. A look-up is one multiplication, one pilot and one entry, for hits and
//! misses alike.
//!
//! There are two halves of everything; the agent builds the one that is not in force and turns
//! [`Directory::active`].

use super::Plain;

/// Buckets of each table; a pilot each. A power of two.
pub const PILOTS: usize = 1024;
/// Positions for VIPs in each half.
pub const VIP_POSITIONS: u32 = 4096;
/// Positions for services in each half.
pub const SERVICE_POSITIONS: u32 = 8192;

/// [`VipEntry::family`] of an IPv4 address.
pub const FAMILY_V4: u8 = 4;
/// [`VipEntry::family`] of an IPv6 address.
pub const FAMILY_V6: u8 = 6;

/// Bit of [`VipEntry::protocols`]: a service speaks TCP.
pub const PROTOCOL_TCP: u8 = 1;
/// Bit of [`VipEntry::protocols`]: a service speaks UDP.
pub const PROTOCOL_UDP: u8 = 2;

/// Bit of [`VipEntry::flags`]: echo requests are answered.
pub const VIP_ECHO: u32 = 1;

/// Bit of [`ServiceEntry::answers`]: backends answer through the balancer.
pub const ANSWERS: u8 = 1;
/// Bit of [`ServiceEntry::answers`]: and some from any port.
pub const ANSWERS_OF_ANY_PORT: u8 = 2;
/// Bit of [`ServiceEntry::answers`]: backends answer to addresses of pools, under `fullnat`.
pub const FULLNAT: u8 = 4;

/// Which parts of a packet choose its slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Affinity {
    /// The five-tuple.
    Flow = 0,
    /// The client's address alone.
    Source = 1,
    /// The five-tuple, and nothing is remembered: each packet stands alone.
    Packet = 2,
}

impl TryFrom<u8> for Affinity {
    type Error = u8;

    #[inline(always)]
    fn try_from(raw: u8) -> Result<Self, u8> {
        match raw {
            0 => Ok(Self::Flow),
            1 => Ok(Self::Source),
            2 => Ok(Self::Packet),
            other => Err(other),
        }
    }
}

/// The seeds and pilots of one half of the tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Half {
    /// Multipliers of an address's high and low 64 bits; odd.
    pub vip_seeds: [u64; 2],
    /// Multiplier of a [`service_key`]; odd.
    pub service_seed: u64,
    /// Bits that an address's displaced hash is shifted right by: 32 less the table's size in bits.
    pub vip_shift: u32,
    /// The same for services.
    pub service_shift: u32,
    /// What [`ServiceEntry::answers`] of all services have.
    pub answers: u32,
    /// Zero.
    pub reserved: u32,
    /// Displacement of each bucket of addresses; odd.
    pub vip_pilots: [u32; PILOTS],
    /// Displacement of each bucket of services; odd.
    pub service_pilots: [u32; PILOTS],
}

/// The one value of the directory map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Directory {
    /// [`super::VERSION`] of all the maps.
    pub version: u32,
    /// The half in force: 0 or 1.
    pub active: u32,
    /// The seed of the flow hash: the program has its keys built in, and an agent that starts
    /// must be able to find it here.
    pub hash_seed: u64,
    /// Both halves.
    pub halves: [Half; 2],
}

/// A virtual address. All zero is a vacant position.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct VipEntry {
    /// First and last 8 bytes of the address, each as a big-endian number; an IPv4 address
    /// stands in the last 4 bytes of the second.
    pub address: [u64; 2],
    /// Number of the VIP, part of its services' keys.
    pub id: u16,
    /// [`FAMILY_V4`], [`FAMILY_V6`] or 0 for a vacant position.
    pub family: u8,
    /// [`PROTOCOL_TCP`] and [`PROTOCOL_UDP`]: what its services speak.
    pub protocols: u8,
    /// For TCP, then UDP: position of the any-port service plus 1; 0 is none.
    pub any_port: [u16; 2],
    /// [`VIP_ECHO`].
    pub flags: u32,
    /// Zero.
    pub reserved: u32,
}

/// A service. All zero is a vacant position.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct ServiceEntry {
    /// [`service_key`]; an any-port service has port 0.
    pub key: u64,
    /// First slot of its ring in the slot table.
    pub ring_start: u32,
    /// Slots of its ring; a prime, at least 1.
    pub ring_size: u32,
    /// Number of the service, a [`crate::id::ServiceId`].
    pub id: u32,
    /// How long in seconds a flow may be quiet and still be one; at least 1.
    pub idle_seconds: u32,
    /// An [`Affinity`].
    pub affinity: u8,
    /// [`ANSWERS`], [`ANSWERS_OF_ANY_PORT`] and [`FULLNAT`].
    pub answers: u8,
    /// Zero.
    pub reserved: [u8; 6],
}

/// A service's key: VIP number, protocol number (6 or 17) and port (0 for any), packed.
#[inline(always)]
pub const fn service_key(vip: u16, protocol: u8, port: u16) -> u64 {
    (vip as u64) << 32 | (protocol as u64) << 16 | port as u64
}

impl Directory {
    /// The half in force, read once: the agent may turn it at any time.
    #[inline(always)]
    pub fn active(&self) -> u32 {
        // SAFETY: a reference is readable and aligned.
        unsafe { (&raw const self.active).read_volatile() }
    }
}

impl Half {
    /// Where an address stands in its half of the VIP table.
    #[inline(always)]
    pub fn vip_position(&self, address: [u64; 2]) -> u32 {
        let hash = self.vip_hash(address);
        Self::displaced(hash, self.vip_pilots[bucket(hash)], self.vip_shift) & (VIP_POSITIONS - 1)
    }

    /// Where a [`service_key`] stands in its half of the service table.
    #[inline(always)]
    pub fn service_position(&self, key: u64) -> u32 {
        let hash = self.service_hash(key);
        Self::displaced(hash, self.service_pilots[bucket(hash)], self.service_shift)
            & (SERVICE_POSITIONS - 1)
    }

    #[inline(always)]
    pub(crate) const fn vip_hash(&self, address: [u64; 2]) -> u64 {
        address[0]
            .wrapping_mul(self.vip_seeds[0])
            .wrapping_add(address[1].wrapping_mul(self.vip_seeds[1]))
    }

    #[inline(always)]
    pub(crate) const fn service_hash(&self, key: u64) -> u64 {
        key.wrapping_mul(self.service_seed)
    }

    /// Where a hash goes by its bucket's pilot: the bits below the bucket's, displaced.
    #[inline(always)]
    pub(crate) const fn displaced(hash: u64, pilot: u32, shift: u32) -> u32 {
        ((hash >> 22) as u32).wrapping_mul(pilot) >> (shift & 31)
    }
}

/// The bucket that a hash falls into.
#[inline(always)]
pub(crate) const fn bucket(hash: u64) -> usize {
    (hash >> (64 - PILOTS.trailing_zeros())) as usize
}

// SAFETY: integers and arrays of them; the assertions below leave no room for padding.
unsafe impl Plain for Half {}
// SAFETY: as above.
unsafe impl Plain for Directory {}
// SAFETY: as above.
unsafe impl Plain for VipEntry {}
// SAFETY: as above.
unsafe impl Plain for ServiceEntry {}

const _: () = {
    use core::mem::size_of;
    assert!(size_of::<Half>() == 40 + 8 * PILOTS);
    assert!(size_of::<Directory>() == 16 + 2 * size_of::<Half>());
    assert!(size_of::<VipEntry>() == 32);
    assert!(size_of::<ServiceEntry>() == 32);
};
