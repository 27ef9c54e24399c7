//! What outlives the agent: the changes made at run time, the backends that were found, the random
//! seed of the flow hash, and the rings by which flows may still live.
//!
//! One JSON file, replaced whole: a reader sees the old one or the new one, also after a crash.

mod discovered;
mod history;
mod overrides;

pub use discovered::{Discovered, Found, KeptLease, origin};
pub use history::History;
pub use overrides::{BackendOverride, Effective, Overrides};

use std::{
    fs::{self, File, OpenOptions, TryLockError},
    io::{self, Read as _, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    time::SystemTime,
};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::config::ServiceConfig;

/// The version of the file's layout. Version 1 had the rings alone in `history`.
const VERSION: u32 = 2;

/// Everything that is kept.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct State {
    /// Layout of the file.
    version: u32,
    /// The hash seed that was chosen where the config names none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hash_seed: Option<u64>,
    /// Changes made over the control API.
    #[serde(default)]
    pub overrides: Overrides,
    /// What sources of backends last told.
    #[serde(default)]
    pub discovered: Discovered,
    /// The rings of the recent past.
    #[serde(default)]
    pub history: History,
}

/// Why the state can't be read or written.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// The file system refuses.
    #[error("can't {doing} {}: {source}", path.display())]
    Io {
        /// What was tried.
        doing: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// Another process has it.
    #[error(
        "another xlb keeps its state in {}: stop it first, or give this one another `state_file`, \
         `pin_path` and `socket`", .0.display()
    )]
    Taken(PathBuf),
    /// It was written by a newer xlb.
    #[error(
        "{} has version {found}, this xlb knows {VERSION}: run the xlb that wrote it, or move the \
         file away to start without the changes made at run time", path.display()
    )]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: u32,
    },
}

/// Keeps other agents from a state file for as long as it lives.
#[derive(Debug)]
pub struct StateLock {
    _file: File,
}

impl StateLock {
    /// Takes the lock, which is a file beside the state file and stays there.
    ///
    /// # Errors
    /// [`StateError::Taken`], or the file system refuses.
    pub fn take(path: &Path) -> Result<Self, StateError> {
        make_directory(path)?;
        let lock = beside(path, ".lock");
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(false).mode(0o600);
        let locked = options.open(&lock).map_err(TryLockError::Error).and_then(|file| {
            file.try_lock()?;
            Ok(file)
        });
        match locked {
            Ok(file) => Ok(Self { _file: file }),
            Err(TryLockError::WouldBlock) => Err(StateError::Taken(path.to_owned())),
            Err(TryLockError::Error(source)) => {
                Err(StateError::Io { doing: "lock", path: lock, source })
            }
        }
    }
}

/// A path with something at its end.
fn beside(path: &Path, end: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(end);
    PathBuf::from(name)
}

/// The directory of a file, made where it is missing.
fn make_directory(path: &Path) -> Result<&Path, StateError> {
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    let directory = directory.unwrap_or_else(|| Path::new("."));
    match fs::create_dir_all(directory) {
        Ok(()) => Ok(directory),
        Err(source) => Err(StateError::Io { doing: "make", path: directory.to_owned(), source }),
    }
}

/// What was read, and what the operator should hear about it.
#[derive(Debug)]
pub struct Loaded {
    /// The state; the default where there was none.
    pub state: State,
    /// A file that couldn't be understood was kept under another name.
    pub warning: Option<String>,
}

impl State {
    /// The config's services, with what was found and what was changed on top.
    pub fn effective(&self, configured: &[ServiceConfig]) -> Effective {
        self.overrides.on_top_of(configured, &self.discovered)
    }

    /// Reads the file. A missing one is an empty state; one that can't be understood is moved
    /// aside, never overwritten.
    ///
    /// # Errors
    /// The file can't be read or moved, or is of a newer version.
    pub fn load(path: &Path) -> Result<Loaded, StateError> {
        let io_error = |doing, source| StateError::Io { doing, path: path.to_owned(), source };
        let mut text = Vec::new();
        match File::open(path) {
            Ok(mut file) => {
                file.read_to_end(&mut text).map_err(|error| io_error("read", error))?;
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Ok(Loaded { state: Self::default(), warning: None });
            }
            Err(error) => return Err(io_error("open", error)),
        }
        #[derive(Deserialize)]
        struct Version {
            version: u32,
        }
        if let Ok(Version { version }) = serde_json::from_slice(&text)
            && version > VERSION
        {
            return Err(StateError::Newer { path: path.to_owned(), found: version });
        }
        let json = serde_json::from_slice(&text).map(|mut json| {
            with_epochs(&mut json);
            json
        });
        match json.and_then(serde_json::from_value) {
            Ok(state) => Ok(Loaded { state, warning: None }),
            Err(error) => {
                let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
                let seconds = since.map_or(0, |since| since.as_secs());
                let aside = path.with_extension(format!("damaged-{seconds}"));
                fs::rename(path, &aside).map_err(|error| io_error("move aside", error))?;
                let warning = format!(
                    "the state file {} can't be understood ({error}) and was kept as {}: the \
                     changes made at run time are not in force",
                    path.display(),
                    aside.display()
                );
                Ok(Loaded { state: Self::default(), warning: Some(warning) })
            }
        }
    }

    /// Replaces the file, and makes its directory where it is missing.
    ///
    /// # Errors
    /// The file system refuses; the old file is as it was.
    pub fn save(&self, path: &Path) -> Result<(), StateError> {
        let io_error =
            |doing, path: &Path, source| StateError::Io { doing, path: path.to_owned(), source };
        let directory = make_directory(path)?;
        let new = beside(path, ".new");
        let state = Self { version: VERSION, ..self.clone() };
        let mut text = serde_json::to_vec_pretty(&state)
            .map_err(|error| io_error("write", path, error.into()))?;
        text.push(b'\n');
        let write = || {
            let mut options = OpenOptions::new();
            let mut file =
                options.write(true).create(true).truncate(true).mode(0o600).open(&new)?;
            file.write_all(&text)?;
            file.sync_all()
        };
        write().map_err(|error| io_error("write", &new, error))?;
        fs::rename(&new, path).map_err(|error| io_error("replace", path, error))?;
        let sync = File::open(directory).and_then(|directory| directory.sync_all());
        sync.map_err(|error| io_error("sync", directory, error))
    }
}

/// Makes of version 1, where a service's history was its rings, the present one.
fn with_epochs(json: &mut Value) {
    let history = json.get_mut("history").and_then(Value::as_object_mut);
    for past in history.into_iter().flat_map(|history| history.values_mut()) {
        if past.is_array() {
            *past = json!({ "epochs": past.take() });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Protocol, ServiceKey};

    fn state() -> State {
        State {
            version: VERSION,
            hash_seed: Some(u64::MAX),
            overrides: Overrides {
                removed_services: ["old".to_owned()].into(),
                ..Overrides::default()
            },
            discovered: Discovered::default(),
            history: History::default(),
        }
    }

    #[test]
    fn what_is_saved_is_loaded() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("deep/state.json");
        assert_eq!(State::load(&path).unwrap().state, State::default());
        state().save(&path).unwrap();
        let loaded = State::load(&path).unwrap();
        assert_eq!(loaded.state, state());
        assert_eq!(loaded.warning, None);
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1, "nothing is left");
    }

    #[test]
    fn a_damaged_file_is_kept() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("state.json");
        for damage in ["", "{", "[]", "{\"version\":1,\"overrides\":7}", "\u{0}\u{1}"] {
            fs::write(&path, damage).unwrap();
            let loaded = State::load(&path).unwrap();
            assert_eq!(loaded.state, State::default());
            assert!(loaded.warning.unwrap().contains("damaged-"), "{damage}");
            assert!(!path.exists());
        }
        let kept = fs::read_dir(directory.path()).unwrap().count();
        assert!(kept >= 1);
    }

    #[test]
    fn a_newer_file_is_refused_and_stays() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("state.json");
        fs::write(&path, "{\"version\":3,\"more\":true}").unwrap();
        let error = State::load(&path).unwrap_err();
        assert!(error.to_string().contains("version 3"), "{error}");
        assert!(path.exists());
    }

    #[test]
    fn a_file_of_version_1_is_understood() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("state.json");
        let key = ServiceKey {
            vip: "203.0.113.10".parse().unwrap(),
            port: Some(80),
            protocol: Protocol::Tcp,
        };
        let member = json!({ "backend": { "address": "10.0.0.1", "weight": 100 }, "live": 1000 });
        let epochs = json!([{ "since": 7, "ring_size": 251, "members": [member] }]);
        let state = json!({ "version": 1, "history": { key.to_string(): epochs } });
        fs::write(&path, state.to_string()).unwrap();
        let loaded = State::load(&path).unwrap();
        assert_eq!(loaded.warning, None);
        assert_eq!(loaded.state.history.ring_size(key), Some(251));
    }

    #[test]
    fn a_failed_save_leaves_the_old_file() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("state.json");
        state().save(&path).unwrap();
        // A directory in the way of the new file.
        fs::create_dir(directory.path().join("state.json.new")).unwrap();
        let error = State::default().save(&path).unwrap_err();
        assert!(error.to_string().contains("state.json.new"), "{error}");
        assert_eq!(State::load(&path).unwrap().state, state());
    }

    /// A new file that had the old one's name would be a file written in place.
    #[test]
    fn no_name_is_that_of_the_file_that_is_written_first() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("state.new");
        state().save(&path).unwrap();
        fs::create_dir(directory.path().join("state.new.new")).unwrap();
        State::default().save(&path).unwrap_err();
        assert_eq!(State::load(&path).unwrap().state, state());
    }

    #[test]
    fn a_state_file_has_one_agent() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("deep/state.json");
        let first = StateLock::take(&path).unwrap();
        let error = StateLock::take(&path).unwrap_err();
        assert!(matches!(&error, StateError::Taken(taken) if *taken == path), "{error}");
        StateLock::take(&directory.path().join("deep/other.json")).unwrap();
        drop(first);
        // A child that another test starts may still have it open.
        let begin = std::time::Instant::now();
        while StateLock::take(&path).is_err() {
            assert!(begin.elapsed().as_secs() < 10, "it is still locked");
        }
        assert_eq!(State::load(&path).unwrap().state, State::default());
        // No directory can be made below a file.
        let error = StateLock::take(&beside(&path, ".lock/state")).unwrap_err();
        assert!(matches!(error, StateError::Io { .. }), "{error}");
    }
}
