//! UDP flows, each from a source port of its own.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tokio::net::UdpSocket;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::{Served, block_on};
use crate::netns::Namespace;

/// How long an answer may take before the datagram is sent again.
const AGAIN: Duration = Duration::from_millis(500);

/// How often a datagram is sent.
const ATTEMPTS: usize = 6;

/// Sends a datagram of `length` bytes over each of `flows` flows from `source`, on source ports
/// from `first_port` on, and counts who answered. Echoes must hold what was sent.
///
/// # Errors
/// More flows than ports; flows that fail are counted instead.
pub fn flows(
    from: &Namespace,
    source: IpAddr,
    first_port: u16,
    target: SocketAddr,
    flows: u16,
    length: usize,
) -> Result<Served> {
    let end = first_port.checked_add(flows).context("more flows than source ports")?;
    block_on(from, async move {
        let mut served = Served::default();
        let mut running = JoinSet::new();
        for port in first_port..end {
            if running.len() >= 256
                && let Some(ended) = running.join_next().await
            {
                served.count(ended.context("a flow panicked")?);
            }
            running.spawn(ask(SocketAddr::new(source, port), target, length));
        }
        while let Some(ended) = running.join_next().await {
            served.count(ended.context("a flow panicked")?);
        }
        Ok(served)
    })
}

/// Asks who is there, over one flow; a lost datagram is sent again.
async fn ask(source: SocketAddr, target: SocketAddr, length: usize) -> Result<String> {
    let what = format!("UDP from {source} to {target}");
    let socket = UdpSocket::bind(source).await.with_context(|| what.clone())?;
    socket.connect(target).await.with_context(|| what.clone())?;
    let question = vec![b'q'; length];
    let mut answer = vec![0; length + 64];
    for _ in 0..ATTEMPTS {
        socket.send(&question).await.with_context(|| what.clone())?;
        let Ok(received) = timeout(AGAIN, socket.recv(&mut answer)).await else { continue };
        let received = received.with_context(|| what.clone())?;
        let Some(space) = answer[..received].iter().position(|&byte| byte == b' ') else {
            bail!("{what}: an answer without a name");
        };
        if answer[space + 1..received] != question {
            bail!("{what}: the echo differs from what was sent");
        }
        return Ok(String::from_utf8_lossy(&answer[..space]).into_owned());
    }
    bail!("{what}: no answer to {ATTEMPTS} datagrams")
}
