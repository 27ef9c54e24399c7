//! Single probes: what goes over the wire, within one deadline.
//!
//! In: a check, and what all checks share ([`Means`]). Out: an outcome, told in a sentence. What
//! comes from a backend is bounded in size and time, whatever it sends.

mod connection;
mod dns;
mod excerpt;
mod exec;
mod grpc;
mod http;
mod reach;
mod tasks;
#[cfg(test)]
mod tests;
mod tls;
mod udp;

use std::{fmt, io, time::Duration};

use tokio::{
    sync::Semaphore,
    time::{Instant, timeout_at},
};

use super::{CheckSpec, state::Outcome};
use crate::config::Probe;
use connection::Connection;
pub(super) use reach::{FirstWord, Reach};

/// Longest reason in bytes.
const REASON_MAX: usize = 512;

/// What all checks of an agent share.
#[derive(Debug)]
pub(super) struct Means {
    tls: tls::TlsConfigs,
    /// Places for programs to run.
    places: Semaphore,
}

impl Means {
    pub(super) fn new() -> Self {
        Self { tls: tls::TlsConfigs::default(), places: Semaphore::new(exec::AT_ONCE) }
    }
}

/// What came of a probe.
#[derive(Debug)]
pub(super) struct Probed {
    pub(super) outcome: Outcome,
    /// The load that an HTTP response told.
    pub(super) load: Option<String>,
}

/// Several times as long as the kernel holds acknowledgements back (40 ms).
const UNHURRIED: Duration = Duration::from_millis(200);

/// Makes one probe; ends within the check's timeout. One that runs a program may wait for as long
/// again until it may.
pub(super) async fn run(spec: &CheckSpec, means: &Means) -> Probed {
    let (reach, check) = (spec.reach(), &spec.check);
    let clock = Clock::new(check.timeout);
    let mut load = None;
    let result = match &check.probe {
        Probe::Tcp => tcp(reach, &clock).await,
        Probe::Http(http) => {
            let seen = http.run(reach, &clock, means).await;
            load = seen.load;
            seen.result
        }
        Probe::Grpc(grpc) => grpc.run(reach, &clock, means).await,
        Probe::Udp { send, expect } => udp::run(send, expect.as_ref(), reach, &clock).await,
        Probe::Dns(dns) => dns.run(reach, &clock).await,
        Probe::Exec { command } => exec::run(command, spec, &means.places).await,
    };
    let outcome = match result {
        Ok(seen) => Outcome::Passed(bounded(seen)),
        Err(Failure::Backend(seen)) => Outcome::Failed(bounded(seen)),
        Err(Failure::Silence(seen)) => Outcome::Failed(bounded(match reach.why_silent() {
            Some(why) => format!("{seen}: {why}"),
            None => seen,
        })),
        Err(Failure::Local(seen)) => Outcome::Inconclusive(bounded(seen)),
    };
    Probed { outcome, load }
}

fn bounded(mut reason: String) -> String {
    if reason.len() > REASON_MAX {
        reason.truncate(reason.floor_char_boundary(REASON_MAX));
        reason.push('…');
    }
    reason
}

/// Why a probe didn't pass.
#[derive(Debug, PartialEq, Eq)]
enum Failure {
    /// For something that the backend did or didn't do.
    Backend(String),
    /// For nothing that came in time.
    Silence(String),
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
    /// From now on.
    fn new(timeout: Duration) -> Self {
        Self { deadline: Instant::now() + timeout, timeout }
    }

    /// Waits for a step of the probe; `step` completes "timed out after … while".
    async fn limit<T>(&self, step: &str, work: impl Future<Output = T>) -> Result<T, Failure> {
        timeout_at(self.deadline, work).await.map_err(|_| {
            Failure::Silence(format!("timed out after {:?} while {step}", self.timeout))
        })
    }
}

async fn tcp(reach: Reach<'_>, clock: &Clock) -> Result<String, Failure> {
    connect(reach, FirstWord::Backend, clock).await?;
    Ok(format!("{reach} accepts connections"))
}

async fn connect(reach: Reach<'_>, first: FirstWord, clock: &Clock) -> Result<Connection, Failure> {
    // In a hurry, nobody waits for acknowledgements: a server that writes twice may do so before
    // it goes on (Nagle's algorithm).
    let first = if clock.timeout < UNHURRIED { FirstWord::Backend } else { first };
    let step = format!("connecting to {reach}");
    clock.limit(&step, reach.connect(first)).await?.map_err(|error| {
        let seen = format!("connect to {reach}: {error}");
        if is_local(&error) { Failure::Local(seen) } else { Failure::Backend(seen) }
    })
}

/// Errors of connect(2), socket(2) and bind(2) that speak of this host's means only.
fn is_local(error: &io::Error) -> bool {
    const EAGAIN: i32 = 11;
    const ENOMEM: i32 = 12;
    const ENFILE: i32 = 23;
    const EMFILE: i32 = 24;
    const EADDRINUSE: i32 = 98;
    const EADDRNOTAVAIL: i32 = 99;
    const ENOBUFS: i32 = 105;
    const LOCAL: [i32; 7] = [EAGAIN, ENOMEM, ENFILE, EMFILE, EADDRINUSE, EADDRNOTAVAIL, ENOBUFS];
    match error.raw_os_error() {
        Some(number) => LOCAL.contains(&number),
        // A source address, or a port there, that a probe through a VIP can't have.
        None => error.kind() == io::ErrorKind::AddrNotAvailable,
    }
}
