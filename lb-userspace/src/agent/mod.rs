//! The agent: one loop that owns all state.
//!
//! In come the config, commands of the control API, health, and the kernel's routes and
//! neighbours; each of them changes what is desired, and [`reconcile`] makes the data plane do
//! it. Nothing else writes to the data plane.

mod clients;
mod commands;
mod config_watch;
mod desired;
mod difference;
mod discovery;
mod explain;
mod flows;
mod fullnat;
mod interfaces;
mod live;
mod reconcile;
mod reload;
mod saving;
mod start;
mod status;
mod through_vip;
mod watched;

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    time::{Duration, Instant, SystemTime},
};

use lb_common::layout::ClientRoutes;
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::{mpsc, watch},
    time::{MissedTickBehavior, interval},
};

use crate::{
    agent_check::{AgentChecks, AgentEvent},
    api::{Cause, Command, Event, EventKind, EventLog, Histogram, News, Reload},
    config::{self, BackendConfig, Config, ConfigErrors, ServiceConfig},
    dataplane::DataPlane,
    discovery::{Discovery, Findings, Leases},
    health::{Health, HealthEvent},
    hooks::Hooks,
    live::Lives,
    model::{BackendKey, Desired, ServiceKey},
    network::{Interfaces, NextHops, Resolution},
    plan::{Actual, Bases},
    state::{Effective, State, StateLock},
};
use clients::Clients;
use config_watch::ConfigWatch;
pub use desired::idle_seconds;
use flows::{FlowWatch, Surveyed};
use fullnat::{FullnatSurveyed, FullnatWatch};
use live::LoadReports;
use saving::Saving;
use start::Servers;
pub use start::{Settings, capacity, room};
use through_vip::Probes;

/// From one look at what has no events of its own to the next.
const TICK: Duration = Duration::from_secs(1);

/// From one tick to the next where something held the whole process up.
const STANDSTILL: Duration = Duration::from_secs(3);

/// Why the agent ended.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The config is wrong.
    #[error(transparent)]
    Config(#[from] ConfigErrors),
    /// The host or the kernel refused something.
    #[error(transparent)]
    Failed(#[from] anyhow::Error),
}

/// Runs the agent until SIGTERM or SIGINT.
///
/// # Errors
/// It can't start, or what it put into the kernel can't be taken out again.
pub async fn run(settings: Settings) -> Result<(), RunError> {
    // First of all: without a handler each of them would end the process at once.
    let listen = |kind| signal(kind).map_err(anyhow::Error::from);
    let mut terminate = listen(SignalKind::terminate())?;
    let mut interrupt = listen(SignalKind::interrupt())?;
    let hangup = listen(SignalKind::hangup())?;

    let config_watch = ConfigWatch::new(&settings.config, hangup);
    let config = config::load(&settings.config)?;
    let (mut agent, mut inputs, doors) = start::prepare(&settings, config, config_watch).await?;
    let mut hooks = Servers::default();
    let (hook, events) = (agent.hooks.clone(), agent.events.clone());
    hooks.start(|stopped| async move {
        let stop = async {
            let _ = stopped.await;
        };
        hook.serve(events, stop).await;
    });
    let settled = tokio::select! {
        () = agent.settle(&mut inputs) => true,
        () = stopped(&mut terminate, &mut interrupt) => false,
    };
    if !settled {
        tracing::info!("the agent stops before it serves");
        return Ok(agent.finish(settings.keep)?);
    }
    if let Err(error) = agent.begin() {
        // What was there before goes on; what is new goes.
        if agent.plane.attached().is_ok_and(|attached| attached.is_empty()) {
            agent.finish(false)?;
        }
        return Err(error.into());
    }
    let servers = doors.open();
    agent.serve(inputs, &mut terminate, &mut interrupt).await;
    agent.save_last_history();
    agent.event(News::new(EventKind::Stopping, Cause::Agent, "the agent stops"));
    servers.stop().await;
    let finished = agent.finish(settings.keep);
    // Last of all: packets don't wait for a hook.
    hooks.stop().await;
    Ok(finished?)
}

async fn stopped(terminate: &mut Signal, interrupt: &mut Signal) {
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
}

/// Waits for a time; for ever where there is none.
async fn reached(time: Option<Instant>) {
    match time {
        Some(time) => tokio::time::sleep_until(time.into()).await,
        None => std::future::pending().await,
    }
}

/// What was put off comes first.
async fn next_command(
    put_off: &mut Option<Command>,
    commands: &mut mpsc::Receiver<Command>,
) -> Option<Command> {
    match put_off.take() {
        Some(command) => Some(command),
        None => commands.recv().await,
    }
}

/// All state, owned by one task.
struct Agent {
    config_path: PathBuf,
    config: Config,
    state: State,
    saving: Saving,
    _state_lock: Option<StateLock>,
    /// Config and state together.
    effective: Effective,
    plane: DataPlane,
    /// What the maps hold.
    actual: Actual,
    /// When everything that is desired was last written to them.
    in_force_since: Instant,
    /// What they were last made to do; `None` where that failed.
    last_desired: Option<Desired>,
    bases: Bases,
    flows: FlowWatch,
    /// Flows under `fullnat`.
    fullnat: FullnatWatch,
    health: Health,
    /// From the ends of deciding probes to the rings that they changed.
    health_reactions: Histogram,
    discovery: Discovery,
    /// How long registrations last.
    leases: Leases,
    agents: AgentChecks,
    loads: LoadReports,
    lives: Lives,
    /// Live weights were decided once.
    lives_begun: bool,
    /// Services some of whose backends take new flows.
    up: BTreeSet<ServiceKey>,
    /// Services that drop their new flows, as it was last told.
    down: BTreeSet<ServiceKey>,
    /// The way of probes that go through VIPs.
    probes: Probes,
    next_hops: NextHops,
    /// Those toward clients.
    clients: Clients,
    ways: watch::Receiver<BTreeMap<std::net::IpAddr, Resolution>>,
    /// What the kernel's routes toward clients come to.
    client_routes: watch::Receiver<ClientRoutes>,
    interfaces: watch::Receiver<Interfaces>,
    /// The interfaces as they were when they were last attached to.
    known_interfaces: Interfaces,
    events: EventLog,
    hooks: Hooks,
    /// How often the question that is put off now was.
    gave_way: u32,
    started: Instant,
    last_tick: Instant,
    last_reload: Option<Reload>,
    reloads_ok: u64,
    reloads_failed: u64,
    /// Nothing is put in force yet.
    settling: bool,
    /// Why the data plane doesn't do what is desired; it is tried again.
    trouble: Option<String>,
    /// Why an interface isn't attached to, by name.
    detached: BTreeMap<String, String>,
    /// What the start had to say, until the next reload.
    warnings: Vec<String>,
}

/// What wakes the agent.
struct Inputs {
    commands: mpsc::Receiver<Command>,
    health: mpsc::Receiver<HealthEvent>,
    agents: mpsc::Receiver<AgentEvent>,
    config: ConfigWatch,
    discovery: mpsc::Receiver<Findings>,
    surveys: mpsc::Receiver<Surveyed>,
    fullnat: mpsc::Receiver<FullnatSurveyed>,
}

impl Agent {
    /// Handles one input after the other until a signal ends it.
    async fn serve(&mut self, mut inputs: Inputs, terminate: &mut Signal, interrupt: &mut Signal) {
        let mut tick = interval(TICK);
        self.last_tick = Instant::now();
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        self.begin_leases();
        if let Err(error) = self.listen_for_clients() {
            tracing::error!("next hops toward clients are not asked for: {error}");
        }
        let mut put_off = None;
        loop {
            let lease_end = self.leases.next_end();
            tokio::select! {
                biased;
                () = stopped(terminate, interrupt) => return,
                Some(event) = inputs.health.recv() => {
                    self.health_changed(&event);
                    let mut decided = vec![event.decided];
                    while let Ok(event) = inputs.health.try_recv() {
                        self.health_changed(&event);
                        decided.push(event.decided);
                    }
                    self.reconcile();
                    // What failed is told by itself.
                    if self.trouble.is_none() {
                        self.reacted(&decided);
                    }
                }
                Some(event) = inputs.agents.recv() => {
                    self.agent_said(&event);
                    while let Ok(event) = inputs.agents.try_recv() {
                        self.agent_said(&event);
                    }
                    self.reconcile();
                }
                // Before commands: whoever asks all the time doesn't hold up what it is for.
                _ = tick.tick() => self.tick(),
                Some(command) = next_command(&mut put_off, &mut inputs.commands) => {
                    put_off = self.command(command, &inputs.health);
                }
                Some(findings) = inputs.discovery.recv() => self.found(findings),
                () = reached(lease_end) => self.leases_over(),
                Some(end) = inputs.surveys.recv() => self.surveyed(end),
                Some(end) = inputs.fullnat.recv() => self.fullnat_surveyed(end),
                Ok(()) = self.ways.changed() => {
                    self.direct_probes();
                    self.reconcile();
                }
                Ok(()) = self.interfaces.changed() => {
                    self.interfaces_changed();
                    self.look_after_probes();
                    self.reconcile();
                }
                Ok(()) = self.client_routes.changed() => self.tell_client_routes(),
                addresses = self.clients.next() => self.clients_wanted(addresses),
                () = inputs.config.changed() => self.reload(),
            }
            // Behind everything that packets wait for.
            self.save_history();
        }
    }

    /// Tries again what failed, and looks after what gives no events.
    fn tick(&mut self) {
        self.note_standstill();
        if self.update_lives() || self.trouble.is_some() {
            self.reconcile();
        }
        self.look_after_links();
        self.mend_probes();
        self.look_after_clients();
        self.tell_client_routes();
        self.tend_flows();
        self.tend_fullnat();
        for notice in self.plane.take_notices() {
            tracing::warn!("{notice}");
        }
    }

    /// Counts how long it took from the ends of probes to what they decided.
    fn reacted(&mut self, decided: &[Instant]) {
        for at in decided {
            self.health_reactions.observe(self.in_force_since.saturating_duration_since(*at));
        }
    }

    /// A process that was stopped, or a machine that was, took no renewals: nobody who registered is
    /// to blame for it.
    fn note_standstill(&mut self) {
        let since = self.last_tick.elapsed();
        self.last_tick = Instant::now();
        if since > STANDSTILL {
            let late = since - TICK;
            tracing::warn!("the agent stood still for {late:?}; registrations last longer for it");
            self.leases.postpone(late);
        }
    }

    fn health_changed(&mut self, event: &HealthEvent) {
        let Some(service) = self.effective.services.iter().find(|s| s.key == event.service) else {
            return;
        };
        if !service.backends.iter().any(|backend| backend.key == event.backend) {
            return;
        }
        let kind = if event.healthy { EventKind::BackendUp } else { EventKind::BackendDown };
        let word = |healthy| match healthy {
            Some(true) => "healthy",
            Some(false) => "unhealthy",
            None => "unknown",
        };
        let news = News::new(kind, Cause::Health, &*event.reason);
        let news = news.became(word(event.before), word(Some(event.healthy)));
        self.event(news.about(&service.name, event.backend));
    }

    /// Writes an event and the log's line of it.
    fn event(&self, news: News) {
        tell(&self.events, news);
    }

    /// Takes the data plane out of the kernel, or leaves it forwarding.
    fn finish(mut self, keep: bool) -> anyhow::Result<()> {
        if keep {
            // Nobody keeps them current any more.
            self.plane.hold_client_routes_until(0)?;
            tracing::info!("forwarding goes on without the agent (--keep)");
            return Ok(());
        }
        let attached = self.plane.attached().unwrap_or_default();
        self.plane.remove()?;
        let mut names = self.config.interfaces;
        names.retain(|name| attached.iter().any(|attached| attached.interface == *name));
        if !names.is_empty() {
            tracing::info!("detached from {}; nothing is forwarded any more", names.join(", "));
        }
        Ok(())
    }

    /// A backend as the config has it, or as it was found.
    fn configured(&self, service: &str, key: BackendKey) -> Option<&BackendConfig> {
        let found = self.config.services.iter().find(|found| found.name == service);
        let backend = found.and_then(|s| s.backends.iter().find(|backend| backend.key == key));
        backend.or_else(|| self.effective.discovered.get(&(service.to_owned(), key)))
    }

    fn service(&self, name: &str) -> Option<&ServiceConfig> {
        self.effective.services.iter().find(|service| service.name == name)
    }
}

/// Writes an event and the log's line of it.
fn tell(events: &EventLog, news: News) {
    let event = events.push(SystemTime::now(), news);
    let (kind, cause, line) = (event.kind.word(), event.cause.word(), event.sentence());
    let Event { number, actor, from, to, .. } = &event;
    match event.kind.is_trouble() {
        true => tracing::warn!(number, kind, cause, actor, from, to, "{line}"),
        false => tracing::info!(number, kind, cause, actor, from, to, "{line}"),
    }
}
