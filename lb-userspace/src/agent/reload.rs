//! The config again: on SIGHUP, or when its file changed.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use notify::{EventKind as FileEvent, RecommendedWatcher, RecursiveMode, Watcher as _};
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::mpsc,
    time::{Duration, sleep},
};

use super::{Agent, start::now};
use crate::{
    api::{EventKind, Reload},
    config::{self, Config},
};

/// An editor's several writes make one reload.
const QUIET: Duration = Duration::from_millis(50);

/// Tells when the config should be read again.
pub(super) struct ConfigWatch {
    hangup: Signal,
    changes: mpsc::Receiver<()>,
    _watcher: RecommendedWatcher,
}

impl ConfigWatch {
    /// Watches the file's directory, so that a file that is replaced whole is seen, too.
    pub(super) fn new(path: &Path) -> anyhow::Result<Self> {
        let hangup = signal(SignalKind::hangup())?;
        let path = path.canonicalize().with_context(|| format!("can't find {}", path.display()))?;
        let directory = path.parent().map_or_else(|| PathBuf::from("/"), Path::to_owned);
        let (sender, changes) = mpsc::channel(1);
        let name = path.file_name().map(ToOwned::to_owned);
        let handler = move |event: notify::Result<notify::Event>| {
            let Ok(event) = event else { return };
            let ours = event.paths.iter().any(|path| path.file_name() == name.as_deref());
            if ours && !matches!(event.kind, FileEvent::Access(_)) {
                // One that waits already is enough.
                let _ = sender.try_send(());
            }
        };
        let mut watcher = notify::recommended_watcher(handler)?;
        watcher
            .watch(&directory, RecursiveMode::NonRecursive)
            .with_context(|| format!("can't watch {}", directory.display()))?;
        Ok(Self { hangup, changes, _watcher: watcher })
    }

    /// Waits for the next reason.
    pub(super) async fn changed(&mut self) {
        tokio::select! {
            _ = self.hangup.recv() => {}
            Some(()) = self.changes.recv() => {
                sleep(QUIET).await;
                while self.changes.try_recv().is_ok() {}
            }
        }
    }
}

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
