//! What the command line does with odd surroundings: exit statuses, and streams that take nothing.
//! Nothing here needs root.

use std::fs::{self, File};
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use xlb_tests::frames::pcap;
use xlb_tests::xlb::Program;

const GOOD: &str = "interfaces = [\"eth0\"]\n";

/// Runs `xlb`, and gives its status and what it complained about.
fn run(arguments: &[&str], stdout: Stdio, environment: &[(&str, &str)]) -> Result<(i32, String)> {
    let mut command = Command::new(Program::find()?.path());
    command.args(arguments).envs(environment.iter().copied());
    let output = command.stdout(stdout).stderr(Stdio::piped()).spawn()?.wait_with_output()?;
    let words = String::from_utf8_lossy(&output.stderr).into_owned();
    Ok((output.status.code().with_context(|| format!("killed: {words}"))?, words))
}

fn text(path: &Path) -> Result<&str> {
    path.to_str().context("a path that isn't text")
}

#[test]
fn a_capture_that_is_none_is_wrong_input() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let path = |name: &str| directory.path().join(name);
    fs::write(path("xlb.toml"), GOOD)?;
    fs::write(path("empty"), "")?;
    pcap::write(&path("good"), &[vec![0; 60]])?;
    let config = path("xlb.toml");
    for read in ["missing", "empty", "xlb.toml"] {
        let read = path(read);
        let arguments = ["replay", "--config", text(&config)?, "--read", text(&read)?];
        let (status, words) = run(&arguments, Stdio::null(), &[])?;
        ensure!(status == 2 && words.contains("the capture"), "{status}: {words}");
    }
    // The capture itself, by another name.
    let (good, same) = (path("good"), path("same"));
    std::os::unix::fs::symlink(&good, &same)?;
    let before = fs::read(&good)?;
    for write in [&good, &same] {
        let arguments =
            ["replay", "--config", text(&config)?, "--read", text(&good)?, "--write", text(write)?];
        let (status, words) = run(&arguments, Stdio::null(), &[])?;
        ensure!(status == 2 && words.contains("overwritten"), "{status}: {words}");
        ensure!(fs::read(&good)? == before, "the capture was changed");
    }
    Ok(())
}

#[test]
fn an_empty_variable_is_none() -> Result<()> {
    let (status, words) = run(&["status"], Stdio::null(), &[("XLB_SOCKET", "")])?;
    ensure!(status != 2 && !words.contains("a value is required"), "{status}: {words}");
    let (status, words) = run(&["status"], Stdio::null(), &[("XLB_SOCKET", "/nowhere/x")])?;
    ensure!(status == 1 && words.contains("/nowhere/x"), "{status}: {words}");
    Ok(())
}

#[test]
fn streams_that_take_nothing_end_no_verb_by_a_panic() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let (good, bad) = (directory.path().join("good"), directory.path().join("bad"));
    fs::write(&good, GOOD)?;
    fs::write(&bad, "wat = 1\n")?;
    for json in [&[][..], &["--json"]] {
        for verb in [&["check", text(&good)?][..], &["completions", "bash"]] {
            let arguments = [verb, json].concat();
            let full = File::options().write(true).open("/dev/full")?;
            let (status, words) = run(&arguments, full.into(), &[])?;
            ensure!(status == 1 && words.contains("can't write"), "{verb:?} {status}: {words}");
            // A reader that is gone has read enough.
            let (reader, writer) = std::io::pipe()?;
            drop(reader);
            let (status, words) = run(&arguments, writer.into(), &[])?;
            ensure!(status == 0 && words.is_empty(), "{verb:?} {status}: {words}");
        }
        let full = File::options().write(true).open("/dev/full")?;
        let program = Program::find()?;
        let mut command = Command::new(program.path());
        let status = command.arg("check").arg(&bad).args(json).stdout(Stdio::null()).stderr(full);
        ensure!(status.status()?.code() == Some(2), "a bad config, and nowhere to say it");
    }
    Ok(())
}
