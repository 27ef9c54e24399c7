//! Running other programs: to success or to an error that says which command failed and how.

use std::{
    env,
    ffi::OsStr,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Command, ExitStatus, Output, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

/// How often a command and signals are looked at.
const POLL: Duration = Duration::from_millis(20);

/// Runs `command` with this process's terminal; `doing` says what for ("building xlb").
pub(crate) fn run(command: &mut Command, doing: &str) -> Result<()> {
    let status = command
        .status()
        .with_context(|| format!("{doing}: cannot start {}", command.get_program().display()))?;
    if !status.success() {
        bail!("{doing} failed ({status}): {}", line(command));
    }
    Ok(())
}

/// Runs `command` to its end, also when this process is asked to end: then the command is asked,
/// and cleans up.
pub(crate) fn run_through_signals(command: &mut Command) -> Result<ExitStatus> {
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        signal_hook::flag::register(signal as i32, Arc::clone(&stop))
            .with_context(|| format!("handling {signal}"))?;
    }
    let cannot = |doing: &str| format!("cannot {doing} {}", command.get_program().display());
    let (start, wait) = (cannot("start"), cannot("wait for"));
    let mut child = command.spawn().context(start)?;
    loop {
        if let Some(status) = child.try_wait().with_context(|| wait.clone())? {
            return Ok(status);
        }
        if stop.swap(false, Ordering::Relaxed) {
            // sudo takes no signals of other users; its terminal's reach it without us.
            let _ = kill(Pid::from_raw(child.id().cast_signed()), Signal::SIGTERM);
        }
        thread::sleep(POLL);
    }
}

/// Runs `command` and returns what it printed on stdout; what it printed on stderr is in the error.
pub(crate) fn output(command: &mut Command, doing: &str) -> Result<String> {
    let output = capture(command, doing)?;
    if !output.status.success() {
        bail!(
            "{doing} failed ({}): {}\n{}",
            output.status,
            line(command),
            String::from_utf8_lossy(&output.stderr).trim_end()
        );
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Runs `command` without input and returns all of its output, whether it succeeded or not.
pub(crate) fn capture(command: &mut Command, doing: &str) -> Result<Output> {
    command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("{doing}: cannot start {}", command.get_program().display()))
}

/// The command as a person would type it.
pub(crate) fn line(command: &Command) -> String {
    let mut line = command.get_program().to_string_lossy().into_owned();
    for argument in command.get_args() {
        line.push(' ');
        line.push_str(&argument.to_string_lossy());
    }
    line
}

/// Where a program is: in `PATH`, else where Debian keeps what only root has in its `PATH`.
pub(crate) fn find(program: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    find_in(program, env::split_paths(&path))
        .or_else(|| find_in(program, ["/usr/local/sbin", "/usr/sbin", "/sbin"].map(PathBuf::from)))
}

fn find_in(program: &str, directories: impl IntoIterator<Item = PathBuf>) -> Option<PathBuf> {
    directories.into_iter().map(|directory| directory.join(program)).find(|path| is_program(path))
}

fn is_program(path: &Path) -> bool {
    path.metadata()
        .is_ok_and(|metadata| metadata.is_file() && metadata.permissions().mode() & 0o111 != 0)
}

/// Whether this process is root.
pub(crate) fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

/// A command to run as root: the program itself if this is root, else through sudo with the
/// variables named in `keep`; `why` ends the error if there is no sudo.
pub(crate) fn as_root(
    program: impl AsRef<OsStr>,
    keep: &[(&str, &OsStr)],
    why: &str,
) -> Result<Command> {
    if is_root() {
        let mut command = Command::new(program);
        command.envs(keep.iter().copied());
        return Ok(command);
    }
    let Some(sudo) = find("sudo") else {
        bail!("{why} needs root: run it as root, or install sudo");
    };
    let mut command = Command::new(sudo);
    command.arg("env");
    for (key, value) in keep {
        let mut pair = OsStr::new(key).to_owned();
        pair.push("=");
        pair.push(value);
        command.arg(pair);
    }
    command.arg(program);
    Ok(command)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_names_the_command_its_status_and_its_words() {
        let error = output(Command::new("sh").args(["-c", "echo broken >&2; exit 3"]), "trying")
            .unwrap_err();
        let message = format!("{error:#}");
        assert!(message.contains("trying failed"), "{message}");
        assert!(message.contains("exit status: 3"), "{message}");
        assert!(message.contains("broken"), "{message}");
    }

    #[test]
    fn a_program_is_found_only_where_it_can_be_executed() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("tool");
        std::fs::write(&path, "").unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
        assert_eq!(find_in("tool", [directory.path().to_path_buf()]), None);
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        assert_eq!(find_in("tool", [directory.path().to_path_buf()]), Some(path));
    }
}
