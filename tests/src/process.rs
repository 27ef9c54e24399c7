//! A child process that ends with its guard.

use std::fs::{self, File};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;
use std::{env, thread};

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::{scratch, wait};

/// How long a process may take to end after SIGTERM.
const PATIENCE: Duration = Duration::from_secs(5);

/// A running program, with what it prints kept in a file.
///
/// Dropped, it gets SIGTERM and, if it is still there after 5 s, SIGKILL, with all of its process
/// group. In a test that panics, the end of what it printed is shown.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    log: PathBuf,
    ended: Option<ExitStatus>,
}

impl Process {
    /// Starts `command` in a process group of its own. `name` is for messages.
    ///
    /// # Errors
    /// The program can't be started.
    pub fn start(name: &str, command: &mut Command) -> Result<Self> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let log = env::temp_dir().join(format!("{}{number}.log", scratch::prefix()?));
        let output = File::create(&log).with_context(|| format!("create {}", log.display()))?;
        let child = command
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output)
            .process_group(0)
            .spawn()
            .with_context(|| format!("start {name}: {command:?}"))?;
        Ok(Self { name: name.to_owned(), child, log, ended: None })
    }

    /// The process's number.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// All that it printed so far.
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Its exit status, if it ended.
    ///
    /// # Errors
    /// The kernel can't tell.
    pub fn ended(&mut self) -> Result<Option<ExitStatus>> {
        if self.ended.is_none() {
            self.ended = self.child.try_wait()?;
        }
        Ok(self.ended)
    }

    /// An error, with what it printed, if the process is no longer there.
    ///
    /// # Errors
    /// It ended.
    pub fn alive(&mut self) -> Result<()> {
        match self.ended()? {
            None => Ok(()),
            Some(status) => bail!("{} ended with {status}; it printed:\n{}", self.name, self.log()),
        }
    }

    /// Sends a signal to the process group.
    ///
    /// # Errors
    /// The process is no longer there.
    pub fn signal(&mut self, signal: Signal) -> Result<()> {
        self.alive()?;
        killpg(self.group(), signal).with_context(|| format!("send {signal} to {}", self.name))
    }

    /// Waits for the end.
    ///
    /// # Errors
    /// It is still there after `deadline`.
    pub fn wait(&mut self, deadline: Duration) -> Result<ExitStatus> {
        let what = format!("the end of {}", self.name);
        // Cleaning up, too, waits here.
        wait::regardless(&what, deadline, || self.ended()?.context("it is still running"))
    }

    /// SIGTERM, then waits for the end.
    ///
    /// # Errors
    /// It had ended before, or doesn't end within 5 s.
    pub fn stop(&mut self) -> Result<ExitStatus> {
        self.signal(Signal::SIGTERM)?;
        self.wait(PATIENCE)
    }

    /// SIGKILL, then waits for the end.
    ///
    /// # Errors
    /// It had ended before.
    pub fn kill(&mut self) -> Result<()> {
        self.signal(Signal::SIGKILL)?;
        self.wait(PATIENCE)?;
        Ok(())
    }

    fn group(&self) -> Pid {
        Pid::from_raw(self.child.id().cast_signed())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if matches!(self.ended(), Ok(None)) && self.stop().is_err() && self.kill().is_err() {
            eprintln!("could not end {} (pid {})", self.name, self.child.id());
        }
        if thread::panicking() {
            let log = self.log();
            let from = log.char_indices().rev().nth(4000).map_or(0, |(index, _)| index);
            eprintln!("--- {} printed (the end of it):\n{}", self.name, &log[from..]);
        }
        // The system's own cleaning of the temporary directory gets what stays.
        let _ = fs::remove_file(&self.log);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_a_program_that_ignores_sigterm() {
        let mut process = Process::start(
            "stubborn",
            Command::new("sh").args(["-c", "trap '' TERM; echo up; while :; do sleep 1; done"]),
        )
        .unwrap();
        wait::until("the first line", PATIENCE, || {
            if process.log().contains("up") { Ok(()) } else { bail!("nothing yet") }
        })
        .unwrap();
        assert!(process.stop().is_err());
        process.kill().unwrap();
        assert!(process.alive().unwrap_err().to_string().contains("up"));
    }

    #[test]
    fn tells_status_and_output() {
        let mut process =
            Process::start("short", Command::new("sh").args(["-c", "echo said; exit 3"])).unwrap();
        assert_eq!(process.wait(PATIENCE).unwrap().code(), Some(3));
        assert_eq!(process.log(), "said\n");
    }
}
