//! A network namespace that lives as long as its guard.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Once;
use std::sync::atomic::{AtomicU32, Ordering};
use std::{panic, process, thread};

use anyhow::{Context, Result, bail, ensure};
use nix::sched::{CloneFlags, setns};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// What the names of all our namespaces start with.
pub const PREFIX: &str = "xlbt";

/// Where iproute2 keeps the handles of named namespaces.
const DIRECTORY: &str = "/run/netns";

/// A named network namespace; dropping it removes the name.
///
/// The name tells its owner: `xlbt-<pid>-<start time of the process>-<number>-<role>`, so that
/// what a killed owner left behind can be told from what a live one uses.
#[derive(Debug)]
pub struct Namespace {
    name: String,
}

impl Namespace {
    /// Makes a namespace with its loopback up. `role` is for people who look at `ip netns`.
    ///
    /// # Errors
    /// `ip` isn't installed, or refuses.
    pub fn new(role: &str) -> Result<Self> {
        static SWEPT: Once = Once::new();
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        SWEPT.call_once(|| {
            if let Err(error) = sweep() {
                eprintln!("could not clear left-over namespaces away: {error:#}");
            }
        });
        let owner = process::id();
        let started = start_time(owner).context("read this process's own start time")?;
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("{PREFIX}-{owner}-{started}-{number}-{role}");
        run(Command::new("ip").args(["netns", "add", &name]), "")?;
        let namespace = Self { name };
        namespace.ip("link set lo up")?;
        Ok(namespace)
    }

    /// The name under `/run/netns`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Runs `ip` commands inside, one a line, without the leading `ip`.
    ///
    /// # Errors
    /// The first command that fails, with what `ip` says.
    pub fn ip(&self, commands: &str) -> Result<()> {
        run(Command::new("ip").args(["-n", &self.name, "-batch", "-"]), commands)
            .with_context(|| format!("in namespace {}: ip {commands}", self.name))?;
        Ok(())
    }

    /// What an `ip -json` command prints, for instance `link show`.
    ///
    /// # Errors
    /// The command fails or prints no JSON.
    pub fn ip_json(&self, command: &str) -> Result<serde_json::Value> {
        let arguments = command.split_whitespace();
        let text = run(
            Command::new("ip").args(["-json", "-details", "-n", &self.name]).args(arguments),
            "",
        )?;
        serde_json::from_str(&text).with_context(|| format!("read what ip {command} printed"))
    }

    /// Sets a `net.*` sysctl inside, for instance `net/ipv4/ip_forward`.
    ///
    /// # Errors
    /// The kernel has no such setting, or refuses the value.
    pub fn sysctl(&self, key: &str, value: &str) -> Result<()> {
        let path = format!("/proc/sys/{key}");
        self.run(|| fs::write(&path, value).with_context(|| format!("write {value} to {path}")))?
    }

    /// Runs `body` on a thread of its own inside, and hands back what it returns. A panic inside
    /// goes on outside. Sockets that it opens stay in this namespace wherever they are used.
    ///
    /// # Errors
    /// The namespace can't be entered.
    pub fn run<T: Send>(&self, body: impl FnOnce() -> T + Send) -> Result<T> {
        thread::scope(|scope| {
            let inside = scope.spawn(|| {
                self.enter()?;
                Ok(body())
            });
            inside.join().unwrap_or_else(|cause| panic::resume_unwind(cause))
        })
    }

    /// Moves the calling thread inside, for the rest of its life.
    ///
    /// # Errors
    /// The namespace is gone, or this process isn't root.
    pub fn enter(&self) -> Result<()> {
        let path = self.path();
        let handle = File::open(&path).with_context(|| format!("open {}", path.display()))?;
        setns(handle, CloneFlags::CLONE_NEWNET)
            .with_context(|| format!("enter namespace {}", self.name))
    }

    /// A command that starts `program` inside. It keeps the mounts of the outside, so what is
    /// pinned under `/sys/fs/bpf` is the same for all.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net={}", self.path().display())).arg("--").arg(program);
        command
    }

    /// Where the namespace's handle is.
    pub fn path(&self) -> PathBuf {
        PathBuf::from(DIRECTORY).join(&self.name)
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        if let Err(error) = run(Command::new("ip").args(["netns", "del", &self.name]), "") {
            eprintln!("could not remove namespace {}: {error:#}", self.name);
        }
    }
}

/// Runs a command to its end with `input`, and hands back what it printed.
///
/// # Errors
/// It isn't installed, or ends with another status than 0: then with what it says.
pub fn run(command: &mut Command, input: &str) -> Result<String> {
    let program = command.get_program().to_string_lossy().into_owned();
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        // What a terminal's Ctrl-C says to this process is not for a command that cleans up.
        .process_group(0)
        .spawn()
        .with_context(|| format!("start {program}: is it installed?"))?;
    if let Some(mut stdin) = child.stdin.take() {
        // A program that ends before it read everything says why by its status.
        let _ = stdin.write_all(input.as_bytes());
    }
    let output = child.wait_with_output().with_context(|| format!("wait for {program}"))?;
    ensure!(
        output.status.success(),
        "{command:?} ended with {}: {}",
        output.status,
        String::from_utf8_lossy(&output.stderr).trim()
    );
    String::from_utf8(output.stdout).with_context(|| format!("{program} printed no UTF-8"))
}

/// Removes namespaces whose owners are dead, and ends the processes in them.
fn sweep() -> Result<()> {
    let Ok(entries) = fs::read_dir(DIRECTORY) else { return Ok(()) };
    for entry in entries {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if !abandoned(PREFIX, &name) {
            continue;
        }
        let inside = run(Command::new("ip").args(["netns", "pids", &name]), "").unwrap_or_default();
        for pid in inside.split_whitespace().filter_map(|pid| pid.parse().ok()) {
            // It may have ended by itself in between.
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
        // Another test process may have swept it in between.
        let _ = run(Command::new("ip").args(["netns", "del", &name]), "");
    }
    Ok(())
}

/// Whether something of this name, which starts with `prefix`, is one of ours, and its owner dead.
pub(crate) fn abandoned(prefix: &str, name: &str) -> bool {
    let Some((owner, started)) = owner(prefix, name) else { return false };
    start_time(owner).map_or(true, |now| now != started)
}

/// Pid and start time of the process that something of this name belongs to.
fn owner(prefix: &str, name: &str) -> Option<(u32, u64)> {
    let mut parts = name.strip_prefix(prefix)?.strip_prefix('-')?.split('-');
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

/// When a process started, in clock ticks since boot: with the pid it names one process for ever
/// (proc_pid_stat(5), field 22).
pub(crate) fn start_time(pid: u32) -> Result<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The second field is the program's name in parentheses, which may hold anything.
    let Some((_, fields)) = text.rsplit_once(')') else { bail!("/proc/{pid}/stat: {text}") };
    let started = fields.split_whitespace().nth(19).context("a line of stat is short")?;
    Ok(started.parse()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_tells_its_owner() {
        assert_eq!(owner(PREFIX, "xlbt-12-345-0-client"), Some((12, 345)));
        assert_eq!(owner(PREFIX, "xlbt-12"), None);
        assert_eq!(owner(PREFIX, "other-12-345-0"), None);
    }

    #[test]
    fn knows_its_own_start() {
        let now = start_time(process::id()).unwrap();
        assert_eq!(now, start_time(process::id()).unwrap());
        assert!(start_time(u32::MAX).is_err());
    }
}
