//! What the balancer is given while it is measured: as many services and backends as a real one
//! has. Addresses are those set aside for benchmarks: 198.18.0.0/15 (RFC 2544), 2001:2::/48
//! (RFC 5180).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use lb_common::layout::Affinity;

use super::class::{Case, Class, Mode};
use crate::model::{
    Backend, BackendKey, Desired, FormerMember, FormerRing, MacAddress, Protocol, Route, Service,
    ServiceKey,
};

/// Services, each with a VIP of its own.
pub(crate) const SERVICES: usize = 16;
/// Slots of each service's ring.
pub(crate) const RING_SIZE: u32 = 65_537;
/// Backends of each service.
pub(crate) const BACKENDS: u16 = 100;

const PORT: u16 = 443;
/// The port of backends under NAT.
const NAT_PORT: u16 = 8443;
const CLIENT_PORT: u16 = 40_000;
/// Last part of the VIPs that TCP packets are sent to, the first mode's.
const FIRST_TCP_VIP: u8 = 10;
const UDP_VIP: u8 = 20;
const MOVING_VIP: u8 = 21;
const FIRST_IDLE_VIP: u8 = 30;
const NOT_A_VIP: u8 = 200;

/// Clients' addresses but for the last word, which is the flow's: 10.0.0.1, 2001:2:0:a::a00:1, and
/// so on.
const CLIENTS_V4: Ipv4Addr = Ipv4Addr::UNSPECIFIED;
const CLIENTS_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 2, 0, 0xa, 0, 0, 0, 0);

/// An address and port.
pub(crate) type End = (IpAddr, u16);

/// A service for each class and mode by which backends answer directly, and others that are only
/// there.
pub(crate) fn direct() -> Desired {
    let mut services = tcp_services(&Mode::DIRECT);
    services.push((vip(false, UDP_VIP), Protocol::Udp, Mode::Ipip));
    services.push((vip(false, MOVING_VIP), Protocol::Tcp, Mode::Ipip));
    let mut desired = filled_up(services);
    let moving = vip(false, MOVING_VIP);
    desired.services.iter_mut().filter(|s| s.key.vip == moving).for_each(move_all);
    desired
}

/// The same for those by which backends answer through the balancer.
pub(crate) fn answered() -> Desired {
    filled_up(tcp_services(&[Mode::Nat]))
}

/// The same for those by which every flow is known.
pub(crate) fn by_flow() -> Desired {
    filled_up(tcp_services(&[Mode::Fullnat]))
}

type Served = (IpAddr, Protocol, Mode);

fn tcp_services(modes: &[Mode]) -> Vec<Served> {
    let of_family =
        |is_v6| modes.iter().map(move |mode| (vip(is_v6, tcp_vip(*mode)), Protocol::Tcp, *mode));
    of_family(false).chain(of_family(true)).collect()
}

/// With as many more as make [`SERVICES`].
fn filled_up(mut services: Vec<Served>) -> Desired {
    let idle = (SERVICES - services.len()) as u8;
    services
        .extend((0..idle).map(|n| (vip(n % 2 == 1, FIRST_IDLE_VIP + n), Protocol::Tcp, Mode::L2)));
    let services = services.into_iter().zip(0..);
    Desired {
        services: services
            .map(|((vip, protocol, mode), n)| service(n, vip, protocol, mode))
            .collect(),
        ..Desired::default()
    }
}

/// Where a case's packets come from, and where they go.
pub(crate) fn ends(case: &Case) -> (End, End) {
    let is_v6 = case.class.is_v6();
    let clients = if is_v6 { CLIENTS_V6.into() } else { CLIENTS_V4.into() };
    let client = (clients, CLIENT_PORT);
    if case.class.is_answer() {
        // Of the first service of its family.
        let key = backend(is_v6.into(), 1, is_v6, Mode::Nat).key;
        return ((key.address, NAT_PORT), client);
    }
    (client, destination(case))
}

fn destination(case: &Case) -> End {
    let last = match (case.class, case.mode) {
        (Class::V4Udp, _) => UDP_VIP,
        (Class::Moving, _) => MOVING_VIP,
        (_, Some(mode)) => tcp_vip(mode),
        (_, None) => NOT_A_VIP,
    };
    (vip(case.class.is_v6(), last), PORT)
}

const fn tcp_vip(mode: Mode) -> u8 {
    FIRST_TCP_VIP + mode as u8
}

fn vip(is_v6: bool, last: u8) -> IpAddr {
    if is_v6 {
        Ipv6Addr::new(0x2001, 2, 0, 0, 0, 0, 0, last.into()).into()
    } else {
        Ipv4Addr::new(198, 18, 0, last).into()
    }
}

/// Makes every slot move: the first half of the backends had all, the second half has all now.
fn move_all(service: &mut Service) {
    let half = service.backends.len() / 2;
    let lives = |index: usize, first: bool| if (index < half) == first { 1000 } else { 0 };
    let members = service.backends.iter().enumerate().map(|(index, backend)| FormerMember {
        key: backend.key,
        weight: backend.weight,
        live_permille: lives(index, true),
    });
    service.former = vec![FormerRing { ring_size: RING_SIZE, members: members.collect() }];
    for (index, backend) in service.backends.iter_mut().enumerate() {
        backend.live_permille = lives(index, false);
    }
}

fn service(number: u8, vip: IpAddr, protocol: Protocol, mode: Mode) -> Service {
    Service {
        name: format!("{protocol}-{}-{number}", mode.name()),
        key: ServiceKey { vip, port: Some(PORT), protocol },
        affinity: Affinity::Flow,
        icmp_echo: false,
        idle_seconds: 900,
        ring_size: Some(RING_SIZE),
        backends: (1..=BACKENDS).map(|n| backend(number, n as u8, vip.is_ipv6(), mode)).collect(),
        leaving: Vec::new(),
        former: Vec::new(),
    }
}

fn backend(service: u8, number: u8, vip_is_v6: bool, mode: Mode) -> Backend {
    let is_v6 = mode.backends_are_v6(vip_is_v6);
    let address: IpAddr = if is_v6 {
        Ipv6Addr::new(0x2001, 2, 0, 1, 0, 0, service.into(), number.into()).into()
    } else {
        Ipv4Addr::new(198, 19, service, number).into()
    };
    let source: IpAddr = if is_v6 {
        Ipv6Addr::new(0x2001, 2, 0, 2, 0, 0, 0, 1).into()
    } else {
        Ipv4Addr::new(198, 18, 255, 1).into()
    };
    Backend {
        key: BackendKey { address, port: (mode == Mode::Nat).then_some(NAT_PORT) },
        weight: 100,
        live_permille: 1000,
        counted: true,
        alive: true,
        forward: mode.forward(),
        route: Some(Route {
            next_hop: MacAddress([2, 0, 0, 1, service, number]),
            source_mac: MacAddress([2, 0, 0, 0, 0, 1]),
            egress_ifindex: 0,
            mtu: 1500,
            outer_source: Some(source),
        }),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::bench::class;

    #[test]
    fn every_case_meets_the_service_that_it_means() {
        meet(&direct(), class::direct());
        meet(&answered(), class::answered());
        meet(&by_flow(), class::by_flow());
    }

    fn meet(desired: &Desired, cases: Vec<Case>) {
        assert_eq!(desired.services.len(), SERVICES);
        let vips: HashSet<_> = desired.services.iter().map(|service| service.key.vip).collect();
        assert_eq!(vips.len(), SERVICES);
        for case in cases {
            let ((source, source_port), (vip, port)) = ends(&case);
            if case.class.is_answer() {
                let key = BackendKey { address: source, port: Some(source_port) };
                let mut from =
                    desired.services.iter().filter(|s| s.key.vip.is_ipv6() == source.is_ipv6());
                assert!(from.any(|s| s.backends.iter().any(|b| b.key == key)), "{case:?}");
                continue;
            }
            let key = ServiceKey { vip, port: Some(port), protocol: case.class.protocol() };
            let service = desired.services.iter().find(|service| service.key == key);
            assert_eq!(service.is_some(), case.class.is_ours(), "{case:?}");
            let (Some(service), Some(mode)) = (service, case.mode) else { continue };
            assert!(service.backends.iter().all(|backend| backend.forward == mode.forward()));
            let is_v6 = mode.backends_are_v6(case.class.is_v6());
            assert!(service.backends.iter().all(|b| b.key.address.is_ipv6() == is_v6));
        }
    }
}
