//! Both ends of the API over a real socket, and clients that don't behave.

use std::time::{Duration, Instant, SystemTime};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixStream,
};

use super::{testing::TestAgent, *};
use crate::{
    config::{BackendSpec, ServiceSpec},
    model::BackendKey,
};

fn spec(name: &str, vip: &str, backends: &[&str]) -> ServiceSpec {
    let backend =
        |address: &&str| BackendSpec { address: (*address).to_owned(), ..Default::default() };
    ServiceSpec {
        name: name.to_owned(),
        vip: vip.to_owned(),
        protocol: Some("tcp".to_owned()),
        forward: "ipip".to_owned(),
        backends: backends.iter().map(backend).collect(),
        ..ServiceSpec::default()
    }
}

fn agent() -> (TestAgent, Client) {
    let agent = TestAgent::start();
    let client = Client::new(&agent.socket());
    (agent, client)
}

#[track_caller]
fn refused<T: std::fmt::Debug>(result: Result<T, ClientError>) -> (ApiError, bool) {
    match result {
        Err(ClientError::Refused { error, wrong_input }) => (error, wrong_input),
        other => panic!("{other:?} should have been refused"),
    }
}

/// Sends bytes as they are, and reads until the agent closes.
async fn raw(agent: &TestAgent, request: &[u8]) -> String {
    let mut stream = UnixStream::connect(agent.socket()).await.unwrap();
    // The agent may refuse before it has read all.
    let _ = stream.write_all(request).await;
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;
    String::from_utf8_lossy(&answer).into_owned()
}

#[tokio::test]
async fn services_come_change_and_go() {
    let (_agent, client) = agent();
    assert_eq!(client.services().await.unwrap(), []);
    let web = spec("web", "203.0.113.10:80", &["10.0.0.11", "10.0.0.12"]);
    let added = client.add_service(&web).await.unwrap();
    assert_eq!((added.name.as_str(), added.backends.len()), ("web", 2));
    assert_eq!(client.service("web").await.unwrap(), added);
    assert_eq!(client.status().await.unwrap().services, [added]);
    assert_eq!(client.stats().await.unwrap().services[0].packets_total, 2 * 1_234_567);
    assert_eq!(client.remove_service("web").await.unwrap(), Removed { removed: "web".into() });
    assert_eq!(client.services().await.unwrap(), []);
}

#[tokio::test]
async fn backends_come_change_and_go() {
    let (_agent, client) = agent();
    client.add_service(&spec("web", "[2001:db8::10]:443", &[])).await.unwrap();
    let backend = BackendSpec {
        address: "2001:db8::11".to_owned(),
        weight: Some(7),
        ..BackendSpec::default()
    };
    let added = client.add_backend("web", &backend).await.unwrap();
    assert_eq!((added.weight, added.state), (7, BackendState::Healthy));
    assert_eq!(client.backends("web").await.unwrap(), [added]);

    let change = BackendChange { weight: Some(NewWeight::Live(9)), drain: Some(true) };
    let changed = client.set_backend("web", "2001:db8::11", change).await.unwrap();
    assert_eq!((changed.weight, changed.state), (9, BackendState::Draining));
    let change = BackendChange { drain: Some(false), weight: None };
    let changed = client.set_backend("web", "2001:db8::11", change).await.unwrap();
    assert_eq!((changed.weight, changed.state), (9, BackendState::Healthy));

    // Another spelling is the same address.
    let removed = client.remove_backend("web", "2001:DB8:0::11", false).await.unwrap();
    assert_eq!(removed.removed, "2001:db8::11");
    assert_eq!(client.backends("web").await.unwrap(), []);
}

#[tokio::test]
async fn flows_are_asked_for_by_what_they_have() {
    let (_agent, client) = agent();
    let filter = FlowFilter {
        service: Some("a&b".to_owned()),
        backend: Some("[2001:db8::11]:8080".to_owned()),
        client: Some("192.0.2.1:4711".to_owned()),
        limit: Some(5),
    };
    let list = client.flows(&filter).await.unwrap();
    let [flow] = &list.flows[..] else { panic!("{list:?}") };
    assert_eq!(flow.service, "a&b");
    assert_eq!((&*flow.backend, &*flow.client), ("[2001:db8::11]:8080", "192.0.2.1:4711"));
    assert_eq!(filter.words(), "service a&b, backend [2001:db8::11]:8080, client 192.0.2.1:4711");
    assert_eq!(refused(client.kill_flows(&filter).await).0.kind, ErrorKind::Invalid);
    let filter = FlowFilter { limit: None, ..filter };
    assert_eq!(client.kill_flows(&filter).await.unwrap().killed, 1);
    assert_eq!(FlowFilter::default().words(), "all");
}

#[tokio::test]
async fn wrong_input_is_told_as_such() {
    let (_agent, client) = agent();
    client.add_service(&spec("web", "203.0.113.10:80", &["10.0.0.11"])).await.unwrap();

    let (error, wrong_input) = refused(client.service("mail").await);
    assert_eq!((error.kind, wrong_input), (ErrorKind::NotFound, true));
    assert!(error.message.contains("\"mail\""), "{error}");
    assert!(error.hint.is_some());

    let (error, wrong_input) = refused(client.service("../web/x?y#z").await);
    assert_eq!((error.kind, wrong_input), (ErrorKind::NotFound, true));

    let (error, _) = refused(client.add_service(&spec("web", "203.0.113.11:80", &[])).await);
    assert_eq!(error.kind, ErrorKind::Conflict);

    // Every mistake at once.
    let (error, wrong_input) =
        refused(client.add_service(&spec("x", "nowhere", &["10.0.0"])).await);
    assert_eq!((error.kind, wrong_input), (ErrorKind::Invalid, true));
    assert_eq!(error.message.lines().count(), 2, "{error}");
    assert!(error.message.contains("vip") && error.message.contains("10.0.0"), "{error}");
    assert!(error.message.contains("203.0.113.10:80"), "what is allowed: {error}");

    let (error, _) = refused(client.add_service(&spec("x", "nowhere", &[])).await);
    assert!(error.hint.is_some_and(|hint| hint.contains("203.0.113.10:80")));

    let nothing = BackendChange::default();
    let (error, _) = refused(client.set_backend("web", "10.0.0.11", nothing).await);
    assert_eq!(error.kind, ErrorKind::Invalid);
    let drain = BackendChange { drain: Some(true), weight: None };
    let (error, _) = refused(client.set_backend("web", "10.0.0.99", drain).await);
    assert_eq!(error.kind, ErrorKind::NotFound);
    let (error, _) = refused(client.set_backend("web", "ten", drain).await);
    assert_eq!(error.kind, ErrorKind::Invalid);
    let (error, _) = refused(client.remove_backend("web", "10.0.0.99", true).await);
    assert_eq!(error.kind, ErrorKind::NotFound);

    let mut query = FlowQuery {
        from: "192.0.2.1:1".parse().unwrap(),
        to: "[2001:db8::10]:80".parse().unwrap(),
        protocol: "tcp".to_owned(),
    };
    assert_eq!(refused(client.explain(&query).await).0.kind, ErrorKind::Invalid);
    query.to = "203.0.113.10:80".parse().unwrap();
    assert_eq!(client.explain(&query).await.unwrap().backend.as_deref(), Some("10.0.0.11"));
    query.protocol = "icmp".to_owned();
    assert_eq!(refused(client.explain(&query).await).0.kind, ErrorKind::Invalid);
}

#[tokio::test]
async fn whatever_is_sent_gets_an_error_in_json() {
    let (agent, _) = agent();
    let body = |body: &str| {
        format!(
            "PATCH /v1/services/web/backends/10.0.0.1 HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        )
    };
    for (request, status, kind) in [
        ("GET /v2/status HTTP/1.1\r\nHost: x\r\n\r\n".to_owned(), "404", "not_found"),
        ("PUT /v1/status HTTP/1.1\r\nHost: x\r\n\r\n".to_owned(), "405", "method_not_allowed"),
        ("GET /v1/events?since=x HTTP/1.1\r\nHost: x\r\n\r\n".to_owned(), "400", "invalid"),
        ("GET /v1/services/%ff HTTP/1.1\r\nHost: x\r\n\r\n".to_owned(), "400", "invalid"),
        (body("{").replace("Length: 1", "Length: 2"), "400", "invalid"),
        (body("{"), "400", "invalid"),
        (body("{\"weight\": 65536}"), "400", "invalid"),
        (body("{\"wieght\": 1}"), "400", "invalid"),
        (body("[]"), "400", "invalid"),
        (
            format!(
                "POST /v1/services HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n",
                BODY_MAX + 1
            ),
            "413",
            "too_large",
        ),
    ] {
        let answer = raw(&agent, request.as_bytes()).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{request}: {answer}");
        assert!(
            answer.contains(&format!("{{\"error\":{{\"kind\":\"{kind}\"")),
            "{request}: {answer}"
        );
    }
}

/// Whoever follows the events leaves room for those who ask and change.
#[tokio::test]
async fn followers_lock_nobody_out() {
    let (agent, client) = agent();
    let mut followers = tokio::task::JoinSet::new();
    for _ in 0..serve::CONNECTIONS_MAX {
        let client = client.clone();
        followers.spawn(async move { client.events(0, true).await });
    }
    let mut refusals = 0;
    while refusals < serve::CONNECTIONS_MAX - routes::WAITING_MAX {
        let refusal = followers.join_next().await.expect("one is refused").unwrap();
        let (error, wrong_input) = refused(refusal);
        assert_eq!((error.kind, wrong_input), (ErrorKind::Unavailable, false));
        assert!(error.message.contains("wait for events"), "{error}");
        refusals += 1;
    }
    client.status().await.unwrap();
    assert_eq!(client.events(0, false).await.unwrap(), EventPage::default());
    let news = News::new(EventKind::Reloaded, Cause::Config, "x");
    agent.handle().events.push(SystemTime::now(), news);
    while let Some(page) = followers.join_next().await {
        assert_eq!(page.unwrap().unwrap().events.len(), 1);
    }
}

#[tokio::test]
async fn garbage_and_silence_harm_nobody_else() {
    let (agent, client) = agent();
    let answer = raw(&agent, b"\x16\x03\x01\x02\x00garbage\r\n\r\n").await;
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 400"), "{answer}");
    let huge = format!("GET /v1/status HTTP/1.1\r\nX: {}\r\n\r\n", "a".repeat(1 << 20));
    let answer = raw(&agent, huge.as_bytes()).await;
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 4"), "{answer}");

    let begun = Instant::now();
    let mut silent = UnixStream::connect(agent.socket()).await.unwrap();
    silent.write_all(b"GET /v1/sta").await.unwrap();
    client.status().await.unwrap();
    assert!(begun.elapsed() < Duration::from_secs(3));
    // The one that says no more is hung up on.
    let mut rest = Vec::new();
    let _ = silent.read_to_end(&mut rest).await;
    assert!(begun.elapsed() < Duration::from_secs(20));
}

#[tokio::test]
async fn events_are_waited_for() {
    let (agent, client) = agent();
    assert_eq!(client.events(0, false).await.unwrap(), EventPage::default());
    let waiting = tokio::spawn({
        let client = client.clone();
        async move { client.events(0, true).await.unwrap() }
    });
    let key: BackendKey = "10.0.0.11".parse().unwrap();
    let news = News::new(EventKind::BackendDown, Cause::Health, "refused").about("web", key);
    agent.handle().events.push(SystemTime::now(), news);
    let page = waiting.await.unwrap();
    assert_eq!((page.last, page.events.len()), (1, 1));
    assert_eq!(page.events[0].kind, EventKind::BackendDown);
    assert_eq!(client.events(1, false).await.unwrap().events, []);
}

#[tokio::test]
async fn an_agent_that_is_gone_is_told() {
    let (mut agent, client) = agent();
    client.status().await.unwrap();
    agent.stop().await;
    assert!(!agent.socket().exists());
    assert!(matches!(client.status().await, Err(ClientError::NotRunning(_))));

    drop(std::os::unix::net::UnixListener::bind(agent.socket()).unwrap());
    let stale = client.status().await;
    assert!(matches!(stale, Err(ClientError::NotRunning(_))), "{stale:?}");
}

#[tokio::test]
async fn a_stopping_agent_is_unavailable_not_wrong_input() {
    let (commands, inbox) = tokio::sync::mpsc::channel(1);
    drop(inbox);
    let handle = AgentHandle { commands, events: EventLog::default() };
    let error = handle.ask(Command::Status).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Unavailable);
    let response = axum::response::IntoResponse::into_response(error);
    assert!(response.status().is_server_error());
}

#[tokio::test]
async fn another_kind_of_server_is_recognised() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("other.sock");
    let listener = tokio::net::UnixListener::bind(&path).unwrap();
    let server = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        stream.write_all(b"220 mail.example ESMTP\r\n").await.unwrap();
    });
    let answer = Client::new(&path).status().await;
    assert!(matches!(answer, Err(ClientError::Garbled { .. })), "{answer:?}");
    server.await.unwrap();
}
