//! A capture of every kind of frame, made by scapy: a third opinion beside ours and Wireshark's.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

use crate::netns::run;

/// The script that makes the frames.
const SCRIPT: &str = include_str!("every_kind.py");

/// Writes the capture.
///
/// # Errors
/// No Python with scapy is installed: Debian's package is `python3-scapy`.
pub fn write(path: &Path) -> Result<()> {
    // A Python of the user's own, first in the path, may lack what the system's has.
    let python = ["python3", "/usr/bin/python3"]
        .into_iter()
        .find(|python| run(Command::new(python).args(["-c", "import scapy.all"]), "").is_ok())
        .context("no python3 with scapy: install the package python3-scapy")?;
    run(Command::new(python).arg("-").arg(path), SCRIPT)?;
    Ok(())
}
