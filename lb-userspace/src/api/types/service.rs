//! Services, their sources of backends, and leases.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::api::BackendStatus;
use crate::model::Origin;

/// A service.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ServiceStatus {
    /// Unique.
    pub name: String,
    /// `203.0.113.10:80`, `[2001:db8::10]:443`, `203.0.113.10:*`.
    pub vip: String,
    /// `tcp` or `udp`.
    pub protocol: String,
    /// `l2`, `ipip`, `gue`, `nat` or `fullnat`.
    pub forward: String,
    /// Slots of its ring; 0 while it has none.
    pub ring_size: u32,
    /// `flow`, `source` or `packet`.
    pub affinity: String,
    /// Slots whose flows may live with others than the slot's owner.
    pub moving_slots: u32,
    /// Slots that got another owner since the agent started.
    #[serde(default)]
    pub slots_moved_total: u64,
    /// Where more backends are found, where that is configured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub discovery: Option<DiscoveryStatus>,
    /// Some backend takes new flows; else they are dropped.
    #[serde(default)]
    pub up: bool,
    /// Too few backends are healthy: failed ones are used as well.
    #[serde(default)]
    pub panic: bool,
    /// No other backend lives: backups serve.
    #[serde(default)]
    pub backup_active: bool,
    /// In the config's order.
    pub backends: Vec<BackendStatus>,
    /// Backends that were removed, and still have flows.
    pub leaving: Vec<BackendStatus>,
}

/// A source of backends, and what it told.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DiscoveryStatus {
    /// `dns`, `directory` or `registered`: the origin of its backends.
    pub origin: Origin,
    /// What is asked, for people.
    pub source: String,
    /// Backends that it told last.
    pub found: usize,
    /// When it last told something that was taken.
    pub last_success: Option<Timestamp>,
    /// When it is asked again, or the next lease ends; `None` where it tells by itself.
    pub next: Option<Timestamp>,
    /// What is wrong. What it told before stays.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trouble: Option<String>,
    /// Backends that were found and aren't taken.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub refused: Vec<RefusedBackend>,
    /// Answers that were taken, or registrations and renewals.
    pub succeeded_total: u64,
    /// Times that there was no answer, or one that was not taken.
    pub failed_total: u64,
}

/// A backend that was found and isn't taken.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RefusedBackend {
    /// Its address.
    pub address: String,
    /// Why not.
    pub why: String,
}

/// A backend's lease.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Registration {
    /// The service.
    pub service: String,
    /// The backend.
    pub address: String,
    /// The weight in force.
    pub weight: u16,
    /// How long the lease lasts from now on.
    pub ttl_seconds: f64,
    /// An operator has removed it: it takes no part.
    pub removed: bool,
    /// An operator drains it: it takes no new flows.
    pub draining: bool,
}

/// How far a backend is that leaves.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Leaving {
    /// The service.
    pub service: String,
    /// The backend.
    pub address: String,
    /// It has no flows any more, and is out.
    pub drained: bool,
    /// It stays, since the service has no other backend.
    pub kept: bool,
    /// Flows in moving slots that live with it, as far as packets of them came.
    pub flows: u64,
}
