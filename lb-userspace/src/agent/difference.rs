//! What is another service, or another backend, after a change of the config: pure.

use std::{fmt::Display, time::Duration};

use crate::{
    api::EventKind,
    config::{BackendConfig, ServiceConfig},
    model::BackendKey,
};

/// One difference, as an event tells it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Difference {
    pub(super) kind: EventKind,
    pub(super) service: String,
    pub(super) backend: Option<BackendKey>,
    pub(super) message: String,
}

/// What became of the services: first those that are gone, then the others in their order.
pub(super) fn between(before: &[ServiceConfig], after: &[ServiceConfig]) -> Vec<Difference> {
    let named = |all: &'_ [ServiceConfig], name: &str| all.iter().any(|s| s.name == name);
    let of = |service: &ServiceConfig, kind, message: String| Difference {
        kind,
        service: service.name.clone(),
        backend: None,
        message,
    };
    let gone = before.iter().filter(|service| !named(after, &service.name));
    let mut differences: Vec<_> = gone
        .map(|service| of(service, EventKind::ServiceRemoved, "it left the config".to_owned()))
        .collect();
    for service in after {
        let Some(former) = before.iter().find(|former| former.name == service.name) else {
            let message = format!("the config has it now, at {}", service.key);
            differences.push(of(service, EventKind::ServiceAdded, message));
            continue;
        };
        let changed = service_changes(former, service);
        if !changed.is_empty() {
            differences.push(of(service, EventKind::ServiceChanged, changed.join(", ")));
        }
        differences.extend(backends(former, service));
    }
    differences
}

fn service_changes(before: &ServiceConfig, after: &ServiceConfig) -> Vec<String> {
    let size = |size: Option<u32>| {
        size.map_or_else(|| "by the number of backends".to_owned(), |size| size.to_string())
    };
    let mut changes: Vec<String> = [
        became("VIP", before.key, after.key),
        became("forward", before.forward, after.forward),
        became("ring_size", size(before.ring_size), size(after.ring_size)),
        became("udp_timeout", seconds(before.udp_timeout), seconds(after.udp_timeout)),
        became("tcp_idle", seconds(before.tcp_idle), seconds(after.tcp_idle)),
    ]
    .into_iter()
    .flatten()
    .collect();
    if before.affinity != after.affinity {
        changes.push("another affinity".to_owned());
    }
    if before.health != after.health {
        changes.push("another health check".to_owned());
    }
    changes
}

fn backends(before: &ServiceConfig, after: &ServiceConfig) -> Vec<Difference> {
    let of = |backend: &BackendConfig, kind, message: String| Difference {
        kind,
        service: after.name.clone(),
        backend: Some(backend.key),
        message,
    };
    let has = |service: &ServiceConfig, key| service.backends.iter().any(|b| b.key == key);
    let gone = before.backends.iter().filter(|backend| !has(after, backend.key));
    let mut differences: Vec<_> = gone
        .map(|backend| of(backend, EventKind::BackendRemoved, "it left the config".to_owned()))
        .collect();
    for backend in &after.backends {
        let Some(former) = before.backends.iter().find(|former| former.key == backend.key) else {
            let message = format!("the config has it now, with weight {}", backend.weight);
            differences.push(of(backend, EventKind::BackendAdded, message));
            continue;
        };
        let hop = |backend: &BackendConfig| {
            backend.next_hop.map_or_else(|| "everybody's".to_owned(), |hop| hop.to_string())
        };
        let forward = |backend: &BackendConfig| {
            backend.forward.map_or_else(|| "the service's".to_owned(), |mode| mode.to_string())
        };
        let changes = [
            became("weight", former.weight, backend.weight),
            became("next_hop", hop(former), hop(backend)),
            became("forward", forward(former), forward(backend)),
        ];
        let changes: Vec<_> = changes.into_iter().flatten().collect();
        if !changes.is_empty() {
            differences.push(of(backend, EventKind::BackendChanged, changes.join(", ")));
        }
    }
    differences
}

fn became<T: PartialEq + Display>(what: &str, before: T, after: T) -> Option<String> {
    (before != after).then(|| format!("{what} {before} became {after}"))
}

fn seconds(duration: Duration) -> String {
    format!("{duration:?}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::parse;

    fn services(text: &str) -> Vec<ServiceConfig> {
        parse(&format!("interfaces = [\"eth0\"]\n{text}"), "test.toml").unwrap().services
    }

    fn service(name: &str, rest: &str) -> String {
        format!("[[service]]\nname = \"{name}\"\nforward = \"ipip\"\n{rest}\n")
    }

    #[test]
    fn every_difference_is_told() {
        let before = [
            service("web", "vip = \"203.0.113.1:80\"\nbackend = [{ address = \"10.0.0.1\" }, { address = \"10.0.0.2\", weight = 7 }, { address = \"10.0.0.3\" }]"),
            service("dns", "vip = \"203.0.113.1:53\"\nprotocol = \"udp\""),
            service("same", "vip = \"203.0.113.2:80\"\nbackend = [{ address = \"10.0.0.1\" }]"),
        ]
        .concat();
        let after = [
            service("same", "vip = \"203.0.113.2:80\"\nbackend = [{ address = \"10.0.0.1\" }]"),
            service("web", "vip = \"203.0.113.1:81\"\naffinity = \"source\"\ntcp_idle = \"1m\"\nbackend = [{ address = \"10.0.0.2\", weight = 9 }, { address = \"10.0.0.3\", forward = \"gue\" }, { address = \"10.0.0.4\" }]"),
            service("new", "vip = \"203.0.113.3:80\""),
        ]
        .concat();
        let (before, after) = (services(&before), services(&after));
        assert_eq!(between(&before, &before), []);
        let found: Vec<String> = between(&before, &after)
            .into_iter()
            .map(|Difference { kind, service, backend, message }| {
                let backend = backend.map(|key| format!(" {key}")).unwrap_or_default();
                format!("{} {service}{backend}: {message}", kind.word())
            })
            .collect();
        assert_eq!(
            found,
            [
                "service_removed dns: it left the config",
                "service_changed web: VIP 203.0.113.1:80 tcp became 203.0.113.1:81 tcp, \
                 tcp_idle 900s became 60s, another affinity",
                "backend_removed web 10.0.0.1: it left the config",
                "backend_changed web 10.0.0.2: weight 7 became 9",
                "backend_changed web 10.0.0.3: forward the service's became gue",
                "backend_added web 10.0.0.4: the config has it now, with weight 100",
                "service_added new: the config has it now, at 203.0.113.3:80 tcp",
            ]
        );
    }
}
