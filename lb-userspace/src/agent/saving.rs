//! The state's file: what the operator changes is saved before it is in force, the history behind
//! everything that packets wait for.

use std::{
    path::Path,
    thread::JoinHandle,
    time::{Duration, Instant},
};

use super::Agent;
use crate::state::{State, StateError};

/// From a save that failed to the next try.
const AGAIN: Duration = Duration::from_secs(5);

/// One save at a time.
pub(super) struct Saving {
    /// The history is newer than what was last given to be saved.
    unsaved: bool,
    /// Not before then: it failed.
    again: Instant,
    /// In a thread of its own: a disk takes tens of milliseconds.
    behind: Option<JoinHandle<Result<(), StateError>>>,
}

impl Saving {
    pub(super) fn new() -> Self {
        Self { unsaved: false, again: Instant::now(), behind: None }
    }

    /// The history has something new, or not.
    pub(super) fn note(&mut self, news: bool) {
        self.unsaved |= news;
    }

    /// Saves at once, once what is being saved is.
    ///
    /// # Errors
    /// The file system refuses; the file holds what was saved before.
    pub(super) fn now(&mut self, state: &State, path: &Path) -> Result<(), StateError> {
        self.end();
        state.save(path)?;
        self.unsaved = false;
        Ok(())
    }

    /// Has what is new saved, and waits for nothing: what comes meanwhile is saved next time.
    fn behind(&mut self, state: &State, path: &Path) {
        if self.behind.as_ref().is_some_and(JoinHandle::is_finished) {
            self.end();
        }
        if self.behind.is_some() || !self.unsaved || Instant::now() < self.again {
            return;
        }
        let (copy, to) = (state.clone(), path.to_owned());
        let save = move || {
            step_back();
            copy.save(&to)
        };
        self.unsaved = false;
        match std::thread::Builder::new().name("state".into()).spawn(save) {
            Ok(behind) => self.behind = Some(behind),
            // No thread is to be had.
            Err(_) => self.took(state.save(path)),
        }
    }

    /// Waits for what is being saved.
    fn end(&mut self) {
        if let Some(behind) = self.behind.take() {
            let end = behind.join().expect("a save does not panic");
            self.took(end);
        }
    }

    fn took(&mut self, end: Result<(), StateError>) {
        if let Err(error) = end {
            self.unsaved = true;
            self.again = Instant::now() + AGAIN;
            tracing::error!("{error}; a cold start would not know the last rings");
        }
    }
}

impl Agent {
    /// Has what is new in the history saved.
    pub(super) fn save_history(&mut self) {
        self.saving.behind(&self.state, &self.config.state_file);
    }

    /// Saves what is new in the history, and waits for it: the agent ends.
    pub(super) fn save_last_history(&mut self) {
        self.saving.end();
        if self.saving.unsaved {
            let end = self.saving.now(&self.state, &self.config.state_file);
            self.saving.took(end);
        }
    }
}

/// Makes the calling thread alone less urgent than all others (setpriority(2), "C library/kernel
/// differences"): a tenth of a busy CPU is left to it.
fn step_back() {
    // SAFETY: the call takes plain numbers; where it fails, the thread runs as the others do.
    unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, 10) };
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(seed: u64) -> State {
        let mut state = State::default();
        state.hash_seed = Some(seed);
        state
    }

    fn seed(path: &Path) -> Option<u64> {
        State::load(path).unwrap().state.hash_seed
    }

    #[test]
    fn what_is_saved_at_once_stays_though_an_older_save_is_under_way() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("state.json");
        for round in 0..50 {
            let mut saving = Saving::new();
            saving.note(true);
            saving.behind(&state(2 * round), &path);
            saving.now(&state(2 * round + 1), &path).unwrap();
            assert_eq!(seed(&path), Some(2 * round + 1));
        }
    }

    #[test]
    fn news_while_a_save_is_under_way_are_saved_by_the_next() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("state.json");
        let mut saving = Saving::new();
        saving.note(true);
        saving.behind(&state(1), &path);
        saving.note(true);
        saving.end();
        assert_eq!(seed(&path), Some(1));
        assert!(saving.unsaved);
        saving.behind(&state(2), &path);
        saving.end();
        assert_eq!(seed(&path), Some(2));
        assert!(!saving.unsaved);
    }

    #[test]
    fn a_save_that_failed_is_tried_again_and_not_at_once() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("file");
        std::fs::write(&file, "").unwrap();
        let mut saving = Saving::new();
        saving.note(true);
        saving.behind(&state(1), &file.join("state.json"));
        saving.end();
        assert!(saving.unsaved);
        let path = directory.path().join("state.json");
        saving.behind(&state(1), &path);
        assert!(saving.behind.is_none());
        saving.again = Instant::now();
        saving.behind(&state(1), &path);
        saving.end();
        assert_eq!(seed(&path), Some(1));
    }
}
