//! A small network in namespaces: a client, a balancer and backends, joined by veth pairs.
//!
//! ```text
//! one segment                          two NICs
//!
//! client ─┐                            client ── front[balancer]back ─┐
//! balancer ─ bridge                                                   ├ bridge
//! backends ─┘                                                backends ─┘
//! ```
//! Backends hold the virtual addresses on their loopback and answer the client directly; those
//! behind a gateway ([`Topology::OneNicGateway`]) don't.

mod layout;
mod receiver;
mod wiring;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

pub use layout::{CLIENT_MTU, SEGMENT_MTU, Topology};

use crate::netns::{self, Namespace};
use crate::wait;

/// The virtual IPv4 address (TEST-NET-3, RFC 5737).
pub const VIP4: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 10);

/// The virtual IPv6 address (documentation prefix, RFC 3849).
pub const VIP6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x10);

/// How long the links may take to come up.
const READY: Duration = Duration::from_secs(10);

/// IP version, where a test runs for both.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// Both.
    pub const ALL: [Self; 2] = [Self::V4, Self::V6];

    /// The virtual address of this family.
    pub fn vip(self) -> IpAddr {
        match self {
            Self::V4 => VIP4.into(),
            Self::V6 => VIP6.into(),
        }
    }

    /// The virtual address with a port.
    pub fn vip_port(self, port: u16) -> SocketAddr {
        SocketAddr::new(self.vip(), port)
    }
}

/// A machine with one NIC, `eth0`.
#[derive(Debug)]
pub struct Host {
    /// Its namespace.
    pub namespace: Namespace,
    /// Its name, for people.
    pub name: String,
    /// Its own IPv4 address.
    pub v4: Ipv4Addr,
    /// Its own IPv6 address.
    pub v6: Ipv6Addr,
    /// Its link-layer address.
    pub mac: [u8; 6],
}

impl Host {
    /// Its own address of a family.
    pub fn address(&self, family: Family) -> IpAddr {
        match family {
            Family::V4 => self.v4.into(),
            Family::V6 => self.v6.into(),
        }
    }
}

/// The network; dropping it takes it down.
#[derive(Debug)]
pub struct Lab {
    /// Where requests come from.
    pub client: Host,
    /// Where the balancer runs. Its addresses are those on the backends' side.
    pub balancer: Host,
    /// The servers, named `b1`, `b2` and so on.
    pub backends: Vec<Host>,
    /// The bridge's namespace.
    switch: Namespace,
    topology: Topology,
}

impl Lab {
    /// Builds a network with that many backends (at most 200), and waits until all of its links
    /// are up.
    ///
    /// # Errors
    /// A command refuses, or a link isn't up after 10 s.
    pub fn new(topology: Topology, backends: u8) -> Result<Self> {
        ensure!((1..=200).contains(&backends), "a lab has 1 to 200 backends, not {backends}");
        let lab = wiring::build(topology, backends)?;
        let all = [&lab.switch, &lab.client.namespace, &lab.balancer.namespace]
            .into_iter()
            .chain(lab.backends.iter().map(|backend| &backend.namespace));
        for namespace in all {
            let what = format!("the links of {}", namespace.name());
            wait::until(&what, READY, || links_up(&namespace.ip_json("link show")?))?;
        }
        Ok(lab)
    }

    /// The balancer's interfaces, the one toward the client first.
    pub fn interfaces(&self) -> &'static [&'static str] {
        match self.topology {
            topology if topology.has_two_nics() => &["front", "back"],
            _ => &["eth0"],
        }
    }

    /// The backend's addresses of a family.
    pub fn addresses(&self, family: Family) -> Vec<IpAddr> {
        self.backends.iter().map(|backend| backend.address(family)).collect()
    }

    /// Adds a host beside the client, for traffic that isn't a client's. Waits until it is up.
    ///
    /// # Errors
    /// A command refuses, the link isn't up after 10 s, or there is no such place: with two NICs
    /// the client's link has none.
    pub fn stranger(&self) -> Result<Host> {
        ensure!(self.topology == Topology::OneSegment, "there is no segment on the client's side");
        let host = wiring::stranger(self)?;
        for namespace in [&self.switch, &host.namespace] {
            let what = format!("the links of {}", namespace.name());
            wait::until(&what, READY, || links_up(&namespace.ip_json("link show")?))?;
        }
        Ok(host)
    }

    /// Sets the MTU of the segment's port of [`Lab::stranger`].
    ///
    /// # Errors
    /// There is none.
    pub fn stranger_port(&self, mtu: u16) -> Result<()> {
        self.switch.ip(&format!("link set p-stranger mtu {mtu}"))
    }

    /// Has kernel threads of their own work on what arrives from the balancer, as other machines would:
    /// who sends by a veth device else does its peer's work in its own time.
    ///
    /// # Errors
    /// The balancer isn't on the segment, or the kernel has no threads for it (Linux 5.12).
    pub fn receive_apart(&self) -> Result<()> {
        ensure!(
            self.topology == Topology::OneSegment,
            "there is no segment on the balancer's side"
        );
        // Unlike other namespaces' commands this one sees the devices in sysfs.
        let mut command = Command::new("ip");
        command.args(["netns", "exec", self.switch.name(), "tee"]);
        netns::run(command.arg("/sys/class/net/p-balancer/threaded"), "1")?;
        Ok(())
    }

    /// Pulls a backend's cable (`false`) or plugs it in again.
    ///
    /// # Errors
    /// There is no such backend.
    pub fn plug(&self, backend: usize, plugged: bool) -> Result<()> {
        let host = self.backends.get(backend).context("no such backend")?;
        let state = if plugged { "up" } else { "down" };
        self.switch.ip(&format!("link set p-{} {state}", host.name))
    }
}

/// Fails while a link is down or a bridge port doesn't forward yet.
fn links_up(links: &Value) -> Result<()> {
    for link in links.as_array().context("ip printed no list of links")? {
        let name = link["ifname"].as_str().context("a link without a name")?;
        let state = link["operstate"].as_str().unwrap_or_default();
        ensure!(name == "lo" || state == "UP", "{name} is {state}");
        let port = &link["linkinfo"]["info_slave_data"]["state"];
        ensure!(port.is_null() || port == "forwarding", "{name} doesn't forward: {port}");
    }
    Ok(())
}
