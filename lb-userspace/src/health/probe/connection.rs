//! What probes speak over: sockets, and the source port that one may have borrowed.

use std::{
    io,
    ops::Deref,
    pin::Pin,
    task::{Context, Poll},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpStream, UdpSocket},
};

use crate::probe_path::Port;

/// A TCP connection that ends with a reset once all is said, and never by the closing handshake:
/// no TIME_WAIT for each probe, here or there, and two packets less.
#[derive(Debug)]
pub(in crate::health) struct Connection {
    // Closed first: the port is free from then on.
    stream: TcpStream,
    _port: Option<Port>,
}

impl Connection {
    /// `stream` is one that lingers for no time.
    pub(super) fn new(stream: TcpStream, port: Option<Port>) -> Self {
        Self { stream, _port: port }
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffers: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, buffers)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// A UDP socket that takes datagrams of the backend alone.
#[derive(Debug)]
pub(in crate::health) struct Datagrams {
    // Closed first: the port is free from then on.
    socket: UdpSocket,
    _port: Option<Port>,
}

impl Datagrams {
    pub(super) fn new(socket: UdpSocket, port: Option<Port>) -> Self {
        Self { socket, _port: port }
    }
}

impl Deref for Datagrams {
    type Target = UdpSocket;

    fn deref(&self) -> &UdpSocket {
        &self.socket
    }
}
