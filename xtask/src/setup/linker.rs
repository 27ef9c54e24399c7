//! bpf-linker: turns the compiler's LLVM bitcode into a BPF object, so its LLVM must read what the
//! compiler's writes. Every candidate is tried on a crate that this compiler just compiled.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};

use super::{Compiler, packages, say};
use crate::{bpf, command, workspace::Workspace};

/// The version that is installed; any that works is used.
const VERSION: &str = "0.13.0";
/// The versions of LLVM that it can be built with.
const LLVM: std::ops::RangeInclusive<u32> = 21..=23;

/// A bpf-linker that works.
pub(super) struct Linker {
    pub(super) path: PathBuf,
    pub(super) misaligned_loads: bool,
}

/// The linker under `target/tools`, else one in `PATH`, else a new one under `target/tools`.
pub(super) fn find_or_install(workspace: &Workspace, compiler: &Compiler) -> Result<Linker> {
    let probe = Probe::compile(&workspace.bpf_target(), compiler)?;
    let own = workspace.tools().join("bin/bpf-linker");
    let mut refusal = "it is not installed".to_owned();
    for candidate in [Some(own.clone()), command::find("bpf-linker")].into_iter().flatten() {
        if !candidate.exists() {
            continue;
        }
        match probe.link(&candidate) {
            Ok(linker) => return Ok(linker),
            Err(error) => refusal = format!("{} does not work: {error:#}", candidate.display()),
        }
    }
    install(workspace, compiler, &refusal)?;
    probe.link(&own).context("the bpf-linker just installed does not work")
}

/// A crate without content, compiled to bitcode.
struct Probe {
    bitcode: PathBuf,
}

impl Probe {
    fn compile(directory: &Path, compiler: &Compiler) -> Result<Self> {
        fs::create_dir_all(directory)
            .with_context(|| format!("creating {}", directory.display()))?;
        let source = directory.join("probe.rs");
        let bitcode = directory.join("probe.bc");
        // Without `core`, because a nightly has none built.
        let text = "#![feature(no_core)]\n#![no_core]\n#![allow(internal_features)]\n";
        fs::write(&source, text).with_context(|| format!("writing {}", source.display()))?;
        let mut rustc = Command::new(compiler.rustc());
        bpf::scrub(&mut rustc);
        rustc
            .env("RUSTC_BOOTSTRAP", "1")
            .args(["--crate-type=lib", "--emit=llvm-bc", "--target", bpf::TARGET, "-o"])
            .args([&bitcode, &source]);
        command::output(&mut rustc, "trying the BPF compiler")?;
        Ok(Self { bitcode })
    }

    fn link(&self, linker: &Path) -> Result<Linker> {
        let object = self.bitcode.with_extension("o");
        let mut command = Command::new(linker);
        command.arg(format!("--cpu-features={}", bpf::MISALIGNED_LOADS));
        command.arg("-o").args([&object, &self.bitcode]);
        let output = command::capture(&mut command, "trying bpf-linker")?;
        let said = String::from_utf8_lossy(&output.stderr);
        if !output.status.success() {
            bail!("{} ({}): {}", command::line(&command), output.status, said.trim_end());
        }
        let misaligned_loads = !said.contains("not a recognized feature");
        Ok(Linker { path: linker.to_owned(), misaligned_loads })
    }
}

fn install(workspace: &Workspace, compiler: &Compiler, refusal: &str) -> Result<()> {
    let root = workspace.tools();
    let why = format!("it links the BPF programs and {refusal}");
    if let Some(binstall) = command::find("cargo-binstall").filter(|_| !compiler.is_debians()) {
        say(
            &format!("fetching bpf-linker {VERSION} into {} by cargo-binstall", root.display()),
            &why,
        );
        let mut fetch = Command::new(binstall);
        fetch.args(["--no-confirm", "--force", "--root"]).arg(&root);
        return command::run(fetch.arg(format!("bpf-linker@{VERSION}")), "fetching bpf-linker");
    }

    let llvm = compiler.llvm()?;
    if !LLVM.contains(&llvm) {
        bail!(
            "bpf-linker: {refusal}; {VERSION} can be built with LLVM {} to {}, but the compiler \
             {} has LLVM {llvm}",
            LLVM.start(),
            LLVM.end(),
            compiler.rustc().display()
        );
    }
    let prefix = PathBuf::from(format!("/usr/lib/llvm-{llvm}"));
    let development = format!("llvm-{llvm}-dev");
    let why_libraries = "bpf-linker is built with it";
    let missing: Vec<_> = [
        (development.as_str(), prefix.join("bin/llvm-config")),
        ("libzstd-dev", "/usr/include/zstd.h".into()),
        ("zlib1g-dev", "/usr/include/zlib.h".into()),
    ]
    .into_iter()
    .filter(|(_, file)| !file.exists())
    .map(|(package, _)| (package, why_libraries))
    .collect();
    if !missing.is_empty() {
        packages::install(&missing).context("bpf-linker is missing and cannot be built")?;
    }
    say(&format!("building bpf-linker {VERSION} into {} (a minute or two)", root.display()), &why);
    let mut cargo = workspace.cargo();
    cargo
        .env("LLVM_PREFIX", &prefix)
        .env_remove("CARGO_BUILD_TARGET")
        .args(["install", "bpf-linker", "--version", VERSION, "--locked", "--force", "--quiet"])
        .args(["--no-default-features", "--features"])
        .arg(format!("llvm-{llvm}"))
        .arg("--root")
        .arg(&root)
        .arg("--target-dir")
        .arg(root.join("build"));
    command::run(&mut cargo, "building bpf-linker")?;
    // Half a gigabyte that nothing reads again.
    fs::remove_dir_all(root.join("build")).context("removing bpf-linker's build directory")
}
