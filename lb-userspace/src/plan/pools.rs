//! Places for addresses of pools.
//!
//! A backend's addresses stand one behind the other. A place is never given another address while
//! flows may be from it: whoever knows that no flow is, clears it.

use std::{collections::BTreeMap, net::IpAddr, ops::RangeInclusive};

use lb_common::{
    layout::{POOLS, PoolRange},
    network::Address,
};

use super::{Change, record::address_bytes};

/// The table of pools, as it is and becomes.
pub(super) struct Places {
    places: BTreeMap<u8, Address>,
    /// Steps toward that.
    pub(super) changes: Vec<Change>,
}

impl Places {
    pub(super) fn of(present: &BTreeMap<u8, Address>) -> Self {
        Self { places: present.clone(), changes: Vec::new() }
    }

    /// Where these addresses stand. `None` where there are none, or no room for them.
    pub(super) fn range(
        &mut self,
        addresses: &[IpAddr],
        ports: &RangeInclusive<u16>,
    ) -> Option<PoolRange> {
        let addresses: Vec<Address> = addresses.iter().copied().map(address_bytes).collect();
        let count = u8::try_from(addresses.len()).ok().filter(|&count| count > 0)?;
        let firsts = 0..=(POOLS - u32::from(count)) as u8;
        let places = |first: u8| first..=first + (count - 1);
        let present = |first: &u8| places(*first).map(|place| self.places.get(&place));
        let there = |first: &u8| present(first).eq(addresses.iter().map(Some));
        let vacant = |first: &u8| present(first).all(|present| present.is_none());
        let first = firsts.clone().find(there).or_else(|| firsts.clone().find(vacant))?;
        for (address, place) in addresses.into_iter().zip(places(first)) {
            if self.places.insert(place, address).is_none() {
                self.changes.push(Change::SetPool { place, address });
            }
        }
        // A range of at least one port; 65,535 is the most.
        let ports_count = ports.end().wrapping_sub(*ports.start()).wrapping_add(1);
        Some(PoolRange { first, count, first_port: *ports.start(), ports: ports_count })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses(numbers: impl IntoIterator<Item = u8>) -> Vec<IpAddr> {
        numbers.into_iter().map(|n| IpAddr::from([192, 0, 2, n])).collect()
    }

    #[test]
    fn addresses_keep_their_places() {
        let mut places = Places::of(&BTreeMap::new());
        let ports = 1024..=32_767;
        let range = |places: &mut Places, numbers: &[u8]| {
            places.range(&addresses(numbers.iter().copied()), &ports).map(|r| (r.first, r.count))
        };
        assert_eq!(range(&mut places, &[]), None);
        assert_eq!(range(&mut places, &[7]), Some((0, 1)));
        assert_eq!(range(&mut places, &[7]), Some((0, 1)));
        assert_eq!(range(&mut places, &[7, 8]), Some((1, 2)));
        assert_eq!(range(&mut places, &[8]), Some((2, 1)));
        assert_eq!(places.changes.len(), 3);
        let mut again = Places::of(&places.places);
        assert_eq!(range(&mut again, &[7, 8]), Some((1, 2)));
        assert!(again.changes.is_empty());
        let most: Vec<u8> = (0..253).collect();
        assert_eq!(range(&mut again, &most), Some((3, 253)));
        assert_eq!(range(&mut again, &[254]), None);
        let whole = again.range(&addresses([7]), &(1..=u16::MAX)).unwrap();
        assert_eq!((whole.first_port, whole.ports), (1, u16::MAX));
    }
}
