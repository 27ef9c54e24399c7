//! Addresses and ports that packets come from.

use crate::{layout::BackendRecord, network::Address};

/// Whose turn it is to get a port: what a CPU counts of a backend's flows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Turn {
    /// Flows that this CPU began with the backend.
    pub count: u32,
    /// This CPU's number.
    pub cpu: u32,
    /// How many there are; at least 1.
    pub cpus: u32,
}

/// A backend's pool: addresses that stand one behind the other in the table of pools, each with the
/// same ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct PoolRange {
    /// The first address's place.
    pub first: u8,
    /// Addresses; 0 where there is none.
    pub count: u8,
    /// The first port, host order.
    pub first_port: u16,
    /// Ports; 0 where there is none.
    pub ports: u16,
}

impl PoolRange {
    /// Ports of all addresses: flows that a backend may have at a time, of one protocol.
    #[inline(always)]
    pub const fn total(self) -> u32 {
        self.count as u32 * self.ports as u32
    }

    /// A place in the table of pools, and a port: one of [`PoolRange::total`]. Of none, whatever.
    ///
    /// The first try is the next port in turn, from a part of the ports that is the CPU's own: so
    /// each is used again as late as can be. Later tries are anywhere: those in turn may be in long
    /// use, one like the other.
    #[inline(always)]
    pub const fn candidate(self, turn: Turn, attempt: u32) -> (u8, u16) {
        // Never 0, where a division would end in a panic.
        let (total, ports) = (self.total() | (self.total() == 0) as u32, self.ports as u32);
        let ports = ports | (ports == 0) as u32;
        let cpus = turn.cpus | (turn.cpus == 0) as u32;
        let index = if attempt == 0 {
            let own = total as u64 * turn.cpu as u64 / cpus as u64;
            ((own + turn.count as u64) % total as u64) as u32
        } else {
            let tried = (turn.count as u64) << 32 | (turn.cpu as u64) << 16 | attempt as u64;
            crate::hash::reduce(crate::hash::spread(tried), total)
        };
        let place = self.first.wrapping_add((index / ports) as u8);
        (place, self.first_port.wrapping_add((index % ports) as u16))
    }
}

impl BackendRecord {
    /// Under `fullnat`: the pool that its packets come from.
    #[inline(always)]
    pub const fn pool(&self) -> PoolRange {
        let outer = &self.outer;
        PoolRange {
            first: outer[18],
            count: outer[19],
            first_port: u16::from_be_bytes([outer[20], outer[21]]),
            ports: u16::from_be_bytes([outer[22], outer[23]]),
        }
    }

    /// Under `fullnat`: the VIP that clients know; an IPv4 address is mapped.
    #[inline(always)]
    pub const fn vip(&self) -> &Address {
        const { assert!(crate::layout::OUTER_CAPACITY >= 24 + size_of::<Address>()) };
        // SAFETY: as many bytes from there on, by the assertion.
        unsafe { &*self.outer.as_ptr().add(24).cast::<Address>() }
    }

    /// Under `fullnat` between families: the longest packet, as it leaves, that the way to the backend
    /// takes, in bytes.
    #[inline(always)]
    pub const fn mtu_across(&self) -> u16 {
        u16::from_be_bytes([self.outer[40], self.outer[41]])
    }

    /// Sets [`BackendRecord::mtu_across`]. What a packet's length was as it came says nothing.
    pub fn set_mtu_across(&mut self, mtu: u16) {
        self.outer[40..42].copy_from_slice(&mtu.to_be_bytes());
        self.mtu = u16::MAX;
    }

    /// Sets what [`BackendRecord::pool`] and [`BackendRecord::vip`] read.
    pub fn set_fullnat(&mut self, pool: PoolRange, vip: &Address) {
        self.outer[18] = pool.first;
        self.outer[19] = pool.count;
        self.outer[20..22].copy_from_slice(&pool.first_port.to_be_bytes());
        self.outer[22..24].copy_from_slice(&pool.ports.to_be_bytes());
        self.outer[24..40].copy_from_slice(vip);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    const RANGE: PoolRange = PoolRange { first: 250, count: 2, first_port: 65_000, ports: 536 };

    /// As long as none is taken, no port comes twice before all came.
    #[test]
    fn ports_come_in_turn() {
        for cpus in [1, 2, 7] {
            for cpu in 0..cpus {
                let turn = |count| Turn { count, cpu, cpus };
                let ports = |from: u32| (from..from + RANGE.total()).map(turn);
                let all: BTreeSet<_> = ports(5).map(|turn| RANGE.candidate(turn, 0)).collect();
                assert_eq!(all.len() as u32, RANGE.total());
                assert!(all.iter().all(|(pool, port)| {
                    (250..252).contains(pool) && (65_000..=65_535).contains(port)
                }));
            }
        }
        let first = |cpu| RANGE.candidate(Turn { count: 0, cpu, cpus: 2 }, 0);
        assert_eq!([first(0), first(1)], [(250, 65_000), (251, 65_000)]);
    }

    /// Whatever is in long use, further tries find what is left, as often as chance has it.
    #[test]
    fn later_tries_are_anywhere() {
        let found = |tries: u32, free: u16| {
            let mut found = 0;
            for count in 0..10_000 {
                let turn = Turn { count, cpu: 1, cpus: 4 };
                found += u32::from((1..tries).any(|attempt| {
                    let (pool, port) = RANGE.candidate(turn, attempt);
                    assert!((250..252).contains(&pool) && port >= 65_000);
                    pool == 250 && port > u16::MAX - free
                }));
            }
            found
        };
        // A tenth is free, as 79 % of the flows find: 1 - 0.9^15.
        let few = found(16, 107);
        assert!((7_500..8_300).contains(&few), "{few}");
        // A fiftieth, as nearly all do that go on to a search.
        let many = found(16 + crate::fullnat::SEARCHED, 22);
        assert!(many >= 9_995, "{many}");
    }

    #[test]
    fn records_hold_what_packets_need() {
        let mut record = BackendRecord { address: [7; 16], port: 8080, ..BackendRecord::VACANT };
        record.set_destination();
        record.set_fullnat(RANGE, &[9; 16]);
        assert_eq!(record.destination(), (&[7; 16], 8080));
        assert_eq!((record.pool(), record.vip()), (RANGE, &[9; 16]));
    }
}
