//! The ways to other backends: in come the addresses that packets name and what the kernel says
//! of them, out goes what the program shall know.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv6Addr},
};

use lb_common::{layout::NextHop, network::Address};

use crate::{
    dataplane::{Error, NextHopTable},
    network::Resolution,
    plan::address_bytes,
};

/// How long an address is kept that no packet names, in seconds: as long as flows may be quiet,
/// and as slots may move.
pub(super) const KEPT: u32 = 15 * 60;

/// The other backends that packets named.
#[derive(Debug, Default)]
pub(super) struct SecondChance {
    /// With the way that the program knows.
    ways: BTreeMap<IpAddr, Option<NextHop>>,
}

impl SecondChance {
    /// Takes in addresses that packets named.
    pub(super) fn want(&mut self, addresses: Vec<Address>) {
        for address in addresses {
            self.ways.entry(ip_address(address)).or_default();
        }
    }

    /// All of them.
    pub(super) fn wanted(&self) -> BTreeSet<IpAddr> {
        self.ways.keys().copied().collect()
    }

    /// Tells the program the ways that are known now. All are tried; the last error is given.
    pub(super) fn learn(
        &mut self,
        resolutions: &BTreeMap<IpAddr, Resolution>,
        table: &mut NextHopTable,
    ) -> Result<(), Error> {
        let mut result = Ok(());
        for (address, known) in &mut self.ways {
            let way = resolutions.get(address).and_then(way);
            if way == *known {
                continue;
            }
            match table.set(address_bytes(*address), way) {
                Ok(()) => *known = way,
                Err(error) => result = Err(error),
            }
        }
        result
    }

    /// Forgets the addresses that no packet named for [`KEPT`].
    pub(super) fn forget_unused(&mut self, table: &mut NextHopTable) -> Result<(), Error> {
        let kept: BTreeSet<_> =
            table.retain_used_within(KEPT)?.into_iter().map(ip_address).collect();
        self.ways.retain(|address, _| kept.contains(address));
        // What was told while there was no room to tell it.
        for address in kept {
            self.ways.entry(address).or_default();
        }
        Ok(())
    }
}

fn ip_address(address: Address) -> IpAddr {
    IpAddr::from(Ipv6Addr::from(address)).to_canonical()
}

/// What a frame needs on its way, if that is known.
fn way(resolution: &Resolution) -> Option<NextHop> {
    let Resolution::Resolved { next_hop, egress, .. } = resolution else { return None };
    let mut macs = [0; 12];
    let (destination, source) = macs.split_at_mut(6);
    destination.copy_from_slice(&next_hop.0);
    source.copy_from_slice(&egress.source_mac.0);
    Some(NextHop { ifindex: egress.ifindex, mtu: egress.mtu, macs, used: 0 })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        model::MacAddress,
        network::resolution::{Egress, UnresolvedCause},
    };

    const OTHER: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 12));

    fn egress() -> Egress {
        Egress {
            interface: "eth0".into(),
            ifindex: 7,
            source_mac: MacAddress([2, 0, 0, 0, 0, 1]),
            mtu: 1500,
            source: None,
        }
    }

    #[test]
    fn addresses_are_wanted_once_in_their_own_family() {
        let mut chance = SecondChance::default();
        let v6: IpAddr = "2001:db8::12".parse().unwrap();
        chance.want(vec![address_bytes(OTHER), address_bytes(v6), address_bytes(OTHER)]);
        assert_eq!(chance.wanted(), BTreeSet::from([OTHER, v6]));
    }

    #[test]
    fn a_way_is_what_a_frame_needs() {
        let next_hop = MacAddress([2, 0, 0, 0, 0, 9]);
        let resolved = Resolution::Resolved { next_hop, gateway: OTHER, egress: egress() };
        let macs = [2, 0, 0, 0, 0, 9, 2, 0, 0, 0, 0, 1];
        assert_eq!(way(&resolved), Some(NextHop { ifindex: 7, mtu: 1500, macs, used: 0 }));
        let cause = UnresolvedCause::Asking;
        let asking = Resolution::Unresolved { gateway: OTHER, egress: egress(), cause };
        assert_eq!(way(&asking), None);
    }
}
