//! Building `lb-ebpf`: the flags, and the environment that keeps the host's out of them.

use std::{
    env,
    ffi::{OsStr, OsString},
    fs,
    path::Path,
    process::Command,
};

use anyhow::{Context as _, Result, bail};

use crate::{
    command,
    setup::Toolchain,
    workspace::{Workspace, is_of_running_package, restore_library_path},
};

/// The package of the programs.
const PACKAGE: &str = "lb-ebpf";
/// BPF, little-endian, without an operating system.
pub(crate) const TARGET: &str = "bpfel-unknown-none";
/// Lets LLVM load a word from a byte array at once, which packets are read by. The kernel allows
/// such loads from packet memory.
pub(crate) const MISALIGNED_LOADS: &str = "+allows-misaligned-mem-access";

/// Builds every program and puts it into `target/bpf/objects/NAME.o`.
pub(crate) fn build(workspace: &Workspace, toolchain: &Toolchain) -> Result<()> {
    if !toolchain.misaligned_loads {
        eprintln!(
            "build: {} has an LLVM older than 22: the programs read packets byte by byte, slower",
            toolchain.linker.display()
        );
    }
    let mut cargo = cargo(workspace, toolchain, &[]);
    command::run(
        cargo.arg("build").args(arguments(toolchain)).arg("--bins"),
        "building the BPF programs",
    )?;

    let built = workspace.bpf_target().join(TARGET).join("release");
    let objects = workspace.objects();
    fs::create_dir_all(&objects).with_context(|| format!("creating {}", objects.display()))?;
    let programs = workspace.binaries(PACKAGE);
    if programs.is_empty() {
        bail!("{PACKAGE} has no binaries, so there is nothing to load");
    }
    for program in programs {
        copy_if_changed(&built.join(program), &objects.join(format!("{program}.o")))?;
    }
    Ok(())
}

/// Copies only where the content differs: a new time would make xlb compile again.
fn copy_if_changed(from: &Path, to: &Path) -> Result<()> {
    let new = fs::read(from).with_context(|| format!("reading {}", from.display()))?;
    if fs::read(to).is_ok_and(|old| old == new) {
        return Ok(());
    }
    fs::write(to, new).with_context(|| format!("writing {}", to.display()))
}

/// What every cargo subcommand on the programs is told.
pub(crate) fn arguments(toolchain: &Toolchain) -> Vec<&'static str> {
    let mut arguments = vec!["--package", PACKAGE, "--release", "--target", TARGET];
    if !toolchain.compiler.is_debians() {
        arguments.push("-Zbuild-std=core");
    }
    arguments
}

/// The cargo that compiles for BPF, with `extra` flags for rustc.
pub(crate) fn cargo(workspace: &Workspace, toolchain: &Toolchain, extra: &[&str]) -> Command {
    let own = toolchain.compiler.cargo();
    let mut cargo = Command::new(
        own.map_or_else(|| env::var_os("CARGO").unwrap_or_else(|| "cargo".into()), OsString::from),
    );
    configure(&mut cargo, workspace, toolchain, extra);
    cargo
}

/// Sets directory and environment of a cargo, or of a cargo subcommand, that compiles for BPF.
pub(crate) fn configure(
    command: &mut Command,
    workspace: &Workspace,
    toolchain: &Toolchain,
    extra: &[&str],
) {
    scrub(command);
    let mut flags = vec!["-C", "link-arg=--btf", "-C", "target-cpu=v3", "-C", "debuginfo=2"];
    let features = format!("link-arg=--cpu-features={MISALIGNED_LOADS}");
    if toolchain.misaligned_loads {
        flags.extend(["-C", &features]);
    }
    flags.extend(extra);
    let compiler = &toolchain.compiler;
    command
        .current_dir(&workspace.root)
        .env("CARGO_TARGET_DIR", workspace.bpf_target())
        .env("CARGO_TARGET_BPFEL_UNKNOWN_NONE_LINKER", &toolchain.linker)
        .env("CARGO_TARGET_BPFEL_UNKNOWN_NONE_RUSTFLAGS", flags.join(" "))
        .env("RUSTC", compiler.rustc())
        .env("RUSTDOC", compiler.rustdoc());
    if compiler.is_debians() {
        // aya-ebpf turns on the unstable feature asm_experimental_arch.
        command.env("RUSTC_BOOTSTRAP", "1");
    }
}

/// Removes what steers another compiler, or this process's package: flags of the host, rustup's
/// choice, wrappers of lints.
pub(crate) fn scrub(command: &mut Command) {
    for (key, _) in env::vars_os() {
        if is_foreign(&key) {
            command.env_remove(key);
        }
    }
    restore_library_path(command);
}

fn is_foreign(key: &OsStr) -> bool {
    const FOREIGN: [&str; 11] = [
        "CARGO_BUILD_RUSTC",
        "CARGO_BUILD_RUSTDOC",
        "CARGO_BUILD_RUSTFLAGS",
        "CARGO_BUILD_TARGET",
        "CARGO_ENCODED_RUSTFLAGS",
        "CARGO_TARGET_DIR",
        "RUSTC",
        "RUSTC_WORKSPACE_WRAPPER",
        "RUSTDOC",
        "RUSTFLAGS",
        "RUSTUP_TOOLCHAIN",
    ];
    FOREIGN.iter().any(|foreign| key == *foreign) || is_of_running_package(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_object_that_did_not_change_keeps_its_time() {
        let directory = tempfile::tempdir().unwrap();
        let (from, to) = (directory.path().join("a"), directory.path().join("b"));
        fs::write(&from, "one").unwrap();
        copy_if_changed(&from, &to).unwrap();
        let long_ago = std::time::SystemTime::UNIX_EPOCH;
        fs::File::open(&to).unwrap().set_modified(long_ago).unwrap();

        copy_if_changed(&from, &to).unwrap();
        assert_eq!(fs::metadata(&to).unwrap().modified().unwrap(), long_ago);
        fs::write(&from, "two").unwrap();
        copy_if_changed(&from, &to).unwrap();
        assert_eq!(fs::read(&to).unwrap(), b"two");
    }

    #[test]
    fn flags_of_the_host_do_not_reach_the_programs() {
        for key in ["RUSTC", "RUSTFLAGS", "RUSTUP_TOOLCHAIN", "CARGO_PKG_NAME"] {
            assert!(is_foreign(OsStr::new(key)), "{key}");
        }
        for key in ["CARGO_HOME", "HTTPS_PROXY", "RUSTUP_HOME", "RUSTC_WRAPPER"] {
            assert!(!is_foreign(OsStr::new(key)), "{key}");
        }
    }
}
