//! Backends that come and go by themselves: by name, by files, by their own word.

mod directory;
mod dns;
mod register;

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use xlb_tests::wait;
use xlb_tests::xlb::Agent;

/// How long a change may take on a busy machine.
const SOON: Duration = Duration::from_secs(20);

/// Waits until the service's discovery is as `judge` wants it.
fn discovery(
    agent: &Agent<'_>,
    service: &str,
    what: &str,
    judge: impl Fn(&Value) -> bool,
) -> Result<Value> {
    wait::until(what, SOON, || {
        let shown = agent.call(&["service", "show", service])?;
        let discovery = shown.get("discovery").context("there is no discovery")?;
        ensure!(judge(discovery), "{discovery}");
        Ok(discovery.clone())
    })
}

/// Addresses and origins of the service's backends.
fn origins(agent: &Agent<'_>, service: &str) -> Result<Vec<(String, String)>> {
    let list = agent.call(&["backend", "list", service])?;
    let text = |value: &Value| value.as_str().map(str::to_owned).context("it is no text");
    let origin = |backend: &Value| Ok((text(&backend["address"])?, text(&backend["origin"])?));
    list.as_array().context("it is no list")?.iter().map(origin).collect()
}
