//! Backends that are found: what sources tell joins the services, or stays out by name.

use std::time::{Duration, Instant, SystemTime};

use super::{
    Agent,
    difference::{self, Words},
};
use crate::{
    api::{Actor, ApiError, Cause, ErrorKind, EventKind, Leaving, News, Registration},
    config::{DiscoverySource, Refused, ServiceConfig},
    discovery::{Ended, FOUND_MAX, Findings, LeaseChange, Outcome, SourceSpec, judge},
    model::{BackendKey, Origin},
    state::{Found, origin},
};

/// Refused backends that an event tells by name.
const REFUSED_SHOWN: usize = 5;

impl Agent {
    /// Follows the sources of the services as they are now.
    pub(super) fn follow_sources(&mut self) {
        let source = |service: &ServiceConfig| {
            Some(SourceSpec {
                service: service.name.clone(),
                config: service.discovery.clone()?,
                vip: service.key.vip,
                forward: service.forward,
            })
        };
        let services = &self.effective.services;
        let specs: Vec<_> = services.iter().filter_map(source).collect();
        let known = &mut self.state.discovered;
        known.retain(services);
        let registers = |name: &str| {
            let service = services.iter().find(|service| service.name == name);
            service.and_then(origin) == Some(Origin::Registered)
        };
        self.leases.retain(registers);
        for spec in &specs {
            if let DiscoverySource::Register { weight } = spec.config.source
                && self.leases.count(&spec.service) == 0
            {
                let told = known.told(&spec.service, Origin::Registered);
                self.leases.take_over(&spec.service, told, weight, Instant::now());
            }
        }
        self.discovery.set(specs, |spec| {
            let service = services.iter().find(|service| service.name == spec.service);
            let origin = service.and_then(origin);
            origin.map_or_else(Vec::new, |origin| known.told(&spec.service, origin).to_vec())
        });
    }

    /// From now on backends can renew their leases: none ends for the time before.
    pub(super) fn begin_leases(&mut self) {
        let now = Instant::now();
        for service in &self.effective.services {
            if let Some(discovery) = &service.discovery
                && let DiscoverySource::Register { weight } = discovery.source
            {
                let told = self.state.discovered.told(&service.name, Origin::Registered);
                self.leases.take_over(&service.name, told, weight, now);
            }
        }
    }

    /// A source was asked.
    pub(super) fn found(&mut self, findings: Findings) {
        let Some((spec, report)) = self.discovery.source_of(&findings) else { return };
        let name = spec.service.clone();
        let service = self.effective.services.iter().find(|service| service.name == name);
        let Some((service, origin)) = service.and_then(|s| Some((s, origin(s)?))) else { return };
        let kept = self.state.discovered.told(&service.name, origin).len();
        let (outcome, trouble) = judge(&findings, spec.config.allow_empty, kept);
        report.next = findings.next;
        let troubled = report.trouble.is_some();
        let source = report.source.clone();
        let trouble = match outcome {
            Outcome::Taken(backends) => {
                let words = Words {
                    cause: Cause::Discovery,
                    by: Actor::default(),
                    came: format!("{}, {source}: it is there now", origin.word()),
                    went: format!("{}, {source}: it is there no more", origin.word()),
                };
                let count = backends.len();
                match self.tell(&name, origin, backends, &words) {
                    Ok(()) => {
                        self.note_report(&name, |r| {
                            r.took(count, SystemTime::now(), trouble.clone())
                        });
                        trouble
                    }
                    Err(why) => {
                        let why = format!("what it tells can't be put in force: {why}");
                        self.note_report(&name, |report| report.refused(why.clone()));
                        Some(why)
                    }
                }
            }
            Outcome::Kept => {
                let why = trouble.unwrap_or_default();
                report.refused(why.clone());
                Some(why)
            }
        };
        // That it goes on failing is no event; `xlb service show` has the latest reason.
        match trouble {
            Some(why) if !troubled => {
                self.source_event(EventKind::DiscoveryFailed, &name, format!("{source}: {why}"));
            }
            None if troubled => {
                let message = format!("{source}: it answers again");
                self.source_event(EventKind::DiscoveryRecovered, &name, message);
            }
            _ => {}
        }
    }

    fn source_event(&self, kind: EventKind, service: &str, message: String) {
        self.event(News::new(kind, Cause::Discovery, message).about(service, None));
    }

    fn note_report(&mut self, service: &str, note: impl FnOnce(&mut crate::discovery::Report)) {
        if let Some((_, report)) = self.discovery.source(service) {
            note(report);
        }
    }

    /// Puts in force what a source tells, or leaves everything as it was.
    fn tell(
        &mut self,
        name: &str,
        origin: Origin,
        backends: Vec<Found>,
        words: &Words,
    ) -> Result<(), String> {
        let before = self.state.discovered.clone();
        if !self.state.discovered.set(name, origin, backends) {
            return Ok(());
        }
        if let Some(why) = self.takes_last_out(name, before.told(name, origin)) {
            self.state.discovered = before;
            return Err(why);
        }
        let former = self.effective.clone();
        let sound = self.trouble.is_none();
        self.take_effect();
        if let Some(trouble) = self.trouble.clone().filter(|_| sound) {
            self.state.discovered = before;
            self.take_effect();
            return Err(trouble);
        }
        // Behind everything that packets wait for.
        self.saving.note(true);
        let of = |services: &[ServiceConfig]| services.iter().find(|s| s.name == name).cloned();
        let (before, after) = (of(&former.services), of(&self.effective.services));
        if let (Some(before), Some(after)) = (before, after) {
            let changes = difference::backends(&before, &after, words);
            changes.into_iter().for_each(|news| self.event(news));
        }
        let refused = |refused: Option<&Vec<Refused>>| refused.cloned().unwrap_or_default();
        let now = refused(self.effective.refused.get(name));
        if !now.is_empty() && now != refused(former.refused.get(name)) {
            self.source_event(EventKind::DiscoveryFailed, name, told_refused(&now));
        }
        Ok(())
    }

    /// Why what a source tells now, in place of `before`, is as good as nothing: none of it can be
    /// taken. A resolver that answers 0.0.0.0 for every name is one that fails.
    fn takes_last_out(&self, name: &str, before: &[Found]) -> Option<String> {
        let service = self.service(name)?;
        let told = self.state.discovered.told(name, origin(service)?);
        let allowed = service.discovery.as_ref().is_some_and(|discovery| discovery.allow_empty);
        if allowed || told.is_empty() || !self.effective.has_any(name, before) {
            return None;
        }
        let effective = self.state.effective(&self.config.services);
        if effective.has_any(name, told) {
            return None;
        }
        let refused = effective.refused.get(name).map_or(&[][..], Vec::as_slice);
        Some(format!("{} (allow_empty is false)", told_refused(refused)))
    }

    /// Gives a backend a lease, or renews it.
    pub(super) fn register(
        &mut self,
        name: &str,
        key: BackendKey,
        (ttl, weight): (Duration, Option<u16>),
        by: &Actor,
    ) -> Result<Registration, ApiError> {
        let default = self.takes_registrations(name)?;
        let weight = weight.unwrap_or(default);
        let conflict = |message| ApiError::new(ErrorKind::Conflict, message);
        let known = self.leases.get(name, key).is_some();
        if !known {
            if self.service(name).is_some_and(|s| s.backends.iter().any(|b| b.key == key)) {
                let message = format!("{key} is a backend of {name:?} without any registration");
                return Err(conflict(message).hint("take it out of the config, or don't register"));
            }
            if self.leases.count(name) >= FOUND_MAX {
                let message = format!("{name:?} has {FOUND_MAX} registrations, which is the most");
                return Err(conflict(message));
            }
        }
        let left = self.leases.get(name, key).is_some_and(|lease| lease.leaves);
        let change = self.leases.register(name, key, (ttl, weight), Instant::now());
        if change != LeaseChange::Renewed {
            self.tell_leases(name, by, "its lease ended").map_err(|why| {
                self.leases.remove(name, key);
                ApiError::new(ErrorKind::Failed, format!("{key} can't take part: {why}"))
            })?;
        }
        if left && !self.is_draining(name, key) {
            let news =
                News::new(EventKind::BackendUndrained, Cause::Discovery, "it registers anew");
            self.event(news.about(name, key).became("draining", "serving").by(by));
        }
        let refused = self.effective.refused.get(name).into_iter().flatten();
        let address = key.to_string();
        if let Some(why) = refused.clone().find(|r| r.address == address).map(|r| r.why.clone()) {
            self.leases.remove(name, key);
            let _ = self.tell_leases(name, by, "it was refused");
            return Err(ApiError::new(ErrorKind::Invalid, format!("{address}: {why}")));
        }
        self.note_report(name, |report| {
            report.last_success = Some(SystemTime::now());
            report.succeeded += 1;
            report.trouble = None;
        });
        let service = self.service(name).ok_or_else(|| ApiError::no_service(name))?;
        let backend = service.backends.iter().find(|backend| backend.key == key);
        Ok(Registration {
            service: name.to_owned(),
            address,
            weight: backend.map_or(weight, |backend| backend.weight),
            ttl_seconds: ttl.as_secs_f64(),
            removed: backend.is_none(),
            draining: self.is_draining(name, key),
        })
    }

    /// A registered backend leaves: it takes no new flows. Asked again, tells how far it is; once
    /// it is done, its lease is over.
    pub(super) fn leave(
        &mut self,
        name: &str,
        key: BackendKey,
        by: &Actor,
    ) -> Result<Leaving, ApiError> {
        self.takes_registrations(name)?;
        let Some(before) = self.leases.get(name, key) else {
            let message = format!("{key} has no registration for {name:?}");
            return Err(ApiError::new(ErrorKind::NotFound, message));
        };
        let answer = |drained, kept, flows| Leaving {
            service: name.to_owned(),
            address: key.to_string(),
            drained,
            kept,
            flows,
        };
        if !before.leaves && !self.others_serve(name, key) {
            return Ok(answer(false, true, 0));
        }
        self.leases.leave(name, key, Instant::now());
        if !before.leaves {
            let told = self.tell_leases(name, by, "it has left");
            if let Err(why) = told {
                self.leases.register(name, key, (before.ttl, before.weight), Instant::now());
                let message = format!("{key} can't leave: {why}");
                return Err(ApiError::new(ErrorKind::Failed, message));
            }
            let message = "it said that it leaves: it takes no new flows";
            let news = News::new(EventKind::BackendDraining, Cause::Discovery, message);
            self.event(news.became("serving", "draining").about(name, key).by(by));
        }
        let service = self.service(name).ok_or_else(|| ApiError::no_service(name))?.key;
        let busy = self.busy();
        let id = self.backend_id(service, key);
        let drained = self.is_drained(service, key) || id.is_none_or(|id| !busy.contains(&id));
        let flows = id.map_or(0, |id| self.flows_with(id));
        if drained {
            self.leases.remove(name, key);
            let _ = self.tell_leases(name, by, "it has left, with no flow open");
        }
        Ok(answer(drained, false, flows))
    }

    /// Leases are over.
    pub(super) fn leases_over(&mut self) {
        let spared = |name: &str| {
            let service = self.effective.services.iter().find(|service| service.name == name);
            let empty = |service: &ServiceConfig| {
                service.discovery.as_ref().is_some_and(|discovery| discovery.allow_empty)
            };
            service.is_none_or(empty) || self.has_others(name)
        };
        let spared: Vec<_> = self
            .effective
            .services
            .iter()
            .map(|s| &s.name)
            .filter(|name| spared(name))
            .cloned()
            .collect();
        let ended = self.leases.end(Instant::now(), |name| spared.iter().any(|s| s == name));
        for Ended { service, out, stay } in ended {
            if !out.is_empty()
                && let Err(why) = self.tell_leases(&service, &Actor::default(), "its lease ended")
            {
                tracing::error!("leases of {service} ended, and their backends stay: {why}");
            }
            if stay.is_empty() {
                continue;
            }
            let names: Vec<_> = stay.iter().map(ToString::to_string).collect();
            let why = format!(
                "the lease of {} ended; it stays until another backend registers, for there is \
                 nobody else (allow_empty is false)",
                names.join(", ")
            );
            self.note_report(&service, |report| report.refused(why.clone()));
            self.source_event(EventKind::DiscoveryFailed, &service, why);
        }
    }

    /// Puts the leases of a service in force.
    fn tell_leases(&mut self, name: &str, by: &Actor, went: &str) -> Result<(), String> {
        let found = self.leases.found(name);
        let count = found.len();
        let words = Words {
            cause: Cause::Discovery,
            by: by.clone(),
            came: "it registered itself".to_owned(),
            went: went.to_owned(),
        };
        self.tell(name, Origin::Registered, found, &words)?;
        self.note_report(name, |report| report.found = count);
        Ok(())
    }

    /// Whether the service would be without a backend if this one left, where it may not be.
    fn others_serve(&self, name: &str, key: BackendKey) -> bool {
        let allowed = self.service(name).and_then(|service| service.discovery.as_ref());
        allowed.is_some_and(|discovery| discovery.allow_empty)
            || self.leases.others_serve(name, key)
            || self.has_others(name)
    }

    /// Whether a service has backends that aren't registered.
    fn has_others(&self, name: &str) -> bool {
        let mut backends = self.service(name).into_iter().flat_map(|service| &service.backends);
        backends.any(|backend| {
            self.effective.origin(name, backend.key) != Origin::Registered && backend.weight > 0
        })
    }

    /// The weight of a backend that names none, if the service takes registrations.
    fn takes_registrations(&self, name: &str) -> Result<u16, ApiError> {
        let service = self.service(name).ok_or_else(|| {
            ApiError::new(ErrorKind::NotFound, format!("there is no service {name:?}"))
        })?;
        match service.discovery.as_ref().map(|discovery| &discovery.source) {
            Some(DiscoverySource::Register { weight }) => Ok(*weight),
            _ => Err(ApiError::new(
                ErrorKind::Conflict,
                format!("service {name:?} takes no registrations"),
            )
            .hint("its [service.discovery] needs type = \"register\"")),
        }
    }
}

fn told_refused(refused: &[Refused]) -> String {
    let shown = refused.iter().take(REFUSED_SHOWN);
    let mut text: Vec<_> = shown.map(|r| format!("{}: {}", r.address, r.why)).collect();
    if refused.len() > REFUSED_SHOWN {
        text.push(format!("and {} more", refused.len() - REFUSED_SHOWN));
    }
    format!("found and not taken: {}", text.join("; "))
}
