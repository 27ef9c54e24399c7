//! Commands of the control API.
//!
//! A change is kept in the state file before it takes effect; what doesn't take effect is taken
//! out of the file again.

use serde_json::Value;
use tokio::sync::mpsc;

use super::{
    Agent,
    status::{self, View},
};
use crate::{
    api::{
        Actor, ApiError, BackendChange, BackendStatus, Cause, Command, ErrorKind, EventKind,
        NewWeight, News, ServiceStatus,
    },
    config::{BackendSpec, ServiceSpec, backend_from_json, service_from_json},
    health::HealthEvent,
    model::BackendKey,
    state::{BackendOverride, State},
};

/// How often a question gives way before it is answered whatever comes.
const GIVES_WAY: u32 = 8;

/// Whether a backend is told by its address alone.
fn plain(spec: &Value) -> bool {
    spec.as_object().is_some_and(|keys| keys.keys().all(|key| key == "address"))
}

impl Agent {
    /// Does what it is told. A question whose answer takes long gives way to what checks found: it
    /// comes back, to be asked again behind that.
    pub(super) fn command(
        &mut self,
        command: Command,
        found: &mpsc::Receiver<HealthEvent>,
    ) -> Option<Command> {
        // Somebody who doesn't wait for the answer any more needs none.
        match command {
            Command::Status(reply) => {
                let may = self.gave_way < GIVES_WAY;
                match self.status(&|| may && !found.is_empty()) {
                    Ok(None) => {
                        self.gave_way += 1;
                        return Some(Command::Status(reply));
                    }
                    Ok(Some(status)) => drop(reply.send(Ok(status))),
                    Err(error) => drop(reply.send(Err(error))),
                }
                self.gave_way = 0;
            }
            Command::Stats(reply) => {
                let _ = reply.send(self.stats());
            }
            Command::AddService { spec, by, reply } => {
                let _ = reply.send(self.add_service(&spec, &by));
            }
            Command::RemoveService { name, by, reply } => {
                let _ = reply.send(self.remove_service(&name, &by));
            }
            Command::AddBackend { service, spec, by, reply } => {
                let _ = reply.send(self.add_backend(&service, &spec, &by));
            }
            Command::SetBackend { service, backend, change, by, reply } => {
                let _ = reply.send(self.set_backend(&service, backend, change, &by));
            }
            Command::RemoveBackend { service, backend, force, by, reply } => {
                let _ = reply.send(self.remove_backend(&service, backend, force, &by));
            }
            Command::Register { service, backend, ttl, weight, by, reply } => {
                let _ = reply.send(self.register(&service, backend, (ttl, weight), &by));
            }
            Command::Leave { service, backend, by, reply } => {
                let _ = reply.send(self.leave(&service, backend, &by));
            }
            Command::Flows { filter, reply } => self.list_flows(&filter, reply),
            Command::KillFlows { filter, by, reply } => self.kill_flows(&filter, &by, reply),
            Command::Explain { query, reply } => {
                let _ = reply.send(self.explain(&query));
            }
        }
        None
    }

    fn add_service(&mut self, spec: &Value, by: &Actor) -> Result<ServiceStatus, ApiError> {
        let service = service_from_json(spec, &self.effective.services)?;
        let mut state = self.state.clone();
        state.overrides.added_services.push(ServiceSpec::from(&service));
        let name = service.name;
        let news = News::new(EventKind::ServiceAdded, Cause::Api, "added").is(service.key);
        self.change(state, news.about(&name, None).by(by))?;
        self.service_status(&name)
    }

    fn remove_service(&mut self, name: &str, by: &Actor) -> Result<(), ApiError> {
        let service = self.service(name).ok_or_else(|| ApiError::no_service(name))?;
        let news = News::new(EventKind::ServiceRemoved, Cause::Api, "removed").was(service.key);
        let mut state = self.state.clone();
        let overrides = &mut state.overrides;
        overrides.added_services.retain(|service| service.name != name);
        overrides.backends.remove(name);
        if self.config.services.iter().any(|service| service.name == name) {
            overrides.removed_services.insert(name.to_owned());
        }
        self.change(state, news.about(name, None).by(by))
    }

    fn add_backend(
        &mut self,
        name: &str,
        spec: &Value,
        by: &Actor,
    ) -> Result<BackendStatus, ApiError> {
        let service = self.service(name).ok_or_else(|| ApiError::no_service(name))?;
        let backend = backend_from_json(spec, service, &self.effective.services)?;
        let mut state = self.state.clone();
        let change = state.overrides.backend(name, backend.key);
        let again = self.configured(name, backend.key).filter(|_| change.removed && plain(spec));
        let (weight, told) = match again {
            Some(configured) => {
                *change = BackendOverride::default();
                (configured.weight, "added again as it was before, with weight")
            }
            None => {
                *change = BackendOverride {
                    added: Some(BackendSpec::from(&backend)),
                    ..BackendOverride::default()
                };
                (backend.weight, "added with weight")
            }
        };
        let news = News::new(EventKind::BackendAdded, Cause::Api, format!("{told} {weight}"));
        let news = news.is(format_args!("weight {weight}"));
        self.change(state, news.about(name, backend.key).by(by))?;
        self.backend_status(name, backend.key)
    }

    fn set_backend(
        &mut self,
        name: &str,
        key: BackendKey,
        change: BackendChange,
        by: &Actor,
    ) -> Result<BackendStatus, ApiError> {
        let service = self.service(name).ok_or_else(|| ApiError::no_service(name))?;
        let backend = service.backends.iter().find(|backend| backend.key == key);
        let before = backend.ok_or_else(|| ApiError::no_backend(name, key))?.weight;
        let draining = self.is_draining(name, key);
        if change.drain == Some(false) && self.leases.get(name, key).is_some_and(|l| l.leaves) {
            let message = format!("{key} leaves by its own word");
            return Err(ApiError::new(ErrorKind::Conflict, message)
                .hint("it takes new flows again once it registers anew"));
        }
        let mut state = self.state.clone();
        let changed = state.overrides.backend(name, key);
        let mut news = News::new(EventKind::BackendChanged, Cause::Api, "");
        let mut told = Vec::new();
        let former = changed.weight;
        match change.weight {
            Some(NewWeight::Live(weight)) => changed.weight = Some(weight),
            Some(NewWeight::Configured) => changed.weight = None,
            None => {}
        }
        // What is so already is no event.
        let reweighed = changed.weight != former;
        if reweighed {
            let effective = state.effective(&self.config.services);
            let service = effective.services.iter().find(|service| service.name == name);
            let backend = service.and_then(|s| s.backends.iter().find(|b| b.key == key));
            let weight = backend.map_or(before, |backend| backend.weight);
            news = news.became(format_args!("weight {before}"), format_args!("weight {weight}"));
            told.push(format!("weight {before} became {weight}"));
        }
        let changed = state.overrides.backend(name, key);
        if let Some(drain) = change.drain.filter(|drain| *drain != draining) {
            changed.drain = drain;
            if drain {
                news.kind = EventKind::BackendDraining;
                news = news.became("serving", "draining");
                told.push("it takes no new flows".to_owned());
            } else {
                news.kind = EventKind::BackendUndrained;
                news = news.became("draining", "serving");
                told.push("it takes new flows again".to_owned());
            }
        }
        if told.is_empty() {
            return self.backend_status(name, key);
        }
        news.message = told.join(", ");
        self.change(state, news.about(name, key).by(by))?;
        self.backend_status(name, key)
    }

    /// Its open flows end by themselves, unless they are given up.
    fn remove_backend(
        &mut self,
        name: &str,
        key: BackendKey,
        force: bool,
        by: &Actor,
    ) -> Result<(), ApiError> {
        let service = self.service(name).ok_or_else(|| ApiError::no_service(name))?;
        let service_key = service.key;
        let mut leaving = self.flows.leaving.get(name).into_iter().flatten();
        let leaves = leaving.any(|backend| backend.key == key);
        let serves = service.backends.iter().find(|backend| backend.key == key);
        let weight = serves.map(|backend| backend.weight);
        if !(serves.is_some() || force && leaves) {
            return Err(ApiError::no_backend(name, key));
        }
        let in_config = self.configured(name, key).is_some();
        let mut state = self.state.clone();
        *state.overrides.backend(name, key) =
            BackendOverride { removed: in_config, ..BackendOverride::default() };
        let told = if force {
            state.history.forget(service_key, key);
            "removed, with its flows"
        } else {
            "removed; its open flows go on"
        };
        let news = News::new(EventKind::BackendRemoved, Cause::Api, told).about(name, key).by(by);
        let news = match weight {
            Some(weight) => news.was(format_args!("weight {weight}")),
            None => news.was("leaving"),
        };
        self.change(state, news)
    }

    /// Puts a changed state in force, or leaves everything as it was.
    fn change(&mut self, mut state: State, news: News) -> Result<(), ApiError> {
        state.overrides.prune(&self.config.services);
        let effective = state.effective(&self.config.services);
        self.open_probes(&effective.services).map_err(|why| {
            ApiError::new(ErrorKind::Failed, format!("nothing was changed: {why}"))
        })?;
        self.saving.now(&state, &self.config.state_file).map_err(|error| {
            ApiError::new(ErrorKind::Failed, format!("nothing was changed: {error}"))
        })?;
        let former = std::mem::replace(&mut self.state, state);
        self.take_effect();
        if let Some(trouble) = self.trouble.clone() {
            self.state = former;
            if let Err(error) = self.saving.now(&self.state, &self.config.state_file) {
                tracing::error!("{error}");
            }
            self.take_effect();
            let message = format!("nothing was changed: {trouble}");
            return Err(ApiError::new(ErrorKind::Failed, message));
        }
        self.event(news);
        Ok(())
    }

    pub(super) fn take_effect(&mut self) {
        self.effective = self.state.effective(&self.config.services);
        self.watch_effective();
        if !self.settling {
            self.reconcile();
        }
    }

    fn service_status(&self, name: &str) -> Result<ServiceStatus, ApiError> {
        let service = self.service(name).ok_or_else(|| ApiError::no_service(name))?;
        let counters = self.plane.counters().map_err(status::failed)?;
        let view = View::new(self, &counters);
        Ok(view.service(service, &|| false).expect("it gives way to nobody"))
    }

    fn backend_status(&self, name: &str, key: BackendKey) -> Result<BackendStatus, ApiError> {
        let service = self.service_status(name)?;
        let address = key.to_string();
        let mut backends = service.backends.into_iter();
        backends
            .find(|backend| backend.address == address)
            .ok_or_else(|| ApiError::no_backend(name, key))
    }
}
