//! UDP sessions: every datagram must reach the server that answered the first.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tokio::net::UdpSocket;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until, timeout_at};

use super::PATIENCE;
use super::exchange::Cause;
use super::journal::{Journal, Kind};

/// From one datagram of a session to the next.
const PACE: Duration = Duration::from_millis(300);

/// Datagrams of a session before another takes its place, so that sessions also begin while
/// things change.
const DATAGRAMS: std::ops::Range<u32> = 20..80;

/// Runs that many at a time until it is dropped.
pub(super) async fn run(target: SocketAddr, client: IpAddr, count: usize, journal: Arc<Journal>) {
    let mut running = JoinSet::new();
    for index in 0..count {
        let journal = Arc::clone(&journal);
        running.spawn(async move {
            sleep(PACE.mul_f64(index as f64 / count as f64)).await;
            loop {
                session(target, client, &journal).await;
            }
        });
    }
    running.join_all().await;
}

async fn session(target: SocketAddr, client: IpAddr, journal: &Arc<Journal>) {
    let flow = journal.begin(Kind::Session);
    let ended = async {
        let socket = UdpSocket::bind((client, 0)).await?;
        socket.connect(target).await?;
        let mut silent_since = Instant::now();
        for _ in 0..fastrand::u32(DATAGRAMS) {
            let next = Instant::now() + PACE;
            // An error tells that an earlier datagram met a closed port: silence will show it.
            let _ = socket.send(b"session").await;
            while let Some(server) = answer(&socket, next).await? {
                silent_since = Instant::now();
                if !flow.answered(&server)? {
                    return Ok(());
                }
            }
            if silent_since.elapsed() > PATIENCE {
                return Err(Cause::Silent(PATIENCE));
            }
        }
        Ok(())
    };
    match ended.await {
        Ok(()) => drop(flow),
        Err(cause) => flow.broke(cause),
    }
}

/// The server of the next answer that comes before `deadline`.
async fn answer(socket: &UdpSocket, deadline: Instant) -> Result<Option<String>, Cause> {
    let mut datagram = [0; 256];
    match timeout_at(deadline, socket.recv(&mut datagram)).await {
        Err(_) => Ok(None),
        Ok(Err(_closed_port)) => {
            sleep_until(deadline).await;
            Ok(None)
        }
        Ok(Ok(length)) => {
            let Some(name) = datagram[..length].strip_suffix(b" session") else {
                return Err(Cause::Garbled);
            };
            Ok(Some(String::from_utf8_lossy(name).into_owned()))
        }
    }
}
