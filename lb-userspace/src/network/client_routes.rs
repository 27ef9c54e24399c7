//! From the kernel's list of routes to the few that the program is told toward clients: pure.
//!
//! What can't be told in so few prefixes with one gateway each is left out, and the kernel is asked
//! for every such client. To ask is right always, so whatever is in doubt is asked for.

use std::{collections::BTreeMap, net::IpAddr};

use lb_common::{
    layout::{
        CLIENT_ROUTES, ClientRoute, ClientRoutes, FAMILY_V4, FAMILY_V6, Way as WrittenWay,
        client_bits,
    },
    network::{mapped, words},
};

use super::{
    resolution::Resolution,
    resolve::{Asked, RouteAnswer, Way},
};

/// Routes of a family that are looked at; whoever has more asks the kernel for everybody.
pub(super) const MOST_LISTED: usize = 4096;
/// Different ways among which so few are sought.
const MOST_COMPARED: usize = 1024;

/// Numbers of the tables that are looked into by default.
const LOCAL: u32 = 255;
const MAIN: u32 = 254;
const DEFAULT: u32 = 253;

/// A routing rule: which table is looked into when.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Rule {
    pub(super) priority: u32,
    /// `None` where it is for some packets only, or does something else.
    pub(super) table: Option<u32>,
}

/// A route as the kernel lists it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Listed {
    pub(super) table: u32,
    pub(super) network: IpAddr,
    pub(super) prefix_length: u8,
    /// `None` where it has no single gateway, or something else of its own.
    pub(super) way: Option<Way>,
}

/// A route that is told: the clients of a network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Told {
    prefix: Prefix,
    /// Where they are; `None`: the kernel is asked.
    way: Option<Way>,
}

/// Upper bits that addresses have in common; all others are zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Prefix {
    bits: u64,
    length: u8,
}

/// Whether the rules are those of a kernel that nobody gave any: then routes depend on the
/// destination alone.
pub(super) fn are_default(rules: &[Rule]) -> bool {
    let mut rules = rules.to_vec();
    rules.sort_unstable();
    let expected = [(0, LOCAL), (32_766, MAIN), (32_767, DEFAULT)];
    // IPv6 has no third table.
    let expected = expected.map(|(priority, table)| Rule { priority, table: Some(table) });
    rules == expected || rules == expected[..2]
}

/// The routes to tell, of one family, the most specific first. None where everybody is asked for.
pub(super) fn choose(listed: &[Listed]) -> Vec<Told> {
    if listed.len() > MOST_LISTED {
        return Vec::new();
    }
    let mut ways = BTreeMap::new();
    for route in listed {
        let (prefix, way) = match route.table {
            MAIN => Prefix::of(route.network, route.prefix_length, route.way),
            LOCAL | DEFAULT => Prefix::of(route.network, route.prefix_length, None),
            // No rule leads there.
            _ => continue,
        };
        // Of several, metrics and more decide.
        ways.entry(prefix).and_modify(|way| *way = None).or_insert(way);
    }
    let mut told = simplified(ways);
    if told.len() > MOST_COMPARED {
        return Vec::new();
    }
    while told.len() > CLIENT_ROUTES {
        told = with_one_merged(told);
    }
    // The longer prefix first; of two that don't overlap it doesn't matter.
    let mut told: Vec<_> = told.into_iter().map(|(prefix, way)| Told { prefix, way }).collect();
    told.sort_by_key(|told| std::cmp::Reverse(told.prefix.length));
    told
}

/// Without what says nothing: routes within a network that is asked for, those that say what the one
/// around them says, and networks to ask for where there is no way around them.
fn simplified(ways: BTreeMap<Prefix, Option<Way>>) -> BTreeMap<Prefix, Option<Way>> {
    let mut kept = BTreeMap::new();
    // Those around the next one, the widest first.
    let mut around: Vec<(Prefix, Option<Way>)> = Vec::new();
    // In this order, a network stands before those within it.
    for (prefix, way) in ways {
        while around.last().is_some_and(|(outer, _)| !outer.covers(prefix)) {
            around.pop();
        }
        let outer = around.last().and_then(|(_, way)| *way);
        let is_asked_for = around.last().is_some_and(|(_, way)| way.is_none());
        if !is_asked_for && outer != way {
            kept.insert(prefix, way);
        }
        if !is_asked_for {
            around.push((prefix, way));
        }
    }
    kept
}

/// With the smallest network asked for in which two of them are.
fn with_one_merged(mut told: BTreeMap<Prefix, Option<Way>>) -> BTreeMap<Prefix, Option<Way>> {
    let neighbours = told.keys().zip(told.keys().skip(1));
    let smallest = neighbours.map(|(one, other)| one.common(*other)).max_by_key(|both| both.length);
    let Some(smallest) = smallest else { return told };
    told.retain(|prefix, _| !smallest.covers(*prefix));
    told.insert(smallest, None);
    simplified(told)
}

impl Prefix {
    /// Of a network of either family, with what is known of it. An IPv6 network of less than a /64
    /// is told by that, and asked for.
    fn of(network: IpAddr, length: u8, way: Option<Way>) -> (Self, Option<Way>) {
        let (bits, longest) = match network {
            IpAddr::V4(network) => (u64::from(network.to_bits()) << 32, 32),
            IpAddr::V6(network) => ((network.to_bits() >> 64) as u64, 64),
        };
        let way = way.filter(|_| length <= longest);
        (Self { bits, length: 64 }.cut(length.min(longest)), way)
    }

    /// The first address.
    fn address(self, is_v4: bool) -> IpAddr {
        if is_v4 {
            IpAddr::V4(((self.bits >> 32) as u32).into())
        } else {
            IpAddr::V6((u128::from(self.bits) << 64).into())
        }
    }

    fn mask(self) -> u64 {
        u64::MAX.checked_shl(64 - u32::from(self.length)).unwrap_or(0)
    }

    fn cut(self, length: u8) -> Self {
        let cut = Self { length, ..self };
        Self { bits: self.bits & cut.mask(), ..cut }
    }

    fn covers(self, other: Self) -> bool {
        self.length <= other.length && (self.bits ^ other.bits) & self.mask() == 0
    }

    /// The smallest that covers both.
    fn common(self, other: Self) -> Self {
        let same = (self.bits ^ other.bits).leading_zeros() as u8;
        self.cut(same.min(self.length).min(other.length))
    }
}

/// What the program is told, with what `resolve` says of the gateways of IPv4 and IPv6.
pub(super) fn records(
    told: &[Vec<Told>; 2],
    mut resolve: impl FnMut(&Asked<'_>) -> Resolution,
) -> ClientRoutes {
    let mut records = ClientRoutes::VACANT;
    let [v4, v6] = told;
    for (told, records, is_v4) in [(v4, &mut records.v4, true), (v6, &mut records.v6, false)] {
        for (told, record) in told.iter().zip(records) {
            let gateway = told.way.map(|way| {
                let destination = told.prefix.address(is_v4);
                let answer = RouteAnswer::Via(way);
                resolve(&Asked { destination, answer: &answer, last_ifindex: None })
            });
            *record = told.record(is_v4, gateway.as_ref());
        }
    }
    records
}

impl Told {
    /// As the program has it. Where the gateway's link-layer address isn't known, it asks.
    fn record(&self, is_v4: bool, gateway: Option<&Resolution>) -> ClientRoute {
        let (network, mask) = (self.prefix.bits, self.prefix.mask());
        let record = ClientRoute {
            network: written(network, is_v4),
            mask: written(mask, is_v4),
            ..ClientRoute::VACANT
        };
        let Some(Resolution::Resolved { next_hop, egress, .. }) = gateway else { return record };
        let [a, b, c, d, e, f] = next_hop.0;
        let [g, h, i, j, k, l] = egress.source_mac.0;
        let macs = [[a, b, c, d], [e, f, g, h], [i, j, k, l]].map(u32::from_ne_bytes);
        let way = WrittenWay { macs, ifindex: egress.ifindex, mtu: egress.mtu };
        ClientRoute { way, is_known: 1, ..record }
    }
}

/// Upper bits of an address as the program compares them.
fn written(bits: u64, is_v4: bool) -> u64 {
    if is_v4 {
        let address = ((bits >> 32) as u32).to_be_bytes();
        client_bits(words(mapped(address)), FAMILY_V4)
    } else {
        client_bits(words((u128::from(bits) << 64).to_be_bytes()), FAMILY_V6)
    }
}

#[cfg(test)]
#[path = "tests/client_routes.rs"]
mod tests;
