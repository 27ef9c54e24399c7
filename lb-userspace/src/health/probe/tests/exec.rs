//! Programs that end well, badly, late, or not alone.

use std::{
    net::Ipv4Addr,
    path::Path,
    time::{Duration, Instant},
};

use super::*;

fn shell(script: &str) -> ActiveCheck {
    check(Probe::Exec { command: ["/bin/sh", "-c", script].map(str::to_owned).to_vec() })
}

async fn run_here(check: ActiveCheck) -> Outcome {
    probe((Ipv4Addr::LOCALHOST, 8080).into(), check).await
}

#[tokio::test]
async fn the_exit_status_decides() {
    assert_eq!(run_here(shell("exit 0")).await, Outcome::Passed("exit status 0".to_owned()));
    let told = run_here(shell("echo; echo ' well '; echo more; exit 0")).await;
    assert_eq!(told, Outcome::Passed("\"well\"".to_owned()));
    let told = run_here(shell("echo oh >&2; exit 7")).await;
    assert_eq!(told, Outcome::Failed("exit status 7: \"oh\"".to_owned()));
    assert_failed(&run_here(shell("kill -9 $$")).await, "killed by signal 9");
}

#[tokio::test]
async fn the_program_is_told_whom_to_check() {
    let script = "echo $XLB_SERVICE $XLB_VIP $XLB_PORT $XLB_BACKEND $XLB_BACKEND_PORT $HOME `pwd`";
    let outcome = run_here(shell(script)).await;
    assert_eq!(outcome.reason(), "\"web 203.0.113.10 80 127.0.0.1 8080 /\"");
    // Arguments are no shell's business.
    let command = ["/bin/echo", "$XLB_VIP", "a b; exit 1"].map(str::to_owned).to_vec();
    let outcome = run_here(check(Probe::Exec { command })).await;
    assert_eq!(outcome.reason(), "\"$XLB_VIP a b; exit 1\"");
}

#[tokio::test]
async fn what_cant_be_run_says_nothing_of_the_backend() {
    for program in ["/nonexistent/program", "/etc/passwd"] {
        let outcome = run_here(check(Probe::Exec { command: vec![program.to_owned()] })).await;
        assert!(
            matches!(&outcome, Outcome::Inconclusive(seen) if seen.contains(program)),
            "{outcome:?}"
        );
    }
}

/// Whether the process is there, dead ones that nobody reaped among them.
fn is_there(pid: &str) -> bool {
    Path::new("/proc").join(pid).exists()
}

/// Whether the process runs. Who reaps the child of a program that was killed isn't told.
fn runs(pid: &str) -> bool {
    let stat = std::fs::read_to_string(Path::new("/proc").join(pid).join("stat"));
    stat.is_ok_and(|stat| !stat.rsplit(')').next().is_some_and(|rest| rest.starts_with(" Z")))
}

/// Waits until the program is reaped, and its child dead.
async fn until_gone(pids: &[String]) {
    let [program, child] = pids else { panic!("two processes: {pids:?}") };
    let begun = Instant::now();
    while is_there(program) || runs(child) {
        assert!(begun.elapsed() < PATIENCE, "{program} or {child} is still there");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Itself and a child of it, that both would run for long.
const LONG: &str = "sleep 1000 & echo $$ $! > $1; echo begun; wait";

fn long(file: &Path) -> ActiveCheck {
    let file = file.to_str().expect("a path in UTF-8");
    let command = ["/bin/sh", "-c", LONG, "sh", file].map(str::to_owned).to_vec();
    check(Probe::Exec { command })
}

async fn pids(file: &Path) -> Vec<String> {
    let begun = Instant::now();
    loop {
        let text = std::fs::read_to_string(file).unwrap_or_default();
        if text.ends_with('\n') {
            return text.split_whitespace().map(str::to_owned).collect();
        }
        assert!(begun.elapsed() < PATIENCE, "the program doesn't begin");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn the_whole_group_is_killed_in_time() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let timeout = Duration::from_secs(1);
    let outcome = run_here(ActiveCheck { timeout, ..long(file.path()) }).await;
    assert_failed(&outcome, "timed out after 1s while running /bin/sh: \"begun\"");
    until_gone(&pids(file.path()).await).await;
}

#[tokio::test]
async fn a_check_that_ends_takes_its_program_with_it() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let task = tokio::spawn(run_here(long(file.path())));
    let pids = pids(file.path()).await;
    assert!(pids.iter().all(|pid| is_there(pid)), "{pids:?}");
    task.abort();
    until_gone(&pids).await;
}

#[tokio::test]
async fn endless_output_is_read_and_thrown_away() {
    let outcome = run_here(shell("yes | head -c 3000000; exit 3")).await;
    assert_eq!(outcome, Outcome::Failed("exit status 3: \"y\"".to_owned()));
}

#[tokio::test]
async fn what_is_left_running_isnt_waited_for() {
    let outcome = run_here(shell("sleep 1000 & echo $!; exit 0")).await;
    let pid: i32 = outcome.reason().trim_matches('"').parse().expect("a number");
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL)
        .expect("it runs on");
    assert_passed(&outcome);
}

#[tokio::test]
async fn programs_wait_for_a_place() {
    let means = Means::new();
    let all = means.places.acquire_many(super::super::exec::AT_ONCE as u32).await.unwrap();
    let hurried =
        spec((Ipv4Addr::LOCALHOST, 80).into(), ActiveCheck { timeout: SHORT, ..shell("") });
    let outcome = run(&hurried, &means).await.outcome;
    assert!(
        matches!(&outcome, Outcome::Inconclusive(seen) if seen.contains("64 other programs")),
        "{outcome:?}"
    );
    drop(all);
    assert_passed(&run(&spec((Ipv4Addr::LOCALHOST, 80).into(), shell("")), &means).await.outcome);
}
