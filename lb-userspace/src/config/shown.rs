//! From what was checked back to text: the way a person would have written it.

use std::fmt::Display;

use super::{
    checks::{ActiveCheck, DnsProbe, GrpcProbe, HealthCheck, HttpProbe, Probe, Tls, word},
    spec::{
        AgentCheckSpec, BackendSpec, DiscoverySpec, HealthSpec, LoadSpec, ServiceSpec, StatusSpec,
    },
    types::{AgentCheck, BackendConfig, DiscoveryConfig, DiscoverySource, ServiceConfig},
    value::{AFFINITIES, DNS_RECORDS, duration_text},
};
use crate::live::LoadPolicy;

fn shown(value: impl Display) -> Option<String> {
    Some(value.to_string())
}

impl From<&ServiceConfig> for ServiceSpec {
    /// Every key is written out, also where it has its default.
    fn from(service: &ServiceConfig) -> Self {
        let live = &service.live;
        let affinity = AFFINITIES.iter().find(|(_, affinity)| *affinity == service.affinity);
        Self {
            name: service.name.clone(),
            vip: service.key.destination().to_string(),
            protocol: shown(service.key.protocol),
            forward: service.forward.to_string(),
            ring_size: service.ring_size.map(i64::from),
            affinity: affinity.and_then(|(word, _)| shown(word)),
            icmp_echo: service.icmp_echo,
            udp_timeout: Some(duration_text(service.udp_timeout)),
            tcp_idle: Some(duration_text(service.tcp_idle)),
            slow_start: Some(duration_text(live.slow_start)),
            panic_threshold: Some(format!("{}%", live.panic_percent)),
            max_flapping: Some(live.max_flapping.into()),
            flapping_window: Some(duration_text(live.flapping_window)),
            health: match &service.health {
                HealthCheck::None => None,
                HealthCheck::Active(check) => Some(check.as_ref().into()),
            },
            discovery: service.discovery.as_ref().map(DiscoverySpec::from),
            agent_check: service.agent_check.as_ref().map(AgentCheckSpec::from),
            load: live.load.as_ref().map(LoadSpec::from),
            backends: service.backends.iter().map(BackendSpec::from).collect(),
        }
    }
}

impl From<&BackendConfig> for BackendSpec {
    fn from(backend: &BackendConfig) -> Self {
        Self {
            address: backend.key.to_string(),
            weight: Some(backend.weight.into()),
            next_hop: backend.next_hop.and_then(shown),
            forward: backend.forward.and_then(shown),
            backup: backend.backup.then_some(true),
        }
    }
}

impl From<&AgentCheck> for AgentCheckSpec {
    fn from(check: &AgentCheck) -> Self {
        Self {
            port: check.port.into(),
            interval: Some(duration_text(check.interval)),
            timeout: Some(duration_text(check.timeout)),
            send: check.send.clone(),
        }
    }
}

impl From<&LoadPolicy> for LoadSpec {
    fn from(load: &LoadPolicy) -> Self {
        Self {
            source: load.source.word().to_owned(),
            smoothing: Some(duration_text(load.smoothing)),
            floor: Some(format!("{}%", load.floor_permille / 10)),
            max_step: Some(format!("{}%", load.max_step_permille / 10)),
            stale_after: Some(duration_text(load.stale_after)),
        }
    }
}

impl From<&DiscoveryConfig> for DiscoverySpec {
    fn from(discovery: &DiscoveryConfig) -> Self {
        let common = Self { allow_empty: Some(discovery.allow_empty), ..Self::default() };
        match &discovery.source {
            DiscoverySource::Dns(dns) => {
                let record = DNS_RECORDS.iter().find(|(_, record)| *record == dns.record);
                Self {
                    kind: "dns".to_owned(),
                    name: Some(dns.name.clone()),
                    record: record.and_then(|(word, _)| shown(word)),
                    server: dns.server.and_then(shown),
                    weight: Some(dns.weight.into()),
                    min_ttl: Some(duration_text(dns.min_ttl)),
                    max_ttl: Some(duration_text(dns.max_ttl)),
                    ..common
                }
            }
            DiscoverySource::Directory(path) => {
                Self { kind: "directory".to_owned(), path: shown(path.display()), ..common }
            }
            DiscoverySource::Register { weight } => {
                Self { kind: "register".to_owned(), weight: Some((*weight).into()), ..common }
            }
        }
    }
}

impl From<&ActiveCheck> for HealthSpec {
    fn from(check: &ActiveCheck) -> Self {
        Self {
            port: check.port_is_set.then(|| check.port.into()),
            // Left out where it is: who says it takes no other way.
            via: check.via.and_then(|via| shown(via.word())),
            interval: Some(duration_text(check.interval)),
            fast_interval: Some(duration_text(check.fast_interval)),
            jitter: Some(format!("{}%", check.jitter)),
            timeout: Some(duration_text(check.timeout)),
            rise: Some(check.rise.into()),
            fall: Some(check.fall.into()),
            ..asked(&check.probe)
        }
    }
}

/// The type, and the keys that only some types have.
fn asked(probe: &Probe) -> HealthSpec {
    let of = |kind: &str| HealthSpec { kind: kind.to_owned(), ..HealthSpec::default() };
    match probe {
        Probe::Tcp => of("tcp"),
        Probe::Http(http) => {
            let HttpProbe { tls, method, path, host, expect_status, expect_body, expect_header } =
                http;
            let ranges: Vec<_> = expect_status.iter().map(ToString::to_string).collect();
            let alpn = tls.as_ref().map(|tls| tls.alpn.iter().map(|alpn| alpn.word().to_owned()));
            HealthSpec {
                method: shown(method.word()),
                path: Some(path.clone()),
                host: host.clone(),
                expect_status: Some(StatusSpec::Several(ranges.join(", "))),
                expect_body: expect_body.clone(),
                expect_header: expect_header.as_ref().and_then(shown),
                alpn: alpn.map(Iterator::collect),
                ..over(tls.as_ref(), of(if tls.is_some() { "https" } else { "http" }))
            }
        }
        Probe::Grpc(GrpcProbe { tls, service, host }) => HealthSpec {
            tls: Some(tls.is_some()),
            grpc_service: Some(service.clone()),
            host: host.clone(),
            ..over(tls.as_ref(), of("grpc"))
        },
        Probe::Udp { send, expect } => {
            HealthSpec { send: shown(send), expect: expect.as_ref().and_then(shown), ..of("udp") }
        }
        Probe::Dns(DnsProbe { query, query_type, expect_rcode, expect_answer }) => HealthSpec {
            query: Some(query.clone()),
            query_type: shown(word(DnsProbe::TYPES, *query_type)),
            expect_rcode: shown(word(DnsProbe::CODES, *expect_rcode)),
            expect_answer: expect_answer.clone(),
            ..of("dns")
        },
        Probe::Exec { command } => HealthSpec { command: Some(command.clone()), ..of("exec") },
    }
}

/// `spec` with the keys of TLS.
fn over(tls: Option<&Tls>, spec: HealthSpec) -> HealthSpec {
    let Some(Tls { verify, ca_file, server_name, alpn: _ }) = tls else { return spec };
    HealthSpec {
        verify: Some(*verify),
        // It came from text.
        ca_file: ca_file.as_ref().map(|path| path.to_string_lossy().into_owned()),
        server_name: server_name.clone(),
        ..spec
    }
}
