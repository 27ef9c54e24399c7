//! From nothing, or from what a former agent left, to a data plane that serves.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    path::PathBuf,
    time::{Duration, Instant, SystemTime},
};

use anyhow::Context as _;
use lb_common::{
    layout::{Affinity, BACKEND_NUMBERS, BackendRecord, Kind},
    ring::default_size,
};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tokio::{
    sync::{mpsc, oneshot},
    task::JoinHandle,
    time::{sleep, sleep_until},
};

use super::{
    Agent, Inputs,
    clients::{Clients, forwarding_warnings},
    config_watch::ConfigWatch,
    flows::FlowWatch,
    fullnat::{FullnatWatch, local_ports_warning},
    live::LoadReports,
    saving::Saving,
    through_vip::Probes,
};
use crate::{
    agent_check::AgentChecks,
    api::{self, AgentHandle, Cause, ControlSocket, EventKind, EventLog, Histogram, News},
    config::{BackendConfig, Config, ServiceConfig},
    dataplane::{self, DataPlane, Options},
    discovery::{Discovery, Leases, door::Door},
    health::Health,
    hooks::Hooks,
    live::Lives,
    metrics::MetricsServer,
    model::Forward,
    network::NextHops,
    objects,
    plan::{Actual, Bases, Capacity, backend_key, ring_size},
    state::{History, State, StateError, StateLock},
    sweep::Transition,
};

/// How long the start waits for first answers of next hops and checks, before it begins to serve
/// with what it knows.
const SETTLING: Duration = Duration::from_secs(2);
/// Commands that wait for the agent.
const COMMANDS_WAITING: usize = 64;
/// Most files that this process wants to have open.
const DESCRIPTORS: u64 = 1 << 20;
/// Events of checks, or of agents on backends, that wait for the agent.
const HEALTH_WAITING: usize = 4096;
/// Findings that wait for the agent.
const FINDINGS_WAITING: usize = 64;
/// Backends that there is room for at least.
const LEAST_BACKENDS: u32 = 1024;
/// Egress interfaces that there is room for.
const PORTS: u32 = 64;

/// How the agent shall run.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The config file.
    pub config: PathBuf,
    /// At the end, leave the data plane forwarding.
    pub keep: bool,
}

/// The tasks beside the agent's loop.
#[derive(Default)]
pub(super) struct Servers {
    stops: Vec<oneshot::Sender<()>>,
    tasks: Vec<JoinHandle<()>>,
}

impl Servers {
    /// Ends them, and waits until they have ended.
    pub(super) async fn stop(self) {
        drop(self.stops);
        for task in self.tasks {
            if let Err(error) = task.await {
                tracing::error!("a server ended badly: {error}");
            }
        }
    }

    pub(super) fn start<F, S>(&mut self, server: S)
    where
        S: FnOnce(oneshot::Receiver<()>) -> F,
        F: Future<Output = ()> + Send + 'static,
    {
        let (stop, stopped) = oneshot::channel();
        self.stops.push(stop);
        self.tasks.push(tokio::spawn(server(stopped)));
    }
}

/// What others come in by, once packets are served.
pub(super) struct Doors {
    handle: AgentHandle,
    socket: ControlSocket,
    metrics: Option<MetricsServer>,
    register: Option<Door>,
}

impl Doors {
    /// Answers from now on.
    pub(super) fn open(self) -> Servers {
        let Self { handle, socket, metrics, register } = self;
        let mut servers = Servers::default();
        let router = api::router(handle.clone());
        servers.start(|stopped| async move {
            api::serve::on_socket(socket, router, async {
                let _ = stopped.await;
            })
            .await;
        });
        if let Some(door) = register {
            let handle = handle.clone();
            servers.start(|stopped| async move {
                let stop = async {
                    let _ = stopped.await;
                };
                door.serve(handle, stop).await;
            });
        }
        if let Some(metrics) = metrics {
            servers.start(|stopped| async move {
                let stop = async {
                    let _ = stopped.await;
                };
                metrics.serve(handle, stop).await;
            });
        }
        servers
    }
}

/// Everything that may fail without a packet noticing.
pub(super) async fn prepare(
    settings: &Settings,
    config: Config,
    config_watch: ConfigWatch,
) -> anyhow::Result<(Agent, Inputs, Doors)> {
    // First of all, since a second agent ends here.
    let socket = ControlSocket::bind(&config.api.socket)?;
    let metrics = match config.api.metrics {
        Some(address) => Some(MetricsServer::bind(address).await?),
        None => None,
    };
    let mut warnings = Vec::new();
    let register = match &config.api.register {
        Some(register) => Some(Door::bind(register).await?),
        None => None,
    };
    warnings.extend(register.as_ref().and_then(Door::warning));
    let state_lock = match StateLock::take(&config.state_file) {
        Ok(lock) => Some(lock),
        Err(error @ StateError::Taken(_)) => return Err(error.into()),
        // Whoever can't lock it can't change it.
        Err(error) => {
            warnings.push(format!("live changes can't be kept: {error}"));
            None
        }
    };
    let loaded = State::load(&config.state_file)?;
    let mut state = loaded.state;
    let seed = hash_seed(&config, &mut state)?;
    let saved = state.clone();
    state.overrides.prune(&config.services);
    if (state != saved || loaded.warning.is_some())
        && let Err(error) = state.save(&config.state_file)
    {
        warnings.push(format!("live changes that the config took back may return: {error}"));
    }
    let effective = state.effective(&config.services);
    warnings.extend(loaded.warning);
    warnings.extend(effective.warnings.iter().cloned());
    warnings.extend(local_ports_warning(&config, &effective.services));
    // Of forwarding, the status tells what holds then.
    let forwarding = forwarding_warnings(&config.interfaces, &effective.services);
    warnings.iter().chain(&forwarding).for_each(|warning| tracing::warn!("{warning}"));

    let next_hops = NextHops::start().context("can't follow the kernel's routes")?;
    let leaving = state.history.all_leaving(&effective.services);
    let modes = || forward_modes(&effective.services, &leaving);
    let (fullnat, ways) = (uses_fullnat(modes()), answers_through(modes()));
    let plane = DataPlane::open(Options {
        object: objects::BALANCER.to_vec(),
        pin_path: Some(config.pin_path.clone()),
        capacity: capacity(&effective.services, &state.history),
        flow_capacity: config.flow_capacity,
        fullnat_capacity: fullnat.then_some(config.fullnat.flow_capacity),
        ways,
        flow_budget: None,
        hash_seed: seed,
        trace: false,
        made_up_ways: false,
    })?;
    let actual = plane.actual()?;
    raise_descriptors();
    let adopted = adopt(&mut state.history, &effective.services, &actual);
    if let Some(warning) = adopted {
        tracing::warn!("{warning}");
        warnings.push(warning);
    }
    let (findings, found) = mpsc::channel(FINDINGS_WAITING);
    let (health_events, health) = mpsc::channel(HEALTH_WAITING);
    let (agent_events, agents) = mpsc::channel(HEALTH_WAITING);
    let (commands_in, commands) = mpsc::channel(COMMANDS_WAITING);
    let (survey_ends, surveys) = mpsc::channel(1);
    let (fullnat_ends, fullnat) = mpsc::channel(1);
    let transition = Transition::of(&actual, dataplane::now());
    let events = EventLog::default();
    let handle = AgentHandle { commands: commands_in, events: events.clone() };
    let mut agent = Agent {
        hooks: Hooks::new(config.on_event.clone()),
        config_path: settings.config.clone(),
        config,
        state,
        saving: Saving::new(),
        _state_lock: state_lock,
        effective,
        plane,
        actual,
        in_force_since: Instant::now(),
        last_desired: None,
        bases: Bases::default(),
        flows: FlowWatch::new(transition, survey_ends),
        fullnat: FullnatWatch::new(fullnat_ends),
        health: Health::new(health_events),
        health_reactions: Histogram::default(),
        gave_way: 0,
        discovery: Discovery::new(findings),
        leases: Leases::default(),
        agents: AgentChecks::new(agent_events),
        loads: LoadReports::default(),
        lives: Lives::default(),
        lives_begun: false,
        up: BTreeSet::new(),
        down: BTreeSet::new(),
        probes: Probes::default(),
        ways: next_hops.resolutions(),
        client_routes: next_hops.client_routes(),
        interfaces: next_hops.interfaces(),
        known_interfaces: Default::default(),
        next_hops,
        clients: Clients::default(),
        events,
        started: Instant::now(),
        last_tick: Instant::now(),
        last_reload: None,
        reloads_ok: 0,
        reloads_failed: 0,
        settling: true,
        trouble: None,
        detached: Default::default(),
        warnings,
    };
    let services = agent.effective.services.clone();
    agent.open_probes(&services).map_err(anyhow::Error::msg)?;
    let inputs = Inputs {
        commands,
        health,
        agents,
        config: config_watch,
        discovery: found,
        surveys,
        fullnat,
    };
    Ok((agent, inputs, Doors { handle, socket, metrics, register }))
}

/// The configured seed, else the state's, else that of the program that is pinned, else a new
/// random one. The state keeps it.
fn hash_seed(config: &Config, state: &mut State) -> anyhow::Result<u64> {
    if let Some(seed) = config.hash_seed.or(state.hash_seed) {
        return Ok(seed);
    }
    let seed = match dataplane::pinned_hash_seed(&config.pin_path) {
        Some(seed) => seed,
        None => getrandom::u64().context("the kernel gives no random numbers")?,
    };
    state.hash_seed = Some(seed);
    state.save(&config.state_file)?;
    Ok(seed)
}

/// Lets this process have more files open: every probe under way has a socket, and where a thousand
/// backends are silent, a thousand probes are under way.
fn raise_descriptors() {
    let raised = getrlimit(Resource::RLIMIT_NOFILE).and_then(|(soft, hard)| {
        let most = hard.min(DESCRIPTORS);
        if soft < most { setrlimit(Resource::RLIMIT_NOFILE, most, hard) } else { Ok(()) }
    });
    if let Err(error) = raised {
        tracing::warn!("can't raise the limit of open files (ulimit -n): {error}");
    }
}

/// Has backends leave of which only the maps know: the state file that knew them was lost, and
/// their flows weren't. What the operator should hear of it.
fn adopt(history: &mut History, services: &[ServiceConfig], actual: &Actual) -> Option<String> {
    let mut adopted = Vec::new();
    for (id, present) in &actual.services {
        let key = present.entry.key;
        let service = services.iter().find(|service| service.key == key);
        let Some(service) = service.filter(|s| s.affinity != Affinity::Packet) else { continue };
        for record in actual.backends.values().filter(|record| record.service == id.0) {
            let backend = backend_key(record);
            let serves = service.backends.iter().any(|serving| serving.key == backend);
            if !serves && history.adopt(key, backend, forward(record)) {
                adopted.push(format!("{backend} of service {:?}", service.name));
            }
        }
    }
    (!adopted.is_empty()).then(|| {
        format!(
            "neither config nor state file know backends that may have flows; they leave as the \
             flows end: {}",
            adopted.join(", ")
        )
    })
}

/// How a record's packets travel.
fn forward(record: &BackendRecord) -> Option<Forward> {
    match Kind::try_from(record.kind).ok()? {
        Kind::L2 => Some(Forward::L2),
        Kind::Ipv4 | Kind::Ipv6 => Some(Forward::Ipip),
        Kind::GueIpv4 | Kind::GueIpv6 => Some(Forward::Gue),
        Kind::NatIpv4 | Kind::NatIpv6 => Some(Forward::Nat),
        Kind::FullnatIpv4 | Kind::FullnatIpv6 | Kind::FullnatToIpv4 | Kind::FullnatToIpv6 => {
            Some(Forward::Fullnat)
        }
    }
}

/// How each backend is served, `leaving` ones by their service's name, too: their flows go on.
pub(super) fn forward_modes<'a>(
    services: &'a [ServiceConfig],
    leaving: &'a BTreeMap<String, Vec<BackendConfig>>,
) -> impl Iterator<Item = Forward> + 'a {
    services.iter().flat_map(|service| {
        let leaving = leaving.get(&service.name).into_iter().flatten();
        let backends = service.backends.iter().chain(leaving);
        backends.map(|backend| backend.forward.unwrap_or(service.forward))
    })
}

/// Whether any backend is served by `fullnat`.
pub(super) fn uses_fullnat(mut modes: impl Iterator<Item = Forward>) -> bool {
    modes.any(|forward| forward == Forward::Fullnat)
}

/// Whether any backend answers through the balancer.
pub(super) fn answers_through(mut modes: impl Iterator<Item = Forward>) -> bool {
    modes.any(Forward::translates)
}

/// Room for these services, and for some to come: as much again.
pub fn capacity(services: &[ServiceConfig], history: &History) -> Capacity {
    let ring_size = |service: &ServiceConfig| {
        let kept = history.ring_size(service.key);
        ring_size(service.ring_size, service.backends.len(), kept)
    };
    let slots: u64 = services.iter().map(|service| u64::from(ring_size(service))).sum();
    let backends: usize = services.iter().map(|service| service.backends.len()).sum();
    room(u32::try_from(slots).unwrap_or(u32::MAX), backends)
}

/// Room for so many slots and backends, and for some to come.
pub fn room(slots: u32, backends: usize) -> Capacity {
    let backends = u32::try_from(backends).unwrap_or(u32::MAX).saturating_mul(2);
    Capacity {
        slots: slots.saturating_add(slots.clamp(default_size(0), 1 << 20)),
        // More numbers than slots can name are of no use.
        backends: backends.clamp(LEAST_BACKENDS, BACKEND_NUMBERS),
        ports: PORTS,
    }
}

impl Agent {
    /// Serves, with what is known.
    pub(super) fn begin(&mut self) -> anyhow::Result<()> {
        self.settling = false;
        self.reconcile();
        if let Some(trouble) = self.trouble.take() {
            anyhow::bail!(trouble);
        }
        self.attach_configured()?;
        self.event(News::new(EventKind::Started, Cause::Agent, "the agent serves"));
        Ok(())
    }

    /// Asks for next hops and health, and waits for the first answers.
    pub(super) async fn settle(&mut self, inputs: &mut Inputs) {
        self.watch_effective();
        let deadline = Instant::now() + SETTLING;
        while self.discovery.is_pending() && Instant::now() < deadline {
            tokio::select! {
                Some(findings) = inputs.discovery.recv() => self.found(findings),
                // Probes through VIPs wait for the ways, and not for discovery.
                Ok(()) = self.ways.changed() => self.direct_probes(),
                () = sleep_until(deadline.into()) => {}
            }
        }
        let wanted: BTreeSet<_> = self.addresses().collect();
        // Checks report to a channel that is read later: look at what they know instead.
        while Instant::now() < deadline && !inputs.health.is_closed() {
            // A probe through a VIP waits for the way to its backend, and not for others'.
            if self.ways.has_changed().unwrap_or(false) {
                self.ways.mark_unchanged();
                self.direct_probes();
            }
            if self.ways_known(&wanted) && !self.pending_checks() {
                break;
            }
            sleep(Duration::from_millis(5)).await;
        }
        if self.pending_checks() {
            let waited = SETTLING.as_secs();
            tracing::warn!("some checks had no answer within {waited} s; their backends wait");
        }
        self.known_interfaces = self.interfaces.borrow().clone();
    }

    fn ways_known(&self, wanted: &BTreeSet<IpAddr>) -> bool {
        let ways = self.ways.borrow();
        wanted.iter().all(|address| ways.get(address).is_some_and(|way| !way.is_asking()))
    }

    fn pending_checks(&self) -> bool {
        !self.agents.all_asked()
            || self.effective.services.iter().any(|service| {
                let leaving = self.flows.leaving.get(&service.name).into_iter().flatten();
                service.backends.iter().chain(leaving).any(|backend| {
                    self.health
                        .report(service.key, backend.key)
                        .is_some_and(|r| r.healthy.is_none())
                })
            })
    }
}

/// For `since` fields of what has no time of its own.
pub(super) fn now() -> jiff::Timestamp {
    jiff::Timestamp::try_from(SystemTime::now()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;

    /// A cold start serves the flows of a backend that left, though nobody is served so any more.
    #[test]
    fn who_leaves_counts() {
        let config = "interfaces = [\"eth0\"]\n[[service]]\nname = \"web\"\nforward = \"ipip\"\n\
            vip = \"203.0.113.10:80\"\nbackend = [{ address = \"10.0.0.1\" }, \
            { address = \"10.0.0.2\", forward = \"nat\" }]";
        let mut services = config::parse(config, "test.toml").unwrap().services;
        let mut history = History::default();
        history.note(&services[0], 251, 1, |_| Some(1000));
        let answers = |services: &[ServiceConfig]| {
            let leaving = history.all_leaving(services);
            let modes = || forward_modes(services, &leaving);
            (answers_through(modes()), uses_fullnat(modes()))
        };
        assert_eq!(answers(&services), (true, false));
        services[0].backends.pop();
        assert_eq!(answers(&services), (true, false));
        services[0].backends[0].forward = Some(Forward::Fullnat);
        assert_eq!(answers(&services), (true, true));
    }

    #[test]
    fn room_has_an_end() {
        assert_eq!(room(0, 0), Capacity { slots: 65_537, backends: 1024, ports: PORTS });
        assert_eq!(room(u32::MAX, usize::MAX).slots, u32::MAX);
        assert_eq!(room(u32::MAX - 1, 2_097_151).backends, BACKEND_NUMBERS);
    }
}
