//! Where backends register themselves: two requests over TCP, and nothing else of the API.
//!
//! Whoever can reach the address may be hostile. So a connection serves one request and lasts for
//! seconds, there are only so many at a time and by sender ([`gate`]), and before anything is read
//! of a request but its head, it must show a token or have shown a certificate.

mod gate;
mod routes;
#[cfg(test)]
mod tests;
mod tls;
mod tokens;

use std::{
    io,
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    task::JoinSet,
    time::{MissedTickBehavior, interval, sleep, timeout},
};

use crate::{api::AgentHandle, config::RegisterDoor};
use gate::Gate;
use routes::Guard;
use tls::Identity;
use tokens::Tokens;

pub use tls::{certificates, roots};

/// Connections at a time; more wait in the kernel's backlog.
const CONNECTIONS_MAX: usize = 512;
/// How long a request's head may take.
const HEAD_PATIENCE: Duration = Duration::from_secs(5);
/// How long a connection may last, from its first byte to its last.
const CONNECTION_PATIENCE: Duration = Duration::from_secs(10);
/// How long requests under way may take when the agent ends.
const FAREWELL: Duration = Duration::from_secs(1);
/// From one look at the files of tokens and certificates to the next.
const LOOK: Duration = Duration::from_secs(5);
/// After an accept that failed, for want of descriptors.
const BREATH: Duration = Duration::from_millis(100);

/// Why the door can't be opened.
#[derive(Debug, thiserror::Error)]
pub enum DoorError {
    /// The address is not to be had.
    #[error(
        "can't listen for registrations on {address}: {source}; set another `[api.register] listen`"
    )]
    Bind {
        /// The address.
        address: SocketAddr,
        /// Why not.
        source: io::Error,
    },
    /// A file is not what it should be.
    #[error("[api.register]: {0}")]
    File(String),
}

/// A listening door.
#[derive(Debug)]
pub struct Door {
    listener: TcpListener,
    tokens: Option<Tokens>,
    identity: Option<Identity>,
    any_address: bool,
}

impl Door {
    /// Listens, and reads the files.
    ///
    /// # Errors
    /// The kernel refuses the address, or a file can't be used.
    pub async fn bind(config: &RegisterDoor) -> Result<Self, DoorError> {
        let tokens = config.token_file.as_deref().map(Tokens::read).transpose();
        let identity = config.tls.as_ref().map(Identity::read).transpose();
        let address = config.listen;
        let listener = TcpListener::bind(address).await;
        Ok(Self {
            listener: listener.map_err(|source| DoorError::Bind { address, source })?,
            tokens: tokens.map_err(DoorError::File)?,
            identity: identity.map_err(DoorError::File)?,
            any_address: config.any_address,
        })
    }

    /// Where it listens.
    ///
    /// # Errors
    /// The kernel doesn't tell.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// What the operator should know of how it is set up.
    pub fn warning(&self) -> Option<String> {
        let address = self.address().ok()?;
        (self.identity.is_none() && !address.ip().is_loopback()).then(|| {
            format!(
                "registrations on {address} are plain HTTP: whoever sees the packets learns the \
                 token; set `tls_cert` and `tls_key` of [api.register] unless the network is your \
                 own"
            )
        })
    }

    /// Takes registrations until `stop` is done.
    pub async fn serve(mut self, handle: AgentHandle, stop: impl Future<Output = ()>) {
        let guard = Guard::new(self.tokens.take(), self.any_address);
        let router = routes::router(handle, Arc::clone(&guard));
        let gate = Arc::new(Mutex::new(Gate::default()));
        let permits = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        let mut connections = JoinSet::new();
        let mut looks = interval(LOOK);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let accepting = async {
            loop {
                // The semaphore is never closed.
                let Ok(permit) = Arc::clone(&permits).acquire_owned().await else { return };
                let (stream, peer) = tokio::select! {
                    accepted = self.listener.accept() => match accepted {
                        Ok(accepted) => accepted,
                        Err(_) => {
                            sleep(BREATH).await;
                            continue;
                        }
                    },
                    _ = looks.tick() => {
                        guard.look();
                        self.identity.iter_mut().for_each(Identity::look);
                        continue;
                    }
                };
                let peer = peer.ip().to_canonical();
                let Some(seat) = Seat::take(&gate, peer) else { continue };
                let service = routes::for_peer(router.clone(), peer);
                let identity = self.identity.as_ref().map(Identity::acceptor);
                connections.spawn(async move {
                    let serving = serve_one(stream, identity, service);
                    // How a client's connection ends is the client's business.
                    let _ = timeout(CONNECTION_PATIENCE, serving).await;
                    drop((seat, permit));
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
}

async fn serve_one(
    stream: TcpStream,
    identity: Option<tokio_rustls::TlsAcceptor>,
    router: Router,
) -> Option<()> {
    match identity {
        Some(acceptor) => {
            let stream = timeout(HEAD_PATIENCE, acceptor.accept(stream)).await.ok()?.ok()?;
            request(stream, router).await
        }
        None => request(stream, router).await,
    }
}

async fn request(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    router: Router,
) -> Option<()> {
    http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_PATIENCE)
        .max_buf_size(routes::HEAD_MAX)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router))
        .await
        .ok()
}

/// A sender's connection, which counts for as long as it lasts.
struct Seat {
    gate: Arc<Mutex<Gate>>,
    peer: IpAddr,
}

impl Seat {
    fn take(gate: &Arc<Mutex<Gate>>, peer: IpAddr) -> Option<Self> {
        let mut open = gate.lock().unwrap_or_else(PoisonError::into_inner);
        open.admit(peer, Instant::now()).then(|| Self { gate: Arc::clone(gate), peer })
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.gate.lock().unwrap_or_else(PoisonError::into_inner).leave(self.peer);
    }
}
