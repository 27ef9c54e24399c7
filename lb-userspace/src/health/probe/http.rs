//! An HTTP/1.1 GET that passes by its status (RFC 9110).

use std::{error::Error, pin::pin};

use http_body_util::{BodyExt, Empty};
use hyper::{
    Request, Response,
    body::{Bytes, Incoming},
    client::conn::http1,
    header::{ACCEPT, CONNECTION, HOST, USER_AGENT},
};
use hyper_util::rt::TokioIo;

use super::{Clock, Failure, Reach, connect};
use crate::config::StatusRange;

/// Longest header section in bytes that is read.
const HEADERS_MAX: usize = 64 * 1024;

/// Bytes of the body that are waited for; what comes after doesn't matter.
const BODY_MAX: usize = 64 * 1024;

/// What is asked, without TLS; redirects are answers, they are not followed.
pub(super) struct Get<'a> {
    /// Path and query, from `/` on.
    pub(super) path: &'a str,
    /// The Host header; `None` is where the probe goes.
    pub(super) host: Option<&'a str>,
    /// Statuses that pass.
    pub(super) expect_status: &'a [StatusRange],
}

impl Get<'_> {
    /// Passes when the status is an expected one and the body arrives: whole, or its first
    /// [`BODY_MAX`] bytes. An unexpected status fails at once, whatever the body does.
    pub(super) async fn run(&self, reach: Reach, clock: &Clock) -> Result<String, Failure> {
        let host = self.host.map_or_else(|| reach.to_string(), str::to_owned);
        let stream = connect(reach, clock).await?;
        let (mut sender, connection) = http1::Builder::new()
            .max_buf_size(HEADERS_MAX)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(Failure::backend)?;
        let request = Request::get(self.path)
            .header(HOST, host)
            .header(USER_AGENT, concat!("xlb/", env!("CARGO_PKG_VERSION")))
            .header(ACCEPT, "*/*")
            .header(CONNECTION, "close")
            .body(Empty::<Bytes>::new())
            .map_err(|error| Failure::Local(format!("GET {}: {error}", self.path)))?;

        let mut exchange = pin!(async {
            let response = clock.limit("waiting for the response", sender.send_request(request));
            let response = response.await?.map_err(|error| {
                Failure::Backend(format!("no HTTP response: {}", describe(&error)))
            })?;
            self.judge(response, clock).await
        });
        // The exchange gets nowhere unless the connection is driven; once the connection is over, the
        // exchange knows how it ended.
        tokio::select! {
            outcome = &mut exchange => outcome,
            _ = connection => exchange.await,
        }
    }

    async fn judge(&self, response: Response<Incoming>, clock: &Clock) -> Result<String, Failure> {
        let status = response.status();
        if !self.expect_status.iter().any(|range| range.contains(status.as_u16())) {
            let expected: Vec<_> = self.expect_status.iter().map(ToString::to_string).collect();
            let expected = expected.join(", ");
            return Err(Failure::Backend(format!("status {status}, expected {expected}")));
        }
        let mut body = response.into_body();
        let mut received = 0;
        while received < BODY_MAX {
            let Some(frame) = clock.limit("reading the body", body.frame()).await? else { break };
            let frame = frame.map_err(|error| {
                Failure::Backend(format!(
                    "status {status}, but the body broke off: {}",
                    describe(&error)
                ))
            })?;
            received += frame.data_ref().map_or(0, Bytes::len);
        }
        Ok(format!("status {status}"))
    }
}

/// The error with what caused it, which hyper leaves out.
fn describe(error: &hyper::Error) -> String {
    match error.source() {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}
