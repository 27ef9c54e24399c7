//! The config as it is once checked: no value in it is out of range or contradicts another.

use std::{
    fmt,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use lb_common::layout::Affinity;

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

/// How backends are checked.
#[derive(Clone, Debug, PartialEq)]
pub enum HealthCheck {
    /// Not at all: they always are healthy.
    None,
    /// By asking them.
    Active(ActiveCheck),
}

/// A check that asks the backend.
#[derive(Clone, Debug, PartialEq)]
pub struct ActiveCheck {
    /// What is asked.
    pub probe: Probe,
    /// The backend's port that is asked.
    pub port: u16,
    /// From one check to the next.
    pub interval: Duration,
    /// When an unanswered check has failed; at most the interval.
    pub timeout: Duration,
    /// Good checks in a row that make a failed backend healthy; at least 1.
    pub rise: u32,
    /// Failed checks in a row that make a healthy backend failed; at least 1.
    pub fall: u32,
}

/// What a check asks.
#[derive(Clone, Debug, PartialEq)]
pub enum Probe {
    /// A TCP connection.
    Tcp,
    /// An HTTP GET.
    Http {
        /// Starts with `/`; visible ASCII.
        path: String,
        /// The Host header; `None` is the backend's address and port.
        host: Option<String>,
        /// Statuses of a healthy backend; at least one range.
        expect_status: Vec<StatusRange>,
    },
}

/// HTTP statuses from `first` to `last`, both included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StatusRange {
    first: u16,
    last: u16,
}

impl StatusRange {
    /// `None` where `last` is before `first`.
    pub fn new(first: u16, last: u16) -> Option<Self> {
        (first <= last).then_some(Self { first, last })
    }

    /// Whether a status is in the range.
    pub fn contains(self, status: u16) -> bool {
        (self.first..=self.last).contains(&status)
    }
}

impl fmt::Display for StatusRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self { first, last } if first == last => write!(f, "{first}"),
            Self { first, last } => write!(f, "{first}-{last}"),
        }
    }
}
