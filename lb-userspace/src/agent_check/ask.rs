//! One question: a TCP connection, a line, within one deadline.

use std::{io, net::SocketAddr};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};

use crate::config::AgentCheck;

/// Longest answer in bytes.
const LONGEST: usize = 4096;

/// The agent's line, without its end.
///
/// # Errors
/// Why there is none.
pub(super) async fn ask(target: SocketAddr, check: &AgentCheck) -> Result<String, String> {
    match timeout(check.timeout, exchange(target, check)).await {
        Ok(answer) => answer.map_err(|error| format!("the agent at {target}: {error}")),
        Err(_) => Err(format!("the agent at {target} said no line within {:?}", check.timeout)),
    }
}

async fn exchange(target: SocketAddr, check: &AgentCheck) -> io::Result<String> {
    let mut stream = TcpStream::connect(target).await?;
    // No TIME_WAIT for each question. Where it can't be had, it is closed the long way.
    let _ = stream.set_zero_linger();
    if let Some(send) = &check.send {
        stream.write_all(send.as_bytes()).await?;
    }
    let mut line = Vec::new();
    let mut buffer = [0; 512];
    loop {
        let count = stream.read(&mut buffer).await?;
        let ends = |byte: &u8| matches!(byte, b'\r' | b'\n');
        // Ends before the first word are none.
        let skipped = match line.is_empty() {
            true => buffer[..count].iter().take_while(|byte| ends(byte)).count(),
            false => 0,
        };
        let bytes = &buffer[skipped..count];
        let end = bytes.iter().position(ends);
        line.extend_from_slice(&bytes[..end.unwrap_or(bytes.len())]);
        if line.len() > LONGEST {
            return Err(io::Error::other(format!("a line of more than {LONGEST} bytes")));
        }
        if end.is_some() || count == 0 {
            return Ok(String::from_utf8_lossy(&line).into_owned());
        }
    }
}
