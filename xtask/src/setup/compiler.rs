//! The compiler of the BPF programs. The target `bpfel-unknown-none` has no prebuilt `core` in
//! rustup, so there are two ways: a nightly that builds `core` from its source, or Debian's rustc,
//! which has a package with `core` built.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};

use super::packages;
use crate::command;

/// What the Debian way takes in all; `linker` installs the last three.
pub(super) const DEBIAN_PACKAGES: [&str; 5] =
    ["rustc-web", "libstd-rust-web-dev-bpf", "llvm-22-dev", "libzstd-dev", "zlib1g-dev"];

/// A rustc that can compile the BPF programs.
pub(crate) struct Compiler {
    /// Its `bin` directory.
    bin: PathBuf,
    /// A nightly builds `core`; Debian has it built.
    builds_core: bool,
}

impl Compiler {
    pub(crate) fn rustc(&self) -> PathBuf {
        self.bin.join("rustc")
    }

    pub(crate) fn rustdoc(&self) -> PathBuf {
        self.bin.join("rustdoc")
    }

    pub(crate) fn cargo_clippy(&self) -> PathBuf {
        self.bin.join("cargo-clippy")
    }

    pub(crate) fn is_debians(&self) -> bool {
        !self.builds_core
    }

    /// The cargo to use: a nightly's own, because only that knows `-Z build-std`; none for
    /// Debian's, where the workspace's does.
    pub(crate) fn cargo(&self) -> Option<PathBuf> {
        self.builds_core.then(|| self.bin.join("cargo"))
    }

    /// The major version of the LLVM in it.
    pub(super) fn llvm(&self) -> Result<u32> {
        let version =
            command::output(Command::new(self.rustc()).arg("-vV"), "asking rustc for its version")?;
        llvm_of(&version)
            .with_context(|| format!("{} -vV names no LLVM version", self.rustc().display()))
    }
}

/// The major version of LLVM that `rustc -vV` tells.
fn llvm_of(version: &str) -> Option<u32> {
    let version = version.lines().find_map(|line| line.strip_prefix("LLVM version: "))?;
    version.split('.').next()?.parse().ok()
}

/// A rustup nightly with the library's source. One without it cannot build `core`.
pub(super) fn nightly() -> Result<Compiler> {
    let home = env::var_os("RUSTUP_HOME")
        .map(PathBuf::from)
        .or_else(|| env::home_dir().map(|home| home.join(".rustup")));
    let toolchains =
        home.context("rustup's directory is unknown: HOME is not set")?.join("toolchains");
    match nightly_in(&toolchains) {
        Some(toolchain) => Ok(Compiler { bin: toolchain.join("bin"), builds_core: true }),
        None => bail!("no nightly with the component rust-src in {}", toolchains.display()),
    }
}

fn nightly_in(toolchains: &Path) -> Option<PathBuf> {
    let mut found: Vec<_> = fs::read_dir(toolchains)
        .ok()?
        .flatten()
        .filter(|entry| entry.file_name().to_string_lossy().starts_with("nightly"))
        .map(|entry| entry.path())
        .filter(|path| path.join("lib/rustlib/src/rust/library/core/src/lib.rs").exists())
        .filter(|path| path.join("bin/cargo").exists() && path.join("bin/rustc").exists())
        .collect();
    // "nightly-x86_64…" sorts after "nightly-2026-…": the one that is kept current wins.
    found.sort();
    found.pop()
}

/// Debian's rustc, installed if it is not there.
pub(super) fn debian() -> Result<Compiler> {
    let root = Path::new("/usr");
    if !debian_in(root) {
        let why = "no compiler for BPF is here (neither a nightly with rust-src nor this one)";
        packages::install(&[
            (DEBIAN_PACKAGES[0], why),
            (DEBIAN_PACKAGES[1], "it is BPF's `core`"),
        ])?;
        if !debian_in(root) {
            bail!(
                "{} and {} are installed, but /usr/bin/rustc with a core of its version for \
                 bpfel-unknown-none is not there",
                DEBIAN_PACKAGES[0],
                DEBIAN_PACKAGES[1]
            );
        }
    }
    Ok(Compiler { bin: root.join("bin"), builds_core: false })
}

fn debian_in(root: &Path) -> bool {
    let has_core = fs::read_dir(root.join("lib/rustlib/bpfel-unknown-none/lib"))
        .into_iter()
        .flatten()
        .flatten()
        .any(|entry| {
            let name = entry.file_name();
            let name = name.to_string_lossy();
            name.starts_with("libcore-") && name.ends_with(".rlib")
        });
    let rustc = root.join("bin/rustc");
    has_core
        && Command::new(rustc).arg("-vV").output().is_ok_and(|version| version.status.success())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn touch(path: PathBuf) {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, "").unwrap();
    }

    #[test]
    fn a_nightly_without_the_source_is_passed_over() {
        let home = tempfile::tempdir().unwrap();
        for name in ["nightly-2026-01-01-x86_64", "nightly-x86_64", "stable-x86_64"] {
            touch(home.path().join(name).join("bin/cargo"));
            touch(home.path().join(name).join("bin/rustc"));
        }
        assert_eq!(nightly_in(home.path()), None);

        let source = "lib/rustlib/src/rust/library/core/src/lib.rs";
        touch(home.path().join("stable-x86_64").join(source));
        assert_eq!(nightly_in(home.path()), None);
        let dated = home.path().join("nightly-2026-01-01-x86_64");
        touch(dated.join(source));
        assert_eq!(nightly_in(home.path()), Some(dated));
        let current = home.path().join("nightly-x86_64");
        touch(current.join(source));
        assert_eq!(nightly_in(home.path()), Some(current));
    }

    #[test]
    fn a_directory_of_the_target_without_core_is_not_enough() {
        let root = tempfile::tempdir().unwrap();
        assert!(!debian_in(root.path()));
        touch(root.path().join("lib/rustlib/bpfel-unknown-none/lib/libcore-1.rlib"));
        assert!(!debian_in(root.path()), "no rustc");
    }

    #[test]
    fn the_llvm_version_is_read() {
        assert_eq!(llvm_of("rustc 1.96.0\nhost: x86_64\nLLVM version: 22.1.8\n"), Some(22));
        assert_eq!(llvm_of("rustc 1.96.0\n"), None);
    }
}
