//! What was counted.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

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
