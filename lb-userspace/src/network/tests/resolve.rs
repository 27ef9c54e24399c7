use super::super::{
    interface::InterfaceAddress, neighbour::NeighbourUpdate, resolution::Resolution::*,
};
use super::*;
use crate::model::{MacAddress, Route};

const OWN: MacAddress = MacAddress([2, 0, 0, 0, 0, 1]);
const PEER: MacAddress = MacAddress([2, 0, 0, 0, 0, 2]);

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn ethernet() -> Interface {
    let local = ip("10.0.0.1");
    Interface {
        index: 2,
        name: "eth0".into(),
        mac: Some(OWN),
        mtu: 1500,
        mtu_ipv6: Some(1280),
        kind: LinkKind::Ethernet,
        up: true,
        carrier: true,
        addresses: vec![InterfaceAddress { local, network: local, prefix_length: 24 }],
        ..Interface::default()
    }
}

fn way() -> Way {
    Way { ifindex: 2, gateway: None, source: Some(ip("10.0.0.1")), mtu: None }
}

/// One case: everything that [`resolve`] takes.
struct Case {
    destination: IpAddr,
    answer: RouteAnswer,
    last_ifindex: Option<u32>,
    interface: Interface,
    neighbours: Neighbours,
    refused: Option<i32>,
}

impl Case {
    /// An on-link destination whose neighbour is known.
    fn new(destination: &str, way: Way) -> Self {
        let mut case = Self {
            destination: ip(destination),
            answer: RouteAnswer::Via(way),
            last_ifindex: None,
            interface: ethernet(),
            neighbours: Neighbours::default(),
            refused: None,
        };
        case.neighbour(way.gateway.unwrap_or(case.destination), Reachability::Known, Some(PEER));
        case
    }

    fn neighbour(&mut self, address: IpAddr, reachability: Reachability, mac: Option<MacAddress>) {
        let key = NeighbourKey { ifindex: 2, address };
        self.neighbours.apply(NeighbourUpdate { key, reachability, mac });
    }

    fn interfaces(&self) -> Interfaces {
        let mut interfaces = Interfaces::default();
        interfaces.insert(self.interface.clone());
        interfaces
    }

    fn asked(&self) -> Asked<'_> {
        Asked {
            destination: self.destination,
            answer: &self.answer,
            last_ifindex: self.last_ifindex,
        }
    }

    fn resolve(&self) -> Resolution {
        self.resolve_with(&[])
    }

    fn resolve_with(&self, ours: &[&str]) -> Resolution {
        let ours = ours.iter().map(|name| (*name).to_owned()).collect();
        resolve(&self.asked(), &self.interfaces(), &ours, &self.neighbours, |_| self.refused)
    }
}

#[test]
fn an_on_link_neighbour_makes_a_route() {
    let resolution = Case::new("10.0.0.9", way()).resolve();
    let route = Route {
        next_hop: PEER,
        source_mac: OWN,
        egress_ifindex: 2,
        mtu: 1500,
        outer_source: Some(ip("10.0.0.1")),
    };
    assert_eq!(resolution.route(None, None), Some(route));
    let (source, next_hop) = (ip("192.0.2.7"), MacAddress([2, 0, 0, 0, 0, 7]));
    assert_eq!(
        resolution.route(Some(source), Some(next_hop)),
        Some(Route { next_hop, outer_source: Some(source), ..route })
    );
    assert_eq!(resolution.to_string(), "10.0.0.9 on eth0 is at 02:00:00:00:00:02");
}

/// A frame that came in by the interface below would leave without the VLAN's tag.
#[test]
fn a_vlan_is_a_way_for_what_comes_in_by_it_alone() {
    let mut case = Case::new("10.0.0.9", way());
    case.interface.vlan = true;
    case.interface.name = "eth0.10".into();
    for ours in [&[][..], &["eth0"]] {
        let resolution = case.resolve_with(ours);
        assert_eq!(resolution, Unsupported(UnsupportedCause::Vlan("eth0.10".into())));
        assert!(resolution.to_string().contains("eth0.10, a VLAN"), "{resolution}");
        assert_eq!(resolution.route(None, Some(PEER)), None);
    }
    assert!(case.resolve_with(&["eth0", "eth0.10"]).route(None, None).is_some());
}

#[test]
fn a_gateway_answers_for_its_destinations_also_an_ipv6_one_for_ipv4() {
    for gateway in ["10.0.0.254", "fe80::1"] {
        let way = Way { gateway: Some(ip(gateway)), ..way() };
        let case = Case::new("192.0.2.1", way);
        let Resolved { next_hop, gateway: by, .. } = case.resolve() else { panic!("{gateway}") };
        assert_eq!((next_hop, by), (PEER, ip(gateway)));
        let key = neighbour_key(&case.asked(), &case.interfaces()).unwrap();
        assert_eq!(key.address, ip(gateway));
    }
}

#[test]
fn the_mtu_is_the_least_of_route_interface_and_family() {
    let mtu = |destination, mtu| match Case::new(destination, Way { mtu, ..way() }).resolve() {
        Resolved { egress, .. } => egress.mtu,
        other => panic!("{other:?}"),
    };
    assert_eq!(mtu("10.0.0.9", None), 1500);
    assert_eq!(mtu("10.0.0.9", Some(1400)), 1400);
    assert_eq!(mtu("10.0.0.9", Some(9000)), 1500);
    assert_eq!(mtu("2001:db8::9", None), 1280);
    let mut jumbo = Case::new("10.0.0.9", way());
    jumbo.interface.mtu = 70_000;
    assert_eq!(jumbo.resolve().route(None, None).unwrap().mtu, u16::MAX);
}

#[test]
fn an_unknown_neighbour_says_how_far_the_question_is() {
    let mut case = Case::new("10.0.0.9", way());
    let mut cause = |reachability, refused| {
        case.neighbours = Neighbours::default();
        case.neighbour(ip("10.0.0.9"), reachability, None);
        case.refused = refused;
        match case.resolve() {
            Unresolved { cause, .. } => cause,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(cause(Reachability::Absent, None), UnresolvedCause::Asking);
    assert_eq!(cause(Reachability::Incomplete, None), UnresolvedCause::Asking);
    assert_eq!(cause(Reachability::Failed, None), UnresolvedCause::Silent);
    assert_eq!(cause(Reachability::Fixed, None), UnresolvedCause::NoArp);
    assert_eq!(cause(Reachability::Absent, Some(1)), UnresolvedCause::Refused(1));
    assert!(case.resolve().to_string().contains("CAP_NET_ADMIN"));
    case.refused = Some(105);
    assert!(case.resolve().to_string().contains("net.ipv4.neigh.default.gc_thresh3"));
    assert_eq!(case.resolve().route(None, None), None);
    assert_eq!(case.resolve().route(None, Some(PEER)).unwrap().next_hop, PEER);
}

#[test]
fn the_interfaces_own_address_is_no_next_hop() {
    let mut case = Case::new("10.0.0.9", way());
    case.neighbour(ip("10.0.0.9"), Reachability::Fixed, Some(OWN));
    let Unresolved { cause: UnresolvedCause::NoArp, .. } = case.resolve() else {
        panic!("{:?}", case.resolve());
    };
}

#[test]
fn an_interface_that_is_down_is_named() {
    let mut case = Case::new("10.0.0.9", way());
    case.interface.carrier = false;
    let down = |up| InterfaceDown { interface: "eth0".into(), up };
    assert_eq!(case.resolve(), down(true));
    assert_eq!(neighbour_key(&case.asked(), &case.interfaces()), None);
    case.interface.up = false;
    assert_eq!(case.resolve(), down(false));
    assert!(case.resolve().to_string().contains("ip link set eth0 up"));
    // The kernel took its routes away: known by its network, or by the last answer.
    case.answer = RouteAnswer::NoRoute(NoRouteCause::Missing);
    assert_eq!(case.resolve(), down(false));
    case.destination = ip("192.0.2.1");
    assert_eq!(case.resolve(), NoRoute(NoRouteCause::Missing));
    case.last_ifindex = Some(2);
    assert_eq!(case.resolve(), down(false));
    case.answer = RouteAnswer::NoRoute(NoRouteCause::Blackhole);
    assert_eq!(case.resolve(), NoRoute(NoRouteCause::Blackhole));
}

#[test]
fn what_is_no_ethernet_unicast_says_so() {
    let mut case = Case::new("10.0.0.9", way());
    case.interface = Interface { mac: None, kind: LinkKind::Other, ..ethernet() };
    assert_eq!(case.resolve(), Unsupported(UnsupportedCause::NotEthernet("eth0".into())));
    case.answer = RouteAnswer::Local;
    assert_eq!(case.resolve(), Local);
    case.answer = RouteAnswer::Via(Way { ifindex: 77, ..way() });
    assert!(case.resolve().to_string().contains("77"), "{}", case.resolve());
    case.answer = RouteAnswer::Failed("why".into());
    assert_eq!(case.resolve(), Failed("why".into()));
    assert_eq!(case.resolve().route(None, Some(PEER)), None);
}

#[test]
fn an_unspecified_source_is_none() {
    let case = Case::new("10.0.0.9", Way { source: Some(ip("0.0.0.0")), ..way() });
    assert_eq!(case.resolve().route(None, None).unwrap().outer_source, None);
}

#[test]
fn some_addresses_need_no_question() {
    let cause = |text| match known_without_asking(ip(text)) {
        Some(RouteAnswer::Unsupported(cause)) => Some(cause),
        None => None,
        other => panic!("{other:?}"),
    };
    assert_eq!(cause("fe80::1"), Some(UnsupportedCause::LinkLocal));
    for text in ["224.0.0.1", "ff02::1", "0.0.0.0", "::"] {
        assert_eq!(cause(text), Some(UnsupportedCause::NotUnicast), "{text}");
    }
    for text in ["10.0.0.1", "2001:db8::1", "169.254.0.1"] {
        assert_eq!(cause(text), None, "{text}");
    }
}
