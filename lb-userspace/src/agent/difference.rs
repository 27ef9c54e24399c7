//! What is another service, or another backend, after a change of the config: pure.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Display,
    time::Duration,
};

use lb_common::layout::Affinity;

use crate::{
    api::{Actor, Cause, EventKind, News},
    config::{BackendConfig, ServiceConfig},
};

/// How an event tells that a backend came or went.
#[derive(Clone, Debug)]
pub(super) struct Words {
    pub(super) cause: Cause,
    /// Who, where somebody is known.
    pub(super) by: Actor,
    pub(super) came: String,
    pub(super) went: String,
}

impl Words {
    /// Those of the config.
    fn config() -> Self {
        let (came, went) = ("the config has it now".to_owned(), "it left the config".to_owned());
        Self { cause: Cause::Config, by: Actor::default(), came, went }
    }
}

/// What became of the services: first those that are gone, then the others in their order.
pub(super) fn between(before: &[ServiceConfig], after: &[ServiceConfig]) -> Vec<News> {
    let named = |all: &'_ [ServiceConfig], name: &str| all.iter().any(|s| s.name == name);
    let of = |service: &ServiceConfig, kind, message: String| {
        News::new(kind, Cause::Config, message).about(&service.name, None)
    };
    let gone = before.iter().filter(|service| !named(after, &service.name));
    let gone = gone.map(|service| {
        of(service, EventKind::ServiceRemoved, "it left the config".to_owned()).was(service.key)
    });
    let mut differences: Vec<_> = gone.collect();
    for service in after {
        let Some(former) = before.iter().find(|former| former.name == service.name) else {
            let message = format!("the config has it now, at {}", service.key);
            differences.push(of(service, EventKind::ServiceAdded, message).is(service.key));
            continue;
        };
        let news = of(service, EventKind::ServiceChanged, String::new());
        differences.extend(all_of(service_changes(former, service), news));
        differences.extend(backends(former, service, &Words::config()));
    }
    differences
}

fn service_changes(before: &ServiceConfig, after: &ServiceConfig) -> Vec<Became> {
    let size = |size: Option<u32>| {
        size.map_or_else(|| "grows with the backends".to_owned(), |size| size.to_string())
    };
    let mut changes: Vec<Became> = [
        became("VIP", before.key, after.key),
        became("forward", before.forward, after.forward),
        became("ring_size", size(before.ring_size), size(after.ring_size)),
        became("udp_timeout", seconds(before.udp_timeout), seconds(after.udp_timeout)),
        became("tcp_idle", seconds(before.tcp_idle), seconds(after.tcp_idle)),
        became("affinity", affinity(before.affinity), affinity(after.affinity)),
        became("icmp_echo", echo(before.icmp_echo), echo(after.icmp_echo)),
        became("slow_start", seconds(before.live.slow_start), seconds(after.live.slow_start)),
        became("panic_threshold", percent(before), percent(after)),
        became("max_flapping", before.live.max_flapping, after.live.max_flapping),
        became(
            "flapping_window",
            seconds(before.live.flapping_window),
            seconds(after.live.flapping_window),
        ),
    ]
    .into_iter()
    .flatten()
    .collect();
    if before.health != after.health {
        changes.push(Became::another("health check"));
    }
    if before.discovery != after.discovery {
        changes.push(Became::another("discovery"));
    }
    if before.agent_check != after.agent_check {
        changes.push(Became::another("agent check"));
    }
    if before.live.load != after.live.load {
        changes.push(Became::another("way to follow load"));
    }
    changes
}

/// What became of a service's backends: first those that are gone, then the others in their order.
pub(super) fn backends(before: &ServiceConfig, after: &ServiceConfig, words: &Words) -> Vec<News> {
    let of = |backend: &BackendConfig, kind, message: String| {
        News::new(kind, words.cause, message).about(&after.name, backend.key).by(&words.by)
    };
    let has: BTreeSet<_> = after.backends.iter().map(|backend| backend.key).collect();
    let former: BTreeMap<_, _> = before.backends.iter().map(|b| (b.key, b)).collect();
    let gone = before.backends.iter().filter(|backend| !has.contains(&backend.key));
    let gone = gone.map(|backend| {
        of(backend, EventKind::BackendRemoved, words.went.clone())
            .was(format_args!("weight {}", backend.weight))
    });
    let mut differences: Vec<_> = gone.collect();
    for backend in &after.backends {
        let Some(former) = former.get(&backend.key) else {
            let weight = format!("weight {}", backend.weight);
            let message = format!("{}, with {weight}", words.came);
            differences.push(of(backend, EventKind::BackendAdded, message).is(weight));
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
            became("backup", former.backup, backend.backup),
        ];
        let news = of(backend, EventKind::BackendChanged, String::new());
        differences.extend(all_of(changes.into_iter().flatten().collect(), news));
    }
    differences
}

/// One changed key.
struct Became {
    /// For people.
    told: String,
    /// For programs, where it has a short form: what it was and what it is.
    sides: Option<(String, String)>,
}

impl Became {
    /// Something that has no short form.
    fn another(what: &str) -> Self {
        Self { told: format!("another {what}"), sides: None }
    }
}

fn became<T: PartialEq + Display>(what: &str, before: T, after: T) -> Option<Became> {
    (before != after).then(|| Became {
        told: format!("{what} {before} became {after}"),
        sides: Some((format!("{what} {before}"), format!("{what} {after}"))),
    })
}

/// All changes as one event; none of none.
fn all_of(changes: Vec<Became>, mut news: News) -> Option<News> {
    if changes.is_empty() {
        return None;
    }
    let told: Vec<_> = changes.iter().map(|change| change.told.as_str()).collect();
    news.message = told.join(", ");
    let sides = changes.into_iter().filter_map(|change| change.sides);
    Some(sides.fold(news, |news, (before, after)| news.became(before, after)))
}

fn echo(echo: Option<bool>) -> String {
    echo.map_or_else(|| "as at the top".to_owned(), |echo| echo.to_string())
}

fn affinity(affinity: Affinity) -> &'static str {
    match affinity {
        Affinity::Flow => "flow",
        Affinity::Source => "source",
        Affinity::Packet => "packet",
    }
}

fn percent(service: &ServiceConfig) -> String {
    format!("{}%", service.live.panic_percent)
}

fn seconds(duration: Duration) -> String {
    if duration.is_zero() { "0s".to_owned() } else { format!("{duration:?}") }
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
            service("web", "vip = \"203.0.113.1:81\"\naffinity = \"source\"\ntcp_idle = \"1m\"\nhealth = { type = \"tcp\" }\nbackend = [{ address = \"10.0.0.2\", weight = 9 }, { address = \"10.0.0.3\", forward = \"gue\" }, { address = \"10.0.0.4\" }]"),
            service("new", "vip = \"203.0.113.3:80\""),
        ]
        .concat();
        let (before, after) = (services(&before), services(&after));
        assert_eq!(between(&before, &before), []);
        let found: Vec<String> = between(&before, &after)
            .into_iter()
            .map(|news| {
                let backend = news.backend.map(|key| format!(" {key}")).unwrap_or_default();
                let (from, to) = (news.from.unwrap_or_default(), news.to.unwrap_or_default());
                let (kind, service) = (news.kind.word(), news.service.unwrap_or_default());
                format!("{kind} {service}{backend}: {} ({from} -> {to})", news.message)
            })
            .collect();
        assert_eq!(
            found,
            [
                "service_removed dns: it left the config (203.0.113.1:53 udp -> )",
                "service_changed web: VIP 203.0.113.1:80 tcp became 203.0.113.1:81 tcp, \
                 tcp_idle 900s became 60s, affinity flow became source, another health check \
                 (VIP 203.0.113.1:80 tcp, tcp_idle 900s, affinity flow -> \
                 VIP 203.0.113.1:81 tcp, tcp_idle 60s, affinity source)",
                "backend_removed web 10.0.0.1: it left the config (weight 100 -> )",
                "backend_changed web 10.0.0.2: weight 7 became 9 (weight 7 -> weight 9)",
                "backend_changed web 10.0.0.3: forward the service's became gue \
                 (forward the service's -> forward gue)",
                "backend_added web 10.0.0.4: the config has it now, with weight 100 ( -> weight 100)",
                "service_added new: the config has it now, at 203.0.113.3:80 tcp \
                 ( -> 203.0.113.3:80 tcp)",
            ]
        );
    }
}
