//! Builds the collision-free tables of [`crate::layout::Directory`], and reads them back.
//!
//! Pure: the same services give the same tables. Buckets are placed from the fullest on; a bucket
//! takes the first pilot that puts all its keys on free positions. Where one finds none, all
//! starts anew with other seeds.

use core::net::IpAddr;
use std::collections::{BTreeMap, HashSet};

use crate::{
    layout::{
        Affinity, FAMILY_V4, FAMILY_V6, Half, PILOTS, PROTOCOL_TCP, PROTOCOL_UDP,
        SERVICE_POSITIONS, ServiceEntry, VIP_ECHO, VIP_POSITIONS, VipEntry, bucket, service_key,
    },
    ring::mix,
};

/// The most VIPs of a directory: half of the positions, so that placing is fast and sure.
pub const MAX_VIPS: usize = VIP_POSITIONS as usize / 2;
/// The most services of a directory.
pub const MAX_SERVICES: usize = SERVICE_POSITIONS as usize / 2;

/// Fewest positions of a table.
const MIN_POSITIONS: u32 = 16;
/// Pilots that a bucket tries before all starts anew: at most half of the positions are taken, so
/// a bucket of 16 keys fits with a chance of 2⁻¹⁶ or better each time.
const TRIES: u64 = 1 << 18;
/// Sets of seeds to try. Each fails with a chance of about (keys in a bucket)² · 2⁻³³ a bucket.
const ATTEMPTS: u64 = 64;

/// Transport protocols by their number in IP headers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Transport {
    /// TCP.
    Tcp = 6,
    /// UDP.
    Udp = 17,
}

/// A service as the directory has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The virtual address; never an IPv4-mapped IPv6 one.
    pub vip: IpAddr,
    /// `None` is any port. Port 0 can't be served.
    pub port: Option<u16>,
    /// What it speaks.
    pub transport: Transport,
    /// Number of the service, a [`crate::id::ServiceId`].
    pub id: u32,
    /// First slot of its ring in the slot table.
    pub ring_start: u32,
    /// Slots of its ring.
    pub ring_size: u32,
    /// Which parts of a packet choose its slot.
    pub affinity: Affinity,
    /// How long in seconds a flow may be quiet and still be one.
    pub idle_seconds: u32,
    /// [`crate::layout::ServiceEntry::answers`].
    pub answers: u8,
    /// Echo requests to the VIP are answered; so they are where any service of the VIP says so.
    pub icmp_echo: bool,
}

/// One half of the tables, ready to copy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HalfTables {
    /// Seeds and pilots.
    pub half: Half,
    /// [`VIP_POSITIONS`] entries.
    pub vips: Vec<VipEntry>,
    /// [`SERVICE_POSITIONS`] entries.
    pub services: Vec<ServiceEntry>,
}

/// Why services make no directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DirectoryError {
    /// More than [`MAX_VIPS`].
    TooManyVips(usize),
    /// More than [`MAX_SERVICES`].
    TooManyServices(usize),
    /// Two services take the same packets; the second one.
    Duplicate(Entry),
    /// The IPv6 VIP has the bits of an IPv4 VIP: `::a.b.c.d`, which RFC 4291 section 2.5.5.1
    /// deprecates.
    SameBits(IpAddr),
    /// A service that takes port 0 alone, which no packet can be told to mean.
    PortZero(Entry),
    /// No seeds were found. Not seen to happen within the limits.
    Unplaceable,
}

impl core::fmt::Display for DirectoryError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::TooManyVips(count) => {
                write!(f, "{count} virtual addresses; one balancer takes {MAX_VIPS}")
            }
            Self::TooManyServices(count) => {
                write!(f, "{count} services; one balancer takes {MAX_SERVICES}")
            }
            Self::Duplicate(entry) => {
                write!(
                    f,
                    "two services at {} port {:?} {:?}",
                    entry.vip, entry.port, entry.transport
                )
            }
            Self::SameBits(vip) => {
                write!(f, "the virtual address {vip} has the bits of an IPv4 one; use another")
            }
            Self::PortZero(entry) => {
                write!(f, "the service at {} has port 0; use a port from 1 on or any", entry.vip)
            }
            Self::Unplaceable => write!(f, "the services found no places in the directory"),
        }
    }
}

impl core::error::Error for DirectoryError {}

/// The 128 bits of an address as [`VipEntry::address`] has them.
pub const fn address_words(address: IpAddr) -> [u64; 2] {
    match address {
        IpAddr::V4(address) => [0, address.to_bits() as u64],
        IpAddr::V6(address) => {
            let bits = address.to_bits();
            [(bits >> 64) as u64, bits as u64]
        }
    }
}

/// Builds one half.
///
/// # Errors
/// If there is too much, or two services are at odds.
pub fn build(entries: &[Entry]) -> Result<HalfTables, DirectoryError> {
    let mut vips = number_vips(entries)?;
    let mut services = BTreeMap::new();
    for entry in entries {
        if entry.port == Some(0) {
            return Err(DirectoryError::PortZero(*entry));
        }
        let vip = vips.get_mut(&entry.vip).expect("all VIPs were numbered");
        vip.protocols |= protocol_bit(entry.transport);
        vip.flags |= if entry.icmp_echo { VIP_ECHO } else { 0 };
        let service = ServiceEntry {
            key: service_key(vip.id, entry.transport as u8, entry.port.unwrap_or(0)),
            ring_start: entry.ring_start,
            ring_size: entry.ring_size,
            id: entry.id,
            idle_seconds: entry.idle_seconds,
            affinity: entry.affinity as u8,
            answers: entry.answers,
            reserved: [0; 6],
        };
        if services.insert(service.key, service).is_some() {
            return Err(DirectoryError::Duplicate(*entry));
        }
    }
    if services.len() > MAX_SERVICES {
        return Err(DirectoryError::TooManyServices(services.len()));
    }
    (0..ATTEMPTS)
        .find_map(|attempt| place_all(&vips, &services, attempt))
        .ok_or(DirectoryError::Unplaceable)
}

/// The services of one half, in no order. `None` if it contradicts itself.
pub fn read(vips: &[VipEntry], services: &[ServiceEntry]) -> Option<Vec<Entry>> {
    let known: BTreeMap<u16, (IpAddr, bool)> = vips
        .iter()
        .filter(|vip| vip.family != 0)
        .map(|vip| Some((vip.id, (address(vip)?, vip.flags & VIP_ECHO != 0))))
        .collect::<Option<_>>()?;
    let entry = |service: &ServiceEntry| {
        let (vip, echo) = known.get(&((service.key >> 32) as u16))?;
        let port = service.key as u16;
        Some(Entry {
            vip: *vip,
            port: (port != 0).then_some(port),
            transport: match (service.key >> 16) as u16 {
                6 => Transport::Tcp,
                17 => Transport::Udp,
                _ => return None,
            },
            id: service.id,
            ring_start: service.ring_start,
            ring_size: service.ring_size,
            affinity: Affinity::try_from(service.affinity).ok()?,
            idle_seconds: service.idle_seconds,
            answers: service.answers,
            icmp_echo: *echo,
        })
    };
    services.iter().filter(|service| service.key != 0).map(entry).collect()
}

fn address(vip: &VipEntry) -> Option<IpAddr> {
    let bits = u128::from(vip.address[0]) << 64 | u128::from(vip.address[1]);
    match vip.family {
        FAMILY_V4 => Some(IpAddr::V4(u32::try_from(bits).ok()?.into())),
        FAMILY_V6 => Some(IpAddr::V6(bits.into())),
        _ => None,
    }
}

fn protocol_bit(transport: Transport) -> u8 {
    match transport {
        Transport::Tcp => PROTOCOL_TCP,
        Transport::Udp => PROTOCOL_UDP,
    }
}

/// VIPs by address, numbered from 1 on, without protocols and any-port services.
fn number_vips(entries: &[Entry]) -> Result<BTreeMap<IpAddr, VipEntry>, DirectoryError> {
    let mut vips: BTreeMap<IpAddr, VipEntry> = entries
        .iter()
        .map(|entry| {
            let family = if entry.vip.is_ipv4() { FAMILY_V4 } else { FAMILY_V6 };
            let address = address_words(entry.vip);
            (entry.vip, VipEntry { address, family, ..VipEntry::default() })
        })
        .collect();
    if vips.len() > MAX_VIPS {
        return Err(DirectoryError::TooManyVips(vips.len()));
    }
    let mut seen = HashSet::new();
    for (id, (address, vip)) in (1..).zip(&mut vips) {
        if !seen.insert(vip.address) {
            return Err(DirectoryError::SameBits(*address));
        }
        vip.id = id;
    }
    Ok(vips)
}

/// Places everything with the seeds of one attempt; `None` if something doesn't fit.
fn place_all(
    vips: &BTreeMap<IpAddr, VipEntry>,
    services: &BTreeMap<u64, ServiceEntry>,
    attempt: u64,
) -> Option<HalfTables> {
    let seed = |number: u64| mix(attempt << 8 | number) | 1;
    let mut half = Half {
        vip_seeds: [seed(0), seed(1)],
        service_seed: seed(2),
        vip_shift: shift(vips.len()),
        service_shift: shift(services.len()),
        answers: services.values().fold(0, |all, service| all | u32::from(service.answers)),
        reserved: 0,
        vip_pilots: [1; PILOTS],
        service_pilots: [1; PILOTS],
    };
    let hashes = vips.values().map(|vip| half.vip_hash(vip.address));
    half.vip_pilots = place(&hashes.collect::<Vec<_>>(), half.vip_shift)?;
    let hashes = services.keys().map(|&key| half.service_hash(key));
    half.service_pilots = place(&hashes.collect::<Vec<_>>(), half.service_shift)?;

    let mut tables = HalfTables {
        half,
        vips: vec![VipEntry::default(); VIP_POSITIONS as usize],
        services: vec![ServiceEntry::default(); SERVICE_POSITIONS as usize],
    };
    for &service in services.values() {
        tables.services[half.service_position(service.key) as usize] = service;
    }
    for vip in vips.values() {
        let any_port = [Transport::Tcp, Transport::Udp].map(|transport| {
            let key = service_key(vip.id, transport as u8, 0);
            let position = half.service_position(key) as u16 + 1;
            if services.contains_key(&key) { position } else { 0 }
        });
        tables.vips[half.vip_position(vip.address) as usize] = VipEntry { any_port, ..*vip };
    }
    Some(tables)
}

/// The shift for a table of that many keys: at most half of its positions are taken.
fn shift(keys: usize) -> u32 {
    let positions = (2 * keys as u32).next_power_of_two().max(MIN_POSITIONS);
    u32::BITS - positions.trailing_zeros()
}

/// A pilot for each bucket, so that no two of the hashes are displaced to one position.
fn place(hashes: &[u64], shift: u32) -> Option<[u32; PILOTS]> {
    let mut buckets = vec![Vec::new(); PILOTS];
    hashes.iter().for_each(|&hash| buckets[bucket(hash)].push(hash));
    let mut order: Vec<usize> = (0..PILOTS).filter(|&bucket| !buckets[bucket].is_empty()).collect();
    order.sort_by_key(|&bucket| core::cmp::Reverse(buckets[bucket].len()));

    let mut pilots = [1; PILOTS];
    let mut taken = vec![false; 1 << (u32::BITS - shift)];
    let mut positions = Vec::new();
    for bucket in order {
        pilots[bucket] = (0..TRIES).map(|number| mix(number) as u32 | 1).find(|&pilot| {
            positions.clear();
            let free = buckets[bucket].iter().all(|&hash| {
                let position = Half::displaced(hash, pilot, shift);
                let free = !taken[position as usize] && !positions.contains(&position);
                positions.push(position);
                free
            });
            if free {
                positions.iter().for_each(|&position| taken[position as usize] = true);
            }
            free
        })?;
    }
    Some(pilots)
}

#[cfg(test)]
mod tests;
