//! `xlb decap` on backends.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::{Pins, Program};
use crate::lab::{Host, Lab};
use crate::process::Process;
use crate::wait;

/// How long it may take until it is attached.
const READY: Duration = Duration::from_secs(20);

/// A running `xlb decap`. Dropping it ends the program and removes what it pinned.
#[derive(Debug)]
pub struct Decap {
    process: Process,
    _pins: Pins,
}

impl Decap {
    /// Starts it on a host's `eth0`, for packets from those networks, and waits until an XDP
    /// program is attached there.
    ///
    /// # Errors
    /// It ends, or nothing is attached after 20 s.
    pub fn start(host: &Host, from: &[String]) -> Result<Self> {
        Self::start_with(host, from, &[])
    }

    /// Starts it with more options.
    ///
    /// # Errors
    /// As [`Decap::start`].
    pub fn start_with(host: &Host, from: &[String], options: &[&str]) -> Result<Self> {
        let pins = Pins::new()?;
        let mut command = host.namespace.command(Program::find()?.path());
        command.args(["decap", "--json", "--interface", "eth0"]).args(options);
        command.arg("--pin-path").arg(pins.path());
        for network in from {
            command.args(["--from", network]);
        }
        let mut process = Process::start(&format!("xlb decap on {}", host.name), &mut command)?;
        wait::until("the decapsulation program", READY, || {
            if let Err(gone) = process.alive() {
                return Ok(Err(gone));
            }
            let link = host.namespace.ip_json("link show eth0")?;
            ensure!(link[0].get("xdp").is_some(), "no XDP program on eth0");
            Ok(Ok(()))
        })??;
        Ok(Self { process, _pins: pins })
    }

    /// SIGTERM; waits for the end, and gives what it counted.
    ///
    /// # Errors
    /// It had ended before, doesn't end with 0, or doesn't say its last line.
    pub fn stop(mut self) -> Result<Value> {
        let status = self.process.stop()?;
        let log = self.process.log();
        ensure!(status.success(), "xlb decap ended with {status}: {log}");
        let last = log.lines().rev().find(|line| line.starts_with('{')).unwrap_or_default();
        serde_json::from_str(last).with_context(|| format!("read the last line of {log}"))
    }
}

/// The lab's balancer, as `--from` wants it.
pub fn balancer_of(lab: &Lab) -> [String; 2] {
    [format!("{}/32", lab.balancer.v4), format!("{}/128", lab.balancer.v6)]
}

/// Starts it on every backend, for packets of the lab's balancer only.
///
/// # Errors
/// As [`Decap::start`].
pub fn decap_all(lab: &Lab) -> Result<Vec<Decap>> {
    let from = balancer_of(lab);
    lab.backends
        .iter()
        .map(|host| Decap::start(host, &from).with_context(|| format!("on {}", host.name)))
        .collect()
}
