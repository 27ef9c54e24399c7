//! A program of this host that passes by its exit status.

use std::{io, iter};

use tokio::{process::Command, sync::Semaphore, time::timeout};

use super::{Clock, Failure, excerpt::excerpt};
use crate::{
    health::CheckSpec,
    program::{Running, ending, why_not},
};

/// Programs that run at the same time, of all checks together.
pub(super) const AT_ONCE: usize = 64;

/// Passes when the program ends with status 0. At the check's timeout its whole process group is
/// killed. Waiting for one of the [`AT_ONCE`] places says nothing about the backend; it takes no
/// longer than the timeout either.
pub(super) async fn run(
    command: &[String],
    spec: &CheckSpec,
    places: &Semaphore,
) -> Result<String, Failure> {
    let Some((program, arguments)) = command.split_first() else {
        return Err(Failure::Local("no command".to_owned()));
    };
    let _place = timeout(spec.check.timeout, places.acquire()).await.map_err(|_| {
        Failure::Local(format!("{AT_ONCE} other programs have been running for too long"))
    })?;
    let clock = Clock::new(spec.check.timeout);
    let failed = |error: io::Error| {
        Failure::Local(format!("can't run {program}: {}", why_not(program, &error)))
    };
    let mut running = start(program, arguments, spec).map_err(failed)?;
    let ended = clock.limit(&format!("running {program}"), running.end()).await;
    let status = match ended {
        Ok(status) => status.map_err(failed)?,
        Err(late) => {
            running.kill().await;
            return Err(match (late, first_line(&running)) {
                (Failure::Silence(late), Some(line)) => Failure::Silence(format!("{late}: {line}")),
                (late, _) => late,
            });
        }
    };
    let line = first_line(&running);
    if status.success() {
        return Ok(line.unwrap_or_else(|| "exit status 0".to_owned()));
    }
    let seen = ending(status);
    Err(Failure::Backend(match line {
        Some(line) => format!("{seen}: {line}"),
        None => seen,
    }))
}

fn start(program: &str, arguments: &[String], spec: &CheckSpec) -> io::Result<Running> {
    let mut command = Command::new(program);
    command
        .args(arguments)
        .env_clear()
        .envs(std::env::var_os("PATH").map(|path| ("PATH", path)))
        .envs(environment(spec));
    Running::start(command, None)
}

/// The first line of the output that isn't empty.
fn first_line(running: &Running) -> Option<String> {
    let lines = running.said().split(|byte| *byte == b'\n');
    lines.map(<[u8]>::trim_ascii).find(|line| !line.is_empty()).map(excerpt)
}

/// What the program is told of the check.
fn environment(spec: &CheckSpec) -> impl Iterator<Item = (&'static str, String)> {
    let port = spec.service.port.map_or_else(|| "*".to_owned(), |port| port.to_string());
    iter::once(("XLB_SERVICE", spec.name.to_string())).chain([
        ("XLB_VIP", spec.service.vip.to_string()),
        ("XLB_PORT", port),
        ("XLB_BACKEND", spec.backend.address.to_string()),
        ("XLB_BACKEND_PORT", spec.check.port_of(spec.backend).to_string()),
    ])
}
