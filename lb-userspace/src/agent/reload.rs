//! The config again. What can't be put in force changes nothing.

use super::{Agent, difference, fullnat::local_ports_warning, start::now};
use crate::{
    api::{Cause, EventKind, News, Reload},
    config::{self, Config, Fullnat},
    state::{Effective, State},
};

/// What a reload replaces.
struct Former {
    config: Config,
    state: State,
    effective: Effective,
}

impl Agent {
    /// Reads the config again. One that is wrong, or that the host or the kernel refuses, changes
    /// nothing.
    pub(super) fn reload(&mut self) {
        let config = match config::load(&self.config_path) {
            Ok(config) => config,
            Err(errors) => {
                let why = errors.to_string();
                return self.reload_failed("the config is wrong, nothing was changed:\n", why);
            }
        };
        if config == self.config && self.last_reload.as_ref().is_none_or(|reload| reload.ok) {
            return;
        }
        if let Err(why) = self.put_in_force(config) {
            return self
                .reload_failed("the config can't be put in force, nothing was changed: ", why);
        }
        self.reloads_ok += 1;
        self.last_reload = Some(Reload { at: now(), ok: true, error: None });
        let told = "the config was read again";
        self.event(News::new(EventKind::Reloaded, Cause::Config, told));
    }

    fn reload_failed(&mut self, what: &str, why: String) {
        self.reloads_failed += 1;
        self.event(News::new(EventKind::ReloadFailed, Cause::Config, format!("{what}{why}")));
        self.last_reload = Some(Reload { at: now(), ok: false, error: Some(why) });
    }

    /// Does what a config says, or leaves everything as it was and says why.
    fn put_in_force(&mut self, config: Config) -> Result<(), String> {
        let mut warnings = only_at_start(&self.config, &config);
        let mut state = self.state.clone();
        state.overrides.prune(&config.services);
        let effective = state.effective(&config.services);
        warnings.extend(effective.warnings.iter().cloned());
        warnings.extend(local_ports_warning(&config, &effective.services));
        self.open_probes(&effective.services)?;
        // What can't change in a running agent stays what it is.
        let config = Config {
            hash_seed: self.config.hash_seed,
            pin_path: self.config.pin_path.clone(),
            state_file: self.config.state_file.clone(),
            flow_capacity: self.config.flow_capacity,
            fullnat: Fullnat { flow_capacity: self.config.fullnat.flow_capacity, ..config.fullnat },
            api: self.config.api.clone(),
            ..config
        };
        // First, since it is undone without a flow noticing.
        let attached = self.plane.attached().map_err(|error| error.to_string())?;
        let tolerated = self.config.interfaces.clone();
        self.attach_wanted(&config, &attached, &tolerated)?;
        let former = self.replace(Former { config, state, effective });
        if let Some(trouble) = self.trouble.clone() {
            self.replace(former);
            self.restore(&attached);
            return Err(trouble);
        }
        self.attach_since(&attached, Cause::Config);
        if self.state.overrides != former.state.overrides
            && let Err(error) = self.saving.now(&self.state, &self.config.state_file)
        {
            warnings.push(format!("live changes that the config took back may return: {error}"));
        }
        self.warnings = warnings;
        self.warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
        self.hooks.set(self.config.on_event.clone(), &self.events);
        let changes = difference::between(&former.effective.services, &self.effective.services);
        changes.into_iter().for_each(|news| self.event(news));
        Ok(())
    }

    /// Takes over what shall be, and tries to have the data plane do it. Gives what was before.
    fn replace(&mut self, new: Former) -> Former {
        let Former { config, state, effective } = new;
        let former = Former {
            config: std::mem::replace(&mut self.config, config),
            state: std::mem::replace(&mut self.state, state),
            effective: std::mem::replace(&mut self.effective, effective),
        };
        self.watch_effective();
        self.reconcile();
        former
    }
}

/// A sentence for each changed key that takes effect at the next start.
fn only_at_start(running: &Config, new: &Config) -> Vec<String> {
    let keys = [
        ("hash_seed", running.hash_seed != new.hash_seed),
        ("pin_path", running.pin_path != new.pin_path),
        ("state_file", running.state_file != new.state_file),
        ("flow_capacity", running.flow_capacity != new.flow_capacity),
        ("fullnat.flow_capacity", running.fullnat.flow_capacity != new.fullnat.flow_capacity),
        ("api", running.api != new.api),
    ];
    let changed = keys.into_iter().filter(|(_, changed)| *changed);
    changed
        .map(|(key, _)| format!("{key} was changed: it takes effect at the next start"))
        .collect()
}
