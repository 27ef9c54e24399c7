//! The routes toward clients that the agent tells: so few that a packet's way is found by comparing,
//! and nothing must be remembered of each client.

use super::{FAMILY_V4, Plain, Way};

/// Routes of a family that there is room for.
pub const CLIENT_ROUTES: usize = 8;

/// Where packets to a network of clients go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct ClientRoute {
    /// The network's [`client_bits`]; those outside of `mask` are zero.
    pub network: u64,
    /// The bits that tell whether an address is in the network.
    pub mask: u64,
    /// How packets leave that go there.
    pub way: Way,
    /// 0 where the kernel must be asked for each client; `way` says nothing then.
    pub is_known: u32,
}

/// The routes of both families: the first that matches holds. Whom none matches, the kernel is asked
/// for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct ClientRoutes {
    /// IPv4's.
    pub v4: [ClientRoute; CLIENT_ROUTES],
    /// IPv6's.
    pub v6: [ClientRoute; CLIENT_ROUTES],
}

/// The value of the map of routes toward clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct ClientRouteTable {
    /// From when on they don't hold any more, by the kernel's clock, in its ticks (jiffies): nobody
    /// keeps them current who is gone.
    pub until: u64,
    /// The half in force: 0 or 1. The other one is written while nobody reads it.
    pub active: u32,
    /// Zero.
    pub reserved: u32,
    /// Routes, twice.
    pub halves: [ClientRoutes; 2],
}

impl ClientRoute {
    /// Everybody: the kernel is asked.
    pub const VACANT: Self =
        Self { network: 0, mask: 0, way: Way { macs: [0; 3], ifindex: 0, mtu: 0 }, is_known: 0 };
}

impl ClientRoutes {
    /// The kernel is asked for everybody.
    pub const VACANT: Self =
        Self { v4: [ClientRoute::VACANT; CLIENT_ROUTES], v6: [ClientRoute::VACANT; CLIENT_ROUTES] };

    /// The way to a client, an address in [`words`](crate::network::words); `None` where the kernel
    /// must be asked.
    #[inline(always)]
    pub fn way(&self, client: [u32; 4], family: u8) -> Option<Way> {
        let routes = if family == FAMILY_V4 { &self.v4 } else { &self.v6 };
        let bits = client_bits(client, family);
        let mut index = 0;
        while index < CLIENT_ROUTES {
            let route = &routes[index];
            if bits & route.mask == route.network {
                return (route.is_known != 0).then_some(route.way);
            }
            index += 1;
        }
        None
    }
}

impl ClientRouteTable {
    /// Nothing is told.
    pub const VACANT: Self =
        Self { until: 0, active: 0, reserved: 0, halves: [ClientRoutes::VACANT; 2] };

    /// The routes that hold at this time, if any do.
    #[inline(always)]
    pub fn in_force(&self, ticks: u64) -> Option<&ClientRoutes> {
        // Each is read once: the agent writes them meanwhile.
        // SAFETY: within the table, and aligned.
        let (until, active) = unsafe {
            ((&raw const self.until).read_volatile(), (&raw const self.active).read_volatile())
        };
        (ticks < until).then(|| &self.halves[(active & 1) as usize])
    }
}

/// The bits of a client's address that routes are told by, as they lie in memory: all of an IPv4
/// address, the upper half of an IPv6 address.
#[inline(always)]
pub const fn client_bits(client: [u32; 4], family: u8) -> u64 {
    let [first, second, _, last] = client;
    if family == FAMILY_V4 {
        return last as u64;
    }
    if cfg!(target_endian = "little") {
        (second as u64) << 32 | first as u64
    } else {
        (first as u64) << 32 | second as u64
    }
}

// SAFETY: integers and an array of them: no padding, by the assertion below.
unsafe impl Plain for ClientRoute {}
// SAFETY: as above.
unsafe impl Plain for ClientRoutes {}
// SAFETY: as above.
unsafe impl Plain for ClientRouteTable {}

const _: () = {
    assert!(size_of::<ClientRoute>() == 2 * 8 + size_of::<Way>() + 4);
    assert!(size_of::<ClientRoutes>() == 2 * CLIENT_ROUTES * size_of::<ClientRoute>());
    assert!(size_of::<ClientRouteTable>() == 16 + 2 * size_of::<ClientRoutes>());
};

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        layout::FAMILY_V6,
        network::{mapped, words},
    };

    fn way(ifindex: u32) -> Way {
        Way { ifindex, ..Way::MADE_UP }
    }

    fn v4(address: [u8; 4]) -> [u32; 4] {
        words(mapped(address))
    }

    fn v6(address: u128) -> [u32; 4] {
        words(address.to_be_bytes())
    }

    #[test]
    fn the_first_that_matches_holds() {
        let mut routes = ClientRoutes::VACANT;
        let network = client_bits(v4([10, 1, 2, 0]), FAMILY_V4);
        let mask = client_bits(v4([255, 255, 255, 0]), FAMILY_V4);
        routes.v4[0] = ClientRoute { network, mask, ..ClientRoute::VACANT };
        routes.v4[1] = ClientRoute { way: way(7), is_known: 1, ..ClientRoute::VACANT };
        assert_eq!(routes.way(v4([10, 1, 2, 9]), FAMILY_V4), None);
        assert_eq!(routes.way(v4([10, 1, 3, 9]), FAMILY_V4), Some(way(7)));
        assert_eq!(routes.way(v6(0x2001_0db8 << 96), FAMILY_V6), None);

        let network = client_bits(v6(0x2001_0db8_0000_0001 << 64), FAMILY_V6);
        let mask = client_bits(v6(0xffff_ffff_ffff_ffff << 64), FAMILY_V6);
        routes.v6[7] = ClientRoute { network, mask, way: way(3), is_known: 1 };
        routes.v6[..7].fill(ClientRoute { network: 1, mask: 1, ..ClientRoute::VACANT });
        routes.v6[..7].iter_mut().for_each(|route| route.network = u64::MAX);
        assert_eq!(routes.way(v6(0x2001_0db8_0000_0001 << 64 | 5), FAMILY_V6), Some(way(3)));
        assert_eq!(routes.way(v6(0x2001_0db8_0000_0002 << 64 | 5), FAMILY_V6), None);
    }

    #[test]
    fn they_hold_for_as_long_as_somebody_says_so() {
        let mut table = ClientRouteTable::VACANT;
        assert_eq!(table.in_force(0), None);
        table.until = 10;
        table.active = 1;
        table.halves[1].v4[0].mask = 5;
        assert_eq!(table.in_force(9), Some(&table.halves[1]));
        assert_eq!(table.in_force(10), None);
    }
}
