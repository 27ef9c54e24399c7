//! What the agent tells about itself.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    time::{Instant, SystemTime},
};

use jiff::Timestamp;
use lb_common::{
    id::BackendId,
    layout::{Affinity, BackendCounters},
    verdict::{DropReason, OUTCOME_ECHOED, OUTCOME_PASS, OUTCOME_TOLD},
};

use super::{Agent, clients::forwarding_warnings, reconcile::shares};
use crate::{
    agent_check::AgentReport,
    api::{
        AgentStatus, ApiError, BackendState, BackendStatus, BackendTraffic, DiscoveryStatus,
        ErrorKind, FlowsStatus, FullnatPorts, HealthStatus, IcmpSent, InterfaceStatus,
        NextHopStatus, RefusedBackend, ServiceStatus, ServiceTraffic, Stats, Status,
    },
    config::{BackendConfig, Refused, ServiceConfig, Via},
    dataplane::{self, Counters},
    health::Report,
    live::{Live, Standing},
    model::{BackendKey, Forward, ServiceKey},
    network::Resolution,
    plan::backend_key,
    state::origin,
};

/// Refused backends of a service that are told by name.
const REFUSED_MAX: usize = 64;

pub(super) fn failed(error: dataplane::Error) -> ApiError {
    ApiError::new(ErrorKind::Failed, error.to_string())
}

impl Agent {
    /// All that there is to tell; `None` where something came up that doesn't wait for it.
    pub(super) fn status(
        &mut self,
        gives_way: &dyn Fn() -> bool,
    ) -> Result<Option<Status>, ApiError> {
        if gives_way() {
            return Ok(None);
        }
        let counters = self.plane.counters().map_err(failed)?;
        let interfaces = self.interface_status()?;
        let view = View::new(self, &counters);
        let services = self.effective.services.iter().map(|s| view.service(s, gives_way));
        let Some(services) = services.collect() else { return Ok(None) };
        let mut warnings = self.warnings.clone();
        warnings.extend(self.trouble.iter().map(|trouble| {
            format!("the data plane doesn't do what is desired, it is tried again: {trouble}")
        }));
        warnings.extend(self.hooks.status().trouble);
        warnings.extend(self.panics());
        warnings.extend(self.down());
        warnings.extend(forwarding_warnings(&self.config.interfaces, &self.effective.services));
        warnings.extend(self.next_hops.trouble().borrow().clone());
        for service in &self.effective.services {
            let report = self.discovery.report(&service.name);
            if let Some(why) = report.and_then(|report| report.trouble.as_ref()) {
                warnings.push(format!("service {}, discovery: {why}", service.name));
            }
        }
        warnings.extend(self.probe_warnings());
        Ok(Some(Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            uptime_seconds: self.started.elapsed().as_secs_f64(),
            config_file: self.config_path.display().to_string(),
            interfaces,
            maps_bytes: self.plane.map_bytes().map_err(failed)?,
            flow_capacity: self.plane.flow_capacity().into(),
            flows: self.flows_status(),
            fullnat: self.fullnat_status(),
            hooks: self.hooks.status(),
            health_reactions: self.health_reactions.clone(),
            services,
            reloads_ok_total: self.reloads_ok,
            reloads_failed_total: self.reloads_failed,
            last_reload: self.last_reload.clone(),
            warnings,
        }))
    }

    fn flows_status(&self) -> FlowsStatus {
        let counters = &self.flows.counters;
        FlowsStatus {
            records: self.flows.survey.records,
            capacity: self.plane.flow_capacity().into(),
            recorded_total: counters.recorded,
            over_budget_opening_total: counters.over_budget_opening,
            over_budget_total: counters.over_budget,
            table_full_total: counters.table_full,
            picked_anew_total: counters.picked_anew,
        }
    }

    fn interface_status(&mut self) -> Result<Vec<InterfaceStatus>, ApiError> {
        let attached = self.plane.attached().map_err(failed)?;
        let interfaces = self.interfaces.borrow();
        let status = |name: &String| {
            let attached = attached.iter().find(|attached| attached.interface == *name);
            InterfaceStatus {
                name: name.clone(),
                ifindex: interfaces.named(name).map(|interface| interface.index),
                xdp_mode: attached.map(|attached| attached.mode.to_string()),
                attached: attached.is_some(),
                error: match attached {
                    Some(_) => None,
                    None => self.detached.get(name).cloned(),
                },
            }
        };
        Ok(self.config.interfaces.iter().map(status).collect())
    }

    pub(super) fn stats(&self) -> Result<Stats, ApiError> {
        let counters = self.plane.counters().map_err(failed)?;
        let view = View::new(self, &counters);
        let dropped =
            |reason: &DropReason| (reason.name().to_owned(), counters.outcomes[*reason as usize]);
        Ok(Stats {
            passes_total: counters.outcomes[OUTCOME_PASS as usize],
            icmp_sent_total: IcmpSent {
                echo_reply: counters.outcomes[OUTCOME_ECHOED as usize],
                too_big: counters.outcomes[OUTCOME_TOLD as usize],
            },
            drops_total: DropReason::BALANCER.iter().map(dropped).collect(),
            services: self.effective.services.iter().map(|s| view.traffic(s)).collect(),
        })
    }
}

/// The agent with counters of one moment.
pub(super) struct View<'a> {
    agent: &'a Agent,
    counters: &'a Counters,
    ids: BTreeMap<(ServiceKey, BackendKey), BackendId>,
    /// What the rings were last made to do with each backend, in thousandths of its weight.
    in_force: BTreeMap<(ServiceKey, BackendKey), u16>,
    moving: BTreeMap<ServiceKey, u32>,
    ports: BTreeMap<(ServiceKey, BackendKey), FullnatPorts>,
}

impl<'a> View<'a> {
    pub(super) fn new(agent: &'a Agent, counters: &'a Counters) -> Self {
        let actual = &agent.actual;
        let ids = actual.backends.iter().filter_map(|(id, record)| {
            let service = actual.services.get(&lb_common::id::ServiceId(record.service))?;
            Some(((service.entry.key, backend_key(record)), *id))
        });
        let desired = agent.last_desired.iter().flat_map(|desired| &desired.services);
        let in_force = desired.flat_map(|service| {
            let backends = service.backends.iter();
            backends.map(|backend| ((service.key, backend.key), backend.live_permille))
        });
        Self {
            agent,
            counters,
            ids: ids.collect(),
            in_force: in_force.collect(),
            moving: agent.moving_slots(),
            ports: agent.fullnat_ports(),
        }
    }

    fn backend_counters(&self, service: &ServiceConfig, key: BackendKey) -> BackendCounters {
        let id = self.ids.get(&(service.key, key));
        id.and_then(|id| self.counters.backends.get(id)).copied().unwrap_or_default()
    }

    /// `None` where it gave way in between.
    pub(super) fn service(
        &self,
        service: &ServiceConfig,
        gives_way: &dyn Fn() -> bool,
    ) -> Option<ServiceStatus> {
        let (ring_size, shares) = shares(&self.agent.actual, service.key);
        let backend = |backend: &BackendConfig| {
            let share = shares.get(&backend.key).copied().unwrap_or(0.0);
            (!gives_way()).then(|| self.backend(service, backend, share))
        };
        let leaves = |status| BackendStatus { state: BackendState::Leaving, ..status };
        let leaving = self.agent.flows.leaving.get(&service.name).into_iter().flatten();
        let mode = self.agent.lives.mode(service.key);
        Some(ServiceStatus {
            name: service.name.clone(),
            vip: service.key.destination().to_string(),
            protocol: service.key.protocol.word().to_owned(),
            forward: service.forward.word().to_owned(),
            ring_size,
            affinity: affinity_word(service.affinity).to_owned(),
            moving_slots: self.moving.get(&service.key).copied().unwrap_or(0),
            slots_moved_total: self.agent.flows.moved.get(&service.key).copied().unwrap_or(0),
            discovery: self.discovery(service),
            up: self.agent.up.contains(&service.key),
            panic: mode.panic,
            backup_active: mode.backup,
            backends: service.backends.iter().map(backend).collect::<Option<_>>()?,
            leaving: leaving.map(|left| backend(left).map(leaves)).collect::<Option<_>>()?,
        })
    }

    fn discovery(&self, service: &ServiceConfig) -> Option<DiscoveryStatus> {
        let origin = origin(service)?;
        let report = self.agent.discovery.report(&service.name)?;
        let time = |time: SystemTime| Timestamp::try_from(time).ok();
        let lease = self.agent.leases.next_end_of(&service.name);
        let lease = lease.map(|end| end.saturating_duration_since(Instant::now()));
        let lease = lease.and_then(|left| SystemTime::now().checked_add(left));
        let refused = self.agent.effective.refused.get(&service.name).into_iter().flatten();
        let refused = refused.map(|Refused { address, why }| RefusedBackend {
            address: address.clone(),
            why: why.clone(),
        });
        Some(DiscoveryStatus {
            origin,
            source: report.source.clone(),
            found: report.found,
            last_success: report.last_success.and_then(time),
            next: report.next.or(lease).and_then(time),
            trouble: report.trouble.clone(),
            refused: refused.take(REFUSED_MAX).collect(),
            succeeded_total: report.succeeded,
            failed_total: report.failed,
        })
    }

    fn backend(
        &self,
        service: &ServiceConfig,
        backend: &BackendConfig,
        share: f64,
    ) -> BackendStatus {
        let counters = self.backend_counters(service, backend.key);
        let report = self.agent.health.report(service.key, backend.key);
        let next_hop = self.next_hop(service, backend);
        let Live { permille: live, standing, .. } = self.agent.live(service, backend.key);
        let via = match self.agent.probes.target((service.key, backend.key)) {
            Some(_) => Via::Vip,
            None => Via::Address,
        };
        // A check may know already what the ring doesn't do yet.
        let in_force = self.in_force.get(&(service.key, backend.key)).copied().unwrap_or(live);
        let state = match standing {
            Standing::Draining => BackendState::Draining,
            Standing::Maintenance => BackendState::Maintenance,
            Standing::Failed => BackendState::Unhealthy,
            Standing::Pending => BackendState::Pending,
            _ if self.why_no_way(service, backend).is_some() => BackendState::Unresolved,
            _ if next_hop.mac.is_none() || in_force == 0 && live > 0 => BackendState::Pending,
            Standing::Damped => BackendState::Damped,
            Standing::Backup => BackendState::Backup,
            Standing::SlowStart => BackendState::SlowStart,
            Standing::Serving => BackendState::Healthy,
        };
        BackendStatus {
            address: backend.key.to_string(),
            origin: self.agent.effective.origin(&service.name, backend.key),
            weight: backend.weight,
            live_weight: f64::from(backend.weight) * f64::from(live.min(in_force)) / 1000.0,
            state,
            live_change: self.live_change(service, backend),
            load: self.agent.load_status(service, backend.key),
            agent: self.agent.agents.report(service.key, backend.key).map(agent_status),
            health: report.map(|report| health_status(report, via)),
            next_hop,
            forward: backend.forward.unwrap_or(service.forward).word().to_owned(),
            share,
            flows: self.flows(service, backend.key),
            fullnat_ports: self.ports.get(&(service.key, backend.key)).copied(),
            drained: self.agent.is_drained(service.key, backend.key),
            packets_total: counters.packets,
            bytes_total: counters.bytes,
            new_flows_total: counters.new_flows,
            answers_total: counters.answers,
        }
    }

    fn live_change(&self, service: &ServiceConfig, backend: &BackendConfig) -> Option<String> {
        let changes = self.agent.state.overrides.backends.get(&service.name)?;
        let change = changes.get(&backend.key.to_string())?;
        let configured = self.agent.configured(&service.name, backend.key);
        let found =
            self.agent.effective.discovered.contains_key(&(service.name.clone(), backend.key));
        change.describe(configured, backend, if found { "its source" } else { "the config" })
    }

    fn flows(&self, service: &ServiceConfig, key: BackendKey) -> u64 {
        let id = self.ids.get(&(service.key, key));
        id.map_or(0, |id| self.agent.flows_with(*id))
    }

    fn next_hop(&self, service: &ServiceConfig, backend: &BackendConfig) -> NextHopStatus {
        let id = self.ids.get(&(service.key, backend.key));
        let record = id.and_then(|id| self.agent.actual.backends.get(id));
        let ways = self.agent.ways.borrow();
        let way = ways.get(&backend.key.address);
        let egress = match way {
            Some(Resolution::Resolved { egress, .. } | Resolution::Unresolved { egress, .. }) => {
                Some(egress.interface.clone())
            }
            _ => None,
        };
        match record {
            Some(record) if record.resolved != 0 => {
                let [a, b, c, d, e, f, ..] = record.macs;
                let mac = crate::model::MacAddress([a, b, c, d, e, f]);
                NextHopStatus { mac: Some(mac.to_string()), interface: egress, error: None }
            }
            _ => {
                let error = self.why_no_way(service, backend);
                let error = error.unwrap_or_else(|| "it is being put in force".to_owned());
                NextHopStatus { mac: None, interface: egress, error: Some(error) }
            }
        }
    }

    /// What is missing on the way to a backend; nothing, where it is known and only has to be put
    /// in force.
    fn why_no_way(&self, service: &ServiceConfig, backend: &BackendConfig) -> Option<String> {
        let id = self.ids.get(&(service.key, backend.key));
        let record = id.and_then(|id| self.agent.actual.backends.get(id));
        if record.is_some_and(|record| record.resolved != 0) {
            return None;
        }
        let forward = backend.forward.unwrap_or(service.forward);
        let tunnelled = matches!(forward, Forward::Ipip | Forward::Gue)
            || forward == Forward::Fullnat && !self.agent.has_pool(backend.key);
        match self.agent.ways.borrow().get(&backend.key.address) {
            None => Some("the kernel hasn't been asked yet".to_owned()),
            Some(Resolution::Resolved { egress, .. }) if tunnelled && egress.source.is_none() => {
                Some(format!(
                    "its packets have no source address: set {}, or give the egress interface \
                         an address",
                    source_key(forward, backend.key.address),
                ))
            }
            Some(Resolution::Resolved { .. }) => None,
            Some(way) => Some(way.to_string()),
        }
    }

    fn traffic(&self, service: &ServiceConfig) -> ServiceTraffic {
        let backends: Vec<BackendTraffic> = service
            .backends
            .iter()
            .map(|backend| {
                let counters = self.backend_counters(service, backend.key);
                BackendTraffic {
                    address: backend.key.to_string(),
                    packets_total: counters.packets,
                    bytes_total: counters.bytes,
                    new_flows_total: counters.new_flows,
                    answers_total: counters.answers,
                }
            })
            .collect();
        ServiceTraffic {
            name: service.name.clone(),
            packets_total: backends.iter().map(|backend| backend.packets_total).sum(),
            bytes_total: backends.iter().map(|backend| backend.bytes_total).sum(),
            new_flows_total: backends.iter().map(|backend| backend.new_flows_total).sum(),
            answers_total: backends.iter().map(|backend| backend.answers_total).sum(),
            backends,
        }
    }
}

/// The keys that say where a backend's packets come from.
fn source_key(forward: Forward, backend: IpAddr) -> &'static str {
    match (forward, backend) {
        (Forward::Fullnat, IpAddr::V4(_)) => "pool_ipv4 in [fullnat]",
        (Forward::Fullnat, IpAddr::V6(_)) => "pool_ipv6 in [fullnat]",
        _ => "source_ipv4 or source_ipv6",
    }
}

fn health_status(report: Report, via: Via) -> HealthStatus {
    HealthStatus {
        ok: report.healthy,
        via: via.word().to_owned(),
        since: Timestamp::try_from(report.since).unwrap_or_default(),
        reason: report.reason,
        contradicting: report.contradicting,
        needed: report.needed,
        passed_total: report.passed,
        failed_total: report.failed,
        inconclusive_total: report.inconclusive,
    }
}

fn agent_status(report: AgentReport) -> AgentStatus {
    AgentStatus {
        state: report.state.sentence(),
        said: report.said,
        said_at: report.said_at.and_then(|at| Timestamp::try_from(at).ok()),
        error: report.error,
        answered_total: report.answered,
        failed_total: report.failed,
    }
}

fn affinity_word(affinity: Affinity) -> &'static str {
    match affinity {
        Affinity::Flow => "flow",
        Affinity::Source => "source",
        Affinity::Packet => "packet",
    }
}
