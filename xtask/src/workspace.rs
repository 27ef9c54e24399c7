//! Where things are in this checkout, and the cargo that builds its host side.

use std::{
    env,
    ffi::OsStr,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result};
use serde_json::Value;

use crate::command;

/// A package of the workspace and the names of its binaries.
pub(crate) struct Package {
    pub(crate) name: String,
    pub(crate) binaries: Vec<String>,
}

/// This checkout. Tools and BPF objects always lie under its `target/`; `CARGO_TARGET_DIR` moves
/// only what cargo builds for the host.
pub(crate) struct Workspace {
    pub(crate) root: PathBuf,
    /// This program. Found at the start: building the tests puts a new file in its place, after
    /// which the kernel calls the running one deleted.
    pub(crate) xtask: PathBuf,
    /// cargo's target directory of host builds.
    pub(crate) host_target: PathBuf,
    packages: Vec<Package>,
}

impl Workspace {
    /// Finds the checkout that this xtask belongs to, and asks cargo what is in it.
    pub(crate) fn find() -> Result<Self> {
        let manifest = env::var_os("CARGO_MANIFEST_DIR")
            .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")), PathBuf::from);
        let root = manifest
            .parent()
            .with_context(|| format!("{} has no parent directory", manifest.display()))?
            .to_path_buf();
        let xtask = env::current_exe().context("finding this program's own path")?;
        let metadata = command::output(
            cargo(&root).args(["metadata", "--no-deps", "--format-version", "1"]),
            "reading the workspace's metadata",
        )?;
        let metadata: Value =
            serde_json::from_str(&metadata).context("cargo metadata did not print JSON")?;
        let host_target = metadata["target_directory"]
            .as_str()
            .context("cargo metadata names no target_directory")?
            .into();
        let packages = metadata["packages"]
            .as_array()
            .into_iter()
            .flatten()
            .map(|package| Package {
                name: text(&package["name"]),
                binaries: package["targets"]
                    .as_array()
                    .into_iter()
                    .flatten()
                    .filter(|target| {
                        target["kind"]
                            .as_array()
                            .is_some_and(|kinds| kinds.iter().any(|kind| kind == "bin"))
                    })
                    .map(|target| text(&target["name"]))
                    .collect(),
            })
            .collect();
        Ok(Self { root, xtask, host_target, packages })
    }

    /// The names of a package's binaries; none if there is no such package.
    pub(crate) fn binaries(&self, package: &str) -> &[String] {
        self.packages
            .iter()
            .find(|candidate| candidate.name == package)
            .map_or(&[], |package| &package.binaries)
    }

    /// The root of tools that xtask installs; programs lie in its `bin`.
    pub(crate) fn tools(&self) -> PathBuf {
        self.root.join("target/tools")
    }

    /// cargo's target directory of BPF builds, apart because compiler and flags differ.
    pub(crate) fn bpf_target(&self) -> PathBuf {
        self.root.join("target/bpf")
    }

    /// Where `lb-userspace/build.rs` finds the BPF objects.
    pub(crate) fn objects(&self) -> PathBuf {
        self.bpf_target().join("objects")
    }

    /// The cargo that runs this xtask, for builds with the same toolchain.
    pub(crate) fn cargo(&self) -> Command {
        cargo(&self.root)
    }

    /// The built binary `xlb`.
    pub(crate) fn xlb(&self, release: bool) -> PathBuf {
        self.host_target.join(if release { "release" } else { "debug" }).join("xlb")
    }
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

/// `$CARGO`, without what `cargo run` set for xtask alone: left in, it would tell build scripts
/// about the wrong package and make them run anew whenever xtask's own environment changes.
/// `RUSTUP_TOOLCHAIN` stays: `cargo +X xtask` shall build with X.
fn cargo(root: &Path) -> Command {
    let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.current_dir(root);
    for (key, _) in env::vars_os() {
        if is_of_running_package(&key) {
            cargo.env_remove(key);
        }
    }
    restore_library_path(&mut cargo);
    cargo
}

/// Whether `cargo run` sets this variable to describe the package that it runs.
pub(crate) fn is_of_running_package(key: &OsStr) -> bool {
    let key = key.to_string_lossy();
    ["CARGO_PKG_", "CARGO_MANIFEST_", "CARGO_BIN_", "CARGO_CRATE_", "CARGO_PRIMARY_"]
        .iter()
        .any(|prefix| key.starts_with(prefix))
        || key == "OUT_DIR"
}

/// Takes out of `LD_LIBRARY_PATH` what `cargo run` put in front: the target directory and the
/// running toolchain's libraries, which another toolchain must not load.
pub(crate) fn restore_library_path(command: &mut Command) {
    let Some(paths) = env::var_os("LD_LIBRARY_PATH") else { return };
    let kept: Vec<_> = env::split_paths(&paths).filter(|path| !is_cargos(path)).collect();
    match env::join_paths(kept) {
        Ok(kept) if !kept.is_empty() => command.env("LD_LIBRARY_PATH", kept),
        _ => command.env_remove("LD_LIBRARY_PATH"),
    };
}

fn is_cargos(path: &Path) -> bool {
    let in_own_target = env::current_exe()
        .ok()
        .and_then(|executable| executable.parent().map(|directory| path.starts_with(directory)))
        .unwrap_or(false);
    in_own_target || path.components().any(|part| part.as_os_str() == "rustlib") || {
        let mut parts = path.components().rev().map(|part| part.as_os_str());
        parts.next() == Some(OsStr::new("lib")) && parts.nth(1) == Some(OsStr::new("toolchains"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_cargos_own_library_directories_are_taken_out() {
        for path in [
            "/home/u/.rustup/toolchains/stable-x86_64-unknown-linux-gnu/lib",
            "/home/u/.rustup/toolchains/stable/lib/rustlib/x86_64-unknown-linux-gnu/lib",
        ] {
            assert!(is_cargos(Path::new(path)), "{path}");
        }
        for path in ["/opt/llvm/lib", "/usr/lib", "/nix/store/x-zlib/lib"] {
            assert!(!is_cargos(Path::new(path)), "{path}");
        }
    }

    #[test]
    fn variables_of_the_running_package_are_told_from_settings() {
        assert!(is_of_running_package(OsStr::new("CARGO_PKG_NAME")));
        assert!(is_of_running_package(OsStr::new("CARGO_MANIFEST_DIR")));
        assert!(!is_of_running_package(OsStr::new("CARGO_TARGET_DIR")));
        assert!(!is_of_running_package(OsStr::new("CARGO_HOME")));
        assert!(!is_of_running_package(OsStr::new("CARGO_NET_OFFLINE")));
    }
}
