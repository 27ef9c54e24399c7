//! Flows, and what is asked of them.

use serde::{Deserialize, Serialize};

/// Flows in moving slots, and what became of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FlowsStatus {
    /// Flows that are remembered: those in moving slots that a packet came of.
    pub records: u64,
    /// The most.
    pub capacity: u64,
    /// Flows that were remembered.
    pub recorded_total: u64,
    /// Packets that opened a flow which was not remembered, because the budget was spent.
    pub over_budget_opening_total: u64,
    /// Other packets whose flow was not remembered, because the budget was spent.
    pub over_budget_total: u64,
    /// Packets whose flow was not remembered, because the table was full.
    pub table_full_total: u64,
    /// Flows whose backend was dead or gone, and which got another one.
    pub picked_anew_total: u64,
}

/// Flows under `fullnat`, as the last look found them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FullnatStatus {
    /// Flows.
    pub flows: u64,
    /// Of these, those that aren't open yet.
    pub embryonic: u64,
    /// Ports that are taken: by flows, and by former ones that their backends may remember.
    pub taken: u64,
    /// The most of either.
    pub capacity: u64,
    /// Flows that began.
    pub opened_total: u64,
    /// Ports that were tried for a flow and were taken.
    pub ports_in_use_total: u64,
    /// Searches for a port, where those that were tried first were taken.
    pub port_searches_total: u64,
}

/// Ports of a backend's pool, under `fullnat`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FullnatPorts {
    /// Those that are taken.
    pub used: u32,
    /// All.
    pub total: u32,
}

/// Which flows are meant: those that fit all that is given.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FlowFilter {
    /// The service's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
    /// The backend's address, with its port where it has one of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backend: Option<String>,
    /// The client's address, or its address and port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client: Option<String>,
    /// Tell so many at the most.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<usize>,
}

impl FlowFilter {
    /// In words.
    pub fn words(&self) -> String {
        let parts =
            [("service", &self.service), ("backend", &self.backend), ("client", &self.client)];
        let given = parts
            .iter()
            .filter_map(|(name, value)| value.as_ref().map(|value| format!("{name} {value}")));
        let given: Vec<_> = given.collect();
        if given.is_empty() { "all".to_owned() } else { given.join(", ") }
    }
}

/// A flow under `fullnat`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FlowInfo {
    /// The service's name.
    pub service: String,
    /// `tcp` or `udp`.
    pub protocol: String,
    /// Address and port of the client.
    pub client: String,
    /// Address and port that it sends to.
    pub vip: String,
    /// Address and port that its packets come to the backend from.
    pub source: String,
    /// The backend.
    pub backend: String,
    /// How far it is: `opening`, `answered`, `open`, `client_done`, `backend_done`, `time_wait`,
    /// `closed` or `reset`.
    pub state: String,
    /// Seconds since it began.
    pub age_seconds: u32,
    /// Seconds since its last packet.
    pub quiet_seconds: u32,
}

/// Flows under `fullnat`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FlowList {
    /// As many as were wanted at the most, in no order.
    pub flows: Vec<FlowInfo>,
    /// How many there are.
    pub matching: u64,
}

/// Flows that are no longer there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KilledFlows {
    /// How many.
    pub killed: u64,
}
