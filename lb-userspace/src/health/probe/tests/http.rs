//! Requests to servers that answer well, badly, slowly, endlessly or not at all.

use std::{
    net::{Ipv4Addr, Ipv6Addr},
    time::{Duration, Instant},
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};

use super::*;
use crate::config::{ExpectedHeader, HttpProbe, Method};

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
    let outcome = probe(target, ActiveCheck { timeout, ..check(http()) }).await;
    server.await.expect("the server's task");
    outcome
}

#[tokio::test]
async fn an_open_port_passes() {
    for address in [IpAddr::from(Ipv4Addr::LOCALHOST), Ipv6Addr::LOCALHOST.into()] {
        let (_listener, target) = listen(address).await;
        let outcome = probe(target, check(Probe::Tcp)).await;
        assert!(matches!(outcome, Outcome::Passed(_)), "{outcome:?}");
    }
}

#[tokio::test]
async fn a_closed_port_fails() {
    for probe in [Probe::Tcp, http()] {
        let (listener, target) = listen(Ipv6Addr::LOCALHOST).await;
        drop(listener);
        assert_failed(&super::probe(target, check(probe)).await, "refused");
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
    probe(target, check(http())).await;
    let head = server.await.expect("the server's task").to_ascii_lowercase();
    assert!(head.starts_with("get /healthz?full=1 http/1.1\r\n"), "{head}");
    assert!(head.contains("host: www.example.com\r\n"), "{head}");
    assert!(head.contains("connection: close\r\n"), "{head}");
}

#[tokio::test]
async fn the_host_is_the_target_where_none_is_configured() {
    let (listener, target) = listen(Ipv6Addr::LOCALHOST).await;
    let server = serve(listener, b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n".to_vec(), true);
    probe(target, check(Probe::Http(HttpProbe { host: None, ..request() }))).await;
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
    let outcome = probe(target, ActiveCheck { timeout: SHORT, ..check(http()) }).await;
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
    assert_failed(&probe(target, check(http())).await, "no HTTP response");
    server.await.expect("the server's task");
}

/// Answers to a request that asks for more than a status.
async fn asked(request: HttpProbe, answer: &str) -> Outcome {
    let (listener, target) = listen(Ipv4Addr::LOCALHOST).await;
    let server = serve(listener, answer.as_bytes().to_vec(), true);
    let outcome = probe(target, check(Probe::Http(request))).await;
    server.await.expect("the server's task");
    outcome
}

#[tokio::test]
async fn the_body_must_hold_what_is_expected() {
    let expecting = || HttpProbe { expect_body: Some("ready: yes".to_owned()), ..request() };
    for answer in [
        "HTTP/1.1 200 OK\r\nContent-Length: 15\r\n\r\n{ready: yes}   ",
        "HTTP/1.0 200 OK\r\n\r\nready: yes",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nread\r\n6\r\ny: yes\r\n0\r\n\r\n",
    ] {
        assert_passed(&asked(expecting(), answer).await);
    }
    let wrong = "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nready: \x1bo";
    assert_failed(
        &asked(expecting(), wrong).await,
        r#"doesn't hold "ready: yes"; it begins with "#,
    );
    assert_failed(&asked(expecting(), wrong).await, r#""ready: \u{1b}o""#);
    // Past what is read, nothing counts.
    let far = format!("HTTP/1.0 200 OK\r\n\r\n{}ready: yes", "x".repeat(64 * 1024));
    assert_failed(&asked(expecting(), &far).await, "doesn't hold");
}

#[tokio::test]
async fn a_header_must_be_there() {
    let expecting = |value: Option<&str>| HttpProbe {
        expect_header: Some(ExpectedHeader {
            name: "x-ready".to_owned(),
            value: value.map(str::to_owned),
        }),
        ..request()
    };
    let two = "HTTP/1.1 200 OK\r\nX-Ready: no\r\nx-ready: yes\r\nContent-Length: 0\r\n\r\n";
    assert_passed(&asked(expecting(None), two).await);
    assert_passed(&asked(expecting(Some("yes")), two).await);
    let other = asked(expecting(Some("Yes")), two).await;
    assert_failed(&other, r#"the header x-ready is "no", expected "Yes""#);
    let none = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
    assert_failed(&asked(expecting(None), none).await, "there is no header x-ready");
}

#[tokio::test]
async fn other_methods_are_asked() {
    for (method, word) in [(Method::Head, "head /"), (Method::Options, "options /")] {
        let (listener, target) = listen(Ipv4Addr::LOCALHOST).await;
        // A length without a body: for HEAD that is how it must be.
        let answer = match method {
            Method::Head => "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n",
            _ => "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
        };
        let server = serve(listener, answer.into(), false);
        let probe = probe(target, check(Probe::Http(HttpProbe { method, ..request() })));
        assert_passed(&probe.await);
        let head = server.await.expect("the server's task").to_ascii_lowercase();
        assert!(head.starts_with(word), "{head}");
    }
}

#[tokio::test]
async fn load_reports_are_handed_on_whatever_the_status() {
    let report = "TEXT cpu_utilization=0.3";
    let long = "x".repeat(4097);
    for (status, header, expected) in [
        (200, report, Some(report)),
        (503, report, Some(report)),
        (200, &long[1..], Some(&long[1..])),
        (200, &long, None),
        (200, "caf\u{e9}", None),
    ] {
        let (listener, target) = listen(Ipv4Addr::LOCALHOST).await;
        let answer = format!(
            "HTTP/1.1 {status} X\r\nendpoint-load-metrics: {header}\r\nContent-Length: 0\r\n\r\n"
        );
        let server = serve(listener, answer.into(), true);
        let probed = run(&spec(target, check(http())), &Means::new()).await;
        server.await.expect("the server's task");
        assert_eq!(probed.load.as_deref(), expected);
    }
}
