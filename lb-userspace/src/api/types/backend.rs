//! Backends, and what is known of them.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::api::{FullnatPorts, NewWeight};
use crate::model::Origin;

/// A backend of a service.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BackendStatus {
    /// Unique within the service; with a port where it has one of its own.
    pub address: String,
    /// Where it comes from.
    pub origin: Origin,
    /// As configured.
    pub weight: u16,
    /// What it takes of new flows now: 0 when failed or draining.
    pub live_weight: f64,
    /// The one word for it.
    pub state: BackendState,
    /// What a live change made of it, where one is in force.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub live_change: Option<String>,
    /// `None` where it isn't checked.
    pub health: Option<HealthStatus>,
    /// `None` where its load isn't followed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub load: Option<LoadStatus>,
    /// `None` where no agent is asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent: Option<AgentStatus>,
    /// Where its frames go.
    pub next_hop: NextHopStatus,
    /// Forward mode, its own or the service's.
    pub forward: String,
    /// Part of the ring's slots, 0 to 1.
    pub share: f64,
    /// Flows in moving slots that live with it, as far as packets of them came; under `fullnat`, all.
    pub flows: u64,
    /// Ports of its pool, where it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fullnat_ports: Option<FullnatPorts>,
    /// It drains, and has no flows any more, quiet ones included.
    pub drained: bool,
    /// Packets forwarded.
    pub packets_total: u64,
    /// Bytes of them as they arrived.
    pub bytes_total: u64,
    /// TCP connections opened.
    pub new_flows_total: u64,
    /// Packets from them that were turned back toward clients.
    pub answers_total: u64,
}

/// A backend's state in one word: the first of these that is true.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BackendState {
    /// It was removed, and finishes what it has.
    Leaving,
    /// It was told to finish what it has, by the operator or its agent.
    Draining,
    /// Its agent put it into maintenance: it serves nobody.
    Maintenance,
    /// Its check failed, or its agent says that it is down.
    Unhealthy,
    /// Its first check has not ended, or what it found isn't in force yet.
    Pending,
    /// Its next hop is not known.
    Unresolved,
    /// It fails too often, and takes no new flows for a while.
    Damped,
    /// It is a backup, and others live.
    Backup,
    /// It takes a part of its new flows, and more each second.
    SlowStart,
    /// It takes new flows.
    Healthy,
    /// A state that a newer agent told.
    #[serde(other)]
    Unknown,
}

/// What a check knows of a backend.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct HealthStatus {
    /// `None` until the first probe ended.
    pub ok: Option<bool>,
    /// Where probes go: `vip` or `address`.
    #[serde(default)]
    pub via: String,
    /// Since when it is so.
    pub since: Timestamp,
    /// What the last probe saw.
    pub reason: String,
    /// Probes in a row that contradict `ok`.
    #[serde(default)]
    pub contradicting: u32,
    /// So many of them change it; 0 while none does.
    #[serde(default)]
    pub needed: u32,
    /// Probes that passed.
    pub passed_total: u64,
    /// Probes that failed.
    pub failed_total: u64,
    /// Probes that said nothing, because the balancer's host lacked what they need.
    pub inconclusive_total: u64,
}

/// What a backend reports of its load.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LoadStatus {
    /// The last report: 1 is all that it can. `None` until one came.
    pub utilization: Option<f64>,
    /// Where reports come from: `orca` or `agent`.
    pub source: String,
    /// Seconds since the last report.
    pub age_seconds: Option<f64>,
    /// Reports that were understood.
    pub reports_total: u64,
    /// Reports, or values in them, that were not.
    pub ignored_total: u64,
    /// Why the last of those was not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// What an agent on a backend says.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AgentStatus {
    /// What holds, in the words of the protocol: `ready up 100%`.
    pub state: String,
    /// Its last line.
    pub said: Option<String>,
    /// When it said that.
    pub said_at: Option<Timestamp>,
    /// Why the last question had no answer that is understood.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// Questions that were answered.
    pub answered_total: u64,
    /// Questions that were not.
    pub failed_total: u64,
}

/// Where a backend's frames go.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NextHopStatus {
    /// The destination MAC address.
    pub mac: Option<String>,
    /// Name of the interface that they leave by; `None` is the one that a packet came in by.
    pub interface: Option<String>,
    /// Why there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// A change to a backend: what is left out stays.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BackendChange {
    /// 0 to 65535, or `"configured"`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weight: Option<NewWeight>,
    /// Whether it takes no new flows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drain: Option<bool>,
}

/// What is no longer there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Removed {
    /// A service's name, or a backend's address.
    pub removed: String,
}
