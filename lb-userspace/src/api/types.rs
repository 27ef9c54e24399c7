//! What the API says and takes. The names are an interface.

use std::{collections::BTreeMap, net::SocketAddr};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{Histogram, NewWeight};
use crate::model::Origin;

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

/// What the program counted since its maps were made.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Stats {
    /// Packets that were not ours.
    pub passes_total: u64,
    /// Messages that the program sent of its own.
    #[serde(default)]
    pub icmp_sent_total: IcmpSent,
    /// Packets refused, by the name of the reason; every reason is there.
    pub drops_total: BTreeMap<String, u64>,
    /// By name.
    pub services: Vec<ServiceTraffic>,
}

/// ICMP messages of the program's own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct IcmpSent {
    /// Echo requests to VIPs that were answered.
    pub echo_reply: u64,
    /// Senders that were told that a packet was too big for its way.
    pub too_big: u64,
}

/// Traffic of a service. The sums are those of the backends that are there now, so they fall when
/// one is removed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ServiceTraffic {
    /// The service.
    pub name: String,
    /// Sum of the backends'.
    pub packets_total: u64,
    /// Sum of the backends'.
    pub bytes_total: u64,
    /// Sum of the backends'.
    pub new_flows_total: u64,
    /// Packets from them that were turned back toward clients.
    pub answers_total: u64,
    /// In the config's order.
    pub backends: Vec<BackendTraffic>,
}

/// Traffic of a backend.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BackendTraffic {
    /// The backend.
    pub address: String,
    /// Packets forwarded.
    pub packets_total: u64,
    /// Bytes of them as they arrived.
    pub bytes_total: u64,
    /// TCP connections opened.
    pub new_flows_total: u64,
    /// Packets from them that were turned back toward clients.
    pub answers_total: u64,
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

/// A packet to explain: one that opens a connection, where it is TCP.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FlowQuery {
    /// Source address and port.
    pub from: SocketAddr,
    /// Destination address and port.
    pub to: SocketAddr,
    /// `tcp` or `udp`.
    pub protocol: String,
}

/// What the running balancer would do with a packet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Explanation {
    /// `pass`, `tx`, `redirect` or `drop`.
    pub verdict: String,
    /// Name of the service that it belongs to.
    pub service: Option<String>,
    /// Address of the backend that it goes to.
    pub backend: Option<String>,
    /// Name of the drop reason.
    pub reason: Option<String>,
    /// The packet's journey, in order.
    pub steps: Vec<Step>,
}

/// A step of a packet's journey.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// Its name: `parse`, `service`, `slot`, `flow`, `backend`, `rewrite`, `out`; of an answer
    /// `parse`, `answer`, `way`, `rewrite`, `out`.
    pub step: String,
    /// What happens there, for people.
    pub detail: String,
}
