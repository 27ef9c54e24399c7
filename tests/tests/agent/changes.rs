//! `xlb backend …` under traffic.

use anyhow::{Context, Result, ensure};
use xlb_tests::clients::http;
use xlb_tests::clients::stream::Streams;
use xlb_tests::lab::{Family, Topology};
use xlb_tests::need_root;
use xlb_tests::scene::{Scene, WEB};
use xlb_tests::servers::HTTP_PORT;
use xlb_tests::xlb::{Agent, Forward};

use super::{STREAMS, unbroken};

const V4: Family = Family::V4;

#[test]
fn backends_come_and_go_by_command() -> Result<()> {
    need_root!();
    let scene = Scene::new(Topology::OneSegment, Forward::L2, 3)?;
    let agent = Agent::start(&scene.lab.balancer.namespace, &scene.settings(V4, 2))?;
    scene.served_by(V4, &["b1", "b2"])?;
    let third = scene.address(V4, 2);
    let client = &scene.lab.client.namespace;
    let web = V4.vip_port(HTTP_PORT);

    agent.call(&["backend", "add", WEB, &third])?;
    scene.served_by(V4, &["b1", "b2", "b3"])?;
    agent.wait_listed(WEB, &third, true)?;
    let status = agent.status()?.to_string();
    ensure!(status.contains(&third), "xlb status doesn't tell the new backend: {status}");

    // Draining moves the drained backend's slots only: nobody else's connection notices.
    let streams = Streams::open(client, web, STREAMS)?;
    agent.call(&["backend", "drain", WEB, &third])?;
    scene.served_by(V4, &["b1", "b2"])?;
    streams.progress(5)?;
    unbroken(&streams.now(), Some("b3"))?;

    agent.call(&["backend", "undrain", WEB, &third])?;
    scene.served_by(V4, &["b1", "b2", "b3"])?;
    streams.progress(5)?;
    unbroken(&streams.close(), Some("b3"))?;

    agent.call(&["backend", "remove", WEB, &third])?;
    scene.served_by(V4, &["b1", "b2"])?;
    agent.wait_listed(WEB, &third, false)?;
    Ok(())
}

#[test]
fn a_weight_set_by_command_shifts_the_shares() -> Result<()> {
    need_root!();
    let scene = Scene::new(Topology::OneSegment, Forward::L2, 2)?;
    let agent = Agent::start(&scene.lab.balancer.namespace, &scene.settings(V4, 2))?;
    scene.served_by(V4, &["b1", "b2"])?;
    let second = scene.address(V4, 1);
    agent.call(&["backend", "set", WEB, &second, "--weight", "300"])?;
    ensure!(agent.backend(WEB, &second)?["weight"] == 300, "the list tells another weight");
    let web = V4.vip_port(HTTP_PORT);
    xlb_tests::wait::until("the new shares", std::time::Duration::from_secs(20), || {
        let served = http::load(&scene.lab.client.namespace, web, 3000, 64)?;
        served.all_answered(3000)?;
        served.shared_by_weight(&[("b1", 100), ("b2", 300)], 0.12)
    })
}

#[test]
fn a_bad_change_changes_nothing_and_says_why() -> Result<()> {
    need_root!();
    let scene = Scene::new(Topology::OneSegment, Forward::L2, 2)?;
    let agent = Agent::start(&scene.lab.balancer.namespace, &scene.settings(V4, 2))?;
    scene.served_by(V4, &["b1", "b2"])?;
    let first = scene.address(V4, 0);
    let before = agent.call(&["backend", "list", WEB])?;
    let bad: [(&[&str], &str); 6] = [
        (&["add", WEB, "10.0.0.300"], "10.0.0.300"),
        (&["add", WEB, "fd71::99"], "fd71::99"),
        (&["add", WEB, &first], &first),
        (&["set", WEB, &first, "--weight", "65536"], "65535"),
        (&["remove", WEB, "10.71.0.99"], "10.71.0.99"),
        (&["add", "absent", "10.71.0.13"], "absent"),
    ];
    for (arguments, named) in bad {
        let output = agent.try_call(&[&["backend"], arguments].concat())?;
        let words = format!("{}{}", output.stdout, output.stderr);
        ensure!(
            matches!(output.status.code(), Some(1 | 2)) && words.contains(named),
            "{arguments:?} ended with {}: {words}",
            output.status
        );
    }
    let after = agent.call(&["backend", "list", WEB])?;
    let addresses = |list: &serde_json::Value| -> Result<Vec<String>> {
        Ok((0..2)
            .map(|index| scene.address(V4, index))
            .filter(|address| list.to_string().contains(&format!("\"{address}\"")))
            .collect())
    };
    ensure!(addresses(&before)?.len() == 2, "{before}");
    ensure!(addresses(&before)? == addresses(&after)?, "{before} became {after}");
    let listed = agent.backend(WEB, &first).context("the first backend")?;
    ensure!(listed["weight"] == 100, "its weight changed: {listed}");
    scene.served_by(V4, &["b1", "b2"])
}

#[test]
fn what_a_live_change_made_is_told() -> Result<()> {
    need_root!();
    let scene = Scene::new(Topology::OneSegment, Forward::L2, 2)?;
    let agent = Agent::start(&scene.lab.balancer.namespace, &scene.settings(V4, 2))?;
    let first = scene.address(V4, 0);
    agent.call(&["backend", "set", WEB, &first, "--weight", "300"])?;
    let told = &agent.backend(WEB, &first)?["live_change"];
    ensure!(told == "set live: weight 300, the config says 100", "{told}");
    let back = agent.call(&["backend", "set", WEB, &first, "--weight", "configured"])?;
    ensure!(back["weight"] == 100 && back["live_change"].is_null(), "{back}");
    agent.call(&["backend", "set", WEB, &first, "--weight", "300"])?;
    agent.call(&["backend", "remove", WEB, &first])?;
    agent.wait_listed(WEB, &first, false)?;
    // By its address alone it is what the config says again, and follows the config again.
    agent.call(&["backend", "add", WEB, &first])?;
    let again = agent.backend(WEB, &first)?;
    ensure!(again["weight"] == 100 && again["live_change"].is_null(), "{again}");
    scene.served_by(V4, &["b1", "b2"])
}

#[test]
fn what_is_so_already_is_no_event() -> Result<()> {
    need_root!();
    let scene = Scene::new(Topology::OneSegment, Forward::L2, 2)?;
    let agent = Agent::start(&scene.lab.balancer.namespace, &scene.settings(V4, 2))?;
    let first = scene.address(V4, 0);
    for verb in ["undrain", "drain", "drain", "undrain", "undrain"] {
        agent.call(&["backend", verb, WEB, &first])?;
    }
    let events = agent.try_call(&["events"])?.expect(0)?.stdout;
    for kind in ["backend_draining", "backend_undrained"] {
        ensure!(events.matches(kind).count() == 1, "{kind} is there not once: {events}");
    }
    Ok(())
}
