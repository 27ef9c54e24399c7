//! The agent's life, and changes while clients are being served.

mod changes;
mod health;
mod life;
mod reload;

use anyhow::{Result, ensure};
use xlb_tests::clients::stream::Stream;
use xlb_tests::netns::Namespace;

/// Connections that a test holds open.
const STREAMS: usize = 30;

/// Whether an XDP program is on the interface.
fn attached(namespace: &Namespace, interface: &str) -> Result<bool> {
    let link = namespace.ip_json(&format!("link show {interface}"))?;
    Ok(link[0].get("xdp").is_some())
}

/// # Errors
/// A connection to another server than `except` broke.
fn unbroken(streams: &[Stream], except: Option<&str>) -> Result<()> {
    let broken: Vec<_> = streams
        .iter()
        .filter(|stream| stream.broken.is_some() && Some(stream.server.as_str()) != except)
        .collect();
    ensure!(broken.is_empty(), "{} connections broke: {:#?}", broken.len(), &broken[..1]);
    Ok(())
}
