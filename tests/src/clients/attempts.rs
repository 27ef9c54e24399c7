//! New connections at a fixed pace, closed as soon as they are open.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Result;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, timeout};

use super::background::Background;
use crate::netns::Namespace;

/// How long a connection may take to open.
const PATIENCE: Duration = Duration::from_secs(10);

/// An attempt that has ended.
#[derive(Clone, Debug)]
pub struct Attempt {
    /// Before the first packet was sent.
    pub began: Instant,
    /// Why it wasn't opened.
    pub error: Option<String>,
}

/// Attempts that go on until dropped.
#[derive(Debug)]
pub struct Attempts {
    ended: Arc<Mutex<Vec<Attempt>>>,
    _task: Background,
}

impl Attempts {
    /// Begins one after each such time, whatever became of the others.
    ///
    /// # Errors
    /// The namespace can't be entered.
    pub fn start(from: &Namespace, target: SocketAddr, every: Duration) -> Result<Self> {
        let ended = Arc::new(Mutex::new(Vec::new()));
        let shared = Arc::clone(&ended);
        let task = Background::start(from, move |_| async move {
            let mut running = JoinSet::new();
            let mut pace = interval(every);
            pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
            loop {
                pace.tick().await;
                while running.try_join_next().is_some() {}
                running.spawn(attempt(target, Arc::clone(&shared)));
            }
        })?;
        Ok(Self { ended, _task: task })
    }

    /// All that have ended so far.
    pub fn now(&self) -> Vec<Attempt> {
        self.ended.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

async fn attempt(target: SocketAddr, ended: Arc<Mutex<Vec<Attempt>>>) {
    let began = Instant::now();
    let error = match timeout(PATIENCE, TcpStream::connect(target)).await {
        Ok(Ok(_)) => None,
        Ok(Err(error)) => Some(error.to_string()),
        Err(_) => Some(format!("no answer within {PATIENCE:?}")),
    };
    ended.lock().unwrap_or_else(PoisonError::into_inner).push(Attempt { began, error });
}
