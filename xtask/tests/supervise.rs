//! The supervisor of test binaries, run as `cargo xtask test` runs it.

use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

fn supervise(seconds: u32, script: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_xtask"));
    command.args(["supervise", "--deadline", &seconds.to_string(), "--", "sh", "-c", script]);
    command
}

/// Whether the process whose id is in `file` is gone, or about to be: killed, not yet reaped.
fn is_gone(file: &Path) -> bool {
    let pid = fs::read_to_string(file).expect("the command wrote its id");
    let Ok(stat) = fs::read_to_string(format!("/proc/{}/stat", pid.trim())) else { return true };
    stat.rsplit_once(") ").is_some_and(|(_, state)| state.starts_with('Z'))
}

#[test]
fn a_hung_command_is_stopped_with_what_it_started_in_another_session() {
    let directory = tempfile::tempdir().unwrap();
    let pid = directory.path().join("pid");
    // The inner shell leaves the process group and ignores the polite signal.
    let script = format!(
        "setsid sh -c 'trap \"\" TERM; echo $$ > {0}.new; mv {0}.new {0}; sleep 60' & sleep 60",
        pid.display()
    );
    let begin = Instant::now();
    let status = supervise(3, &script).status().unwrap();
    assert_eq!(status.code(), Some(124));
    assert!(begin.elapsed() < Duration::from_secs(20), "{:?}", begin.elapsed());
    assert!(is_gone(&pid));
}

#[test]
fn what_a_command_leaves_behind_is_killed() {
    let directory = tempfile::tempdir().unwrap();
    let pid = directory.path().join("pid");
    let status =
        supervise(30, &format!("setsid sleep 60 & echo $! > {}; exit 7", pid.display())).status();
    assert_eq!(status.unwrap().code(), Some(7));
    assert!(is_gone(&pid));
}

#[test]
fn a_command_that_a_signal_ended_is_told_by_its_code() {
    let status = supervise(30, "kill -SEGV $$").status().unwrap();
    assert_eq!(status.code(), Some(128 + 11));
}

#[test]
fn a_stopped_supervisor_stops_the_command() {
    let directory = tempfile::tempdir().unwrap();
    let pid = directory.path().join("pid");
    let script = format!("echo $$ > {0}.new; mv {0}.new {0}; sleep 60", pid.display());
    let mut supervisor = supervise(60, &script).stdout(Stdio::null()).spawn().unwrap();
    let deadline = Instant::now() + Duration::from_secs(10);
    while !pid.exists() {
        assert!(Instant::now() < deadline, "the command did not start");
        thread::sleep(Duration::from_millis(5));
    }
    let killed =
        Command::new("sh").args(["-c", &format!("kill -TERM {}", supervisor.id())]).status();
    assert!(killed.unwrap().success());
    assert_eq!(supervisor.wait().unwrap().code(), Some(130));
    assert!(is_gone(&pid));
}
