//! Clients that go on while a test changes things: long connections, and probes by new ones.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use hyper::Method;
use hyper::body::Bytes;
use tokio::sync::watch;
use tokio::time::timeout;

use super::background::Background;
use super::http;
use crate::netns::Namespace;
use crate::wait;

/// Pause between two exchanges of a connection, and between two probes.
const PACE: Duration = Duration::from_millis(10);

/// How long an exchange on an established connection may take before it counts as broken.
const PATIENCE: Duration = Duration::from_secs(5);

/// One long connection.
#[derive(Clone, Debug, Default)]
pub struct Stream {
    /// Who answered first, and must go on answering.
    pub server: String,
    /// Requests answered so far.
    pub exchanges: u64,
    /// Why it ended, if it did.
    pub broken: Option<String>,
}

/// Connections that exchange requests and answers until they are stopped.
#[derive(Debug)]
pub struct Streams {
    streams: Arc<Mutex<Vec<Stream>>>,
    task: Background,
}

impl Streams {
    /// Opens that many connections, and waits until each had its first answer.
    ///
    /// # Errors
    /// One of them can't be opened within 10 s.
    pub fn open(from: &Namespace, target: SocketAddr, count: usize) -> Result<Self> {
        let streams = Arc::new(Mutex::new(vec![Stream::default(); count]));
        let shared = Arc::clone(&streams);
        let task = Background::start(from, move |stopped| async move {
            let mut running = tokio::task::JoinSet::new();
            for index in 0..count {
                running.spawn(exchange(target, index, Arc::clone(&shared), stopped.clone()));
            }
            running.join_all().await;
        })?;
        let streams = Self { streams, task };
        streams.progress(1)?;
        Ok(streams)
    }

    /// The connections as they are now.
    pub fn now(&self) -> Vec<Stream> {
        lock(&self.streams).clone()
    }

    /// Waits until every unbroken connection has exchanged that many more requests. The number of
    /// broken ones is the caller's to judge.
    ///
    /// # Errors
    /// One gets no further within 10 s, or none is left.
    pub fn progress(&self, exchanges: u64) -> Result<()> {
        let before = self.now();
        ensure!(before.iter().any(|stream| stream.broken.is_none()), "every connection broke");
        wait::until("progress on every connection", Duration::from_secs(10), || {
            let late = before.iter().zip(self.now()).find(|(old, new)| {
                new.broken.is_none() && new.exchanges < old.exchanges + exchanges
            });
            late.map_or(Ok(()), |(_, stream)| Err(anyhow!("this one is late: {stream:?}")))
        })
    }

    /// Ends them all.
    pub fn close(self) -> Vec<Stream> {
        drop(self.task);
        lock(&self.streams).clone()
    }
}

/// One attempt to be served over a new connection.
#[derive(Clone, Debug)]
pub struct Probe {
    /// When it began.
    pub began: Instant,
    /// When it was answered or given up.
    pub ended: Instant,
    /// The server's name, or what went wrong.
    pub answer: Result<String, String>,
}

/// New connections, one after the other, until it is stopped.
#[derive(Debug)]
pub struct Prober {
    probes: Arc<Mutex<Vec<Probe>>>,
    task: Background,
}

impl Prober {
    /// Starts to ask; a probe that isn't answered within `patience` failed. That many ask side by
    /// side.
    ///
    /// # Errors
    /// The namespace can't be entered.
    pub fn start(
        from: &Namespace,
        target: SocketAddr,
        side_by_side: usize,
        patience: Duration,
    ) -> Result<Self> {
        let probes = Arc::new(Mutex::new(Vec::new()));
        let shared = Arc::clone(&probes);
        let task = Background::start(from, move |stopped| async move {
            let mut running = tokio::task::JoinSet::new();
            for _ in 0..side_by_side {
                running.spawn(ask(target, patience, Arc::clone(&shared), stopped.clone()));
            }
            running.join_all().await;
        })?;
        Ok(Self { probes, task })
    }

    /// All probes so far.
    pub fn now(&self) -> Vec<Probe> {
        lock(&self.probes).clone()
    }

    /// Stops to ask; a probe on its way is forgotten.
    pub fn stop(self) -> Vec<Probe> {
        drop(self.task);
        lock(&self.probes).clone()
    }
}

async fn exchange(
    target: SocketAddr,
    index: usize,
    streams: Arc<Mutex<Vec<Stream>>>,
    stopped: watch::Receiver<()>,
) {
    let result = async {
        let mut sender =
            timeout(PATIENCE, http::connect(target)).await.context("no connection")??;
        while stopped.has_changed().is_ok() {
            let answer = http::send(&mut sender, target, Method::GET, "/", Bytes::new());
            let answer =
                timeout(PATIENCE, answer).await.context("no answer on the connection")??;
            let server = String::from_utf8_lossy(&answer).into_owned();
            {
                let stream = &mut lock(&streams)[index];
                ensure!(
                    stream.exchanges == 0 || stream.server == server,
                    "{server} answered on a connection to {}",
                    stream.server
                );
                stream.server = server;
                stream.exchanges += 1;
            }
            tokio::time::sleep(PACE).await;
        }
        Ok(())
    };
    if let Err(error) = result.await {
        lock(&streams)[index].broken = Some(format!("{error:#}"));
    }
}

async fn ask(
    target: SocketAddr,
    patience: Duration,
    probes: Arc<Mutex<Vec<Probe>>>,
    stopped: watch::Receiver<()>,
) {
    while stopped.has_changed().is_ok() {
        let began = Instant::now();
        let answer = http::name(target, patience).await.map_err(|error| format!("{error:#}"));
        lock(&probes).push(Probe { began, ended: Instant::now(), answer });
        tokio::time::sleep(PACE).await;
    }
}

/// The data is whole also where another holder panicked: every change is one assignment.
fn lock<T>(shared: &Mutex<T>) -> MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}
