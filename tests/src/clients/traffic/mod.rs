//! Traffic that goes on while a test changes things, and knows when a flow broke.
//!
//! A flow is broken if it is reset, closed by surprise, silent for longer than [`PATIENCE`], or
//! answered by another backend than the one that answered first. [`Journal`] is what all flows
//! write into; [`Traffic`] runs them.

mod connections;
mod deaths;
mod exchange;
mod journal;
mod sessions;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nix::sys::resource::{Resource, getrlimit, setrlimit};

pub use deaths::Deaths;
pub use exchange::Cause;
pub use journal::{Break, Journal, Kind, Mark, Tally};

use super::background::Background;
use crate::netns::Namespace;
use crate::wait;

/// How long a flow may be without an answer before it counts as broken. TCP's timeouts double: what
/// is lost again 3 s after it was first sent comes anew after 6.2 s, and a SYN after 7 s.
pub const PATIENCE: Duration = Duration::from_secs(8);

/// How long all flows together may take to open, and to have been answered once more.
const ROUND: Duration = Duration::from_secs(20);

/// How much traffic there is.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    /// Long connections; one that breaks is opened anew.
    pub connections: usize,
    /// From the beginning of one new connection to that of the next; none without.
    pub newcomer_every: Option<Duration>,
    /// Whether there is a bulk transfer.
    pub bulk: bool,
    /// UDP sessions; one that breaks or ends is followed by a new one.
    pub sessions: usize,
}

/// Where the traffic goes.
#[derive(Clone, Copy, Debug)]
pub struct Targets {
    /// The TCP service in front of [`crate::servers::SESSION_PORT`].
    pub tcp: SocketAddr,
    /// The UDP service in front of [`crate::servers::UDP_PORT`].
    pub udp: SocketAddr,
    /// The client's own address, to which UDP sockets are bound.
    pub client: IpAddr,
}

/// Running traffic; it ends when dropped.
#[derive(Debug)]
pub struct Traffic {
    /// What happened so far.
    pub journal: Arc<Journal>,
    load: Load,
    _tasks: Vec<Background>,
}

impl Traffic {
    /// Starts it, and waits until every long flow was answered.
    ///
    /// # Errors
    /// It isn't so after 20 s.
    pub fn start(from: &Namespace, targets: Targets, load: Load) -> Result<Self> {
        allow_many_descriptors()?;
        let journal = Arc::new(Journal::default());
        let mut tasks = Vec::new();
        let shared = Arc::clone(&journal);
        tasks.push(Background::start(from, move |stopped| {
            connections::run(targets.tcp, load, shared, stopped)
        })?);
        if load.sessions > 0 {
            let shared = Arc::clone(&journal);
            tasks.push(Background::start(from, move |_| {
                sessions::run(targets.udp, targets.client, load.sessions, shared)
            })?);
        }
        let traffic = Self { journal, load, _tasks: tasks };
        wait::until("every long flow's first answer", ROUND, || {
            for (kind, wanted) in [
                (Kind::Connection, load.connections),
                (Kind::Bulk, usize::from(load.bulk)),
                (Kind::Session, load.sessions),
            ] {
                let answered = traffic.journal.answered(kind);
                ensure!(answered >= wanted, "{answered} of {wanted}: {kind:?}");
            }
            Ok(())
        })?;
        Ok(traffic)
    }

    /// Waits until every long flow that is open was answered after `since`.
    ///
    /// # Errors
    /// One that lives on wasn't, 20 s from now.
    pub fn answered_since(&self, since: Instant) -> Result<()> {
        wait::until("an answer on every flow", ROUND, || self.journal.all_answered_since(since))
    }

    /// From now on, flows that live on a server end in good order after their next answer; the
    /// long ones are opened anew.
    pub fn leave(&self, server: &str) {
        self.journal.set_left(server);
    }

    /// How much there is.
    pub fn load(&self) -> Load {
        self.load
    }

    /// # Errors
    /// The traffic proves nothing: the load isn't there.
    pub fn is_complete(&self) -> Result<()> {
        wait::until("the whole load", ROUND, || {
            let open = self.journal.answered(Kind::Connection);
            ensure!(
                open == self.load.connections,
                "{open} of {} connections",
                self.load.connections
            );
            let sessions = self.journal.answered(Kind::Session);
            // Between two sessions, one is not answered yet.
            ensure!(sessions * 10 >= self.load.sessions * 9, "{sessions} sessions");
            Ok(())
        })
        .context("before the change")
    }
}

/// Clients and servers of a test are one process: each connection takes two descriptors of it.
pub(super) fn allow_many_descriptors() -> Result<()> {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).context("raise the limit of open descriptors")
}
