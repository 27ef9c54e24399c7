//! A program of this host that passes by its exit status.

use std::{
    io, iter,
    os::{fd::OwnedFd, unix::process::ExitStatusExt as _},
    process::{ExitStatus, Stdio},
    time::Duration,
};

use nix::{
    sys::signal::{Signal, killpg},
    unistd::Pid,
};
use tokio::{
    io::AsyncReadExt as _,
    net::unix::pipe::Receiver,
    process::{Child, Command},
    sync::Semaphore,
    time::timeout,
};

use super::{Clock, Failure, excerpt::excerpt};
use crate::health::CheckSpec;

/// Programs that run at the same time, of all checks together.
pub(super) const AT_ONCE: usize = 64;

/// Bytes of the output that are kept; the rest is read and thrown away.
const OUTPUT_MAX: usize = 4096;

/// How long the kernel may take to end a program that was killed.
const ENDING: Duration = Duration::from_secs(1);

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
    let failed = |error: io::Error| Failure::Local(format!("can't run {program}: {error}"));
    let mut running = Running::start(program, arguments, spec).map_err(failed)?;
    let ended = clock.limit(&format!("running {program}"), running.end()).await;
    let status = match ended {
        Ok(status) => {
            running.group = None;
            status.map_err(failed)?
        }
        Err(late) => {
            running.kill().await;
            return Err(match (late, running.first_line()) {
                (Failure::Silence(late), Some(line)) => Failure::Silence(format!("{late}: {line}")),
                (late, _) => late,
            });
        }
    };
    let line = running.first_line();
    if status.success() {
        return Ok(line.unwrap_or_else(|| "exit status 0".to_owned()));
    }
    let seen = match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit status {code}"),
        (_, Some(signal)) => format!("killed by signal {signal}"),
        _ => status.to_string(),
    };
    Err(Failure::Backend(match line {
        Some(line) => format!("{seen}: {line}"),
        None => seen,
    }))
}

/// A program that runs; dropped, it is killed with its process group.
struct Running {
    child: Child,
    /// Its process group, until it has ended.
    group: Option<Pid>,
    output: Receiver,
    said: Vec<u8>,
}

impl Running {
    fn start(program: &str, arguments: &[String], spec: &CheckSpec) -> io::Result<Self> {
        // Standard output and error in the order that they come in.
        let (reader, writer) = io::pipe()?;
        let output = Receiver::from_owned_fd(OwnedFd::from(reader))?;
        let mut command = Command::new(program);
        command
            .args(arguments)
            .env_clear()
            .envs(std::env::var_os("PATH").map(|path| ("PATH", path)))
            .envs(environment(spec))
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(writer.try_clone()?)
            .stderr(writer)
            .process_group(0)
            .kill_on_drop(true);
        let child = command.spawn()?;
        let group = child.id().and_then(|id| i32::try_from(id).ok()).map(Pid::from_raw);
        Ok(Self { child, group, output, said: Vec::new() })
    }

    /// Waits for the end, and reads the output meanwhile: a program that nobody reads stops. What
    /// the program itself left running isn't waited for.
    async fn end(&mut self) -> io::Result<ExitStatus> {
        let mut chunk = [0; 1024];
        let mut open = true;
        let status = loop {
            tokio::select! {
                biased;
                read = self.output.read(&mut chunk), if open => match read {
                    Ok(0) | Err(_) => open = false,
                    Ok(length) => keep(&mut self.said, &chunk[..length]),
                },
                status = self.child.wait() => break status,
            }
        };
        while self.said.len() < OUTPUT_MAX
            && let Ok(length) = self.output.try_read(&mut chunk)
            && length > 0
        {
            keep(&mut self.said, &chunk[..length]);
        }
        status
    }

    async fn kill(&mut self) {
        self.kill_group();
        // One that the kernel holds is left to the runtime, which reaps it when it can.
        let _ = timeout(ENDING, self.child.wait()).await;
    }

    fn kill_group(&mut self) {
        // Not reaped yet, so its number is nobody else's.
        if let Some(group) = self.group.take().filter(|_| self.child.id().is_some()) {
            let _ = killpg(group, Signal::SIGKILL);
        }
    }

    /// The first line of the output that isn't empty.
    fn first_line(&self) -> Option<String> {
        let lines = self.said.split(|byte| *byte == b'\n');
        lines.map(<[u8]>::trim_ascii).find(|line| !line.is_empty()).map(excerpt)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.kill_group();
    }
}

fn keep(said: &mut Vec<u8>, more: &[u8]) {
    let room = OUTPUT_MAX.saturating_sub(said.len());
    said.extend_from_slice(&more[..more.len().min(room)]);
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
