//! A backend dies at once: from when on no new flow goes there.

use std::fmt;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use jiff::Timestamp;
use xlb_tests::clients::attempts::Attempts;
use xlb_tests::clients::traffic::{Deaths, Load, Targets, Traffic};
use xlb_tests::lab::Topology;
use xlb_tests::scene::Scene;
use xlb_tests::servers::{SESSION_PORT, UDP_PORT};
use xlb_tests::xlb::{Agent, Forward, Health};
use xlb_tests::{need_root, wait};

use crate::row::Turn;
use crate::stall::Watch;
use crate::world::{SERVICES, V4, events, settings};

const INTERVAL: Duration = Duration::from_millis(100);
const FALL: u32 = 3;

/// How long a fall may take.
struct Limits {
    /// From the death to the end of the deciding probe.
    known_after: Duration,
    /// From there to the last new flow.
    last_after: Duration,
}

impl Limits {
    /// With `XLB_TIMED=1`: probes that are refused fail at once, what remains is their pace.
    const TIMED: Self = Self {
        known_after: INTERVAL.saturating_mul(FALL + 1),
        last_after: Duration::from_millis(10),
    };

    /// On any machine: others may use it, too, at any moment, and hold up agent and clients alike.
    const ANYWHERE: Self =
        Self { known_after: Duration::from_secs(5), last_after: Duration::from_secs(1) };

    fn here() -> &'static Self {
        match std::env::var_os("XLB_TIMED") {
            Some(_) => &Self::TIMED,
            None => &Self::ANYWHERE,
        }
    }
}

/// How long attempts go on after that, so that a late one is seen.
const LOOK_ON: Duration = Duration::from_millis(1_300);

const READY: Duration = Duration::from_secs(20);

/// From one attempt to the next: with four backends, the dead one is met every 4 ms.
const EVERY: Duration = Duration::from_millis(1);

const LOAD: Load = Load { connections: 200, newcomer_every: None, bulk: true, sessions: 100 };

#[test]
fn a_dead_backend_gets_no_new_flow_after_its_fall() -> Result<()> {
    need_root!();
    let _turn = Turn::wait();
    let scene = Scene::new(Topology::OneSegment, Forward::Ipip, 4)?;
    let mut agent = Agent::start(
        &scene.lab.balancer.namespace,
        &settings(&scene, Forward::Ipip, &[0, 1, 2, 3], &health()),
    )?;
    let client = &scene.lab.client.namespace;
    let targets = Targets {
        tcp: V4.vip_port(SESSION_PORT),
        udp: V4.vip_port(UDP_PORT),
        client: scene.lab.client.address(V4),
    };
    let traffic = Traffic::start(client, targets, LOAD)?;
    let attempts = Attempts::start(client, targets.tcp, EVERY)?;
    let watch = Watch::start(agent.running()?.pid())?;
    let mark = traffic.journal.mark();
    let mut deaths = Deaths::default();
    let mut late = Vec::new();
    for victim in 0..3 {
        let name = &scene.lab.backends[victim].name;
        let fall = fall(&scene, &agent, &attempts, &watch, victim, &mut deaths);
        let fall = fall.with_context(|| format!("the death of {name}"))?;
        println!("{name} died: {fall}");
        if !fall.is_in_time() {
            late.push(format!("{name}: {fall}"));
        }
        traffic.answered_since(Instant::now())?;
        scene.start_server(victim)?;
        let address = scene.address(V4, victim);
        wait::until(&format!("{name} to be back"), READY, || {
            for service in SERVICES {
                let state = agent.backend(service, &address)?["state"].clone();
                ensure!(state == "healthy", "{state} in {service}");
            }
            Ok(())
        })?;
        deaths.end(Instant::now());
        traffic.answered_since(Instant::now())?;
    }
    let tally = traffic.journal.tally(&mark, &deaths);
    println!("{} flows died with their backends, {} others", tally.on_dead, tally.broken.len());
    ensure!(late.is_empty(), "new flows went to a dead backend for too long: {late:#?}");
    ensure!(tally.on_dead > 0, "no flow lived on a backend that died");
    ensure!(tally.broken.is_empty(), "flows of other backends broke: {:#?}", tally.broken);
    Ok(())
}

/// How a death went.
struct Fall {
    /// New flows that met the dead backend.
    met: usize,
    /// From the death to the agent's word of it.
    known_after: Duration,
    /// How long the agent's threads waited for a CPU in that time.
    waited_before: Duration,
    /// From the agent's word to the beginning of the last new flow that met the dead backend.
    last_after: Duration,
    /// How long the agent's threads waited for a CPU in that time.
    waited_after: Duration,
}

impl Fall {
    fn is_in_time(&self) -> bool {
        let limits = Limits::here();
        self.known_after <= limits.known_after + self.waited_before
            && self.last_after <= limits.last_after + self.waited_after
    }
}

impl fmt::Display for Fall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { met, known_after, waited_before, last_after, waited_after } = self;
        write!(
            f,
            "{met} new flows met it; known after {known_after:.1?} (limit {:?}, agent waited for a CPU \
             {waited_before:.1?}); the last new flow began {last_after:.1?} after that (limit \
             {:?}, agent waited for a CPU {waited_after:.1?})",
            Limits::here().known_after,
            Limits::here().last_after
        )
    }
}

/// Kills a backend's servers, and compares the last new flow that met them with the agent's own
/// word on when it knew.
fn fall(
    scene: &Scene,
    agent: &Agent<'_>,
    attempts: &Attempts,
    watch: &Watch,
    victim: usize,
    deaths: &mut Deaths,
) -> Result<Fall> {
    let address = scene.address(V4, victim);
    let before = events(agent, "backend_down")?.len();
    let (killed, killed_clock) = (Instant::now(), Timestamp::now());
    deaths.begin(&scene.lab.backends[victim].name, killed);
    scene.kill_server(victim);
    let down = wait::until("the agent's word of the death", READY, || {
        let down = events(agent, "backend_down")?.split_off(before);
        let both = SERVICES.iter().all(|name| down.iter().any(|event| event.service == *name));
        ensure!(both, "so far: {down:?}");
        Ok(down)
    })?;
    // The agent answers once it has done what follows from the death.
    agent.status()?;
    deaths.detected(Instant::now());
    let [session, _] = SERVICES;
    let event = down.iter().find(|event| event.service == session).context("no such event")?;
    ensure!(down.iter().all(|event| event.backend == address), "others are down, too: {down:?}");
    let since_kill = |at: Timestamp| Duration::try_from(at.duration_since(killed_clock));
    let known = killed + since_kill(event.at)?;

    wait::until("attempts after the fall", READY, || {
        let fresh = attempts.now().iter().any(|attempt| attempt.began > known + LOOK_ON);
        ensure!(fresh, "none yet");
        Ok(())
    })?;
    let met: Vec<_> = attempts
        .now()
        .into_iter()
        .filter(|attempt| attempt.began > killed && attempt.error.is_some())
        .collect();
    let last = met.iter().map(|attempt| attempt.began).max().context("nobody met the dead one")?;
    Ok(Fall {
        met: met.len(),
        known_after: known - killed,
        waited_before: watch.between(killed, known),
        last_after: last.saturating_duration_since(known),
        waited_after: watch.between(known, last.max(known + Limits::here().last_after)),
    })
}

fn timeout() -> Duration {
    INTERVAL.mul_f64(0.8)
}

/// What a connection is answered by decides: a dead process's port refuses it.
fn health() -> Health {
    Health {
        kind: "tcp".into(),
        port: Some(SESSION_PORT),
        via: None,
        path: None,
        interval: format!("{}ms", INTERVAL.as_millis()),
        timeout: format!("{}ms", timeout().as_millis()),
        rise: 2,
        fall: FALL,
        ..Health::default()
    }
}
