//! `xlb`: the agent, its command line, and the backend's decapsulation, in one binary.

mod agent;
mod agent_check;
mod api;
mod bench;
mod cli;
mod config;
mod dataplane;
mod decap;
mod discovery;
mod health;
mod hooks;
mod live;
mod metrics;
mod model;
mod network;
mod objects;
mod plan;
mod probe_path;
mod program;
mod register;
mod replay;
mod rights;
mod state;
mod sweep;

use std::{io::Write as _, process::ExitCode};

use anyhow::Context as _;
use tracing_subscriber::{EnvFilter, fmt};

use agent::{RunError, Settings};
use cli::{Global, Local, RunArgs};

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
                let written = writeln!(anstream::stdout(), "{text}");
                written.context("can't write what there is to say")?;
            } else {
                // Where even that can't be written, the exit status still tells.
                let _ = writeln!(anstream::stderr(), "{text}");
            }
            Ok(status)
        }
        Local::Run(args) => {
            rights::check("run")?;
            run(args, global)
        }
        Local::Replay(args) => replay::run(&args, global.json),
        Local::Decap(args) => {
            rights::check("decap")?;
            log_to_stderr();
            decap::run(args, global.json)
        }
        Local::Register(args) => register::run(args, global.json),
        Local::Bench(args) => bench::run(&args, global.json),
    }
}

/// The agent, until a signal ends it.
fn run(args: RunArgs, global: &Global) -> anyhow::Result<u8> {
    log_to_stderr();
    let settings = Settings { config: args.config, keep: args.keep };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    match runtime.block_on(agent::run(settings)) {
        Ok(()) => Ok(cli::DONE),
        Err(RunError::Config(errors)) => {
            config::check::report(&errors, global.json);
            Ok(cli::WRONG_INPUT)
        }
        Err(RunError::Failed(error)) => Err(error),
    }
}

/// Log lines go to standard error; `RUST_LOG` chooses which.
fn log_to_stderr() {
    let filter = EnvFilter::builder()
        .with_default_directive(tracing::level_filters::LevelFilter::INFO.into())
        .from_env_lossy();
    let ansi = std::io::IsTerminal::is_terminal(&std::io::stderr())
        && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        // By a macro that panics: a full disk behind the log shall not end the agent.
        .log_internal_errors(false)
        .with_ansi(ansi)
        .with_target(false)
        .init();
}
