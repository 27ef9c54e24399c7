//! What events tell: through what, by whom, from what to what.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use xlb_tests::lab::{Family, Topology};
use xlb_tests::scene::{Scene, WEB};
use xlb_tests::xlb::{Agent, Forward, Health};
use xlb_tests::{need_root, wait};

use super::events;

const V4: Family = Family::V4;
const SOON: Duration = Duration::from_secs(20);

/// Waits for an event of a kind, and sees that it tells this.
fn told(
    agent: &Agent<'_>,
    kind: &str,
    cause: &str,
    (from, to): (Option<&str>, Option<&str>),
) -> Result<Value> {
    wait::until(kind, SOON, || {
        let found = events(agent)?.into_iter().rfind(|event| event["kind"] == kind);
        let event = found.with_context(|| format!("there is no event {kind}"))?;
        ensure!(event["cause"] == cause, "{event} should be of {cause}");
        let sides = (event["from"].as_str(), event["to"].as_str());
        ensure!(sides == (from, to), "{event} should be from {from:?} to {to:?}");
        Ok(event)
    })
}

#[test]
fn every_change_tells_its_cause_and_both_sides() -> Result<()> {
    need_root!();
    let scene = Scene::new(Topology::OneSegment, Forward::L2, 2)?;
    let mut settings = scene.settings(V4, 2);
    settings.services[0].health = Some(Health::quick());
    settings.services[0].tcp_idle = Some("1s".into());
    let mut agent = Agent::start(&scene.lab.balancer.namespace, &settings)?;
    told(&agent, "started", "agent", (None, None))?;
    scene.served_by(V4, &["b1", "b2"])?;
    let first = scene.address(V4, 0);

    scene.set_healthy(0, false)?;
    let down = told(&agent, "backend_down", "health", (Some("healthy"), Some("unhealthy")))?;
    ensure!(down["backend"] == first && down["service"] == WEB, "{down}");
    ensure!(down["actor"].is_null(), "{down}");
    scene.set_healthy(0, true)?;
    told(&agent, "backend_up", "health", (Some("unhealthy"), Some("healthy")))?;

    agent.call(&["backend", "set", WEB, &first, "--weight", "50"])?;
    let weights = (Some("weight 100"), Some("weight 50"));
    let set = told(&agent, "backend_changed", "api", weights)?;
    let actor = set["actor"].as_str().context("nobody did it")?;
    let user = format!("uid {}", nix::unistd::geteuid());
    ensure!(actor.starts_with(&user) && actor.contains("pid "), "{actor} is not {user}");

    agent.call(&["backend", "drain", WEB, &first])?;
    told(&agent, "backend_draining", "api", (Some("serving"), Some("draining")))?;
    told(&agent, "backend_drained", "traffic", (Some("draining"), Some("drained")))?;

    settings.services[0].backends.truncate(1);
    agent.write_config(&settings)?;
    told(&agent, "backend_removed", "config", (Some("weight 100"), None))?;

    let only = agent.try_call(&["events", "--kind", "backend_up"])?.expect(0)?.stdout;
    let others = only.lines().filter(|line| !line.contains("\"kind\":\"backend_up\"")).count();
    ensure!(others == 0 && !only.is_empty(), "another kind was asked for: {only}");
    let log = agent.running()?.log();
    ensure!(log.contains("from=\"weight 100\" to=\"weight 50\""), "the log doesn't tell: {log}");
    Ok(())
}

#[test]
fn a_hook_gets_every_event_also_the_last() -> Result<()> {
    need_root!();
    let scene = Scene::new(Topology::OneSegment, Forward::L2, 2)?;
    let directory = tempfile::tempdir()?;
    let file = directory.path().join("events");
    let mut settings = scene.settings(V4, 2);
    let script = "cat >> \"$1\"";
    let words = ["/bin/sh", "-c", script, "hook", file.to_str().context("no UTF-8")?];
    settings.on_event = words.map(str::to_owned).to_vec();
    let mut agent = Agent::start(&scene.lab.balancer.namespace, &settings)?;
    agent.call(&["backend", "drain", WEB, &scene.address(V4, 0)])?;
    let seen = events(&agent)?;
    let status = agent.stop()?;
    ensure!(status.success(), "the agent ended with {status}");

    let text = std::fs::read_to_string(&file)?;
    let got: Vec<Value> = text.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
    ensure!(got.len() == seen.len() + 1, "{text} should be {seen:?} and the end");
    ensure!(got[..seen.len()] == seen, "{text} should begin as {seen:?}");
    ensure!(got[seen.len()]["kind"] == "stopping", "{text} should end with the end");
    Ok(())
}
