//! A command with a deadline that leaves no process behind: neither when it ends, nor when it hangs,
//! nor when whoever asked for it is gone.

use std::{
    ffi::OsString,
    fs,
    os::unix::process::{CommandExt as _, ExitStatusExt as _},
    process::{Child, Command, ExitCode, ExitStatus, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use nix::{
    errno::Errno,
    sys::{
        prctl,
        signal::{Signal, kill, killpg},
        wait::{WaitPidFlag, WaitStatus, waitpid},
    },
    unistd::Pid,
};

/// The exit code of a command that did not end in time, as timeout(1) has it.
pub(crate) const TIMED_OUT: u8 = 124;
/// How often the command, the deadline and signals are looked at.
const POLL: Duration = Duration::from_millis(20);
/// How long a process may clean up after SIGTERM before SIGKILL.
const GRACE: Duration = Duration::from_secs(3);

/// Runs `command` without input, on this process's stdout and stderr, for at most `deadline`. The
/// code is the command's, 128 + N if signal N ended it, or [`TIMED_OUT`].
pub(crate) fn run(command: &[OsString], deadline: Duration) -> Result<ExitCode> {
    let (program, arguments) = command.split_first().context("no command to supervise")?;
    // Orphans of the command become our children, also those that left its process group.
    prctl::set_child_subreaper(true).context("becoming the reaper of orphaned processes")?;
    prctl::set_pdeathsig(Signal::SIGTERM).context("asking to be told of the parent's death")?;
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        signal_hook::flag::register(signal as i32, Arc::clone(&stop))
            .with_context(|| format!("handling {signal}"))?;
    }

    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .process_group(0)
        .spawn()
        .with_context(|| format!("starting {}", program.display()))?;
    let end = wait(&mut child, Instant::now() + deadline, &stop)?;
    let code = match end {
        End::Exited(status) => status
            .code()
            .or_else(|| status.signal().map(|signal| 128 + signal))
            .and_then(|code| u8::try_from(code).ok())
            .unwrap_or(u8::MAX),
        End::Late | End::Stopped => {
            let group = Pid::from_raw(child.id().cast_signed());
            terminate(&mut child, group)?;
            if matches!(end, End::Late) { TIMED_OUT } else { 130 }
        }
    };
    kill_leftovers()?;
    Ok(ExitCode::from(code))
}

enum End {
    Exited(ExitStatus),
    Late,
    Stopped,
}

fn wait(child: &mut Child, deadline: Instant, stop: &AtomicBool) -> Result<End> {
    loop {
        if let Some(status) = child.try_wait().context("waiting for the command")? {
            return Ok(End::Exited(status));
        }
        if stop.load(Ordering::Relaxed) {
            return Ok(End::Stopped);
        }
        if Instant::now() >= deadline {
            return Ok(End::Late);
        }
        thread::sleep(POLL);
    }
}

/// Ends the process group: asks, then insists.
fn terminate(child: &mut Child, group: Pid) -> Result<()> {
    let _ = killpg(group, Signal::SIGTERM);
    let insist = Instant::now() + GRACE;
    while Instant::now() < insist {
        if child.try_wait().context("waiting for the terminated command")?.is_some() {
            break;
        }
        thread::sleep(POLL);
    }
    let _ = killpg(group, Signal::SIGKILL);
    child.wait().context("waiting for the killed command").map(drop)
}

/// Kills and reaps what the command left. The children of a killed process become ours, so it goes
/// on until there are none.
fn kill_leftovers() -> Result<()> {
    loop {
        for child in children()? {
            let _ = kill(child, Signal::SIGKILL);
        }
        match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
            Err(Errno::ECHILD) => return Ok(()),
            Ok(WaitStatus::StillAlive) => thread::sleep(POLL),
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => return Err(error).context("reaping leftover processes"),
        }
    }
}

/// This process's children. Read from `/proc/*/stat`: `/proc/self/task/*/children` is not in every
/// kernel.
fn children() -> Result<Vec<Pid>> {
    let own = std::process::id();
    let processes = fs::read_dir("/proc").context("listing /proc")?;
    Ok(processes
        .flatten()
        .filter_map(|entry| {
            let pid: i32 = entry.file_name().to_str()?.parse().ok()?;
            let stat = fs::read_to_string(entry.path().join("stat")).ok()?;
            (parent(&stat)? == own).then_some(Pid::from_raw(pid))
        })
        .collect())
}

/// The parent in a line of proc(5) `stat`. The name before it may hold blanks and parentheses.
fn parent(stat: &str) -> Option<u32> {
    stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_name_cannot_forge_its_parent() {
        assert_eq!(parent("17 (sh) S 5 17 17 0 -1"), Some(5));
        assert_eq!(parent("17 (x) S 9 (y) R 5 17 17 0 -1"), Some(5));
        assert_eq!(parent("17"), None);
    }
}
