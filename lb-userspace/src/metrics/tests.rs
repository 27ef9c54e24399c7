//! What a scraper sees.

use std::{collections::BTreeSet, net::Ipv4Addr};

use lb_common::verdict::DropReason;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::*;
use crate::{
    api::{Client, testing::TestAgent},
    config::{BackendSpec, ServiceSpec},
};

async fn agent() -> TestAgent {
    let agent = TestAgent::start();
    let backend = |address: &str, weight| BackendSpec {
        address: address.to_owned(),
        weight: Some(weight),
        ..BackendSpec::default()
    };
    let spec = ServiceSpec {
        name: "web".to_owned(),
        vip: "[2001:db8::10]:443".to_owned(),
        protocol: Some("tcp".to_owned()),
        forward: "ipip".to_owned(),
        backends: vec![backend("10.0.0.11", 100), backend("2001:db8::12", 300)],
        ..ServiceSpec::default()
    };
    Client::new(&agent.socket()).add_service(&spec).await.unwrap();
    agent
}

async fn get(address: SocketAddr, path: &str) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

#[tokio::test]
async fn a_scrape_tells_everything() {
    let agent = agent().await;
    let server = MetricsServer::bind((Ipv4Addr::LOCALHOST, 0).into()).await.unwrap();
    let address = server.address().unwrap();
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let serving = tokio::spawn(server.serve(agent.handle().clone(), async {
        let _ = stopped.await;
    }));
    let answer = get(address, "/metrics").await;
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    assert!(
        answer.contains("content-type: application/openmetrics-text; version=1.0.0"),
        "{answer}"
    );
    let first = "service=\"web\",backend=\"10.0.0.11\"";
    let second = "service=\"web\",backend=\"2001:db8::12\"";
    for line in [
        "xlb_build_info{version=\"1.2.3\"} 1.0".to_owned(),
        "xlb_uptime_seconds 93784.5".to_owned(),
        "xlb_maps_bytes 12582912.0".to_owned(),
        "xlb_reloads_total{result=\"ok\"} 3".to_owned(),
        "xlb_reloads_total{result=\"error\"} 1".to_owned(),
        "xlb_events_total{kind=\"service_added\"} 1".to_owned(),
        "xlb_events_total{kind=\"backend_down\"} 0".to_owned(),
        "xlb_hooks_total{result=\"ok\"} 6".to_owned(),
        "xlb_hooks_total{result=\"timed_out\"} 2".to_owned(),
        "xlb_health_reaction_seconds_bucket{le=\"0.001\"} 1".to_owned(),
        "xlb_health_reaction_seconds_bucket{le=\"0.005\"} 3".to_owned(),
        "xlb_health_reaction_seconds_bucket{le=\"+Inf\"} 3".to_owned(),
        "xlb_health_reaction_seconds_count 3".to_owned(),
        "xlb_interface_attached{interface=\"eth0\"} 1.0".to_owned(),
        "xlb_passes_total 77".to_owned(),
        "xlb_drops_total{reason=\"fragment\"} 5".to_owned(),
        "xlb_service_slots_moved_total{service=\"web\"} 321".to_owned(),
        format!("xlb_backend_packets_total{{{first}}} 1234567"),
        format!("xlb_backend_bytes_total{{{second}}} 987654321"),
        format!("xlb_backend_new_flows_total{{{second}}} 4321"),
        format!("xlb_backend_healthy{{{first}}} 1.0"),
        format!("xlb_backend_weight{{{second}}} 300.0"),
        format!("xlb_backend_live_weight{{{second}}} 300.0"),
        format!("xlb_backend_share{{{second}}} 0.75"),
        format!("xlb_health_checks_total{{{first},result=\"passed\"}} 9"),
        format!("xlb_health_checks_total{{{first},result=\"failed\"}} 2"),
        format!("xlb_health_checks_total{{{first},result=\"inconclusive\"}} 1"),
        "# EOF".to_owned(),
    ] {
        assert!(answer.lines().any(|found| found == line), "{line} is not in {answer}");
    }
    let drops: BTreeSet<_> =
        answer.lines().filter_map(|line| line.strip_prefix("xlb_drops_total{reason=\"")).collect();
    assert_eq!(drops.len(), DropReason::ALL.len(), "every reason, also at 0");

    assert!(get(address, "/").await.starts_with("HTTP/1.1 404 "));
    drop(stop);
    serving.await.unwrap();
    assert!(TcpStream::connect(address).await.is_err(), "it listens no more");
}

#[tokio::test]
async fn a_taken_address_is_told() {
    let server = MetricsServer::bind((Ipv4Addr::LOCALHOST, 0).into()).await.unwrap();
    let address = server.address().unwrap();
    let error = MetricsServer::bind(address).await.unwrap_err().to_string();
    assert!(error.contains(&address.to_string()) && error.contains("[api] metrics"), "{error}");
}

#[tokio::test]
async fn label_values_cannot_break_out() {
    let agent = TestAgent::start();
    let handle = agent.handle();
    let mut status = handle.ask(Command::Status).await.unwrap();
    status.version = "a\"} 1\nxlb_evil 1\\".to_owned();
    let text = render(&status, &handle.ask(Command::Stats).await.unwrap(), &[]);
    assert!(text.contains("xlb_build_info{version=\"a\\\"} 1\\nxlb_evil 1\\\\\"} 1.0\n"), "{text}");
}
