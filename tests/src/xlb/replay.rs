//! `xlb replay`: frames in, verdicts and frames out.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde::Deserialize;

use super::{Pins, Program, Settings};
use crate::frames::pcap;

/// What became of one frame, as the program's JSON line tells it.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct Outcome {
    /// Number of the frame, from 1.
    pub frame: u64,
    /// `pass`, `tx`, `redirect`, `drop` or `aborted`.
    pub verdict: String,
    /// The service that it was sent to.
    pub service: Option<String>,
    /// The backend that it went to.
    pub backend: Option<String>,
    /// Why it was dropped.
    pub reason: Option<String>,
}

/// A frame, before and after.
#[derive(Clone, Debug)]
pub struct Replayed {
    /// As it arrived.
    pub before: Vec<u8>,
    /// As the program left it.
    pub after: Vec<u8>,
    /// What became of it.
    pub outcome: Outcome,
}

/// Sends frames through the program.
///
/// # Errors
/// The program refuses, or doesn't answer for each frame, in order.
pub fn replay(settings: &Settings, frames: &[Vec<u8>]) -> Result<Vec<Replayed>> {
    let directory = tempfile::tempdir()?;
    let read = directory.path().join("in.pcap");
    pcap::write(&read, frames)?;
    replay_file(settings, &read, &directory.path().join("out.pcap"))
}

/// Sends the frames of a capture through the program, and leaves what comes out in another.
///
/// # Errors
/// The program refuses, or doesn't answer for each frame, in order.
pub fn replay_file(settings: &Settings, read: &Path, written: &Path) -> Result<Vec<Replayed>> {
    let directory = tempfile::tempdir()?;
    let pins = Pins::new()?;
    let config = directory.path().join("xlb.toml");
    let mut settings = settings.clone();
    settings.pin_path = Some(pins.path().to_owned());
    settings.state_file = Some(directory.path().join("state.json"));
    fs::write(&config, settings.render()?)?;
    let text = |path: &Path| path.to_str().map(str::to_owned).context("a path that isn't text");
    let output = Program::find()?
        .run(&[
            "replay",
            "--config",
            &text(&config)?,
            "--read",
            &text(read)?,
            "--write",
            &text(written)?,
            "--json",
        ])?
        .expect(0)?;
    let outcomes = output
        .stdout
        .lines()
        .map(|line| serde_json::from_str(line).with_context(|| format!("read the line {line}")))
        .collect::<Result<Vec<Outcome>>>()?;
    let (before, after) = (pcap::read(read)?, pcap::read(written)?);
    ensure!(
        outcomes.len() == before.len() && after.len() == before.len(),
        "{} frames in, {} lines, {} frames out",
        before.len(),
        outcomes.len(),
        after.len()
    );
    for (number, outcome) in (1..).zip(&outcomes) {
        ensure!(outcome.frame == number, "line {number} is about frame {}", outcome.frame);
    }
    Ok(before
        .into_iter()
        .zip(after)
        .zip(outcomes)
        .map(|((before, after), outcome)| Replayed { before, after, outcome })
        .collect())
}
