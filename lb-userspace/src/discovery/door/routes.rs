//! The door's two requests.

use std::{
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use axum::{
    Extension, Json, Router,
    body::Bytes,
    extract::{DefaultBodyLimit, Path, Request, State},
    http::{HeaderMap, header::AUTHORIZATION},
    middleware::{self, Next},
    response::{IntoResponse as _, Response},
    routing::put,
};
use serde::Deserialize;

use super::tokens::Tokens;
use crate::{
    api::{Actor, AgentHandle, ApiError, Command, ErrorKind, Leaving, Registration},
    model::BackendKey,
};

/// Longest head in bytes of a request; the least that the library takes.
pub(super) const HEAD_MAX: usize = 8 << 10;
/// Longest body in bytes of a request.
const BODY_MAX: usize = 1 << 10;
/// A lease lasts from a second to an hour.
const TTL_SECONDS: std::ops::RangeInclusive<f64> = 1.0..=3600.0;
/// From one line in the log about strangers to the next.
const COMPLAINT: Duration = Duration::from_secs(60);

/// Who may register what.
#[derive(Debug)]
pub(super) struct Guard {
    /// `None` where a certificate was asked for instead.
    tokens: Option<Mutex<Tokens>>,
    any_address: bool,
    strangers: Mutex<(u64, Option<Instant>)>,
}

/// Where a request comes from.
#[derive(Clone, Copy, Debug)]
struct Peer(IpAddr);

impl Guard {
    pub(super) fn new(tokens: Option<Tokens>, any_address: bool) -> Arc<Self> {
        Arc::new(Self { tokens: tokens.map(Mutex::new), any_address, strangers: Mutex::default() })
    }

    /// Reads the tokens again.
    pub(super) fn look(&self) {
        if let Some(tokens) = &self.tokens {
            tokens.lock().unwrap_or_else(PoisonError::into_inner).look();
        }
    }

    fn knows(&self, headers: &HeaderMap) -> bool {
        let Some(tokens) = &self.tokens else { return true };
        let header = headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok());
        let token = header.and_then(|header| header.strip_prefix("Bearer "));
        let tokens = tokens.lock().unwrap_or_else(PoisonError::into_inner);
        token.is_some_and(|token| tokens.has(token.trim()))
    }

    /// Says so, but not for each of many.
    fn complain(&self, peer: IpAddr) {
        let mut strangers = self.strangers.lock().unwrap_or_else(PoisonError::into_inner);
        strangers.0 += 1;
        if strangers.1.is_none_or(|last| last.elapsed() >= COMPLAINT) {
            let count = std::mem::take(&mut strangers.0);
            tracing::warn!("{count} requests to register without a good token, the last of {peer}");
            strangers.1 = Some(Instant::now());
        }
    }
}

/// What every connection has in common.
pub(super) fn router(handle: AgentHandle, guard: Arc<Guard>) -> Router {
    Router::new()
        .route("/v1/services/{name}/registrations/{address}", put(register).delete(leave))
        .fallback(nothing)
        .method_not_allowed_fallback(nothing)
        .layer(DefaultBodyLimit::max(BODY_MAX))
        .layer(middleware::from_fn_with_state(Arc::clone(&guard), known_only))
        .with_state((handle, guard))
}

/// For one connection.
pub(super) fn for_peer(router: Router, peer: IpAddr) -> Router {
    router.layer(Extension(Peer(peer)))
}

/// Strangers learn nothing, not even what is there.
async fn known_only(
    State(guard): State<Arc<Guard>>,
    Extension(Peer(peer)): Extension<Peer>,
    request: Request,
    next: Next,
) -> Response {
    if guard.knows(request.headers()) {
        return next.run(request).await;
    }
    guard.complain(peer);
    let message = "the token is missing or wrong";
    ApiError::new(ErrorKind::Unauthorized, message)
        .hint("give `xlb register` the agent's token by --token-file or XLB_REGISTER_TOKEN")
        .into_response()
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Wish {
    ttl_seconds: f64,
    #[serde(default)]
    weight: Option<u16>,
}

type Shared = State<(AgentHandle, Arc<Guard>)>;

async fn register(
    State((agent, guard)): Shared,
    Extension(peer): Extension<Peer>,
    Path((service, address)): Path<(String, String)>,
    body: Bytes,
) -> Result<Json<Registration>, ApiError> {
    let backend = guard.backend(peer, &address)?;
    let wrong = |message: String| ApiError::new(ErrorKind::Invalid, message);
    let Wish { ttl_seconds, weight } = serde_json::from_slice(&body)
        .map_err(|error| wrong(format!("the body is not as it should be: {error}")))?;
    if !TTL_SECONDS.contains(&ttl_seconds) {
        let hint = "a lease lasts from 1 s to 3600 s";
        return Err(wrong(format!("a TTL of {ttl_seconds} s")).hint(hint));
    }
    let ttl = Duration::from_secs_f64(ttl_seconds);
    agent
        .ask(|reply| Command::Register {
            service,
            backend,
            ttl,
            weight,
            by: Actor::at(peer.0),
            reply,
        })
        .await
        .map(Json)
}

async fn leave(
    State((agent, guard)): Shared,
    Extension(peer): Extension<Peer>,
    Path((service, address)): Path<(String, String)>,
) -> Result<Json<Leaving>, ApiError> {
    let backend = guard.backend(peer, &address)?;
    let by = Actor::at(peer.0);
    agent.ask(|reply| Command::Leave { service, backend, by, reply }).await.map(Json)
}

async fn nothing() -> ApiError {
    ApiError::new(ErrorKind::NotFound, "registrations are all that is here")
}

impl Guard {
    /// The backend that a request is about: as a rule whoever sends it.
    fn backend(&self, Peer(peer): Peer, address: &str) -> Result<BackendKey, ApiError> {
        let backend: BackendKey = address.parse().map_err(|error: crate::model::TextError| {
            ApiError::new(ErrorKind::Invalid, error.message).hint(error.allowed)
        })?;
        if !self.any_address && backend.address != peer {
            let message = format!("{peer} may not register {}", backend.address);
            return Err(ApiError::new(ErrorKind::Forbidden, message).hint(
                "register from that address, or set any_address = true in the agent's \
                 [api.register]",
            ));
        }
        Ok(backend)
    }
}
