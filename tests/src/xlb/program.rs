//! Where the `xlb` binary is, and how it is called.

use std::env;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

/// The `xlb` binary.
#[derive(Clone, Debug)]
pub struct Program(PathBuf);

impl Program {
    /// `XLB_BIN` if set, else `xlb` under the target directory that this very program lies in,
    /// release before debug.
    ///
    /// # Errors
    /// It isn't built.
    pub fn find() -> Result<Self> {
        if let Some(path) = env::var_os("XLB_BIN").map(PathBuf::from) {
            ensure!(path.is_file(), "XLB_BIN is {}, which is no file", path.display());
            return Ok(Self(path));
        }
        let own = env::current_exe().context("find this program's own file")?;
        // target/<profile>/deps/<test>, or target/<profile>/<program>.
        let places: Vec<_> = own
            .ancestors()
            .skip(1)
            .take(3)
            .flat_map(|target| ["release", "debug"].map(|profile| target.join(profile).join("xlb")))
            .collect();
        match places.iter().find(|place| place.is_file()) {
            Some(place) => Ok(Self(place.clone())),
            None => bail!("xlb isn't built: run `cargo xtask build`, or set XLB_BIN to the binary"),
        }
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Runs a verb to its end, whatever it ends with.
    ///
    /// # Errors
    /// The program can't be started.
    pub fn run(&self, arguments: &[&str]) -> Result<Output> {
        let output = Command::new(&self.0)
            .args(arguments)
            .output()
            .with_context(|| format!("start {}", self.0.display()))?;
        Ok(Output {
            call: format!("xlb {}", arguments.join(" ")),
            status: output.status,
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        })
    }
}

/// What a verb printed, and how it ended.
#[derive(Clone, Debug)]
pub struct Output {
    call: String,
    /// 0 done, 1 failed, 2 wrong input.
    pub status: ExitStatus,
    /// What it printed.
    pub stdout: String,
    /// What it complained about.
    pub stderr: String,
}

impl Output {
    /// # Errors
    /// It ended with another status than that.
    pub fn expect(self, status: i32) -> Result<Self> {
        ensure!(
            self.status.code() == Some(status),
            "{} ended with {} instead of {status}:\n{}{}",
            self.call,
            self.status,
            self.stdout,
            self.stderr
        );
        Ok(self)
    }

    /// The JSON that it printed; null if it printed nothing.
    ///
    /// # Errors
    /// It isn't JSON.
    pub fn json(&self) -> Result<Value> {
        if self.stdout.trim().is_empty() {
            return Ok(Value::Null);
        }
        serde_json::from_str(&self.stdout)
            .with_context(|| format!("{} printed no JSON: {}", self.call, self.stdout))
    }
}
