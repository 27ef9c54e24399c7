//! Hooks that behave, and those that don't: real programs.

use std::{
    fs,
    path::{Path, PathBuf},
    time::SystemTime,
};

use tempfile::TempDir;
use tokio::{
    sync::oneshot,
    task::JoinHandle,
    time::{Instant, sleep},
};

use super::*;
use crate::api::{Cause, EventKind, News};

/// The longest that anything here takes on a busy machine.
const SOON: Duration = Duration::from_secs(20);

struct Scene {
    directory: TempDir,
    events: EventLog,
    hooks: Hooks,
    stop: Option<oneshot::Sender<()>>,
    serving: Option<JoinHandle<()>>,
}

impl Scene {
    /// Runs a shell script that finds its directory in `$1`.
    fn new(script: &str, timeout: Duration) -> Self {
        Self::of(|directory| shell(script, directory, timeout))
    }

    fn of(hook: impl FnOnce(&Path) -> Hook) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let hooks = Hooks::new(Some(hook(directory.path())));
        let events = EventLog::default();
        Self { directory, events, hooks, stop: None, serving: None }
    }

    fn serve(&mut self) {
        let (stop, stopped) = oneshot::channel::<()>();
        let serving = self.hooks.clone().serve(self.events.clone(), async {
            let _ = stopped.await;
        });
        (self.stop, self.serving) = (Some(stop), Some(tokio::spawn(serving)));
    }

    fn push(&self, message: &str) {
        let news = News::new(EventKind::Reloaded, Cause::Config, message);
        self.events.push(SystemTime::now(), news);
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap_or_default()
    }

    async fn until(&self, what: impl Fn(&HooksStatus) -> bool) -> HooksStatus {
        let deadline = Instant::now() + SOON;
        loop {
            let status = self.hooks.status();
            if what(&status) {
                return status;
            }
            assert!(Instant::now() < deadline, "in vain; at last: {status:?}");
            sleep(Duration::from_millis(5)).await;
        }
    }

    async fn end(&mut self) {
        drop(self.stop.take());
        self.serving.take().unwrap().await.unwrap();
    }
}

fn shell(script: &str, directory: &Path, timeout: Duration) -> Hook {
    let directory = directory.to_str().unwrap();
    let command = ["/bin/sh", "-c", script, "hook", directory].map(str::to_owned);
    Hook { command: command.to_vec(), timeout }
}

#[tokio::test]
async fn each_event_comes_whole_and_in_order() {
    let mut scene =
        Scene::new("cat >> $1/events; echo $XLB_EVENT $(env | wc -l) >> $1/kinds", SOON);
    scene.push("before it serves");
    scene.serve();
    for number in 2..=20 {
        scene.push(&format!("\"{number}\"\n\u{e4}"));
    }
    scene.until(|status| status.ok_total == 20).await;
    let text = scene.read("events");
    let got: Vec<crate::api::Event> =
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(got, scene.events.since(0).events);
    // PATH, XLB_EVENT, and PWD of the shell's own, perhaps with its like.
    let kinds = scene.read("kinds");
    let (kind, variables) = kinds.lines().next().unwrap().split_once(' ').unwrap();
    assert_eq!(kind, "reloaded");
    assert!(variables.trim().parse::<usize>().unwrap() <= 5, "{kinds}");
    scene.end().await;
}

#[tokio::test]
async fn one_that_hangs_is_killed_with_its_children() {
    let script = "echo $$ > $1/pid; sleep 1000 & echo $! > $1/child; echo hm; wait";
    let mut scene = Scene::new(script, Duration::from_millis(300));
    scene.push("x");
    scene.serve();
    let status = scene.until(|status| status.timed_out_total == 1).await;
    assert!(status.trouble.unwrap().ends_with(": hm"));
    for name in ["pid", "child"] {
        let deadline = Instant::now() + SOON;
        let process = format!("/proc/{}/stat", scene.read(name).trim());
        // Gone, or dead and not yet reaped by its new parent.
        while fs::read_to_string(&process).is_ok_and(|stat| !stat.contains(") Z ")) {
            assert!(Instant::now() < deadline, "{name} lives");
            sleep(Duration::from_millis(5)).await;
        }
    }
    scene.end().await;
}

#[tokio::test]
async fn one_that_is_not_there_is_counted_and_told() {
    let mut scene =
        Scene::of(|_| Hook { command: vec!["/no/such/hook".to_owned()], timeout: SOON });
    scene.serve();
    for _ in 0..100 {
        scene.push("x");
    }
    let status = scene.until(|status| status.not_started_total == 100).await;
    let trouble = status.trouble.unwrap();
    assert!(trouble.contains("/no/such/hook") && trouble.contains("on_event"), "{trouble}");
    // Mended, for what comes from then on.
    let mended = shell("cat >> $1/events", scene.directory.path(), SOON);
    scene.hooks.set(Some(mended), &scene.events);
    scene.push("y");
    let status = scene.until(|status| status.ok_total == 1).await;
    assert_eq!(status.trouble, None);
    assert_eq!(scene.read("events").lines().count(), 1);
    // And none.
    scene.hooks.set(None, &scene.events);
    scene.push("z");
    scene.end().await;
    assert_eq!(scene.hooks.status().ok_total, 1);
}

/// The event is larger than a pipe, so the writer would wait for ever.
#[tokio::test]
async fn one_that_reads_nothing_and_says_much_does_no_harm() {
    let mut scene = Scene::new("exec <&-; yes | head -c 1000000; exit 3", SOON);
    let news = News::new(EventKind::Reloaded, Cause::Config, "\u{1}".repeat(8 << 10));
    let news = news.became("\u{1}".repeat(8 << 10), "\u{1}".repeat(8 << 10));
    scene.events.push(SystemTime::now(), news);
    scene.serve();
    let status = scene.until(|status| status.failed_total == 1).await;
    let trouble = status.trouble.unwrap();
    assert!(trouble.contains("exit status 3: y y y") && trouble.len() < 5000, "{trouble}");
    scene.end().await;
}

/// Rust ignores SIGPIPE, and a child must not inherit that: `yes | head` would not end.
#[tokio::test]
async fn signals_are_as_a_program_expects_them() {
    let mut scene = Scene::new("grep -E '^Sig(Ign|Blk)' /proc/self/status > $1/signals", SOON);
    scene.push("x");
    scene.serve();
    scene.until(|status| status.ok_total == 1).await;
    let signals = scene.read("signals");
    for line in signals.lines() {
        let mask = line.split_whitespace().nth(1).unwrap();
        assert_eq!(u64::from_str_radix(mask, 16).unwrap() & (1 << 12), 0, "{signals}");
    }
    assert_eq!(signals.lines().count(), 2);
    scene.end().await;
}

#[tokio::test]
async fn what_is_left_running_is_not_waited_for() {
    let mut scene = Scene::new("sleep 30 & echo $! > $1/child", SOON);
    scene.push("x");
    scene.serve();
    scene.until(|status| status.ok_total == 1).await;
    let child: i32 = scene.read("child").trim().parse().unwrap();
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(child), nix::sys::signal::SIGKILL).unwrap();
    scene.end().await;
}

#[tokio::test]
async fn what_a_slow_one_does_not_get_to_is_counted() {
    let mut scene = Scene::new("touch $1/began; until [ -e $1/go ]; do sleep 0.01; done", SOON);
    scene.push("the slow one");
    scene.serve();
    // Only it is taken before more come than the log holds.
    let deadline = Instant::now() + SOON;
    while !scene.path("began").exists() {
        assert!(Instant::now() < deadline, "it doesn't start");
        sleep(Duration::from_millis(5)).await;
    }
    for _ in 0..5000 {
        scene.push("x");
    }
    scene.hooks.set(
        Some(Hook { command: vec!["/bin/true".to_owned()], timeout: SOON }),
        &EventLog::default(),
    );
    fs::write(scene.path("go"), "").unwrap();
    let status = scene.until(|status| status.missed_total > 0).await;
    assert_eq!(status.missed_total, 5001 - 1 - 4096);
    let serving = scene.serving.take().unwrap();
    serving.abort();
    let _ = serving.await;
}

#[tokio::test]
async fn the_last_events_get_a_while_and_no_more() {
    let mut scene = Scene::new("cat >> $1/events", SOON);
    scene.serve();
    scene.push("the agent stops");
    scene.end().await;
    assert_eq!(scene.read("events").lines().count(), 1);

    let mut scene = Scene::new("echo $$ > $1/pid; sleep 1000", SOON * 10);
    scene.push("x");
    scene.serve();
    let deadline = Instant::now() + SOON;
    while scene.read("pid").is_empty() {
        assert!(Instant::now() < deadline, "it doesn't start");
        sleep(Duration::from_millis(5)).await;
    }
    scene.push("the agent stops");
    scene.end().await;
    let process = format!("/proc/{}/stat", scene.read("pid").trim());
    while fs::read_to_string(&process).is_ok_and(|stat| !stat.contains(") Z ")) {
        assert!(Instant::now() < deadline + SOON, "it lives");
        sleep(Duration::from_millis(5)).await;
    }
}
