//! A datagram that passes by its answer.

use std::io;

use tokio::{io::Interest, net::UdpSocket};

use super::{
    Clock, Failure, Reach, connection::Datagrams, excerpt::excerpt, http::holds, is_local,
};
use crate::config::Payload;

/// Longest datagram of UDP, and so of any answer.
const DATAGRAM_MAX: usize = 65_535;

/// Passes when an answer comes that holds `expect`. Another answer fails at once, and so does a
/// port that is closed; a datagram that gets lost fails at the deadline.
pub(super) async fn run(
    send: &Payload,
    expect: Option<&Payload>,
    reach: Reach<'_>,
    clock: &Clock,
) -> Result<String, Failure> {
    let socket = open(reach).await?;
    send_one(&socket, &send.0, reach, clock).await?;
    let answer = receive(&socket, reach, clock).await?;
    match expect {
        Some(expect) if !holds(&answer, &expect.0) => Err(Failure::Backend(format!(
            "the answer of {} bytes doesn't hold {}; it begins with {}",
            answer.len(),
            excerpt(&expect.0),
            excerpt(&answer)
        ))),
        _ => Ok(format!("an answer of {} bytes", answer.len())),
    }
}

/// A socket toward the backend.
pub(super) async fn open(reach: Reach<'_>) -> Result<Datagrams, Failure> {
    reach.datagrams().await.map_err(|error| {
        let seen = format!("a UDP socket to {reach}: {error}");
        if is_local(&error) { Failure::Local(seen) } else { Failure::Backend(seen) }
    })
}

/// Sends one datagram.
pub(super) async fn send_one(
    socket: &UdpSocket,
    datagram: &[u8],
    reach: Reach<'_>,
    clock: &Clock,
) -> Result<(), Failure> {
    let sent = clock.limit(&format!("sending to {reach}"), socket.send(datagram)).await?;
    sent.map(drop).map_err(|error| {
        let seen = format!("send to {reach}: {error}");
        if is_local(&error) { Failure::Local(seen) } else { Failure::Backend(seen) }
    })
}

/// The next datagram, whole.
pub(super) async fn receive(
    socket: &UdpSocket,
    reach: Reach<'_>,
    clock: &Clock,
) -> Result<Vec<u8>, Failure> {
    let step = format!("waiting for an answer of {reach}");
    let failed = |error| Failure::Backend(format!("no answer of {reach}: {error}"));
    // The kernel shows an ICMP message that came back as an error alone, not as something to read.
    let refused = || -> io::Result<()> {
        match socket.take_error()? {
            Some(error) => Err(error),
            None => Err(io::ErrorKind::WouldBlock.into()),
        }
    };
    loop {
        let ready = socket.ready(Interest::READABLE | Interest::ERROR);
        let ready = clock.limit(&step, ready).await?.map_err(failed)?;
        if ready.is_error()
            && let Err(error) = socket.try_io(Interest::ERROR, refused)
            && error.kind() != io::ErrorKind::WouldBlock
        {
            return Err(failed(error));
        }
        // Room is only taken when something is there to put into it: thousands may be waiting.
        let mut answer = Vec::with_capacity(DATAGRAM_MAX);
        match socket.try_recv_buf(&mut answer) {
            Ok(_) => return Ok(answer),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(failed(error)),
        }
    }
}
