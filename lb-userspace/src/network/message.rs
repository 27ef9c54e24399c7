//! From netlink messages to plain values: which attribute means what is known only here.

use std::net::IpAddr;

use netlink_packet_core::{NetlinkMessage, NetlinkPayload};
use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    address::{AddressAttribute, AddressFlags, AddressMessage},
    link::{
        AfSpecInet6, AfSpecUnspec, InfoKind, LinkAttribute, LinkFlags, LinkInfo, LinkLayerType,
        LinkMessage, State,
    },
    neighbour::{
        NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState,
    },
    route::{RouteAddress, RouteAttribute, RouteMessage, RouteMetric, RouteType, RouteVia},
};

use super::{
    interface::{Interface, InterfaceAddress, LinkKind, OperationalState},
    neighbour::{NeighbourKey, NeighbourUpdate, Reachability},
    resolution::{NoRouteCause, UnsupportedCause},
    resolve::{RouteAnswer, Way},
};
use crate::model::MacAddress;

/// What a multicast message tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Event {
    /// A neighbour changed.
    Neighbour(NeighbourUpdate),
    /// An address came (`true`) or went.
    Address(u32, InterfaceAddress, bool),
    /// A link came or changed.
    Link,
    /// A link is gone.
    LinkGone(u32),
    /// Routes or routing rules changed.
    Routes,
    /// The kernel dropped messages: everything may have changed.
    Overrun,
}

/// The event that a message tells; `None` for what is no concern of ours.
pub(super) fn event(message: NetlinkMessage<RouteNetlinkMessage>) -> Option<Event> {
    let inner = match message.payload {
        NetlinkPayload::InnerMessage(inner) => inner,
        NetlinkPayload::Overrun(_) => return Some(Event::Overrun),
        _ => return None,
    };
    match inner {
        RouteNetlinkMessage::NewNeighbour(message) => neighbour(&message).map(Event::Neighbour),
        RouteNetlinkMessage::DelNeighbour(message) => neighbour(&message).map(|update| {
            let reachability = match update.reachability {
                Reachability::Failed => Reachability::Failed,
                _ => Reachability::Absent,
            };
            Event::Neighbour(NeighbourUpdate { reachability, ..update })
        }),
        RouteNetlinkMessage::NewAddress(message) => {
            let (ifindex, address, usable) = address(&message)?;
            Some(Event::Address(ifindex, address, usable))
        }
        RouteNetlinkMessage::DelAddress(message) => {
            let (ifindex, address, _) = address(&message)?;
            Some(Event::Address(ifindex, address, false))
        }
        // A bridge tells of its ports with messages of its own family: a port that leaves is
        // not a link that is gone.
        RouteNetlinkMessage::NewLink(message) | RouteNetlinkMessage::DelLink(message)
            if message.header.interface_family != AddressFamily::Unspec =>
        {
            None
        }
        RouteNetlinkMessage::NewLink(_) => Some(Event::Link),
        RouteNetlinkMessage::DelLink(message) => Some(Event::LinkGone(message.header.index)),
        RouteNetlinkMessage::NewRoute(_)
        | RouteNetlinkMessage::DelRoute(_)
        | RouteNetlinkMessage::NewRule(_)
        | RouteNetlinkMessage::DelRule(_) => Some(Event::Routes),
        _ => None,
    }
}

/// A link as a dump tells it, without addresses.
pub(super) fn interface(message: &LinkMessage) -> Interface {
    let flags = message.header.flags;
    let mut interface = Interface {
        index: message.header.index,
        kind: match message.header.link_layer_type {
            LinkLayerType::Ether => LinkKind::Ethernet,
            LinkLayerType::Loopback => LinkKind::Loopback,
            _ => LinkKind::Other,
        },
        up: flags.contains(LinkFlags::Up),
        carrier: flags.contains(LinkFlags::LowerUp),
        ..Interface::default()
    };
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => interface.name.clone_from(name),
            LinkAttribute::Mtu(mtu) => interface.mtu = *mtu,
            LinkAttribute::Address(bytes) if interface.kind == LinkKind::Ethernet => {
                interface.mac = unicast_mac(bytes);
            }
            LinkAttribute::OperState(state) => {
                interface.state = match state {
                    State::Up => OperationalState::Up,
                    State::Down => OperationalState::Down,
                    State::LowerLayerDown => OperationalState::LowerLayerDown,
                    State::Testing | State::Dormant | State::NotPresent => {
                        OperationalState::Waiting
                    }
                    _ => OperationalState::Unknown,
                };
            }
            LinkAttribute::LinkInfo(facts) => {
                interface.vlan = facts.contains(&LinkInfo::Kind(InfoKind::Vlan));
            }
            LinkAttribute::AfSpecUnspec(families) => {
                interface.mtu_ipv6 = families.iter().find_map(ipv6_mtu);
            }
            _ => {}
        }
    }
    interface
}

fn ipv6_mtu(family: &AfSpecUnspec) -> Option<u32> {
    let AfSpecUnspec::Inet6(attributes) = family else { return None };
    attributes.iter().find_map(|attribute| match attribute {
        AfSpecInet6::DevConf(config) => u32::try_from(config.mtu6).ok().filter(|mtu| *mtu > 0),
        _ => None,
    })
}

/// An address, its interface, and whether it is usable (it didn't fail duplicate detection).
pub(super) fn address(message: &AddressMessage) -> Option<(u32, InterfaceAddress, bool)> {
    let (mut local, mut network) = (None, None);
    let mut flags = AddressFlags::from_bits_retain(u32::from(message.header.flags.bits()));
    for attribute in &message.attributes {
        match attribute {
            AddressAttribute::Local(address) => local = Some(*address),
            AddressAttribute::Address(address) => network = Some(*address),
            AddressAttribute::Flags(all) => flags = *all,
            _ => {}
        }
    }
    // IPv6 tells `Local` only where the peer's address differs.
    let local = local.or(network)?;
    let address = InterfaceAddress {
        local,
        network: network.unwrap_or(local),
        prefix_length: message.header.prefix_len,
    };
    Some((message.header.index, address, !flags.contains(AddressFlags::Dadfailed)))
}

/// An IP neighbour; `None` for bridges' forwarding entries, proxies and multicast.
pub(super) fn neighbour(message: &NeighbourMessage) -> Option<NeighbourUpdate> {
    if message.header.flags.contains(NeighbourFlags::Proxy) {
        return None;
    }
    let (mut address, mut mac) = (None, None);
    for attribute in &message.attributes {
        match attribute {
            NeighbourAttribute::Destination(NeighbourAddress::Inet(v4)) => {
                address = Some(IpAddr::V4(*v4));
            }
            NeighbourAttribute::Destination(NeighbourAddress::Inet6(v6)) => {
                address = Some(IpAddr::V6(*v6));
            }
            NeighbourAttribute::LinkLayerAddress(bytes) => mac = unicast_mac(bytes),
            _ => {}
        }
    }
    let reachability = match message.header.state {
        NeighbourState::Reachable | NeighbourState::Delay | NeighbourState::Probe => {
            Reachability::Known
        }
        NeighbourState::Stale => Reachability::Stale,
        NeighbourState::Permanent | NeighbourState::Noarp => Reachability::Fixed,
        NeighbourState::Incomplete => Reachability::Incomplete,
        NeighbourState::Failed => Reachability::Failed,
        _ => Reachability::Absent,
    };
    let address = address.filter(|address| !address.is_multicast())?;
    let key = NeighbourKey { ifindex: message.header.ifindex, address };
    Some(NeighbourUpdate { key, reachability, mac })
}

/// The kernel's answer to a look-up (`RTM_GETROUTE` with a destination).
pub(super) fn route(message: &RouteMessage) -> RouteAnswer {
    match message.header.kind {
        RouteType::Unicast => {}
        RouteType::Local => return RouteAnswer::Local,
        RouteType::BlackHole => return RouteAnswer::NoRoute(NoRouteCause::Blackhole),
        RouteType::Unreachable => return RouteAnswer::NoRoute(NoRouteCause::Unreachable),
        RouteType::Prohibit => return RouteAnswer::NoRoute(NoRouteCause::Prohibited),
        RouteType::Broadcast | RouteType::Multicast | RouteType::Anycast => {
            return RouteAnswer::Unsupported(UnsupportedCause::NotUnicast);
        }
        other => return RouteAnswer::Failed(format!("it answered with a route of type {other:?}")),
    }
    let mut way = Way { ifindex: 0, gateway: None, source: None, mtu: None };
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Oif(ifindex) => way.ifindex = *ifindex,
            RouteAttribute::Gateway(address) => way.gateway = ip(address),
            RouteAttribute::Via(RouteVia::Inet(v4)) => way.gateway = Some(IpAddr::V4(*v4)),
            RouteAttribute::Via(RouteVia::Inet6(v6)) => way.gateway = Some(IpAddr::V6(*v6)),
            RouteAttribute::PrefSource(address) => way.source = ip(address),
            RouteAttribute::EncapType(_) => {
                return RouteAnswer::Unsupported(UnsupportedCause::Encapsulating);
            }
            RouteAttribute::Metrics(metrics) => {
                way.mtu = metrics.iter().find_map(|metric| match metric {
                    RouteMetric::Mtu(mtu) if *mtu > 0 => Some(*mtu),
                    _ => None,
                });
            }
            _ => {}
        }
    }
    if way.ifindex == 0 {
        return RouteAnswer::Failed("its answer names no interface".into());
    }
    RouteAnswer::Via(way)
}

/// What an error in answer to a look-up means: the kernel tells routes that refuse by `errno`.
pub(super) fn route_error(error: &std::io::Error) -> RouteAnswer {
    use std::io::ErrorKind;
    match error.kind() {
        ErrorKind::NetworkUnreachable => RouteAnswer::NoRoute(NoRouteCause::Missing),
        ErrorKind::HostUnreachable => RouteAnswer::NoRoute(NoRouteCause::Unreachable),
        ErrorKind::PermissionDenied => RouteAnswer::NoRoute(NoRouteCause::Prohibited),
        ErrorKind::InvalidInput => RouteAnswer::NoRoute(NoRouteCause::Blackhole),
        _ => RouteAnswer::Failed(error.to_string()),
    }
}

pub(super) fn ip(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(v4) => Some(IpAddr::V4(*v4)),
        RouteAddress::Inet6(v6) => Some(IpAddr::V6(*v6)),
        _ => None,
    }
}

/// An Ethernet address that one station can have; zero, broadcast and multicast are none.
fn unicast_mac(bytes: &[u8]) -> Option<MacAddress> {
    let mac: [u8; 6] = bytes.try_into().ok()?;
    (mac != [0; 6] && mac[0] & 1 == 0).then_some(MacAddress(mac))
}

#[cfg(test)]
mod tests {
    use netlink_packet_core::NetlinkHeader;
    use netlink_packet_route::{address::AddressHeaderFlags, route::RouteLwEnCapType};

    use super::*;

    fn tell(inner: RouteNetlinkMessage) -> Option<Event> {
        event(NetlinkMessage::new(NetlinkHeader::default(), NetlinkPayload::InnerMessage(inner)))
    }

    fn neighbour_message(state: NeighbourState, mac: &[u8]) -> NeighbourMessage {
        let mut message = NeighbourMessage::default();
        message.header.ifindex = 2;
        message.header.state = state;
        let destination = NeighbourAddress::Inet([10, 0, 0, 9].into());
        message.attributes = vec![
            NeighbourAttribute::Destination(destination),
            NeighbourAttribute::LinkLayerAddress(mac.to_vec()),
        ];
        message
    }

    #[test]
    fn a_port_that_leaves_a_bridge_is_no_link_that_is_gone() {
        let mut message = LinkMessage::default();
        message.header.index = 7;
        assert_eq!(tell(RouteNetlinkMessage::DelLink(message.clone())), Some(Event::LinkGone(7)));
        message.header.interface_family = AddressFamily::Bridge;
        assert_eq!(tell(RouteNetlinkMessage::DelLink(message)), None);
    }

    #[test]
    fn a_vlan_is_told_from_what_it_is_on() {
        let mut message = LinkMessage::default();
        message.header.link_layer_type = LinkLayerType::Ether;
        let is_vlan = |message: &LinkMessage, kind| {
            let mut message = message.clone();
            message.attributes.push(LinkAttribute::LinkInfo(vec![LinkInfo::Kind(kind)]));
            interface(&message).vlan
        };
        assert!(is_vlan(&message, InfoKind::Vlan));
        assert!(!is_vlan(&message, InfoKind::Veth));
        assert!(!interface(&message).vlan);
    }

    #[test]
    fn lost_messages_are_told() {
        let overrun = NetlinkPayload::Overrun(Vec::new());
        let message = NetlinkMessage::new(NetlinkHeader::default(), overrun);
        assert_eq!(event(message), Some(Event::Overrun));
    }

    #[test]
    fn only_addresses_that_one_station_can_have_are_next_hops() {
        let mac = |bytes: &[u8]| {
            neighbour(&neighbour_message(NeighbourState::Reachable, bytes)).unwrap().mac
        };
        assert_eq!(mac(&[2, 0, 0, 0, 0, 9]), Some(MacAddress([2, 0, 0, 0, 0, 9])));
        for bad in [&[][..], &[0; 6], &[0xff; 6], &[1, 0, 0x5e, 0, 0, 1], &[2; 8]] {
            assert_eq!(mac(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn proxies_are_no_neighbours_and_deleted_ones_are_absent() {
        let mut message = neighbour_message(NeighbourState::Stale, &[2, 0, 0, 0, 0, 9]);
        let Some(Event::Neighbour(update)) =
            tell(RouteNetlinkMessage::DelNeighbour(message.clone()))
        else {
            panic!()
        };
        assert_eq!(update.reachability, Reachability::Absent);
        message.header.flags = NeighbourFlags::Proxy;
        assert_eq!(tell(RouteNetlinkMessage::NewNeighbour(message)), None);
    }

    #[test]
    fn a_duplicate_address_is_not_usable() {
        let mut message = AddressMessage::default();
        message.attributes = vec![AddressAttribute::Address([10, 0, 0, 1].into())];
        assert!(address(&message).unwrap().2);
        message.header.flags = AddressHeaderFlags::Dadfailed;
        assert!(!address(&message).unwrap().2);
    }

    #[test]
    fn a_point_to_point_address_keeps_both_ends() {
        let mut message = AddressMessage::default();
        message.attributes = vec![
            AddressAttribute::Local([10, 0, 0, 1].into()),
            AddressAttribute::Address([10, 0, 9, 1].into()),
        ];
        let (_, address, _) = address(&message).unwrap();
        assert_eq!(address.local, IpAddr::from([10, 0, 0, 1]));
        assert_eq!(address.network, IpAddr::from([10, 0, 9, 1]));
    }

    #[test]
    fn an_answer_that_no_frame_can_follow_is_none() {
        let mut message = RouteMessage::default();
        message.header.kind = RouteType::Unicast;
        assert!(matches!(route(&message), RouteAnswer::Failed(_)));
        message.attributes =
            vec![RouteAttribute::Oif(2), RouteAttribute::EncapType(RouteLwEnCapType::Mpls)];
        assert_eq!(route(&message), RouteAnswer::Unsupported(UnsupportedCause::Encapsulating));
    }
}
