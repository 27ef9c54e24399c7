//! The harness itself sees what breaks.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use xlb_tests::clients::traffic::{Deaths, Load};
use xlb_tests::lab::Topology;
use xlb_tests::need_root;
use xlb_tests::scene::Scene;
use xlb_tests::xlb::Forward;

use crate::row::Turn;
use crate::world::World;

const LOAD: Load = Load {
    connections: 200,
    newcomer_every: Some(Duration::from_millis(20)),
    bulk: true,
    sessions: 100,
};

/// A server dies and nobody tells the journal: its connections count as broken, and no others.
#[test]
fn what_breaks_is_counted() -> Result<()> {
    need_root!();
    let _turn = Turn::wait();
    let scene = Scene::new(Topology::OneSegment, Forward::Ipip, 3)?;
    let mut world = World::new(&scene, Forward::Ipip, 0..3, LOAD)?;
    let mark = world.traffic.journal.mark();
    world.answered()?;
    ensure!(world.traffic.journal.tally(&mark, &Deaths::default()).broken.is_empty());

    let lived = world.traffic.journal.living_on("b2");
    let mark = world.traffic.journal.mark();
    world.deaths.begin("b2", Instant::now());
    scene.kill_server(1);
    world.wait_state(1, "unhealthy")?;
    world.deaths.detected(Instant::now());
    world.answered()?;
    let tally = world.traffic.journal.tally(&mark, &Deaths::default());
    let servers: BTreeSet<_> = tally.broken.iter().filter_map(|flow| flow.server.clone()).collect();
    ensure!(servers == ["b2".to_owned()].into(), "flows of {servers:?} broke");
    // Newcomers and sessions may have ended by themselves, a few meanwhile.
    ensure!(
        tally.broken.len() * 10 >= lived * 9,
        "{} of {lived} flows broke with their server",
        tally.broken.len()
    );
    let told = world.traffic.journal.tally(&mark, &world.deaths);
    ensure!(told.broken.is_empty() && told.on_dead == tally.broken.len(), "{:#?}", told.broken);
    Ok(())
}
