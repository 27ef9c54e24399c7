//! The agent ends and starts, with and without what it left in the kernel.

use std::time::Instant;

use anyhow::{Result, ensure};

use crate::changes;
use crate::world::World;

/// SIGKILL in the middle of a change, and a new start.
pub(crate) fn killed(world: &mut World<'_>, backend: usize, weight: &str) -> Result<()> {
    changes::weigh(world, backend, weight)?;
    world.agent.kill()?;
    world.answered()?;
    world.agent.launch(&["--keep"])?;
    world.moving()
}

/// The agent leaves its program forwarding; the next one replaces it through its link. That one
/// takes everything with it when it ends.
pub(crate) fn upgraded(world: &mut World<'_>, backend: usize, weight: &str) -> Result<()> {
    changes::weigh(world, backend, weight)?;
    let status = world.agent.stop()?;
    ensure!(status.success(), "the agent ended with {status}");
    world.answered()?;
    world.agent.launch(&[])?;
    world.moving()
}

/// Nothing is left in the kernel, in the middle of a change; before the agent comes back, the
/// config has other backends.
pub(crate) fn cold(
    world: &mut World<'_>,
    newest: usize,
    added: usize,
    removed: usize,
) -> Result<()> {
    // One that takes everything with it when it ends.
    world.agent.stop()?;
    world.agent.launch(&[])?;
    changes::add(world, newest)?;
    // Flows that began here have records alone to tell where they live.
    let name = &world.scene.lab.backends[newest].name;
    (0..3).try_for_each(|_| world.answered())?;
    let lives = world.traffic.journal.living_on(name);
    // In a flood, connections open where they would be without a record.
    ensure!(lives > 0 || world.is_flooded(), "no flow lives on {name}");

    let status = world.agent.stop()?;
    let stopped = Instant::now();
    ensure!(status.success(), "the agent ended with {status}");
    ensure!(!world.agent.pin_path().join("program").exists(), "the program is still pinned");
    world.configure([added], &[removed])?;
    world.agent.launch(&["--keep"])?;
    println!("nothing was forwarded for {:?} of a cold start", stopped.elapsed());
    world.wait_state(added, "healthy")
}
