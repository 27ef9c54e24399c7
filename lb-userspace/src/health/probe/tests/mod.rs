//! Probes against real servers on the loopback interface, most of them bad ones.

mod datagrams;
mod exec;
mod grpc;
mod http;
mod tls;

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use tokio::net::TcpListener;

use super::*;
use crate::{
    config::{ActiveCheck, HttpProbe, Method, StatusRange},
    model::{BackendKey, Protocol, ServiceKey},
};

/// Longer than any answer takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(20);

/// For servers that never answer.
const SHORT: Duration = Duration::from_millis(200);

fn check(probe: Probe) -> ActiveCheck {
    let interval = Duration::from_secs(1);
    ActiveCheck {
        probe,
        port: 80,
        port_is_set: true,
        via: None,
        interval,
        fast_interval: interval,
        jitter: 10,
        timeout: PATIENCE,
        rise: 2,
        fall: 3,
    }
}

/// The check of a backend at `target`.
fn spec(target: SocketAddr, check: ActiveCheck) -> CheckSpec {
    CheckSpec {
        service: ServiceKey {
            vip: [203, 0, 113, 10].into(),
            port: Some(80),
            protocol: Protocol::Tcp,
        },
        backend: BackendKey { address: target.ip(), port: None },
        name: "web".into(),
        check: Arc::new(ActiveCheck { port: target.port(), ..check }),
        via: None,
        known: None,
    }
}

async fn probe(target: SocketAddr, check: ActiveCheck) -> Outcome {
    run(&spec(target, check), &Means::new()).await.outcome
}

fn request() -> HttpProbe {
    HttpProbe {
        tls: None,
        method: Method::Get,
        path: "/healthz?full=1".to_owned(),
        host: Some("www.example.com".to_owned()),
        expect_status: StatusRange::new(200, 399).into_iter().collect(),
        expect_body: None,
        expect_header: None,
    }
}

fn http() -> Probe {
    Probe::Http(request())
}

async fn listen(address: impl Into<IpAddr>) -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind((address.into(), 0)).await.expect("a free port");
    let target = listener.local_addr().expect("a bound listener");
    (listener, target)
}

#[track_caller]
fn assert_passed(outcome: &Outcome) {
    assert!(matches!(outcome, Outcome::Passed(_)), "{outcome:?}");
}

#[track_caller]
fn assert_failed(outcome: &Outcome, fragment: &str) {
    assert!(
        matches!(outcome, Outcome::Failed(seen) if seen.contains(fragment)),
        "{outcome:?} should have failed with {fragment:?}"
    );
}

#[test]
fn only_this_hosts_shortages_are_local() {
    for (number, local) in [(24, true), (105, true), (99, true), (111, false), (113, false)] {
        assert_eq!(is_local(&io::Error::from_raw_os_error(number)), local, "errno {number}");
    }
}
