//! `sim-ring`: runs the ring's simulation, an example of `lb-common`.

use anyhow::Result;

use crate::{command, workspace::Workspace};

/// What becomes of the simulation's result.
pub(crate) enum Output {
    /// Tables on the terminal.
    Tables,
    Json,
    /// The tables in `docs/ring.md`.
    Page,
}

/// Builds the simulation for release and runs it.
pub(crate) fn run(workspace: &Workspace, output: &Output) -> Result<()> {
    let page = workspace.root.join("docs/ring.md");
    let mut cargo = workspace.cargo();
    cargo.args(["run", "--release", "--package", "lb-common", "--example", "sim_ring", "--"]);
    match output {
        Output::Tables => {}
        Output::Json => {
            cargo.arg("--json");
        }
        Output::Page => {
            cargo.arg("--write").arg(&page);
        }
    }
    command::run(&mut cargo, "simulating the ring")?;
    if let Output::Page = output {
        println!("sim-ring: wrote the tables of {}", page.display());
    }
    Ok(())
}
