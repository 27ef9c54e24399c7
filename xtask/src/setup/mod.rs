//! What a machine needs for each verb: found where it is, installed where it is not, with one line
//! said for each step. Where nothing is missing, nothing is done or said.

mod compiler;
mod linker;
mod packages;

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};
use nix::mount::{MsFlags, mount};

pub(crate) use compiler::Compiler;

use crate::{command, workspace::Workspace};

/// A verb whose needs go beyond the compilers.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Use {
    Test,
    Demo,
    Bench,
}

/// What builds the BPF programs.
pub(crate) struct Toolchain {
    pub(crate) compiler: Compiler,
    pub(crate) linker: PathBuf,
    /// Whether the linker's LLVM can load words from byte arrays at once (LLVM 22 and newer).
    pub(crate) misaligned_loads: bool,
}

/// Says a step that is about to be taken; on stderr, because stdout may be JSON.
fn say(what: &str, why: &str) {
    eprintln!("setup: {what}, because {why}");
}

/// What the programs are built with. Tries a rustup nightly first, then Debian's packages.
pub(crate) fn toolchain(workspace: &Workspace) -> Result<Toolchain> {
    let mut refusals = Vec::new();
    for find in [compiler::nightly, compiler::debian] {
        let found = find().and_then(|compiler| {
            let linker = linker::find_or_install(workspace, &compiler)?;
            Ok(Toolchain {
                compiler,
                linker: linker.path,
                misaligned_loads: linker.misaligned_loads,
            })
        });
        match found {
            Ok(toolchain) => return Ok(toolchain),
            Err(refusal) => refusals.push(format!("  - {refusal:#}")),
        }
    }
    bail!(
        "there is no compiler for the BPF programs, and none can be installed:\n{}\n\
         Get one of these, then run this again:\n\
         \x20 any Linux  rustup toolchain install nightly --profile minimal --component rust-src\n\
         \x20            cargo install cargo-binstall && cargo binstall bpf-linker\n\
         \x20 Debian 12  apt-get install --no-install-recommends {}",
        refusals.join("\n"),
        compiler::DEBIAN_PACKAGES.join(" ")
    )
}

/// The tools and mounts that running the programs needs.
pub(crate) fn machine(purpose: Use) -> Result<()> {
    packages::install_tools(purpose)?;
    mount_bpffs()
}

/// All that any verb needs.
pub(crate) fn everything(workspace: &Workspace) -> Result<()> {
    let toolchain = toolchain(workspace)?;
    clippy(&toolchain.compiler)?;
    for purpose in [Use::Test, Use::Demo, Use::Bench] {
        packages::install_tools(purpose)?;
    }
    mount_bpffs()
}

/// Installs the clippy of the BPF compiler's version; `false` where there is none to be had.
pub(crate) fn clippy(compiler: &Compiler) -> Result<bool> {
    if compiler.cargo_clippy().exists() {
        return Ok(true);
    }
    let package = "rust-web-clippy";
    if !compiler.is_debians() || !packages::is_offered(package) {
        return Ok(false);
    }
    let why = "linting the BPF programs takes the clippy of their compiler's version";
    packages::install(&[(package, why)])?;
    Ok(compiler.cargo_clippy().exists())
}

/// Mounts the file system that pins maps and programs, where it is not mounted.
fn mount_bpffs() -> Result<()> {
    let directory = Path::new("/sys/fs/bpf");
    let mounts = fs::read_to_string("/proc/self/mounts").context("reading /proc/self/mounts")?;
    if is_mounted(&mounts, "/sys/fs/bpf", "bpf") {
        return Ok(());
    }
    say("mounting bpf on /sys/fs/bpf", "xlb pins its maps and programs there");
    let advice = "mounting bpf on /sys/fs/bpf";
    if command::is_root() {
        return mount(Some("bpf"), directory, Some("bpf"), MsFlags::empty(), None::<&str>)
            .with_context(|| {
                format!(
                    "{advice}: the kernel refused; it needs CONFIG_BPF_SYSCALL and CAP_SYS_ADMIN"
                )
            });
    }
    let mut mount = command::as_root("mount", &[], advice)?;
    command::run(mount.args(["-t", "bpf", "bpf"]).arg(directory), advice)
}

/// Whether `mounts`, in the format of proc(5) `mounts`, has a `kind` on `directory`.
fn is_mounted(mounts: &str, directory: &str, kind: &str) -> bool {
    mounts.lines().any(|line| {
        let mut fields = line.split(' ').skip(1);
        fields.next() == Some(directory) && fields.next() == Some(kind)
    })
}

/// Makes sure that root can be had before anything long is begun: asks for sudo's password now.
pub(crate) fn root_access(why: &str) -> Result<()> {
    if command::is_root() {
        return Ok(());
    }
    command::run(&mut command::as_root("true", &[], why)?, "becoming root")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mount_counts_only_on_its_directory_with_its_kind() {
        let mounts =
            "sysfs /sys sysfs rw 0 0\nbpf /run/bpf bpf rw 0 0\ntmpfs /sys/fs/bpf tmpfs rw 0 0\n";
        assert!(!is_mounted(mounts, "/sys/fs/bpf", "bpf"));
        let mounts = format!("{mounts}none /sys/fs/bpf bpf rw,nosuid 0 0\n");
        assert!(is_mounted(&mounts, "/sys/fs/bpf", "bpf"));
    }
}
