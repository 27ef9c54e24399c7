//! Checks the top of the file, and through it all the rest.

use std::{ops::RangeInclusive, time::Duration};

use super::{
    discovery,
    error::{ErrorKind, Fault, Faults},
    fullnat,
    keys::{Kind, api, service as service_keys, top as keys},
    node::{Node, Value},
    read::{Table, wrong_type},
    service::{self, Others},
    types::{Api, Config, DiscoverySource, Hook, ServiceConfig},
    value,
};

/// How long a hook may run.
const HOOK_TIMEOUTS: RangeInclusive<Duration> =
    Duration::from_millis(100)..=Duration::from_secs(600);

/// Checks a whole config.
pub(super) fn check(root: &Node, faults: &mut Faults) -> Option<Config> {
    let table = Table::open(root, "", &keys::SECTION, faults)?;
    let interfaces = interfaces(&table, faults);
    let xdp_mode = table.value(&keys::XDP_MODE, faults, value::xdp_mode);
    let hash_seed = table.value(&keys::HASH_SEED, faults, value::hash_seed);
    let next_hop = table.value(&keys::NEXT_HOP, faults, value::next_hop);
    let pin_path = table.value(&keys::PIN_PATH, faults, value::absolute_path);
    let state_file = table.value(&keys::STATE_FILE, faults, value::absolute_path);
    let source_ipv4 = table.value(&keys::SOURCE_IPV4, faults, value::source);
    let source_ipv6 = table.value(&keys::SOURCE_IPV6, faults, value::source);
    let flow_capacity = table.value(&keys::FLOW_CAPACITY, faults, value::integer(1024..=1 << 26));
    let icmp_echo = table.value(&keys::ICMP_ECHO, faults, value::boolean);
    let on_event = table.value(&keys::ON_EVENT, faults, value::command);
    let timeout = table.value(&keys::ON_EVENT_TIMEOUT, faults, value::duration(HOOK_TIMEOUTS));
    let fullnat = fullnat::check(&table, faults);
    let api = check_api(&table, faults);
    let services = check_services(&table, faults);
    if let (Some(Api { register: None, .. }), Some(services)) = (&api, &services) {
        nobody_registers(&table, services, faults);
    }
    Some(Config {
        interfaces: interfaces?,
        xdp_mode: xdp_mode?,
        hash_seed,
        next_hop: next_hop?,
        pin_path: pin_path?,
        state_file: state_file?,
        source_ipv4,
        source_ipv6,
        flow_capacity: flow_capacity?,
        icmp_echo: icmp_echo?,
        on_event: on_event.zip(timeout).map(|(command, timeout)| Hook { command, timeout }),
        fullnat: fullnat?,
        api: api?,
        services: services?,
    })
}

/// Each name with its own place, so that one list can have several faults.
fn interfaces(table: &Table<'_>, faults: &mut Faults) -> Option<Vec<String>> {
    let items = table.value(&keys::INTERFACES, faults, |node| match &node.value {
        Value::List(items) if items.is_empty() => {
            Err(Fault::bad("no interface").help("at least one name, such as [\"eth0\"]"))
        }
        Value::List(items) => Ok(items.clone()),
        _ => Err(wrong_type(node, Kind::List)),
    })?;
    let mut names = Vec::with_capacity(items.len());
    for (index, item) in items.iter().enumerate() {
        let name = value::interface(item).and_then(|name| {
            if names.contains(&name) {
                Err(Fault::new(ErrorKind::Duplicate, format!("\"{name}\" is already there"))
                    .help("name each interface once"))
            } else {
                Ok(name)
            }
        });
        match name {
            Ok(name) => names.push(name),
            Err(fault) => faults.add(item.at, format!("interfaces[{index}]"), fault),
        }
    }
    (names.len() == items.len()).then_some(names)
}

fn check_api(table: &Table<'_>, faults: &mut Faults) -> Option<Api> {
    let empty = Node { value: Value::Table(Vec::new()), at: None };
    let node = table.get(&keys::API).unwrap_or(&empty);
    let table = Table::open(node, keys::API.name, &api::SECTION, faults)?;
    let socket = table.value(&api::SOCKET, faults, value::socket_path);
    let metrics = table.value(&api::METRICS, faults, value::listen_address);
    let register = match table.get(&api::REGISTER) {
        Some(node) => {
            discovery::door(node, &table.path_of(api::REGISTER.name), faults).map(Some)?
        }
        None => None,
    };
    Some(Api { socket: socket?, metrics, register })
}

/// Refuses a service that waits for registrations where no agent listens for them.
fn nobody_registers(table: &Table<'_>, services: &[ServiceConfig], faults: &mut Faults) {
    let waits = services.iter().position(|service| {
        let source = service.discovery.as_ref().map(|discovery| &discovery.source);
        matches!(source, Some(DiscoverySource::Register { .. }))
    });
    let Some(index) = waits else { return };
    let nodes = table.tables(&keys::SERVICE, service_keys::SECTION.header, faults);
    let node = &nodes[index];
    let path = service::path(Some(index), node);
    let fault =
        Fault::new(ErrorKind::MissingKey, "nobody can register: there is no [api.register]")
            .help("a section [api.register] with `listen`, and `token_file` or `client_ca`");
    faults.add(node.at, format!("{path}.{}", service_keys::DISCOVERY.name), fault);
}

fn check_services(table: &Table<'_>, faults: &mut Faults) -> Option<Vec<ServiceConfig>> {
    let mut others = Others::new(&[]);
    let nodes = table.tables(&keys::SERVICE, service_keys::SECTION.header, faults);
    let services: Vec<Option<ServiceConfig>> = nodes
        .iter()
        .enumerate()
        .map(|(index, node)| {
            service::check(node, &service::path(Some(index), node), &mut others, faults)
        })
        .collect();
    services.into_iter().collect()
}
