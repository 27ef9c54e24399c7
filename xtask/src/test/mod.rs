//! `test`: builds everything, runs every test binary under a deadline, and adds up what they say.

mod binaries;
mod report;

use std::{
    ffi::{OsStr, OsString},
    io::{self, BufRead as _, BufReader},
    path::Path,
    process::{Command, ExitCode, ExitStatus, Stdio},
    sync::mpsc::{self, RecvTimeoutError},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};

use self::{binaries::Binary, report::Report};
use crate::{
    build, command,
    setup::{self, Use},
    supervise,
    workspace::Workspace,
};

/// How long one test binary of the unit tier may take, and all documentation tests.
const UNIT_DEADLINE: Duration = Duration::from_secs(300);
/// How long one test binary of the root tier may take.
const ROOT_DEADLINE: Duration = Duration::from_secs(600);
/// Root tests run traffic and wait for conditions; more at once only disturb each other.
const ROOT_THREADS: &str = "--test-threads=2";
/// How long output is awaited after a test binary's end, should something hold its pipe.
const DRAIN: Duration = Duration::from_secs(2);
/// What a supervisor needs after the deadline to end the processes.
const SUPERVISOR_SLACK: Duration = Duration::from_secs(30);

/// Tests that need nothing, or tests that need root.
#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Tier {
    Unit,
    Root,
}

/// Which tests to run.
pub(crate) struct Selection {
    pub(crate) filter: Option<String>,
    pub(crate) tier: Option<Tier>,
    pub(crate) binary: Option<String>,
}

impl Selection {
    fn runs(&self, tier: Tier) -> bool {
        match self.binary {
            Some(_) => tier == Tier::Root,
            None => self.tier.is_none_or(|only| only == tier),
        }
    }

    fn has(&self, binary: &Binary) -> bool {
        self.runs(binary.tier) && self.binary.as_ref().is_none_or(|name| *name == binary.name)
    }
}

/// Runs the selected tests. The code is failure if any failed, hung or could not run.
pub(crate) fn run(workspace: &Workspace, selection: &Selection) -> Result<ExitCode> {
    if selection.runs(Tier::Root) {
        setup::root_access("running the tests that use network namespaces and BPF")?;
        setup::machine(Use::Test)?;
    }
    let xlb = build::xlb(workspace, false)?;
    let binaries = binaries::build(workspace)?;
    let selected: Vec<_> = binaries.iter().filter(|binary| selection.has(binary)).collect();
    if let Some(name) = &selection.binary
        && selected.is_empty()
    {
        let names = binaries.iter().filter(|binary| binary.tier == Tier::Root);
        let names: Vec<_> = names.map(|binary| binary.name.as_str()).collect();
        bail!("no test binary {name} in the root tier; there are: {}", names.join(", "));
    }

    let mut report = Report::default();
    for tier in [Tier::Unit, Tier::Root] {
        for binary in selected.iter().filter(|binary| binary.tier == tier) {
            println!("\ntest: {}", binary.title());
            run_binary(workspace, binary, selection, &xlb, &mut report)?;
        }
        if tier == Tier::Unit && selection.runs(Tier::Unit) {
            println!("\ntest: examples in the documentation");
            run_examples(workspace, selection, &mut report)?;
        }
    }
    print!("\n{report}");
    Ok(if report.is_success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn run_binary(
    workspace: &Workspace,
    binary: &Binary,
    selection: &Selection,
    xlb: &Path,
    report: &mut Report,
) -> Result<()> {
    // Without `--show-output`, libtest drops what passing tests print, SKIP lines among it.
    let mut arguments: Vec<OsString> = vec![binary.path.clone().into(), "--show-output".into()];
    arguments.extend(selection.filter.iter().map(Into::into));
    let manifest_directory = binary.directory.as_os_str();
    let keep = [("XLB_BIN", xlb.as_os_str()), ("CARGO_MANIFEST_DIR", manifest_directory)];
    let (mut command, deadline) = match binary.tier {
        Tier::Unit => (supervised(workspace, &arguments, UNIT_DEADLINE, None)?, UNIT_DEADLINE),
        Tier::Root => {
            arguments.push(ROOT_THREADS.into());
            (supervised(workspace, &arguments, ROOT_DEADLINE, Some(&keep))?, ROOT_DEADLINE)
        }
    };
    command.envs(keep).current_dir(&binary.directory);
    let status = collect(command, deadline, &mut |line| report.line(&binary.title(), line))?;
    report.end(&binary.title(), &Outcome::of(status, deadline));
    Ok(())
}

fn run_examples(workspace: &Workspace, selection: &Selection, report: &mut Report) -> Result<()> {
    let cargo = workspace.cargo();
    let mut arguments = vec![cargo.get_program().to_owned()];
    arguments.extend(
        ["test", "--doc", "--workspace", "--exclude", "lb-ebpf", "--quiet", "--no-fail-fast", "--"]
            .map(Into::into),
    );
    arguments.push("--show-output".into());
    arguments.extend(selection.filter.iter().map(Into::into));
    let mut command = supervised(workspace, &arguments, UNIT_DEADLINE, None)?;
    command.current_dir(&workspace.root);
    for (key, value) in cargo.get_envs() {
        match value {
            Some(value) => command.env(key, value),
            None => command.env_remove(key),
        };
    }
    let title = "examples in the documentation";
    let status = collect(command, UNIT_DEADLINE, &mut |line| report.line(title, line))?;
    report.end(title, &Outcome::of(status, UNIT_DEADLINE));
    Ok(())
}

/// This program as a supervisor of `arguments`; with `keep`, as root and with these variables.
fn supervised(
    workspace: &Workspace,
    arguments: &[OsString],
    deadline: Duration,
    keep: Option<&[(&str, &OsStr)]>,
) -> Result<Command> {
    let mut command = match keep {
        Some(keep) => command::as_root(&workspace.xtask, keep, "running tests of the root tier")?,
        None => Command::new(&workspace.xtask),
    };
    command.args(["supervise", "--deadline", &deadline.as_secs().to_string(), "--"]);
    command.args(arguments);
    Ok(command)
}

/// How a test binary ended.
enum Outcome {
    /// It ended by itself, with this code; none if a signal ended the supervisor.
    Exited(Option<i32>),
    TimedOut(Duration),
}

impl Outcome {
    fn of(status: ExitStatus, deadline: Duration) -> Self {
        match status.code() {
            Some(code) if code == i32::from(supervise::TIMED_OUT) => Self::TimedOut(deadline),
            code => Self::Exited(code),
        }
    }
}

/// Runs `command` and gives each line of its output (stdout and stderr in the order they came) to
/// `each`, which says whether to print it.
fn collect(
    mut command: Command,
    deadline: Duration,
    each: &mut dyn FnMut(&str) -> bool,
) -> Result<ExitStatus> {
    let (reader, writer) = io::pipe().context("making a pipe for a test's output")?;
    let errors = writer.try_clone().context("making a pipe for a test's output")?;
    command.stdin(Stdio::inherit()).stdout(writer).stderr(errors);
    let mut child =
        command.spawn().with_context(|| format!("starting {}", command.get_program().display()))?;
    // The command holds the pipe's writing end, which would keep the reader from its end.
    drop(command);
    let (lines, received) = mpsc::channel();
    thread::spawn(move || {
        for line in BufReader::new(reader).split(b'\n').map_while(Result::ok) {
            if lines.send(String::from_utf8_lossy(&line).into_owned()).is_err() {
                break;
            }
        }
    });

    let give_up = Instant::now() + deadline + SUPERVISOR_SLACK;
    let mut ended: Option<(ExitStatus, Instant)> = None;
    loop {
        match received.recv_timeout(Duration::from_millis(50)) {
            Ok(line) => {
                if each(&line) {
                    println!("{line}");
                }
            }
            Err(RecvTimeoutError::Disconnected) => break,
            Err(RecvTimeoutError::Timeout) => {
                if ended.is_none()
                    && let Some(status) = child.try_wait().context("waiting for a test binary")?
                {
                    ended = Some((status, Instant::now()));
                }
            }
        }
        if ended.is_some_and(|(_, at)| at.elapsed() > DRAIN) {
            break;
        }
        if ended.is_none() && Instant::now() > give_up {
            child.kill().context("killing a supervisor that does not end")?;
            break;
        }
    }
    match ended {
        Some((status, _)) => Ok(status),
        None => child.wait().context("waiting for a test binary"),
    }
}
