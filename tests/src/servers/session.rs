//! A TCP server that answers each request with its own name and the request, until the client
//! closes. The form stands in `clients/traffic/exchange.rs`.

use std::io;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

/// The longest request in bytes; no client asks for more.
const LONGEST: u32 = 1 << 20;

/// Accepts and answers until its future is dropped, which resets every connection.
pub(super) async fn serve(listener: TcpListener, name: &str) -> anyhow::Result<()> {
    let mut running = JoinSet::new();
    loop {
        let (stream, _) = listener.accept().await?;
        while running.try_join_next().is_some() {}
        // What breaks is counted by the client, which knows what it expected.
        running.spawn(answer(stream, name.to_owned()));
    }
}

async fn answer(mut stream: TcpStream, name: String) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut reply = Vec::new();
    loop {
        let length = stream.read_u32().await?;
        if length > LONGEST {
            return Err(io::ErrorKind::InvalidData.into());
        }
        reply.clear();
        reply.push(name.len() as u8);
        reply.extend_from_slice(name.as_bytes());
        reply.extend_from_slice(&length.to_be_bytes());
        let start = reply.len();
        reply.resize(start + length as usize, 0);
        stream.read_exact(&mut reply[start..]).await?;
        stream.write_all(&reply).await?;
    }
}
