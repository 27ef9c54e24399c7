//! An HTTP/1.1 server that names itself in every answer.
//!
//! | request | answer |
//! |---|---|
//! | `GET /` | its name |
//! | `GET /healthz` | 200 or 503 |
//! | `GET /content/<n>` | the first n bytes of [`content`] |
//! | `PUT /digest` | SHA-256 of the request's body, in hexadecimal |

use std::convert::Infallible;
use std::fmt::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::Result;
use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::header::HeaderValue;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use sha2::{Digest, Sha256};
use tokio::net::TcpListener;

/// The header that carries the server's name.
pub const ANSWERED_BY: &str = "x-answered-by";

/// Bytes without repetition, the same for client and server.
pub fn content(length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    fastrand::Rng::with_seed(0x786c_6221).fill(&mut bytes);
    bytes
}

/// SHA-256 in hexadecimal.
pub fn digest(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().fold(String::new(), |mut text, byte| {
        // Writing to a string can't fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// Accepts and answers until its future is dropped.
pub(super) async fn serve(
    listener: TcpListener,
    name: &str,
    healthy: &Arc<AtomicBool>,
) -> Result<()> {
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let (name, healthy) = (name.to_owned(), Arc::clone(healthy));
        let service = service_fn(move |request| {
            let (name, healthy) = (name.clone(), healthy.load(Ordering::Relaxed));
            async move { Ok::<_, Infallible>(named(answer(request, &name, healthy).await, &name)) }
        });
        tokio::spawn(async move {
            // A connection that breaks is counted by the client, which knows what it expected.
            let _ = hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(stream), service)
                .await;
        });
    }
}

async fn answer(request: Request<Incoming>, name: &str, healthy: bool) -> Response<Full<Bytes>> {
    let path = request.uri().path().to_owned();
    let length = path.strip_prefix("/content/").and_then(|length| length.parse().ok());
    match (request.method(), path.as_str(), length) {
        (&Method::GET, "/", _) => say(StatusCode::OK, name.to_owned()),
        (&Method::GET, "/healthz", _) if healthy => say(StatusCode::OK, "well"),
        (&Method::GET, "/healthz", _) => say(StatusCode::SERVICE_UNAVAILABLE, "ill"),
        (&Method::GET, _, Some(length)) => say(StatusCode::OK, content(length)),
        (&Method::PUT, "/digest", _) => match request.into_body().collect().await {
            Ok(body) => say(StatusCode::OK, digest(&body.to_bytes())),
            Err(error) => say(StatusCode::BAD_REQUEST, error.to_string()),
        },
        _ => say(StatusCode::NOT_FOUND, "no such page"),
    }
}

fn say(status: StatusCode, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    response
}

fn named(mut response: Response<Full<Bytes>>, name: &str) -> Response<Full<Bytes>> {
    if let Ok(name) = HeaderValue::from_str(name) {
        response.headers_mut().insert(ANSWERED_BY, name);
    }
    response
}
