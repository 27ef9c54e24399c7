//! An agent without a data path: it keeps services in memory and answers commands. Tests of both
//! ends of the API, and of the command line, talk to it over a real socket.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    time::Duration,
};

use lb_common::{layout::Affinity, verdict::DropReason};
use tempfile::TempDir;
use tokio::{
    sync::{mpsc, oneshot},
    task::JoinHandle,
};

use super::{
    Actor, AgentHandle, ApiError, BackendChange, BackendState, BackendStatus, BackendTraffic,
    Cause, Command, EventKind, EventLog, Explanation, FlowInfo, FlowList, FlowsStatus,
    FullnatStatus, HealthStatus, Histogram, HooksStatus, IcmpSent, InterfaceStatus, KilledFlows,
    Leaving, NewWeight, News, NextHopStatus, Registration, ServiceStatus, ServiceTraffic, Stats,
    Status, Step, router, serve, socket::ControlSocket,
};
use crate::{
    config::{BackendConfig, ServiceConfig, backend_from_json, service_from_json},
    model::BackendKey,
};

/// A running agent of that kind, on a socket of its own. Ends when it is dropped.
#[derive(Debug)]
pub struct TestAgent {
    directory: TempDir,
    handle: AgentHandle,
    stop: Option<oneshot::Sender<()>>,
    server: Option<JoinHandle<()>>,
}

impl TestAgent {
    /// Starts it without services. Needs a Tokio runtime.
    pub fn start() -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let (commands, mut inbox) = mpsc::channel(8);
        let handle = AgentHandle { commands, events: EventLog::default() };
        let mut memory = Memory { events: handle.events.clone(), ..Memory::default() };
        tokio::spawn(async move {
            while let Some(command) = inbox.recv().await {
                memory.obey(command);
            }
        });
        let socket = ControlSocket::bind(&socket_in(&directory)).expect("a control socket");
        let (stop, stopped) = oneshot::channel::<()>();
        let router = router(handle.clone());
        let server = tokio::spawn(serve::on_socket(socket, router, async {
            let _ = stopped.await;
        }));
        Self { directory, handle, stop: Some(stop), server: Some(server) }
    }

    /// Its control socket.
    pub fn socket(&self) -> PathBuf {
        socket_in(&self.directory)
    }

    /// Its own end of the API.
    pub fn handle(&self) -> &AgentHandle {
        &self.handle
    }

    /// Stops serving, and waits for the end.
    pub async fn stop(&mut self) {
        drop(self.stop.take());
        if let Some(server) = self.server.take() {
            server.await.expect("the server's task");
        }
    }
}

fn socket_in(directory: &TempDir) -> PathBuf {
    Path::join(directory.path(), "xlb.sock")
}

#[derive(Debug, Default)]
struct Memory {
    services: Vec<ServiceConfig>,
    draining: BTreeSet<(String, BackendKey)>,
    registered: BTreeMap<(String, BackendKey), u16>,
    events: EventLog,
}

impl Memory {
    fn obey(&mut self, command: Command) {
        // A client that is gone doesn't hear the answer.
        match command {
            Command::Status(reply) => drop(reply.send(Ok(self.status()))),
            Command::Stats(reply) => drop(reply.send(Ok(self.stats()))),
            Command::AddService { spec, by, reply } => {
                drop(reply.send(self.add_service(&spec, &by)))
            }
            Command::RemoveService { name, reply, .. } => {
                drop(reply.send(self.remove_service(&name)))
            }
            Command::AddBackend { service, spec, reply, .. } => {
                drop(reply.send(self.add_backend(&service, &spec)));
            }
            Command::SetBackend { service, backend, change, reply, .. } => {
                drop(reply.send(self.set_backend(&service, backend, change)));
            }
            Command::RemoveBackend { service, backend, reply, .. } => {
                drop(reply.send(self.remove_backend(&service, backend)));
            }
            Command::Register { service, backend, ttl, weight, reply, .. } => {
                drop(reply.send(self.register(&service, backend, ttl, weight)));
            }
            Command::Leave { service, backend, reply, .. } => {
                drop(reply.send(self.leave(&service, backend)));
            }
            Command::Flows { filter, reply } => {
                let flow = FlowInfo {
                    service: filter.service.unwrap_or_default(),
                    protocol: "tcp".to_owned(),
                    client: filter.client.unwrap_or_default(),
                    vip: "203.0.113.10:80".to_owned(),
                    source: "10.0.0.2:1024".to_owned(),
                    backend: filter.backend.unwrap_or_default(),
                    state: "open".to_owned(),
                    age_seconds: 61,
                    quiet_seconds: 1,
                };
                let flows = vec![flow; filter.limit.unwrap_or(1).min(1)];
                drop(reply.send(Ok(FlowList { flows, matching: 1 })));
            }
            Command::KillFlows { reply, .. } => drop(reply.send(Ok(KilledFlows { killed: 1 }))),
            Command::Explain { query, reply } => {
                let found = self.services.iter().find(|service| {
                    service.key.vip == query.to.ip() && service.key.port == Some(query.to.port())
                });
                let backend = found.and_then(|service| service.backends.first());
                let text = |text: &str| text.to_owned();
                drop(reply.send(Ok(Explanation {
                    verdict: text(if found.is_some() { "tx" } else { "pass" }),
                    service: found.map(|service| service.name.clone()),
                    backend: backend.map(|backend| backend.key.to_string()),
                    reason: None,
                    steps: vec![Step {
                        step: text("parse"),
                        detail: format!("from {}", query.from),
                    }],
                })));
            }
        }
    }

    fn service(&mut self, name: &str) -> Result<&mut ServiceConfig, ApiError> {
        let found = self.services.iter_mut().find(|service| service.name == name);
        found.ok_or_else(|| ApiError::no_service(name))
    }

    fn add_service(
        &mut self,
        spec: &serde_json::Value,
        by: &Actor,
    ) -> Result<ServiceStatus, ApiError> {
        let service = service_from_json(spec, &self.services)?;
        self.services.push(service.clone());
        let message = format!("service {} is added", service.name);
        let news = News::new(EventKind::ServiceAdded, Cause::Api, message);
        let news = news.about(&service.name, None).is(service.key).by(by);
        self.events.push(std::time::SystemTime::now(), news);
        Ok(self.service_status(&service))
    }

    fn remove_service(&mut self, name: &str) -> Result<(), ApiError> {
        self.service(name)?;
        self.services.retain(|service| service.name != name);
        Ok(())
    }

    fn add_backend(
        &mut self,
        service: &str,
        spec: &serde_json::Value,
    ) -> Result<BackendStatus, ApiError> {
        let service = self.service(service)?;
        let backend = backend_from_json(spec, service, &[])?;
        service.backends.push(backend.clone());
        let service = service.clone();
        Ok(self.backend_status(&service, &backend))
    }

    fn set_backend(
        &mut self,
        name: &str,
        key: BackendKey,
        change: BackendChange,
    ) -> Result<BackendStatus, ApiError> {
        let service = self.service(name)?;
        let backend = service.backends.iter_mut().find(|backend| backend.key == key);
        let backend = backend.ok_or_else(|| ApiError::no_backend(name, key))?;
        if let Some(NewWeight::Live(weight)) = change.weight {
            backend.weight = weight;
        }
        let (service, backend) =
            (service.clone(), service.backends.iter().find(|b| b.key == key).cloned());
        match change.drain {
            Some(true) => self.draining.insert((name.to_owned(), key)),
            Some(false) => self.draining.remove(&(name.to_owned(), key)),
            None => false,
        };
        Ok(self.backend_status(&service, &backend.expect("it was just found")))
    }

    fn register(
        &mut self,
        name: &str,
        key: BackendKey,
        ttl: Duration,
        weight: Option<u16>,
    ) -> Result<Registration, ApiError> {
        self.service(name)?;
        let weight = weight.unwrap_or(100);
        self.registered.insert((name.to_owned(), key), weight);
        Ok(Registration {
            service: name.to_owned(),
            address: key.to_string(),
            weight,
            ttl_seconds: ttl.as_secs_f64(),
            removed: false,
            draining: false,
        })
    }

    /// Drained at once.
    fn leave(&mut self, name: &str, key: BackendKey) -> Result<Leaving, ApiError> {
        let known = self.registered.remove(&(name.to_owned(), key));
        known.ok_or_else(|| ApiError::no_backend(name, key))?;
        let (service, address) = (name.to_owned(), key.to_string());
        Ok(Leaving { service, address, drained: true, kept: false, flows: 0 })
    }

    fn remove_backend(&mut self, name: &str, key: BackendKey) -> Result<(), ApiError> {
        let service = self.service(name)?;
        let before = service.backends.len();
        service.backends.retain(|backend| backend.key != key);
        if service.backends.len() == before {
            return Err(ApiError::no_backend(name, key));
        }
        Ok(())
    }

    fn status(&self) -> Status {
        Status {
            version: "1.2.3".to_owned(),
            pid: 4711,
            uptime_seconds: 93_784.5,
            config_file: "/etc/xlb/xlb.toml".to_owned(),
            interfaces: vec![InterfaceStatus {
                name: "eth0".to_owned(),
                ifindex: Some(2),
                xdp_mode: Some("native".to_owned()),
                attached: true,
                error: None,
            }],
            maps_bytes: 12 << 20,
            flow_capacity: 1_000_000,
            fullnat: FullnatStatus::default(),
            flows: FlowsStatus { capacity: 1_000_000, ..FlowsStatus::default() },
            hooks: HooksStatus { ok_total: 6, timed_out_total: 2, ..HooksStatus::default() },
            health_reactions: health_reactions(),
            services: self.services.iter().map(|service| self.service_status(service)).collect(),
            reloads_ok_total: 3,
            reloads_failed_total: 1,
            last_reload: None,
            warnings: Vec::new(),
        }
    }

    fn stats(&self) -> Stats {
        let services = self.services.iter().map(|service| {
            let status = self.service_status(service);
            let traffic = |backend: BackendStatus| BackendTraffic {
                address: backend.address,
                packets_total: backend.packets_total,
                bytes_total: backend.bytes_total,
                new_flows_total: backend.new_flows_total,
                answers_total: backend.answers_total,
            };
            let backends: Vec<_> = status.backends.into_iter().map(traffic).collect();
            let sum = |field: fn(&BackendTraffic) -> u64| backends.iter().map(field).sum();
            ServiceTraffic {
                name: status.name,
                packets_total: sum(|backend| backend.packets_total),
                bytes_total: sum(|backend| backend.bytes_total),
                new_flows_total: sum(|backend| backend.new_flows_total),
                answers_total: sum(|backend| backend.answers_total),
                backends,
            }
        });
        Stats {
            passes_total: 77,
            icmp_sent_total: IcmpSent { echo_reply: 4, too_big: 2 },
            drops_total: DropReason::ALL
                .iter()
                .map(|reason| {
                    (reason.name().to_owned(), u64::from(*reason == DropReason::Fragment) * 5)
                })
                .collect(),
            services: services.collect(),
        }
    }

    fn service_status(&self, service: &ServiceConfig) -> ServiceStatus {
        ServiceStatus {
            name: service.name.clone(),
            vip: service.key.destination().to_string(),
            protocol: service.key.protocol.to_string(),
            forward: service.forward.to_string(),
            ring_size: service.ring_size.unwrap_or(251),
            affinity: match service.affinity {
                Affinity::Flow => "flow",
                Affinity::Source => "source",
                Affinity::Packet => "packet",
            }
            .to_owned(),
            moving_slots: 0,
            slots_moved_total: 321,
            discovery: None,
            up: true,
            panic: false,
            backup_active: false,
            leaving: Vec::new(),
            backends: service
                .backends
                .iter()
                .map(|backend| self.backend_status(service, backend))
                .collect(),
        }
    }

    fn backend_status(&self, service: &ServiceConfig, backend: &BackendConfig) -> BackendStatus {
        let draining = self.draining.contains(&(service.name.clone(), backend.key));
        let total: f64 = service.backends.iter().map(|backend| f64::from(backend.weight)).sum();
        BackendStatus {
            address: backend.key.to_string(),
            origin: crate::model::Origin::Config,
            weight: backend.weight,
            live_weight: if draining { 0.0 } else { backend.weight.into() },
            live_change: None,
            state: if draining { BackendState::Draining } else { BackendState::Healthy },
            health: Some(HealthStatus {
                ok: Some(true),
                via: "vip".to_owned(),
                since: jiff::Timestamp::UNIX_EPOCH,
                reason: "status 200 OK".to_owned(),
                contradicting: 0,
                needed: 0,
                passed_total: 9,
                failed_total: 2,
                inconclusive_total: 1,
            }),
            load: None,
            agent: None,
            next_hop: NextHopStatus {
                mac: Some("02:00:00:00:00:11".to_owned()),
                interface: Some("eth0".to_owned()),
                error: None,
            },
            forward: backend.forward.unwrap_or(service.forward).to_string(),
            share: if total > 0.0 { f64::from(backend.weight) / total } else { 0.0 },
            flows: 12,
            fullnat_ports: None,
            drained: false,
            packets_total: 1_234_567,
            bytes_total: 987_654_321,
            new_flows_total: 4_321,
            answers_total: 0,
        }
    }
}

fn health_reactions() -> Histogram {
    let mut reactions = Histogram::default();
    for micros in [900, 3000, 4000] {
        reactions.observe(Duration::from_micros(micros));
    }
    reactions
}
