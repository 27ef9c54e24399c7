//! `check`: what a change must pass besides its tests, cheapest first.

use std::process::Command;

use anyhow::Result;

use crate::{
    bpf, command,
    setup::{self, Toolchain},
    workspace::Workspace,
};

/// Formatting, lints and documentation of the host's crates and of the BPF programs.
pub(crate) fn run(workspace: &Workspace) -> Result<()> {
    println!("check: formatting");
    command::run(
        workspace.cargo().args(["fmt", "--all", "--check"]),
        "checking the formatting (`cargo fmt --all` mends it)",
    )?;

    let toolchain = setup::toolchain(workspace)?;
    println!("check: building the BPF programs, which xlb embeds");
    bpf::build(workspace, &toolchain)?;
    programs(workspace, &toolchain)?;

    println!("check: lints of the host's crates");
    let host = ["--workspace", "--exclude", "lb-ebpf"];
    let mut clippy = workspace.cargo();
    clippy.arg("clippy").args(host).args(["--all-targets", "--", "-D", "warnings"]);
    command::run(&mut clippy, "linting the host's crates")?;

    println!("check: documentation of the host's crates");
    let mut doc = workspace.cargo();
    doc.arg("doc").args(host).arg("--no-deps").env("RUSTDOCFLAGS", "-D warnings");
    command::run(&mut doc, "documenting the host's crates")?;
    println!("check: passed");
    Ok(())
}

fn programs(workspace: &Workspace, toolchain: &Toolchain) -> Result<()> {
    if setup::clippy(&toolchain.compiler)? {
        println!("check: lints of the BPF programs");
        // By its path: rustup's `cargo clippy` would lint with another compiler's clippy, which
        // cannot read this compiler's `core`.
        let mut clippy = Command::new(toolchain.compiler.cargo_clippy());
        bpf::configure(&mut clippy, workspace, toolchain, &[]);
        if let Some(cargo) = toolchain.compiler.cargo() {
            clippy.env("CARGO", cargo);
        }
        clippy.arg("clippy").args(bpf::arguments(toolchain)).args(["--", "-D", "warnings"]);
        command::run(&mut clippy, "linting the BPF programs")?;
    } else {
        println!(
            "check: warnings of the BPF programs by rustc alone, because {} has no clippy",
            toolchain.compiler.rustc().display()
        );
        let mut cargo = bpf::cargo(workspace, toolchain, &["-D", "warnings"]);
        // Apart, because other flags make cargo build everything anew.
        cargo.env("CARGO_TARGET_DIR", workspace.bpf_target().join("check"));
        cargo.arg("check").args(bpf::arguments(toolchain));
        command::run(&mut cargo, "checking the BPF programs")?;
    }

    println!("check: documentation of the BPF programs");
    let mut doc = bpf::cargo(workspace, toolchain, &[]);
    doc.arg("doc").args(bpf::arguments(toolchain)).arg("--no-deps");
    doc.env("RUSTDOCFLAGS", "-D warnings");
    command::run(&mut doc, "documenting the BPF programs")
}
