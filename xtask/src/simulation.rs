//! `sim-ring` and `sim-load`: run simulations, which are examples of the crates that they try.

use anyhow::Result;

use crate::{command, workspace::Workspace};

/// A simulation.
pub(crate) struct Simulation {
    name: &'static str,
    package: &'static str,
    example: &'static str,
    /// The page that shows its tables.
    page: &'static str,
}

/// Changes of a service's backends.
pub(crate) const RING: Simulation = Simulation {
    name: "sim-ring",
    package: "lb-common",
    example: "sim_ring",
    page: "docs/ring.md",
};

/// Servers whose load is followed.
pub(crate) const LOAD: Simulation = Simulation {
    name: "sim-load",
    package: "lb-userspace",
    example: "sim_load",
    page: "docs/load.md",
};

impl Simulation {
    /// Builds it for release and runs it: tables on the terminal, JSON, or the tables in its page.
    pub(crate) fn run(&self, workspace: &Workspace, json: bool, write: bool) -> Result<()> {
        let page = workspace.root.join(self.page);
        let mut cargo = workspace.cargo();
        cargo.args(["run", "--release", "--package", self.package]);
        cargo.args(["--example", self.example, "--"]);
        if json {
            cargo.arg("--json");
        } else if write {
            cargo.arg("--write").arg(&page);
        }
        command::run(&mut cargo, &format!("running {}", self.name))?;
        if write {
            println!("{}: wrote the tables of {}", self.name, page.display());
        }
        Ok(())
    }
}
