//! `xlb`: the agent, its command line, and the backend's decapsulation, in one binary.

mod agent;
mod api;
mod cli;
#[expect(unused_imports, reason = "the agent and the command line use it")]
#[cfg_attr(not(test), expect(dead_code, reason = "the agent and the command line use it"))]
mod config;
mod dataplane;
mod health;
mod metrics;
mod model;
mod network;
mod objects;
mod plan;
mod state;

use std::process::ExitCode;

use anyhow::bail;

use cli::{Global, Local};

fn main() -> ExitCode {
    cli::main(local)
}

/// Verbs that need no agent; gives the exit status.
fn local(verb: Local, global: &Global) -> anyhow::Result<u8> {
    match verb {
        Local::Check(args) => {
            let config::check::Checked { text, status } =
                config::check::run(&args.file, global.json);
            if global.json || status == cli::DONE {
                anstream::println!("{text}");
            } else {
                anstream::eprintln!("{text}");
            }
            Ok(status)
        }
        Local::Run(_) | Local::Replay(_) | Local::Decap(_) | Local::Bench(_) => {
            bail!("this build can't do that: it has no data path")
        }
    }
}
