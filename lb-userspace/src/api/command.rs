//! The seam between the API and the agent, which alone owns the state.

use std::time::Duration;

use tokio::{
    sync::{mpsc, oneshot},
    time::timeout,
};

use super::{
    Actor, ApiError, BackendChange, BackendStatus, ErrorKind, EventLog, Explanation, FlowFilter,
    FlowList, FlowQuery, KilledFlows, Leaving, Registration, ServiceStatus, Stats, Status,
};
use crate::model::BackendKey;

/// How long the agent may take for one command, a wait for the kernel included.
const PATIENCE: Duration = Duration::from_secs(30);

/// Where the agent puts a command's result.
pub type Reply<T> = oneshot::Sender<Result<T, ApiError>>;

/// What the agent is asked to do. It does one after the other.
#[derive(Debug)]
pub enum Command {
    /// Tell everything.
    Status(Reply<Status>),
    /// Tell what was counted.
    Stats(Reply<Stats>),
    /// Begin to serve.
    AddService {
        /// The keys of a `[[service]]`, unchecked: see [`crate::config::service_from_json`].
        spec: serde_json::Value,
        /// Who wants it.
        by: Actor,
        /// The service as it is then.
        reply: Reply<ServiceStatus>,
    },
    /// Serve no longer.
    RemoveService {
        /// The service.
        name: String,
        /// Who wants it.
        by: Actor,
        /// Done.
        reply: Reply<()>,
    },
    /// Let another backend take part.
    AddBackend {
        /// The service.
        service: String,
        /// The keys of a `[[service.backend]]`, unchecked: see
        /// [`crate::config::backend_from_json`].
        spec: serde_json::Value,
        /// Who wants it.
        by: Actor,
        /// The backend as it is then.
        reply: Reply<BackendStatus>,
    },
    /// Change a backend.
    SetBackend {
        /// The service.
        service: String,
        /// The backend.
        backend: BackendKey,
        /// At least one of its fields is there.
        change: BackendChange,
        /// Who wants it.
        by: Actor,
        /// The backend as it is then.
        reply: Reply<BackendStatus>,
    },
    /// Let a backend take part no longer.
    RemoveBackend {
        /// The service.
        service: String,
        /// The backend.
        backend: BackendKey,
        /// Its open flows are given up.
        force: bool,
        /// Who wants it.
        by: Actor,
        /// Done.
        reply: Reply<()>,
    },
    /// Give a backend a lease, or renew it.
    Register {
        /// The service.
        service: String,
        /// The backend.
        backend: BackendKey,
        /// How long the lease lasts.
        ttl: Duration,
        /// The backend's weight; `None` is the service's default.
        weight: Option<u16>,
        /// Who asks.
        by: Actor,
        /// The lease as it is then.
        reply: Reply<Registration>,
    },
    /// Let a registered backend leave, once its flows have ended.
    Leave {
        /// The service.
        service: String,
        /// The backend.
        backend: BackendKey,
        /// Who asks.
        by: Actor,
        /// How far it is.
        reply: Reply<Leaving>,
    },
    /// Tell flows under `fullnat`.
    Flows {
        /// Which.
        filter: FlowFilter,
        /// Those.
        reply: Reply<FlowList>,
    },
    /// End flows under `fullnat`.
    KillFlows {
        /// Which.
        filter: FlowFilter,
        /// Who wants it.
        by: Actor,
        /// How many there were.
        reply: Reply<KilledFlows>,
    },
    /// Follow a packet through the tables.
    Explain {
        /// The packet.
        query: FlowQuery,
        /// Its journey.
        reply: Reply<Explanation>,
    },
}

/// The agent, as the API and the metrics see it.
#[derive(Clone, Debug)]
pub struct AgentHandle {
    /// Read by the agent's loop.
    pub commands: mpsc::Sender<Command>,
    /// Written by the agent's loop.
    pub events: EventLog,
}

impl AgentHandle {
    /// Has the agent do something, and waits for the result.
    ///
    /// # Errors
    /// The agent's own, or [`ErrorKind::Unavailable`] when it gives none.
    pub async fn ask<T>(&self, command: impl FnOnce(Reply<T>) -> Command) -> Result<T, ApiError> {
        let (reply, result) = oneshot::channel();
        let exchange = async {
            self.commands.send(command(reply)).await.ok()?;
            result.await.ok()
        };
        let unavailable = |message: &str| ApiError::new(ErrorKind::Unavailable, message);
        match timeout(PATIENCE, exchange).await {
            Ok(Some(result)) => result,
            Ok(None) => Err(unavailable("the agent is stopping")),
            Err(_) => Err(unavailable(&format!("the agent took longer than {PATIENCE:?}"))
                .hint("`xlb events` shows what it did; its log may say why")),
        }
    }
}
