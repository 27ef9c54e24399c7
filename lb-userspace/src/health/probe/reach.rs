//! How probes get to a backend: every socket of a probe is opened here.
//!
//! In: where a backend is asked, and by which way. Out: a connected socket, or the kernel's error.

use std::{
    fmt, io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
};

use socket2::SockRef;
use tokio::net::{TcpSocket, UdpSocket};

use super::connection::{Connection, Datagrams};
use crate::probe_path::Target;

/// The way of a probe.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(in crate::health) enum Reach<'a> {
    /// To the backend's own address, by the kernel's routes.
    Address(SocketAddr),
    /// To the VIP, in frames like those of clients.
    Vip(&'a Target),
}

/// Who speaks first on a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::health) enum FirstWord {
    /// The probe, at once.
    Probe,
    /// The backend, if anybody.
    Backend,
}

impl Reach<'_> {
    /// The address and port that the backend is asked at.
    pub(in crate::health) fn target(&self) -> SocketAddr {
        match *self {
            Self::Address(target) => target,
            Self::Vip(target) => target.vip(),
        }
    }

    /// What may be the matter, where nothing answers.
    pub(in crate::health) fn why_silent(&self) -> Option<String> {
        match self {
            Self::Address(_) => None,
            Self::Vip(target) => Some(target.why_silent()),
        }
    }

    /// Opens a TCP connection; the caller bounds the time.
    ///
    /// # Errors
    /// As socket(2) and connect(2).
    pub(in crate::health) async fn connect(&self, first: FirstWord) -> io::Result<Connection> {
        let (socket, port) = match *self {
            Self::Address(target) => {
                let socket = match target {
                    SocketAddr::V4(_) => TcpSocket::new_v4(),
                    SocketAddr::V6(_) => TcpSocket::new_v6(),
                }?;
                socket.set_zero_linger()?;
                (socket, None)
            }
            Self::Vip(target) => {
                let (socket, port) = target.tcp().await?;
                (socket, Some(port))
            }
        };
        // Packets that only acknowledge may wait for words: the handshake's last one, and, as the
        // kernel forgets this once it has waited, those for the answer.
        let patient = first == FirstWord::Probe;
        if patient {
            SockRef::from(&socket).set_tcp_quickack(false)?;
        }
        let stream = socket.connect(self.target()).await?;
        if patient {
            SockRef::from(&stream).set_tcp_quickack(false)?;
        }
        Ok(Connection::new(stream, port))
    }

    /// A UDP socket that sends to the backend and takes datagrams of nobody else. It is connected,
    /// so a port that is closed shows as "connection refused" when the ICMP message arrives.
    ///
    /// # Errors
    /// As socket(2), bind(2) and connect(2).
    pub(in crate::health) async fn datagrams(&self) -> io::Result<Datagrams> {
        match *self {
            Self::Address(target) => {
                let any: SocketAddr = match target {
                    SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
                    SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
                };
                let socket = UdpSocket::bind(any).await?;
                socket.connect(target).await?;
                Ok(Datagrams::new(socket, None))
            }
            Self::Vip(target) => {
                let (socket, port) = target.datagrams().await?;
                Ok(Datagrams::new(socket, Some(port)))
            }
        }
    }
}

impl fmt::Display for Reach<'_> {
    /// The address that is asked, and that it is a VIP.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(target) => target.fmt(f),
            Self::Vip(target) => write!(f, "the VIP {}", target.vip()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn datagrams_reach_the_target_and_a_closed_port_shows() {
        for any in [SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), (Ipv6Addr::LOCALHOST, 0).into()] {
            let server = UdpSocket::bind(any).await.expect("a free port");
            let target = server.local_addr().expect("a bound socket");
            let socket = Reach::Address(target).datagrams().await.expect("a socket");
            socket.send(b"ping").await.expect("a route");
            let mut buffer = [0; 8];
            let (length, from) = server.recv_from(&mut buffer).await.expect("a datagram");
            assert_eq!((&buffer[..length], from), (&b"ping"[..], socket.local_addr().unwrap()));
            drop(server);
            socket.send(b"ping").await.expect("a route");
            let refused = socket.recv(&mut buffer).await.expect_err("nobody is there");
            assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
        }
    }
}
