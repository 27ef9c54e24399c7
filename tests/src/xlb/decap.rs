//! `xlb decap` on backends.

use std::time::Duration;

use anyhow::{Context, Result, ensure};

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
        let pins = Pins::new()?;
        let mut command = host.namespace.command(Program::find()?.path());
        command.args(["decap", "--interface", "eth0"]).arg("--pin-path").arg(pins.path());
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

    /// SIGTERM, and waits for the end.
    ///
    /// # Errors
    /// It had ended before, or doesn't end with 0.
    pub fn stop(mut self) -> Result<()> {
        let status = self.process.stop()?;
        ensure!(status.success(), "xlb decap ended with {status}: {}", self.process.log());
        Ok(())
    }
}

/// Starts it on every backend, for packets of the lab's balancer only.
///
/// # Errors
/// As [`Decap::start`].
pub fn decap_all(lab: &Lab) -> Result<Vec<Decap>> {
    let from = [format!("{}/32", lab.balancer.v4), format!("{}/128", lab.balancer.v6)];
    lab.backends
        .iter()
        .map(|host| Decap::start(host, &from).with_context(|| format!("on {}", host.name)))
        .collect()
}
