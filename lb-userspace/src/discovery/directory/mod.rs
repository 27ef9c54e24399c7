//! A source in files: each `*.toml` or `*.json` of a directory lists backends.
//!
//! A file that is wrong keeps what it last said, and the others are followed. Files are best put
//! in place by renaming; one that is written in place is read again once it is whole.

mod look;
mod watch;

use std::{collections::BTreeMap, net::IpAddr, path::PathBuf};

use super::{Answer, FOUND_MAX, Teller};
use crate::{model::Forward, state::Found};
use watch::DirectoryWatch;

/// What of a service its backends must agree with.
#[derive(Clone, Copy, Debug)]
pub(super) struct Service {
    pub(super) vip: IpAddr,
    pub(super) forward: Forward,
}

/// Looks until it is aborted or nobody listens any more.
pub(super) async fn run(path: PathBuf, service: Service, last: Vec<Found>, teller: Teller) {
    let mut files = by_file(last);
    let mut told = None;
    let mut watch = DirectoryWatch::new(&path);
    loop {
        let (directory, before) = (path.clone(), files.clone());
        // Reading files may wait for a disk, or a network.
        let looked =
            tokio::task::spawn_blocking(move || look::look(&directory, service, &before)).await;
        let result = match looked {
            Ok(Ok(look)) => {
                files = look.files;
                Ok(answer(&files, look.trouble))
            }
            Ok(Err(why)) => Err(why),
            Err(error) => Err(format!("the look at {} failed: {error}", path.display())),
        };
        if told.as_ref() != Some(&result) {
            if !teller.tell(result.clone(), None).await {
                return;
            }
            told = Some(result);
        }
        watch.changed().await;
    }
}

/// What each file last said, by its name.
type Files = BTreeMap<String, Vec<Found>>;

fn by_file(found: Vec<Found>) -> Files {
    let mut files = Files::new();
    for found in found {
        if let Some(file) = found.part.clone() {
            files.entry(file).or_default().push(found);
        }
    }
    files
}

/// By the files' names, as far as there is room.
fn answer(files: &Files, mut trouble: Vec<String>) -> Answer {
    let all: usize = files.values().map(Vec::len).sum();
    if all > FOUND_MAX {
        trouble.push(format!("{all} backends; only the first {FOUND_MAX} are taken"));
    }
    Answer {
        backends: files.values().flatten().take(FOUND_MAX).cloned().collect(),
        trouble: (!trouble.is_empty()).then(|| trouble.join("\n")),
    }
}
