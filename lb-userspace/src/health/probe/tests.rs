//! Probes against real servers on the loopback interface.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    time::Instant,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
    task::JoinHandle,
};

use super::*;
use crate::config::StatusRange;

/// Longer than any answer takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(20);

/// For servers that never answer.
const SHORT: Duration = Duration::from_millis(200);

fn check(probe: Probe) -> ActiveCheck {
    let interval = Duration::from_secs(1);
    ActiveCheck { probe, port: 80, interval, timeout: PATIENCE, rise: 2, fall: 3 }
}

fn http() -> Probe {
    Probe::Http {
        path: "/healthz?full=1".to_owned(),
        host: Some("www.example.com".to_owned()),
        expect_status: StatusRange::new(200, 399).into_iter().collect(),
    }
}

async fn listen(address: impl Into<IpAddr>) -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind((address.into(), 0)).await.expect("a free port");
    let target = listener.local_addr().expect("a bound listener");
    (listener, target)
}

/// Takes one connection, reads the request's head, writes `answer`, and closes or stays silent.
/// Gives the head back.
fn serve(listener: TcpListener, answer: Vec<u8>, close: bool) -> JoinHandle<String> {
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.expect("a connection");
        let head = read_head(&mut stream).await;
        // A prober that has seen enough may close before all is written.
        let _ = stream.write_all(&answer).await;
        if !close {
            let _ = stream.read_u8().await;
        }
        head
    })
}

async fn read_head(stream: &mut TcpStream) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.expect("a request"));
    }
    String::from_utf8(head).expect("a head in ASCII")
}

async fn get(answer: impl Into<Vec<u8>>, close: bool) -> Outcome {
    get_within(PATIENCE, answer, close).await
}

async fn get_within(timeout: Duration, answer: impl Into<Vec<u8>>, close: bool) -> Outcome {
    let (listener, target) = listen(Ipv4Addr::LOCALHOST).await;
    let server = serve(listener, answer.into(), close);
    let outcome = run(Reach::Address(target), &ActiveCheck { timeout, ..check(http()) }).await;
    server.await.expect("the server's task");
    outcome
}

#[track_caller]
fn assert_failed(outcome: &Outcome, fragment: &str) {
    assert!(
        matches!(outcome, Outcome::Failed(seen) if seen.contains(fragment)),
        "{outcome:?} should have failed with {fragment:?}"
    );
}

#[tokio::test]
async fn an_open_port_passes() {
    for address in [IpAddr::from(Ipv4Addr::LOCALHOST), Ipv6Addr::LOCALHOST.into()] {
        let (_listener, target) = listen(address).await;
        let outcome = run(Reach::Address(target), &check(Probe::Tcp)).await;
        assert!(matches!(outcome, Outcome::Passed(_)), "{outcome:?}");
    }
}

#[tokio::test]
async fn a_closed_port_fails() {
    for probe in [Probe::Tcp, http()] {
        let (listener, target) = listen(Ipv6Addr::LOCALHOST).await;
        drop(listener);
        assert_failed(&run(Reach::Address(target), &check(probe)).await, "refused");
    }
}

#[tokio::test]
async fn good_answers_pass() {
    for answer in [
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
        "HTTP/1.1 204 No Content\r\n\r\n",
        "HTTP/1.1 302 Found\r\nLocation: http://192.0.2.1/\r\nContent-Length: 0\r\n\r\n",
        "HTTP/1.0 200 OK\r\n\r\nuntil the end",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        "HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
    ] {
        let outcome = get(answer, true).await;
        assert!(matches!(outcome, Outcome::Passed(_)), "{answer:?}: {outcome:?}");
    }
}

#[tokio::test]
async fn the_request_is_the_configured_one() {
    let (listener, target) = listen(Ipv6Addr::LOCALHOST).await;
    let server = serve(listener, b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n".to_vec(), true);
    run(Reach::Address(target), &check(http())).await;
    let head = server.await.expect("the server's task").to_ascii_lowercase();
    assert!(head.starts_with("get /healthz?full=1 http/1.1\r\n"), "{head}");
    assert!(head.contains("host: www.example.com\r\n"), "{head}");
    assert!(head.contains("connection: close\r\n"), "{head}");
}

#[tokio::test]
async fn the_host_is_the_target_where_none_is_configured() {
    let (listener, target) = listen(Ipv6Addr::LOCALHOST).await;
    let server = serve(listener, b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n".to_vec(), true);
    let Probe::Http { path, expect_status, .. } = http() else { unreachable!("http") };
    run(Reach::Address(target), &check(Probe::Http { path, host: None, expect_status })).await;
    let head = server.await.expect("the server's task").to_ascii_lowercase();
    assert!(head.contains(&format!("host: {target}\r\n")), "{head}");
}

#[tokio::test]
async fn bad_answers_fail_at_once() {
    for (answer, fragment) in [
        ("HTTP/1.1 500 Internal Server Error\r\nContent-Length: 9\r\n\r\n", "status 500"),
        ("HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n", "status 404"),
        ("SSH-2.0-OpenSSH_9.2\r\n", "no HTTP response"),
        ("\0\u{1}\u{2}\u{3}garbage\r\n\r\n", "no HTTP response"),
        ("HTTP/1.1 200 OK\r\nbroken header\r\n\r\n", "no HTTP response"),
    ] {
        // The server keeps the connection open: a prober that waits for more times out.
        assert_failed(&get(answer, false).await, fragment);
    }
}

#[tokio::test]
async fn answers_that_end_early_fail() {
    assert_failed(&get("", true).await, "no HTTP response");
    assert_failed(&get("HTTP/1.1 200 OK\r\nContent-Le", true).await, "no HTTP response");
    assert_failed(
        &get("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nshort", true).await,
        "broke off",
    );
}

#[tokio::test]
async fn a_huge_head_fails() {
    let mut answer = b"HTTP/1.1 200 OK\r\n".to_vec();
    for number in 0..90 {
        answer.extend(format!("X-{number}: {}\r\n", "a".repeat(1024)).bytes());
    }
    assert_failed(&get(answer, false).await, "no HTTP response");
}

#[tokio::test]
async fn an_endless_body_passes() {
    let mut answer = b"HTTP/1.1 200 OK\r\n\r\n".to_vec();
    answer.resize(answer.len() + 1024 * 1024, b'x');
    let outcome = get(answer, false).await;
    assert!(matches!(outcome, Outcome::Passed(_)), "{outcome:?}");
}

#[tokio::test]
async fn silence_fails_when_the_time_is_over() {
    for (answer, fragment) in [
        ("", "waiting for the response"),
        ("HTTP/1.1 200 OK\r\nContent-", "waiting for the response"),
        ("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nshort", "reading the body"),
    ] {
        let begun = Instant::now();
        assert_failed(&get_within(SHORT, answer, false).await, fragment);
        let took = begun.elapsed();
        assert!((SHORT..PATIENCE).contains(&took), "{took:?}");
    }
}

#[tokio::test]
async fn a_head_that_drips_fails_when_the_time_is_over() {
    let (listener, target) = listen(Ipv4Addr::LOCALHOST).await;
    let server = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.expect("a connection");
        read_head(&mut stream).await;
        stream.write_all(b"HTTP/1.1 200 OK\r\nX-Drip: ").await.expect("an open connection");
        let mut drip = tokio::time::interval(Duration::from_millis(10));
        // Ends when the prober hangs up.
        while stream.write_all(b"x").await.is_ok() {
            drip.tick().await;
        }
    });
    let outcome =
        run(Reach::Address(target), &ActiveCheck { timeout: SHORT, ..check(http()) }).await;
    assert_failed(&outcome, "waiting for the response");
    server.await.expect("the server's task");
}

#[tokio::test]
async fn a_server_that_speaks_first_fails() {
    let (listener, target) = listen(Ipv4Addr::LOCALHOST).await;
    let server = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.expect("a connection");
        stream.write_all(b"220 mail.example ESMTP\r\n").await.expect("an open connection");
        let _ = stream.read_to_end(&mut Vec::new()).await;
    });
    assert_failed(&run(Reach::Address(target), &check(http())).await, "no HTTP response");
    server.await.expect("the server's task");
}

#[test]
fn only_this_hosts_shortages_are_local() {
    for (number, local) in [(24, true), (105, true), (99, true), (111, false), (113, false)] {
        assert_eq!(is_local(&io::Error::from_raw_os_error(number)), local, "errno {number}");
    }
}
