//! The control API: HTTP and JSON over a Unix socket, its server and its client.
//!
//! | request | answer |
//! |---|---|
//! | `GET /v1/status` | [`Status`] |
//! | `GET /v1/stats` | [`Stats`] |
//! | `GET /v1/events?since=N&wait_seconds=S` | [`EventPage`] |
//! | `GET /v1/services` | list of [`ServiceStatus`] |
//! | `POST /v1/services` | [`ServiceStatus`]; takes the keys of a `[[service]]` |
//! | `GET /v1/services/{name}` | [`ServiceStatus`] |
//! | `DELETE /v1/services/{name}` | [`Removed`] |
//! | `GET /v1/services/{name}/backends` | list of [`BackendStatus`] |
//! | `POST /v1/services/{name}/backends` | [`BackendStatus`]; takes the keys of a `[[service.backend]]` |
//! | `PATCH /v1/services/{name}/backends/{address}` | [`BackendStatus`]; takes a [`BackendChange`] |
//! | `DELETE /v1/services/{name}/backends/{address}` | [`Removed`] |
//! | `GET /v1/flows?service=S&backend=B&client=C&limit=N` | [`FlowList`]: flows under `fullnat` |
//! | `DELETE /v1/flows?service=S&backend=B&client=C` | [`KilledFlows`]; without a filter, all |
//! | `POST /v1/explain` | [`Explanation`]; takes a [`FlowQuery`] |
//!
//! Where `[api.register]` says so, backends register themselves over TCP; nothing else is there:
//!
//! | request | answer |
//! |---|---|
//! | `PUT /v1/services/{name}/registrations/{address}` | [`Registration`]; takes `{"ttl_seconds": 10, "weight": 100}` |
//! | `DELETE /v1/services/{name}/registrations/{address}` | [`Leaving`]; to be repeated until it is drained |
//!
//! What fails answers `{"error": {"kind", "message", "hint"}}`, with a 4xx status where the input
//! was wrong.

mod actor;
mod client;
mod command;
mod error;
mod events;
mod histogram;
mod new_weight;
mod news;
mod routes;
pub mod serve;
mod socket;
#[cfg(test)]
pub mod testing;
#[cfg(test)]
mod tests;
mod types;

pub use actor::Actor;
pub use client::{Client, ClientError};
pub use command::{AgentHandle, Command, Reply};
pub use error::{ApiError, Envelope, ErrorKind};
pub use events::{Event, EventKind, EventLog, EventPage};
pub use histogram::Histogram;
pub use new_weight::NewWeight;
pub use news::{Cause, News};
pub use routes::router;
pub use socket::ControlSocket;
pub use types::{
    AgentStatus, BackendChange, BackendState, BackendStatus, BackendTraffic, DiscoveryStatus,
    Explanation, FlowFilter, FlowInfo, FlowList, FlowQuery, FlowsStatus, FullnatPorts,
    FullnatStatus, HealthStatus, HooksStatus, IcmpSent, InterfaceStatus, KilledFlows, Leaving,
    LoadStatus, NextHopStatus, RefusedBackend, Registration, Reload, Removed, ServiceStatus,
    ServiceTraffic, Stats, Status, Step,
};

/// Longest body in bytes of a request.
const BODY_MAX: usize = 4 << 20;

/// Longest time in seconds that a request for events waits.
const EVENTS_WAIT_MAX_SECONDS: u64 = 30;
