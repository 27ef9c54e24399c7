//! The API's other end: what the command line uses.

use std::{
    io,
    path::{Path, PathBuf},
    pin::pin,
    time::Duration,
};

use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::{
    Method, Request, StatusCode,
    body::Bytes,
    client::conn::http1,
    header::{CONTENT_TYPE, HOST},
};
use hyper_util::rt::TokioIo;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::{Serialize, de::DeserializeOwned};
use thiserror::Error;
use tokio::{net::UnixStream, time::timeout};

use super::{
    ApiError, BackendChange, BackendStatus, EVENTS_WAIT_MAX_SECONDS, EventPage, Explanation,
    FlowFilter, FlowList, FlowQuery, KilledFlows, Removed, ServiceStatus, Stats, Status,
    error::Envelope,
};
use crate::config::{BackendSpec, ServiceSpec};

/// Longer than the agent lets any request take.
const PATIENCE: Duration = Duration::from_secs(45);

/// Longest answer in bytes.
const ANSWER_MAX: usize = 256 << 20;

/// What stands for itself in a path.
const PATH: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// Why there is no answer, or not the one that was hoped for.
#[derive(Debug, Error)]
pub enum ClientError {
    /// Nobody listens.
    #[error(
        "no agent answers on {0}: is `xlb run` running? If its socket is elsewhere, give \
         --socket or set XLB_SOCKET"
    )]
    NotRunning(PathBuf),
    /// The socket isn't ours to use.
    #[error("{0}: permission denied: run this as root, or as a member of the socket's group")]
    Denied(PathBuf),
    /// The agent refused. `wrong_input` says whose fault it is.
    #[error("{error}")]
    Refused {
        /// What the agent says.
        error: ApiError,
        /// It's what was asked that is wrong.
        wrong_input: bool,
    },
    /// No answer in time.
    #[error("the agent on {0} didn't answer within {PATIENCE:?}")]
    TimedOut(PathBuf),
    /// What answers there is no agent of this kind.
    #[error("{path}: {found}: is it the control socket of an `xlb run` of this version?")]
    Garbled {
        /// The socket.
        path: PathBuf,
        /// What came back.
        found: String,
    },
}

/// A way to the agent. Every call makes a connection of its own.
#[derive(Clone, Debug)]
pub struct Client {
    socket: PathBuf,
}

impl Client {
    /// Of the agent that listens on that socket.
    pub fn new(socket: &Path) -> Self {
        Self { socket: socket.to_owned() }
    }

    /// Tells everything.
    pub async fn status(&self) -> Result<Status, ClientError> {
        self.get("/v1/status").await
    }

    /// Tells what was counted.
    pub async fn stats(&self) -> Result<Stats, ClientError> {
        self.get("/v1/stats").await
    }

    /// Events after number `since`; with `wait`, once there is one or after half a minute.
    pub async fn events(&self, since: u64, wait: bool) -> Result<EventPage, ClientError> {
        let seconds = if wait { EVENTS_WAIT_MAX_SECONDS } else { 0 };
        self.get(&format!("/v1/events?since={since}&wait_seconds={seconds}")).await
    }

    /// All services.
    pub async fn services(&self) -> Result<Vec<ServiceStatus>, ClientError> {
        self.get("/v1/services").await
    }

    /// One service.
    pub async fn service(&self, name: &str) -> Result<ServiceStatus, ClientError> {
        self.get(&service_path(name)).await
    }

    /// Adds a service.
    pub async fn add_service(&self, spec: &ServiceSpec) -> Result<ServiceStatus, ClientError> {
        self.send(Method::POST, "/v1/services", Some(spec)).await
    }

    /// Removes a service.
    pub async fn remove_service(&self, name: &str) -> Result<Removed, ClientError> {
        self.send(Method::DELETE, &service_path(name), NOTHING).await
    }

    /// A service's backends.
    pub async fn backends(&self, service: &str) -> Result<Vec<BackendStatus>, ClientError> {
        self.get(&format!("{}/backends", service_path(service))).await
    }

    /// Adds a backend.
    pub async fn add_backend(
        &self,
        service: &str,
        spec: &BackendSpec,
    ) -> Result<BackendStatus, ClientError> {
        let path = format!("{}/backends", service_path(service));
        self.send(Method::POST, &path, Some(spec)).await
    }

    /// Changes a backend.
    pub async fn set_backend(
        &self,
        service: &str,
        address: &str,
        change: BackendChange,
    ) -> Result<BackendStatus, ClientError> {
        self.send(Method::PATCH, &backend_path(service, address), Some(&change)).await
    }

    /// Removes a backend; with `force`, its open flows too.
    pub async fn remove_backend(
        &self,
        service: &str,
        address: &str,
        force: bool,
    ) -> Result<Removed, ClientError> {
        let path = format!("{}?force={force}", backend_path(service, address));
        self.send(Method::DELETE, &path, NOTHING).await
    }

    /// Flows under `fullnat`.
    pub async fn flows(&self, filter: &FlowFilter) -> Result<FlowList, ClientError> {
        self.get(&flows_path(filter)).await
    }

    /// Ends flows under `fullnat`.
    pub async fn kill_flows(&self, filter: &FlowFilter) -> Result<KilledFlows, ClientError> {
        self.send(Method::DELETE, &flows_path(filter), NOTHING).await
    }

    /// Follows a packet.
    pub async fn explain(&self, query: &FlowQuery) -> Result<Explanation, ClientError> {
        self.send(Method::POST, "/v1/explain", Some(query)).await
    }

    async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, ClientError> {
        self.send(Method::GET, path, NOTHING).await
    }

    async fn send<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Option<&impl Serialize>,
    ) -> Result<T, ClientError> {
        let body = match body.map(serde_json::to_vec).transpose() {
            Ok(body) => Bytes::from(body.unwrap_or_default()),
            Err(error) => return Err(self.garbled(error)),
        };
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(HOST, "xlb")
            .header(CONTENT_TYPE, "application/json")
            .body(Full::new(body))
            .map_err(|error| self.garbled(error))?;
        let (status, answer) = timeout(PATIENCE, self.exchange(request))
            .await
            .map_err(|_| ClientError::TimedOut(self.socket.clone()))??;
        if status.is_success() {
            return serde_json::from_slice(&answer).map_err(|error| self.garbled(error));
        }
        match serde_json::from_slice::<Envelope>(&answer) {
            Ok(Envelope { error }) => {
                Err(ClientError::Refused { error, wrong_input: status.is_client_error() })
            }
            Err(_) => Err(self.garbled(format!("it answers {status}"))),
        }
    }

    async fn exchange(
        &self,
        request: Request<Full<Bytes>>,
    ) -> Result<(StatusCode, Bytes), ClientError> {
        let stream = UnixStream::connect(&self.socket).await.map_err(|error| self.absent(error))?;
        let (mut sender, connection) =
            http1::handshake(TokioIo::new(stream)).await.map_err(|error| self.garbled(error))?;
        let mut exchange = pin!(async {
            let response =
                sender.send_request(request).await.map_err(|error| self.garbled(error))?;
            let status = response.status();
            let body = Limited::new(response.into_body(), ANSWER_MAX).collect().await;
            let body = body.map_err(|error| match error.downcast_ref::<LengthLimitError>() {
                Some(_) => self.garbled(format!("it answers more than {ANSWER_MAX} bytes")),
                None => self.garbled(error),
            })?;
            Ok((status, body.to_bytes()))
        });
        // Once the connection is over, the exchange knows how it ended.
        tokio::select! {
            answer = &mut exchange => answer,
            _ = connection => exchange.await,
        }
    }

    fn absent(&self, error: io::Error) -> ClientError {
        let path = self.socket.clone();
        match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
                ClientError::NotRunning(path)
            }
            io::ErrorKind::PermissionDenied => ClientError::Denied(path),
            _ => self.garbled(error),
        }
    }

    fn garbled(&self, found: impl ToString) -> ClientError {
        ClientError::Garbled { path: self.socket.clone(), found: found.to_string() }
    }
}

const NOTHING: Option<&()> = None;

fn flows_path(filter: &FlowFilter) -> String {
    let FlowFilter { service, backend, client, limit } = filter;
    let limit = limit.map(|limit| limit.to_string());
    let given = [("service", service), ("backend", backend), ("client", client), ("limit", &limit)];
    let given = given.into_iter().filter_map(|(name, value)| {
        Some(format!("{name}={}", utf8_percent_encode(value.as_ref()?, PATH)))
    });
    format!("/v1/flows?{}", given.collect::<Vec<_>>().join("&"))
}

fn service_path(name: &str) -> String {
    format!("/v1/services/{}", utf8_percent_encode(name, PATH))
}

fn backend_path(service: &str, address: &str) -> String {
    format!("{}/backends/{}", service_path(service), utf8_percent_encode(address, PATH))
}
