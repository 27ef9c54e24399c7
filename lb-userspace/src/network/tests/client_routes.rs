//! Which routes toward clients can be told in a few prefixes.

use lb_common::{layout::ClientRoutes, network::mapped};

use super::*;
use crate::{
    model::MacAddress,
    network::resolution::{Egress, UnresolvedCause},
};

/// A gateway by its last byte.
fn via(last: u8) -> Option<Way> {
    let gateway = Some(IpAddr::from([192, 0, 2, last]));
    Some(Way { ifindex: 2, gateway, source: None, mtu: None })
}

fn in_table(table: u32, prefix: &str, way: Option<Way>) -> Listed {
    let (network, length) = prefix.split_once('/').unwrap();
    let (network, prefix_length) = (network.parse().unwrap(), length.parse().unwrap());
    Listed { table, network, prefix_length, way }
}

fn main(prefix: &str, way: Option<Way>) -> Listed {
    in_table(MAIN, prefix, way)
}

fn local(prefix: &str) -> Listed {
    in_table(LOCAL, prefix, None)
}

/// The gateway of every client that is told: how the program finds it.
fn told(listed: &[Listed], client: &str) -> Option<u8> {
    let told = choose(listed);
    assert!(told.len() <= CLIENT_ROUTES, "{told:?}");
    let both = if client.contains(':') { [vec![], told] } else { [told, vec![]] };
    let records = records(&both, |asked| {
        let RouteAnswer::Via(way) = asked.answer else { panic!("{asked:?}") };
        let Some(IpAddr::V4(gateway)) = way.gateway else { panic!("{way:?}") };
        resolved(gateway.octets()[3])
    });
    let (address, family) = match client.parse().unwrap() {
        IpAddr::V4(client) => (mapped(client.octets()), FAMILY_V4),
        IpAddr::V6(client) => (client.octets(), FAMILY_V6),
    };
    let way = records.way(words(address), family)?;
    assert_eq!((way.ifindex, way.mtu), (2, 1500));
    Some(way.macs[1].to_ne_bytes()[1])
}

/// The gateway of that number is at a MAC address that ends with it.
fn resolved(last: u8) -> Resolution {
    Resolution::Resolved {
        next_hop: MacAddress([2, 0, 0, 0, 0, last]),
        gateway: [192, 0, 2, last].into(),
        egress: egress(),
    }
}

fn egress() -> Egress {
    Egress {
        interface: "eth0".into(),
        ifindex: 2,
        source_mac: MacAddress([2, 0, 0, 0, 1, 1]),
        mtu: 1500,
        source: None,
    }
}

#[test]
fn who_is_on_the_segment_is_never_sent_to_the_gateway() {
    let routes = [
        main("0.0.0.0/0", via(1)),
        main("192.0.2.0/24", None),
        main("10.0.0.0/8", via(2)),
        main("10.9.0.0/16", None),
        main("10.8.0.0/16", via(1)),
        local("127.0.0.0/8"),
        local("192.0.2.10/32"),
        local("198.51.100.7/32"),
    ];
    for (client, gateway) in [
        ("203.0.113.9", Some(1)),
        ("192.0.2.77", None),
        ("192.0.3.0", Some(1)),
        ("192.0.1.255", Some(1)),
        ("10.1.2.3", Some(2)),
        ("10.8.2.3", Some(1)),
        ("10.9.2.3", None),
        ("127.0.0.1", None),
        ("198.51.100.7", None),
        ("198.51.100.8", Some(1)),
    ] {
        assert_eq!(told(&routes, client), gateway, "{client}");
    }
}

#[test]
fn of_ipv6_the_upper_half_is_told() {
    let routes = [
        main("::/0", via(1)),
        main("2001:db8:1::/64", None),
        main("2001:db8:2::/48", via(2)),
        // One client of its network has another gateway.
        main("2001:db8:3::5/128", via(3)),
        main("fe80::/64", None),
        local("2001:db8:1::10/128"),
        local("ff00::/8"),
        local("::1/128"),
    ];
    for (client, gateway) in [
        ("2001:db8:9::1", Some(1)),
        ("2001:db8:1::77", None),
        ("2001:db8:1:1::77", Some(1)),
        ("2001:db8:2:7::1", Some(2)),
        ("2001:db8:3::5", None),
        ("2001:db8:3::6", None),
        ("fe80::1", None),
        ("ff02::1", None),
    ] {
        assert_eq!(told(&routes, client), gateway, "{client}");
    }
}

#[test]
fn where_several_routes_lead_the_kernel_is_asked() {
    let default = main("0.0.0.0/0", via(1));
    assert_eq!(told(&[default], "203.0.113.9"), Some(1));
    assert_eq!(told(&[default, main("0.0.0.0/0", via(2))], "203.0.113.9"), None);
    assert_eq!(told(&[default, in_table(DEFAULT, "0.0.0.0/0", via(1))], "203.0.113.9"), None);
    // No rule leads to that table.
    assert_eq!(told(&[default, in_table(100, "0.0.0.0/0", via(2))], "203.0.113.9"), Some(1));
    // Addresses of the host come first, however specific another table is.
    let routes = [default, local("10.0.0.0/8"), main("10.1.0.0/16", via(2))];
    assert_eq!(told(&routes, "10.1.0.1"), None);
    assert!(choose(&[main("192.0.2.0/24", None)]).is_empty());
    assert!(choose(&[]).is_empty());
}

/// More networks than there is room for: some clients more are asked for, and none is told wrongly.
#[test]
fn what_does_not_fit_is_asked_for() {
    let mut routes = vec![main("0.0.0.0/0", via(1))];
    routes.extend((0..40).map(|n| main(&format!("172.16.{}.0/24", 2 * n), None)));
    routes.extend((0..40).map(|n| main(&format!("172.17.{n}.0/24"), via(n))));
    for n in 0..40 {
        assert_eq!(told(&routes, &format!("172.16.{}.7", 2 * n)), None);
        let gateway = told(&routes, &format!("172.17.{n}.7"));
        assert!(gateway.is_none_or(|gateway| gateway == n), "{gateway:?}");
    }
    assert_eq!(told(&routes, "203.0.113.9"), Some(1));
    // From one end of the address space to the other: nothing is left to tell.
    let scattered = (0..=255).map(|n| main(&format!("{n}.0.0.0/9"), None));
    let routes: Vec<_> = scattered.chain([main("0.0.0.0/0", via(1))]).collect();
    assert!(told(&routes, "5.1.1.1").is_none() && told(&routes, "250.1.1.1").is_none());
    let many = (0..=MOST_LISTED as u32)
        .map(|n| main(&format!("{}/32", std::net::Ipv4Addr::from(n)), via(1)));
    assert!(choose(&many.collect::<Vec<_>>()).is_empty());
}

#[test]
fn a_gateway_that_is_not_known_is_asked_for() {
    let told = [choose(&[main("0.0.0.0/0", via(1)), main("192.0.2.0/24", None)]), vec![]];
    let unresolved = |_: &Asked<'_>| Resolution::Unresolved {
        gateway: [192, 0, 2, 1].into(),
        egress: egress(),
        cause: UnresolvedCause::Asking,
    };
    let records = records(&told, unresolved);
    assert!(records.v4.iter().all(|route| route.is_known == 0));
    assert_eq!(records.v6, ClientRoutes::VACANT.v6);
}

#[test]
fn rules_are_those_of_a_kernel_that_nobody_gave_any() {
    let rule = |priority, table| Rule { priority, table: Some(table) };
    let default = [rule(32_767, DEFAULT), rule(0, LOCAL), rule(32_766, MAIN)];
    assert!(are_default(&default));
    assert!(are_default(&default[1..]));
    assert!(!are_default(&default[..2]));
    assert!(!are_default(&[]));
    assert!(!are_default(&[default.as_slice(), &[rule(100, 7)]].concat()));
    let mut odd = default;
    odd[2].table = None;
    assert!(!are_default(&odd));
}
