//! Single probes: what goes over the wire, within one deadline.

mod http;
mod reach;
#[cfg(test)]
mod tests;

use std::{fmt, io, time::Duration};

use tokio::{
    net::TcpStream,
    time::{Instant, timeout_at},
};

use super::state::Outcome;
use crate::config::{ActiveCheck, Probe};
pub(super) use reach::Reach;

/// Makes one probe; ends within the check's timeout.
pub(super) async fn run(reach: Reach, check: &ActiveCheck) -> Outcome {
    let clock = Clock { deadline: Instant::now() + check.timeout, timeout: check.timeout };
    let result = match &check.probe {
        Probe::Tcp => tcp(reach, &clock).await,
        Probe::Http { path, host, expect_status } => {
            let get = http::Get { path, host: host.as_deref(), expect_status };
            get.run(reach, &clock).await
        }
    };
    match result {
        Ok(seen) => Outcome::Passed(seen),
        Err(Failure::Backend(seen)) => Outcome::Failed(seen),
        Err(Failure::Local(seen)) => Outcome::Inconclusive(seen),
    }
}

/// Why a probe didn't pass.
#[derive(Debug, PartialEq, Eq)]
enum Failure {
    /// For something that the backend did or didn't do.
    Backend(String),
    /// For something that this host lacks.
    Local(String),
}

impl Failure {
    fn backend(seen: impl fmt::Display) -> Self {
        Self::Backend(seen.to_string())
    }
}

/// The time that is left for a probe.
struct Clock {
    deadline: Instant,
    timeout: Duration,
}

impl Clock {
    /// Waits for a step of the probe; `step` completes "timed out after … while".
    async fn limit<T>(&self, step: &str, work: impl Future<Output = T>) -> Result<T, Failure> {
        timeout_at(self.deadline, work).await.map_err(|_| {
            Failure::Backend(format!("timed out after {:?} while {step}", self.timeout))
        })
    }
}

async fn tcp(reach: Reach, clock: &Clock) -> Result<String, Failure> {
    let stream = connect(reach, clock).await?;
    // A reset instead of the closing handshake: no TIME_WAIT for each probe, here or there. Where
    // it can't be had, the connection is closed the long way.
    let _ = stream.set_zero_linger();
    Ok(format!("{reach} accepts connections"))
}

async fn connect(reach: Reach, clock: &Clock) -> Result<TcpStream, Failure> {
    let step = format!("connecting to {reach}");
    clock.limit(&step, reach.connect()).await?.map_err(|error| {
        let seen = format!("connect to {reach}: {error}");
        if is_local(&error) { Failure::Local(seen) } else { Failure::Backend(seen) }
    })
}

/// Errors of connect(2) and socket(2) that speak of this host's means only.
fn is_local(error: &io::Error) -> bool {
    const EAGAIN: i32 = 11;
    const ENOMEM: i32 = 12;
    const ENFILE: i32 = 23;
    const EMFILE: i32 = 24;
    const EADDRNOTAVAIL: i32 = 99;
    const ENOBUFS: i32 = 105;
    const LOCAL: [i32; 6] = [EAGAIN, ENOMEM, ENFILE, EMFILE, EADDRNOTAVAIL, ENOBUFS];
    error.raw_os_error().is_some_and(|number| LOCAL.contains(&number))
}
