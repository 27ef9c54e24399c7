//! Start, stop, restart; who may have the interface.

use std::fs;
use std::process::Command;
use std::time::Duration;

use anyhow::{Result, ensure};
use nix::sys::signal::Signal;
use xlb_tests::clients::http;
use xlb_tests::clients::stream::Streams;
use xlb_tests::lab::{Family, Topology};
use xlb_tests::scene::{Scene, WEB};
use xlb_tests::servers::HTTP_PORT;
use xlb_tests::xlb::{Agent, Backend, Forward, Settings};
use xlb_tests::{need_root, wait};

use super::{STREAMS, attached, kinds, unbroken};

const V4: Family = Family::V4;

#[test]
fn changes_survive_a_restart() -> Result<()> {
    need_root!();
    let scene = Scene::new(Topology::OneSegment, Forward::L2, 3)?;
    let mut agent = Agent::start(&scene.lab.balancer.namespace, &scene.settings(V4, 2))?;
    let (first, third) = (scene.address(V4, 0), scene.address(V4, 2));
    agent.call(&["backend", "add", WEB, &third])?;
    agent.call(&["backend", "set", WEB, &third, "--weight", "200"])?;
    agent.call(&["backend", "remove", WEB, &first])?;
    scene.served_by(V4, &["b2", "b3"])?;

    let status = agent.stop()?;
    ensure!(status.success(), "SIGTERM ended xlb run with {status}");
    agent.launch(&[])?;
    scene.served_by(V4, &["b2", "b3"])?;
    ensure!(agent.backend(WEB, &third)?["weight"] == 200, "the weight is lost");
    agent.wait_listed(WEB, &first, false)
}

#[test]
fn a_killed_agent_leaves_every_connection_served() -> Result<()> {
    need_root!();
    let scene = Scene::new(Topology::OneSegment, Forward::Gue, 3)?;
    let mut agent = Agent::start(&scene.lab.balancer.namespace, &scene.settings(V4, 3))?;
    scene.served_by(V4, &["b1", "b2", "b3"])?;
    let web = V4.vip_port(HTTP_PORT);
    let streams = Streams::open(&scene.lab.client.namespace, web, STREAMS)?;
    agent.kill()?;
    streams.progress(10)?;
    scene.served_by(V4, &["b1", "b2", "b3"])?;
    agent.launch(&[])?;
    streams.progress(10)?;
    scene.served_by(V4, &["b1", "b2", "b3"])?;
    unbroken(&streams.close(), None)
}

/// All that isn't in the config any more is in the maps: the seed, the rings, whom flows live with.
#[test]
fn flows_outlive_a_state_file_that_is_lost_or_damaged() -> Result<()> {
    need_root!();
    let scene = Scene::new(Topology::OneSegment, Forward::L2, 3)?;
    let mut agent = Agent::start(&scene.lab.balancer.namespace, &scene.settings(V4, 2))?;
    let third = scene.address(V4, 2);
    agent.call(&["backend", "add", WEB, &third])?;
    scene.served_by(V4, &["b1", "b2", "b3"])?;
    let web = V4.vip_port(HTTP_PORT);
    let streams = Streams::open(&scene.lab.client.namespace, web, STREAMS)?;
    let state = agent.state_file();

    agent.kill()?;
    let text = fs::read_to_string(&state)?;
    let damaged = text.replace("\"ring_size\": 65537", "\"ring_size\": 4294967295");
    ensure!(damaged != text, "no ring in {text}");
    fs::write(&state, damaged)?;
    agent.launch(&[])?;
    streams.progress(10)?;
    scene.served_by(V4, &["b1", "b2", "b3"])?;
    ensure!(agent.status()?.to_string().contains("a former ring"), "{}", agent.status()?);

    agent.kill()?;
    fs::remove_file(&state)?;
    agent.launch(&[])?;
    streams.progress(10)?;
    scene.served_by(V4, &["b1", "b2"])?;
    ensure!(agent.status()?.to_string().contains(&third), "{}", agent.status()?);
    unbroken(&streams.close(), None)
}

#[test]
fn sigterm_detaches_and_keep_does_not() -> Result<()> {
    need_root!();
    let scene = Scene::new(Topology::OneSegment, Forward::L2, 2)?;
    let balancer = &scene.lab.balancer.namespace;
    let mut agent = Agent::start(balancer, &scene.settings(V4, 2))?;
    scene.served_by(V4, &["b1", "b2"])?;
    ensure!(attached(balancer, "eth0")?, "nothing is attached while it runs");
    ensure!(agent.stop()?.success(), "SIGTERM ended it badly");
    ensure!(!attached(balancer, "eth0")?, "SIGTERM left the program attached");
    let web = V4.vip_port(HTTP_PORT);
    let client = &scene.lab.client.namespace;
    let patience = Duration::from_millis(300);
    ensure!(http::ask(client, web, patience).is_err(), "still forwarding");

    agent.launch(&["--keep"])?;
    scene.served_by(V4, &["b1", "b2"])?;
    let streams = Streams::open(client, web, STREAMS)?;
    ensure!(agent.stop()?.success(), "SIGTERM ended it badly");
    ensure!(attached(balancer, "eth0")?, "--keep detached the program");
    streams.progress(10)?;
    scene.served_by(V4, &["b1", "b2"])?;
    agent.launch(&[])?;
    streams.progress(10)?;
    unbroken(&streams.close(), None)
}

/// A start that waits for a backend of which nobody knows the MAC address.
fn slow_start(scene: &Scene) -> Settings {
    let mut settings = scene.settings(V4, 2);
    let address = scene.address(V4, 0);
    let (network, _) = address.rsplit_once('.').expect("an IPv4 address");
    let nobody =
        Backend { address: format!("{network}.250"), ..settings.services[0].backends[0].clone() };
    settings.services[0].backends.push(nobody);
    settings
}

#[test]
fn sigterm_while_it_starts_leaves_nothing_or_what_was_kept() -> Result<()> {
    need_root!();
    let scene = Scene::new(Topology::OneSegment, Forward::L2, 2)?;
    let balancer = &scene.lab.balancer.namespace;
    let mut agent = Agent::prepare(balancer, &slow_start(&scene))?;
    // Nothing was there, and nothing stays.
    agent.spawn(&[])?;
    pinned(&agent)?;
    ensure!(agent.stop()?.success(), "SIGTERM ended it badly");
    ensure!(!agent.pin_path().join("tables").exists(), "its maps are still pinned");

    // A former agent's program is taken out as by an agent that runs,
    agent.launch(&["--keep"])?;
    ensure!(agent.stop()?.success() && attached(balancer, "eth0")?, "--keep detached");
    agent.spawn(&[])?;
    wait::until("its socket", Duration::from_secs(20), || {
        ensure!(agent.socket().exists(), "it isn't there");
        Ok(())
    })?;
    ensure!(agent.stop()?.success(), "SIGTERM ended it badly");
    ensure!(!attached(balancer, "eth0")?, "the program is still attached");
    ensure!(!agent.pin_path().join("links").join("eth0").exists(), "its link is still pinned");
    Ok(())
}

#[test]
fn sighup_while_it_starts_doesnt_end_it() -> Result<()> {
    need_root!();
    let scene = Scene::new(Topology::OneSegment, Forward::L2, 2)?;
    let mut agent = Agent::prepare(&scene.lab.balancer.namespace, &slow_start(&scene))?;
    agent.spawn(&[])?;
    // It is there before the program is loaded.
    wait::until("its socket", Duration::from_secs(20), || {
        ensure!(agent.socket().exists(), "it isn't there");
        Ok(())
    })?;
    agent.signal(Signal::SIGHUP)?;
    wait::until("an answer", Duration::from_secs(20), || {
        agent.running()?;
        agent.status()
    })?;
    Ok(())
}

#[test]
fn a_program_that_somebody_detached_is_put_back() -> Result<()> {
    need_root!();
    let scene = Scene::new(Topology::OneSegment, Forward::L2, 2)?;
    let agent = Agent::start(&scene.lab.balancer.namespace, &scene.settings(V4, 2))?;
    scene.served_by(V4, &["b1", "b2"])?;
    let link = agent.pin_path().join("links/eth0");
    let detached =
        Command::new("bpftool").args(["link", "detach", "pinned"]).arg(&link).status()?;
    ensure!(detached.success(), "bpftool ended with {detached}");
    scene.served_by(V4, &["b1", "b2"])?;
    let kinds = kinds(&agent)?;
    ensure!(kinds.ends_with(&["detached".into(), "attached".into()]), "{kinds:?}");
    Ok(())
}

#[test]
fn two_agents_do_not_share_a_state_file() -> Result<()> {
    need_root!();
    let scene = Scene::new(Topology::OneSegment, Forward::L2, 2)?;
    let balancer = &scene.lab.balancer.namespace;
    let settings = scene.settings(V4, 2);
    let first = Agent::start(balancer, &settings)?;
    let mut second = Agent::prepare(balancer, &settings)?;
    let text = fs::read_to_string(second.config_path())?;
    let own = second.state_file().display().to_string();
    second.write_config_text(&text.replace(&own, &first.state_file().display().to_string()))?;
    second.spawn(&[])?;
    let (status, words) = second.ended()?;
    ensure!(status.code() == Some(1) && words.contains("another `state_file`"), "{words}");
    Ok(())
}

/// Waits until the agent has pinned its maps.
fn pinned(agent: &Agent<'_>) -> Result<()> {
    wait::until("pinned maps", Duration::from_secs(20), || {
        ensure!(agent.pin_path().join("tables").exists(), "there are none");
        Ok(())
    })
}

#[test]
fn another_program_on_the_interface_is_refused() -> Result<()> {
    need_root!();
    let scene = Scene::new(Topology::OneSegment, Forward::L2, 2)?;
    let balancer = &scene.lab.balancer.namespace;
    let settings = scene.settings(V4, 2);
    let _first = Agent::start(balancer, &settings)?;
    scene.served_by(V4, &["b1", "b2"])?;
    let streams = Streams::open(&scene.lab.client.namespace, V4.vip_port(HTTP_PORT), STREAMS)?;

    let mut second = Agent::prepare(balancer, &settings)?;
    second.spawn(&[])?;
    let (status, words) = second.ended()?;
    ensure!(
        status.code() == Some(1) && words.contains("eth0"),
        "the second agent ended with {status}: {words}"
    );
    drop(second);
    streams.progress(5)?;
    unbroken(&streams.close(), None)
}
