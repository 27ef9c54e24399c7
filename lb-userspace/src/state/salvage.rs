//! What is whole of a damaged state file: pure.

use std::fmt;

use serde::de::DeserializeOwned;
use serde_json::Value;
use serde_path_to_error::{Path, Segment};

/// Damaged pieces that are dropped one by one; behind them, whole parts of the file are.
const PIECES: usize = 100;

/// A piece of the file that was dropped.
#[derive(Debug)]
pub(super) struct Lost {
    path: Vec<Step>,
    why: String,
}

/// From a JSON value into one of its values.
#[derive(Clone, Debug)]
enum Step {
    Key(String),
    Index(usize),
}

/// Reads what is whole. `None` if nothing can be made of it.
pub(super) fn salvage<T: DeserializeOwned>(mut json: Value) -> Option<(T, Vec<Lost>)> {
    // Else a list may pass for an object whose keys all have defaults.
    json.as_object()?;
    let mut lost = Vec::new();
    loop {
        let error = match serde_path_to_error::deserialize(&json) {
            Ok(whole) => return Some((whole, lost)),
            Err(error) => error,
        };
        let mut path = steps(error.path());
        path.truncate(if lost.len() < PIECES { piece(&path) } else { 1 });
        // Each time there is one value less.
        remove(&mut json, &path)?;
        lost.push(Lost { path, why: error.inner().to_string() });
    }
}

fn steps(path: &Path) -> Vec<Step> {
    let step = |segment: &Segment| match segment {
        Segment::Seq { index } => Some(Step::Index(*index)),
        Segment::Map { key } => Some(Step::Key(key.clone())),
        Segment::Enum { .. } | Segment::Unknown => None,
    };
    path.iter().map_while(step).collect()
}

/// How many steps lead to the least that says something without the damaged value.
fn piece(path: &[Step]) -> usize {
    let key = |place: usize| match path.get(place) {
        Some(Step::Key(key)) => key.as_str(),
        _ => "",
    };
    match (key(0), key(1)) {
        // A service, its backend.
        ("overrides", "backends") => 4,
        // One of those that were added or removed.
        ("overrides", _) => 3,
        // A service, its rings or leaving backends, one of these; or its backends, one of these.
        ("history" | "discovered", _) => 4,
        _ => 1,
    }
}

fn remove(json: &mut Value, path: &[Step]) -> Option<()> {
    let (last, before) = path.split_last()?;
    let place = before.iter().try_fold(json, |json, step| match step {
        Step::Key(key) => json.get_mut(key),
        Step::Index(index) => json.get_mut(index),
    })?;
    match (last, place) {
        (Step::Key(key), Value::Object(entries)) => entries.remove(key).map(drop),
        (Step::Index(index), Value::Array(values)) if *index < values.len() => {
            values.remove(*index);
            Some(())
        }
        _ => None,
    }
}

impl fmt::Display for Lost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use Step::{Index, Key};
        match self.path.as_slice() {
            [Key(part)] if part == "hash_seed" => write!(f, "the hash seed")?,
            [Key(part), Key(list), Key(service), Key(backend)]
                if part == "overrides" && list == "backends" =>
            {
                write!(f, "live changes of backend {backend} of service {service:?}")?;
            }
            [Key(part), Key(list), Index(number)] if part == "overrides" => {
                write!(f, "number {} of {list}", number + 1)?;
            }
            [Key(part), ..] if part == "overrides" => write!(f, "live changes")?,
            [Key(part), Key(service), Key(list), ..] if part == "history" && list == "leaving" => {
                write!(f, "a backend that leaves {service}")?;
            }
            [Key(part), Key(service), _, Index(_)] if part == "history" => {
                write!(f, "a former ring of {service}")?;
            }
            [Key(part), Key(service), ..] if part == "history" => {
                write!(f, "former rings of {service}")?;
            }
            [Key(part), Key(service), ..] if part == "discovered" => {
                write!(f, "what a source told of service {service:?}")?;
            }
            [Key(part), ..] => write!(f, "{part}")?,
            _ => write!(f, "all")?,
        }
        write!(f, " ({})", self.why)
    }
}
