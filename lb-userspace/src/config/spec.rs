//! Services and backends as text, the way that a person or a program writes them: what the API
//! takes and shows, and what the state file keeps.

use serde::{Deserialize, Serialize};

use super::{
    checks::{HealthCheck, Probe},
    claims::Claims,
    error::{ConfigErrors, ErrorKind, Fault, Faults},
    keys::{health as health_keys, service as keys},
    limits::room_in_ring,
    node::Node,
    service::{self, BackendContext, Others, Taken},
    types::{BackendConfig, ServiceConfig},
};

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
    /// Whether echo requests to the VIP are answered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub icmp_echo: Option<bool>,
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
    /// Checks it against the rules of the config file, against the service that it joins, and
    /// against `others`, which may hold that service, too. To replace a backend, take the old one
    /// out of `service` first.
    ///
    /// # Errors
    /// Every mistake, each with its key.
    pub fn check(
        &self,
        service: &ServiceConfig,
        others: &[ServiceConfig],
    ) -> Result<BackendConfig, ConfigErrors> {
        check_backend(&to_node(self)?, service, others)
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
