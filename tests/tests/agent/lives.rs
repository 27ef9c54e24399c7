//! What backends serve while they fail, come back and speak for themselves.

use std::io::Write;
use std::net::{SocketAddr, TcpListener};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use xlb_tests::clients::http;
use xlb_tests::lab::{Family, Host, Topology};
use xlb_tests::scene::{Scene, WEB};
use xlb_tests::xlb::{Agent, AgentCheck, Forward, Health};
use xlb_tests::{need_root, wait};

use super::kinds;

const V4: Family = Family::V4;

const READY: Duration = Duration::from_secs(20);

/// Where agents on backends listen.
const AGENT_PORT: u16 = 8081;

/// An agent on a backend: says its line to whoever connects.
struct Speaker {
    line: Arc<Mutex<String>>,
    stop: Arc<AtomicBool>,
    address: SocketAddr,
    thread: Option<JoinHandle<()>>,
}

impl Speaker {
    fn start(host: &Host) -> Result<Self> {
        let address = SocketAddr::new(host.address(V4), AGENT_PORT);
        let listener = host.namespace.run(|| TcpListener::bind(address))??;
        listener.set_nonblocking(true)?;
        let line = Arc::new(Mutex::new("up 100%\n".to_owned()));
        let stop = Arc::new(AtomicBool::new(false));
        let (said, stopped) = (Arc::clone(&line), Arc::clone(&stop));
        let thread = thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                match listener.accept() {
                    Ok((mut stream, _)) => {
                        let line = said.lock().unwrap_or_else(PoisonError::into_inner).clone();
                        // Whoever asked may be gone.
                        let _ = stream.write_all(line.as_bytes());
                    }
                    Err(_) => thread::sleep(Duration::from_millis(5)),
                }
            }
        });
        Ok(Self { line, stop, address, thread: Some(thread) })
    }

    fn say(&self, line: &str) {
        *self.line.lock().unwrap_or_else(PoisonError::into_inner) = format!("{line}\n");
    }
}

impl Drop for Speaker {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            eprintln!("the agent at {} had panicked", self.address);
        }
    }
}

/// Waits until a backend is in a state, with a live weight within these.
fn becomes(
    agent: &Agent<'_>,
    address: &str,
    state: &str,
    live: std::ops::RangeInclusive<f64>,
) -> Result<()> {
    wait::until(&format!("{address} to be {state}, live weight {live:?}"), READY, || {
        let backend = agent.backend(WEB, address)?;
        let weight = backend["live_weight"].as_f64().context("a live weight")?;
        ensure!(backend["state"] == state && live.contains(&weight), "it is {backend}");
        Ok(())
    })
}

fn happened(agent: &Agent<'_>, kind: &str) -> Result<()> {
    let kinds = kinds(agent)?;
    ensure!(kinds.iter().any(|found| found == kind), "no {kind} in {kinds:?}");
    Ok(())
}

#[test]
fn where_all_fail_all_are_used_until_some_return() -> Result<()> {
    need_root!();
    let scene = Scene::new(Topology::OneSegment, Forward::L2, 3)?;
    let mut settings = scene.settings(V4, 3);
    settings.services[0].health = Some(Health::quick());
    let agent = Agent::start(&scene.lab.balancer.namespace, &settings)?;
    let all = ["b1", "b2", "b3"];
    scene.served_by(V4, &all)?;
    (0..3).try_for_each(|backend| scene.set_healthy(backend, false))?;
    wait::until("a panic", READY, || happened(&agent, "panic_began"))?;
    // Their checks fail, and they serve all the same.
    scene.served_by(V4, &all)?;
    let status = agent.status()?;
    ensure!(status["services"][0]["panic"] == true, "{status}");
    ensure!(status["warnings"].to_string().contains("in panic"), "{status}");
    scene.set_healthy(1, true)?;
    scene.served_by(V4, &["b2"])?;
    happened(&agent, "panic_ended")
}

/// Without panic, and told by an event and the status.
#[test]
fn a_service_is_down_while_nobody_serves() -> Result<()> {
    need_root!();
    let scene = Scene::new(Topology::OneSegment, Forward::L2, 2)?;
    let mut settings = scene.settings(V4, 2);
    settings.services[0].health = Some(Health::quick());
    settings.services[0].panic_threshold = Some("0%".into());
    let agent = Agent::start(&scene.lab.balancer.namespace, &settings)?;
    scene.served_by(V4, &["b1", "b2"])?;
    let up = |up: bool| {
        let status = agent.status()?;
        ensure!(status["services"][0]["up"] == up, "{status}");
        Ok(())
    };
    up(true)?;
    ensure!(happened(&agent, "service_down").is_err(), "it was up from the start");
    scene.set_healthy(0, false)?;
    scene.served_by(V4, &["b2"])?;
    up(true)?;
    scene.set_healthy(1, false)?;
    wait::until("nobody to serve", READY, || happened(&agent, "service_down"))?;
    up(false)?;
    scene.set_healthy(0, true)?;
    scene.served_by(V4, &["b1"])?;
    up(true)?;
    happened(&agent, "service_up")
}

#[test]
fn a_backup_serves_while_no_other_lives() -> Result<()> {
    need_root!();
    let scene = Scene::new(Topology::OneSegment, Forward::Ipip, 3)?;
    let mut settings = scene.settings(V4, 3);
    settings.services[0].health = Some(Health::quick());
    settings.services[0].backends[2].backup = Some(true);
    let agent = Agent::start(&scene.lab.balancer.namespace, &settings)?;
    scene.served_by(V4, &["b1", "b2"])?;
    becomes(&agent, &scene.address(V4, 2), "backup", 0.0..=0.0)?;
    scene.set_healthy(0, false)?;
    scene.served_by(V4, &["b2"])?;
    scene.set_healthy(1, false)?;
    scene.served_by(V4, &["b3"])?;
    happened(&agent, "backup_active")?;
    scene.set_healthy(0, true)?;
    scene.served_by(V4, &["b1"])?;
    happened(&agent, "backup_idle")
}

#[test]
fn a_recovered_backend_starts_slowly() -> Result<()> {
    need_root!();
    let scene = Scene::new(Topology::OneSegment, Forward::L2, 3)?;
    let mut settings = scene.settings(V4, 3);
    settings.services[0].health = Some(Health::quick());
    settings.services[0].slow_start = Some("6s".into());
    let agent = Agent::start(&scene.lab.balancer.namespace, &settings)?;
    let address = scene.address(V4, 0);
    becomes(&agent, &address, "healthy", 100.0..=100.0)?;
    // The others must have served for as long as a ramp takes.
    wait::until("warm backends", READY, || {
        let uptime = agent.status()?["uptime_seconds"].as_f64().context("an uptime")?;
        ensure!(uptime > 10.0, "up for {uptime} s");
        Ok(())
    })?;
    scene.set_healthy(0, false)?;
    becomes(&agent, &address, "unhealthy", 0.0..=0.0)?;
    scene.set_healthy(0, true)?;
    becomes(&agent, &address, "slow_start", 10.0..=99.0)?;
    becomes(&agent, &address, "healthy", 100.0..=100.0)
}

#[test]
fn an_agents_words_are_followed() -> Result<()> {
    need_root!();
    let scene = Scene::new(Topology::OneSegment, Forward::L2, 2)?;
    let mut settings = scene.settings(V4, 2);
    settings.services[0].agent_check =
        Some(AgentCheck { port: AGENT_PORT, interval: "100ms".into() });
    let speakers = scene.lab.backends.iter().map(Speaker::start).collect::<Result<Vec<_>>>()?;
    let agent = Agent::start(&scene.lab.balancer.namespace, &settings)?;
    let address = scene.address(V4, 0);
    for (line, state, live) in [
        ("75%", "healthy", 75.0),
        ("up ready 50%", "healthy", 50.0),
        ("drain", "draining", 0.0),
        ("ready", "healthy", 50.0),
        ("maint # upgrade", "maintenance", 0.0),
        ("ready,up", "healthy", 50.0),
        ("down#disk full", "unhealthy", 0.0),
        ("up 100%", "healthy", 100.0),
        ("stopped", "unhealthy", 0.0),
        ("no words of ours", "unhealthy", 0.0),
        ("up", "healthy", 100.0),
    ] {
        speakers[0].say(line);
        becomes(&agent, &address, state, live..=live).with_context(|| format!("{line:?}"))?;
    }
    happened(&agent, "backend_agent")?;
    speakers[0].say("maint");
    scene.served_by(V4, &["b2"])?;
    // An agent that is gone changes nothing, and that it is gone is told.
    drop(speakers);
    wait::until("an agent that is gone", READY, || {
        let backend = agent.backend(WEB, &address)?;
        ensure!(backend["agent"]["error"].is_string(), "{backend}");
        Ok(())
    })?;
    becomes(&agent, &address, "maintenance", 0.0..=0.0)?;
    let client = &scene.lab.client.namespace;
    http::ask(client, V4.vip_port(xlb_tests::servers::HTTP_PORT), READY)?;
    Ok(())
}
