//! `cargo xtask`: the one way in. Every verb first sets up what it needs, and says so.

mod bpf;
mod build;
mod check;
mod command;
mod setup;
mod simulation;
mod supervise;
mod test;
mod workspace;

use std::{ffi::OsString, process::ExitCode, time::Duration};

use anyhow::Result;
use clap::{Parser, Subcommand};

use crate::{
    test::{Selection, Tier},
    workspace::Workspace,
};

/// Build, test, demonstrate and measure xlb.
///
/// Each verb installs what it lacks (Debian packages by apt-get, through sudo if you are not root;
/// own tools under target/tools) and says what and why.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", max_term_width = 100)]
struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Build, then show xlb balance real requests between network namespaces (root or sudo)
    Demo,
    /// Build, then run every test, and tell which were skipped and why (root or sudo)
    Test {
        /// Run only the tests whose name contains this
        filter: Option<String>,
        /// Run only the tests that need nothing (unit), or only those that need root (root)
        #[arg(long, value_enum)]
        tier: Option<Tier>,
        /// Run only this test binary of the root tier, by the name of its file in tests/tests
        #[arg(long, value_name = "NAME", conflicts_with = "tier")]
        binary: Option<String>,
    },
    /// Build the BPF programs and the binary xlb, which embeds them
    Build {
        /// Optimise xlb, as for a server (the BPF programs always are)
        #[arg(long)]
        release: bool,
    },
    /// Check formatting, lints (host and BPF) and documentation
    Check,
    /// Build for release, then measure nanoseconds per packet on this machine (root or sudo)
    Bench {
        /// Print JSON instead of a table
        #[arg(long)]
        json: bool,
        /// Rounds of runs, of which the median counts
        #[arg(long, value_name = "NUMBER")]
        rounds: Option<u32>,
        /// Packets in each run of a program
        #[arg(long, value_name = "NUMBER")]
        packets: Option<u32>,
    },
    /// Simulate changes of backends: what the ring moves, beside plain Maglev
    SimRing {
        /// Print JSON instead of tables
        #[arg(long)]
        json: bool,
        /// Put the tables into docs/ring.md
        #[arg(long, conflicts_with = "json")]
        write: bool,
    },
    /// Simulate servers whose load is followed: how even it gets, and what moves for it
    SimLoad {
        /// Print JSON instead of a table
        #[arg(long)]
        json: bool,
        /// Put the table into docs/load.md
        #[arg(long, conflicts_with = "json")]
        write: bool,
    },
    /// Install what all the other verbs need, and do nothing else
    Setup,
    /// Run a command with a deadline and leave none of its processes behind
    #[command(hide = true)]
    Supervise {
        #[arg(long, value_name = "SECONDS")]
        deadline: u64,
        #[arg(last = true, required = true)]
        command: Vec<OsString>,
    },
}

fn main() -> ExitCode {
    match run(Arguments::parse().verb) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(verb: Verb) -> Result<ExitCode> {
    if let Verb::Supervise { deadline, command } = verb {
        return supervise::run(&command, Duration::from_secs(deadline));
    }
    let workspace = Workspace::find()?;
    match verb {
        Verb::Setup => setup::everything(&workspace).map(|()| ExitCode::SUCCESS),
        Verb::Build { release } => build::run(&workspace, release).map(|()| ExitCode::SUCCESS),
        Verb::Check => check::run(&workspace).map(|()| ExitCode::SUCCESS),
        Verb::Test { filter, tier, binary } => {
            test::run(&workspace, &Selection { filter, tier, binary })
        }
        Verb::Demo => build::demo(&workspace),
        Verb::Bench { json, rounds, packets } => {
            build::bench(&workspace, &build::Bench { json, rounds, packets })
        }
        Verb::SimRing { json, write } => {
            simulation::RING.run(&workspace, json, write).map(|()| ExitCode::SUCCESS)
        }
        Verb::SimLoad { json, write } => {
            simulation::LOAD.run(&workspace, json, write).map(|()| ExitCode::SUCCESS)
        }
        Verb::Supervise { .. } => unreachable!("handled above"),
    }
}
