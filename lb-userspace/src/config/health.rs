//! Checks a `[service.health]`.

use std::time::Duration;

use super::{
    error::{ErrorKind, Fault, Faults},
    keys::{Key, health as keys},
    node::Node,
    read::Table,
    types::{ActiveCheck, HealthCheck, Probe},
    value::{self, HealthType},
};
use crate::model::Destination;

/// Where the interval leaves it room.
const DEFAULT_TIMEOUT: Duration = Duration::from_millis(500);

/// Checks the section; `vip` is the service's, where that is known.
pub(super) fn check(
    node: &Node,
    path: &str,
    vip: Option<Destination>,
    faults: &mut Faults,
) -> Option<HealthCheck> {
    let table = Table::open(node, path, &keys::SECTION, faults)?;
    let kind = table.value(&keys::TYPE, faults, value::health_type);
    let port = table.value(&keys::PORT, faults, value::integer(1..=u16::MAX));
    let path = table.value(&keys::PATH, faults, value::request_path);
    let host = table.value(&keys::HOST, faults, value::request_host);
    let expect_status = table.value(&keys::EXPECT_STATUS, faults, value::expect_status);
    let millisecond = Duration::from_millis(1);
    let hour = Duration::from_secs(3600);
    let interval = table.value(&keys::INTERVAL, faults, value::duration(millisecond * 10..=hour));
    let timeout = timeout(&table, interval, faults);
    let rise = table.value(&keys::RISE, faults, value::integer(1..=100));
    let fall = table.value(&keys::FALL, faults, value::integer(1..=100));

    let kind = kind?;
    if kind == HealthType::Tcp {
        for key in [&keys::PATH, &keys::HOST, &keys::EXPECT_STATUS] {
            refuse(&table, key, faults);
        }
    }
    if kind == HealthType::None {
        return Some(HealthCheck::None);
    }
    let port = match (port, vip) {
        (Some(port), _) => Some(port),
        (None, Some(Destination { port: None, .. })) if table.get(&keys::PORT).is_none() => {
            let fault = Fault::new(
                ErrorKind::MissingKey,
                "required key is missing: the service takes any port",
            );
            table.fault(&keys::PORT, fault, faults);
            None
        }
        (None, vip) => vip.and_then(|vip| vip.port),
    };
    let probe = match kind {
        HealthType::Http => Probe::Http { path: path?, host, expect_status: expect_status? },
        HealthType::Tcp | HealthType::None => Probe::Tcp,
    };
    Some(HealthCheck::Active(ActiveCheck {
        probe,
        port: port?,
        interval: interval?,
        timeout: timeout?,
        rise: rise?,
        fall: fall?,
    }))
}

fn timeout(table: &Table<'_>, interval: Option<Duration>, faults: &mut Faults) -> Option<Duration> {
    let allowed = Duration::from_millis(1)..=Duration::MAX;
    if table.get(&keys::TIMEOUT).is_none() {
        return interval.map(|interval| interval.min(DEFAULT_TIMEOUT));
    }
    let timeout = table.value(&keys::TIMEOUT, faults, value::duration(allowed))?;
    let interval = interval?;
    if timeout > interval {
        let [timeout, interval] = [timeout, interval].map(value::duration_text);
        let fault = Fault::new(
            ErrorKind::Impossible,
            format!("the timeout {timeout} is longer than the interval {interval}"),
        );
        table.fault(&keys::TIMEOUT, fault.help(format!("at most {interval}")), faults);
        return None;
    }
    Some(timeout)
}

fn refuse(table: &Table<'_>, key: &Key, faults: &mut Faults) {
    if table.get(key).is_some() {
        let message = format!("a check of type \"tcp\" has no `{}`", key.name);
        let fault = Fault::new(ErrorKind::Impossible, message);
        table.fault(key, fault.help("leave it out, or type = \"http\""), faults);
    }
}
