//! Checks a `[[service]]` and the `[[service.backend]]`s in it.

use std::{collections::HashMap, hash::Hash, time::Duration};

use super::{
    checks::{HealthCheck, Via},
    claims::Claims,
    discovery,
    error::{ErrorKind, Fault, Faults},
    health,
    keys::{backend, health as health_keys, service as keys},
    limits::{Totals, room_in_ring},
    live,
    node::{Node, Value},
    read::Table,
    types::{BackendConfig, ServiceConfig},
    value,
};
use crate::model::{BackendKey, Destination, Forward, MacAddress, ServiceKey};

/// What other services, or other backends, already have, and where that was said.
#[derive(Debug)]
pub(super) struct Taken<T>(HashMap<T, String>);

impl<T: Eq + Hash> Taken<T> {
    pub(super) fn new() -> Self {
        Self(HashMap::new())
    }

    pub(super) fn add(&mut self, value: T, owner: impl Into<String>) {
        self.0.insert(value, owner.into());
    }

    /// Refuses a value that is there already.
    fn check(&self, value: &T, shown: &str, help: &str) -> Result<(), Fault> {
        match self.0.get(value) {
            Some(owner) => Err(Fault::new(
                ErrorKind::Duplicate,
                format!("{shown} is already there, in {owner}"),
            )
            .help(help)),
            None => Ok(()),
        }
    }
}

/// The names and keys of the services so far, and what they add up to.
#[derive(Debug)]
pub(super) struct Others {
    pub names: Taken<String>,
    pub keys: Taken<ServiceKey>,
    pub totals: Totals,
    pub claims: Claims,
}

impl Others {
    pub(super) fn new(services: &[ServiceConfig]) -> Self {
        let (names, keys, totals) = (Taken::new(), Taken::new(), Totals::default());
        let mut others = Self { names, keys, totals, claims: Claims::of(services) };
        for service in services {
            others.names.add(service.name.clone(), "the running services");
            others.keys.add(service.key, format!("service \"{}\"", service.name));
            // They were checked.
            let _ = others.totals.add_service(service.key.vip);
            let _ = others.totals.add_ring(service.ring_size, service.backends.len());
        }
        others
    }
}

/// `service[0] "web"`: the number, and the name where there is one to show.
pub(super) fn path(index: Option<usize>, node: &Node) -> String {
    let name = match &node.value {
        Value::Table(entries) => entries.iter().find_map(|entry| match &entry.node.value {
            Value::Text(name) if entry.name == keys::NAME.name => Some(name),
            _ => None,
        }),
        _ => None,
    };
    let index = index.map(|index| format!("[{index}]")).unwrap_or_default();
    let name = name.map(|name| format!(" {name:?}")).unwrap_or_default();
    format!("service{index}{name}")
}

/// Checks a service and adds its name and key to `others`.
pub(super) fn check(
    node: &Node,
    path: &str,
    others: &mut Others,
    faults: &mut Faults,
) -> Option<ServiceConfig> {
    let table = Table::open(node, path, &keys::SECTION, faults)?;
    let name = table.value(&keys::NAME, faults, value::service_name);
    let vip = table.value(&keys::VIP, faults, value::model::<Destination>);
    let protocol = table.value(&keys::PROTOCOL, faults, value::protocol);
    let forward = table.value(&keys::FORWARD, faults, value::forward);
    let ring_size = table.value(&keys::RING_SIZE, faults, value::ring_size);
    let affinity = table.value(&keys::AFFINITY, faults, value::affinity);
    let icmp_echo = table.value(&keys::ICMP_ECHO, faults, value::boolean);
    let second = Duration::from_secs(1);
    let udp_timeout =
        table.value(&keys::UDP_TIMEOUT, faults, value::duration(second..=second * 86_400));
    let tcp_idle =
        table.value(&keys::TCP_IDLE, faults, value::duration(second..=second * 7 * 86_400));

    if let Some(name) = &name {
        let shown = format!("the name \"{name}\"");
        match others.names.check(name, &shown, "each service has a name of its own") {
            Ok(()) => others.names.add(name.clone(), path),
            Err(fault) => table.fault(&keys::NAME, fault, faults),
        }
    }
    let key = vip.zip(protocol).map(|(Destination { address, port }, protocol)| ServiceKey {
        vip: address,
        port,
        protocol,
    });
    if let Some(key) = key {
        let help = "one service for each VIP, port and protocol";
        match others.keys.check(&key, &key.to_string(), help) {
            Ok(()) => others.keys.add(key, path),
            Err(fault) => table.fault(&keys::VIP, fault, faults),
        }
        if let Err(fault) = others.totals.add_service(key.vip) {
            table.fault(&keys::VIP, fault, faults);
        }
    }
    let health = match table.get(&keys::HEALTH) {
        Some(node) => health::check(node, &table.path_of(keys::HEALTH.name), vip, faults),
        None => Some(HealthCheck::None),
    };
    let agent_check = match table.get(&keys::AGENT_CHECK) {
        Some(node) => live::agent(node, &table.path_of(keys::AGENT_CHECK.name), faults).map(Some),
        None => Some(None),
    };
    let live = live::check(&table, health.as_ref(), faults);

    let discovery = match table.get(&keys::DISCOVERY) {
        Some(node) => {
            let path = table.path_of(keys::DISCOVERY.name);
            discovery::check(node, &path, vip, forward, faults).map(Some)
        }
        None => Some(None),
    };

    let mut taken = Taken::new();
    let nodes = table.tables(&keys::BACKEND, backend::SECTION.header, faults);
    if let Some(HealthCheck::Active(check)) = &health
        && let (Some(Via::Vip), Some(mode)) = (check.via, forward)
        && mode.translates()
        && let Some(node) = table.get(&keys::HEALTH)
    {
        let path = format!("{}.{}", table.path_of(keys::HEALTH.name), health_keys::VIA.name);
        faults.add(node.at, path, no_vip(mode));
    }
    let name_shown = name.as_ref().map_or_else(|| path.to_owned(), |n| format!("service \"{n}\""));
    let via = match &health {
        Some(HealthCheck::Active(check)) => check.via,
        _ => None,
    };
    let context = BackendContext { owner: &name_shown, vip, key, forward, via };
    let backends: Vec<Option<BackendConfig>> = nodes
        .iter()
        .enumerate()
        .map(|(index, node)| {
            let path = table.path_of(&format!("backend[{index}]"));
            check_backend(node, &path, context, (&mut taken, &mut others.claims), faults)
        })
        .collect();
    if let Err(fault) = room_in_ring(ring_size, nodes.len()) {
        table.fault(&keys::RING_SIZE, fault, faults);
    }
    for (key, fault) in others.totals.add_ring(ring_size, nodes.len()) {
        table.fault(key, fault, faults);
    }
    Some(ServiceConfig {
        name: name?,
        key: key?,
        forward: forward?,
        ring_size,
        affinity: affinity?,
        icmp_echo,
        udp_timeout: udp_timeout?,
        tcp_idle: tcp_idle?,
        health: health?,
        discovery: discovery?,
        agent_check: agent_check?,
        live: live?,
        backends: backends.into_iter().collect::<Option<_>>()?,
    })
}

/// What a backend must agree with: its service's values, as far as they are known.
#[derive(Clone, Copy, Debug)]
pub(super) struct BackendContext<'a> {
    /// Whose it is, in words.
    pub owner: &'a str,
    pub vip: Option<Destination>,
    /// `None` where a part of it is wrong, or not known here.
    pub key: Option<ServiceKey>,
    pub forward: Option<Forward>,
    /// Where probes go, if that is said.
    pub via: Option<Via>,
}

impl<'a> BackendContext<'a> {
    /// That of a checked service.
    pub(super) fn of(service: &'a ServiceConfig) -> Self {
        let ServiceKey { vip, port, .. } = service.key;
        Self {
            owner: &service.name,
            vip: Some(Destination { address: vip, port }),
            key: Some(service.key),
            forward: Some(service.forward),
            via: match &service.health {
                HealthCheck::Active(check) => check.via,
                HealthCheck::None => None,
            },
        }
    }
}

/// Probes through a VIP that the backends don't have.
fn no_vip(forward: Forward) -> Fault {
    let message = format!("probes of `{forward}` backends can't go to the VIP: they don't have it");
    Fault::new(ErrorKind::Impossible, message).help("leave it out, or \"address\"")
}

/// Checks a backend and adds its key to `taken`.
pub(super) fn check_backend(
    node: &Node,
    path: &str,
    context: BackendContext<'_>,
    (taken, claims): (&mut Taken<BackendKey>, &mut Claims),
    faults: &mut Faults,
) -> Option<BackendConfig> {
    let table = Table::open(node, path, &backend::SECTION, faults)?;
    let key = table.value(&backend::ADDRESS, faults, value::model::<BackendKey>);
    let weight = table.value(&backend::WEIGHT, faults, value::integer(0..=u16::MAX));
    let next_hop = table.value(&backend::NEXT_HOP, faults, value::model::<MacAddress>);
    let forward = table.value(&backend::FORWARD, faults, value::forward);
    let backup = table.value(&backend::BACKUP, faults, value::boolean);
    if let Some(key) = key {
        let own = table.get(&backend::FORWARD).is_some();
        let effective = if own { forward } else { context.forward };
        if let (true, Some(mode), Some(Via::Vip)) = (own, forward, context.via)
            && mode.translates()
        {
            table.fault(&backend::FORWARD, no_vip(mode), faults);
        }
        let fits = reachable(key, effective, context.vip)
            .and_then(|()| {
                let help = "each backend stands in a service once; its share is its `weight`";
                taken.check(&key, &key.to_string(), help)
            })
            .and_then(|()| match (effective, context.key) {
                (Some(Forward::Nat), Some(service)) => claims.add(context.owner, service, key),
                _ => Ok(()),
            });
        match fits {
            Ok(()) => taken.add(key, path),
            Err(fault) => table.fault(&backend::ADDRESS, fault, faults),
        }
    }
    Some(BackendConfig { key: key?, weight: weight?, next_hop, forward, backup: backup? })
}

/// Refuses pairs of VIP, mode and backend that no packet can go by.
fn reachable(
    key: BackendKey,
    forward: Option<Forward>,
    vip: Option<Destination>,
) -> Result<(), Fault> {
    let impossible = |message| Fault::new(ErrorKind::Impossible, message);
    if let (Some(_), Some(forward)) = (key.port, forward)
        && !forward.translates()
    {
        return Err(impossible(format!(
            "{key} has a port, and `{forward}` leaves a packet's port as it is"
        ))
        .help(format!(
            "the address alone: \"{}\", or forward = \"nat\" or \"fullnat\"",
            key.address
        )));
    }
    let Some(Destination { address: vip, port }) = vip else { return Ok(()) };
    if key.port.is_some() && port.is_none() && forward == Some(Forward::Nat) {
        return Err(impossible(format!(
            "{key} has a port, and the service takes any: no answer from there would tell which \
             port it is for"
        ))
        .help(format!("the address alone: \"{}\", or a service for each port", key.address)));
    }
    if key.address == vip {
        return Err(impossible(format!("{vip} is the VIP itself"))
            .help("the backend's own address, by which the balancer reaches it"));
    }
    if forward == Some(Forward::Nat) && key.address.is_ipv4() != vip.is_ipv4() {
        let (family, other) = if vip.is_ipv4() { ("IPv4", "IPv6") } else { ("IPv6", "IPv4") };
        return Err(impossible(format!(
            "`nat` can't turn {family} packets for {vip} into {other} packets for {}",
            key.address
        ))
        .help(format!("an {family} address, or forward = \"fullnat\", \"ipip\" or \"gue\"")));
    }
    if forward == Some(Forward::L2) && key.address.is_ipv4() != vip.is_ipv4() {
        return Err(impossible(format!(
            "`l2` can't carry packets for {vip} to {}: the address families differ",
            key.address
        ))
        .help("an address of the VIP's family, or forward = \"ipip\", \"gue\" or \"fullnat\""));
    }
    Ok(())
}
