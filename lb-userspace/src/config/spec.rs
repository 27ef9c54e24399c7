//! Services and backends as text, the way that a person or a program writes them: what the API
//! takes and shows, and what the state file keeps.

use std::fmt::Display;

use serde::{Deserialize, Serialize};

use super::{
    checks::{ActiveCheck, DnsProbe, GrpcProbe, HealthCheck, HttpProbe, Probe, Tls, word},
    claims::Claims,
    error::{ConfigErrors, ErrorKind, Fault, Faults},
    keys::{health as health_keys, service as keys},
    limits::room_in_ring,
    node::Node,
    service::{self, BackendContext, Others, Taken},
    types::{AgentCheck, BackendConfig, DiscoveryConfig, DiscoverySource, ServiceConfig},
    value::{AFFINITIES, DNS_RECORDS, duration_text},
};
use crate::live::LoadPolicy;

/// A service, with the keys of `[[service]]`; `None` is the key's default.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServiceSpec {
    /// Unique.
    pub name: String,
    /// `203.0.113.10:80`, `[2001:db8::10]:443`, `203.0.113.10:*`.
    pub vip: String,
    /// `tcp` or `udp`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub protocol: Option<String>,
    /// `l2`, `ipip` or `gue`.
    pub forward: String,
    /// A prime.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ring_size: Option<i64>,
    /// `flow`, `source` or `packet`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub affinity: Option<String>,
    /// A duration such as `60s`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub udp_timeout: Option<String>,
    /// A duration such as `15m`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tcp_idle: Option<String>,
    /// A duration.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slow_start: Option<String>,
    /// A percentage such as `30%`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub panic_threshold: Option<String>,
    /// 0 to 1000.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_flapping: Option<i64>,
    /// A duration.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub flapping_window: Option<String>,
    /// How backends are checked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub health: Option<HealthSpec>,
    /// Where more backends are found.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub discovery: Option<DiscoverySpec>,
    /// The agents that are asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent_check: Option<AgentCheckSpec>,
    /// How live weights follow load.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub load: Option<LoadSpec>,
    /// The backends; `backend` in JSON, as in the file.
    #[serde(default, rename = "backend", skip_serializing_if = "Vec::is_empty")]
    pub backends: Vec<BackendSpec>,
}

/// A backend, with the keys of `[[service.backend]]`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BackendSpec {
    /// Unique within its service.
    pub address: String,
    /// 0 to 65535.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weight: Option<i64>,
    /// A MAC address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_hop: Option<String>,
    /// `l2`, `ipip` or `gue`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub forward: Option<String>,
    /// Whether it serves only while no other lives.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backup: Option<bool>,
}

/// Agents that are asked, with the keys of `[service.agent_check]`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AgentCheckSpec {
    /// 1 to 65535.
    pub port: i64,
    /// A duration.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interval: Option<String>,
    /// A duration.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<String>,
    /// What is sent first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub send: Option<String>,
}

/// How live weights follow load, with the keys of `[service.load]`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LoadSpec {
    /// `orca` or `agent`.
    pub source: String,
    /// A duration.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub smoothing: Option<String>,
    /// A percentage.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub floor: Option<String>,
    /// A percentage.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_step: Option<String>,
    /// A duration.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stale_after: Option<String>,
}

/// A health check, with the keys of `[service.health]`; `None` is the key's default.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HealthSpec {
    /// What is asked: `tcp`, `http`, `https`, `grpc`, `udp`, `dns`, `exec` or `none`.
    #[serde(rename = "type")]
    pub kind: String,
    /// 1 to 65535.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port: Option<i64>,
    /// `vip` or `address`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub via: Option<String>,
    /// A duration.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub interval: Option<String>,
    /// A duration of at most the interval.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fast_interval: Option<String>,
    /// A percentage.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub jitter: Option<String>,
    /// A duration of at most the interval.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeout: Option<String>,
    /// 1 to 100.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rise: Option<i64>,
    /// 1 to 100.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fall: Option<i64>,
    /// Starts with `/`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// `GET`, `HEAD` or `OPTIONS`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub method: Option<String>,
    /// The Host header, or the authority.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// Statuses of a healthy backend.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expect_status: Option<StatusSpec>,
    /// Text in the body.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expect_body: Option<String>,
    /// `Name`, or `Name: value`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expect_header: Option<String>,
    /// Whether the certificate must be good.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub verify: Option<bool>,
    /// An absolute path.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca_file: Option<String>,
    /// Whom the certificate must be for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub server_name: Option<String>,
    /// `http/1.1`, `h2`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub alpn: Option<Vec<String>>,
    /// Whether a call goes over TLS.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls: Option<bool>,
    /// The service that is asked about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub grpc_service: Option<String>,
    /// Text, or `hex:` and digits.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub send: Option<String>,
    /// Text, or `hex:` and digits.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expect: Option<String>,
    /// A domain name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub query: Option<String>,
    /// A type of DNS records.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub query_type: Option<String>,
    /// A response code of DNS.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expect_rcode: Option<String>,
    /// A record's data.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expect_answer: Option<String>,
    /// A path and arguments.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub command: Option<Vec<String>>,
}

/// A source of backends, with the keys of `[service.discovery]`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DiscoverySpec {
    /// `dns`, `directory` or `register`.
    #[serde(rename = "type")]
    pub kind: String,
    /// A domain name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// `address`, `a`, `aaaa` or `srv`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub record: Option<String>,
    /// An address and a port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server: Option<String>,
    /// 0 to 65535.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weight: Option<i64>,
    /// A duration.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min_ttl: Option<String>,
    /// A duration.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_ttl: Option<String>,
    /// A directory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// Whether a source that tells no backend is believed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub allow_empty: Option<bool>,
}

/// HTTP statuses.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum StatusSpec {
    /// One: 200.
    One(i64),
    /// Several: `200-299, 404`.
    Several(String),
}

impl ServiceSpec {
    /// Checks it against the rules of the config file, and against the services that are there.
    ///
    /// # Errors
    /// Every mistake, each with its key.
    pub fn check(&self, others: &[ServiceConfig]) -> Result<ServiceConfig, ConfigErrors> {
        check_service(&to_node(self)?, others)
    }
}

impl BackendSpec {
    /// Checks it against the rules of the config file, and against the service that it joins. To
    /// replace a backend, take the old one out of `service` first.
    ///
    /// # Errors
    /// Every mistake, each with its key.
    pub fn check(&self, service: &ServiceConfig) -> Result<BackendConfig, ConfigErrors> {
        check_backend(&to_node(self)?, service, &[])
    }
}

/// As [`ServiceSpec::check`], for JSON that may have any keys: tells every unknown one.
///
/// # Errors
/// Every mistake, each with its key.
pub fn service_from_json(
    json: &serde_json::Value,
    others: &[ServiceConfig],
) -> Result<ServiceConfig, ConfigErrors> {
    check_service(&Node::from_json(json), others)
}

/// As [`BackendSpec::check`], for JSON that may have any keys: tells every unknown one.
///
/// # Errors
/// Every mistake, each with its key.
pub fn backend_from_json(
    json: &serde_json::Value,
    service: &ServiceConfig,
    others: &[ServiceConfig],
) -> Result<BackendConfig, ConfigErrors> {
    check_backend(&Node::from_json(json), service, others)
}

fn check_service(node: &Node, others: &[ServiceConfig]) -> Result<ServiceConfig, ConfigErrors> {
    let mut faults = Faults::default();
    let path = service::path(None, node);
    let service = service::check(node, &path, &mut Others::new(others), &mut faults);
    if let Some(ServiceConfig { health: HealthCheck::Active(check), .. }) = &service
        && matches!(check.probe, Probe::Exec { .. })
    {
        // The control socket is open to a group, which shall not become the agent's user by it.
        let message = "only the config file can say which program a check runs";
        let fault = Fault::new(ErrorKind::Unsupported, message);
        let key = format!("{path}.{}.{}", keys::HEALTH.name, health_keys::TYPE.name);
        faults.add(None, key, fault.help("write the service into the config file"));
    }
    faults.settle(service, None)
}

fn check_backend(
    node: &Node,
    service: &ServiceConfig,
    others: &[ServiceConfig],
) -> Result<BackendConfig, ConfigErrors> {
    let mut faults = Faults::default();
    let path = format!("service \"{}\"", service.name);
    let mut taken = Taken::new();
    for backend in &service.backends {
        taken.add(backend.key, path.as_str());
    }
    if let Err(fault) = room_in_ring(service.ring_size, service.backends.len() + 1) {
        faults.add(None, format!("{path}.{}", keys::RING_SIZE.name), fault);
    }
    let context = BackendContext::of(service);
    let others = others.iter().filter(|other| other.key != service.key);
    let mut claims = Claims::of(others.chain([service]));
    let path = format!("{path}.{}", keys::BACKEND.name);
    let backend =
        service::check_backend(node, &path, context, (&mut taken, &mut claims), &mut faults);
    faults.settle(backend, None)
}

pub(super) fn to_node(spec: &impl Serialize) -> Result<Node, ConfigErrors> {
    match serde_json::to_value(spec) {
        Ok(json) => Ok(Node::from_json(&json)),
        Err(error) => {
            let mut faults = Faults::default();
            faults.add(None, "", Fault::bad(error.to_string()));
            faults.settle(None, None)
        }
    }
}

fn shown(value: impl Display) -> Option<String> {
    Some(value.to_string())
}

impl From<&ServiceConfig> for ServiceSpec {
    /// Every key is written out, also where it has its default.
    fn from(service: &ServiceConfig) -> Self {
        let live = &service.live;
        let affinity = AFFINITIES.iter().find(|(_, affinity)| *affinity == service.affinity);
        Self {
            name: service.name.clone(),
            vip: service.key.destination().to_string(),
            protocol: shown(service.key.protocol),
            forward: service.forward.to_string(),
            ring_size: service.ring_size.map(i64::from),
            affinity: affinity.and_then(|(word, _)| shown(word)),
            udp_timeout: Some(duration_text(service.udp_timeout)),
            tcp_idle: Some(duration_text(service.tcp_idle)),
            slow_start: Some(duration_text(live.slow_start)),
            panic_threshold: Some(format!("{}%", live.panic_percent)),
            max_flapping: Some(live.max_flapping.into()),
            flapping_window: Some(duration_text(live.flapping_window)),
            health: match &service.health {
                HealthCheck::None => None,
                HealthCheck::Active(check) => Some(check.as_ref().into()),
            },
            discovery: service.discovery.as_ref().map(DiscoverySpec::from),
            agent_check: service.agent_check.as_ref().map(AgentCheckSpec::from),
            load: live.load.as_ref().map(LoadSpec::from),
            backends: service.backends.iter().map(BackendSpec::from).collect(),
        }
    }
}

impl From<&BackendConfig> for BackendSpec {
    fn from(backend: &BackendConfig) -> Self {
        Self {
            address: backend.key.to_string(),
            weight: Some(backend.weight.into()),
            next_hop: backend.next_hop.and_then(shown),
            forward: backend.forward.and_then(shown),
            backup: backend.backup.then_some(true),
        }
    }
}

impl From<&AgentCheck> for AgentCheckSpec {
    fn from(check: &AgentCheck) -> Self {
        Self {
            port: check.port.into(),
            interval: Some(duration_text(check.interval)),
            timeout: Some(duration_text(check.timeout)),
            send: check.send.clone(),
        }
    }
}

impl From<&LoadPolicy> for LoadSpec {
    fn from(load: &LoadPolicy) -> Self {
        Self {
            source: load.source.word().to_owned(),
            smoothing: Some(duration_text(load.smoothing)),
            floor: Some(format!("{}%", load.floor_permille / 10)),
            max_step: Some(format!("{}%", load.max_step_permille / 10)),
            stale_after: Some(duration_text(load.stale_after)),
        }
    }
}

impl From<&DiscoveryConfig> for DiscoverySpec {
    fn from(discovery: &DiscoveryConfig) -> Self {
        let common = Self { allow_empty: Some(discovery.allow_empty), ..Self::default() };
        match &discovery.source {
            DiscoverySource::Dns(dns) => {
                let record = DNS_RECORDS.iter().find(|(_, record)| *record == dns.record);
                Self {
                    kind: "dns".to_owned(),
                    name: Some(dns.name.clone()),
                    record: record.and_then(|(word, _)| shown(word)),
                    server: dns.server.and_then(shown),
                    weight: Some(dns.weight.into()),
                    min_ttl: Some(duration_text(dns.min_ttl)),
                    max_ttl: Some(duration_text(dns.max_ttl)),
                    ..common
                }
            }
            DiscoverySource::Directory(path) => {
                Self { kind: "directory".to_owned(), path: shown(path.display()), ..common }
            }
            DiscoverySource::Register { weight } => {
                Self { kind: "register".to_owned(), weight: Some((*weight).into()), ..common }
            }
        }
    }
}

impl From<&ActiveCheck> for HealthSpec {
    fn from(check: &ActiveCheck) -> Self {
        Self {
            port: check.port_is_set.then(|| check.port.into()),
            // Left out where it is: who says it takes no other way.
            via: check.via.and_then(|via| shown(via.word())),
            interval: Some(duration_text(check.interval)),
            fast_interval: Some(duration_text(check.fast_interval)),
            jitter: Some(format!("{}%", check.jitter)),
            timeout: Some(duration_text(check.timeout)),
            rise: Some(check.rise.into()),
            fall: Some(check.fall.into()),
            ..asked(&check.probe)
        }
    }
}

/// The type, and the keys that only some types have.
fn asked(probe: &Probe) -> HealthSpec {
    let of = |kind: &str| HealthSpec { kind: kind.to_owned(), ..HealthSpec::default() };
    match probe {
        Probe::Tcp => of("tcp"),
        Probe::Http(http) => {
            let HttpProbe { tls, method, path, host, expect_status, expect_body, expect_header } =
                http;
            let ranges: Vec<_> = expect_status.iter().map(ToString::to_string).collect();
            let alpn = tls.as_ref().map(|tls| tls.alpn.iter().map(|alpn| alpn.word().to_owned()));
            HealthSpec {
                method: shown(method.word()),
                path: Some(path.clone()),
                host: host.clone(),
                expect_status: Some(StatusSpec::Several(ranges.join(", "))),
                expect_body: expect_body.clone(),
                expect_header: expect_header.as_ref().and_then(shown),
                alpn: alpn.map(Iterator::collect),
                ..over(tls.as_ref(), of(if tls.is_some() { "https" } else { "http" }))
            }
        }
        Probe::Grpc(GrpcProbe { tls, service, host }) => HealthSpec {
            tls: Some(tls.is_some()),
            grpc_service: Some(service.clone()),
            host: host.clone(),
            ..over(tls.as_ref(), of("grpc"))
        },
        Probe::Udp { send, expect } => {
            HealthSpec { send: shown(send), expect: expect.as_ref().and_then(shown), ..of("udp") }
        }
        Probe::Dns(DnsProbe { query, query_type, expect_rcode, expect_answer }) => HealthSpec {
            query: Some(query.clone()),
            query_type: shown(word(DnsProbe::TYPES, *query_type)),
            expect_rcode: shown(word(DnsProbe::CODES, *expect_rcode)),
            expect_answer: expect_answer.clone(),
            ..of("dns")
        },
        Probe::Exec { command } => HealthSpec { command: Some(command.clone()), ..of("exec") },
    }
}

/// `spec` with the keys of TLS.
fn over(tls: Option<&Tls>, spec: HealthSpec) -> HealthSpec {
    let Some(Tls { verify, ca_file, server_name, alpn: _ }) = tls else { return spec };
    HealthSpec {
        verify: Some(*verify),
        // It came from text.
        ca_file: ca_file.as_ref().map(|path| path.to_string_lossy().into_owned()),
        server_name: server_name.clone(),
        ..spec
    }
}
