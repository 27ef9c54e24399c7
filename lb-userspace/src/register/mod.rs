//! `xlb register`: on a backend, keeps its registration at one agent or several.
//!
//! It renews at a third of the TTL, tries again within a second while an agent doesn't answer, and
//! on SIGTERM leaves politely: it takes no new flows, and waits until the open ones have ended.

mod agent;
mod connection;

use std::{io::Write as _, sync::Arc, time::Duration};

use anyhow::{Context as _, Result};
use serde::Serialize;
use tokio::{
    runtime,
    signal::unix::{Signal, SignalKind, signal},
    sync::watch,
    task::JoinSet,
};

use crate::cli::{DONE, FAILED, RegisterArgs, WrongInput};
use agent::{Ended, Wish};
use connection::{Access, Agent};

pub use connection::TlsFiles;

/// Renewals within a TTL.
const RENEWALS: u32 = 3;

/// Keeps the registration until a signal ends it; gives the exit status.
///
/// # Errors
/// What was typed, or a file that it names, is wrong.
pub fn run(args: RegisterArgs, json: bool) -> Result<u8> {
    let (least, most) = (Duration::from_secs(1), Duration::from_secs(3600));
    if !(least..=most).contains(&args.ttl) {
        return Err(WrongInput("--ttl: a lease lasts from 1s to 1h".to_owned()).into());
    }
    let access = Access::new(args.token_file.clone(), args.tls_files())?;
    let access = Arc::new(access);
    let agents: Vec<Agent> =
        args.agent.iter().map(|url| Agent::new(url, &access)).collect::<Result<_>>()?;
    let wish = Wish {
        service: args.service,
        address: args.address,
        weight: args.weight,
        ttl: args.ttl,
        drain_timeout: args.drain_timeout,
    };
    let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
    let status = runtime.block_on(keep(agents, wish, json));
    // A name that is being looked up isn't waited for.
    runtime.shutdown_background();
    status
}

async fn keep(agents: Vec<Agent>, wish: Wish, json: bool) -> Result<u8> {
    let listen = |kind| signal(kind).context("can't wait for signals");
    let mut signals = [listen(SignalKind::terminate())?, listen(SignalKind::interrupt())?];
    let (stop, stopped) = watch::channel(false);
    let wish = Arc::new(wish);
    let mut tasks = JoinSet::new();
    for agent in agents {
        tasks.spawn(agent::keep(agent, Arc::clone(&wish), stopped.clone(), json));
    }
    either(&mut signals).await;
    let _ = stop.send(true);
    let mut status = DONE;
    let leaving = async {
        while let Some(ended) = tasks.join_next().await {
            if !matches!(ended, Ok(Ended::Left)) {
                status = FAILED;
            }
        }
    };
    tokio::select! {
        () = leaving => Ok(status),
        // Whoever asks twice doesn't want to wait.
        () = either(&mut signals) => Ok(FAILED),
    }
}

async fn either([terminate, interrupt]: &mut [Signal; 2]) {
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
}

/// What became of the registration at one agent. The words are an interface.
#[derive(Debug, Serialize)]
struct News<'a> {
    agent: &'a str,
    service: &'a str,
    address: Option<String>,
    /// `refused`, `registered`, `lost`, `draining`, `left`, `kept`, `undrained`.
    state: &'static str,
    detail: String,
}

impl News<'_> {
    fn say(&self, json: bool) {
        let mut out = anstream::stdout().lock();
        let text = match json {
            true => serde_json::to_string(self).unwrap_or_default(),
            false => {
                let address = self.address.as_deref().unwrap_or("this host");
                let Self { agent, service, state, detail, .. } = self;
                format!(
                    "{address} of {service} at {agent}: {state}{detail}",
                    detail = colon(detail)
                )
            }
        };
        // A reader who is gone doesn't end the registration.
        let _ = writeln!(out, "{text}").and_then(|()| out.flush());
    }
}

fn colon(detail: &str) -> String {
    if detail.is_empty() { String::new() } else { format!(": {detail}") }
}
