//! A directory on the BPF file system that goes away with its guard.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::{fs, process};

use anyhow::{Context, Result};

use crate::netns::{abandoned, run, start_time};

/// Where the BPF file system is mounted.
const BPFFS: &str = "/sys/fs/bpf";

/// What the names of our directories start with.
const PREFIX: &str = "xlb-test";

/// A place for pins. Dropping it removes what is pinned there: programs are detached, maps freed.
#[derive(Debug)]
pub struct Pins(PathBuf);

impl Pins {
    /// Names a place of its own. Nothing is made there yet: that is the program's work. Places
    /// whose owners are dead are cleared away.
    ///
    /// # Errors
    /// The BPF file system can't be mounted.
    pub fn new() -> Result<Self> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        mount()?;
        sweep().context("clear left-over pins away")?;
        let owner = process::id();
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("{PREFIX}-{owner}-{}-{number}", start_time(owner)?);
        Ok(Self(Path::new(BPFFS).join(name)))
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Pins {
    fn drop(&mut self) {
        if self.0.exists()
            && let Err(error) = fs::remove_dir_all(&self.0)
        {
            eprintln!("could not remove {}: {error}", self.0.display());
        }
    }
}

fn mount() -> Result<()> {
    let mounts = fs::read_to_string("/proc/mounts").context("read /proc/mounts")?;
    let mounted = mounts.lines().any(|line| {
        let mut fields = line.split(' ').skip(1);
        fields.next() == Some(BPFFS) && fields.next() == Some("bpf")
    });
    if !mounted {
        run(Command::new("mount").args(["-t", "bpf", "bpf", BPFFS]), "")?;
    }
    Ok(())
}

fn sweep() -> Result<()> {
    for entry in fs::read_dir(BPFFS)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if !abandoned(PREFIX, &name) {
            continue;
        }
        // Another test process may have swept it in between.
        let _ = fs::remove_dir_all(entry.path());
    }
    Ok(())
}
