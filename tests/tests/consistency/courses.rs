//! The courses: which changes, in which mode, with and without a flood.

use anyhow::Result;
use xlb_tests::lab::Topology;
use xlb_tests::need_root;
use xlb_tests::scene::Scene;
use xlb_tests::xlb::Forward;

use crate::row::{Allowed, Turn};
use crate::world::{FULL, World};
use crate::{changes, flaps, lives};

/// Backends of the lab; the first of them serve from the beginning.
const BACKENDS: u8 = 12;
const AT_FIRST: std::ops::Range<usize> = 0..4;

#[test]
fn ipip_breaks_nothing() -> Result<()> {
    need_root!();
    course(Forward::Ipip, |world| {
        world.row_without_end("nothing changes", Allowed::NOTHING, changes::nothing);
        every_change(world);
        cold_start(world);
        Ok(())
    })
}

#[test]
fn gue_breaks_nothing() -> Result<()> {
    need_root!();
    course(Forward::Gue, |world| {
        world.row("add five at once", Allowed::NOTHING, |world| changes::add_all(world, 5..10));
        world.row("flap twice, bad answers", Allowed::NOTHING, |world| {
            flaps::by_its_answer(world, 2)
        });
        restart_without_keep(world);
        cold_start(world);
        Ok(())
    })
}

#[test]
fn ipip_breaks_nothing_in_a_flood() -> Result<()> {
    need_root!();
    course(Forward::Ipip, |world| {
        world.start_flood()?;
        world.row_without_end("nothing changes", Allowed::NOTHING, changes::nothing);
        every_change(world);
        cold_start(world);
        Ok(())
    })
}

#[test]
fn gue_breaks_nothing_in_a_flood() -> Result<()> {
    need_root!();
    course(Forward::Gue, |world| {
        world.start_flood()?;
        world.row_without_end("add five at once", Allowed::NOTHING, |world| {
            changes::add_all(world, 5..10)
        });
        restart_without_keep(world);
        cold_start(world);
        Ok(())
    })
}

fn course(forward: Forward, rows: impl FnOnce(&mut World<'_>) -> Result<()>) -> Result<()> {
    let turn = Turn::wait();
    let scene = Scene::new(Topology::OneSegment, forward, BACKENDS)?;
    let mut world = World::new(&scene, forward, AT_FIRST, FULL)?;
    rows(&mut world)?;
    turn.end(world.end())
}

/// Most changes come while slots still move because of the one before.
fn every_change(world: &mut World<'_>) {
    let none = Allowed::NOTHING;
    row(world, "add a backend", |world| changes::add(world, 4));
    world.row_without_end("add five at once", none, |world| changes::add_all(world, 5..10));
    row(world, "change a weight", |world| changes::weigh(world, 0, "300"));
    world.row_without_end("drain one and remove it", none, |world| {
        changes::drain_and_remove(world, 1)
    });
    world.row_without_end("flap twice, bad answers", none, |world| flaps::by_its_answer(world, 2));
    row(world, "flap twice, server dead", |world| flaps::by_its_death(world, 2));
    world.row_without_end("agent killed and restarted", none, |world| {
        lives::killed(world, 0, "150")
    });
    restart_without_keep(world);
}

/// The rest of a course that began with `--keep`: its next agent takes everything with it.
fn restart_without_keep(world: &mut World<'_>) {
    row(world, "program upgraded", |world| lives::upgraded(world, 0, "50"));
}

/// What flows of the newest backend have to tell where they live is lost: under `gue`, the
/// backends find the TCP connections again.
fn cold_start(world: &mut World<'_>) {
    let newest = Some("b11");
    let tcp = if world.is_gue() { None } else { newest };
    let change = |world: &mut World<'_>| {
        lives::cold(world, 10, 11, 9)?;
        world.answered()
    };
    world.row_without_end("cold start, other backends", Allowed { tcp, udp: newest }, change);
}

/// A change that moved slots come to rest after, but for a flood: what it forges holds slots as
/// flows do, within its budget.
fn row(
    world: &mut World<'_>,
    scenario: &'static str,
    change: impl FnOnce(&mut World<'_>) -> Result<()>,
) {
    if world.is_flooded() {
        world.row_without_end(scenario, Allowed::NOTHING, change);
    } else {
        world.row(scenario, Allowed::NOTHING, change);
    }
}
