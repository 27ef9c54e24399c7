//! One backend behind a VIP, as probes see it: where sockets to it come from.

use std::{
    fmt, io,
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use tokio::{
    net::{TcpSocket, UdpSocket},
    sync::watch,
};

use super::{Wanted, namespace::Namespace, ports::Ports};
use crate::dataplane::ProbePorts;

/// Ports that are tried where something holds one longer than it should.
const TRIES: u32 = 4;

/// What the sockets of all targets have in common.
pub(super) struct Sockets {
    pub(super) namespace: Namespace,
    pub(super) ports: Mutex<(Ports, ProbePorts)>,
}

/// Whether probes can be sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// From this address.
    Ready(IpAddr),
    /// Not now, and why: a probe waits.
    Missing(String),
    /// Not by this host, and why.
    Impossible(String),
}

/// A backend behind a VIP.
pub struct Target {
    number: u32,
    vip: SocketAddr,
    timeout: Duration,
    hint: String,
    state: watch::Receiver<State>,
    sockets: Arc<Sockets>,
}

impl fmt::Debug for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut target = f.debug_struct("Target");
        target.field("number", &self.number).field("vip", &self.vip).finish_non_exhaustive()
    }
}

impl PartialEq for Target {
    /// The same way to the same backend.
    fn eq(&self, other: &Self) -> bool {
        self.number == other.number && Arc::ptr_eq(&self.sockets, &other.sockets)
    }
}

impl Target {
    pub(super) fn new(
        number: u32,
        wanted: &Wanted,
        state: watch::Receiver<State>,
        sockets: Arc<Sockets>,
    ) -> Self {
        let Wanted { vip, timeout, hint, .. } = wanted;
        Self { number, vip: *vip, timeout: *timeout, hint: hint.clone(), state, sockets }
    }

    pub(super) fn number(&self) -> u32 {
        self.number
    }

    pub(super) fn timeout(&self) -> Duration {
        self.timeout
    }

    pub(super) fn hint(&self) -> &str {
        &self.hint
    }

    /// The VIP, and the port there.
    pub fn vip(&self) -> SocketAddr {
        self.vip
    }

    /// What may be the matter, where a probe got no answer.
    pub fn why_silent(&self) -> String {
        match &*self.state.borrow() {
            State::Ready(_) => self.hint.clone(),
            State::Missing(why) | State::Impossible(why) => why.clone(),
        }
    }

    /// A TCP socket with a port of its own, to connect to the VIP on that backend, as soon as the
    /// way is known; the caller bounds the time.
    ///
    /// # Errors
    /// As socket(2) and bind(2); of the kind `AddrNotAvailable` where this host can't
    /// send such probes.
    pub async fn tcp(&self) -> io::Result<(TcpSocket, Port)> {
        let source = self.source().await?;
        let mut tries = 1..=TRIES;
        loop {
            let port = self.port()?;
            match self.sockets.namespace.tcp(SocketAddr::new(source, port.number)).await {
                Ok(socket) => return Ok((socket, port)),
                Err(error) if tries.next().is_none() || !is_taken(&error) => return Err(error),
                Err(_) => {}
            }
        }
    }

    /// A UDP socket that sends to the VIP on that backend, from a port of its own, and takes
    /// datagrams of nobody else, as soon as the way is known; the caller bounds the time.
    ///
    /// # Errors
    /// As [`Target::tcp`], and connect(2).
    pub async fn datagrams(&self) -> io::Result<(UdpSocket, Port)> {
        let source = self.source().await?;
        let mut tries = 1..=TRIES;
        loop {
            let port = self.port()?;
            match self.sockets.namespace.udp(SocketAddr::new(source, port.number)).await {
                Ok(socket) => {
                    let socket = UdpSocket::from_std(socket)?;
                    socket.connect(self.vip).await?;
                    return Ok((socket, port));
                }
                Err(error) if tries.next().is_none() || !is_taken(&error) => return Err(error),
                Err(_) => {}
            }
        }
    }

    /// The address that probes come from.
    async fn source(&self) -> io::Result<IpAddr> {
        let mut state = self.state.clone();
        let known = state.wait_for(|state| !matches!(state, State::Missing(_))).await;
        match known.as_deref() {
            Ok(State::Ready(source)) => Ok(*source),
            Ok(State::Impossible(why) | State::Missing(why)) => {
                Err(io::Error::new(io::ErrorKind::AddrNotAvailable, why.clone()))
            }
            Err(_) => Err(io::Error::other("the check is over")),
        }
    }

    /// A source port that stands for this target from now on.
    fn port(&self) -> io::Result<Port> {
        let mut ports = self.sockets.ports.lock().unwrap_or_else(PoisonError::into_inner);
        let (ports, map) = &mut *ports;
        let number = ports.take(Instant::now()).ok_or_else(|| {
            let why = "all source ports are in use: fewer checks, longer intervals or shorter timeouts need fewer";
            io::Error::new(io::ErrorKind::AddrNotAvailable, why)
        })?;
        let port = Port { number, sockets: Arc::clone(&self.sockets) };
        map.set(number, self.number).map_err(io::Error::other)?;
        Ok(port)
    }
}

/// A source port, somebody's alone until it is dropped.
pub struct Port {
    number: u16,
    sockets: Arc<Sockets>,
}

impl fmt::Debug for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Port").field(&self.number).finish()
    }
}

impl Drop for Port {
    fn drop(&mut self) {
        let mut ports = self.sockets.ports.lock().unwrap_or_else(PoisonError::into_inner);
        ports.0.give_back(self.number, Instant::now());
    }
}

fn is_taken(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::AddrInUse
}
