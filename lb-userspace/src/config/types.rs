//! The config as it is once checked: no value in it is out of range or contradicts another.

use std::{
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use lb_common::layout::Affinity;

use super::checks::HealthCheck;
use crate::{
    live::Policy,
    model::{BackendKey, Forward, MacAddress, Pools, ServiceKey},
};

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
    /// Whether echo requests to VIPs are answered whose services say nothing else.
    pub icmp_echo: bool,
    /// Flows of backends under `fullnat`.
    pub fullnat: Fullnat,
    /// What is run for each event.
    pub on_event: Option<Hook>,
    /// How the agent is reached.
    pub api: Api,
    /// Names and keys are unique.
    pub services: Vec<ServiceConfig>,
}

/// Flows of backends under `fullnat`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fullnat {
    /// What packets come from.
    pub pools: Pools,
    /// Most flows at a time.
    pub flow_capacity: u32,
    /// How long one may be quiet that isn't open yet.
    pub opening_timeout: Duration,
    /// How long a port stays taken after a connection.
    pub closing_timeout: Duration,
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
    /// Where backends register themselves; `None` is nowhere.
    pub register: Option<RegisterDoor>,
}

/// Where backends register themselves. A token or a client certificate is asked for, or both.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RegisterDoor {
    /// Where it listens.
    pub listen: SocketAddr,
    /// Tokens, one a line; absolute.
    pub token_file: Option<PathBuf>,
    /// `None` is plain HTTP; then there is a token.
    pub tls: Option<DoorTls>,
    /// Whether a client may register another address than its own.
    pub any_address: bool,
}

/// Files in the PEM format; absolute paths.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DoorTls {
    /// The server's certificates.
    pub certificate: PathBuf,
    /// Its private key.
    pub key: PathBuf,
    /// Who signs clients' certificates; `None` asks for none.
    pub client_ca: Option<PathBuf>,
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
    /// Whether echo requests to its VIP are answered; `None` is as for all services.
    pub icmp_echo: Option<bool>,
    /// How long a UDP flow may be quiet.
    pub udp_timeout: Duration,
    /// How long a TCP connection may be quiet and be kept through a change.
    pub tcp_idle: Duration,
    /// How backends are checked.
    pub health: HealthCheck,
    /// Where more backends are found.
    pub discovery: Option<DiscoveryConfig>,
    /// The agent on each backend that is asked.
    pub agent_check: Option<AgentCheck>,
    /// How live weights follow what becomes of the backends.
    pub live: Policy,
    /// Keys are unique.
    pub backends: Vec<BackendConfig>,
}

/// Where more backends are found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiscoveryConfig {
    /// The source.
    pub source: DiscoverySource,
    /// Whether a source that tells no backend is believed.
    pub allow_empty: bool,
}

/// What tells of backends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DiscoverySource {
    /// A name.
    Dns(DnsSource),
    /// Files in a directory; absolute.
    Directory(PathBuf),
    /// The backends themselves.
    Register {
        /// Of those that name none.
        weight: u16,
    },
}

/// A name in the DNS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DnsSource {
    /// Without a dot at its end.
    pub name: String,
    /// What is asked for.
    pub record: DnsRecord,
    /// Who is asked; `None` is the system's servers.
    pub server: Option<SocketAddr>,
    /// Of addresses for which no record names one.
    pub weight: u16,
    /// Least time from one answer to the next question.
    pub min_ttl: Duration,
    /// Most time; at least `min_ttl`.
    pub max_ttl: Duration,
}

/// Which records name the backends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DnsRecord {
    /// A and AAAA, as far as the forward mode carries them.
    Address,
    /// A.
    A,
    /// AAAA.
    Aaaa,
    /// SRV (RFC 2782), then A and AAAA of the targets.
    Srv,
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
    /// It serves only while no other backend lives.
    pub backup: bool,
}

/// An agent on each backend that says what the backend shall do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AgentCheck {
    /// The agent's port at the backend's address.
    pub port: u16,
    /// From one question to the next.
    pub interval: Duration,
    /// How long an answer may take; at most the interval.
    pub timeout: Duration,
    /// What is sent first.
    pub send: Option<String>,
}
