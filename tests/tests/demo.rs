//! The demo cleans up, however it ends.

use std::process::Command;
use std::time::Duration;
use std::{env, fs};

use anyhow::{Result, ensure};
use nix::sys::signal::Signal;
use xlb_tests::process::Process;
use xlb_tests::xlb::Program;
use xlb_tests::{need_root, wait};

const PATIENCE: Duration = Duration::from_secs(30);

#[test]
fn an_interrupted_demo_leaves_nothing() -> Result<()> {
    need_root!();
    let mut command = Command::new(env!("CARGO_BIN_EXE_demo"));
    let mut demo = Process::start("demo", command.env("XLB_BIN", Program::find()?.path()))?;
    wait::until("the first requests", PATIENCE, || {
        demo.alive()?;
        ensure!(demo.log().contains("Sending"), "none yet");
        Ok(())
    })?;
    demo.signal(Signal::SIGINT)?;
    let status = demo.wait(PATIENCE)?;
    let log = demo.log();
    ensure!(status.code() == Some(130), "it ended with {status}:\n{log}");
    ensure!(log.ends_with("Interrupted; cleaning up.\n"), "it said:\n{log}");
    let owner = demo.pid();
    for (directory, prefix) in [
        ("/run/netns".into(), format!("xlbt-{owner}-")),
        ("/sys/fs/bpf".into(), format!("xlb-test-{owner}-")),
        (env::temp_dir(), format!("xlb-test-{owner}-")),
    ] {
        for entry in fs::read_dir(directory)? {
            let name = entry?.file_name().to_string_lossy().into_owned();
            ensure!(!name.starts_with(&prefix), "{name} is left");
        }
    }
    Ok(())
}
