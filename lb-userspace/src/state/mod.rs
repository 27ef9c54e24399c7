//! What outlives the agent: the changes made at run time, the backends that were found, the random
//! seed of the flow hash, and the rings by which flows may still live.
//!
//! One JSON file, replaced whole: a reader sees the old one or the new one, also after a crash.

mod discovered;
mod history;
mod overrides;
mod salvage;

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
use salvage::{Lost, salvage};

/// The version of the file's layout. Version 1 had the rings alone in `history`.
const VERSION: u32 = 2;

/// Pieces of a damaged file that are told one by one.
const MOST_TOLD: usize = 10;

/// Everything that is kept.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct State {
    /// Layout of the file.
    #[serde(default)]
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
    /// What couldn't be understood; the file as it was is kept under another name.
    pub warning: Option<String>,
}

impl State {
    /// The config's services, with what was found and what was changed on top.
    pub fn effective(&self, configured: &[ServiceConfig]) -> Effective {
        self.overrides.on_top_of(configured, &self.discovered)
    }

    /// Reads the file. A missing one is an empty state. Of a damaged one, what is whole; it is
    /// kept under another name, never overwritten.
    ///
    /// # Errors
    /// The file can't be read or kept, or is of a newer version.
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
        let keep = |doing, keep: fn(&Path, &Path) -> io::Result<()>| {
            let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
            let seconds = since.map_or(0, |since| since.as_secs());
            let aside = path.with_extension(format!("damaged-{seconds}"));
            keep(path, &aside).map_err(|error| io_error(doing, error)).map(|()| aside)
        };
        let whole = |mut json| {
            with_epochs(&mut json);
            salvage::<Self>(json)
        };
        let json = serde_json::from_slice(&text);
        let why = json.as_ref().map_or_else(ToString::to_string, |_| "no state".to_owned());
        let Some((mut state, lost)) = json.ok().and_then(whole) else {
            let aside = keep("move aside", |path, aside| fs::rename(path, aside))?;
            let warning = format!(
                "the state file {} can't be understood ({why}) and was kept as {}: the changes \
                 made at run time are not in force",
                path.display(),
                aside.display()
            );
            return Ok(Loaded { state: Self::default(), warning: Some(warning) });
        };
        state.history.trim();
        let warning = if lost.is_empty() {
            None
        } else {
            // What is whole stays where it is, whatever happens before it is saved.
            let aside = keep("copy", |path, aside| fs::copy(path, aside).map(drop))?;
            Some(damage(path, &aside, &lost))
        };
        Ok(Loaded { state, warning })
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

/// What the operator should hear of pieces that were dropped.
fn damage(path: &Path, aside: &Path, lost: &[Lost]) -> String {
    let told: Vec<_> = lost.iter().take(MOST_TOLD).map(Lost::to_string).collect();
    let more = lost.len() - told.len();
    let more = if more > 0 { format!("; and {more} more") } else { String::new() };
    format!(
        "the state file {} is damaged and was kept as {}; lost are: {}{more}",
        path.display(),
        aside.display(),
        told.join("; ")
    )
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
        for damage in ["", "{", "[]", "7", "\u{0}\u{1}"] {
            fs::write(&path, damage).unwrap();
            let loaded = State::load(&path).unwrap();
            assert_eq!(loaded.state, State::default());
            assert!(loaded.warning.unwrap().contains("damaged-"), "{damage}");
            assert!(!path.exists());
        }
        let kept = fs::read_dir(directory.path()).unwrap().count();
        assert!(kept >= 1);
    }

    /// A file with each kind of damage loses what is damaged, and nothing else.
    #[test]
    fn what_is_whole_of_a_damaged_file_is_read() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("state.json");
        let member = |last: u8| json!({ "backend": { "address": format!("10.0.0.{last}"), "weight": 7 }, "live": 1000 });
        let epoch = |since: u32, members: &[Value]| json!({ "since": since, "ring_size": 251, "members": members });
        let key = ServiceKey {
            vip: "203.0.113.10".parse().unwrap(),
            port: Some(80),
            protocol: Protocol::Tcp,
        };
        let epochs = [epoch(1, &[member(1)]), epoch(2, &[member(1), member(2)])];
        let whole = json!({
            "version": 2,
            "hash_seed": u64::MAX,
            "overrides": {
                "added_services": [{ "name": "a", "vip": "203.0.113.1:1", "forward": "l2" }],
                "removed_services": ["old"],
                "backends": { "web": { "10.0.0.1": { "weight": 1 }, "10.0.0.2": { "drain": true } } },
            },
            "history": { key.to_string(): { "epochs": epochs, "leaving": [member(3)] } },
        });
        let load = |json: &Value| {
            fs::write(&path, json.to_string()).unwrap();
            State::load(&path).unwrap()
        };
        let all = load(&whole);
        assert_eq!(all.warning, None);
        let history = format!("/history/{key}");
        let cases = [
            ("/version".to_owned(), json!("two"), "version"),
            ("/hash_seed".to_owned(), json!(-1), "the hash seed"),
            ("/overrides/removed_services/0".to_owned(), json!(7), "1 of removed_services"),
            ("/overrides/added_services/0/vip".to_owned(), json!(7), "1 of added_services"),
            ("/overrides/backends/web/10.0.0.1/weight".to_owned(), json!(1e9), "backend 10.0.0.1"),
            ("/overrides/backends".to_owned(), json!(0), "live changes"),
            (format!("{history}/epochs/1/ring_size"), json!(u32::MAX), "a former ring of 203"),
            (format!("{history}/epochs/0/ring_size"), json!(250), "a former ring of 203"),
            (format!("{history}/epochs/0/members/0/live"), json!(1001), "a former ring of 203"),
            (format!("{history}/epochs/1/members/1/backend/weight"), json!(-1), "former ring of"),
            (format!("{history}/epochs/1/members/1"), member(1), "one of them twice"),
            (format!("{history}/leaving/0/backend/address"), json!("nobody"), "nobody is no"),
            (history.clone(), json!(7), "former rings of 203"),
        ];
        for (place, damage, told) in cases {
            let mut json = whole.clone();
            *json.pointer_mut(&place).expect(&place) = damage;
            let loaded = load(&json);
            let warning = loaded.warning.expect(&place);
            assert!(warning.contains(told) && warning.contains("damaged-"), "{place}: {warning}");
            assert!(path.exists(), "{place}");
            let [before, after] = [&all.state, &loaded.state].map(|state| {
                let epochs = state.history.former(key).len();
                let overrides = &state.overrides;
                let lists = overrides.added_services.len() + overrides.removed_services.len();
                let backends: usize = overrides.backends.values().map(|b| b.len()).sum();
                usize::from(state.hash_seed.is_some()) + epochs + lists + backends
            });
            let pieces = before - after;
            assert!(pieces <= 2, "{place}: {pieces} are lost");
        }
    }

    /// Whoever wrote it: reading ends soon, and so does what is made of it.
    #[test]
    fn a_history_without_end_is_cut() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("state.json");
        let epoch = |number: u32| {
            let backend = json!({ "address": format!("10.0.{}.{}", number / 256, number % 256) });
            let size = if number.is_multiple_of(2) { 251 } else { 252 };
            let members = json!([{ "backend": backend, "live": 1000 }]);
            json!({ "since": number, "ring_size": size, "members": members })
        };
        let epochs: Vec<_> = (0..4000).map(epoch).collect();
        let state =
            json!({ "version": 2, "hash_seed": 5, "history": { "a": { "epochs": epochs } } });
        fs::write(&path, state.to_string()).unwrap();
        let loaded = State::load(&path).unwrap();
        assert_eq!(loaded.state.hash_seed, Some(5));
        assert!(loaded.warning.unwrap().contains("and 91 more"));
        // Where nothing is wrong but the length, the first and the last ones stay.
        let text = state.to_string().replace("252", "251");
        fs::write(&path, text.replace("\"a\"", "\"203.0.113.10:80 tcp\"")).unwrap();
        let loaded = State::load(&path).unwrap();
        assert_eq!(loaded.warning, None);
        let key = ServiceKey {
            vip: "203.0.113.10".parse().unwrap(),
            port: Some(80),
            protocol: Protocol::Tcp,
        };
        assert_eq!(loaded.state.history.former(key).len(), 16);
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
