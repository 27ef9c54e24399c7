//! The workspace's test binaries, built, and to which tier each belongs.

use std::{
    path::{Path, PathBuf},
    process::Stdio,
};

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use super::Tier;
use crate::{command, workspace::Workspace};

/// A test binary.
pub(super) struct Binary {
    /// The target's name: a file of `tests/tests`, or the crate that holds unit tests.
    pub(super) name: String,
    pub(super) path: PathBuf,
    /// The package's directory, in which cargo runs tests.
    pub(super) directory: PathBuf,
    pub(super) tier: Tier,
}

impl Binary {
    /// What the output calls it.
    pub(super) fn title(&self) -> String {
        match self.tier {
            Tier::Unit => format!("{} (unit)", self.name),
            Tier::Root => format!("{} (root)", self.name),
        }
    }
}

/// Builds all test binaries of the host's crates.
pub(super) fn build(workspace: &Workspace) -> Result<Vec<Binary>> {
    let mut cargo = workspace.cargo();
    cargo.args(["test", "--no-run", "--workspace", "--exclude", "lb-ebpf"]);
    cargo.args(["--all-targets", "--message-format=json-render-diagnostics"]);
    let output = cargo
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .context("building the tests: cannot start cargo")?;
    if !output.status.success() {
        bail!("building the tests failed ({}): {}", output.status, command::line(&cargo));
    }
    let root_tests = workspace.root.join("tests/tests");
    let binaries: Vec<_> = String::from_utf8_lossy(&output.stdout)
        .lines()
        .filter_map(|line| serde_json::from_str(line).ok())
        .filter_map(|message: Value| binary(&message, &root_tests))
        .collect();
    if binaries.is_empty() {
        bail!("cargo built no test binary: {}", command::line(&cargo));
    }
    Ok(binaries)
}

/// The test binary that a message of cargo's tells of. The root tier is what lies in `tests/tests`.
fn binary(message: &Value, root_tests: &Path) -> Option<Binary> {
    if message["reason"] != "compiler-artifact" || message["profile"]["test"] != true {
        return None;
    }
    let source = Path::new(message["target"]["src_path"].as_str()?);
    Some(Binary {
        name: message["target"]["name"].as_str()?.to_owned(),
        path: message["executable"].as_str()?.into(),
        directory: Path::new(message["manifest_path"].as_str()?).parent()?.to_owned(),
        tier: if source.starts_with(root_tests) { Tier::Root } else { Tier::Unit },
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_root_tier_is_told_by_where_the_source_lies() {
        let message = |source: &str| {
            json!({
                "reason": "compiler-artifact",
                "profile": {"test": true},
                "target": {"name": "replay", "src_path": source},
                "manifest_path": "/w/tests/Cargo.toml",
                "executable": "/w/target/debug/deps/replay-1",
            })
        };
        let root_tests = Path::new("/w/tests/tests");
        let root = binary(&message("/w/tests/tests/replay.rs"), root_tests).unwrap();
        assert!(root.tier == Tier::Root);
        assert_eq!(root.directory, Path::new("/w/tests"));
        let unit = binary(&message("/w/tests/src/lib.rs"), root_tests).unwrap();
        assert!(unit.tier == Tier::Unit);
    }

    #[test]
    fn a_library_is_no_test_binary() {
        let message = json!({"reason": "compiler-artifact", "profile": {"test": false},
            "target": {"name": "x", "src_path": "/w/x"}, "manifest_path": "/w/Cargo.toml",
            "executable": null});
        assert!(binary(&message, Path::new("/w/tests/tests")).is_none());
    }
}
