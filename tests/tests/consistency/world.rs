//! A balancer under traffic, and one change after the other.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use jiff::Timestamp;
use serde_json::Value;
use xlb_tests::clients::flood::{Flood, Forged, Targets as FloodTargets, contain};
use xlb_tests::clients::traffic::{Deaths, Load, Targets, Traffic};
use xlb_tests::lab::{Family, Host};
use xlb_tests::scene::Scene;
use xlb_tests::servers::{HTTP_PORT, SESSION_PORT, UDP_PORT};
use xlb_tests::wait;
use xlb_tests::xlb::{Agent, Forward, Health, Protocol, Service, Settings};

use crate::row::{Allowed, Row};

pub(crate) const V4: Family = Family::V4;

/// The TCP service and the UDP service.
pub(crate) const SERVICES: [&str; 2] = ["session", "echo"];

/// How long a flow may be quiet: longer than a client is patient, so that a flow that lives on is
/// one for the balancer, too.
const IDLE: &str = "6s";

/// How long slots may move without a reason: twice the time that a flow may be quiet, and the
/// sweep's own.
const STABLE: Duration = Duration::from_secs(40);

/// How long a change may take until the agent tells of it.
const READY: Duration = Duration::from_secs(20);

/// Most flows that are remembered: a flood soon has spent the budget that goes with it.
const FLOW_CAPACITY: u32 = 1 << 17;

/// Forged packets per second, if the machine gives them.
const FLOOD_PER_SECOND: u32 = 200_000;

/// When a flood ends at the latest.
const FLOOD_LIMIT: Duration = Duration::from_secs(300);

/// What every course carries.
pub(crate) const FULL: Load = Load {
    connections: 1000,
    newcomer_every: Some(Duration::from_millis(10)),
    bulk: true,
    sessions: 500,
};

pub(crate) struct World<'scene> {
    flood: Option<(Flood, Host)>,
    pub(crate) traffic: Traffic,
    pub(crate) agent: Agent<'scene>,
    pub(crate) scene: &'scene Scene,
    forward: Forward,
    /// Numbers of the backends in the config file.
    configured: Vec<usize>,
    /// What the test killed, or called dead.
    pub(crate) deaths: Deaths,
    rows: Vec<Row>,
}

impl<'scene> World<'scene> {
    /// Starts the agent over these backends, then the traffic.
    pub(crate) fn new(
        scene: &'scene Scene,
        forward: Forward,
        backends: impl IntoIterator<Item = usize>,
        load: Load,
    ) -> Result<Self> {
        scene.lab.backends.iter().try_for_each(contain)?;
        let configured: Vec<_> = backends.into_iter().collect();
        let settings = settings(scene, forward, &configured, &health());
        let mut agent = Agent::prepare(&scene.lab.balancer.namespace, &settings)?;
        agent.launch(&["--keep"])?;
        let targets = Targets {
            tcp: V4.vip_port(SESSION_PORT),
            udp: V4.vip_port(UDP_PORT),
            client: scene.lab.client.address(V4),
        };
        let traffic = Traffic::start(&scene.lab.client.namespace, targets, load)?;
        Ok(Self {
            flood: None,
            traffic,
            agent,
            scene,
            forward,
            configured,
            deaths: Deaths::default(),
            rows: Vec::new(),
        })
    }

    /// From now on, forged packets come as fast as they may: SYNs and bare ACKs. Not datagrams: one
    /// of them is all that a UDP flow shows at first, and beyond the budget its record comes with
    /// the second.
    pub(crate) fn start_flood(&mut self) -> Result<()> {
        let stranger = self.scene.lab.stranger()?;
        let target = |forged, port| match V4.vip_port(port) {
            SocketAddr::V4(address) => Ok((forged, address)),
            SocketAddr::V6(address) => bail!("{address} is not for an IPv4 flood"),
        };
        let mut targets: FloodTargets = vec![target(Forged::Syn, SESSION_PORT)?; 8];
        targets.push(target(Forged::Ack, SESSION_PORT)?);
        let flood = Flood::start(&stranger, targets, FLOOD_PER_SECOND, FLOOD_LIMIT)?;
        self.flood = Some((flood, stranger));
        Ok(())
    }

    /// Makes a change under traffic, waits until every flow was answered after it, and counts.
    pub(crate) fn row(
        &mut self,
        scenario: &'static str,
        allowed: Allowed,
        change: impl FnOnce(&mut Self) -> Result<()>,
    ) {
        let began = Instant::now();
        let mut trouble = Vec::new();
        let complete = self.traffic.is_complete();
        let clock = Timestamp::now();
        let mark = self.traffic.journal.mark();
        let sent = self.sent();
        let deaths = self.deaths.count();
        let changed = complete.and_then(|()| change(self));
        // Whatever became of the change, what it does to flows shall show.
        let changed = self.answered().and(changed);
        let seconds = mark.at().elapsed().as_secs_f64();
        let flood = self.flood.as_ref().map(|_| ((self.sent() - sent) as f64 / seconds) as u64);
        let tally = self.traffic.journal.tally(&mark, &self.deaths);
        trouble.extend(changed.err().map(|error| format!("{error:#}")));
        if self.deaths.count() == deaths {
            trouble.extend(self.no_death_since(clock).err().map(|error| format!("{error:#}")));
        }
        if self.traffic.load().bulk && tally.bulk_bytes == 0 {
            trouble.push("nothing of the bulk transfer arrived".to_owned());
        }
        let load = self.traffic.load();
        self.rows.push(Row {
            scenario,
            mode: if self.forward == Forward::Gue { "gue" } else { "ipip" },
            connections: load.connections,
            sessions: load.sessions,
            tally,
            allowed,
            flood,
            took: began.elapsed(),
            trouble,
        });
    }

    /// Ends the traffic, then waits until the balancer is done with every change. Hands back all
    /// rows.
    pub(crate) fn end(mut self) -> Vec<Row> {
        self.row("all flows end", Allowed::NOTHING, |_| Ok(()));
        let Self { flood, traffic, agent, mut rows, .. } = self;
        let flooded = flood.is_some();
        drop(flood);
        drop(traffic);
        if let (Err(error), Some(row)) = (done(&agent, flooded), rows.last_mut()) {
            row.trouble.push(format!("{error:#}"));
        }
        rows
    }

    /// Waits until every long flow was answered once more.
    pub(crate) fn answered(&self) -> Result<()> {
        self.traffic.answered_since(Instant::now())
    }

    /// Waits until no more slots move than there are flows that may live elsewhere.
    pub(crate) fn nearly_stable(&self) -> Result<()> {
        let load = self.traffic.load();
        // Short flows come on top: those that began before the change are gone soon.
        let limits = [load.connections + load.connections / 10, load.sessions + load.sessions / 2];
        for (service, limit) in SERVICES.iter().zip(limits) {
            // What the agent doesn't tell, it won't tell later.
            moving_slots(&self.agent, service)?;
            wait::until(
                &format!("no more than {limit} moving slots of {service}"),
                STABLE,
                || {
                    let moving = moving_slots(&self.agent, service)?;
                    ensure!(
                        moving <= limit as u64,
                        "{moving} move; {}",
                        self.agent.status()?["flows"]
                    );
                    Ok(())
                },
            )?;
        }
        Ok(())
    }

    /// # Errors
    /// No slot moves: then the change that was made proves nothing.
    pub(crate) fn moving(&self) -> Result<()> {
        for service in SERVICES {
            ensure!(moving_slots(&self.agent, service)? > 0, "no slot of {service} moves");
        }
        Ok(())
    }

    /// The text of a backend's address.
    pub(crate) fn address(&self, backend: usize) -> String {
        self.scene.address(V4, backend)
    }

    /// `xlb backend VERB SERVICE ADDRESS …` for both services.
    pub(crate) fn backend(&self, verb: &str, backend: usize, more: &[&str]) -> Result<()> {
        let address = self.address(backend);
        for service in SERVICES {
            self.agent.call(&[&["backend", verb, service, &address], more].concat())?;
        }
        Ok(())
    }

    /// Writes the config file anew, with these backends besides or no more.
    pub(crate) fn configure(
        &mut self,
        added: impl IntoIterator<Item = usize>,
        removed: &[usize],
    ) -> Result<()> {
        self.configured.extend(added);
        self.configured.retain(|backend| !removed.contains(backend));
        self.agent.write_config(&settings(self.scene, self.forward, &self.configured, &health()))
    }

    /// Waits until a backend is in that state, in both services.
    pub(crate) fn wait_state(&self, backend: usize, state: &str) -> Result<()> {
        let address = self.address(backend);
        wait::until(&format!("{address} to be {state}"), READY, || {
            for service in SERVICES {
                let now = self.agent.backend(service, &address)?["state"].clone();
                ensure!(now == state, "it is {now} in {service}");
            }
            Ok(())
        })
    }

    /// Whether backends find connections that the balancer forgot.
    pub(crate) fn is_gue(&self) -> bool {
        self.forward == Forward::Gue
    }

    /// Whether a flood runs.
    pub(crate) fn is_flooded(&self) -> bool {
        self.flood.is_some()
    }

    fn sent(&self) -> u64 {
        self.flood.as_ref().map_or(0, |(flood, _)| flood.sent())
    }

    /// # Errors
    /// The agent took a backend for dead that wasn't.
    fn no_death_since(&self, since: Timestamp) -> Result<()> {
        let down: Vec<_> = events(&self.agent, "backend_down")?
            .into_iter()
            .filter(|event| event.at > since)
            .collect();
        ensure!(down.is_empty(), "the agent took live backends for dead: {down:?}");
        Ok(())
    }
}

/// Waits until no slot moves and no backend leaves: without flows, nothing is left to wait for.
fn done(agent: &Agent<'_>, flooded: bool) -> Result<()> {
    for name in SERVICES {
        moving_slots(agent, name)?;
        wait::until(&format!("the end of all changes of {name}"), STABLE, || {
            let moving = moving_slots(agent, name)?;
            let leaving = leaving(agent, name)?;
            let flows = agent.status()?["flows"].clone();
            ensure!(moving == 0, "{moving} slots move; {flows}");
            ensure!(leaving.is_empty(), "{leaving:?} leave; {flows}");
            Ok(())
        })?;
    }
    let flows = agent.status()?["flows"].clone();
    println!("flows: {flows}");
    let count =
        |key: &str| flows[key].as_u64().with_context(|| format!("xlb status tells no flows.{key}"));
    ensure!(count("recorded_total")? > 0, "nothing was ever recorded");
    ensure!(count("records")? <= count("capacity")?, "more records than there is room for");
    ensure!(count("table_full_total")? == 0, "the flow table was full");
    let refused = count("over_budget_opening_total")?;
    ensure!(refused > 0 || !flooded, "a flood of SYNs was within the budget");
    Ok(())
}

fn moving_slots(agent: &Agent<'_>, name: &str) -> Result<u64> {
    let moving = service(agent, name)?["moving_slots"].as_u64();
    moving.context("xlb status tells no moving_slots")
}

/// Addresses of the backends that are on their way out of a service.
pub(crate) fn leaving(agent: &Agent<'_>, name: &str) -> Result<Vec<String>> {
    let service = service(agent, name)?;
    let leaving = service["leaving"].as_array().context("xlb status tells nothing of leaving")?;
    let address = |backend: &Value| backend["address"].as_str().map(str::to_owned);
    Ok(leaving.iter().filter_map(address).collect())
}

fn service(agent: &Agent<'_>, name: &str) -> Result<Value> {
    let status = agent.status()?;
    let services = status["services"].as_array().context("xlb status tells no services")?;
    let service = services.iter().find(|service| service["name"] == name);
    service.cloned().with_context(|| format!("no service {name} in {status}"))
}

/// What the agent told of a backend.
#[derive(Debug)]
pub(crate) struct Event {
    pub(crate) at: Timestamp,
    pub(crate) service: String,
    pub(crate) backend: String,
}

/// All events of a kind since the agent started.
pub(crate) fn events(agent: &Agent<'_>, kind: &str) -> Result<Vec<Event>> {
    let output = agent.try_call(&["events"])?.expect(0)?;
    let mut events = Vec::new();
    for line in output.stdout.lines() {
        let event: Value = serde_json::from_str(line).with_context(|| format!("read {line}"))?;
        let text = |key: &str| event[key].as_str().unwrap_or_default().to_owned();
        if event["kind"] == kind {
            let at = text("at").parse().with_context(|| format!("read the time of {line}"))?;
            events.push(Event { at, service: text("service"), backend: text("backend") });
        }
    }
    Ok(events)
}

/// Both services over these backends, under this check.
pub(crate) fn settings(
    scene: &Scene,
    forward: Forward,
    backends: &[usize],
    health: &Health,
) -> Settings {
    let service = |name: &str, port, protocol| {
        let addresses = backends.iter().map(|&backend| scene.lab.backends[backend].address(V4));
        let mut service = Service::new(name, V4.vip_port(port), protocol, forward)
            .to(addresses)
            .watched(health.clone());
        service.tcp_idle = Some(IDLE.into());
        service.udp_timeout = Some(IDLE.into());
        service
    };
    let [session, echo] = SERVICES;
    Settings {
        interfaces: scene.lab.interfaces().iter().map(|&name| name.to_owned()).collect(),
        flow_capacity: Some(FLOW_CAPACITY),
        services: vec![
            service(session, SESSION_PORT, Protocol::Tcp),
            service(echo, UDP_PORT, Protocol::Udp),
        ],
        ..Settings::default()
    }
}

/// Patient enough for a busy machine: a live backend must not be taken for dead.
fn health() -> Health {
    Health {
        kind: "http".into(),
        port: Some(HTTP_PORT),
        via: None,
        path: Some("/healthz".into()),
        interval: "300ms".into(),
        timeout: "300ms".into(),
        rise: 2,
        fall: 3,
        ..Health::default()
    }
}
