//! Agents on the loopback interface, as HAProxy's users write them.

use std::net::Ipv4Addr;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
    time::timeout,
};

use super::*;
use crate::{live::Wanted, model::Protocol};

/// Longer than any answer takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(20);

fn spec(port: u16) -> AgentSpec {
    let address = Ipv4Addr::LOCALHOST.into();
    let vip = Ipv4Addr::new(203, 0, 113, 10).into();
    AgentSpec {
        service: ServiceKey { vip, port: Some(80), protocol: Protocol::Tcp },
        backend: BackendKey { address, port: None },
        check: AgentCheck {
            port,
            interval: Duration::from_millis(100),
            timeout: PATIENCE,
            send: None,
        },
    }
}

async fn listen() -> (TcpListener, u16) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a free port");
    let port = listener.local_addr().expect("a bound listener").port();
    (listener, port)
}

/// An agent that says `line` to whoever comes.
fn agent(listener: TcpListener, line: &'static [u8]) -> JoinHandle<()> {
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            // A client that has seen enough may close before all is written.
            let _ = stream.write_all(line).await;
        }
    })
}

async fn answer(line: &'static [u8]) -> Result<String, String> {
    let (listener, port) = listen().await;
    let agent = agent(listener, line);
    let spec = spec(port);
    let answer = ask::ask((spec.backend.address, port).into(), &spec.check).await;
    agent.abort();
    answer
}

#[tokio::test]
async fn a_line_ends_where_haproxy_ends_it() {
    for (said, line) in [
        (&b"up 75%\n"[..], "up 75%"),
        (b"up 75%\r\ndown\n", "up 75%"),
        (b"up 75%", "up 75%"),
        (b"\r\n\n drain\r", " drain"),
        (b"", ""),
        (b"up \xff\n", "up \u{fffd}"),
    ] {
        assert_eq!(answer(said).await.as_deref(), Ok(line));
    }
}

#[tokio::test]
async fn what_never_ends_is_cut_off() {
    let error = answer(&[b'x'; 1 << 20]).await.unwrap_err();
    assert!(error.contains("more than 4096 bytes"), "{error}");
    let (listener, port) = listen().await;
    let silent = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.expect("a connection");
        stream.write_all(b"up").await.expect("an open connection");
        let _ = stream.read_u8().await;
    });
    let check = AgentCheck { timeout: Duration::from_millis(200), ..spec(port).check };
    let error = ask::ask((Ipv4Addr::LOCALHOST, port).into(), &check).await.unwrap_err();
    assert!(error.contains("no line within 200ms"), "{error}");
    silent.await.expect("the agent's task");
}

#[tokio::test]
async fn it_sends_first_where_it_shall() {
    let (listener, port) = listen().await;
    let agent = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.expect("a connection");
        let mut question = [0; 6];
        stream.read_exact(&mut question).await.expect("a question");
        stream.write_all(b"50%\n").await.expect("an open connection");
        question
    });
    let check = AgentCheck { send: Some("state\n".to_owned()), ..spec(port).check };
    let answer = ask::ask((Ipv4Addr::LOCALHOST, port).into(), &check).await;
    assert_eq!(answer.as_deref(), Ok("50%"));
    assert_eq!(&agent.await.expect("the agent's task"), b"state\n");
}

/// The agent goes away: what it said last holds, and that it is away is told.
#[tokio::test]
async fn what_was_said_last_holds() {
    let (listener, port) = listen().await;
    let agent = agent(listener, b"drain 75% # upgrade\n");
    let (sender, mut events) = mpsc::channel(16);
    let mut checks = AgentChecks::new(sender);
    let spec = spec(port);
    let (service, backend) = (spec.service, spec.backend);
    checks.set(vec![spec]);
    assert_eq!(checks.state(service, backend), AgentState::default());
    let event = timeout(PATIENCE, events.recv()).await.expect("in time").expect("an event");
    assert_eq!((event.after.wanted, event.after.percent), (Wanted::Drain, 75));
    assert_eq!(event.said, "drain 75% # upgrade");
    agent.abort();
    let failed = async {
        loop {
            let report = checks.report(service, backend).expect("it is asked");
            if report.failed > 2 {
                break report;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let report = timeout(PATIENCE, failed).await.expect("in time");
    assert_eq!(report.state, event.after);
    assert!(report.error.expect("why").contains("refused"));
    assert!(events.try_recv().is_err(), "nothing changed");
    checks.set(Vec::new());
    assert_eq!(checks.report(service, backend), None);
}
