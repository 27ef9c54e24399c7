//! The config as it is once checked: no value in it is out of range or contradicts another.

use std::{
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use lb_common::layout::Affinity;

use super::checks::HealthCheck;
use crate::model::{BackendKey, Forward, MacAddress, ServiceKey};

/// A whole config.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// Names; at least one, each once. Whether they exist is not known here.
    pub interfaces: Vec<String>,
    /// How the program is attached.
    pub xdp_mode: XdpMode,
    /// Key of the flow hash; `None` is a random one that the state file keeps.
    pub hash_seed: Option<u64>,
    /// Next hop of every backend that names none.
    pub next_hop: NextHop,
    /// Directory of pinned programs and maps; absolute.
    pub pin_path: PathBuf,
    /// What is kept across restarts; absolute.
    pub state_file: PathBuf,
    /// Source of outer IPv4 headers; `None` is the egress interface's address.
    pub source_ipv4: Option<Ipv4Addr>,
    /// Source of outer IPv6 headers; `None` is the egress interface's address.
    pub source_ipv6: Option<Ipv6Addr>,
    /// Most flows that are remembered at a time.
    pub flow_capacity: u32,
    /// What is run for each event.
    pub on_event: Option<Hook>,
    /// How the agent is reached.
    pub api: Api,
    /// Names and keys are unique.
    pub services: Vec<ServiceConfig>,
}

/// How the program is attached to an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum XdpMode {
    /// By the driver where it can, else generic.
    Auto,
    /// By the driver.
    Native,
    /// By the kernel's generic hook.
    Generic,
}

/// Where frames to backends go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NextHop {
    /// As the kernel's routes and neighbours say.
    Auto,
    /// Always to this address.
    Mac(MacAddress),
}

/// A command that is run for each event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hook {
    /// The program, then its arguments; at least the program, an absolute path or a plain name.
    pub command: Vec<String>,
    /// When it is killed.
    pub timeout: Duration,
}

impl Hook {
    /// What is run.
    pub fn program(&self) -> &str {
        self.command.first().map_or("", String::as_str)
    }

    /// What it is told.
    pub fn arguments(&self) -> &[String] {
        self.command.get(1..).unwrap_or_default()
    }
}

/// How the agent is reached.
#[derive(Clone, Debug, PartialEq)]
pub struct Api {
    /// The control socket; absolute.
    pub socket: PathBuf,
    /// Where metrics are served; `None` is nowhere.
    pub metrics: Option<SocketAddr>,
}

/// A service as it is configured.
#[derive(Clone, Debug, PartialEq)]
pub struct ServiceConfig {
    /// Unique; visible characters.
    pub name: String,
    /// Unique.
    pub key: ServiceKey,
    /// How packets travel to backends that say nothing else.
    pub forward: Forward,
    /// Slots of the ring, a prime no less than the number of backends; `None` follows that number.
    pub ring_size: Option<u32>,
    /// What stays with a backend.
    pub affinity: Affinity,
    /// How long a UDP flow may be quiet.
    pub udp_timeout: Duration,
    /// How long a TCP connection may be quiet and be kept through a change.
    pub tcp_idle: Duration,
    /// How backends are checked.
    pub health: HealthCheck,
    /// Keys are unique.
    pub backends: Vec<BackendConfig>,
}

/// A backend as it is configured.
#[derive(Clone, Debug, PartialEq)]
pub struct BackendConfig {
    /// Unique within the service.
    pub key: BackendKey,
    /// Its share of the base ring.
    pub weight: u16,
    /// Where its frames go; `None` as for all backends.
    pub next_hop: Option<MacAddress>,
    /// How packets travel to it; `None` as for the service.
    pub forward: Option<Forward>,
}
