//! Requests that arrive as those of many clients do: at random, whatever became of the others.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Result;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

use super::background::Background;
use super::{Served, http};
use crate::netns::Namespace;

/// How long a request may take: a lost SYN is sent again after 1 s and 3 s.
const PATIENCE: Duration = Duration::from_secs(10);

/// A Poisson process of HTTP requests, each over a connection of its own. It ends when dropped.
#[derive(Debug)]
pub struct Arrivals {
    served: Arc<Mutex<Served>>,
    _task: Background,
}

impl Arrivals {
    /// Begins, with so many requests a second in the mean.
    ///
    /// # Errors
    /// The namespace can't be entered.
    pub fn start(from: &Namespace, target: SocketAddr, a_second: f64) -> Result<Self> {
        let served = Arc::new(Mutex::new(Served::default()));
        let shared = Arc::clone(&served);
        let task = Background::start(from, move |_| async move {
            let mut running = JoinSet::new();
            let mut next = Instant::now();
            loop {
                // Between two of them lies an exponentially distributed time. What a busy machine
                // makes late is caught up with.
                next += Duration::from_secs_f64(-(1.0 - fastrand::f64()).ln() / a_second);
                sleep_until(next).await;
                while running.try_join_next().is_some() {}
                let served = Arc::clone(&shared);
                running.spawn(async move {
                    let answer = http::name(target, PATIENCE).await;
                    served.lock().unwrap_or_else(PoisonError::into_inner).count(answer);
                });
            }
        })?;
        Ok(Self { served, _task: task })
    }

    /// All that have ended so far.
    pub fn now(&self) -> Served {
        self.served.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
