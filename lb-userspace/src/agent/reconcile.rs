//! Makes the data plane do what is desired.

use std::{collections::BTreeMap, net::IpAddr, sync::Arc, time::Instant};

use lb_common::{
    id::{BackendId, ServiceId},
    layout::{BACKEND_NUMBERS, BackendRecord},
};

use super::{
    Agent,
    desired::{Former, Frames, desired},
    start::{answers_through, forward_modes, uses_fullnat},
};
use crate::{
    api::{Cause, EventKind, News},
    config::HealthCheck,
    dataplane,
    health::CheckSpec,
    model::{BackendKey, Forward, ServiceKey},
    plan::{Actual, Capacity, Change, backend_key, plan, plan_after},
    sweep::Transition,
};

impl Agent {
    /// Follows changed services: asks for their next hops and checks their backends.
    pub(super) fn watch_effective(&mut self) {
        self.follow_sources();
        self.flows.leaving = self.state.history.all_leaving(&self.effective.services);
        self.forget_undrained();
        self.next_hops.serve_on(self.config.interfaces.iter().cloned().collect());
        self.want_next_hops();
        self.next_hops.tell_client_routes(answers_through(self.forward_modes()));
        self.direct_probes();
        let alive = self.alive();
        let mut checks = Vec::new();
        for service in &self.effective.services {
            let HealthCheck::Active(check) = &service.health else { continue };
            let name = Arc::from(service.name.as_str());
            let leaving = self.flows.leaving.get(&service.name).into_iter().flatten();
            // Of one that the last ring hadn't, nothing was known.
            let last = self.state.history.last_live(service.key);
            let was_counted = |key| last.is_empty() || last.contains_key(key);
            checks.extend(service.backends.iter().chain(leaving).map(|backend| {
                CheckSpec {
                    service: service.key,
                    backend: backend.key,
                    name: Arc::clone(&name),
                    check: Arc::clone(check),
                    via: self.probes.target((service.key, backend.key)),
                    // What a former agent left says how it was: an answer in time may change it.
                    known: alive
                        .get(&(service.key, backend.key))
                        .copied()
                        .filter(|alive| *alive || was_counted(&backend.key)),
                }
            }));
        }
        self.health.set(checks);
        self.watch_agents();
    }

    pub(super) fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        let backends = self.effective.services.iter().flat_map(|service| &service.backends);
        let leaving = self.flows.leaving.values().flatten();
        backends.chain(leaving).map(|backend| backend.key.address)
    }

    /// What all backends' frames have in common.
    pub(super) fn frames(&self) -> Frames {
        Frames {
            next_hop: self.config.next_hop,
            source_ipv4: self.config.source_ipv4,
            source_ipv6: self.config.source_ipv6,
            interfaces: self.config.interfaces.clone(),
            pools: self.config.fullnat.pools.clone(),
            icmp_echo: self.config.icmp_echo,
        }
    }

    fn forward_modes(&self) -> impl Iterator<Item = Forward> + '_ {
        forward_modes(&self.effective.services, &self.flows.leaving)
    }

    /// Whether each backend in the maps was alive when its record was written.
    fn alive(&self) -> BTreeMap<(ServiceKey, BackendKey), bool> {
        let alive = |record: &BackendRecord| {
            let service = self.actual.services.get(&ServiceId(record.service))?;
            Some(((service.entry.key, backend_key(record)), record.alive != 0))
        };
        self.actual.backends.values().filter_map(alive).collect()
    }

    pub(super) fn is_draining(&self, service: &str, backend: BackendKey) -> bool {
        self.effective.draining.contains(&(service.to_owned(), backend))
    }

    /// Plans and applies. What fails is kept as the trouble, and tried again.
    pub(super) fn reconcile(&mut self) {
        match self.try_reconcile() {
            Ok(()) => {
                if self.trouble.take().is_some() {
                    tracing::info!("the data plane does what is desired again");
                }
            }
            Err(error) => {
                self.distrust(error);
            }
        }
    }

    /// A change failed: what the maps hold must be read, and what is desired be tried again.
    pub(super) fn distrust(&mut self, error: dataplane::Error) {
        let trouble = error.to_string();
        if self.trouble.as_ref() != Some(&trouble) {
            tracing::error!("the data plane doesn't do what is desired: {trouble}");
        }
        self.trouble = Some(trouble);
        self.last_desired = None;
        // Part of a plan may be in force: look.
        match self.plane.actual() {
            Ok(actual) => {
                self.flows.transition = Transition::of(&actual, dataplane::now());
                self.actual = actual;
            }
            Err(error) => tracing::error!("the maps can't be read: {error}"),
        }
    }

    fn try_reconcile(&mut self) -> Result<(), dataplane::Error> {
        let frames = self.frames();
        // Nobody is told of this change again.
        if self.ways.has_changed().unwrap_or(false) {
            self.ways.mark_unchanged();
            self.direct_probes();
        }
        self.update_lives();
        let former = Former { rings: &self.state.history, leaving: &self.flows.leaving };
        let desired = desired(
            &self.effective.services,
            &former,
            &frames,
            &self.ways.borrow(),
            &self.interfaces.borrow(),
            |service, backend| self.live(service, backend),
            |service, backend| self.health.awaits_probe(service.key, backend),
        );
        let fullnat =
            uses_fullnat(self.forward_modes()).then_some(self.config.fullnat.flow_capacity);
        let ways = answers_through(self.forward_modes());
        if self.plane.make_room(fullnat, ways)? {
            self.listen_for_clients()?;
            self.actual = self.plane.actual()?;
        }
        let last = self.last_desired.take();
        let changes = match plan_after(last.as_ref(), &mut self.bases, &desired, &self.actual) {
            Ok(changes) => changes,
            Err(too_small) => {
                tracing::info!("{too_small}: growing");
                self.plane.grow(with_headroom(too_small.needed))?;
                self.listen_for_clients()?;
                self.actual = self.plane.actual()?;
                plan(&desired, &self.actual)
                    .map_err(|still| dataplane::Error::Inconsistent(still.to_string()))?
            }
        };
        for change in &changes {
            if let Change::SetBackend { id, record } = change {
                self.next_hop_event(*id, record);
            }
            self.make(change)?;
        }
        self.in_force_since = Instant::now();
        self.note_history(&desired);
        self.tell_services(&desired);
        self.last_desired = Some(desired);
        Ok(())
    }

    /// Tells that a backend's next hop came or went.
    fn next_hop_event(&self, id: BackendId, record: &BackendRecord) {
        let before = self.actual.backends.get(&id).map(|before| before.resolved != 0);
        let now = record.resolved != 0;
        // A new one has lost nothing: its next hop is on its way.
        if before.is_none() || before == Some(now) {
            return;
        }
        let key = backend_key(record);
        let id = ServiceId(record.service);
        let service = self.actual.services.get(&id).map(|service| service.entry.key);
        let name = self.effective.services.iter().find(|s| Some(s.key) == service);
        let Some(name) = name.map(|service| service.name.clone()) else { return };
        let news = if now {
            News::new(EventKind::NextHopResolved, Cause::Network, "its next hop is known")
                .became("unresolved", "resolved")
        } else {
            let ways = self.ways.borrow();
            let why = ways.get(&key.address).map_or_else(String::new, |way| format!(": {way}"));
            let told = format!("its next hop is not known{why}");
            News::new(EventKind::NextHopLost, Cause::Network, told).became("resolved", "unresolved")
        };
        self.event(news.about(name, key));
    }
}

/// So that the maps don't grow with every backend.
fn with_headroom(needed: Capacity) -> Capacity {
    Capacity {
        slots: needed.slots.saturating_add(needed.slots.min(1 << 20)),
        // More numbers than slots can name are of no use.
        backends: needed.backends.saturating_mul(2).min(BACKEND_NUMBERS),
        ports: needed.ports.saturating_mul(2),
    }
}

/// Slots that a backend owns, as a part of its ring's.
pub(super) fn shares(actual: &Actual, service: ServiceKey) -> (u32, BTreeMap<BackendKey, f64>) {
    let Some((id, service)) = actual.services.iter().find(|(_, s)| s.entry.key == service) else {
        return (0, BTreeMap::new());
    };
    // Numbers are small, and slots many: whoever asks for the status holds up a failed backend's.
    let most = actual.backends.keys().next_back().map_or(0, |id| id.0);
    let mut slots = vec![0_u32; most as usize + 1];
    for slot in &service.ring {
        if let Some(count) = slots.get_mut(slot.current().0 as usize) {
            *count += 1;
        }
    }
    let backends = actual.backends.iter().filter(|(_, record)| record.service == id.0);
    let share = |id: &BackendId| f64::from(slots[id.0 as usize]) / service.ring.len() as f64;
    (service.entry.ring_size, backends.map(|(id, r)| (backend_key(r), share(id))).collect())
}
