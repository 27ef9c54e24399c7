//! `grpc.health.v1.Health/Check` (github.com/grpc/grpc, doc/health-checking.md), over HTTP/2.
//!
//! Its two messages have one field each, so they are written and read here:
//! `HealthCheckRequest { string service = 1; }` and
//! `HealthCheckResponse { ServingStatus status = 1; }`.

use std::pin::pin;

use http_body_util::{BodyExt, Full};
use hyper::{
    HeaderMap, Request, Response, StatusCode,
    body::{Bytes, Incoming},
    client::conn::http2,
    header::{CONTENT_TYPE, TE, USER_AGENT},
};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};

use super::{
    Clock, Failure, FirstWord, Means, Reach, connect,
    excerpt::excerpt,
    http::{AGENT, describe},
    tasks::h2,
    tls,
};
use crate::config::GrpcProbe;

/// Most bytes of an answer: a health response has two, behind five of framing.
const ANSWER_MAX: usize = 4096;

const PATH: &str = "/grpc.health.v1.Health/Check";

impl GrpcProbe {
    /// Passes when the status is SERVING.
    pub(super) async fn run(
        &self,
        reach: Reach<'_>,
        clock: &Clock,
        means: &Means,
    ) -> Result<String, Failure> {
        let stream = connect(reach, FirstWord::Probe, clock).await?;
        let Some(tls) = &self.tls else { return self.call(stream, reach, clock).await };
        let stream = tls::wrap(stream, tls, reach, &means.tls, clock).await?;
        if stream.get_ref().1.alpn_protocol() != Some(b"h2") {
            return Err(Failure::Backend(
                "the server doesn't speak HTTP/2: its ALPN has no h2".to_owned(),
            ));
        }
        self.call(stream, reach, clock).await
    }

    async fn call<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(
        &self,
        stream: S,
        reach: Reach<'_>,
        clock: &Clock,
    ) -> Result<String, Failure> {
        let (builder, _tasks) = h2();
        let (mut sender, connection): (http2::SendRequest<Full<Bytes>>, _) = clock
            .limit("greeting over HTTP/2", builder.handshake(TokioIo::new(stream)))
            .await?
            .map_err(|error| Failure::Backend(format!("no HTTP/2: {}", describe(&error))))?;
        let host = self.host.clone().unwrap_or_else(|| reach.target().to_string());
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        let request = Request::post(format!("{scheme}://{host}{PATH}"))
            .header(CONTENT_TYPE, "application/grpc")
            .header(TE, "trailers")
            .header(USER_AGENT, AGENT)
            .body(Full::new(request(&self.service).into()))
            .map_err(|error| Failure::Local(format!("POST {PATH}: {error}")))?;
        let mut exchange = pin!(async {
            let response = clock.limit("waiting for the response", sender.send_request(request));
            let response = response.await?.map_err(|error| {
                Failure::Backend(format!("no gRPC response: {}", describe(&error)))
            })?;
            judge(response, clock).await
        });
        tokio::select! {
            outcome = &mut exchange => outcome,
            _ = connection => exchange.await,
        }
    }
}

async fn judge(response: Response<Incoming>, clock: &Clock) -> Result<String, Failure> {
    let status = response.status();
    let grpc = response
        .headers()
        .get(CONTENT_TYPE)
        .is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc"));
    if status != StatusCode::OK || !grpc {
        let kind = response.headers().get(CONTENT_TYPE).map_or(&b""[..], |kind| kind.as_bytes());
        let kind = excerpt(kind);
        return Err(Failure::Backend(format!("not gRPC: status {status}, content-type {kind}")));
    }
    // An error without a message has its status in the only header section there is.
    if let Some(failed) = failed(response.headers()) {
        return Err(Failure::Backend(failed));
    }
    let mut body = response.into_body();
    let mut message = Vec::new();
    let mut trailers = None;
    while let Some(frame) = clock.limit("reading the answer", body.frame()).await? {
        let frame = frame.map_err(|error| {
            Failure::Backend(format!("the answer broke off: {}", describe(&error)))
        })?;
        match frame.into_data() {
            Ok(data) => message.extend_from_slice(&data),
            Err(frame) => trailers = frame.into_trailers().ok(),
        }
        if message.len() > ANSWER_MAX {
            return Err(Failure::Backend(format!(
                "no health response: more than {ANSWER_MAX} bytes"
            )));
        }
    }
    match &trailers {
        None => return Err(Failure::Backend("the answer ends without a grpc-status".to_owned())),
        Some(trailers) => {
            if let Some(failed) = failed(trailers) {
                return Err(Failure::Backend(failed));
            }
        }
    }
    match health(&message) {
        Some(1) => Ok("SERVING".to_owned()),
        Some(other) => {
            let word = match other {
                0 => "UNKNOWN",
                2 => "NOT_SERVING",
                3 => "SERVICE_UNKNOWN",
                _ => return Err(Failure::Backend(format!("the unknown status {other}"))),
            };
            Err(Failure::Backend(word.to_owned()))
        }
        None => Err(Failure::Backend(format!(
            "the answer is no health response: {}",
            excerpt(&message)
        ))),
    }
}

/// The names of grpc-status, by number (google.rpc.Code).
const CODES: [&str; 17] = [
    "OK",
    "CANCELLED",
    "UNKNOWN",
    "INVALID_ARGUMENT",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "ABORTED",
    "OUT_OF_RANGE",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
    "DATA_LOSS",
    "UNAUTHENTICATED",
];

/// What a grpc-status says, if it is there and not OK.
fn failed(headers: &HeaderMap) -> Option<String> {
    let status = headers.get("grpc-status")?;
    let number: Option<usize> = status.to_str().ok().and_then(|text| text.parse().ok());
    let told = match number {
        Some(0) => return None,
        Some(number) => match CODES.get(number) {
            Some(word) => format!("grpc-status {number} ({word})"),
            None => format!("grpc-status {number}"),
        },
        None => format!("grpc-status {}", excerpt(status.as_bytes())),
    };
    match headers.get("grpc-message") {
        Some(message) if !message.is_empty() => {
            let message: Vec<u8> = percent_encoding::percent_decode(message.as_bytes()).collect();
            Some(format!("{told}: {}", excerpt(&message)))
        }
        _ => Some(told),
    }
}

/// The request with its frame: not compressed, the message's length, the message.
fn request(service: &str) -> Vec<u8> {
    // The config bounds the service's name to 255 bytes.
    let length = service.len();
    let mut message = Vec::new();
    if length > 0 {
        message.push(0x0a);
        if length >= 0x80 {
            message.push((length & 0x7f) as u8 | 0x80);
            message.push((length >> 7) as u8);
        } else {
            message.push(length as u8);
        }
        message.extend_from_slice(service.as_bytes());
    }
    let mut frame = vec![0];
    frame.extend_from_slice(&(message.len() as u32).to_be_bytes());
    frame.append(&mut message);
    frame
}

/// The serving status of a framed response; `None` where it isn't one. Fields that a newer
/// version adds are passed over.
fn health(frame: &[u8]) -> Option<u64> {
    let (head, mut message) = frame.split_at_checked(5)?;
    let length = u32::from_be_bytes(head[1..].try_into().ok()?);
    if head[0] != 0 || message.len() != length as usize {
        return None;
    }
    let mut status = 0;
    while !message.is_empty() {
        let key = varint(&mut message)?;
        match (key >> 3, key & 7) {
            (1, 0) => status = varint(&mut message)?,
            (0, _) => return None,
            (_, 0) => drop(varint(&mut message)?),
            (_, 1) => message = message.get(8..)?,
            (_, 2) => {
                let length = usize::try_from(varint(&mut message)?).ok()?;
                message = message.get(length..)?;
            }
            (_, 5) => message = message.get(4..)?,
            _ => return None,
        }
    }
    Some(status)
}

/// A number in protobuf's variable length; moves on.
fn varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (&byte, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_framed() {
        assert_eq!(request(""), [0, 0, 0, 0, 0]);
        assert_eq!(request("ab"), [0, 0, 0, 0, 4, 0x0a, 2, b'a', b'b']);
        let long = request(&"x".repeat(255));
        assert_eq!(long[..8], [0, 0, 0, 1, 2, 0x0a, 0xff, 1]);
        assert_eq!(long.len(), 5 + 258);
    }

    #[test]
    fn responses_are_read() {
        for (message, status) in [
            (&[][..], Some(0)),
            (&[8, 1], Some(1)),
            (&[8, 2], Some(2)),
            (&[0x12, 2, 9, 9, 8, 1], Some(1)),
            (&[0x19, 0, 0, 0, 0, 0, 0, 0, 0, 8, 3], Some(3)),
            (&[0x1d, 0, 0, 0, 0, 8, 1, 0x20, 0xff, 1], Some(1)),
            (&[8], None),
            (&[8, 0x80], None),
            (&[0x12, 200, 1], None),
            (&[0x12, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1], None),
            (&[0, 1], None),
            (&[0x0b], None),
            (&[8, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1], None),
        ] {
            let mut frame = vec![0, 0, 0, 0, message.len() as u8];
            frame.extend_from_slice(message);
            assert_eq!(health(&frame), status, "{message:?}");
            // A compressed one, one that is cut off, one with more behind it.
            assert_eq!(health(&[&[1], &frame[1..]].concat()), None);
            assert_eq!(health(&frame[..frame.len() - 1]), None);
            assert_eq!(health(&[&frame[..], &[0]].concat()), None);
        }
    }
}
