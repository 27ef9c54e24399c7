//! Next hops toward clients, which answers go to under `nat`: those that the kernel doesn't know are
//! asked for, and looked after for as long as they may be needed.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv6Addr},
    time::{Duration, Instant},
};

use lb_common::network::Address;

use super::Agent;
use crate::dataplane::{self, Wanted};

/// How long one is looked after that the program asked for; it asks again where that wasn't enough.
const KEPT: Duration = Duration::from_secs(600);
/// The most that are looked after: gateways, or clients of the same segment.
const MOST: usize = 1024;

/// The next hops toward clients.
#[derive(Default)]
pub(super) struct Clients {
    /// Tells what the program asks for; `None` until there is something to serve.
    wanted: Option<Wanted>,
    /// Until when they are looked after.
    hops: BTreeMap<IpAddr, Instant>,
}

impl Clients {
    /// Waits for what the program asks for.
    pub(super) async fn next(&mut self) -> Vec<Address> {
        let Some(wanted) = &mut self.wanted else { return std::future::pending().await };
        match wanted.next().await {
            Ok(addresses) => addresses,
            Err(error) => {
                tracing::error!("next hops toward clients are not asked for any more: {error}");
                self.wanted = None;
                Vec::new()
            }
        }
    }

    /// Takes note of some. Whether any of them is new.
    fn note(&mut self, addresses: Vec<Address>, now: Instant) -> bool {
        let before = self.hops.len();
        for address in addresses {
            let address = Ipv6Addr::from(address).to_canonical();
            if self.hops.len() < MOST || self.hops.contains_key(&address) {
                self.hops.insert(address, now + KEPT);
            }
        }
        self.hops.len() != before
    }

    /// Forgets those that nobody asked for in a long time. Whether there were any.
    fn forget(&mut self, now: Instant) -> bool {
        let before = self.hops.len();
        self.hops.retain(|_, until| *until > now);
        self.hops.len() != before
    }

    /// All of them.
    pub(super) fn hops(&self) -> impl Iterator<Item = IpAddr> {
        self.hops.keys().copied()
    }
}

impl Agent {
    /// Listens to the program that is loaded.
    pub(super) fn listen_for_clients(&mut self) -> Result<(), dataplane::Error> {
        if let Some(wanted) = self.plane.unresolved_clients()? {
            self.clients.wanted = Some(wanted);
        }
        Ok(())
    }

    /// The program doesn't know the next hop toward a client.
    pub(super) fn clients_wanted(&mut self, addresses: Vec<Address>) {
        if self.clients.note(addresses, Instant::now()) {
            self.want_next_hops();
        }
    }

    pub(super) fn look_after_clients(&mut self) {
        if self.clients.forget(Instant::now()) {
            self.want_next_hops();
        }
    }

    /// Has the next hops of all backends asked for, and those toward clients.
    pub(super) fn want_next_hops(&self) {
        self.next_hops.want(self.addresses().chain(self.clients.hops()).collect());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lb_common::network::mapped;

    #[test]
    fn next_hops_are_kept_for_a_while_and_so_many_at_the_most() {
        let mut clients = Clients::default();
        let now = Instant::now();
        let address = |n: u32| mapped(n.to_be_bytes());
        assert!(clients.note(vec![address(1)], now));
        assert!(!clients.note(vec![address(1)], now + KEPT / 2));
        assert!(!clients.forget(now + KEPT), "it was asked for again");
        assert!(clients.forget(now + 2 * KEPT));
        assert!(clients.note((0..5000).map(address).collect(), now));
        assert_eq!(clients.hops().count(), MOST);
        assert!(clients.hops().all(|hop| hop.is_ipv4()));
    }
}
