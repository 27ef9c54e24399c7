//! `check`: what a change must pass besides its tests. All of it is run, whatever fails, so that one
//! run tells everything.

use std::process::Command;

use anyhow::{Result, bail};

use crate::{
    bpf, command,
    setup::{self, Toolchain},
    workspace::Workspace,
};

/// The crates that compile for the host.
const HOST: [&str; 3] = ["--workspace", "--exclude", "lb-ebpf"];

/// Formatting, lints and documentation of the host's crates and of the BPF programs.
pub(crate) fn run(workspace: &Workspace) -> Result<()> {
    let toolchain = setup::toolchain(workspace)?;
    println!("check: building the BPF programs, which xlb embeds");
    bpf::build(workspace, &toolchain)?;

    let mut steps = vec![formatting(workspace)];
    steps.push(program_lints(workspace, &toolchain)?);
    steps.push(program_documentation(workspace, &toolchain));
    steps.push(host_lints(workspace));
    steps.push(host_documentation(workspace));
    let mut failed = Vec::new();
    for (what, mut command) in steps {
        println!("check: {what}");
        if let Err(error) = command::run(&mut command, &what) {
            eprintln!("error: {error:#}");
            failed.push(what);
        }
    }
    if !failed.is_empty() {
        bail!("these checks failed: {}", failed.join("; "));
    }
    println!("check: passed");
    Ok(())
}

fn formatting(workspace: &Workspace) -> (String, Command) {
    let mut cargo = workspace.cargo();
    cargo.args(["fmt", "--all", "--check"]);
    ("formatting (`cargo fmt --all` mends it)".into(), cargo)
}

fn program_lints(workspace: &Workspace, toolchain: &Toolchain) -> Result<(String, Command)> {
    let compiler = &toolchain.compiler;
    if setup::clippy(compiler)? {
        // By its path: rustup's `cargo clippy` would lint with another compiler's clippy, which
        // cannot read this compiler's `core`.
        let mut clippy = Command::new(compiler.cargo_clippy());
        bpf::configure(&mut clippy, workspace, toolchain, &[]);
        if let Some(cargo) = compiler.cargo() {
            clippy.env("CARGO", cargo);
        }
        clippy.arg("clippy").args(bpf::arguments(toolchain)).args(["--", "-D", "warnings"]);
        return Ok(("lints of the BPF programs".into(), clippy));
    }
    let mut cargo = bpf::cargo(workspace, toolchain, &["-D", "warnings"]);
    // Apart, because other flags make cargo build everything anew.
    cargo.env("CARGO_TARGET_DIR", workspace.bpf_target().join("check"));
    cargo.arg("check").args(bpf::arguments(toolchain));
    let rustc = compiler.rustc();
    let what = format!(
        "warnings of the BPF programs by rustc alone, because {} has no clippy",
        rustc.display()
    );
    Ok((what, cargo))
}

fn program_documentation(workspace: &Workspace, toolchain: &Toolchain) -> (String, Command) {
    let mut cargo = bpf::cargo(workspace, toolchain, &[]);
    cargo.arg("doc").args(bpf::arguments(toolchain)).arg("--no-deps");
    cargo.env("RUSTDOCFLAGS", "-D warnings");
    ("documentation of the BPF programs".into(), cargo)
}

fn host_lints(workspace: &Workspace) -> (String, Command) {
    let mut cargo = workspace.cargo();
    cargo.arg("clippy").args(HOST).args(["--all-targets", "--", "-D", "warnings"]);
    ("lints of the host's crates".into(), cargo)
}

fn host_documentation(workspace: &Workspace) -> (String, Command) {
    let mut cargo = workspace.cargo();
    cargo.arg("doc").args(HOST).arg("--no-deps").env("RUSTDOCFLAGS", "-D warnings");
    ("documentation of the host's crates".into(), cargo)
}
