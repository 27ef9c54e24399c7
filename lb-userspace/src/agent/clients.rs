//! Next hops toward clients, which answers go to under `nat`: those that the kernel doesn't know are
//! asked for, and looked after for as long as they may be needed.

use std::{
    collections::BTreeMap,
    fs,
    net::{IpAddr, Ipv6Addr},
    time::{Duration, Instant},
};

use lb_common::{layout::ClientRoutes, network::Address};

use super::Agent;
use crate::{
    config::{BackendConfig, ServiceConfig},
    dataplane::{self, Wanted},
};

/// How long one is looked after that the program asked for; it asks again where that wasn't enough.
const KEPT: Duration = Duration::from_secs(600);
/// The most that are looked after: gateways, or clients of the same segment.
const MOST: usize = 1024;
/// The least time between two of the program's messages: whoever forges clients of the segment keeps
/// the agent no busier.
const PACE: Duration = Duration::from_millis(20);

/// The next hops toward clients.
#[derive(Default)]
pub(super) struct Clients {
    /// Tells what the program asks for; `None` until there is something to serve.
    wanted: Option<Wanted>,
    /// Until when they are looked after.
    hops: BTreeMap<IpAddr, Instant>,
    /// When the program is listened to again.
    pause: Option<tokio::time::Instant>,
}

impl Clients {
    /// Waits for what the program asks for.
    pub(super) async fn next(&mut self) -> Vec<Address> {
        let Some(wanted) = &mut self.wanted else { return std::future::pending().await };
        if let Some(pause) = self.pause {
            tokio::time::sleep_until(pause).await;
        }
        match wanted.next().await {
            Ok(addresses) => {
                self.pause = Some(tokio::time::Instant::now() + PACE);
                addresses
            }
            Err(error) => {
                tracing::error!("next hops toward clients are not asked for any more: {error}");
                self.wanted = None;
                Vec::new()
            }
        }
    }

    /// Takes note of some. Whether any of them is new.
    ///
    /// Where there are too many, the one that was asked for first goes: if it is a client's, the
    /// kernel knows it by now, and keeps it for as long as packets go there.
    fn note(&mut self, addresses: Vec<Address>, now: Instant) -> bool {
        let mut any_new = false;
        for address in addresses {
            let address = Ipv6Addr::from(address).to_canonical();
            any_new |= self.hops.insert(address, now + KEPT).is_none();
            if self.hops.len() > MOST {
                let first = self.hops.iter().filter(|(hop, _)| **hop != address);
                let first = first.min_by_key(|(_, until)| **until).map(|(hop, _)| *hop);
                first.and_then(|first| self.hops.remove(&first));
            }
        }
        any_new
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

/// What to say of interfaces that don't forward a family, where backends of these families (IPv4,
/// IPv6) answer through them. `forwards` tells of a family's and an interface's setting.
fn not_forwarding(
    interfaces: &[String],
    families: [bool; 2],
    forwards: impl Fn(&str, &str) -> Option<bool>,
) -> Vec<String> {
    let ways = [
        ("IPv4", "ipv4", "net.ipv4.ip_forward=1"),
        ("IPv6", "ipv6", "net.ipv6.conf.all.forwarding=1"),
    ];
    let told = ways.iter().zip(families).filter_map(|((name, family, sysctl), answered)| {
        let off = |interface: &&String| forwards(family, interface) == Some(false);
        let off: Vec<_> = interfaces.iter().filter(off).map(String::as_str).collect();
        (answered && !off.is_empty()).then(|| {
            format!(
                "answers of backends under nat that come in by {} are dropped (forwarding_off), \
                 because the kernel doesn't forward {name} there: sysctl -w {sysctl}",
                off.join(", ")
            )
        })
    });
    told.collect()
}

/// The routes of families that packets from all interfaces are forwarded by. For others the kernel is
/// asked: it says why not.
fn only_forwarded(
    routes: ClientRoutes,
    interfaces: &[String],
    forwards: impl Fn(&str, &str) -> Option<bool>,
) -> ClientRoutes {
    let by_all = |family| interfaces.iter().all(|name| forwards(family, name) != Some(false));
    let vacant = ClientRoutes::VACANT;
    ClientRoutes {
        v4: if by_all("ipv4") { routes.v4 } else { vacant.v4 },
        v6: if by_all("ipv6") { routes.v6 } else { vacant.v6 },
    }
}

/// What the kernel says; `None` where there is no such interface.
fn forwards(family: &str, interface: &str) -> Option<bool> {
    let path = format!("/proc/sys/net/{family}/conf/{interface}/forwarding");
    fs::read_to_string(path).ok().map(|text| text.trim() != "0")
}

/// A sentence for each family of which answers can't be turned back.
pub(super) fn forwarding_warnings(
    interfaces: &[String],
    services: &[ServiceConfig],
) -> Vec<String> {
    let answered = |v4: bool| {
        services.iter().any(|service| {
            let by_nat =
                |backend: &BackendConfig| backend.forward.unwrap_or(service.forward).translates();
            service.key.vip.is_ipv4() == v4 && service.backends.iter().any(by_nat)
        })
    };
    not_forwarding(interfaces, [answered(true), answered(false)], forwards)
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

    /// Tells the program the routes toward clients, as far as the kernel forwards packets, and has
    /// them hold on. The kernel tells nobody when it stops forwarding: so about every second.
    pub(super) fn tell_client_routes(&mut self) {
        // They aren't kept current if nobody can change them any more.
        let is_followed = self.client_routes.has_changed().is_ok();
        let found = *self.client_routes.borrow_and_update();
        let routes = if is_followed {
            only_forwarded(found, &self.config.interfaces, forwards)
        } else {
            ClientRoutes::VACANT
        };
        let mut told = self.plane.tell_client_routes(&routes);
        if routes != ClientRoutes::VACANT {
            told = told.and_then(|()| self.plane.hold_client_routes());
        }
        if let Err(error) = told {
            tracing::error!("the kernel is asked for the way to every client: {error}");
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
        // However many were forged, a client's is asked for.
        assert!(clients.note(vec![address(9000)], now + KEPT / 2));
        assert!(clients.hops().any(|hop| hop == IpAddr::from(9000u32.to_be_bytes())));
        assert_eq!(clients.hops().count(), MOST);
        clients.note((0..MOST as u32 - 1).map(address).collect(), now + KEPT);
        assert!(clients.hops().any(|hop| hop == IpAddr::from(9000u32.to_be_bytes())));
    }

    #[test]
    fn routes_are_told_of_what_every_interface_forwards() {
        let mut routes = ClientRoutes::VACANT;
        (routes.v4[0].is_known, routes.v6[0].is_known) = (1, 1);
        let interfaces = ["eth0".to_owned(), "eth1".to_owned()];
        let known = |forwards: fn(&str, &str) -> Option<bool>| {
            let told = only_forwarded(routes, &interfaces, forwards);
            (told.v4[0].is_known, told.v6[0].is_known)
        };
        assert_eq!(known(|_, _| Some(true)), (1, 1));
        assert_eq!(known(|_, _| None), (1, 1));
        assert_eq!(known(|family, name| Some((family, name) != ("ipv4", "eth1"))), (0, 1));
        assert_eq!(known(|family, _| Some(family == "ipv4")), (1, 0));
    }

    #[test]
    fn forwarding_that_is_off_is_told_with_what_mends_it() {
        let on = |_: &str, _: &str| Some(true);
        let off_v6 = |family: &str, _: &str| Some(family == "ipv4");
        let interfaces = ["eth0".to_owned(), "eth1".to_owned()];
        assert_eq!(not_forwarding(&interfaces, [true, true], on), [""; 0]);
        assert_eq!(not_forwarding(&interfaces, [true, false], off_v6), [""; 0]);
        assert_eq!(not_forwarding(&interfaces, [true, true], |_, _| None), [""; 0]);
        let told = not_forwarding(&interfaces, [true, true], off_v6);
        let [told] = &told[..] else { panic!("{told:?}") };
        assert!(told.contains("eth0, eth1") && told.contains("forwarding_off"), "{told}");
        assert!(told.ends_with("sysctl -w net.ipv6.conf.all.forwarding=1"), "{told}");
    }
}
