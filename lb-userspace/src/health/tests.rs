//! Checks as the agent uses them: events in, reports out, servers that come and go.

use std::{
    net::Ipv4Addr,
    time::{Duration, Instant},
};

use tokio::{net::TcpListener, time::timeout};

use super::*;
use crate::{
    config::{HttpProbe, Method, Probe, StatusRange},
    model::Protocol,
};

const DEADLINE: Duration = Duration::from_secs(10);

/// A check of a local port. Backends are told apart by their port, which plays no part in probes.
fn spec(number: u16, target: SocketAddr) -> CheckSpec {
    CheckSpec {
        service: ServiceKey {
            vip: Ipv4Addr::new(203, 0, 113, 10).into(),
            port: Some(80),
            protocol: Protocol::Tcp,
        },
        backend: BackendKey { address: target.ip(), port: Some(number) },
        name: "web".into(),
        check: Arc::new(ActiveCheck {
            probe: Probe::Tcp,
            port: target.port(),
            port_is_set: true,
            via: None,
            interval: Duration::from_millis(20),
            fast_interval: Duration::from_millis(20),
            jitter: 10,
            timeout: Duration::from_secs(5),
            rise: 2,
            fall: 3,
        }),
        via: None,
        known: None,
    }
}

async fn server() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a free port");
    let target = listener.local_addr().expect("a bound listener");
    (listener, target)
}

async fn next(events: &mut mpsc::Receiver<HealthEvent>) -> HealthEvent {
    timeout(DEADLINE, events.recv()).await.expect("an event in time").expect("an open channel")
}

fn report(health: &Health, spec: &CheckSpec) -> Report {
    health.report(spec.service, spec.backend).expect("a running check")
}

#[tokio::test]
async fn a_server_that_comes_and_goes_is_told() {
    let (sender, mut events) = mpsc::channel(8);
    let mut health = Health::new(sender);
    let (listener, target) = server().await;
    let spec = spec(1, target);
    health.set(vec![spec.clone()]);

    let up = next(&mut events).await;
    assert!(up.healthy, "{up:?}");
    assert_eq!((up.service, up.backend), (spec.service, spec.backend));

    drop(listener);
    let down = next(&mut events).await;
    assert!(!down.healthy && down.reason.contains("refused"), "{down:?}");
    assert!(down.decided >= up.decided);
    let seen = report(&health, &spec);
    assert_eq!(seen.healthy, Some(false));
    assert!(seen.passed >= 1 && seen.failed >= 3, "{seen:?}");

    let _listener = TcpListener::bind(target).await.expect("the port is free again");
    let again = next(&mut events).await;
    assert!(again.healthy, "{again:?}");
    assert!(report(&health, &spec).passed >= seen.passed + 2, "rise is 2");
}

#[tokio::test]
async fn the_event_follows_the_deciding_probe_at_once() {
    let (sender, mut events) = mpsc::channel(8);
    let mut health = Health::new(sender);
    let (listener, target) = server().await;
    drop(listener);
    let mut spec = spec(1, target);
    Arc::make_mut(&mut spec.check).interval = Duration::from_secs(3600);
    health.set(vec![spec]);
    // Nothing waits for the next probe, which is an hour away.
    assert!(!next(&mut events).await.healthy);
}

#[tokio::test]
async fn what_is_known_holds_until_it_is_refuted() {
    let (sender, mut events) = mpsc::channel(8);
    let mut health = Health::new(sender);
    let (listener, target) = server().await;
    drop(listener);
    let spec = CheckSpec { known: Some(true), ..spec(1, target) };
    health.set(vec![spec.clone()]);
    assert_eq!(report(&health, &spec).healthy, Some(true));
    let down = next(&mut events).await;
    assert!(!down.healthy);
    assert_eq!(report(&health, &spec).failed, 3, "it takes `fall` failures");
}

#[tokio::test]
async fn a_changed_check_keeps_what_it_knows() {
    let (sender, mut events) = mpsc::channel(8);
    let mut health = Health::new(sender);
    let (_listener, target) = server().await;
    let mut spec = spec(1, target);
    Arc::make_mut(&mut spec.check).interval = Duration::from_secs(3600);
    health.set(vec![spec.clone()]);
    assert!(next(&mut events).await.healthy);
    let before = report(&health, &spec);

    health.set(vec![CheckSpec { known: Some(true), ..spec.clone() }]);
    assert_eq!(report(&health, &spec), before, "the same check runs on");

    let (closed, elsewhere) = server().await;
    drop(closed);
    let mut changed = spec.clone();
    let check = Arc::make_mut(&mut changed.check);
    check.port = elsewhere.port();
    check.interval = Duration::from_millis(10);
    health.set(vec![changed.clone()]);
    assert_eq!(report(&health, &changed).healthy, Some(true));
    assert!(!next(&mut events).await.healthy, "the new target is probed");
    assert_eq!(report(&health, &changed).failed, 3);
}

#[tokio::test]
async fn a_removed_check_is_silent() {
    let (sender, mut events) = mpsc::channel(8);
    let mut health = Health::new(sender);
    let (listener, target) = server().await;
    let spec = spec(1, target);
    health.set(vec![spec.clone()]);
    assert!(next(&mut events).await.healthy);
    health.set(Vec::new());
    assert_eq!(health.report(spec.service, spec.backend), None);
    // The check's task held the only other sender: the channel ends once the task is gone.
    drop(health);
    drop(listener);
    assert_eq!(timeout(DEADLINE, events.recv()).await.expect("the task ends"), None);
}

#[tokio::test]
async fn a_hanging_probe_delays_no_other() {
    let (sender, mut events) = mpsc::channel(64);
    let mut health = Health::new(sender);
    let (_listener, target) = server().await;
    // This server accepts by the kernel's backlog only, and never answers.
    let hanging = (2..=40).map(|number| {
        let mut spec = spec(number, target);
        Arc::make_mut(&mut spec.check).probe = Probe::Http(HttpProbe {
            tls: None,
            method: Method::Get,
            path: "/".to_owned(),
            host: None,
            expect_status: StatusRange::new(200, 399).into_iter().collect(),
            expect_body: None,
            expect_header: None,
        });
        spec
    });
    let good = spec(1, target);
    let begun = Instant::now();
    health.set(hanging.chain([good.clone()]).collect());
    let event = next(&mut events).await;
    assert_eq!((event.backend, event.healthy), (good.backend, true));
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
}
