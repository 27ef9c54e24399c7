//! Base rings that were claimed once: a failed backend's slots don't wait for all claims again.

use std::collections::BTreeMap;

use lb_common::ring::{Base, Member, Ring};

use crate::model::ServiceKey;

/// Slots of all base rings that are kept, at 6 bytes each.
const MAX_KEPT: usize = 1 << 22;

/// The last base rings of services. Plans are the same with none.
#[derive(Debug, Default)]
pub struct Bases {
    kept: BTreeMap<ServiceKey, Kept>,
    /// Rings that were built.
    builds: u64,
}

#[derive(Debug)]
struct Kept {
    base: Base,
    /// The last build that it was used in.
    used: u64,
}

impl Bases {
    /// A service's ring, as [`Ring::build`] makes it.
    pub(super) fn ring(
        &mut self,
        service: ServiceKey,
        members: &[Member],
        size: u32,
    ) -> Option<Ring> {
        self.builds += 1;
        if let Some(kept) = self.kept.get_mut(&service)
            && kept.base.is_of(members, size)
        {
            kept.used = self.builds;
            return kept.base.ring(members);
        }
        let base = Base::claim(members, size);
        let ring = base.ring(members);
        self.kept.insert(service, Kept { base, used: self.builds });
        self.trim();
        ring
    }

    /// Forgets what was used the longest ago.
    fn trim(&mut self) {
        let slots = |kept: &Kept| kept.base.size() as usize;
        let mut total: usize = self.kept.values().map(slots).sum();
        while total > MAX_KEPT {
            let oldest = self.kept.iter().min_by_key(|(_, kept)| kept.used);
            let Some((&service, kept)) = oldest else { return };
            total -= slots(kept);
            self.kept.remove(&service);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;
    use crate::model::Protocol;

    fn service(port: u16) -> ServiceKey {
        let vip = Ipv4Addr::new(203, 0, 113, 10).into();
        ServiceKey { vip, port: Some(port), protocol: Protocol::Tcp }
    }

    fn members(count: u64, live: u16) -> Vec<Member> {
        (0..count).map(|key| Member { key, weight: 100, live }).collect()
    }

    #[test]
    fn rings_are_those_of_the_members() {
        let mut bases = Bases::default();
        let mut failed = members(3, 1000);
        failed[1].live = 0;
        let mut heavier = members(3, 1000);
        heavier[1].weight = 200;
        let all = [members(3, 1000), failed, members(2, 1000), heavier, members(2, 0), Vec::new()];
        for size in [251, 509] {
            for members in &all {
                assert_eq!(bases.ring(service(80), members, size), Ring::build(members, size));
            }
        }
        assert_eq!(bases.kept.len(), 1);
    }

    #[test]
    fn what_is_kept_has_an_end() {
        let mut bases = Bases::default();
        let size = 1_048_573;
        for port in [1, 2, 3, 1, 4, 5] {
            bases.ring(service(port), &members(1, 1000), size);
        }
        let ports: Vec<_> = bases.kept.keys().map(|service| service.port).collect();
        assert_eq!(ports, [1, 3, 4, 5].map(Some));
    }
}
