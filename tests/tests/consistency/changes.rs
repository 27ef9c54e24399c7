//! Backends come, go and weigh more.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use xlb_tests::wait;

use crate::world::{SERVICES, World, leaving};

/// How long a drained backend may take to be gone, once its flows end: the window in which UDP
/// flows may still open there, and the time that the last of them may be quiet.
const GONE: Duration = Duration::from_secs(30);

/// Traffic goes on, and nothing else happens.
pub(crate) fn nothing(world: &mut World<'_>) -> Result<()> {
    (0..3).try_for_each(|_| world.answered())
}

/// One backend more, by command.
pub(crate) fn add(world: &mut World<'_>, backend: usize) -> Result<()> {
    world.backend("add", backend, &[])?;
    world.wait_state(backend, "healthy")?;
    world.moving()
}

/// Several backends more at once, by the config file.
pub(crate) fn add_all(world: &mut World<'_>, backends: std::ops::Range<usize>) -> Result<()> {
    world.configure(backends.clone(), &[])?;
    for backend in backends {
        let address = world.address(backend);
        for service in SERVICES {
            world.agent.wait_listed(service, &address, true)?;
        }
        world.wait_state(backend, "healthy")?;
    }
    world.moving()
}

pub(crate) fn weigh(world: &mut World<'_>, backend: usize, weight: &str) -> Result<()> {
    world.backend("set", backend, &["--weight", weight])?;
    world.moving()
}

/// Drains a backend, removes it while its flows live, and lets them end.
pub(crate) fn drain_and_remove(world: &mut World<'_>, backend: usize) -> Result<()> {
    let name = world.scene.lab.backends[backend].name.clone();
    let address = world.address(backend);
    let [session, _] = SERVICES;
    world.backend("drain", backend, &[])?;
    let drained = Instant::now();
    world.moving()?;
    world.answered()?;
    ensure!(world.traffic.journal.living_on(&name) > 0, "no flow lives on {name}");
    if !world.is_flooded() {
        // In a flood, a connection may open where it would be without a record.
        let fresh = world.traffic.journal.began_on(&name, drained);
        ensure!(fresh == 0, "{fresh} connections began on {name} after it was drained");
    }
    let told = world.agent.backend(session, &address)?;
    ensure!(told["drained"] == false && told["flows"].as_u64() > Some(0), "drained: {told}");
    let wait = ["backend", "drain", session, &address, "--wait", "--timeout", "1s"];
    world.agent.try_call(&wait)?.expect(1).context("its flows live on")?;

    world.backend("remove", backend, &[])?;
    world.answered()?;
    let leaves = leaving(&world.agent, session)?.contains(&address);
    ensure!(leaves, "{address} doesn't leave {session}");
    world.traffic.leave(&name);
    if world.is_flooded() {
        // New flows that find the budget spent still open here, and forged ones count as flows:
        // the end of the course waits for them.
        return Ok(());
    }
    wait::until(&format!("{address} to be gone"), GONE, || {
        for service in SERVICES {
            let leaving = leaving(&world.agent, service)?;
            ensure!(!leaving.contains(&address), "it still leaves {service}");
        }
        Ok(())
    })
}
