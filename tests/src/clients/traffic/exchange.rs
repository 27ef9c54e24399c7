//! One request and its answer, on a stream of any kind.
//!
//! A request is its payload's length (32 bits, big endian) and the payload. The answer is the
//! length of the server's name (8 bits), the name, and the request as it came.

use std::fmt;
use std::io::{self, ErrorKind};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::timeout;

/// Why a flow broke.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cause {
    /// The connection could not be opened: a RST answered, or nobody.
    Refused(String),
    /// A RST, or another error of the socket.
    Reset(String),
    /// The other side closed, though it had nothing to close for.
    Closed,
    /// No answer for that long.
    Silent(Duration),
    /// This server answered, which wasn't the one before.
    OtherServer(String),
    /// The answer holds other bytes than were asked for.
    Garbled,
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused(error) => write!(f, "not opened: {error}"),
            Self::Reset(error) => write!(f, "reset: {error}"),
            Self::Closed => write!(f, "closed by the server"),
            Self::Silent(time) => write!(f, "silent for {time:?}"),
            Self::OtherServer(name) => write!(f, "answered by {name}"),
            Self::Garbled => write!(f, "other bytes than were sent"),
        }
    }
}

impl From<io::Error> for Cause {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            ErrorKind::UnexpectedEof => Self::Closed,
            _ => Self::Reset(error.to_string()),
        }
    }
}

/// Sends `payload` and waits for its echo. Hands back the server's name.
pub(super) async fn ask<S>(
    stream: &mut S,
    payload: &[u8],
    patience: Duration,
) -> Result<String, Cause>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let exchange = async {
        let mut request = Vec::with_capacity(payload.len() + 4);
        request.extend_from_slice(&(payload.len() as u32).to_be_bytes());
        request.extend_from_slice(payload);
        stream.write_all(&request).await?;
        let length = stream.read_u8().await?;
        let mut answer = vec![0; usize::from(length) + request.len()];
        stream.read_exact(&mut answer).await?;
        let echo = answer.split_off(usize::from(length));
        if echo != request {
            return Err(Cause::Garbled);
        }
        Ok(String::from_utf8_lossy(&answer).into_owned())
    };
    timeout(patience, exchange).await.unwrap_or(Err(Cause::Silent(patience)))
}

#[cfg(test)]
mod tests {
    use tokio::io::{DuplexStream, duplex};

    use super::*;

    const PATIENCE: Duration = Duration::from_millis(50);

    /// What a client sees whose server does `serve`.
    async fn meet<F: Future<Output = ()>>(
        serve: impl FnOnce(DuplexStream) -> F,
    ) -> Result<String, Cause> {
        let (mut client, server) = duplex(4096);
        tokio::join!(ask(&mut client, b"question", PATIENCE), serve(server)).0
    }

    async fn request(server: &mut DuplexStream) -> Vec<u8> {
        let mut request = vec![0; 12];
        server.read_exact(&mut request).await.unwrap();
        request
    }

    #[tokio::test]
    async fn a_right_answer_names_the_server() {
        let served = meet(|mut server| async move {
            let request = request(&mut server).await;
            server.write_all(b"\x02b7").await.unwrap();
            server.write_all(&request).await.unwrap();
        });
        assert_eq!(served.await, Ok("b7".to_owned()));
    }

    #[tokio::test]
    async fn an_end_in_the_middle_is_a_close() {
        let served = meet(|mut server| async move {
            request(&mut server).await;
            server.write_all(b"\x02b7\0").await.unwrap();
        });
        assert_eq!(served.await, Err(Cause::Closed));
    }

    #[tokio::test]
    async fn other_bytes_are_no_echo() {
        let served = meet(|mut server| async move {
            let mut request = request(&mut server).await;
            request[7] ^= 1;
            server.write_all(b"\x02b7").await.unwrap();
            server.write_all(&request).await.unwrap();
        });
        assert_eq!(served.await, Err(Cause::Garbled));
    }

    #[tokio::test]
    async fn silence_ends_the_patience() {
        let (mut client, _server) = duplex(4096);
        let answer = ask(&mut client, b"question", PATIENCE).await;
        assert_eq!(answer, Err(Cause::Silent(PATIENCE)));
    }

    #[tokio::test]
    async fn a_reset_is_told_as_such() {
        let mut stream = stream_to_nobody();
        assert!(matches!(ask(&mut stream, b"question", PATIENCE).await, Err(Cause::Reset(_))));
    }

    /// A stream whose server is gone: writing fails.
    fn stream_to_nobody() -> DuplexStream {
        let (client, server) = duplex(4096);
        drop(server);
        client
    }
}
