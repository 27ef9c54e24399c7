//! Which checks go through VIPs, and by which way.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
    os::unix::ffi::OsStrExt as _,
    sync::Arc,
};

use lb_common::id::ServiceId;

use super::{Agent, desired::Frames};
use crate::{
    config::{ActiveCheck, BackendConfig, HealthCheck, Probe, ServiceConfig, Via},
    health::CheckId,
    model::{Backend, Forward},
    network::{Interfaces, LinkKind, Resolution},
    objects,
    plan::backend_record,
    probe_path::{ProbePath, Target, Wanted, Way},
};

/// The way of probes through VIPs, as far as there is one.
#[derive(Debug, Default)]
pub(super) struct Probes {
    path: Option<ProbePath>,
    /// Why there is none, where one was wanted.
    refused: Option<String>,
    /// The host's interface of the way was seen among the others.
    seen: bool,
    /// There was one, and it couldn't be made anew yet.
    lost: bool,
}

impl Probes {
    /// The target of a check; `None` where its probes go to the backend's own address.
    pub(super) fn target(&self, id: CheckId) -> Option<Arc<Target>> {
        self.path.as_ref()?.target(id)
    }
}

impl Agent {
    /// Makes a way for probes if one of these services wants it.
    ///
    /// # Errors
    /// There is none, and a check names it. Those that only don't name another fall back on the
    /// backends' own addresses.
    pub(super) fn open_probes(&mut self, services: &[ServiceConfig]) -> Result<(), String> {
        if self.probes.path.is_some() || !services.iter().any(may_go_through_vip) {
            return Ok(());
        }
        let name = self.config.pin_path.as_os_str().as_bytes();
        match ProbePath::open(objects::PROBE, name) {
            Ok(path) => {
                self.probes = Probes { path: Some(path), ..Probes::default() };
                Ok(())
            }
            Err(error) => {
                let named = services.iter().find(|service| {
                    check(service).is_some_and(|check| check.via == Some(Via::Vip))
                });
                if let Some(service) = named {
                    let name = &service.name;
                    return Err(format!("service \"{name}\", health.via = \"vip\": {error}"));
                }
                let why = error.to_string();
                if self.probes.refused.as_ref() != Some(&why) {
                    tracing::warn!("probes go to the backends' own addresses, not to VIPs: {why}");
                }
                self.probes.refused = Some(why);
                Ok(())
            }
        }
    }

    /// Follows what is probed, and the ways to it.
    pub(super) fn direct_probes(&mut self) {
        let Some(mut path) = self.probes.path.take() else { return };
        let (wanted, interfaces) = {
            let ways = self.ways.borrow();
            let interfaces = self.interfaces.borrow();
            let ways = Ways {
                frames: &self.frames(),
                ways: &ways,
                interfaces: &interfaces,
                vips: &self.effective.services.iter().map(|service| service.key.vip).collect(),
            };
            let mut wanted = BTreeMap::new();
            for service in &self.effective.services {
                let Some(check) = check(service) else { continue };
                let leaving = self.flows.leaving.get(&service.name).into_iter().flatten();
                for backend in service.backends.iter().chain(leaving) {
                    if via(service, backend, check) == Via::Vip {
                        let id = (service.key, backend.key);
                        wanted.insert(id, ways.to(service, backend, check));
                    }
                }
            }
            let listening = ways.listening(wanted.values());
            (wanted, listening)
        };
        path.set(wanted, &interfaces);
        self.probes.path = Some(path);
    }

    /// Makes the way anew where somebody took its interface away, and follows addresses.
    pub(super) fn look_after_probes(&mut self) {
        let Some(path) = &self.probes.path else { return };
        let there = self.interfaces.borrow().get(path.host_ifindex()).is_some();
        if there || !self.probes.seen {
            self.probes.seen |= there;
            return self.direct_probes();
        }
        tracing::warn!("the interface of probes through VIPs was taken away; it is made anew");
        self.probes = Probes::default();
        self.reopen_probes();
    }

    /// Tries again what failed of the way.
    pub(super) fn mend_probes(&mut self) {
        if self.probes.lost {
            self.reopen_probes();
        } else if self.probes.path.as_ref().is_some_and(|path| path.warnings().next().is_some()) {
            self.direct_probes();
        }
    }

    fn reopen_probes(&mut self) {
        let before = self.probes.refused.clone();
        let services = self.effective.services.clone();
        if let Err(why) = self.open_probes(&services) {
            if before.as_ref() != Some(&why) {
                tracing::error!("{why}");
            }
            self.probes.refused = Some(why);
        }
        self.probes.lost = self.probes.refused.is_some();
        if !self.probes.lost || before.is_none() {
            self.watch_effective();
        }
    }

    /// What the operator should know of probes.
    pub(super) fn probe_warnings(&self) -> Vec<String> {
        let refused = self.probes.refused.iter().map(|why| {
            format!("probes go to the backends' own addresses, not through the VIP: {why}")
        });
        refused.chain(self.probes.path.iter().flat_map(ProbePath::warnings)).collect()
    }
}

fn check(service: &ServiceConfig) -> Option<&ActiveCheck> {
    match &service.health {
        HealthCheck::Active(check) => Some(check),
        HealthCheck::None => None,
    }
}

/// Where a backend's probes should go.
fn via(service: &ServiceConfig, backend: &BackendConfig, check: &ActiveCheck) -> Via {
    if matches!(check.probe, Probe::Exec { .. }) {
        return Via::Address;
    }
    check.via.unwrap_or_else(|| Via::usual(backend.forward.unwrap_or(service.forward)))
}

fn may_go_through_vip(service: &ServiceConfig) -> bool {
    check(service).is_some_and(|check| {
        check.via != Some(Via::Address) && !matches!(check.probe, Probe::Exec { .. })
    })
}

/// What the ways of probes follow from.
struct Ways<'a> {
    frames: &'a Frames,
    ways: &'a BTreeMap<IpAddr, Resolution>,
    interfaces: &'a Interfaces,
    /// Addresses that no probe can come from: backends have them, too.
    vips: &'a BTreeSet<IpAddr>,
}

impl Ways<'_> {
    fn to(&self, service: &ServiceConfig, backend: &BackendConfig, check: &ActiveCheck) -> Wanted {
        let vip = service.key.vip;
        let forward = backend.forward.unwrap_or(service.forward);
        Wanted {
            vip: SocketAddr::new(vip, check.port),
            timeout: check.timeout,
            hint: hint(vip, forward),
            way: self.way(vip, forward, backend),
        }
    }

    fn way(&self, vip: IpAddr, forward: Forward, backend: &BackendConfig) -> Way {
        let resolution = self.ways.get(&backend.key.address);
        let Some(mut route) = self.frames.route(backend, resolution, self.interfaces) else {
            let why = resolution.map_or_else(
                || "the kernel hasn't been asked yet".to_owned(),
                Resolution::to_string,
            );
            return Way::Missing(format!("the next hop is not known: {why}"));
        };
        if route.egress_ifindex == 0 {
            let only = self.frames.interfaces.first();
            let only = only.and_then(|name| self.interfaces.named(name));
            route.egress_ifindex = only.map_or(0, |only| only.index);
        }
        let egress = route.egress_ifindex;
        let Some(source) = self.source(vip, resolution, egress) else {
            let family = if vip.is_ipv4() { "IPv4" } else { "IPv6" };
            let name = self.interfaces.get(egress).map_or("the interface", |found| &found.name);
            return Way::Impossible(format!(
                "no probe can be sent to the VIP {vip}: neither {name} nor another of `interfaces` \
                 has an {family} address that is no VIP, which the backend could answer to; add \
                 one, or set via = \"address\""
            ));
        };
        let backend = Backend {
            key: backend.key,
            weight: backend.weight,
            live_permille: 0,
            counted: false,
            alive: true,
            forward,
            route: Some(route),
        };
        let record = backend_record(ServiceId::NONE, vip, &backend, 0, 0, None);
        if record.resolved == 0 {
            return Way::Missing(
                "the outer header has no source address: set source_ipv4 or source_ipv6, or give \
                 the egress interface an address"
                    .to_owned(),
            );
        }
        Way::Known { record: Box::new(record), source }
    }

    /// An address of this host that a backend's answer to a VIP of that family finds: the one that
    /// the kernel would send from, else one of the interface that leads there, else of those that
    /// packets come in by.
    fn source(&self, vip: IpAddr, way: Option<&Resolution>, egress: u32) -> Option<IpAddr> {
        let preferred = match way {
            Some(Resolution::Resolved { egress, .. } | Resolution::Unresolved { egress, .. }) => {
                egress.source
            }
            _ => None,
        };
        let named = self.frames.interfaces.iter().filter_map(|name| self.interfaces.named(name));
        let others = self.interfaces.get(egress).into_iter().chain(named);
        let others = others.flat_map(|interface| &interface.addresses).map(|address| address.local);
        preferred.into_iter().chain(others).find(|address| {
            let link_local = match address {
                IpAddr::V4(address) => address.is_link_local(),
                IpAddr::V6(address) => address.is_unicast_link_local(),
            };
            address.is_ipv4() == vip.is_ipv4() && !link_local && !self.vips.contains(address)
        })
    }

    /// Where answers may come in: by the interfaces that probes leave by, those that own the
    /// addresses that they come from, and those that packets come in by.
    fn listening<'w>(&self, wanted: impl Iterator<Item = &'w Wanted>) -> BTreeMap<String, u32> {
        let mut sources = BTreeSet::new();
        let mut indices = BTreeSet::new();
        for wanted in wanted {
            if let Way::Known { record, source } = &wanted.way {
                sources.insert(*source);
                indices.insert(record.egress_ifindex);
            }
        }
        let chosen = self.interfaces.iter().filter(|interface| {
            interface.kind == LinkKind::Ethernet
                && !sources.is_empty()
                && (indices.contains(&interface.index)
                    || self.frames.interfaces.contains(&interface.name)
                    || interface.addresses.iter().any(|address| sources.contains(&address.local)))
        });
        chosen.map(|interface| (interface.name.clone(), interface.index)).collect()
    }
}

/// What a person should look at where a VIP doesn't answer.
fn hint(vip: IpAddr, forward: Forward) -> String {
    let decapsulates = match forward {
        Forward::L2 | Forward::Nat | Forward::Fullnat => String::new(),
        Forward::Ipip | Forward::Gue => format!(", and decapsulate {forward}"),
    };
    format!("does the backend have {vip} on its loopback{decapsulates}?")
}
