//! A packet, explained.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

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
