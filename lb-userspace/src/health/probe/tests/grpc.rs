//! The gRPC health service, its errors, and what is no gRPC at all.

use std::{convert::Infallible, net::Ipv4Addr};

use http_body_util::{BodyExt, Full, StreamBody, combinators::BoxBody};
use hyper::{
    HeaderMap, Request, Response,
    body::{Bytes, Frame, Incoming},
    header::{HeaderName, HeaderValue},
    server::conn::http2,
    service::service_fn,
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio_rustls::TlsAcceptor;

use super::*;
use crate::config::GrpcProbe;

type Body = BoxBody<Bytes, Infallible>;

/// A body with trailers.
pub(super) fn answer(message: &[u8], trailers: &[(&'static str, &str)]) -> Body {
    let data = Frame::data(Bytes::copy_from_slice(message));
    let mut frames = vec![Ok(data)];
    if !trailers.is_empty() {
        frames.push(Ok(Frame::trailers(headers(trailers))));
    }
    BodyExt::boxed(StreamBody::new(futures_util::stream::iter(frames)))
}

fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
    let pair = |(name, value): &(&'static str, &str)| {
        (HeaderName::from_static(name), HeaderValue::from_str(value).unwrap())
    };
    pairs.iter().map(pair).collect()
}

/// Answers every call alike.
async fn serve(
    respond: impl Fn(Request<Bytes>) -> Response<Body> + Clone + Send + Sync + 'static,
) -> SocketAddr {
    let (listener, target) = listen(Ipv4Addr::LOCALHOST).await;
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.expect("a connection");
            tokio::spawn(talk(stream, respond.clone()));
        }
    });
    target
}

/// As [`serve`], over TLS.
pub(super) async fn serve_over(
    acceptor: TlsAcceptor,
    respond: impl Fn(Request<Bytes>) -> Response<Body> + Clone + Send + Sync + 'static,
) -> SocketAddr {
    let (listener, target) = listen(Ipv4Addr::LOCALHOST).await;
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.expect("a connection");
            if let Ok(stream) = acceptor.accept(stream).await {
                tokio::spawn(talk(stream, respond.clone()));
            }
        }
    });
    target
}

async fn talk<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(
    stream: S,
    respond: impl Fn(Request<Bytes>) -> Response<Body> + Clone + Send + Sync + 'static,
) {
    let service = service_fn(move |request: Request<Incoming>| {
        let respond = respond.clone();
        async move {
            let (head, body) = request.into_parts();
            let body = body.collect().await.expect("a request").to_bytes();
            Ok::<_, Infallible>(respond(Request::from_parts(head, body)))
        }
    });
    // The prober hangs up when it has seen enough.
    let _ = http2::Builder::new(TokioExecutor::new())
        .serve_connection(TokioIo::new(stream), service)
        .await;
}

fn grpc(service: &str) -> ActiveCheck {
    check(Probe::Grpc(GrpcProbe { tls: None, service: service.to_owned(), host: None }))
}

/// A response of the health service, as its parts on the wire.
fn response(message: &[u8], trailers: &[(&'static str, &str)]) -> Response<Body> {
    let mut response = Response::new(answer(message, trailers));
    *response.headers_mut() = headers(&[("content-type", "application/grpc+proto")]);
    response
}

#[tokio::test]
async fn serving_passes_and_nothing_else() {
    for (status, fragment) in [
        (0, "UNKNOWN"),
        (1, ""),
        (2, "NOT_SERVING"),
        (3, "SERVICE_UNKNOWN"),
        (4, "the unknown status 4"),
    ] {
        let message = [0, 0, 0, 0, 2, 8, status];
        let target = serve(move |_| response(&message, &[("grpc-status", "0")])).await;
        let outcome = probe(target, grpc("")).await;
        match status {
            1 => assert_eq!(outcome, Outcome::Passed("SERVING".to_owned())),
            _ => assert_failed(&outcome, fragment),
        }
    }
}

#[tokio::test]
async fn the_call_is_the_services() {
    let target = serve(|request| {
        let good = request.uri().path() == "/grpc.health.v1.Health/Check"
            && request.uri().authority().is_some_and(|host| host.host() == "127.0.0.1")
            && request.headers()["content-type"] == "application/grpc"
            && request.headers()["te"] == "trailers"
            && request.body()[..] == *b"\0\0\0\0\x06\x0a\x04shop";
        response(&[0, 0, 0, 0, 2, 8, if good { 1 } else { 2 }], &[("grpc-status", "0")])
    })
    .await;
    assert_passed(&probe(target, grpc("shop")).await);
    assert_failed(&probe(target, grpc("shopp")).await, "NOT_SERVING");
}

#[tokio::test]
async fn errors_are_told_by_name() {
    // In the only header section.
    let target = serve(|_| {
        let mut response = Response::new(BodyExt::boxed(Full::new(Bytes::new())));
        *response.headers_mut() = headers(&[
            ("content-type", "application/grpc"),
            ("grpc-status", "12"),
            ("grpc-message", "unknown service grpc.health.v1.Health%1b"),
        ]);
        response
    })
    .await;
    let unimplemented =
        r#"grpc-status 12 (UNIMPLEMENTED): "unknown service grpc.health.v1.Health\u{1b}""#;
    assert_failed(&probe(target, grpc("")).await, unimplemented);
    for (trailers, fragment) in [
        (&[("grpc-status", "5")][..], "grpc-status 5 (NOT_FOUND)"),
        (&[("grpc-status", "99")], "grpc-status 99"),
        (&[("grpc-status", "x")], "grpc-status \"x\""),
        (&[], "ends without a grpc-status"),
    ] {
        let target = serve(move |_| response(&[0, 0, 0, 0, 2, 8, 1], trailers)).await;
        assert_failed(&probe(target, grpc("")).await, fragment);
    }
}

#[tokio::test]
async fn what_is_no_health_response_is_told() {
    let huge = vec![0; 1024 * 1024];
    for (message, fragment) in [
        (&b""[..], "no health response"),
        (&[1, 0, 0, 0, 2, 8, 1], "no health response"),
        (&[0, 0, 0, 0, 9, 8, 1], "no health response"),
        (&huge, "more than 4096 bytes"),
    ] {
        let message = message.to_vec();
        let target = serve(move |_| response(&message, &[("grpc-status", "0")])).await;
        assert_failed(&probe(target, grpc("")).await, fragment);
    }
    let target = serve(|_| {
        let mut response = Response::new(answer(b"<html>", &[]));
        *response.headers_mut() = headers(&[("content-type", "text/html")]);
        response
    })
    .await;
    let seen = r#"not gRPC: status 200 OK, content-type "text/html""#;
    assert_failed(&probe(target, grpc("")).await, seen);
}

/// Servers that don't speak HTTP/2, or begin and don't go on.
#[tokio::test]
async fn what_is_no_http2_is_told_in_time() {
    let (listener, target) = listen(Ipv4Addr::LOCALHOST).await;
    tokio::spawn(async move {
        let mut kept = Vec::new();
        let settings = [0, 0, 0, 4, 0, 0, 0, 0, 0];
        let endless = [0, 0, 8, 6, 0, 0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8].repeat(64);
        for answer in
            [&b"HTTP/1.1 400 Bad Request\r\n\r\n"[..], b"", &settings, &[0xff; 64], &endless]
        {
            let (mut stream, _) = listener.accept().await.expect("a connection");
            let _ = stream.read(&mut [0; 4096]).await;
            let _ = stream.write_all(answer).await;
            if !answer.is_empty() {
                kept.push(stream);
            }
        }
    });
    let ask = || probe(target, ActiveCheck { timeout: SHORT, ..grpc("") });
    assert_failed(&ask().await, "no gRPC response");
    assert_failed(&ask().await, "no gRPC response");
    assert_failed(&ask().await, "timed out after 200ms while waiting for the response");
    assert_failed(&ask().await, "no gRPC response");
    assert_failed(&ask().await, "");
}
