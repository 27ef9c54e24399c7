//! Tells when a directory should be looked at again: when something in it changed, and from time
//! to time, for what the kernel doesn't tell (a network file system, a directory that is put in
//! another's place).

use std::{
    fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher as _};
use tokio::{
    sync::mpsc,
    time::{Duration, Instant, sleep_until},
};

/// Several writes make one look.
const QUIET: Duration = Duration::from_millis(50);
/// From one look without a reason to the next.
const LOOK: Duration = Duration::from_secs(5);

/// A watched directory.
pub(super) struct DirectoryWatch {
    path: PathBuf,
    watcher: Option<RecommendedWatcher>,
    changes: mpsc::Receiver<()>,
    /// Device and inode of what is watched.
    watched: Option<(u64, u64)>,
}

impl DirectoryWatch {
    /// Watches from now on: to be made before the first look.
    pub(super) fn new(path: &Path) -> Self {
        let (sender, changes) = mpsc::channel(1);
        let handler = move |event: notify::Result<notify::Event>| {
            if !matches!(event, Ok(notify::Event { kind: EventKind::Access(_), .. })) {
                // One that waits already is enough.
                let _ = sender.try_send(());
            }
        };
        let watcher = notify::recommended_watcher(handler).inspect_err(|error| {
            let path = path.display();
            tracing::warn!("{path} is looked at every {LOOK:?} only: can't watch it: {error}");
        });
        let mut watch =
            Self { path: path.to_owned(), watcher: watcher.ok(), changes, watched: None };
        watch.arm();
        watch
    }

    /// Waits for the next reason to look.
    pub(super) async fn changed(&mut self) {
        self.arm();
        let mut due = Instant::now() + LOOK;
        loop {
            tokio::select! {
                Some(()) = self.changes.recv() => due = due.min(Instant::now() + QUIET),
                () = sleep_until(due) => return self.arm(),
            }
        }
    }

    /// Watches what the path leads to now.
    fn arm(&mut self) {
        let Some(watcher) = &mut self.watcher else { return };
        let found = fs::metadata(&self.path).ok().map(|found| (found.dev(), found.ino()));
        if found == self.watched {
            return;
        }
        // Of one that is gone there is no watch any more.
        let _ = watcher.unwatch(&self.path);
        self.watched = match watcher.watch(&self.path, RecursiveMode::NonRecursive) {
            Ok(()) => found,
            // The next look tries again.
            Err(_) => None,
        };
    }
}
