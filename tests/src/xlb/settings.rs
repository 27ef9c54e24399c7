//! What a test says in the config file.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;

use anyhow::{Context, Result};
use serde::Serialize;

/// A whole config. What is left out takes the program's default.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Settings {
    /// Interfaces to attach to.
    pub interfaces: Vec<String>,
    /// `auto`, `native` or `generic`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub xdp_mode: Option<String>,
    /// Seed of the flow hash: `0x` and 16 digits.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hash_seed: Option<String>,
    /// Where maps, links and programs are pinned.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pin_path: Option<PathBuf>,
    /// Where changes are kept.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub state_file: Option<PathBuf>,
    /// Source of outer IPv4 headers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source_ipv4: Option<Ipv4Addr>,
    /// Source of outer IPv6 headers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source_ipv6: Option<Ipv6Addr>,
    /// Most flows that are remembered at a time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub flow_capacity: Option<u32>,
    /// Whether pings of VIPs are answered.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub icmp_echo: Option<bool>,
    /// What is run for each event.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub on_event: Vec<String>,
    /// Flows under `fullnat`: keys of the section.
    #[serde(skip_serializing_if = "toml::Table::is_empty")]
    pub fullnat: toml::Table,
    /// The control socket.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub api: Option<Api>,
    /// The services.
    #[serde(rename = "service", skip_serializing_if = "Vec::is_empty")]
    pub services: Vec<Service>,
}

/// How the agent is asked.
#[derive(Clone, Debug, Serialize)]
pub struct Api {
    /// The control socket.
    pub socket: PathBuf,
    /// Address of the metrics.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub metrics: Option<SocketAddr>,
    /// Where backends register themselves.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub register: Option<Register>,
}

/// Where backends register themselves.
#[derive(Clone, Debug, Serialize)]
pub struct Register {
    /// Where the agent listens.
    pub listen: SocketAddr,
    /// The file of the token.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token_file: Option<PathBuf>,
    /// The files of its certificate and key, and of the authority of the clients' ones.
    #[serde(flatten)]
    pub tls: Option<Tls>,
}

/// Where registrations come by HTTPS, with certificates on both sides.
#[derive(Clone, Debug, Serialize)]
pub struct Tls {
    /// The agent's certificate.
    pub tls_cert: PathBuf,
    /// Its key.
    pub tls_key: PathBuf,
    /// Whoever signed the clients' certificates.
    pub client_ca: PathBuf,
}

/// How packets travel to a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Forward {
    /// Destination MAC address rewritten.
    L2,
    /// IP in IP.
    Ipip,
    /// Generic UDP Encapsulation.
    Gue,
    /// Destination address and port rewritten.
    Nat,
    /// Source address and port rewritten, too.
    Fullnat,
}

impl Forward {
    /// All modes in which backends answer clients directly.
    pub const ALL: [Self; 3] = [Self::L2, Self::Ipip, Self::Gue];

    /// Whether the backend has to decapsulate.
    pub fn encapsulates(self) -> bool {
        matches!(self, Self::Ipip | Self::Gue)
    }
}

/// The transport protocol of a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

/// A service.
#[derive(Clone, Debug, Serialize)]
pub struct Service {
    /// Its name.
    pub name: String,
    /// `203.0.113.10:80`, `[2001:db8::10]:443`, `203.0.113.10:*`.
    pub vip: String,
    /// TCP or UDP.
    pub protocol: Protocol,
    /// How packets travel.
    pub forward: Forward,
    /// How long a TCP connection may be quiet, for instance `15m`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tcp_idle: Option<String>,
    /// How long a UDP flow may be quiet.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub udp_timeout: Option<String>,
    /// How long a backend takes to its full weight.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub slow_start: Option<String>,
    /// Below which part of healthy backends failed ones are used, for instance `30%`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub panic_threshold: Option<String>,
    /// How often a backend may fail.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_flapping: Option<u32>,
    /// Within what time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub flapping_window: Option<String>,
    /// How backends are watched.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub health: Option<Health>,
    /// Where more backends are found.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub discovery: Option<Discovery>,
    /// Agents on the backends.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub agent_check: Option<AgentCheck>,
    /// How load is followed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub load: Option<Load>,
    /// Who serves.
    #[serde(rename = "backend", skip_serializing_if = "Vec::is_empty")]
    pub backends: Vec<Backend>,
}

impl Service {
    /// A service without health check or backends.
    pub fn new(name: &str, vip: SocketAddr, protocol: Protocol, forward: Forward) -> Self {
        let vip = vip.to_string();
        Self {
            name: name.into(),
            vip,
            protocol,
            forward,
            tcp_idle: None,
            udp_timeout: None,
            slow_start: None,
            panic_threshold: None,
            max_flapping: None,
            flapping_window: None,
            health: None,
            discovery: None,
            agent_check: None,
            load: None,
            backends: Vec::new(),
        }
    }

    /// With these backends, of the default weight.
    #[must_use]
    pub fn to(mut self, addresses: impl IntoIterator<Item = IpAddr>) -> Self {
        self.backends.extend(addresses.into_iter().map(Backend::new));
        self
    }

    /// With this health check.
    #[must_use]
    pub fn watched(mut self, health: Health) -> Self {
        self.health = Some(health);
        self
    }
}

/// Where more backends are found. What is left out takes the program's default.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Discovery {
    /// `dns`, `directory` or `register`.
    #[serde(rename = "type")]
    pub kind: String,
    /// The name that is asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Who is asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub server: Option<SocketAddr>,
    /// The directory.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<PathBuf>,
}

/// A health check.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Health {
    /// What is asked.
    #[serde(rename = "type")]
    pub kind: String,
    /// The port that is asked, where it isn't the service's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// `vip` or `address`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub via: Option<String>,
    /// What to ask for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// How often, for instance `1s`.
    pub interval: String,
    /// How long an answer may take.
    pub timeout: String,
    /// Good answers in a row that bring a backend in.
    pub rise: u32,
    /// Bad answers in a row that take it out.
    pub fall: u32,
    /// Keys that only some types have.
    #[serde(flatten)]
    pub more: toml::Table,
}

impl Health {
    /// Asks for `/healthz` ten times a second; two answers decide.
    pub fn quick() -> Self {
        Self {
            kind: "http".into(),
            port: None,
            via: None,
            path: Some("/healthz".into()),
            interval: "100ms".into(),
            timeout: "80ms".into(),
            rise: 2,
            fall: 2,
            more: toml::Table::new(),
        }
    }

    /// Asks on a port twice a second, and faster while a change is decided; `more` are keys of
    /// the type's own, in TOML.
    ///
    /// # Errors
    /// `more` isn't TOML.
    pub fn of(kind: &str, port: u16, more: &str) -> Result<Self> {
        let mut more: toml::Table = more.parse().context("keys of a health check")?;
        more.insert("fast_interval".into(), "100ms".into());
        Ok(Self {
            kind: kind.into(),
            port: Some(port),
            path: None,
            interval: "500ms".into(),
            timeout: "500ms".into(),
            more,
            ..Self::quick()
        })
    }
}

/// Agents on the backends, in HAProxy's words.
#[derive(Clone, Debug, Serialize)]
pub struct AgentCheck {
    /// Their port.
    pub port: u16,
    /// How often they are asked.
    pub interval: String,
}

/// How load is followed.
#[derive(Clone, Debug, Serialize)]
pub struct Load {
    /// `orca` or `agent`.
    pub source: String,
    /// Time constant.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub smoothing: Option<String>,
}

/// A backend.
#[derive(Clone, Debug, Serialize)]
pub struct Backend {
    /// Its address.
    pub address: String,
    /// Its weight.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub weight: Option<u32>,
    /// MAC address of the next hop toward it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_hop: Option<String>,
    /// How packets travel to it, in place of the service's way.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub forward: Option<Forward>,
    /// Whether it serves only while no other lives.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backup: Option<bool>,
}

impl Backend {
    /// A backend of the default weight, by the kernel's routes.
    pub fn new(address: IpAddr) -> Self {
        let address = address.to_string();
        Self { address, weight: None, next_hop: None, forward: None, backup: None }
    }
}

impl Settings {
    /// The text of the config file.
    ///
    /// # Errors
    /// Something has no form in TOML.
    pub fn render(&self) -> Result<String> {
        toml::to_string(self).context("write the config as TOML")
    }
}
