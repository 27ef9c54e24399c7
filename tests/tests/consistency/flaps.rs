//! Backends fail and come back.

use std::time::Instant;

use anyhow::{Context, Result};

use crate::world::World;

/// Twice, a backend's health answer is bad and then good again, while all else of it lives.
pub(crate) fn by_its_answer(world: &mut World<'_>, backend: usize) -> Result<()> {
    let scene = world.scene;
    flap(world, backend, || scene.set_healthy(backend, false), || scene.set_healthy(backend, true))
}

/// Twice, a backend's servers die and are started again.
pub(crate) fn by_its_death(world: &mut World<'_>, backend: usize) -> Result<()> {
    let scene = world.scene;
    let kill = || {
        scene.kill_server(backend);
        Ok(())
    };
    flap(world, backend, kill, || scene.start_server(backend))
}

fn flap(
    world: &mut World<'_>,
    backend: usize,
    fail: impl Fn() -> Result<()>,
    mend: impl Fn() -> Result<()>,
) -> Result<()> {
    let name = &world.scene.lab.backends[backend].name;
    for time in ["first", "second"] {
        world.deaths.begin(name, Instant::now());
        fail()?;
        world.wait_state(backend, "unhealthy")?;
        world.deaths.detected(Instant::now());
        world.answered().with_context(|| format!("{name} failed the {time} time"))?;
        mend()?;
        world.wait_state(backend, "healthy")?;
        world.deaths.end(Instant::now());
        world.answered().with_context(|| format!("{name} came back the {time} time"))?;
    }
    Ok(())
}
