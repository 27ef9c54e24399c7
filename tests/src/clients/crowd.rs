//! So many connections at once that one process has no descriptors for them: each thread has a table
//! of descriptors of its own.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::socket::{AddressFamily, SockaddrLike as _, SockaddrStorage, getsockname};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::traffic::allow_many_descriptors;
use crate::lab::Host;
use crate::netns::Namespace;

/// Threads of the clients, and of each host's servers.
const CLIENTS: usize = 4;
const SERVERS: usize = 2;
/// Connections that a thread opens, or sends on, at a time.
const AT_A_TIME: usize = 64;
/// How long one may take for that: a lost SYN is sent again after 1 s and 3 s.
const PATIENCE: Duration = Duration::from_secs(10);
const BACKLOG: u32 = 4096;
/// How often servers look whether they shall end.
const LOOK: Duration = Duration::from_millis(50);
/// The port of the first connection: the kernel would seek long for the last ones.
const FIRST_PORT: u64 = 1024;
/// What a client sends: its number.
const QUESTION_LEN: usize = size_of::<u64>();

/// Servers that answer each number by themselves and that number, on connections that stay open.
#[derive(Debug)]
pub struct Hosts {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Hosts {
    /// Starts them on a port of every host's every address.
    ///
    /// # Errors
    /// The port is taken.
    pub fn start(hosts: &[Host], port: u16) -> Result<Self> {
        allow_many_descriptors()?;
        let mut all = Self { stop: Arc::default(), threads: Vec::new() };
        for (id, host) in (0..).zip(hosts) {
            for _ in 0..SERVERS {
                let (listens, listening) = channel();
                let stop = Arc::clone(&all.stop);
                all.threads.push(inside(&host.namespace, async move {
                    let listener = listen(port);
                    let told = listener.as_ref().map(|_| ()).map_err(|error| anyhow!("{error}"));
                    // Whoever started it waits for it.
                    let _ = listens.send(told);
                    if let Ok(listener) = listener {
                        tokio::select! {
                            () = serve(listener, id) => (),
                            () = stopped(&stop) => (),
                        }
                    }
                })?);
                listening.recv().context("a server's thread has ended")??;
            }
        }
        Ok(all)
    }
}

impl Drop for Hosts {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        join(&mut self.threads, "server");
    }
}

fn listen(port: u16) -> io::Result<TcpListener> {
    let socket = TcpSocket::new_v6()?;
    socket.set_reuseport(true)?;
    socket.bind(SocketAddr::new(std::net::Ipv6Addr::UNSPECIFIED.into(), port))?;
    socket.listen(BACKLOG)
}

/// Ends soon after that is set. Nobody can wake a runtime whose descriptors he doesn't have.
async fn stopped(stop: &AtomicBool) {
    while !stop.load(Ordering::Relaxed) {
        tokio::time::sleep(LOOK).await;
    }
}

async fn serve(listener: TcpListener, id: u8) {
    while let Ok((mut stream, _)) = listener.accept().await {
        tokio::spawn(async move {
            let mut question = [0; QUESTION_LEN];
            while stream.read_exact(&mut question).await.is_ok() {
                let answer = [&[id][..], &question].concat();
                if stream.write_all(&answer).await.is_err() {
                    break;
                }
            }
        });
    }
}

/// Connections from one namespace that stay open.
#[derive(Debug)]
pub struct Crowd {
    asks: Vec<Sender<()>>,
    answers: Receiver<Result<()>>,
    threads: Vec<JoinHandle<()>>,
}

impl Crowd {
    /// Opens so many from a host's one address, and asks on each.
    ///
    /// # Errors
    /// One of them isn't opened, or answered, within 10 s.
    pub fn open(from: &Host, target: SocketAddr, count: u64) -> Result<Self> {
        let source = if target.is_ipv4() { from.v4.into() } else { from.v6.into() };
        allow_many_descriptors()?;
        let (tell, answers) = channel();
        let mut crowd = Self { asks: Vec::new(), answers, threads: Vec::new() };
        let each = count.div_ceil(CLIENTS as u64);
        for first in (0..count).step_by(each as usize) {
            let (ask, asked) = channel();
            let numbers = first..count.min(first + each);
            let tell = tell.clone();
            crowd.asks.push(ask);
            let work = hold(source, target, numbers, asked, tell);
            crowd.threads.push(inside(&from.namespace, work)?);
        }
        crowd.all_answered()?;
        Ok(crowd)
    }

    /// Asks once more on every connection.
    ///
    /// # Errors
    /// One isn't answered within 10 s, or by another server than before.
    pub fn ask(&self) -> Result<()> {
        for ask in &self.asks {
            ask.send(()).context("a client's thread has ended")?;
        }
        self.all_answered()
    }

    fn all_answered(&self) -> Result<()> {
        (self.asks.iter()).try_for_each(|_| self.answers.recv().context("a thread has ended")?)
    }
}

impl Drop for Crowd {
    fn drop(&mut self) {
        self.asks.clear();
        join(&mut self.threads, "client");
    }
}

/// A connection: its number, and who answered first.
struct Held {
    stream: TcpStream,
    number: u64,
    server: Option<u8>,
}

async fn hold(
    source: IpAddr,
    target: SocketAddr,
    numbers: Range<u64>,
    asked: Receiver<()>,
    tell: Sender<Result<()>>,
) {
    let open = numbers.map(|number| async move {
        let stream = connect(source, target, number).await.context("connect")?;
        Held { stream, number, server: None }.ask().await
    });
    let mut held = each(open).await;
    loop {
        let told = held.as_ref().map(|_| ()).map_err(|error| anyhow!("{error:#}"));
        let Ok(open) = held else { return drop(tell.send(told)) };
        // Nothing else is to be done meanwhile.
        if tell.send(told).is_err() || asked.recv().is_err() {
            return;
        }
        held = each(open.into_iter().map(Held::ask)).await;
    }
}

async fn connect(source: IpAddr, target: SocketAddr, number: u64) -> Result<TcpStream> {
    let socket = if target.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    let port = u16::try_from(FIRST_PORT + number).context("there are not so many ports")?;
    socket.bind(SocketAddr::new(source, port))?;
    Ok(socket.connect(target).await?)
}

impl Held {
    async fn ask(mut self) -> Result<Self> {
        let question = self.number.to_be_bytes();
        self.stream.write_all(&question).await.context("ask")?;
        let mut answer = [0; 1 + QUESTION_LEN];
        self.stream.read_exact(&mut answer).await.context("read the answer")?;
        let [server, told @ ..] = answer;
        ensure!(told == question, "number {} got {told:?}", self.number);
        let before = *self.server.get_or_insert(server);
        ensure!(before == server, "number {}: {server} answered, after {before}", self.number);
        Ok(self)
    }
}

/// Does all that, some at a time.
async fn each<F>(all: impl Iterator<Item = F>) -> Result<Vec<Held>>
where
    F: Future<Output = Result<Held>> + Send + 'static,
{
    let (mut running, mut done) = (JoinSet::new(), Vec::new());
    for one in all {
        if running.len() >= AT_A_TIME
            && let Some(ended) = running.join_next().await
        {
            done.push(ended.context("a client panicked")??);
        }
        running.spawn(async {
            timeout(PATIENCE, one).await.with_context(|| format!("none within {PATIENCE:?}"))?
        });
    }
    while let Some(ended) = running.join_next().await {
        done.push(ended.context("a client panicked")??);
    }
    Ok(done)
}

/// Does work on a thread in a namespace, with descriptors of its own.
fn inside(
    namespace: &Namespace,
    work: impl Future<Output = ()> + Send + 'static,
) -> Result<JoinHandle<()>> {
    let path = namespace.path();
    let name = format!("in {}", namespace.name());
    thread::Builder::new()
        .spawn(move || {
            let enter = || -> Result<tokio::runtime::Runtime> {
                let handle = std::fs::File::open(path).context("open the namespace")?;
                setns(handle, CloneFlags::CLONE_NEWNET).context("enter it")?;
                unshare(CloneFlags::CLONE_FILES).context("get descriptors")?;
                close_copies()?;
                tokio::runtime::Builder::new_current_thread()
                    .enable_all()
                    .build()
                    .context("make a runtime")
            };
            match enter() {
                Ok(runtime) => runtime.block_on(work),
                Err(error) => eprintln!("{name}: {error:#}"),
            }
        })
        .context("start a thread")
}

/// Closes what the thread got a copy of: sockets of others would outlive them. All but Unix sockets,
/// by which tokio hears of signals.
fn close_copies() -> Result<()> {
    let open = std::fs::read_dir("/proc/thread-self/fd").context("list descriptors")?;
    let open: Vec<i32> =
        open.filter_map(|fd| fd.ok()?.file_name().to_str()?.parse().ok()).collect();
    for fd in open.into_iter().filter(|fd| *fd > 2) {
        let name = getsockname::<SockaddrStorage>(fd);
        if !name.is_ok_and(|name| name.family() == Some(AddressFamily::Unix)) {
            // The list's own is closed already.
            let _ = nix::unistd::close(fd);
        }
    }
    Ok(())
}

fn join(threads: &mut Vec<JoinHandle<()>>, whose: &str) {
    for thread in threads.drain(..) {
        if thread.join().is_err() {
            eprintln!("a {whose} had panicked");
        }
    }
}
