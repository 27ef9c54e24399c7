//! Services and backends as text, the way that a person or a program writes them: what the API
//! takes and shows, and what the state file keeps.

use std::fmt::Display;

use serde::{Deserialize, Serialize};

use super::{
    error::{ConfigErrors, Fault, Faults},
    keys::service as keys,
    limits::room_in_ring,
    node::Node,
    service::{self, BackendContext, Others, Taken},
    types::{ActiveCheck, BackendConfig, HealthCheck, Probe, ServiceConfig},
    value::{AFFINITIES, duration_text},
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
    /// A duration such as `60s`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub udp_timeout: Option<String>,
    /// A duration such as `15m`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tcp_idle: Option<String>,
    /// How backends are checked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub health: Option<HealthSpec>,
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
}

/// A health check, with the keys of `[service.health]`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HealthSpec {
    /// `tcp`, `http` or `none`.
    #[serde(rename = "type")]
    pub kind: String,
    /// 1 to 65535.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<i64>,
    /// Starts with `/`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// The Host header.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// Statuses of a healthy backend.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expect_status: Option<StatusSpec>,
    /// A duration.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interval: Option<String>,
    /// A duration.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<String>,
    /// 1 to 100.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rise: Option<i64>,
    /// 1 to 100.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fall: Option<i64>,
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
        check_backend(&to_node(self)?, service)
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
) -> Result<BackendConfig, ConfigErrors> {
    check_backend(&Node::from_json(json), service)
}

fn check_service(node: &Node, others: &[ServiceConfig]) -> Result<ServiceConfig, ConfigErrors> {
    let mut faults = Faults::default();
    let path = service::path(None, node);
    let service = service::check(node, &path, &mut Others::new(others), &mut faults);
    faults.settle(service, None)
}

fn check_backend(node: &Node, service: &ServiceConfig) -> Result<BackendConfig, ConfigErrors> {
    let mut faults = Faults::default();
    let path = format!("service \"{}\"", service.name);
    let mut taken = Taken::new();
    for backend in &service.backends {
        taken.add(backend.key, path.as_str());
    }
    if let Err(fault) = room_in_ring(service.ring_size, service.backends.len() + 1) {
        faults.add(None, format!("{path}.{}", keys::RING_SIZE.name), fault);
    }
    let context = BackendContext { vip: Some(service.key.vip), forward: Some(service.forward) };
    let path = format!("{path}.{}", keys::BACKEND.name);
    let backend = service::check_backend(node, &path, context, &mut taken, &mut faults);
    faults.settle(backend, None)
}

fn to_node(spec: &impl Serialize) -> Result<Node, ConfigErrors> {
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
            health: match &service.health {
                HealthCheck::None => None,
                HealthCheck::Active(check) => Some(check.into()),
            },
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
        }
    }
}

impl From<&ActiveCheck> for HealthSpec {
    fn from(check: &ActiveCheck) -> Self {
        let common = Self {
            port: Some(check.port.into()),
            interval: Some(duration_text(check.interval)),
            timeout: Some(duration_text(check.timeout)),
            rise: Some(check.rise.into()),
            fall: Some(check.fall.into()),
            ..Self::default()
        };
        match &check.probe {
            Probe::Tcp => Self { kind: "tcp".to_owned(), ..common },
            Probe::Http { path, host, expect_status } => {
                let ranges: Vec<_> = expect_status.iter().map(ToString::to_string).collect();
                Self {
                    kind: "http".to_owned(),
                    path: Some(path.clone()),
                    host: host.clone(),
                    expect_status: Some(StatusSpec::Several(ranges.join(", "))),
                    ..common
                }
            }
        }
    }
}
