//! HTTP/1.1 connections, with limits: for the control API and for the metrics.

use std::{sync::Arc, time::Duration};

use axum::{Extension, Router, serve::Listener};
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokio::{
    net::UnixStream,
    sync::Semaphore,
    task::JoinSet,
    time::{sleep, timeout},
};

use super::{actor::Peer, socket::ControlSocket};

/// Connections at a time; more wait in the kernel's backlog.
pub(super) const CONNECTIONS_MAX: usize = 64;

/// How long a request's head may take.
const HEAD_PATIENCE: Duration = Duration::from_secs(5);

/// How long a connection may last, which serves one request.
const CONNECTION_PATIENCE: Duration = Duration::from_secs(75);

/// How long requests under way may take when the server ends.
const FAREWELL: Duration = Duration::from_secs(1);

/// Serves the control API until `stop` is done; then the socket's name goes.
pub async fn on_socket(mut socket: ControlSocket, router: Router, stop: impl Future<Output = ()>) {
    let router = |stream: &UnixStream| match Peer::at(stream) {
        Some(peer) => router.clone().layer(Extension(peer)),
        None => router.clone(),
    };
    accept(&mut socket.listener, router, stop).await;
}

/// Serves `router` on `listener` until `stop` is done.
pub async fn on_listener<L: Listener>(
    listener: &mut L,
    router: Router,
    stop: impl Future<Output = ()>,
) {
    accept(listener, |_| router.clone(), stop).await;
}

/// Serves each connection by the router that is made for it.
async fn accept<L: Listener>(
    listener: &mut L,
    router: impl Fn(&L::Io) -> Router,
    stop: impl Future<Output = ()>,
) {
    let permits = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let mut connections = JoinSet::new();
    let accepting = async {
        loop {
            // The semaphore is never closed.
            let Ok(permit) = Arc::clone(&permits).acquire_owned().await else { return };
            let (io, _) = listener.accept().await;
            let service = TowerToHyperService::new(router(&io));
            connections.spawn(async move {
                let connection = http1::Builder::new()
                    .timer(TokioTimer::new())
                    .header_read_timeout(HEAD_PATIENCE)
                    .keep_alive(false)
                    .serve_connection(TokioIo::new(io), service);
                // How a client's connection ends is the client's business.
                let _ = timeout(CONNECTION_PATIENCE, connection).await;
                drop(permit);
            });
            while connections.try_join_next().is_some() {}
        }
    };
    tokio::select! {
        () = accepting => {}
        () = stop => {}
    }
    tokio::select! {
        () = async { while connections.join_next().await.is_some() {} } => {}
        () = sleep(FAREWELL) => {}
    }
}
