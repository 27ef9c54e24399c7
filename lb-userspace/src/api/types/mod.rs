//! What the API says and takes. The names are an interface.

mod backend;
mod explain;
mod flows;
mod service;
mod stats;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

pub use backend::{
    AgentStatus, BackendChange, BackendState, BackendStatus, HealthStatus, LoadStatus,
    NextHopStatus, Removed,
};
pub use explain::{Explanation, FlowQuery, Step};
pub use flows::{
    FlowFilter, FlowInfo, FlowList, FlowsStatus, FullnatPorts, FullnatStatus, KilledFlows,
};
pub use service::{DiscoveryStatus, Leaving, RefusedBackend, Registration, ServiceStatus};
pub use stats::{BackendTraffic, IcmpSent, ServiceTraffic, Stats};

use super::Histogram;

/// The agent, and all that it serves.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// Version of the agent.
    pub version: String,
    /// Its process.
    pub pid: u32,
    /// Seconds since it started.
    pub uptime_seconds: f64,
    /// The file that it was started with.
    pub config_file: String,
    /// Where packets come in.
    pub interfaces: Vec<InterfaceStatus>,
    /// Memory of all maps.
    pub maps_bytes: u64,
    /// Most flows that are remembered at a time.
    pub flow_capacity: u64,
    /// Flows in moving slots.
    pub flows: FlowsStatus,
    /// Flows under `fullnat`.
    #[serde(default)]
    pub fullnat: FullnatStatus,
    /// Runs of the command `on_event`.
    #[serde(default)]
    pub hooks: HooksStatus,
    /// From the end of a health check's probe that turned its backend to the rings that say so.
    #[serde(default)]
    pub health_reactions: Histogram,
    /// By name.
    pub services: Vec<ServiceStatus>,
    /// Reloads of the config since the start that took effect.
    pub reloads_ok_total: u64,
    /// Reloads that changed nothing, because the config was wrong.
    pub reloads_failed_total: u64,
    /// The last of either.
    pub last_reload: Option<Reload>,
    /// What the operator should look at, a sentence each.
    pub warnings: Vec<String>,
}

/// What became of the runs of the command `on_event`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HooksStatus {
    /// It ended with status 0.
    pub ok_total: u64,
    /// It ended otherwise.
    pub failed_total: u64,
    /// It was killed when its time was over.
    pub timed_out_total: u64,
    /// It could not be started.
    pub not_started_total: u64,
    /// Events that came faster than it ends, and that it was not run for.
    pub missed_total: u64,
    /// What was wrong with the last run; null where nothing was.
    pub trouble: Option<String>,
}

/// An interface that the program is to be attached to.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct InterfaceStatus {
    /// Its name.
    pub name: String,
    /// Its number; `None` while there is no such interface.
    pub ifindex: Option<u32>,
    /// `native` or `generic`; `None` while nothing is attached.
    pub xdp_mode: Option<String>,
    /// Whether packets are balanced.
    pub attached: bool,
    /// Why not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// A reload of the config.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reload {
    /// When.
    pub at: Timestamp,
    /// Whether it took effect.
    pub ok: bool,
    /// Why not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}
