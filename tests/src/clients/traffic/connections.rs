//! TCP: long connections, a stream of new ones, a bulk transfer.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};

use super::exchange::{Cause, ask};
use super::journal::{Flow, Journal, Kind};
use super::{Load, PATIENCE};

/// Pauses of a long connection between two exchanges, in milliseconds.
const PAUSE_MS: std::ops::Range<u64> = 200..500;

/// From the opening of one long connection to the next, so that they are staggered.
const STAGGER: Duration = Duration::from_micros(500);

/// How long a connection may take to open: a lost SYN is sent again after 1 s and 3 s.
const OPENING: Duration = Duration::from_secs(10);

/// Exchanges of a new connection.
const EXCHANGES: usize = 4;

/// Pauses of a new connection before each of them, in milliseconds.
const NEWCOMER_PAUSE_MS: std::ops::Range<u64> = 0..400;

/// Bytes of one exchange of the bulk transfer.
const CHUNK: usize = 64 << 10;

/// Pause of the bulk transfer between two chunks, so that it lasts through the changes.
const BULK_PAUSE: Duration = Duration::from_millis(15);

/// Pause before a broken connection is opened anew.
const ANEW: Duration = Duration::from_millis(100);

/// Runs until it is dropped.
pub(super) async fn run(
    target: SocketAddr,
    load: Load,
    journal: Arc<Journal>,
    _stopped: watch::Receiver<()>,
) {
    let mut running = JoinSet::new();
    for index in 0..load.connections {
        running.spawn(stay(target, STAGGER * index as u32, Arc::clone(&journal)));
    }
    if load.bulk {
        running.spawn(transfer(target, Arc::clone(&journal)));
    }
    if let Some(every) = load.newcomer_every {
        running.spawn(come(target, every, Arc::clone(&journal)));
    }
    running.join_all().await;
}

/// One long connection, opened anew whenever it ends.
async fn stay(target: SocketAddr, delay: Duration, journal: Arc<Journal>) {
    sleep(delay).await;
    loop {
        let flow = journal.begin(Kind::Connection);
        let ended = async {
            let mut stream = open(target).await?;
            loop {
                sleep(Duration::from_millis(fastrand::u64(PAUSE_MS))).await;
                let question = fastrand::u64(..).to_ne_bytes();
                if !flow.answered(&ask(&mut stream, &question, PATIENCE).await?)? {
                    return Ok(());
                }
            }
        };
        end(ended.await, flow);
        sleep(ANEW).await;
    }
}

/// Opens new connections at a fixed pace.
async fn come(target: SocketAddr, every: Duration, journal: Arc<Journal>) {
    let mut running = JoinSet::new();
    let mut pace = interval(every);
    // A client that was late must not make up for it with a burst.
    pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        pace.tick().await;
        while running.try_join_next().is_some() {}
        running.spawn(visit(target, Arc::clone(&journal)));
    }
}

/// One new connection: its handshake, its first and its later data fall where they may.
async fn visit(target: SocketAddr, journal: Arc<Journal>) {
    let flow = journal.begin(Kind::Newcomer);
    let ended = async {
        let mut stream = open(target).await?;
        for _ in 0..EXCHANGES {
            sleep(Duration::from_millis(fastrand::u64(NEWCOMER_PAUSE_MS))).await;
            flow.answered(&ask(&mut stream, b"newcomer", PATIENCE).await?)?;
        }
        Ok(())
    };
    end(ended.await, flow);
}

/// A large transfer in both directions, every byte of it compared, begun anew whenever it ends.
async fn transfer(target: SocketAddr, journal: Arc<Journal>) {
    let mut chunk = vec![0; CHUNK];
    loop {
        let flow = journal.begin(Kind::Bulk);
        let ended = async {
            let mut stream = open(target).await?;
            let mut pace = interval(BULK_PAUSE);
            pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
            loop {
                pace.tick().await;
                fastrand::fill(&mut chunk);
                let server = ask(&mut stream, &chunk, PATIENCE).await?;
                flow.transferred(CHUNK);
                if !flow.answered(&server)? {
                    return Ok(());
                }
            }
        };
        end(ended.await, flow);
        sleep(ANEW).await;
    }
}

async fn open(target: SocketAddr) -> Result<TcpStream, Cause> {
    let stream = match timeout(OPENING, TcpStream::connect(target)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return Err(Cause::Refused(error.to_string())),
        Err(_) => return Err(Cause::Refused(format!("no answer within {OPENING:?}"))),
    };
    stream.set_nodelay(true)?;
    Ok(stream)
}

fn end(ended: Result<(), Cause>, flow: Flow) {
    match ended {
        Ok(()) => drop(flow),
        Err(cause) => flow.broke(cause),
    }
}
