//! One run of a hook: the event goes in, the output is kept for when it fails, the time is
//! bounded.

use std::io;

use tokio::{process::Command, time::sleep};

use crate::{
    api::Event,
    config::Hook,
    program::{Running, ending},
};

/// Where a hook that is named without a path is looked for, and what it finds others by.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// How a run went.
#[derive(Debug)]
pub(super) enum Outcome {
    /// It ended with status 0.
    Done,
    /// It ended otherwise: how, and what it said.
    Failed(String),
    /// It was killed; what it said, after a separator, where it said something.
    TimedOut(String),
    /// There was nothing to run, or no room to run it in.
    NotStarted(io::Error),
}

/// Runs a hook with the event on its standard input. Broken off, it is killed as at its timeout.
pub(super) async fn run(hook: &Hook, event: &Event) -> Outcome {
    let mut running = match start(hook, event) {
        Ok(running) => running,
        Err(error) => return Outcome::NotStarted(error),
    };
    let ended = tokio::select! {
        status = running.end() => Some(status),
        () = sleep(hook.timeout) => None,
    };
    match ended {
        Some(Ok(status)) if status.success() => Outcome::Done,
        Some(Ok(status)) => Outcome::Failed(ending(status) + &said(&running)),
        Some(Err(error)) => Outcome::Failed(error.to_string()),
        None => {
            running.kill().await;
            Outcome::TimedOut(said(&running))
        }
    }
}

fn start(hook: &Hook, event: &Event) -> io::Result<Running> {
    let mut json = serde_json::to_vec(event)?;
    json.push(b'\n');
    let mut command = Command::new(hook.program());
    command
        .args(hook.arguments())
        .env_clear()
        .env("PATH", PATH)
        .env("XLB_EVENT", event.kind.word());
    Running::start(command, Some(json))
}

/// The output behind a colon, without what would confuse a terminal; nothing of none.
fn said(running: &Running) -> String {
    let text = String::from_utf8_lossy(running.said());
    let text: String = text.trim().chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    if text.is_empty() { text } else { format!(": {text}") }
}
