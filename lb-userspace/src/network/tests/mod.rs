//! [`NextHops`] against the real kernel, in network namespaces.

pub(crate) mod namespace;
mod told;

use std::{
    collections::{BTreeMap, BTreeSet},
    io::Write,
    net::IpAddr,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use super::{
    NextHops, Resolution,
    interface::InterfaceChange,
    probe::Tuning,
    resolution::{NoRouteCause, UnresolvedCause, UnsupportedCause},
};
use crate::model::MacAddress;
use namespace::{BALANCER_MAC, PEER_MAC, ip, join, joined, sysctl};

/// How long one condition is waited for.
const DEADLINE: Duration = Duration::from_secs(15);

fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// Starts with nothing that happens by time but what a test asks for.
fn start(destinations: &[&str]) -> NextHops {
    start_tuned(destinations, Tuning::default())
}

fn start_tuned(destinations: &[&str], tuning: Tuning) -> NextHops {
    let hour = Duration::from_secs(3600);
    let tuning = Tuning { resync: hour, stagger: Duration::from_millis(50), ..tuning };
    let next_hops = NextHops::start_tuned(tuning).unwrap();
    want(&next_hops, destinations);
    next_hops
}

fn want(next_hops: &NextHops, destinations: &[&str]) {
    next_hops.want(destinations.iter().map(|text| address(text)).collect());
}

/// Waits until all answers together are as `condition` wants them.
async fn all(
    next_hops: &NextHops,
    what: &str,
    condition: impl Fn(&BTreeMap<IpAddr, Resolution>) -> bool,
) -> BTreeMap<IpAddr, Resolution> {
    let mut resolutions = next_hops.resolutions();
    let waited = tokio::time::timeout(DEADLINE, resolutions.wait_for(|all| condition(all))).await;
    if let Ok(found) = waited {
        return found.unwrap().clone();
    }
    panic!("{what}: {:#?}", next_hops.resolutions().borrow());
}

/// Waits until the answer for `destination` is as `condition` wants it.
async fn one(
    next_hops: &NextHops,
    destination: &str,
    condition: impl Fn(&Resolution) -> bool,
) -> Resolution {
    let key = address(destination);
    all(next_hops, destination, |all| all.get(&key).is_some_and(&condition)).await[&key].clone()
}

fn has_mac(mac: [u8; 6]) -> impl Fn(&Resolution) -> bool {
    move |resolution| matches!(resolution, Resolution::Resolved { next_hop, .. } if *next_hop == MacAddress(mac))
}

fn has_mtu(mtu: u16) -> impl Fn(&Resolution) -> bool {
    move |resolution| resolution.route(None, None).is_some_and(|route| route.mtu == mtu)
}

/// Makes neighbours age and die within a second instead of a minute.
fn hurry_neighbours(family: &str) {
    for (name, value) in [
        ("base_reachable_time_ms", "400"),
        ("retrans_time_ms", "50"),
        ("delay_first_probe_time", "1"),
        ("ucast_solicit", "2"),
        ("mcast_solicit", "2"),
    ] {
        sysctl(&format!("{family}/neigh/b0/{name}"), value);
    }
}

/// Gives all neighbours on `b0` a permanent entry, by one `ip` process.
fn fix_neighbours(addresses: &BTreeSet<IpAddr>, mac: &str) {
    let mut child = Command::new("ip").args(["-batch", "-"]).stdin(Stdio::piped()).spawn().unwrap();
    let mut batch = child.stdin.take().unwrap();
    for address in addresses {
        writeln!(batch, "neigh replace {address} dev b0 lladdr {mac} nud permanent").unwrap();
    }
    drop(batch);
    assert!(child.wait().unwrap().success());
}

#[test]
fn on_link_backends_are_asked_for_and_known_ones_are_there_at_once() {
    joined("on_link", async |_peer| {
        let backends = ["10.7.0.2", "2001:db8:7::2"];
        let first = start(&backends);
        for (backend, own) in backends.into_iter().zip(["10.7.0.1", "2001:db8:7::1"]) {
            let resolution = one(&first, backend, has_mac(PEER_MAC)).await;
            let route = resolution.route(None, None).unwrap();
            assert_eq!(route.source_mac, MacAddress(BALANCER_MAC));
            assert_eq!(route.outer_source, Some(address(own)));
            assert_eq!(route.mtu, 1500);
            let interfaces = first.interfaces();
            assert_eq!(route.egress_ifindex, interfaces.borrow().named("b0").unwrap().index);
        }
        want(&first, &[]);
        all(&first, "nothing", BTreeMap::is_empty).await;
        let begin = Instant::now();
        want(&first, &backends);
        all(&first, "both", |all| all.len() == 2 && all.values().all(has_mac(PEER_MAC))).await;
        // A question would have been repeated after a second only.
        assert!(begin.elapsed() < Duration::from_millis(800), "{:?}", begin.elapsed());
        assert_eq!(*first.trouble().borrow(), None);
    });
}

#[test]
fn two_hundred_backends_behind_one_gateway() {
    joined("gateway", async |_peer| {
        ip("route add 192.0.2.0/24 via 10.7.0.2 mtu 1400");
        ip("-6 route add 2001:db8:8::/48 via 2001:db8:7::2");
        let mut wanted: BTreeSet<IpAddr> = (0..200).map(|last| [192, 0, 2, last].into()).collect();
        wanted.insert(address("2001:db8:8::1"));
        let next_hops = start(&[]);
        next_hops.want(wanted);
        let found = all(&next_hops, "201 resolved", |all| {
            all.len() == 201 && all.values().all(has_mac(PEER_MAC))
        });
        let found = found.await;
        for resolution in found.values() {
            let Resolution::Resolved { gateway, egress, .. } = resolution else { panic!() };
            let (by, mtu) = match gateway {
                IpAddr::V4(_) => ("10.7.0.2", 1400),
                IpAddr::V6(_) => ("2001:db8:7::2", 1500),
            };
            assert_eq!((*gateway, egress.mtu), (address(by), mtu));
        }
    });
}

#[test]
fn link_local_gateways_serve_both_families() {
    joined("link_local", async |peer| {
        peer.ip("addr add fe80::7:2/64 dev p0 nodad");
        ip("route add 192.0.2.0/24 via inet6 fe80::7:2 dev b0");
        ip("-6 route add 2001:db8:8::/48 via fe80::7:2 dev b0");
        let next_hops = start(&["192.0.2.1", "2001:db8:8::1", "fe80::7:2"]);
        for backend in ["192.0.2.1", "2001:db8:8::1"] {
            let resolution = one(&next_hops, backend, has_mac(PEER_MAC)).await;
            let Resolution::Resolved { gateway, .. } = resolution else { panic!() };
            assert_eq!(gateway, address("fe80::7:2"));
        }
        let refused = Resolution::Unsupported(UnsupportedCause::LinkLocal);
        one(&next_hops, "fe80::7:2", |resolution| *resolution == refused).await;
    });
}

#[test]
fn a_changed_mac_is_followed() {
    joined("mac_change", async |peer| {
        hurry_neighbours("ipv4");
        hurry_neighbours("ipv6");
        let next_hops = start(&["10.7.0.2", "2001:db8:7::2"]);
        for backend in ["10.7.0.2", "2001:db8:7::2"] {
            one(&next_hops, backend, has_mac(PEER_MAC)).await;
        }
        // Told by the kernel: at once.
        ip("neigh replace 10.7.0.2 dev b0 lladdr 02:00:00:00:07:33 nud reachable");
        one(&next_hops, "10.7.0.2", has_mac([2, 0, 0, 0, 7, 0x33])).await;
        // Told by nobody: found out by asking, although nothing is sent to the backends.
        peer.ip("link set p0 address 02:00:00:00:07:44");
        for backend in ["10.7.0.2", "2001:db8:7::2"] {
            one(&next_hops, backend, has_mac([2, 0, 0, 0, 7, 0x44])).await;
        }
    });
}

#[test]
fn an_interface_going_down_and_up_again_is_told() {
    joined("down_up", async |peer| {
        ip("route add 192.0.2.0/24 via 10.7.0.2");
        let backends = ["10.7.0.2", "192.0.2.1"];
        let next_hops = start(&backends);
        let down = |up| Resolution::InterfaceDown { interface: "b0".into(), up };
        for backend in backends {
            one(&next_hops, backend, has_mac(PEER_MAC)).await;
        }
        peer.ip("link set p0 down");
        for backend in backends {
            one(&next_hops, backend, |resolution| *resolution == down(true)).await;
        }
        peer.ip("link set p0 up");
        for backend in backends {
            one(&next_hops, backend, has_mac(PEER_MAC)).await;
        }
        ip("link set b0 down");
        for backend in backends {
            one(&next_hops, backend, |resolution| *resolution == down(false)).await;
        }
        ip("link set b0 up");
        one(&next_hops, "10.7.0.2", has_mac(PEER_MAC)).await;
    });
}

#[test]
fn interfaces_and_addresses_come_and_go() {
    joined("interfaces", async |peer| {
        let next_hops = NextHops::start().unwrap();
        let mut interfaces = next_hops.interfaces();
        let names = ["b0".to_owned()];
        let there = interfaces
            .wait_for(|all| all.named("b0").is_some_and(|b0| b0.carrier && b0.up))
            .await
            .unwrap()
            .clone();
        assert_eq!(there.named("b0").unwrap().mac, Some(MacAddress(BALANCER_MAC)));
        let own = address("10.7.0.99");
        ip("addr add 10.7.0.99/32 dev b0");
        interfaces.wait_for(|all| all.local_addresses("b0").contains(&own)).await.unwrap();
        ip("addr del 10.7.0.99/32 dev b0");
        interfaces.wait_for(|all| !all.local_addresses("b0").contains(&own)).await.unwrap();
        ip("link del b0");
        interfaces.wait_for(|all| all.named("b0").is_none()).await.unwrap();
        join(&peer);
        let again = interfaces
            .wait_for(|all| all.local_addresses("b0").contains(&address("10.7.0.1")))
            .await
            .unwrap()
            .clone();
        let changes = again.changes_since(&there, &names);
        assert!(
            matches!(&changes[..], [InterfaceChange::Disappeared(old), InterfaceChange::Appeared(new)]
                if old.index != new.index),
            "{changes:?}"
        );
    });
}

#[test]
fn a_neighbour_that_dies_is_unresolved_until_it_is_back() {
    joined("neighbour_dies", async |peer| {
        hurry_neighbours("ipv4");
        hurry_neighbours("ipv6");
        let next_hops = start(&["10.7.0.2", "2001:db8:7::2"]);
        for backend in ["10.7.0.2", "2001:db8:7::2"] {
            one(&next_hops, backend, has_mac(PEER_MAC)).await;
        }
        peer.ip("addr flush dev p0");
        for backend in ["10.7.0.2", "2001:db8:7::2"] {
            let silent = one(&next_hops, backend, |resolution| {
                matches!(resolution, Resolution::Unresolved { cause: UnresolvedCause::Silent, .. })
            });
            assert!(silent.await.to_string().contains("doesn't answer"));
        }
        peer.ip("addr add 10.7.0.2/24 dev p0");
        peer.ip("addr add 2001:db8:7::2/64 dev p0 nodad");
        for backend in ["10.7.0.2", "2001:db8:7::2"] {
            one(&next_hops, backend, has_mac(PEER_MAC)).await;
        }
    });
}

#[test]
fn destinations_without_a_way_say_why_until_there_is_one() {
    joined("no_route", async |_peer| {
        ip("route add blackhole 198.51.100.0/25");
        ip("route add unreachable 198.51.100.128/26");
        ip("route add prohibit 198.51.100.192/26");
        ip("-6 route add blackhole 2001:db8:a::/48");
        ip("route add 203.0.113.0/24 dev lo");
        use NoRouteCause::{Blackhole, Missing, Prohibited, Unreachable};
        let expected = [
            ("192.0.2.1", Resolution::NoRoute(Missing)),
            ("2001:db8:9::1", Resolution::NoRoute(Missing)),
            ("198.51.100.1", Resolution::NoRoute(Blackhole)),
            ("198.51.100.129", Resolution::NoRoute(Unreachable)),
            ("198.51.100.193", Resolution::NoRoute(Prohibited)),
            ("2001:db8:a::1", Resolution::NoRoute(Blackhole)),
            ("10.7.0.1", Resolution::Local),
            ("2001:db8:7::1", Resolution::Local),
            ("10.7.0.255", Resolution::Unsupported(UnsupportedCause::NotUnicast)),
            ("203.0.113.1", Resolution::Unsupported(UnsupportedCause::NotEthernet("lo".into()))),
        ];
        let next_hops = start(&expected.each_ref().map(|(destination, _)| *destination));
        for (destination, resolution) in &expected {
            // An answer may change while addresses are still being assigned.
            one(&next_hops, destination, |found| found == resolution).await;
        }
        ip("route add 192.0.2.0/24 via 10.7.0.2");
        one(&next_hops, "192.0.2.1", has_mac(PEER_MAC)).await;
        ip("route del 192.0.2.0/24");
        one(&next_hops, "192.0.2.1", |found| *found == Resolution::NoRoute(Missing)).await;
        ip("rule add to 192.0.2.0/24 table 77");
        ip("route add default via 10.7.0.2 table 77");
        one(&next_hops, "192.0.2.1", has_mac(PEER_MAC)).await;
    });
}

#[test]
fn an_mtu_change_is_followed() {
    joined("mtu", async |peer| {
        let next_hops = start(&["10.7.0.2", "2001:db8:7::2"]);
        for mtu in [1500, 1400, 9000] {
            peer.ip(&format!("link set p0 mtu {mtu}"));
            ip(&format!("link set b0 mtu {mtu}"));
            for backend in ["10.7.0.2", "2001:db8:7::2"] {
                one(&next_hops, backend, has_mtu(mtu)).await;
            }
        }
        ip("route replace 10.7.0.0/24 dev b0 mtu 1300");
        one(&next_hops, "10.7.0.2", has_mtu(1300)).await;
    });
}

#[test]
fn a_burst_of_events_becomes_few_passes() {
    joined("coalesce", async |_peer| {
        let coalesce = Duration::from_millis(300);
        let next_hops = start_tuned(&["10.7.0.2"], Tuning { coalesce, ..Tuning::default() });
        one(&next_hops, "10.7.0.2", has_mac(PEER_MAC)).await;
        let mut resolutions = next_hops.resolutions();
        let begin = Instant::now();
        let namespace = std::fs::File::open("/proc/thread-self/ns/net").unwrap();
        let changes = tokio::task::spawn_blocking(move || {
            nix::sched::setns(namespace, nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
            for last in 1..=50 {
                let mac = format!("lladdr 02:00:00:00:08:{last:02x} nud permanent");
                ip(&format!("neigh replace 10.7.0.2 dev b0 {mac}"));
            }
        });
        let mut publications = 0;
        while !has_mac([2, 0, 0, 0, 8, 50])(&resolutions.borrow_and_update()[&address("10.7.0.2")])
        {
            tokio::time::timeout(DEADLINE, resolutions.changed()).await.unwrap().unwrap();
            publications += 1;
        }
        let most = begin.elapsed().as_millis() / coalesce.as_millis() + 1;
        assert!(publications <= most, "{publications} in {:?}", begin.elapsed());
        changes.await.unwrap();
    });
}

#[test]
fn a_burst_that_overruns_the_socket_loses_nothing() {
    joined("overrun", async |_peer| {
        ip("addr add 10.8.0.1/16 dev b0");
        let addresses: BTreeSet<IpAddr> =
            (1..=3000_u16).map(|n| [10, 8, 1 + (n >> 8) as u8, n as u8].into()).collect();
        let tuning = Tuning { event_buffer_bytes: 64 << 10, ..Tuning::default() };
        let next_hops = start_tuned(&["10.7.0.2"], tuning);
        one(&next_hops, "10.7.0.2", has_mac(PEER_MAC)).await;
        // The task shares this thread, so it reads nothing while the batch runs.
        fix_neighbours(&addresses, "02:00:00:00:08:08");
        next_hops.want(addresses);
        all(&next_hops, "3000 resolved", |all| {
            all.len() == 3000 && all.values().all(has_mac([2, 0, 0, 0, 8, 8]))
        })
        .await;
    });
}
