//! A server that works for a while on each request, with so many workers, and tells how loaded it
//! is.
//!
//! Work is a sleep, so that servers have the speed that they are given, whatever the machine that
//! all of them share does. Health check and agent don't wait behind the work.

use std::collections::VecDeque;
use std::net::{SocketAddr, TcpListener};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::io::AsyncWriteExt;
use tokio::sync::{Semaphore, oneshot};
use xlb_tests::lab::{Family, Host};
use xlb_tests::servers::HTTP_PORT;

/// Requests that a server works on at a time; more of them wait.
pub const WORKERS: usize = 24;

/// Where its agent listens.
pub const AGENT_PORT: u16 = 8081;

/// What it tells of its load is the mean of so long.
const WINDOW: Duration = Duration::from_secs(2);

/// How often it looks at itself.
const LOOK: Duration = Duration::from_millis(200);

/// How a server tells its load in answers to the health check.
#[derive(Clone, Copy, Debug)]
pub enum Tells {
    /// Not at all: its agent does.
    Nothing,
    /// `TEXT` of the header.
    Text,
    /// `JSON` of it.
    Json,
}

/// Time that workers have been busy.
struct Work {
    busy: usize,
    /// In seconds, until `at`.
    done: f64,
    at: Instant,
    /// Of the window.
    looks: VecDeque<(Instant, f64)>,
}

impl Work {
    fn until(&self, now: Instant) -> f64 {
        self.done + self.busy as f64 * (now - self.at).as_secs_f64()
    }

    fn busy(&mut self, now: Instant, busy: usize) {
        (self.done, self.at, self.busy) = (self.until(now), now, busy);
    }

    /// Of the window; 1 is all that it can.
    fn utilization(&self, now: Instant) -> f64 {
        let Some(&(from, done)) = self.looks.front() else { return 0.0 };
        utilization((self.until(now) - done, now - from))
    }

    fn look(&mut self, now: Instant) {
        self.looks.push_back((now, self.until(now)));
        while self.looks.front().is_some_and(|&(at, _)| now - at > WINDOW) {
            self.looks.pop_front();
        }
    }
}

/// Of so many seconds' work in such a time.
fn utilization((work, time): (f64, Duration)) -> f64 {
    work / (WORKERS as f64 * time.as_secs_f64())
}

/// A running server.
pub struct Worker {
    work: Arc<Mutex<Work>>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Worker {
    /// Starts it, on port 80 of every address, and its agent. A request takes it `each`.
    pub fn start(host: &Host, each: Duration, tells: Tells) -> Result<Self> {
        let bind = |address: SocketAddr| -> Result<TcpListener> {
            let listener =
                TcpListener::bind(address).with_context(|| format!("listen on {address}"))?;
            listener.set_nonblocking(true)?;
            Ok(listener)
        };
        let agent = SocketAddr::new(host.address(Family::V4), AGENT_PORT);
        let listeners = host
            .namespace
            .run(|| -> Result<_> { Ok((bind(([0; 4], HTTP_PORT).into())?, bind(agent)?)) })??;
        let now = Instant::now();
        let work = Work { busy: 0, done: 0.0, at: now, looks: VecDeque::from([(now, 0.0)]) };
        let work = Arc::new(Mutex::new(work));
        let (stop, stopped) = oneshot::channel();
        let server = Server {
            name: host.name.clone(),
            each,
            tells,
            work: Arc::clone(&work),
            free: Arc::new(Semaphore::new(WORKERS)),
        };
        let thread = thread::spawn(move || {
            if let Err(error) = server.serve(listeners, stopped) {
                eprintln!("a server: {error:#}");
            }
        });
        Ok(Self { work, stop: Some(stop), thread: Some(thread) })
    }

    /// Seconds of work that it has done, by all of its workers.
    pub fn done(&self) -> f64 {
        lock(&self.work).until(Instant::now())
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            eprintln!("a server had panicked");
        }
    }
}

#[derive(Clone)]
struct Server {
    name: String,
    each: Duration,
    tells: Tells,
    work: Arc<Mutex<Work>>,
    free: Arc<Semaphore>,
}

impl Server {
    fn serve(
        self,
        (http, agent): (TcpListener, TcpListener),
        stopped: oneshot::Receiver<()>,
    ) -> Result<()> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async {
            tokio::select! {
                ended = self.clone().answer_requests(http) => ended,
                ended = self.clone().answer_agent(agent) => ended,
                () = self.look() => Ok(()),
                _ = stopped => Ok(()),
            }
        })
    }

    async fn look(self) {
        loop {
            tokio::time::sleep(LOOK).await;
            lock(&self.work).look(Instant::now());
        }
    }

    /// The percentage of it that is idle, as most agents for HAProxy say it.
    async fn answer_agent(self, listener: TcpListener) -> Result<()> {
        let listener = tokio::net::TcpListener::from_std(listener)?;
        loop {
            let (mut stream, _) = listener.accept().await?;
            let idle = 100.0 * (1.0 - lock(&self.work).utilization(Instant::now()));
            // Whoever asked may be gone.
            let _ =
                stream.write_all(format!("up {:.0}%\n", idle.clamp(0.0, 100.0)).as_bytes()).await;
        }
    }

    async fn answer_requests(self, listener: TcpListener) -> Result<()> {
        let listener = tokio::net::TcpListener::from_std(listener)?;
        loop {
            let (stream, _) = listener.accept().await?;
            let server = self.clone();
            let service = service_fn(move |request| server.clone().answer(request));
            tokio::spawn(async move {
                // A connection that breaks is counted by the client.
                let _ = hyper::server::conn::http1::Builder::new()
                    .keep_alive(false)
                    .serve_connection(TokioIo::new(stream), service)
                    .await;
            });
        }
    }

    async fn answer(
        self,
        request: Request<Incoming>,
    ) -> Result<Response<Full<Bytes>>, hyper::http::Error> {
        if request.uri().path() != "/healthz" {
            self.work().await;
            return Response::builder().body(Full::from(self.name));
        }
        let utilization = lock(&self.work).utilization(Instant::now());
        let response = match self.tells {
            Tells::Nothing => Response::builder(),
            Tells::Text => Response::builder().header(
                "endpoint-load-metrics",
                format!("TEXT cpu_utilization={utilization:.3}, mem_utilization=0.9"),
            ),
            Tells::Json => Response::builder().header(
                "endpoint-load-metrics",
                format!("JSON {{\"application_utilization\": {utilization:.3}}}"),
            ),
        };
        response.body(Full::default())
    }

    async fn work(&self) {
        // The semaphore is never closed.
        let Ok(_worker) = self.free.acquire().await else { return };
        self.change(1);
        tokio::time::sleep(self.each).await;
        self.change(-1);
    }

    fn change(&self, by: isize) {
        let mut work = lock(&self.work);
        let busy = work.busy.saturating_add_signed(by);
        work.busy(Instant::now(), busy);
    }
}

fn lock(work: &Mutex<Work>) -> std::sync::MutexGuard<'_, Work> {
    work.lock().unwrap_or_else(PoisonError::into_inner)
}
