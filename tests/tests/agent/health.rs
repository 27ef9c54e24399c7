//! Failed backends are taken out, and come back.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use xlb_tests::clients::http;
use xlb_tests::clients::stream::Streams;
use xlb_tests::lab::{Family, Topology};
use xlb_tests::scene::Scene;
use xlb_tests::servers::HTTP_PORT;
use xlb_tests::xlb::{Agent, Forward, Health};
use xlb_tests::{need_root, wait};

use super::{STREAMS, unbroken};

const V4: Family = Family::V4;

#[test]
fn a_failed_backend_is_taken_out_and_comes_back() -> Result<()> {
    need_root!();
    let scene = Scene::new(Topology::OneSegment, Forward::Ipip, 3)?;
    let mut settings = scene.settings(V4, 3);
    settings.services[0].health = Some(Health::quick());
    let _agent = Agent::start(&scene.lab.balancer.namespace, &settings)?;
    let all = ["b1", "b2", "b3"];
    scene.served_by(V4, &all)?;
    let client = &scene.lab.client.namespace;
    let web = V4.vip_port(HTTP_PORT);

    let streams = Streams::open(client, web, STREAMS)?;
    scene.set_healthy(1, false)?;
    scene.served_by(V4, &["b1", "b3"]).context("b2 says 503")?;
    scene.set_healthy(1, true)?;
    scene.served_by(V4, &all).context("b2 says 200 again")?;
    scene.kill_server(1);
    scene.served_by(V4, &["b1", "b3"]).context("b2's server is gone")?;
    scene.start_server(1)?;
    scene.served_by(V4, &all).context("b2's server is back")?;
    scene.lab.plug(1, false)?;
    scene.served_by(V4, &["b1", "b3"]).context("b2's cable is pulled")?;
    scene.lab.plug(1, true)?;
    scene.served_by(V4, &all).context("b2's cable is plugged in")?;
    streams.progress(3)?;
    unbroken(&streams.close(), Some("b2"))
}

#[test]
fn without_any_good_backend_nothing_is_forwarded_until_one_returns() -> Result<()> {
    need_root!();
    let scene = Scene::new(Topology::OneSegment, Forward::L2, 2)?;
    let mut settings = scene.settings(V4, 2);
    settings.services[0].health = Some(Health::quick());
    settings.services[0].panic_threshold = Some("0%".into());
    let _agent = Agent::start(&scene.lab.balancer.namespace, &settings)?;
    scene.served_by(V4, &["b1", "b2"])?;
    let client = &scene.lab.client.namespace;
    let web = V4.vip_port(HTTP_PORT);
    // The servers answer clients all the same: only a ring without them keeps clients away.
    scene.set_healthy(0, false)?;
    scene.set_healthy(1, false)?;
    wait::until("no answer any more", Duration::from_secs(20), || {
        let answer = http::ask(client, web, Duration::from_millis(300));
        ensure!(answer.is_err(), "{answer:?} still answers");
        Ok(())
    })?;
    scene.set_healthy(1, true)?;
    scene.served_by(V4, &["b2"])
}
