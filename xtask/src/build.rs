//! The verbs that build xlb, and those that then run it.

use std::{path::PathBuf, process::ExitCode};

use anyhow::{Context as _, Result, bail};

use crate::{
    bpf, command,
    setup::{self, Use},
    workspace::Workspace,
};

/// The package of the tests and of the demonstration.
pub(crate) const TESTS: &str = "xlb-tests";

/// `build`: the programs, then the binary that embeds them; says where it is.
pub(crate) fn run(workspace: &Workspace, release: bool) -> Result<()> {
    let xlb = xlb(workspace, release)?;
    println!("build: {}", xlb.display());
    Ok(())
}

/// Builds the programs and the binary; where the binary is.
pub(crate) fn xlb(workspace: &Workspace, release: bool) -> Result<PathBuf> {
    let toolchain = setup::toolchain(workspace)?;
    bpf::build(workspace, &toolchain)?;
    let mut cargo = workspace.cargo();
    cargo.args(["build", "--package", "lb-userspace"]);
    if release {
        cargo.arg("--release");
    }
    command::run(&mut cargo, "building xlb")?;
    Ok(workspace.xlb(release))
}

/// `demo`: runs the demonstration with the binary just built.
pub(crate) fn demo(workspace: &Workspace) -> Result<ExitCode> {
    if !workspace.binaries(TESTS).iter().any(|binary| binary == "demo") {
        bail!("the package {TESTS} has no binary demo in this checkout");
    }
    let why = "the demonstration lays out network namespaces, which";
    setup::root_access(why)?;
    setup::machine(Use::Demo)?;
    let xlb = xlb(workspace, false)?;
    let mut cargo = workspace.cargo();
    cargo.args(["build", "--package", TESTS, "--bin", "demo"]);
    command::run(&mut cargo, "building the demonstration")?;

    let keep = [("XLB_BIN", xlb.as_os_str())];
    let demo = xlb.with_file_name("demo");
    let status = command::run_through_signals(&mut command::as_root(&demo, &keep, why)?)?;
    Ok(exit_code(status.code()))
}

/// How `xlb bench` shall measure; what is left out is its own to choose.
pub(crate) struct Bench {
    pub(crate) json: bool,
    pub(crate) rounds: Option<u32>,
    pub(crate) packets: Option<u32>,
}

impl Bench {
    fn arguments(&self) -> Vec<String> {
        let numbers = [("--rounds", self.rounds), ("--packets", self.packets)];
        let numbers = numbers.into_iter().filter_map(|(name, number)| {
            number.map(|number| [name.to_owned(), number.to_string()])
        });
        self.json.then(|| "--json".to_owned()).into_iter().chain(numbers.flatten()).collect()
    }
}

/// `bench`: runs `xlb bench` of the release binary.
pub(crate) fn bench(workspace: &Workspace, how: &Bench) -> Result<ExitCode> {
    let why = "loading the programs to measure them";
    setup::root_access(why)?;
    setup::machine(Use::Bench)?;
    let xlb = xlb(workspace, true)?;
    let mut bench = command::as_root(&xlb, &[], why)?;
    bench.arg("bench").args(how.arguments());
    let status = bench.status().with_context(|| format!("starting {}", xlb.display()))?;
    Ok(exit_code(status.code()))
}

/// A child's exit code as our own; one that a signal ended counts as failed.
pub(crate) fn exit_code(code: Option<i32>) -> ExitCode {
    code.and_then(|code| u8::try_from(code).ok()).map_or(ExitCode::FAILURE, ExitCode::from)
}
