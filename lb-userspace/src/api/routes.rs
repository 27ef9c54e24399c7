//! The API's paths: requests become commands, results become JSON.

use std::{sync::Arc, time::Duration};

use axum::{
    Json, Router,
    body::{Bytes, HttpBody},
    extract::{
        DefaultBodyLimit, FromRequest, FromRequestParts, Path, Query, Request, State,
        rejection::BytesRejection,
    },
    http::{Method, StatusCode, Uri, request::Parts},
    response::IntoResponse,
    routing::{get, patch, post},
};
use serde::{Deserialize, de::DeserializeOwned};
use tokio::{sync::Semaphore, time::timeout};

use super::{
    Actor, AgentHandle, ApiError, BODY_MAX, BackendChange, BackendStatus, Command,
    EVENTS_WAIT_MAX_SECONDS, ErrorKind, EventPage, Explanation, FlowFilter, FlowList, FlowQuery,
    KilledFlows, Removed, ServiceStatus, Stats, Status, serve::CONNECTIONS_MAX,
};
use crate::model::{BackendKey, Protocol};

/// Requests that wait for events at a time; the other connections are for those that don't.
pub(super) const WAITING_MAX: usize = CONNECTIONS_MAX / 2;

/// How long a request's body may take.
const BODY_PATIENCE: Duration = Duration::from_secs(5);

type Agent = State<AgentHandle>;
type Answer<T> = Result<Json<T>, ApiError>;

/// All paths of the control API, answered by the agent behind `handle`.
pub fn router(handle: AgentHandle) -> Router {
    let seats = Arc::new(Semaphore::new(WAITING_MAX));
    let events = move |agent, query| events(seats, agent, query);
    Router::new()
        .route("/v1/status", get(status))
        .route("/v1/stats", get(stats))
        .route("/v1/events", get(events))
        .route("/v1/services", get(services).post(add_service))
        .route("/v1/services/{name}", get(service).delete(remove_service))
        .route("/v1/services/{name}/backends", get(backends).post(add_backend))
        .route("/v1/services/{name}/backends/{address}", patch(set_backend).delete(remove_backend))
        .route("/v1/flows", get(flows).delete(kill_flows))
        .route("/v1/explain", post(explain))
        .fallback(no_path)
        .method_not_allowed_fallback(no_method)
        .layer(DefaultBodyLimit::max(BODY_MAX))
        .with_state(handle)
}

async fn status(State(agent): Agent) -> Answer<Status> {
    agent.ask(Command::Status).await.map(Json)
}

async fn stats(State(agent): Agent) -> Answer<Stats> {
    agent.ask(Command::Stats).await.map(Json)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct EventsQuery {
    #[serde(default)]
    since: u64,
    #[serde(default)]
    wait_seconds: u64,
}

async fn events(
    seats: Arc<Semaphore>,
    State(agent): Agent,
    Input(query): Input<Query<EventsQuery>>,
) -> Answer<EventPage> {
    let page = agent.events.since(query.since);
    let wait = Duration::from_secs(query.wait_seconds.min(EVENTS_WAIT_MAX_SECONDS));
    if wait.is_zero() || page.last != query.since {
        return Ok(Json(page));
    }
    let Ok(_seat) = seats.try_acquire() else {
        let message = format!("{WAITING_MAX} others wait for events already");
        return Err(ApiError::new(ErrorKind::Unavailable, message).hint(
            "end some of the `xlb events --follow` that run, or ask without `wait_seconds`",
        ));
    };
    // Without an event in that time the page is empty.
    let _ = timeout(wait, agent.events.wait(query.since)).await;
    Ok(Json(agent.events.since(query.since)))
}

async fn services(State(agent): Agent) -> Answer<Vec<ServiceStatus>> {
    Ok(Json(agent.ask(Command::Status).await?.services))
}

async fn add_service(
    State(agent): Agent,
    by: Actor,
    Body(spec): Body<serde_json::Value>,
) -> impl IntoResponse {
    let service = agent.ask(|reply| Command::AddService { spec, by, reply }).await?;
    Ok::<_, ApiError>((StatusCode::CREATED, Json(service)))
}

async fn service(
    State(agent): Agent,
    Input(Path(name)): Input<Path<String>>,
) -> Answer<ServiceStatus> {
    find(&agent, &name).await.map(Json)
}

async fn remove_service(
    State(agent): Agent,
    by: Actor,
    Input(Path(name)): Input<Path<String>>,
) -> Answer<Removed> {
    let removed = name.clone();
    agent.ask(|reply| Command::RemoveService { name, by, reply }).await?;
    Ok(Json(Removed { removed }))
}

async fn backends(
    State(agent): Agent,
    Input(Path(name)): Input<Path<String>>,
) -> Answer<Vec<BackendStatus>> {
    Ok(Json(find(&agent, &name).await?.backends))
}

async fn add_backend(
    State(agent): Agent,
    by: Actor,
    Input(Path(service)): Input<Path<String>>,
    Body(spec): Body<serde_json::Value>,
) -> impl IntoResponse {
    let backend = agent.ask(|reply| Command::AddBackend { service, spec, by, reply }).await?;
    Ok::<_, ApiError>((StatusCode::CREATED, Json(backend)))
}

async fn set_backend(
    State(agent): Agent,
    by: Actor,
    Input(Path((service, address))): Input<Path<(String, String)>>,
    Body(change): Body<BackendChange>,
) -> Answer<BackendStatus> {
    let backend = backend_key(&address)?;
    if change == BackendChange::default() {
        return Err(ApiError::new(ErrorKind::Invalid, "the change is empty")
            .hint("give `weight`, `drain` or both"));
    }
    let command = |reply| Command::SetBackend { service, backend, change, by, reply };
    agent.ask(command).await.map(Json)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RemoveQuery {
    #[serde(default)]
    force: bool,
}

async fn remove_backend(
    State(agent): Agent,
    by: Actor,
    Input(Path((service, address))): Input<Path<(String, String)>>,
    Input(Query(RemoveQuery { force })): Input<Query<RemoveQuery>>,
) -> Answer<Removed> {
    let backend = backend_key(&address)?;
    agent.ask(|reply| Command::RemoveBackend { service, backend, force, by, reply }).await?;
    Ok(Json(Removed { removed: backend.to_string() }))
}

async fn flows(
    State(agent): Agent,
    Input(Query(filter)): Input<Query<FlowFilter>>,
) -> Answer<FlowList> {
    agent.ask(|reply| Command::Flows { filter, reply }).await.map(Json)
}

async fn kill_flows(
    State(agent): Agent,
    by: Actor,
    Input(Query(filter)): Input<Query<FlowFilter>>,
) -> Answer<KilledFlows> {
    if filter.limit.is_some() {
        let message = "flows are killed whatever their number";
        return Err(ApiError::new(ErrorKind::Invalid, message).hint("leave `limit` out"));
    }
    agent.ask(|reply| Command::KillFlows { filter, by, reply }).await.map(Json)
}

async fn explain(State(agent): Agent, Body(query): Body<FlowQuery>) -> Answer<Explanation> {
    let wrong = |message: String, hint: &str| ApiError::new(ErrorKind::Invalid, message).hint(hint);
    if let Err(error) = query.protocol.parse::<Protocol>() {
        return Err(wrong(error.message, error.allowed));
    }
    if query.from.is_ipv4() != query.to.is_ipv4() {
        let message = format!("{} and {} are of different families", query.from, query.to);
        return Err(wrong(message, "a packet has two IPv4 or two IPv6 addresses"));
    }
    agent.ask(|reply| Command::Explain { query, reply }).await.map(Json)
}

async fn no_path(method: Method, uri: Uri) -> ApiError {
    ApiError::new(ErrorKind::NotFound, format!("there is no {method} {}", uri.path()))
        .hint("this agent speaks version 1 of the API, under /v1/")
}

async fn no_method(method: Method, uri: Uri) -> ApiError {
    ApiError::new(ErrorKind::MethodNotAllowed, format!("{} doesn't take {method}", uri.path()))
}

async fn find(agent: &AgentHandle, name: &str) -> Result<ServiceStatus, ApiError> {
    let services = agent.ask(Command::Status).await?.services;
    services
        .into_iter()
        .find(|service| service.name == name)
        .ok_or_else(|| ApiError::no_service(name))
}

fn backend_key(text: &str) -> Result<BackendKey, ApiError> {
    text.parse::<BackendKey>()
        .map_err(|error| ApiError::new(ErrorKind::Invalid, error.message).hint(error.allowed))
}

/// A part of the request's head, refused in the API's own form.
struct Input<T>(T);

impl<S: Send + Sync, T: FromRequestParts<S, Rejection: std::fmt::Display>> FromRequestParts<S>
    for Input<T>
{
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        T::from_request_parts(parts, state)
            .await
            .map(Self)
            .map_err(|error| ApiError::new(ErrorKind::Invalid, error.to_string()))
    }
}

/// A body in JSON, whatever its type is declared to be.
struct Body<T>(T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for Body<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &S) -> Result<Self, ApiError> {
        if request.body().size_hint().lower() > BODY_MAX as u64 {
            return Err(too_large());
        }
        let bytes = timeout(BODY_PATIENCE, Bytes::from_request(request, state)).await;
        let bytes = bytes
            .map_err(|_| {
                let message = format!("the body didn't arrive within {BODY_PATIENCE:?}");
                ApiError::new(ErrorKind::Invalid, message)
            })?
            .map_err(unread)?;
        serde_json::from_slice(&bytes).map(Self).map_err(|error| {
            ApiError::new(ErrorKind::Invalid, format!("the body is not as it should be: {error}"))
        })
    }
}

fn unread(error: BytesRejection) -> ApiError {
    if error.status() == StatusCode::PAYLOAD_TOO_LARGE {
        too_large()
    } else {
        ApiError::new(ErrorKind::Invalid, format!("the body can't be read: {error}"))
    }
}

fn too_large() -> ApiError {
    ApiError::new(ErrorKind::TooLarge, format!("the body is longer than {BODY_MAX} bytes"))
}
