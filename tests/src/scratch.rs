//! Files and directories that are gone with their owner.

use std::sync::Once;
use std::{env, fs, io, process};

use anyhow::{Context, Result};
use tempfile::TempDir;

use crate::netns::{abandoned, start_time};

/// What the names of all of them start with.
const PREFIX: &str = "xlb-test";

/// What a name in the temporary directory starts with, so that it tells its owner, as a
/// namespace's does. What dead owners left is cleared away at first.
pub(crate) fn prefix() -> Result<String> {
    static SWEPT: Once = Once::new();
    SWEPT.call_once(|| {
        if let Err(error) = sweep() {
            eprintln!("could not clear left-over files away: {error}");
        }
    });
    let owner = process::id();
    let started = start_time(owner).context("read this process's own start time")?;
    Ok(format!("{PREFIX}-{owner}-{started}-"))
}

/// A new directory, removed with its guard.
///
/// # Errors
/// It can't be made.
pub fn directory() -> Result<TempDir> {
    tempfile::Builder::new().prefix(&prefix()?).tempdir().context("make a temporary directory")
}

fn sweep() -> io::Result<()> {
    for entry in fs::read_dir(env::temp_dir())? {
        let entry = entry?;
        if !abandoned(PREFIX, &entry.file_name().to_string_lossy()) {
            continue;
        }
        // Another process may have swept it in between.
        let _ = match entry.file_type()?.is_dir() {
            true => fs::remove_dir_all(entry.path()),
            false => fs::remove_file(entry.path()),
        };
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_dead_owners_left_is_swept() {
        let mine = directory().unwrap();
        let left = env::temp_dir().join(format!("{PREFIX}-{}-7-left", u32::MAX));
        let foreign = env::temp_dir().join(format!("{PREFIX}-kept-{}", process::id()));
        fs::create_dir_all(left.join("deep")).unwrap();
        fs::write(&foreign, "").unwrap();
        sweep().unwrap();
        assert!(mine.path().exists() && foreign.exists());
        assert!(!left.exists());
        fs::remove_file(foreign).unwrap();
    }
}
