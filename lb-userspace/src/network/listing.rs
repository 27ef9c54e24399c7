//! From the kernel's lists of routes and rules to plain values: what of them can be told in a prefix
//! and a gateway.

use std::net::IpAddr;

use netlink_packet_route::{
    AddressFamily,
    route::{RouteAttribute, RouteFlags, RouteMessage, RouteMetric, RouteType},
    rule::{RuleAction, RuleAttribute, RuleMessage},
};

use super::{
    client_routes::{Listed, Rule},
    message::{ip, route},
    resolve::{RouteAnswer, Way},
};

/// A route as a dump tells it; `None` for what the kernel noted of single destinations.
pub(super) fn listed(message: &RouteMessage) -> Option<Listed> {
    let header = &message.header;
    if header.flags.contains(RouteFlags::Cloned) {
        return None;
    }
    let mut table = u32::from(header.table);
    let mut network = match header.address_family {
        AddressFamily::Inet => IpAddr::V4([0; 4].into()),
        AddressFamily::Inet6 => IpAddr::V6([0; 16].into()),
        _ => return None,
    };
    let unusable = RouteFlags::Dead | RouteFlags::Linkdown | RouteFlags::Unresolved;
    let mut is_plain = header.source_prefix_length == 0
        && header.tos == 0
        && header.kind == RouteType::Unicast
        && !header.flags.intersects(unusable);
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Table(number) => table = *number,
            RouteAttribute::Destination(address) => network = ip(address)?,
            // As the next hop is told by them, or nothing is.
            RouteAttribute::Oif(_)
            | RouteAttribute::Gateway(_)
            | RouteAttribute::Via(_)
            | RouteAttribute::PrefSource(_)
            | RouteAttribute::Priority(_)
            | RouteAttribute::Preference(_)
            | RouteAttribute::Realm(_) => {}
            // A route that ends by itself does so without a word.
            RouteAttribute::CacheInfo(found) => is_plain &= found.expires == 0,
            RouteAttribute::Metrics(metrics) => {
                is_plain &= metrics.iter().all(|metric| !says_length(metric));
            }
            // Several gateways, sources, tunnels, and what there will be.
            _ => is_plain = false,
        }
    }
    let way = match route(message) {
        RouteAnswer::Via(way) if is_plain && way.gateway.is_some() => {
            Some(Way { source: None, ..way })
        }
        _ => None,
    };
    Some(Listed { table, network, prefix_length: header.destination_prefix_length, way })
}

/// It says how long packets may be, for some of them.
fn says_length(metric: &RouteMetric) -> bool {
    matches!(metric, RouteMetric::Mtu(_) | RouteMetric::Lock(_) | RouteMetric::Other(_))
}

/// A routing rule.
pub(super) fn rule(message: &RuleMessage) -> Rule {
    let header = &message.header;
    let mut table = u32::from(header.table);
    let mut priority = 0;
    let mut is_plain = header.dst_len == 0
        && header.src_len == 0
        && header.tos == 0
        && header.flags.is_empty()
        && header.action == RuleAction::ToTable;
    for attribute in &message.attributes {
        match attribute {
            RuleAttribute::Priority(number) => priority = *number,
            RuleAttribute::Table(number) => table = *number,
            RuleAttribute::Protocol(_) | RuleAttribute::SuppressPrefixLen(u32::MAX) => {}
            _ => is_plain = false,
        }
    }
    Rule { priority, table: is_plain.then_some(table) }
}

#[cfg(test)]
mod tests {
    use netlink_packet_route::route::{RouteAddress, RouteLwEnCapType};

    use super::*;

    #[test]
    fn only_a_route_with_one_gateway_and_nothing_else_has_a_way() {
        let mut plain = RouteMessage::default();
        plain.header.address_family = AddressFamily::Inet;
        plain.header.destination_prefix_length = 8;
        plain.header.table = 254;
        plain.header.kind = RouteType::Unicast;
        let gateway = RouteAttribute::Gateway(RouteAddress::Inet([192, 0, 2, 1].into()));
        plain.attributes = vec![
            RouteAttribute::Destination(RouteAddress::Inet([10, 0, 0, 0].into())),
            RouteAttribute::Oif(2),
            RouteAttribute::Priority(100),
            RouteAttribute::Metrics(vec![RouteMetric::Hoplimit(64)]),
            gateway.clone(),
        ];
        let found = listed(&plain).unwrap();
        assert_eq!((found.table, found.network), (254, IpAddr::from([10, 0, 0, 0])));
        assert_eq!(found.prefix_length, 8);
        assert_eq!(found.way.unwrap().gateway, Some(IpAddr::from([192, 0, 2, 1])));

        let way = |change: &dyn Fn(&mut RouteMessage)| {
            let mut message = plain.clone();
            change(&mut message);
            listed(&message).unwrap().way
        };
        let with =
            |attribute: RouteAttribute| way(&|message| message.attributes.push(attribute.clone()));
        assert!(
            with(RouteAttribute::PrefSource(RouteAddress::Inet([10, 0, 0, 9].into()))).is_some()
        );
        for more in [
            RouteAttribute::MultiPath(Vec::new()),
            RouteAttribute::NhId(7),
            RouteAttribute::EncapType(RouteLwEnCapType::Mpls),
            RouteAttribute::Expires(60),
            RouteAttribute::Metrics(vec![RouteMetric::Mtu(1400)]),
            RouteAttribute::Source(RouteAddress::Inet([10, 0, 0, 9].into())),
        ] {
            assert_eq!(with(more.clone()), None, "{more:?}");
        }
        assert_eq!(way(&|message| message.attributes.retain(|held| *held != gateway)), None);
        assert_eq!(way(&|message| message.header.kind = RouteType::Unreachable), None);
        assert_eq!(way(&|message| message.header.kind = RouteType::Local), None);
        assert_eq!(way(&|message| message.header.tos = 8), None);
        assert_eq!(way(&|message| message.header.source_prefix_length = 64), None);
        for flag in [RouteFlags::Dead, RouteFlags::Linkdown] {
            assert_eq!(way(&|message| message.header.flags |= flag), None);
        }
        plain.header.flags |= RouteFlags::Cloned;
        assert_eq!(listed(&plain), None);
    }

    #[test]
    fn a_rule_for_some_packets_has_no_table() {
        let mut plain = RuleMessage::default();
        plain.header.table = 254;
        plain.header.action = RuleAction::ToTable;
        plain.attributes = vec![
            RuleAttribute::Priority(32_766),
            RuleAttribute::Table(254),
            RuleAttribute::SuppressPrefixLen(u32::MAX),
        ];
        assert_eq!(rule(&plain), Rule { priority: 32_766, table: Some(254) });
        for more in [
            RuleAttribute::FwMark(1),
            RuleAttribute::Iifname("eth0".into()),
            RuleAttribute::SuppressPrefixLen(0),
            RuleAttribute::L3MDev(true),
        ] {
            let mut message = plain.clone();
            message.attributes.push(more);
            assert_eq!(rule(&message).table, None);
        }
        plain.header.action = RuleAction::Blackhole;
        assert_eq!(rule(&plain).table, None);
    }
}
