//! The agent's life, and changes while clients are being served.

mod changes;
mod events;
mod health;
mod life;
mod lives;
mod reload;

use anyhow::{Context, Result, ensure};
use xlb_tests::clients::stream::Stream;
use xlb_tests::netns::Namespace;
use xlb_tests::xlb::Agent;

/// Connections that a test holds open.
const STREAMS: usize = 30;

/// Whether an XDP program is on the interface.
fn attached(namespace: &Namespace, interface: &str) -> Result<bool> {
    let link = namespace.ip_json(&format!("link show {interface}"))?;
    Ok(link[0].get("xdp").is_some())
}

/// All events so far.
fn events(agent: &Agent<'_>) -> Result<Vec<serde_json::Value>> {
    let events = agent.try_call(&["events"])?.expect(0)?;
    events.stdout.lines().map(|line| Ok(serde_json::from_str(line)?)).collect()
}

/// Their kinds.
fn kinds(agent: &Agent<'_>) -> Result<Vec<String>> {
    let kind = |event: serde_json::Value| {
        Ok(event["kind"].as_str().context("an event without a kind")?.to_owned())
    };
    events(agent)?.into_iter().map(kind).collect()
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
