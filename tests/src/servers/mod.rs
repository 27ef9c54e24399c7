//! Real servers in namespaces, which say who they are.

mod http;
mod session;
mod udp;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};

use anyhow::{Context, Result};
use tokio::net::{TcpListener, UdpSocket};
use tokio::sync::oneshot;

pub use http::{ANSWERED_BY, content, digest};

use crate::lab::{Family, Host};

/// Port of the HTTP server.
pub const HTTP_PORT: u16 = 80;

/// Port of the TCP server for sessions of many requests.
pub const SESSION_PORT: u16 = 8007;

/// Port of the UDP server (echo, RFC 862).
pub const UDP_PORT: u16 = 7;

/// The servers of one backend: HTTP on port 80 and sessions on port 8007 of every address, UDP
/// echo on port 7 of its own and the virtual addresses. Dropping it closes every socket, as the death of a process does.
#[derive(Debug)]
pub struct Server {
    name: String,
    healthy: Arc<AtomicBool>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    /// Starts the servers in a backend's namespace. All sockets are bound when it returns.
    ///
    /// # Errors
    /// A port is taken.
    pub fn start(host: &Host) -> Result<Self> {
        let name = host.name.clone();
        let healthy = Arc::new(AtomicBool::new(true));
        let addresses = Family::ALL.map(|family| [family.vip(), host.address(family)]).concat();
        let sockets = host.namespace.run(|| bind(&addresses))??;
        let (stop, stopped) = oneshot::channel();
        let (served, asked) = (name.clone(), Arc::clone(&healthy));
        let thread = thread::Builder::new()
            .name(format!("server {name}"))
            .spawn(move || {
                if let Err(error) = serve(&served, &asked, sockets, stopped) {
                    eprintln!("server {served}: {error:#}");
                }
            })
            .context("start a server's thread")?;
        Ok(Self { name, healthy, stop: Some(stop), thread: Some(thread) })
    }

    /// Starts the servers of several backends.
    ///
    /// # Errors
    /// As [`Server::start`].
    pub fn start_all(hosts: &[Host]) -> Result<Vec<Self>> {
        hosts.iter().map(Self::start).collect()
    }

    /// What it calls itself.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What `/healthz` says from now on: 200 or 503. Everything else is served all the same.
    pub fn set_healthy(&self, healthy: bool) {
        self.healthy.store(healthy, Ordering::Relaxed);
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            eprintln!("server {} had panicked", self.name);
        }
    }
}

/// Bound sockets, ready for the server's runtime.
struct Sockets {
    http: std::net::TcpListener,
    session: std::net::TcpListener,
    udp: Vec<std::net::UdpSocket>,
}

/// Binds in the calling thread's namespace. A UDP socket is bound to each address: one for all
/// would answer with another source than the address that was asked.
fn bind(addresses: &[IpAddr]) -> Result<Sockets> {
    let udp = addresses.iter().map(|&address| {
        let address = SocketAddr::new(address, UDP_PORT);
        let socket =
            std::net::UdpSocket::bind(address).with_context(|| format!("bind UDP {address}"))?;
        socket.set_nonblocking(true)?;
        Ok(socket)
    });
    let udp = udp.collect::<Result<Vec<_>>>()?;
    Ok(Sockets { http: listen(HTTP_PORT)?, session: listen(SESSION_PORT)?, udp })
}

fn listen(port: u16) -> Result<std::net::TcpListener> {
    let listener = std::net::TcpListener::bind(("::", port))
        .with_context(|| format!("listen on port {port}"))?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

fn serve(
    name: &str,
    healthy: &Arc<AtomicBool>,
    sockets: Sockets,
    stopped: oneshot::Receiver<()>,
) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let http = TcpListener::from_std(sockets.http)?;
        let session = TcpListener::from_std(sockets.session)?;
        for socket in sockets.udp {
            tokio::spawn(udp::serve(UdpSocket::from_std(socket)?, name.to_owned()));
        }
        tokio::select! {
            ended = http::serve(http, name, healthy) => ended,
            ended = session::serve(session, name) => ended,
            _ = stopped => Ok(()),
        }
    })
}
