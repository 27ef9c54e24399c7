//! What the operator wants, free of how it was said: the input of planning.
//!
//! The config, the control API and health checks each contribute; a [`Desired`] can't be
//! inconsistent, because only checked input becomes one.

mod text;

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    ops::RangeInclusive,
};

use lb_common::layout::Affinity;
use serde::{Deserialize, Serialize};

pub use text::{Destination, TextError, unicast};

/// A link-layer address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct MacAddress(pub [u8; 6]);

/// Transport protocols that services speak.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Protocol {
    /// TCP (RFC 9293).
    Tcp,
    /// UDP (RFC 768).
    Udp,
}

/// How a packet travels to a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Forward {
    /// The destination MAC address is rewritten.
    L2,
    /// IP in IP.
    Ipip,
    /// IP in UDP (Generic UDP Encapsulation).
    Gue,
    /// Destination address and port are rewritten, and the source of answers.
    Nat,
    /// Both ends are rewritten, both ways, flow by flow.
    Fullnat,
}

/// What makes a service: no two have the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ServiceKey {
    /// The virtual address; never an IPv4-mapped IPv6 one.
    pub vip: IpAddr,
    /// `None` is any port.
    pub port: Option<u16>,
    /// TCP or UDP.
    pub protocol: Protocol,
}

/// What makes a backend within its service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BackendKey {
    /// Its address.
    pub address: IpAddr,
    /// Its own port, in the modes that rewrite ports.
    pub port: Option<u16>,
}

/// Where a backend comes from. The words are an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Origin {
    /// The config file.
    Config,
    /// A live change.
    Live,
    /// The DNS.
    Dns,
    /// A file in a directory.
    Directory,
    /// Itself.
    Registered,
    /// What a newer agent told.
    #[serde(other)]
    Unknown,
}

/// All that the data path shall do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Desired {
    /// Services; keys and names are unique.
    pub services: Vec<Service>,
    /// Where packets under `fullnat` come from.
    pub pools: Pools,
}

/// What the source of packets becomes under `fullnat`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pools {
    /// Toward IPv4 backends; empty is the source address of the way to each.
    pub ipv4: Vec<Ipv4Addr>,
    /// Toward IPv6 backends; empty is the source address of the way to each.
    pub ipv6: Vec<Ipv6Addr>,
    /// Of each address; never 0.
    pub ports: RangeInclusive<u16>,
}

impl Default for Pools {
    fn default() -> Self {
        Self { ipv4: Vec::new(), ipv6: Vec::new(), ports: 1024..=32_767 }
    }
}

impl Pools {
    /// The addresses that packets toward an address may come from, of which its way has that
    /// source.
    pub fn toward(&self, backend: IpAddr, source: Option<IpAddr>) -> Vec<IpAddr> {
        let configured: Vec<IpAddr> = match backend {
            IpAddr::V4(_) => self.ipv4.iter().copied().map(IpAddr::V4).collect(),
            IpAddr::V6(_) => self.ipv6.iter().copied().map(IpAddr::V6).collect(),
        };
        let own = source.filter(|source| source.is_ipv4() == backend.is_ipv4());
        if configured.is_empty() { own.into_iter().collect() } else { configured }
    }
}

/// A service as it shall be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// Unique, for people.
    pub name: String,
    /// Unique, for packets.
    pub key: ServiceKey,
    /// Which parts of a packet choose its slot.
    pub affinity: Affinity,
    /// Echo requests to its VIP are answered; so they are where another service of the VIP says so.
    pub icmp_echo: bool,
    /// How long in seconds a flow may be quiet and still be one; at least 1.
    pub idle_seconds: u32,
    /// Slots of the ring, a prime; `None` grows with the number of backends.
    pub ring_size: Option<u32>,
    /// Keys are unique.
    pub backends: Vec<Backend>,
    /// Backends that take no new flows, and are no part of the ring any more. No key is also one
    /// of `backends`.
    pub leaving: Vec<Backend>,
    /// Rings that flows may still live by, the oldest first: what the slots hold where the maps
    /// are new.
    pub former: Vec<FormerRing>,
}

impl Service {
    /// Some backend takes its new flows.
    pub fn is_up(&self) -> bool {
        self.backends.iter().any(|backend| backend.wants_flows() && backend.route.is_some())
    }

    /// The members of its ring.
    pub fn counted(&self) -> impl Iterator<Item = &Backend> {
        self.backends.iter().filter(|backend| backend.counted)
    }
}

/// What a ring was built from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FormerRing {
    /// Its slots.
    pub ring_size: u32,
    /// Its members.
    pub members: Vec<FormerMember>,
}

/// A backend as a former ring saw it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FormerMember {
    /// The backend.
    pub key: BackendKey,
    /// Its configured weight.
    pub weight: u16,
    /// The share of it that it served, in thousandths.
    pub live_permille: u16,
}

/// A backend as it shall be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backend {
    /// Unique within the service.
    pub key: BackendKey,
    /// The configured weight: its share of the base ring.
    pub weight: u16,
    /// The share of its weight that it serves now, in thousandths: 1000 is healthy, 0 is failed
    /// or draining.
    pub live_permille: u16,
    /// The base ring has it. One of which nothing is known yet would move slots that move again
    /// with its first answer.
    pub counted: bool,
    /// Packets of its open flows may be sent to it: it is healthy, or drains.
    pub alive: bool,
    /// How packets reach it.
    pub forward: Forward,
    /// How the frame leaves; `None` until the next hop is known.
    pub route: Option<Route>,
}

impl Backend {
    /// It has a part of its service's new flows.
    pub fn wants_flows(&self) -> bool {
        self.weight > 0 && self.live_permille > 0
    }
}

/// The way to a backend's next hop, as the kernel's tables or the config say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route {
    /// The next hop's link-layer address.
    pub next_hop: MacAddress,
    /// The egress interface's own link-layer address.
    pub source_mac: MacAddress,
    /// The egress interface; 0 is the one a packet came in by.
    pub egress_ifindex: u32,
    /// Longest IP packet in bytes that the way takes; 0 is any.
    pub mtu: u16,
    /// Source of the outer header in `ipip` and `gue`, and of packets in `fullnat`: the family of the backend's address.
    pub outer_source: Option<IpAddr>,
}
