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
        moving(world, "nothing changes", changes::nothing);
        cold_start(world);
        every_change(world);
        Ok(())
    })
}

#[test]
fn gue_breaks_nothing() -> Result<()> {
    need_root!();
    course(Forward::Gue, |world| {
        cold_start(world);
        moving(world, "add five at once", |world| changes::add_all(world, 5..10));
        moving(world, "flap twice, bad answers", |world| flaps::by_its_answer(world, 2));
        moving(world, "program upgraded", |world| lives::upgraded(world, 0, "50"));
        Ok(())
    })
}

#[test]
fn ipip_breaks_nothing_in_a_flood() -> Result<()> {
    need_root!();
    course(Forward::Ipip, |world| {
        world.start_flood()?;
        moving(world, "nothing changes", changes::nothing);
        cold_start(world);
        every_change(world);
        Ok(())
    })
}

#[test]
fn gue_breaks_nothing_in_a_flood() -> Result<()> {
    need_root!();
    course(Forward::Gue, |world| {
        world.start_flood()?;
        cold_start(world);
        moving(world, "add five at once", |world| changes::add_all(world, 5..10));
        moving(world, "program upgraded", |world| lives::upgraded(world, 0, "50"));
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
    settled(world, "add a backend", |world| changes::add(world, 4));
    moving(world, "add five at once", |world| changes::add_all(world, 5..10));
    moving(world, "change a weight", |world| changes::weigh(world, 0, "300"));
    moving(world, "drain one and remove it", |world| changes::drain_and_remove(world, 1));
    moving(world, "flap twice, bad answers", |world| flaps::by_its_answer(world, 2));
    moving(world, "flap twice, server dead", |world| flaps::by_its_death(world, 2));
    moving(world, "agent killed and restarted", |world| lives::killed(world, 0, "150"));
    settled(world, "program upgraded", |world| lives::upgraded(world, 0, "50"));
}

/// What flows of the newest backend have to tell where they live is lost: under `gue`, the
/// backends find the TCP connections again. It comes first: a slot knows three owners, and flows
/// of more live in one after many changes.
fn cold_start(world: &mut World<'_>) {
    let newest = Some("b11");
    let tcp = if world.is_gue() { None } else { newest };
    let change = |world: &mut World<'_>| lives::cold(world, 10, 11, 3);
    world.row("cold start, other backends", Allowed { tcp, udp: newest }, change);
}

/// A row of which nothing may break, and the next change comes at once.
fn moving(
    world: &mut World<'_>,
    scenario: &'static str,
    change: impl FnOnce(&mut World<'_>) -> Result<()>,
) {
    world.row(scenario, Allowed::NOTHING, change);
}

/// A row after which slots come to rest before the next change. Not in a flood: what it forges
/// holds slots as flows do, within its budget.
fn settled(
    world: &mut World<'_>,
    scenario: &'static str,
    change: impl FnOnce(&mut World<'_>) -> Result<()>,
) {
    moving(world, scenario, |world| {
        change(world)?;
        if world.is_flooded() { Ok(()) } else { world.nearly_stable() }
    });
}
