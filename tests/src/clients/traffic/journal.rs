//! What happened to every flow.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use anyhow::{Result, ensure};

use super::Cause;
use super::deaths::Deaths;

/// Sorts of flows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// A long TCP connection.
    Connection,
    /// A short TCP connection, one of a stream of new ones.
    Newcomer,
    /// A TCP connection with a large transfer.
    Bulk,
    /// A UDP flow.
    Session,
}

/// A flow that broke.
#[derive(Clone, Debug)]
pub struct Break {
    /// What sort of flow it was.
    pub kind: Kind,
    /// Who answered it, if anybody ever did.
    pub server: Option<String>,
    /// When it began.
    pub began: Instant,
    /// When it was answered last.
    pub answered: Option<Instant>,
    /// When it broke.
    pub at: Instant,
    /// Why.
    pub cause: Cause,
}

/// A point in the journal, to count from.
#[derive(Clone, Debug)]
pub struct Mark {
    at: Instant,
    breaks: usize,
    bulk_bytes: u64,
    began: BTreeMap<Kind, u64>,
}

impl Mark {
    /// When it was set.
    pub fn at(&self) -> Instant {
        self.at
    }
}

/// What happened since a mark.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    /// Flows that began, by sort.
    pub began: BTreeMap<Kind, u64>,
    /// Bytes that the bulk transfer got back.
    pub bulk_bytes: u64,
    /// Flows that broke without a death to explain it.
    pub broken: Vec<Break>,
    /// Flows that broke because the server that they lived on was dead.
    pub on_dead: usize,
}

/// What all flows write into. Shared by all threads of the traffic.
#[derive(Debug, Default)]
pub struct Journal(Mutex<Inner>);

#[derive(Debug, Default)]
struct Inner {
    next: u64,
    live: BTreeMap<u64, Life>,
    breaks: Vec<Break>,
    began: BTreeMap<Kind, u64>,
    bulk_bytes: u64,
    left: BTreeSet<String>,
}

#[derive(Debug)]
struct Life {
    kind: Kind,
    server: Option<String>,
    began: Instant,
    answered: Option<Instant>,
}

impl Journal {
    /// A flow begins now.
    pub fn begin(self: &Arc<Self>, kind: Kind) -> Flow {
        let mut inner = self.lock();
        let number = inner.next;
        inner.next += 1;
        *inner.began.entry(kind).or_default() += 1;
        let life = Life { kind, server: None, began: Instant::now(), answered: None };
        inner.live.insert(number, life);
        Flow { journal: Arc::clone(self), number }
    }

    /// To count from here.
    pub fn mark(&self) -> Mark {
        let inner = self.lock();
        Mark {
            at: Instant::now(),
            breaks: inner.breaks.len(),
            bulk_bytes: inner.bulk_bytes,
            began: inner.began.clone(),
        }
    }

    /// What happened since.
    pub fn tally(&self, mark: &Mark, deaths: &Deaths) -> Tally {
        let inner = self.lock();
        let (on_dead, broken): (Vec<_>, Vec<_>) =
            inner.breaks[mark.breaks..].iter().cloned().partition(|broken| deaths.explain(broken));
        let began = inner.began.iter().map(|(kind, count)| {
            (*kind, count - mark.began.get(kind).copied().unwrap_or_default())
        });
        Tally {
            began: began.collect(),
            bulk_bytes: inner.bulk_bytes - mark.bulk_bytes,
            broken,
            on_dead: on_dead.len(),
        }
    }

    /// How many flows of a sort live and were answered.
    pub fn answered(&self, kind: Kind) -> usize {
        let inner = self.lock();
        inner.live.values().filter(|life| life.kind == kind && life.answered.is_some()).count()
    }

    /// # Errors
    /// A long flow that lives has had no answer after `since`.
    pub fn all_answered_since(&self, since: Instant) -> Result<()> {
        let inner = self.lock();
        let late = inner.live.values().filter(|life| life.kind != Kind::Newcomer);
        let late = late.filter(|life| life.answered.is_none_or(|answered| answered <= since));
        let count = late.clone().count();
        ensure!(count == 0, "{count} flows had none, such as {:?}", late.clone().next());
        Ok(())
    }

    /// How many flows a server has.
    pub fn living_on(&self, server: &str) -> usize {
        self.lock().live.values().filter(|life| life.server.as_deref() == Some(server)).count()
    }

    /// TCP connections that live on a server and began after `since`.
    pub fn began_on(&self, server: &str, since: Instant) -> usize {
        let inner = self.lock();
        let there = inner.live.values().filter(|life| life.server.as_deref() == Some(server));
        there.filter(|life| life.kind != Kind::Session && life.began > since).count()
    }

    /// From now on, flows shall leave a server.
    pub fn set_left(&self, server: &str) {
        self.lock().left.insert(server.to_owned());
    }

    /// Every change is whole also where another holder panicked.
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A flow's place in the journal. Dropped, the flow has ended in good order.
#[derive(Debug)]
pub struct Flow {
    journal: Arc<Journal>,
    number: u64,
}

impl Flow {
    /// A server answered. Whether the flow shall go on.
    ///
    /// # Errors
    /// Another one did before.
    pub fn answered(&self, server: &str) -> Result<bool, Cause> {
        let mut inner = self.journal.lock();
        let go_on = !inner.left.contains(server);
        if let Some(life) = inner.live.get_mut(&self.number) {
            if *life.server.get_or_insert_with(|| server.to_owned()) != server {
                return Err(Cause::OtherServer(server.to_owned()));
            }
            life.answered = Some(Instant::now());
        }
        Ok(go_on)
    }

    /// Bytes of the bulk transfer came back.
    pub fn transferred(&self, bytes: usize) {
        self.journal.lock().bulk_bytes += bytes as u64;
    }

    /// It broke.
    pub fn broke(self, cause: Cause) {
        let mut inner = self.journal.lock();
        if let Some(life) = inner.live.remove(&self.number) {
            inner.breaks.push(Break {
                kind: life.kind,
                server: life.server,
                began: life.began,
                answered: life.answered,
                at: Instant::now(),
                cause,
            });
        }
    }
}

impl Drop for Flow {
    fn drop(&mut self) {
        self.journal.lock().live.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_what_began_and_broke_after_the_mark() {
        let journal = Arc::new(Journal::default());
        journal.begin(Kind::Connection).broke(Cause::Closed);
        let old = journal.begin(Kind::Connection);
        let mark = journal.mark();
        old.broke(Cause::Closed);
        let session = journal.begin(Kind::Session);
        session.answered("b1").unwrap();
        drop(journal.begin(Kind::Newcomer));
        let tally = journal.tally(&mark, &Deaths::default());
        assert_eq!(tally.began[&Kind::Connection], 0);
        assert_eq!(tally.began[&Kind::Session], 1);
        assert_eq!(tally.began[&Kind::Newcomer], 1);
        assert_eq!((tally.broken.len(), tally.on_dead), (1, 0));
        assert_eq!((journal.answered(Kind::Session), journal.living_on("b1")), (1, 1));
    }

    #[test]
    fn the_first_server_must_go_on() {
        let journal = Arc::new(Journal::default());
        let mark = journal.mark();
        let flow = journal.begin(Kind::Connection);
        assert_eq!(flow.answered("b1"), Ok(true));
        assert_eq!(flow.answered("b1"), Ok(true));
        let cause = flow.answered("b2").unwrap_err();
        assert_eq!(cause, Cause::OtherServer("b2".into()));
        flow.broke(cause);
        let tally = journal.tally(&mark, &Deaths::default());
        assert_eq!(tally.broken[0].server.as_deref(), Some("b1"));
    }

    #[test]
    fn flows_of_a_dead_server_are_counted_apart() {
        let journal = Arc::new(Journal::default());
        let mark = journal.mark();
        let [dead, well] = ["b1", "b2"].map(|server| {
            let flow = journal.begin(Kind::Connection);
            flow.answered(server).unwrap();
            flow
        });
        let mut deaths = Deaths::default();
        deaths.begin("b1", Instant::now());
        dead.broke(Cause::Closed);
        well.broke(Cause::Closed);
        let tally = journal.tally(&mark, &deaths);
        assert_eq!((tally.broken.len(), tally.on_dead), (1, 1));
        assert_eq!(tally.broken[0].server.as_deref(), Some("b2"));
    }

    #[test]
    fn flows_are_asked_to_leave_and_missed_answers_are_seen() {
        let journal = Arc::new(Journal::default());
        let flow = journal.begin(Kind::Connection);
        flow.answered("b1").unwrap();
        let now = Instant::now();
        assert!(journal.all_answered_since(now).is_err());
        journal.set_left("b1");
        assert_eq!(flow.answered("b1"), Ok(false));
        journal.all_answered_since(now).unwrap();
        drop(flow);
        assert_eq!(journal.living_on("b1"), 0);
    }
}
