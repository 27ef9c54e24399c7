//! A changed config file, by itself and by SIGHUP; a bad one changes nothing.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use xlb_tests::clients::stream::Streams;
use xlb_tests::lab::{Family, Topology};
use xlb_tests::scene::{Scene, WEB};
use xlb_tests::servers::HTTP_PORT;
use xlb_tests::xlb::{Agent, Forward, Protocol, Service};
use xlb_tests::{need_root, wait};

use super::{STREAMS, kinds, unbroken};

const V4: Family = Family::V4;

#[test]
fn a_changed_file_and_sighup_reload() -> Result<()> {
    need_root!();
    let scene = Scene::new(Topology::OneSegment, Forward::L2, 3)?;
    let mut agent = Agent::start(&scene.lab.balancer.namespace, &scene.settings(V4, 1))?;
    scene.served_by(V4, &["b1"])?;
    agent.write_config(&scene.settings(V4, 2))?;
    scene.served_by(V4, &["b1", "b2"]).context("after the file changed")?;
    agent.wait_listed(WEB, &scene.address(V4, 1), true)?;
    agent.write_config(&scene.settings(V4, 3))?;
    agent.signal(Signal::SIGHUP)?;
    scene.served_by(V4, &["b1", "b2", "b3"]).context("after SIGHUP")?;
    agent.write_config(&scene.settings(V4, 1))?;
    scene.served_by(V4, &["b1"]).context("after backends left the file")
}

#[test]
fn a_bad_reload_keeps_what_runs() -> Result<()> {
    need_root!();
    let scene = Scene::new(Topology::OneSegment, Forward::L2, 3)?;
    let mut agent = Agent::start(&scene.lab.balancer.namespace, &scene.settings(V4, 2))?;
    scene.served_by(V4, &["b1", "b2"])?;
    let web = V4.vip_port(HTTP_PORT);
    let streams = Streams::open(&scene.lab.client.namespace, web, STREAMS)?;

    agent.write_config_text("interfaces = [\"eth0\"]\nno_such_key = 1\n")?;
    agent.signal(Signal::SIGHUP)?;
    wait::until("the error in the log", Duration::from_secs(20), || {
        let log = agent.running()?.log();
        ensure!(log.contains("no_such_key"), "the log says: {log}");
        Ok(())
    })?;
    streams.progress(10)?;
    scene.served_by(V4, &["b1", "b2"])?;
    unbroken(&streams.close(), None)?;

    agent.write_config(&scene.settings(V4, 3))?;
    agent.signal(Signal::SIGHUP)?;
    scene.served_by(V4, &["b1", "b2", "b3"]).context("a good config after the bad one")
}

/// It takes room for the ways to its clients: other maps, with another program, while all others are
/// served.
#[test]
fn the_first_service_under_nat_disturbs_nobody() -> Result<()> {
    need_root!();
    let scene = Scene::new(Topology::OneSegment, Forward::L2, 2)?;
    for by_file in [true, false] {
        let mut settings = scene.settings(V4, 2);
        let agent = Agent::start(&scene.lab.balancer.namespace, &settings)?;
        scene.served_by(V4, &["b1", "b2"])?;
        let bytes = || agent.status()?["maps_bytes"].as_u64().context("no maps_bytes");
        let without = bytes()?;
        let streams = Streams::open(&scene.lab.client.namespace, V4.vip_port(HTTP_PORT), STREAMS)?;
        let (vip, backend) = (V4.vip_port(7000), scene.lab.addresses(V4)[0]);
        if by_file {
            let late = Service::new("late", vip, Protocol::Tcp, Forward::Nat);
            settings.services.push(late.to([backend]));
            agent.write_config(&settings)?;
        } else {
            let (vip, backend) = (vip.to_string(), backend.to_string());
            let late = ["--vip", &vip, "--forward", "nat", "--backend", &backend, "late"];
            agent.call(&[&["service", "add"][..], &late].concat())?;
        }
        wait::until("room for the ways to clients", Duration::from_secs(20), || {
            let with = bytes()?;
            ensure!(with >= without + (2 << 20) - 64, "{without} bytes became {with}");
            Ok(())
        })?;
        streams.progress(10)?;
        scene.served_by(V4, &["b1", "b2"])?;
        unbroken(&streams.close(), None)?;
    }
    Ok(())
}

/// A config that is right and can't be put in force here: what runs goes on, and it is said.
#[test]
fn a_reload_that_is_refused_keeps_what_runs() -> Result<()> {
    need_root!();
    let scene = Scene::new(Topology::OneSegment, Forward::L2, 3)?;
    let mut agent = Agent::start(&scene.lab.balancer.namespace, &scene.settings(V4, 2))?;
    scene.served_by(V4, &["b1", "b2"])?;
    let web = V4.vip_port(HTTP_PORT);
    let streams = Streams::open(&scene.lab.client.namespace, web, STREAMS)?;

    let mut wrong = scene.settings(V4, 3);
    wrong.interfaces = vec!["eht0".into()];
    agent.write_config(&wrong)?;
    let status = wait::until("the failed reload", Duration::from_secs(20), || {
        let status = agent.status()?;
        ensure!(status["last_reload"]["ok"] == false, "{status}");
        Ok(status)
    })?;
    let error = status["last_reload"]["error"].as_str().context("a failed reload has a reason")?;
    ensure!(error.contains("eht0"), "{error}");
    ensure!(status["reloads_failed_total"] == 1 && status["reloads_ok_total"] == 0, "{status}");
    let interface = &status["interfaces"][0];
    ensure!(interface["name"] == "eth0" && interface["attached"] == true, "{interface}");
    ensure!(kinds(&agent)?.contains(&"reload_failed".to_owned()), "no event");
    streams.progress(10)?;
    scene.served_by(V4, &["b1", "b2"])?;
    unbroken(&streams.close(), None)?;

    // The same with the right name is no repetition of what failed.
    agent.write_config(&scene.settings(V4, 3))?;
    scene.served_by(V4, &["b1", "b2", "b3"])?;
    let kinds = kinds(&agent)?;
    for kind in ["reloaded", "backend_added"] {
        ensure!(kinds.iter().any(|found| found == kind), "no event {kind} in {kinds:?}");
    }
    agent.signal(Signal::SIGHUP)?;
    let status = agent.status()?;
    ensure!(status["last_reload"]["ok"] == true, "{status}");
    Ok(())
}

/// What the config took back doesn't come back with the next start.
#[test]
fn a_live_change_that_a_reload_took_back_is_gone_for_good() -> Result<()> {
    need_root!();
    let scene = Scene::new(Topology::OneSegment, Forward::L2, 2)?;
    let settings = scene.settings(V4, 2);
    let mut agent = Agent::start(&scene.lab.balancer.namespace, &settings)?;
    agent.call(&["service", "remove", WEB])?;
    let mut without = settings.clone();
    without.services.retain(|service| service.name != WEB);
    let reloads = |agent: &Agent<'_>, number: u64| {
        wait::until("a reload", Duration::from_secs(20), || {
            let status = agent.status()?;
            ensure!(status["reloads_ok_total"] == number, "{status}");
            Ok(())
        })
    };
    agent.write_config(&without)?;
    reloads(&agent, 1)?;
    agent.write_config(&settings)?;
    reloads(&agent, 2)?;
    scene.served_by(V4, &["b1", "b2"]).context("after the reload")?;
    agent.stop()?;
    agent.launch(&[])?;
    scene.served_by(V4, &["b1", "b2"]).context("after the restart")
}
