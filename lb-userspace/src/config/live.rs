//! Checks what of a `[[service]]` is about live weights, with its `[service.agent_check]` and
//! `[service.load]`.

use std::time::Duration;

use super::{
    checks::{HealthCheck, Probe},
    error::{ErrorKind, Fault, Faults},
    health,
    keys::{agent_check, load, service as keys},
    node::Node,
    read::Table,
    types::AgentCheck,
    value,
};
use crate::live::{LoadPolicy, LoadSource, Policy};

const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3600);

/// Checks the keys of a service; `health` is its check, as far as that is right.
pub(super) fn check(
    table: &Table<'_>,
    health: Option<&HealthCheck>,
    faults: &mut Faults,
) -> Option<Policy> {
    let slow_start = table.value(&keys::SLOW_START, faults, value::duration(Duration::ZERO..=HOUR));
    let panic = table.value(&keys::PANIC_THRESHOLD, faults, value::percent(0..=100));
    let max_flapping = table.value(&keys::MAX_FLAPPING, faults, value::integer(0..=1000));
    let window = value::duration(SECOND..=HOUR * 24);
    let flapping_window = table.value(&keys::FLAPPING_WINDOW, faults, window);
    let load = match table.get(&keys::LOAD) {
        Some(node) => {
            let has_agents = table.get(&keys::AGENT_CHECK).is_some();
            Some(load(node, &table.path_of(keys::LOAD.name), health, has_agents, faults)?)
        }
        None => None,
    };
    Some(Policy {
        slow_start: slow_start?,
        panic_percent: panic?,
        max_flapping: max_flapping?,
        flapping_window: flapping_window?,
        load,
    })
}

fn load(
    node: &Node,
    path: &str,
    health: Option<&HealthCheck>,
    has_agents: bool,
    faults: &mut Faults,
) -> Option<LoadPolicy> {
    let table = Table::open(node, path, &load::SECTION, faults)?;
    let source = table.value(&load::SOURCE, faults, value::load_source);
    let smoothing =
        table.value(&load::SMOOTHING, faults, value::duration(SECOND..=Duration::from_secs(600)));
    let floor = table.value(&load::FLOOR, faults, value::percent(1..=100));
    let max_step = table.value(&load::MAX_STEP, faults, value::percent(1..=100));
    let stale_after = table.value(&load::STALE_AFTER, faults, value::duration(SECOND..=HOUR));
    let untold = match source {
        Some(LoadSource::Orca) if health.is_some_and(|health| !tells_load(health)) => Some((
            "the reports stand in responses to a check by HTTP, and there is none",
            "add [service.health] with type = \"http\", or leave [service.load] out",
        )),
        Some(LoadSource::Agent) if !has_agents => Some((
            "the reports are what agents on the backends say, and none is asked",
            "add [service.agent_check], or leave [service.load] out",
        )),
        _ => None,
    };
    if let Some((message, help)) = untold {
        let fault = Fault::new(ErrorKind::Impossible, message);
        table.fault(&load::SOURCE, fault.help(help), faults);
    }
    Some(LoadPolicy {
        source: source?,
        smoothing: smoothing?,
        floor_permille: u16::from(floor?) * 10,
        max_step_permille: u16::from(max_step?) * 10,
        stale_after: stale_after?,
    })
}

/// Whether the answers to a check may carry load reports.
fn tells_load(health: &HealthCheck) -> bool {
    match health {
        HealthCheck::None => false,
        HealthCheck::Active(check) => matches!(check.probe, Probe::Http(_)),
    }
}

/// Checks a `[service.agent_check]`.
pub(super) fn agent(node: &Node, path: &str, faults: &mut Faults) -> Option<AgentCheck> {
    let table = Table::open(node, path, &agent_check::SECTION, faults)?;
    let port = table.value(&agent_check::PORT, faults, value::integer(1..=u16::MAX));
    let allowed = value::duration(Duration::from_millis(100)..=HOUR);
    let interval = table.value(&agent_check::INTERVAL, faults, allowed);
    let timeout = health::timeout(&table, &agent_check::TIMEOUT, SECOND, interval, faults);
    let send = match table.get(&agent_check::SEND) {
        Some(_) => Some(table.value(&agent_check::SEND, faults, value::agent_send)?),
        None => None,
    };
    Some(AgentCheck { port: port?, interval: interval?, timeout: timeout?, send })
}
