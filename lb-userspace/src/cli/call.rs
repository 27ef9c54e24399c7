//! Verbs that the agent does: what was typed becomes calls, answers become words.

use std::{
    io::Write,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use tokio::{runtime, time::sleep};

use super::{
    Failure, Printer,
    args::{
        BackendArg, BackendVerb, DrainArgs, ExplainArgs, FlowsArgs, FlowsVerb, Remote, ServiceVerb,
    },
    show,
    table::plural,
};
use crate::api::{BackendChange, BackendState, Client, Event, FlowQuery, KilledFlows, Removed};

/// Does a verb to the end.
pub(super) fn run<W: Write>(
    verb: Remote,
    client: &Client,
    printer: &mut Printer<'_, W>,
) -> Result<(), Failure> {
    let runtime = runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.context("can't start the runtime that talks to the agent")?;
    runtime.block_on(dispatch(verb, client, printer))
}

async fn dispatch<W: Write>(
    verb: Remote,
    client: &Client,
    printer: &mut Printer<'_, W>,
) -> Result<(), Failure> {
    match verb {
        Remote::Status => printer.say(&client.status().await?, show::status),
        Remote::Stats => printer.say(&client.stats().await?, show::stats),
        Remote::Events { follow, since, service, kind } => {
            let wanted = |event: &Event| {
                let of_service = service.is_none() || event.service == service;
                of_service && (kind.is_empty() || kind.contains(&event.kind))
            };
            let found = events(client, since, follow, wanted, printer).await?;
            // One that is gone may have events; one that never was has none.
            if let Some(name) = service.filter(|_| !found) {
                client.service(&name).await?;
            }
            Ok(())
        }
        Remote::Explain(ExplainArgs { from, to, protocol }) => {
            let query = FlowQuery { from, to, protocol };
            printer.say(&client.explain(&query).await?, show::explanation)
        }
        Remote::Flows(FlowsArgs { verb: None, which, limit }) => {
            let list = client.flows(&which.filter(Some(limit))).await?;
            printer.say(&list, show::flow_list)
        }
        Remote::Flows(FlowsArgs { verb: Some(FlowsVerb::Kill { which, .. }), .. }) => {
            let killed = client.kill_flows(&which.filter(None)).await?;
            printer.say(&killed, |KilledFlows { killed }| {
                format!("{} killed", plural(*killed as usize, "flow"))
            })
        }
        Remote::Service(verb) => service(verb, client, printer).await,
        Remote::Backend(verb) => backend(verb, client, printer).await,
    }
}

async fn service<W: Write>(
    verb: ServiceVerb,
    client: &Client,
    printer: &mut Printer<'_, W>,
) -> Result<(), Failure> {
    match verb {
        ServiceVerb::List => {
            printer.say(&client.services().await?, |services| show::services(services))
        }
        ServiceVerb::Show { name } => printer.say(&client.service(&name).await?, show::service),
        ServiceVerb::Add(args) => {
            printer.say(&client.add_service(&args.spec()).await?, show::service)
        }
        ServiceVerb::Remove { name } => printer
            .say(&client.remove_service(&name).await?, |Removed { removed }| {
                format!("service {removed} is removed")
            }),
    }
}

async fn backend<W: Write>(
    verb: BackendVerb,
    client: &Client,
    printer: &mut Printer<'_, W>,
) -> Result<(), Failure> {
    let (BackendArg { service, address }, change) = match verb {
        BackendVerb::List { service } => {
            let backends = client.backends(&service).await?;
            return printer.say(&backends, |backends| show::backends(backends));
        }
        BackendVerb::Add(args) => {
            let added = client.add_backend(&args.backend.service, &args.spec()).await?;
            return printer.say(&added, show::backend);
        }
        BackendVerb::Remove { backend: BackendArg { service, address }, force } => {
            let removed = client.remove_backend(&service, &address.to_string(), force).await?;
            return printer.say(&removed, |Removed { removed }| {
                format!("backend {removed} of service {service} is removed")
            });
        }
        BackendVerb::Set { backend, weight } => {
            (backend, BackendChange { weight: Some(weight), drain: None })
        }
        BackendVerb::Drain(args) => return drain(args, client, printer).await,
        BackendVerb::Undrain(backend) => {
            (backend, BackendChange { weight: None, drain: Some(false) })
        }
    };
    let changed = client.set_backend(&service, &address.to_string(), change).await?;
    printer.say(&changed, show::backend)
}

/// From one look at a draining backend to the next.
const LOOK: Duration = Duration::from_millis(250);

/// Drains a backend; with `--wait`, until it has no flows any more.
async fn drain<W: Write>(
    DrainArgs { backend: BackendArg { service, address }, wait, timeout }: DrainArgs,
    client: &Client,
    printer: &mut Printer<'_, W>,
) -> Result<(), Failure> {
    let change = BackendChange { weight: None, drain: Some(true) };
    let address = address.to_string();
    let mut backend = client.set_backend(&service, &address, change).await?;
    let deadline = timeout.map(|timeout| Instant::now() + timeout);
    while wait && !backend.drained {
        if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
            let flows = backend.flows;
            return Err(anyhow::anyhow!(
                "{address} is not drained within {:?}: {flows} flows of it are known, and quiet \
                 ones may be left (none is over before it was quiet for the service's tcp_idle); \
                 it goes on draining",
                timeout.unwrap_or_default()
            )
            .into());
        }
        sleep(LOOK).await;
        let backends = client.backends(&service).await?;
        backend = backends
            .into_iter()
            .find(|backend| backend.address == address)
            .ok_or_else(|| anyhow::anyhow!("{address} is no backend of {service} any more"))?;
        if backend.state != BackendState::Draining {
            return Err(anyhow::anyhow!("{address} doesn't drain any more").into());
        }
    }
    printer.say(&backend, show::backend)
}

/// Says a line each; with `follow`, until the agent or the reader is gone. Whether there were any.
async fn events<W: Write>(
    client: &Client,
    mut since: u64,
    follow: bool,
    wanted: impl Fn(&Event) -> bool,
    printer: &mut Printer<'_, W>,
) -> Result<bool, Failure> {
    let (mut wait, mut found) = (false, false);
    loop {
        let page = client.events(since, wait).await?;
        if since > page.last && !printer.json {
            let last = page.last;
            writeln!(printer.out, "(this agent's last event is {last}: these are all of them)")?;
        }
        if page.missed > 0 && !printer.json {
            writeln!(printer.out, "({} earlier events are forgotten)", page.missed)?;
        }
        for event in page.events.iter().filter(|event| wanted(event)) {
            found = true;
            printer.say(event, show::event)?;
        }
        if !follow {
            return Ok(found);
        }
        since = page.last;
        wait = true;
    }
}
