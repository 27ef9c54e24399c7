//! One run of a hook: the event goes in, the output is kept for when it fails, the time is
//! bounded.

use std::{
    io,
    os::{fd::OwnedFd, unix::process::ExitStatusExt as _},
    process::{ExitStatus, Stdio},
    time::Duration,
};

use nix::{
    sys::signal::{Signal, killpg},
    unistd::Pid,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::unix::pipe::Receiver,
    process::{Child, ChildStdin, Command},
    time::{sleep, timeout},
};

use crate::{api::Event, config::Hook};

/// Where a hook that is named without a path is looked for, and what it finds others by.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Bytes of the output that are kept; the rest is read and thrown away.
const OUTPUT_MAX: usize = 4096;

/// How long the kernel may take to end a program that was killed.
const ENDING: Duration = Duration::from_secs(1);

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
    let mut running = match Running::start(hook, event) {
        Ok(running) => running,
        Err(error) => return Outcome::NotStarted(error),
    };
    let ended = tokio::select! {
        status = running.end() => Some(status),
        () = sleep(hook.timeout) => None,
    };
    let Some(status) = ended else {
        running.kill().await;
        return Outcome::TimedOut(running.said());
    };
    // Reaped: its number may be another's by now.
    running.group = None;
    match status {
        Ok(status) if status.success() => Outcome::Done,
        Ok(status) => {
            let how = match (status.code(), status.signal()) {
                (Some(code), _) => format!("exit status {code}"),
                (_, Some(signal)) => format!("killed by signal {signal}"),
                _ => status.to_string(),
            };
            Outcome::Failed(how + &running.said())
        }
        Err(error) => Outcome::Failed(error.to_string()),
    }
}

/// A program that runs; dropped, it is killed with its process group.
struct Running {
    child: Child,
    /// Its process group, until it has ended.
    group: Option<Pid>,
    input: Option<(ChildStdin, Vec<u8>)>,
    output: Receiver,
    kept: Vec<u8>,
}

impl Running {
    fn start(hook: &Hook, event: &Event) -> io::Result<Self> {
        let mut json = serde_json::to_vec(event)?;
        json.push(b'\n');
        // Standard output and error in the order that they come in.
        let (reader, writer) = io::pipe()?;
        let output = Receiver::from_owned_fd(OwnedFd::from(reader))?;
        let mut child = Command::new(hook.program())
            .args(hook.arguments())
            .env_clear()
            .env("PATH", PATH)
            .env("XLB_EVENT", event.kind.word())
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(writer.try_clone()?)
            .stderr(writer)
            .process_group(0)
            .kill_on_drop(true)
            .spawn()?;
        let group = child.id().and_then(|id| i32::try_from(id).ok()).map(Pid::from_raw);
        let input = child.stdin.take().map(|input| (input, json));
        Ok(Self { child, group, input, output, kept: Vec::new() })
    }

    /// Waits for the end. Meanwhile writes the event, which nobody need read, and reads the
    /// output, since a program that nobody reads stops. What the program itself left running
    /// isn't waited for.
    async fn end(&mut self) -> io::Result<ExitStatus> {
        let Self { child, input, output, kept, .. } = self;
        let mut chunk = [0; 1024];
        let talk = async {
            let write = async {
                if let Some((mut input, json)) = input.take() {
                    // A hook that doesn't want to know is no failure.
                    let _ = input.write_all(&json).await;
                }
            };
            let read = async {
                while let Ok(length @ 1..) = output.read(&mut chunk).await {
                    keep(kept, &chunk[..length]);
                }
            };
            tokio::join!(write, read);
            std::future::pending::<()>().await
        };
        let status = tokio::select! {
            status = child.wait() => status,
            () = talk => unreachable!("it is pending for ever"),
        };
        while self.kept.len() < OUTPUT_MAX
            && let Ok(length @ 1..) = self.output.try_read(&mut chunk)
        {
            keep(&mut self.kept, &chunk[..length]);
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

    /// The output behind a colon, without what would confuse a terminal; nothing of none.
    fn said(&self) -> String {
        let text = String::from_utf8_lossy(&self.kept);
        let text: String =
            text.trim().chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
        if text.is_empty() { text } else { format!(": {text}") }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.kill_group();
    }
}

fn keep(kept: &mut Vec<u8>, more: &[u8]) {
    let room = OUTPUT_MAX.saturating_sub(kept.len());
    kept.extend_from_slice(&more[..more.len().min(room)]);
}
