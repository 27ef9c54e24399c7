//! From the kernel's tables to the answer for one destination: pure.

use std::{collections::BTreeSet, net::IpAddr};

use super::{
    interface::{Interface, Interfaces, LinkKind},
    neighbour::{NeighbourKey, Neighbours, Reachability},
    resolution::{Egress, NoRouteCause, Resolution, UnresolvedCause, UnsupportedCause},
};

/// The kernel's route look-up for one destination.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum RouteAnswer {
    /// Out of an interface, to a gateway or straight to the destination.
    Via(Way),
    /// An address of this host.
    Local,
    /// No way.
    NoRoute(NoRouteCause),
    /// A way that no frame of ours can take.
    Unsupported(UnsupportedCause),
    /// The question failed.
    Failed(String),
}

/// The way that a route takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Way {
    pub(super) ifindex: u32,
    /// `None` is on-link. May be IPv6 for an IPv4 destination (RFC 5549).
    pub(super) gateway: Option<IpAddr>,
    /// The source address that the kernel would take.
    pub(super) source: Option<IpAddr>,
    /// The route's own MTU in bytes, also one learned by path MTU discovery.
    pub(super) mtu: Option<u32>,
}

/// A destination and what the kernel said of it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Asked<'a> {
    pub(super) destination: IpAddr,
    pub(super) answer: &'a RouteAnswer,
    /// The interface of the last answer that named one: the kernel takes the routes of an
    /// interface away when it goes down.
    pub(super) last_ifindex: Option<u32>,
}

/// The answer that needs no question: for addresses that no backend can have.
pub(super) fn known_without_asking(destination: IpAddr) -> Option<RouteAnswer> {
    let cause = match destination {
        IpAddr::V6(address) if address.is_unicast_link_local() => UnsupportedCause::LinkLocal,
        address if address.is_multicast() || address.is_unspecified() => {
            UnsupportedCause::NotUnicast
        }
        _ => return None,
    };
    Some(RouteAnswer::Unsupported(cause))
}

/// Whom a destination's frames go to, if the kernel must be asked for it.
pub(super) fn neighbour_key(asked: &Asked<'_>, interfaces: &Interfaces) -> Option<NeighbourKey> {
    let RouteAnswer::Via(way) = asked.answer else { return None };
    let interface = interfaces.get(way.ifindex)?;
    let usable = interface.up && interface.carrier && interface.kind == LinkKind::Ethernet;
    usable.then_some(NeighbourKey {
        ifindex: way.ifindex,
        address: way.gateway.unwrap_or(asked.destination),
    })
}

/// The answer for one destination. `ours` are the interfaces that packets for VIPs come in by;
/// `refused` tells the `errno` of a refused neighbour question.
pub(super) fn resolve(
    asked: &Asked<'_>,
    interfaces: &Interfaces,
    ours: &BTreeSet<String>,
    neighbours: &Neighbours,
    refused: impl Fn(&NeighbourKey) -> Option<i32>,
) -> Resolution {
    let way = match asked.answer {
        RouteAnswer::Via(way) => way,
        RouteAnswer::Local => return Resolution::Local,
        RouteAnswer::NoRoute(cause) => return no_route(asked, *cause, interfaces),
        RouteAnswer::Unsupported(cause) => return Resolution::Unsupported(cause.clone()),
        RouteAnswer::Failed(reason) => return Resolution::Failed(reason.clone()),
    };
    let Some(interface) = interfaces.get(way.ifindex) else {
        return Resolution::Failed(format!("it named interface {}, which is gone", way.ifindex));
    };
    let (LinkKind::Ethernet, Some(source_mac)) = (interface.kind, interface.mac) else {
        return Resolution::Unsupported(UnsupportedCause::NotEthernet(interface.name.clone()));
    };
    if interface.vlan && !ours.contains(&interface.name) {
        return Resolution::Unsupported(UnsupportedCause::Vlan(interface.name.clone()));
    }
    if !(interface.up && interface.carrier) {
        return Resolution::InterfaceDown { interface: interface.name.clone(), up: interface.up };
    }
    let gateway = way.gateway.unwrap_or(asked.destination);
    let egress = Egress {
        interface: interface.name.clone(),
        ifindex: interface.index,
        source_mac,
        mtu: mtu(asked.destination, way, interface),
        source: way.source.filter(|source| !source.is_unspecified()),
    };
    let key = NeighbourKey { ifindex: way.ifindex, address: gateway };
    let neighbour = neighbours.get(&key);
    match neighbour.mac {
        // On an interface without ARP the kernel fills in the interface's own address.
        Some(mac) if mac == source_mac => {
            Resolution::Unresolved { gateway, egress, cause: UnresolvedCause::NoArp }
        }
        Some(next_hop) => Resolution::Resolved { next_hop, gateway, egress },
        None => {
            let cause = match (refused(&key), neighbour.reachability) {
                (Some(errno), _) => UnresolvedCause::Refused(errno),
                (None, Reachability::Failed) => UnresolvedCause::Silent,
                (None, Reachability::Fixed) => UnresolvedCause::NoArp,
                (None, _) => UnresolvedCause::Asking,
            };
            Resolution::Unresolved { gateway, egress, cause }
        }
    }
}

/// Blames an interface that is down for a missing route, where one would lead to `asked`.
fn no_route(asked: &Asked<'_>, cause: NoRouteCause, interfaces: &Interfaces) -> Resolution {
    let leads_there = |interface: &&Interface| {
        Some(interface.index) == asked.last_ifindex
            || interface.addresses.iter().any(|address| address.covers(asked.destination))
    };
    let down = interfaces
        .iter()
        .filter(|interface| !(interface.up && interface.carrier))
        .find(leads_there)
        .filter(|_| cause == NoRouteCause::Missing);
    match down {
        Some(Interface { name, up, .. }) => {
            Resolution::InterfaceDown { interface: name.clone(), up: *up }
        }
        None => Resolution::NoRoute(cause),
    }
}

fn mtu(destination: IpAddr, way: &Way, interface: &Interface) -> u32 {
    let ipv6 = interface.mtu_ipv6.filter(|_| destination.is_ipv6());
    let own = ipv6.map_or(interface.mtu, |ipv6| ipv6.min(interface.mtu));
    way.mtu.map_or(own, |route| route.min(own))
}

#[cfg(test)]
#[path = "tests/resolve.rs"]
mod tests;
