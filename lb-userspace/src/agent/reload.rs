//! The config again: on SIGHUP, or when its file changed.

use super::{Agent, start::now};
use crate::{
    api::{EventKind, Reload},
    config::{self, Config},
};

impl Agent {
    /// Reads the config again. A wrong one changes nothing.
    pub(super) fn reload(&mut self) {
        let config = match config::load(&self.config_path) {
            Ok(config) => config,
            Err(errors) => {
                self.reloads_failed += 1;
                let message = errors.to_string();
                self.last_reload =
                    Some(Reload { at: now(), ok: false, error: Some(message.clone()) });
                let message = format!("the config is wrong, nothing was changed:\n{message}");
                self.event(EventKind::ReloadFailed, None, message);
                return;
            }
        };
        if config == self.config && self.last_reload.as_ref().is_none_or(|reload| reload.ok) {
            return;
        }
        self.warnings = only_at_start(&self.config, &config);
        self.state.overrides.prune(&config.services);
        self.effective = self.state.overrides.on_top_of(&config.services);
        self.warnings.extend(self.effective.warnings.iter().cloned());
        self.warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
        // What can't change in a running agent stays what it is.
        self.config = Config {
            hash_seed: self.config.hash_seed,
            pin_path: self.config.pin_path.clone(),
            state_file: self.config.state_file.clone(),
            flow_capacity: self.config.flow_capacity,
            api: self.config.api.clone(),
            ..config
        };
        self.watch_effective();
        self.reconcile();
        self.attach_all();
        self.reloads_ok += 1;
        self.last_reload = Some(Reload { at: now(), ok: true, error: None });
        self.event(EventKind::Reloaded, None, "the config was read again".to_owned());
    }
}

/// A sentence for each changed key that takes effect at the next start.
fn only_at_start(running: &Config, new: &Config) -> Vec<String> {
    let keys = [
        ("hash_seed", running.hash_seed != new.hash_seed),
        ("pin_path", running.pin_path != new.pin_path),
        ("state_file", running.state_file != new.state_file),
        ("flow_capacity", running.flow_capacity != new.flow_capacity),
        ("api", running.api != new.api),
    ];
    let changed = keys.into_iter().filter(|(_, changed)| *changed);
    changed
        .map(|(key, _)| format!("{key} was changed: it takes effect at the next start"))
        .collect()
}
