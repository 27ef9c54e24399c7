//! An HTTP request that passes by its response (RFC 9110), with or without TLS.

use std::{error::Error, pin::pin};

use http_body_util::{BodyExt, Empty};
use hyper::{
    HeaderMap, Request, Response, Version,
    body::{Bytes, Incoming},
    client::conn::{http1, http2},
    header::{ACCEPT, CONNECTION, HOST, USER_AGENT},
};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};

use super::{
    Clock, Failure, FirstWord, Means, Reach, connect,
    excerpt::excerpt,
    tasks::{HEADERS_MAX, h2},
    tls,
};
use crate::config::{Alpn, ExpectedHeader, HttpProbe, Method};

/// Bytes of the body that are waited for; what comes after doesn't matter.
const BODY_MAX: usize = 64 * 1024;

/// Longest load report that is handed on.
const LOAD_MAX: usize = 4096;

/// What asks on behalf of this program.
pub(super) const AGENT: &str = concat!("xlb/", env!("CARGO_PKG_VERSION"));

/// What came of a request.
pub(super) struct Seen {
    pub(super) result: Result<String, Failure>,
    /// The header `endpoint-load-metrics` of the response, whatever else is wrong with that.
    pub(super) load: Option<String>,
}

impl HttpProbe {
    /// Passes when the status is an expected one, the header is there, and the body arrives (whole
    /// or its first [`BODY_MAX`] bytes) and holds what it should. An unexpected status or header
    /// fails at once, whatever the body does. Redirects are answers: they are not followed.
    pub(super) async fn run(&self, reach: Reach<'_>, clock: &Clock, means: &Means) -> Seen {
        let mut load = None;
        let result = self.try_run(reach, clock, means, &mut load).await;
        Seen { result, load }
    }

    async fn try_run(
        &self,
        reach: Reach<'_>,
        clock: &Clock,
        means: &Means,
        load: &mut Option<String>,
    ) -> Result<String, Failure> {
        let stream = connect(reach, FirstWord::Probe, clock).await?;
        let Some(tls) = &self.tls else { return self.over_1(stream, reach, clock, load).await };
        let stream = tls::wrap(stream, tls, reach, &means.tls, clock).await?;
        match stream.get_ref().1.alpn_protocol() {
            Some(b"h2") => self.over_2(stream, reach, clock, load).await,
            None if tls.alpn == [Alpn::H2] => {
                Err(Failure::Backend("the server doesn't speak HTTP/2: it has no ALPN".to_owned()))
            }
            _ => self.over_1(stream, reach, clock, load).await,
        }
    }

    async fn over_1<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(
        &self,
        stream: S,
        reach: Reach<'_>,
        clock: &Clock,
        load: &mut Option<String>,
    ) -> Result<String, Failure> {
        let (mut sender, connection) = http1::Builder::new()
            .max_buf_size(HEADERS_MAX)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(Failure::backend)?;
        let request = self.request(reach, Version::HTTP_11)?;
        let mut exchange = pin!(async {
            self.judge(clock.limit(WAITING, sender.send_request(request)).await?, clock, load).await
        });
        // The exchange gets nowhere unless the connection is driven; once the connection is over, the
        // exchange knows how it ended.
        tokio::select! {
            outcome = &mut exchange => outcome,
            _ = connection => exchange.await,
        }
    }

    async fn over_2<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(
        &self,
        stream: S,
        reach: Reach<'_>,
        clock: &Clock,
        load: &mut Option<String>,
    ) -> Result<String, Failure> {
        let (builder, _tasks) = h2();
        let (mut sender, connection): (http2::SendRequest<Empty<Bytes>>, _) = clock
            .limit("greeting over HTTP/2", builder.handshake(TokioIo::new(stream)))
            .await?
            .map_err(|error| Failure::Backend(format!("no HTTP/2: {}", describe(&error))))?;
        let request = self.request(reach, Version::HTTP_2)?;
        let mut exchange = pin!(async {
            self.judge(clock.limit(WAITING, sender.send_request(request)).await?, clock, load).await
        });
        tokio::select! {
            outcome = &mut exchange => outcome,
            _ = connection => exchange.await,
        }
    }

    fn request(
        &self,
        reach: Reach<'_>,
        version: Version,
    ) -> Result<Request<Empty<Bytes>>, Failure> {
        let host = self.host.clone().unwrap_or_else(|| reach.target().to_string());
        let request = Request::builder()
            .method(self.method.word())
            .header(USER_AGENT, AGENT)
            .header(ACCEPT, "*/*");
        let request = match version {
            Version::HTTP_2 => request.uri(format!("https://{host}{}", self.path)),
            _ => request.uri(&self.path).header(HOST, host).header(CONNECTION, "close"),
        };
        request.body(Empty::new()).map_err(|error| {
            Failure::Local(format!("{} {}: {error}", self.method.word(), self.path))
        })
    }

    async fn judge(
        &self,
        response: hyper::Result<Response<Incoming>>,
        clock: &Clock,
        load: &mut Option<String>,
    ) -> Result<String, Failure> {
        let response = response
            .map_err(|error| Failure::Backend(format!("no HTTP response: {}", describe(&error))))?;
        *load = endpoint_load(response.headers());
        let status = response.status();
        if !self.expect_status.iter().any(|range| range.contains(status.as_u16())) {
            let expected: Vec<_> = self.expect_status.iter().map(ToString::to_string).collect();
            let expected = expected.join(", ");
            return Err(Failure::Backend(format!("status {status}, expected {expected}")));
        }
        if let Some(expected) = &self.expect_header {
            look_for(expected, response.headers())
                .map_err(|seen| Failure::Backend(format!("status {status}, but {seen}")))?;
        }
        if self.method == Method::Head {
            return Ok(format!("status {status}"));
        }
        let mut body = response.into_body();
        let mut received = Vec::new();
        let mut length = 0;
        while length < BODY_MAX {
            let Some(frame) = clock.limit("reading the body", body.frame()).await? else { break };
            let frame = frame.map_err(|error| {
                Failure::Backend(format!(
                    "status {status}, but the body broke off: {}",
                    describe(&error)
                ))
            })?;
            let data = frame.data_ref().map_or(&[][..], Bytes::as_ref);
            length += data.len();
            if self.expect_body.is_some() {
                received.extend_from_slice(data);
            }
        }
        received.truncate(BODY_MAX);
        if let Some(expected) = &self.expect_body
            && !holds(&received, expected.as_bytes())
        {
            return Err(Failure::Backend(format!(
                "status {status}, but the body doesn't hold {}; it begins with {}",
                excerpt(expected.as_bytes()),
                excerpt(&received)
            )));
        }
        Ok(format!("status {status}"))
    }
}

const WAITING: &str = "waiting for the response";

/// Whether `part` stands somewhere in `whole`.
pub(super) fn holds(whole: &[u8], part: &[u8]) -> bool {
    memchr::memmem::find(whole, part).is_some()
}

/// The load report, where there is one of a reasonable length (ORCA, envoyproxy/envoy#6614).
fn endpoint_load(headers: &HeaderMap) -> Option<String> {
    let value = headers.get("endpoint-load-metrics")?;
    value.to_str().ok().filter(|text| text.len() <= LOAD_MAX).map(str::to_owned)
}

/// What is wrong with a header that is expected.
fn look_for(expected: &ExpectedHeader, headers: &HeaderMap) -> Result<(), String> {
    let mut values = headers.get_all(&expected.name).iter().peekable();
    let Some(first) = values.peek().copied() else {
        return Err(format!("there is no header {}", expected.name));
    };
    match &expected.value {
        Some(value) if !values.any(|found| found.as_bytes() == value.as_bytes()) => Err(format!(
            "the header {} is {}, expected {}",
            expected.name,
            excerpt(first.as_bytes()),
            excerpt(value.as_bytes())
        )),
        _ => Ok(()),
    }
}

/// The error with what caused it, which hyper leaves out.
pub(super) fn describe(error: &hyper::Error) -> String {
    match error.source() {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}
