//! The answer for one destination: the way to it, or why there is none and what to do.

use std::{fmt, net::IpAddr};

use crate::model::{MacAddress, Route};

/// How a destination's packets leave this host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Resolution {
    /// Everything that a frame needs is known.
    Resolved {
        /// The next hop's link-layer address.
        next_hop: MacAddress,
        /// The address that `next_hop` belongs to: a gateway, or the destination itself.
        gateway: IpAddr,
        /// The interface that leads there.
        egress: Egress,
    },
    /// The way is known, the next hop's link-layer address isn't.
    Unresolved {
        /// Who is asked for: a gateway, or the destination itself.
        gateway: IpAddr,
        /// The interface that leads there.
        egress: Egress,
        /// What became of the question.
        cause: UnresolvedCause,
    },
    /// The kernel's routes lead nowhere.
    NoRoute(NoRouteCause),
    /// The destination is an address of this very host.
    Local,
    /// The way leads through an interface that passes no packets now.
    InterfaceDown {
        /// Its name.
        interface: String,
        /// Whether the operator wants it up: then the carrier is missing.
        up: bool,
    },
    /// There is a way, but no Ethernet frame can take it.
    Unsupported(UnsupportedCause),
    /// The kernel didn't answer the question; it is asked again.
    Failed(String),
}

/// The interface that a destination's packets leave by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Egress {
    /// Its name.
    pub(crate) interface: String,
    /// Its number.
    pub(crate) ifindex: u32,
    /// Its own link-layer address.
    pub(crate) source_mac: MacAddress,
    /// The longest IP packet that the way takes, in bytes: the route's, else the interface's.
    pub(crate) mtu: u32,
    /// The address that this host would send from; `None` where it has none of that family.
    pub(crate) source: Option<IpAddr>,
}

/// Why a next hop's link-layer address is not known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum UnresolvedCause {
    /// The kernel is asking.
    Asking,
    /// The kernel asked, and nobody answered.
    Silent,
    /// The kernel refused to ask, with this `errno`.
    Refused(i32),
    /// Neighbours are not asked on this interface (`NOARP`).
    NoArp,
}

/// What the kernel's routes say instead of a way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NoRouteCause {
    /// No route matches.
    Missing,
    /// An `unreachable` route.
    Unreachable,
    /// A `prohibit` route.
    Prohibited,
    /// A `blackhole` route.
    Blackhole,
}

/// Why a way can't be taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum UnsupportedCause {
    /// A multicast, broadcast or unspecified address.
    NotUnicast,
    /// An IPv6 link-local address, which means nothing without an interface.
    LinkLocal,
    /// The interface has no Ethernet addresses.
    NotEthernet(String),
    /// The interface puts on a VLAN's tag, and no packets come in by it.
    Vlan(String),
    /// The route puts packets into a tunnel of its own (MPLS, SRv6, `encap`).
    Encapsulating,
}

impl Resolution {
    /// The kernel has been asked and hasn't answered yet.
    pub(crate) fn is_asking(&self) -> bool {
        matches!(self, Self::Unresolved { cause: UnresolvedCause::Asking, .. })
    }

    /// The route for planning, with what the config sets: `source` instead of the kernel's choice
    /// of the outer source, `next_hop` instead of the neighbour's address.
    ///
    /// `None` as long as there is no usable way. A configured next hop needs no neighbour, but it
    /// does need a route: that names the interface.
    pub(crate) fn route(
        &self,
        source: Option<IpAddr>,
        next_hop: Option<MacAddress>,
    ) -> Option<Route> {
        let (learned, egress) = match self {
            Self::Resolved { next_hop, egress, .. } => (Some(*next_hop), egress),
            Self::Unresolved { egress, .. } => (None, egress),
            _ => return None,
        };
        Some(Route {
            next_hop: next_hop.or(learned)?,
            source_mac: egress.source_mac,
            egress_ifindex: egress.ifindex,
            mtu: u16::try_from(egress.mtu).unwrap_or(u16::MAX),
            outer_source: source.or(egress.source),
        })
    }
}

impl fmt::Display for Resolution {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Resolved { next_hop: MacAddress(mac), gateway, egress } => {
                let [a, b, c, d, e, g] = mac;
                write!(
                    f,
                    "{gateway} on {} is at {a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}",
                    egress.interface
                )
            }
            Self::Unresolved { gateway, egress, cause } => {
                let interface = &egress.interface;
                write!(f, "no link-layer address of {gateway} on {interface}: ")?;
                write_unresolved(f, *cause, *gateway, interface)
            }
            Self::NoRoute(cause) => f.write_str(match cause {
                NoRouteCause::Missing => "no route: add one with `ip route add`",
                NoRouteCause::Unreachable => {
                    "an `unreachable` route covers the address: see `ip route get`"
                }
                NoRouteCause::Prohibited => {
                    "a `prohibit` route or rule covers the address: see `ip route get`, `ip rule`"
                }
                NoRouteCause::Blackhole => {
                    "a `blackhole` route covers the address: see `ip route get`"
                }
            }),
            Self::Local => f.write_str(
                "an address of this host itself: a backend must be another host, or in another \
                 network namespace",
            ),
            Self::InterfaceDown { interface, up: false } => {
                write!(f, "interface {interface} is down: `ip link set {interface} up`")
            }
            Self::InterfaceDown { interface, up: true } => {
                write!(f, "interface {interface} has no carrier: check its cable or its peer")
            }
            Self::Unsupported(cause) => cause.fmt(f),
            Self::Failed(reason) => write!(f, "the kernel was asked for the route: {reason}"),
        }
    }
}

fn write_unresolved(
    f: &mut fmt::Formatter<'_>,
    cause: UnresolvedCause,
    gateway: IpAddr,
    interface: &str,
) -> fmt::Result {
    match cause {
        UnresolvedCause::Asking => write!(f, "asking for it"),
        UnresolvedCause::Silent => {
            let protocol = if gateway.is_ipv4() { "ARP" } else { "neighbour discovery" };
            write!(
                f,
                "it doesn't answer {protocol}; check that it runs and is on that network, or set \
                 `next_hop`"
            )
        }
        UnresolvedCause::Refused(errno) => {
            write!(f, "the kernel refuses to ask ({})", std::io::Error::from_raw_os_error(errno))?;
            let family = if gateway.is_ipv4() { "ipv4" } else { "ipv6" };
            match std::io::Error::from_raw_os_error(errno).kind() {
                std::io::ErrorKind::PermissionDenied => f.write_str("; run xlb with CAP_NET_ADMIN"),
                _ => write!(
                    f,
                    "; if the neighbour table is full, raise net.{family}.neigh.default.gc_thresh3"
                ),
            }
        }
        UnresolvedCause::NoArp => {
            write!(f, "neighbours aren't asked there; `ip link set {interface} arp on`, or set ")?;
            f.write_str("`next_hop`")
        }
    }
}

impl fmt::Display for UnsupportedCause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotUnicast => f.write_str("not a unicast address: a backend is one host"),
            Self::LinkLocal => f.write_str(
                "a link-local address is not unique among interfaces: use a global or unique \
                 local one",
            ),
            Self::NotEthernet(interface) => write!(
                f,
                "the route leads to {interface}, which has no Ethernet addresses (loopback, \
                 tunnel or point-to-point): route the backend over an Ethernet interface"
            ),
            Self::Vlan(interface) => write!(
                f,
                "the route leads to {interface}, a VLAN, and frames that another interface takes \
                 in can't be tagged for it: list {interface} in `interfaces` if the packets for \
                 VIPs come in by it, or set `next_hop` to have frames leave by the first \
                 interface with the tags that they came with"
            ),
            Self::Encapsulating => f.write_str(
                "the route encapsulates packets itself (`encap`, MPLS or SRv6): give the backend \
                 a plain route",
            ),
        }
    }
}
