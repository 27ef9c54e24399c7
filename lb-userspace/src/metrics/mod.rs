//! Metrics for Prometheus: `/metrics` in the OpenMetrics text format, rendered afresh from what the
//! agent says.
//!
//! The names are an interface; `docs` and dashboards rely on them.

mod render;
#[cfg(test)]
mod tests;

use std::{io, net::SocketAddr};

use axum::{
    Router, extract::State, http::header::CONTENT_TYPE, response::IntoResponse, routing::get,
};
use thiserror::Error;
use tokio::net::TcpListener;

use crate::api::{AgentHandle, ApiError, Command, serve};

pub use render::render;

const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Metrics can't be served.
#[derive(Debug, Error)]
#[error(
    "can't serve metrics on {address}: {source}; set another `[api] metrics` address, or leave it \
     out for none"
)]
pub struct MetricsError {
    address: SocketAddr,
    source: io::Error,
}

/// A place where metrics are served.
#[derive(Debug)]
pub struct MetricsServer {
    listener: TcpListener,
}

impl MetricsServer {
    /// Listens on `address`.
    ///
    /// # Errors
    /// The kernel refuses.
    pub async fn bind(address: SocketAddr) -> Result<Self, MetricsError> {
        let listener = TcpListener::bind(address).await;
        let listener = listener.map_err(|source| MetricsError { address, source })?;
        Ok(Self { listener })
    }

    /// Where it listens: with the port that the kernel chose, where 0 was asked for.
    #[cfg(test)]
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Serves `/metrics` until `stop` is done.
    pub async fn serve(mut self, handle: AgentHandle, stop: impl Future<Output = ()>) {
        let router = Router::new().route("/metrics", get(metrics)).with_state(handle);
        serve::on_listener(&mut self.listener, router, stop).await;
    }
}

async fn metrics(State(agent): State<AgentHandle>) -> Result<impl IntoResponse, ApiError> {
    let status = agent.ask(Command::Status).await?;
    let stats = agent.ask(Command::Stats).await?;
    Ok(([(CONTENT_TYPE, OPEN_METRICS)], render(&status, &stats, &agent.events.totals())))
}
