//! How much one balancer takes: of services together, and of backends in one ring.

use std::{collections::HashMap, net::IpAddr};

use lb_common::{
    directory_builder::{MAX_SERVICES, MAX_VIPS, address_words},
    layout::BACKEND_NUMBERS,
    ring::{MAX_MEMBERS, MAX_SLOTS, default_size},
};

use super::{
    error::{ErrorKind, Fault},
    keys::{Key, service as keys},
};

/// Backends of all services together; number 0 is nobody's.
const MAX_BACKENDS: u64 = BACKEND_NUMBERS as u64 - 1;

/// What the services so far add up to.
#[derive(Debug, Default)]
pub(super) struct Totals {
    services: usize,
    /// By the bits that the directory has of them.
    vips: HashMap<[u64; 2], IpAddr>,
    slots: u64,
    backends: u64,
}

impl Totals {
    /// One more service.
    ///
    /// # Errors
    /// A limit is passed by it. Those behind it are not blamed again.
    pub(super) fn add_service(&mut self, vip: IpAddr) -> Result<(), Fault> {
        self.services += 1;
        if self.services == MAX_SERVICES + 1 {
            return Err(too_many("services", MAX_SERVICES as u64));
        }
        let before = self.vips.len();
        let other = *self.vips.entry(address_words(vip)).or_insert(vip);
        if other != vip {
            return Err(Fault::new(
                ErrorKind::Impossible,
                format!("{vip} has the same bits as the VIP {other}"),
            )
            .help("a VIP that is no IPv4-compatible IPv6 address (RFC 4291 section 2.5.5.1)"));
        }
        if (before, self.vips.len()) == (MAX_VIPS, MAX_VIPS + 1) {
            return Err(too_many("VIPs", MAX_VIPS as u64));
        }
        Ok(())
    }

    /// One more ring, with its backends: the limits that are passed by it, by key.
    ///
    /// A ring that was larger counts as a new one: it keeps its size only where there is room.
    pub(super) fn add_ring(
        &mut self,
        ring_size: Option<u32>,
        backends: usize,
    ) -> Vec<(&'static Key, Fault)> {
        let mut faults = Vec::new();
        let slots = ring_size.unwrap_or_else(|| default_size(backends)).into();
        if passes(&mut self.slots, slots, MAX_SLOTS) {
            faults.push((&keys::RING_SIZE, too_many("slots of all rings", MAX_SLOTS)));
        }
        if backends > MAX_MEMBERS {
            faults.push((&keys::BACKEND, too_many("backends of one service", MAX_MEMBERS as u64)));
        }
        if passes(&mut self.backends, backends as u64, MAX_BACKENDS) {
            faults.push((&keys::BACKEND, too_many("backends of all services", MAX_BACKENDS)));
        }
        faults
    }
}

/// Backends that one balancer has room for beside others.
#[derive(Clone, Copy, Debug)]
pub struct Room(u64);

impl Room {
    /// What these services leave.
    pub fn left_by(services: &[super::ServiceConfig]) -> Self {
        let backends: usize = services.iter().map(|service| service.backends.len()).sum();
        Self(MAX_BACKENDS.saturating_sub(backends as u64))
    }

    /// How many.
    pub fn backends(self) -> usize {
        self.0.try_into().unwrap_or(usize::MAX)
    }

    /// So many fewer.
    pub fn take(&mut self, backends: usize) {
        self.0 = self.0.saturating_sub(backends as u64);
    }
}

/// Adds to a sum. Whether it passes the limit by that.
fn passes(sum: &mut u64, more: u64, limit: u64) -> bool {
    let before = *sum;
    *sum += more;
    before <= limit && *sum > limit
}

fn too_many(what: &str, limit: u64) -> Fault {
    Fault::new(ErrorKind::Impossible, format!("too many {what}: more than {limit} from here on"))
        .help(format!("one balancer takes {limit}; have others serve the rest"))
}

/// Every backend needs a slot at least.
pub(super) fn room_in_ring(ring_size: Option<u32>, backends: usize) -> Result<(), Fault> {
    match ring_size {
        Some(size) if (size as usize) < backends => Err(Fault::new(
            ErrorKind::Impossible,
            format!("a ring of {size} slots can't hold {backends} backends"),
        )
        .help("a prime that is at least the number of backends; 100 times that shares evenly")),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    #[test]
    fn each_limit_is_told_once_and_not_before_it_is_passed() {
        let mut totals = Totals::default();
        let vip = |number: usize| IpAddr::V4(Ipv4Addr::from_bits(0xcb00_0000 + number as u32));
        for number in 0..MAX_VIPS {
            totals.add_service(vip(number)).unwrap();
        }
        let fault = totals.add_service(vip(MAX_VIPS)).unwrap_err();
        assert!(fault.message.contains("VIPs: more than 2048"), "{}", fault.message);
        for number in MAX_VIPS + 1..MAX_SERVICES {
            totals.add_service(vip(number % 3000)).unwrap();
        }
        let fault = totals.add_service(vip(0)).unwrap_err();
        assert!(fault.message.contains("services: more than 4096"), "{}", fault.message);
        totals.add_service(vip(1)).unwrap();
    }

    #[test]
    fn rings_are_added_up_without_an_overflow() {
        let mut totals = Totals::default();
        // As many rings of the default size as there may be services.
        for _ in 0..MAX_SERVICES {
            assert!(totals.add_ring(None, 1).is_empty());
        }
        let mut totals = Totals::default();
        let passed = (0..MAX_SERVICES).filter(|_| !totals.add_ring(Some(1_048_573), 1).is_empty());
        assert_eq!(passed.collect::<Vec<_>>(), [512]);
        let (key, fault) = totals.add_ring(None, MAX_MEMBERS + 1).remove(0);
        assert_eq!(key.name, "backend");
        assert!(fault.message.contains("65536"), "{}", fault.message);
        let passed = (0..64).filter(|_| !totals.add_ring(None, MAX_MEMBERS).is_empty());
        assert_eq!(passed.count(), 1);
    }

    #[test]
    fn an_ipv6_vip_with_the_bits_of_an_ipv4_one_is_refused() {
        let mut totals = Totals::default();
        totals.add_service("203.0.113.10".parse().unwrap()).unwrap();
        totals.add_service("::203.0.113.11".parse().unwrap()).unwrap();
        let fault = totals.add_service("::203.0.113.10".parse().unwrap()).unwrap_err();
        assert!(fault.message.contains("same bits as the VIP 203.0.113.10"), "{}", fault.message);
    }
}
