//! HTTP requests over connections of their own.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::{Method, Request};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::{Served, block_on};
use crate::netns::Namespace;
use crate::servers::{content, digest};

/// How long a request may take, unless said otherwise: a lost SYN is sent again after 1 s and 3 s.
const PATIENCE: Duration = Duration::from_secs(10);

/// Sends `requests` GET requests, each over a connection (so, a source port) of its own, that
/// many at a time, and counts who answered.
///
/// # Errors
/// The namespace can't be entered; requests that fail are counted instead.
pub fn load(
    from: &Namespace,
    target: SocketAddr,
    requests: usize,
    at_a_time: usize,
) -> Result<Served> {
    block_on(from, async move {
        let mut served = Served::default();
        let mut running = JoinSet::new();
        for _ in 0..requests {
            if running.len() >= at_a_time
                && let Some(ended) = running.join_next().await
            {
                served.count(ended.context("a request panicked")?);
            }
            running.spawn(name(target, PATIENCE));
        }
        while let Some(ended) = running.join_next().await {
            served.count(ended.context("a request panicked")?);
        }
        Ok(served)
    })
}

/// Asks once, over a new connection, who is there.
///
/// # Errors
/// No right answer within `patience`.
pub fn ask(from: &Namespace, target: SocketAddr, patience: Duration) -> Result<String> {
    block_on(from, name(target, patience))
}

/// Downloads that many bytes and compares their digest with the one they should have.
///
/// # Errors
/// Another status than 200, other bytes, or not done within `patience`.
pub fn download(
    from: &Namespace,
    target: SocketAddr,
    bytes: usize,
    patience: Duration,
) -> Result<()> {
    let path = format!("/content/{bytes}");
    let body = block_on(from, request(target, Method::GET, path, Bytes::new(), patience))?;
    ensure!(body.len() == bytes, "{} of {bytes} bytes arrived", body.len());
    ensure!(digest(&body) == digest(&content(bytes)), "the bytes changed on the way");
    Ok(())
}

/// Uploads that many bytes; the server must see the digest that they have.
///
/// # Errors
/// Another status than 200, other bytes, or not done within `patience`.
pub fn upload(
    from: &Namespace,
    target: SocketAddr,
    bytes: usize,
    patience: Duration,
) -> Result<()> {
    let sent = content(bytes);
    let expected = digest(&sent);
    let body =
        block_on(from, request(target, Method::PUT, "/digest".into(), sent.into(), patience))?;
    ensure!(body == expected.as_bytes(), "the bytes changed on the way");
    Ok(())
}

/// The server's name, over a new connection.
pub(super) async fn name(target: SocketAddr, patience: Duration) -> Result<String> {
    let body = request(target, Method::GET, "/".into(), Bytes::new(), patience).await?;
    String::from_utf8(body.into()).context("the server's name isn't text")
}

async fn request(
    target: SocketAddr,
    method: Method,
    path: String,
    body: Bytes,
    patience: Duration,
) -> Result<Bytes> {
    let what = format!("{method} http://{target}{path}");
    let answer = async {
        let mut sender = connect(target).await?;
        send(&mut sender, target, method, &path, body).await
    };
    let answer = timeout(patience, answer).await;
    answer.with_context(|| format!("{what}: no answer within {patience:?}"))?.context(what)
}

pub(super) async fn connect(target: SocketAddr) -> Result<SendRequest<Full<Bytes>>> {
    let stream = TcpStream::connect(target).await.context("connect")?;
    stream.set_nodelay(true).context("set TCP_NODELAY")?;
    let (sender, connection) = handshake(TokioIo::new(stream)).await?;
    // It ends with the sender; its errors come back by the request.
    tokio::spawn(connection);
    Ok(sender)
}

pub(super) async fn send(
    sender: &mut SendRequest<Full<Bytes>>,
    target: SocketAddr,
    method: Method,
    path: &str,
    body: Bytes,
) -> Result<Bytes> {
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header("host", target.to_string())
        .body(Full::new(body))
        .context("make the request")?;
    let response = sender.send_request(request).await.context("send the request")?;
    let status = response.status();
    ensure!(status.is_success(), "the server said {status}");
    Ok(response.into_body().collect().await.context("read the answer")?.to_bytes())
}
