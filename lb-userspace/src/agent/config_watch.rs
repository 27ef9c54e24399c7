//! Tells when the config should be read again: on SIGHUP, or when what its path leads to changed.
//!
//! Watched are all directories in which a name decides where the path leads: that of the file, and
//! that of each symbolic link on the way. Whatever moved there, what counts is the content. Where
//! the kernel tells nothing (no watch to be had, a network file system, a directory that was moved
//! away), a look every few seconds finds it.

use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::OsString,
    fs::{self, File},
    hash::{DefaultHasher, Hasher as _},
    io::Read as _,
    os::unix::fs::MetadataExt as _,
    path::{Component, Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use notify::{EventKind as FileEvent, RecommendedWatcher, RecursiveMode, Watcher as _};
use tokio::{
    signal::unix::Signal,
    sync::mpsc,
    time::{Duration, Instant, sleep_until},
};

/// An editor's several writes make one reload.
const QUIET: Duration = Duration::from_millis(50);
/// From one look without a reason to the next.
const LOOK: Duration = Duration::from_secs(5);
/// Links that a path may lead through, as in the kernel.
const LINKS_MAX: usize = 40;

/// Tells when the config should be read again.
pub(super) struct ConfigWatch {
    path: PathBuf,
    hangup: Signal,
    changes: mpsc::Receiver<()>,
    /// When to look next.
    due: Instant,
    seen: Option<u64>,
    watcher: Option<RecommendedWatcher>,
    /// What is watched, with what it was.
    directories: BTreeMap<PathBuf, (u64, u64)>,
    names: Arc<Mutex<BTreeSet<OsString>>>,
}

impl ConfigWatch {
    /// Watches from now on: to be made before the file is read.
    pub(super) fn new(path: &Path, hangup: Signal) -> Self {
        let (sender, changes) = mpsc::channel(1);
        let names = Arc::new(Mutex::new(BTreeSet::new()));
        let ours = Arc::clone(&names);
        let handler = move |event: notify::Result<notify::Event>| {
            let ours = ours.lock().unwrap_or_else(PoisonError::into_inner);
            let is_ours = |path: &PathBuf| path.file_name().is_some_and(|name| ours.contains(name));
            let matters = match event {
                Ok(event) if event.need_rescan() => true,
                Ok(event) => {
                    !matches!(event.kind, FileEvent::Access(_)) && event.paths.iter().any(is_ours)
                }
                Err(_) => true,
            };
            if matters {
                // One that waits already is enough.
                let _ = sender.try_send(());
            }
        };
        let watcher = notify::recommended_watcher(handler).inspect_err(|error| {
            let path = path.display();
            tracing::warn!("{path} is looked at every {LOOK:?} only: can't watch it: {error}");
        });
        let mut watch = Self {
            // As it is from where this process was started.
            path: std::path::absolute(path).unwrap_or_else(|_| path.to_owned()),
            hangup,
            changes,
            due: Instant::now() + LOOK,
            seen: None,
            watcher: watcher.ok(),
            directories: BTreeMap::new(),
            names,
        };
        watch.look();
        watch
    }

    /// Waits for the next reason. Whoever stops waiting loses none.
    pub(super) async fn changed(&mut self) {
        loop {
            tokio::select! {
                _ = self.hangup.recv() => {
                    self.look();
                    return;
                }
                Some(()) = self.changes.recv() => {
                    self.due = self.due.min(Instant::now() + QUIET);
                }
                () = sleep_until(self.due) => {
                    if self.look() {
                        return;
                    }
                }
            }
        }
    }

    /// Whether the content is another than at the last look.
    fn look(&mut self) -> bool {
        self.due = Instant::now() + LOOK;
        // First, so that no change falls between.
        self.arm();
        let seen = std::mem::replace(&mut self.seen, content(&self.path));
        self.seen != seen
    }

    /// Watches where the path leads now.
    fn arm(&mut self) {
        let Some(watcher) = &mut self.watcher else { return };
        let (directories, names) = places(&self.path);
        *self.names.lock().unwrap_or_else(PoisonError::into_inner) = names;
        if directories == self.directories {
            return;
        }
        for directory in self.directories.keys() {
            // Of one that is gone there is no watch any more.
            let _ = watcher.unwatch(directory);
        }
        for directory in directories.keys() {
            if let Err(error) = watcher.watch(directory, RecursiveMode::NonRecursive) {
                tracing::warn!("can't watch {}: {error}", directory.display());
            }
        }
        self.directories = directories;
    }
}

/// Stands for the file's bytes; `None` where they can't be read.
fn content(path: &Path) -> Option<u64> {
    let mut bytes = Vec::new();
    let limit = crate::config::MAX_BYTES + 1;
    File::open(path).and_then(|file| file.take(limit).read_to_end(&mut bytes)).ok()?;
    let mut hasher = DefaultHasher::new();
    hasher.write(&bytes);
    Some(hasher.finish())
}

/// The directories, with device and inode, in which a name decides where an absolute path leads,
/// and those names.
fn places(path: &Path) -> (BTreeMap<PathBuf, (u64, u64)>, BTreeSet<OsString>) {
    let (mut directories, mut names) = (BTreeMap::new(), BTreeSet::new());
    let reversed = |path: &Path| -> Vec<OsString> {
        let components = path.components().rev();
        let named = components.filter(|part| !matches!(part, Component::RootDir));
        named.map(|part| part.as_os_str().to_owned()).collect()
    };
    let mut at = PathBuf::from("/");
    let mut rest = reversed(path);
    let mut links = 0;
    while let Some(name) = rest.pop() {
        if name == ".." {
            at.pop();
            continue;
        }
        let next = at.join(&name);
        let target = fs::read_link(&next).ok().filter(|_| links < LINKS_MAX);
        let decides = target.is_some() || rest.is_empty() || !next.exists();
        if decides && let Ok(directory) = fs::metadata(&at) {
            directories.insert(at.clone(), (directory.dev(), directory.ino()));
            names.insert(name);
        }
        match target {
            Some(target) => {
                links += 1;
                if target.is_absolute() {
                    at = PathBuf::from("/");
                }
                rest.extend(reversed(&target));
            }
            None => at = next,
        }
    }
    (directories, names)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use tokio::{
        signal::unix::{SignalKind, signal},
        time::{interval, timeout},
    };

    use super::*;

    /// Less than the time after which a change is found without being told.
    const PROMPTLY: Duration = Duration::from_secs(3);

    fn watch(path: &Path) -> ConfigWatch {
        ConfigWatch::new(path, signal(SignalKind::hangup()).unwrap())
    }

    async fn told(watch: &mut ConfigWatch) {
        timeout(PROMPTLY, watch.changed()).await.expect("the change is told");
    }

    async fn quiet(watch: &mut ConfigWatch) {
        assert!(timeout(4 * QUIET, watch.changed()).await.is_err(), "nothing has changed");
    }

    /// As the agent's loop does: other events end the wait, again and again.
    #[tokio::test]
    async fn a_wait_that_is_given_up_loses_no_change() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("xlb.toml");
        fs::write(&path, "a").unwrap();
        let mut watch = watch(&path);
        fs::write(&path, "b").unwrap();
        let mut busy = interval(QUIET / 10);
        let waiting = async {
            loop {
                tokio::select! {
                    biased;
                    _ = busy.tick() => {}
                    () = watch.changed() => return,
                }
            }
        };
        timeout(PROMPTLY, waiting).await.expect("the change is told");
        quiet(&mut watch).await;
    }

    #[tokio::test]
    async fn what_is_written_before_the_first_wait_is_told() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("xlb.toml");
        fs::write(&path, "a").unwrap();
        let mut watch = watch(&path);
        fs::write(&path, "b").unwrap();
        tokio::time::sleep(2 * QUIET).await;
        told(&mut watch).await;
        fs::write(&path, "b").unwrap();
        fs::write(directory.path().join("other"), "c").unwrap();
        quiet(&mut watch).await;
        fs::remove_file(&path).unwrap();
        told(&mut watch).await;
        fs::write(&path, "b").unwrap();
        told(&mut watch).await;
    }

    /// As a Kubernetes ConfigMap is mounted: the file is a link through `..data`, which is swapped.
    #[tokio::test]
    async fn a_swapped_link_on_the_way_is_told() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().canonicalize().unwrap();
        let swap = |number: u32, content: &str| {
            let version = format!("..{number}");
            fs::create_dir(root.join(&version)).unwrap();
            fs::write(root.join(&version).join("xlb.toml"), content).unwrap();
            symlink(&version, root.join("..data_tmp")).unwrap();
            fs::rename(root.join("..data_tmp"), root.join("..data")).unwrap();
        };
        swap(1, "a");
        symlink("..data/xlb.toml", root.join("xlb.toml")).unwrap();
        fs::create_dir(root.join("etc")).unwrap();
        symlink(root.join("xlb.toml"), root.join("etc/given.toml")).unwrap();
        let mut watch = watch(&root.join("etc/given.toml"));
        for (number, content) in [(2, "b"), (3, "c")] {
            swap(number, content);
            told(&mut watch).await;
        }
        swap(4, "c");
        quiet(&mut watch).await;
        fs::write(root.join("..4/xlb.toml"), "d").unwrap();
        told(&mut watch).await;
        let elsewhere = tempfile::tempdir().unwrap();
        fs::write(elsewhere.path().join("x"), "e").unwrap();
        symlink(elsewhere.path().join("x"), root.join("etc/new")).unwrap();
        fs::rename(root.join("etc/new"), root.join("etc/given.toml")).unwrap();
        told(&mut watch).await;
        fs::write(elsewhere.path().join("x"), "f").unwrap();
        told(&mut watch).await;
    }

    #[test]
    fn links_that_lead_in_circles_end() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().canonicalize().unwrap();
        symlink("b", root.join("a")).unwrap();
        symlink("a", root.join("b")).unwrap();
        let (directories, names) = places(&root.join("x/../a"));
        assert_eq!(directories.into_keys().collect::<Vec<_>>(), [root]);
        assert!(names.contains(std::ffi::OsStr::new("b")));
        assert_eq!(content(Path::new("/nowhere/at/all")), None);
    }
}
