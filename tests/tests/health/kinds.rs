//! Each type of check sees its server come and go, whatever it is that goes wrong.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use xlb_tests::lab::{Family, Lab, Topology, VIP4};
use xlb_tests::xlb::{Agent, Forward, Health, Protocol, Service, Settings};
use xlb_tests::{need_root, wait};

use super::servers::{DNS, GRPC, HTTP, HTTPS, NAME, Servers, TOLD};

/// How long a change may take until it shows.
const READY: Duration = Duration::from_secs(40);

/// A query for the address of `a.`, and what the good answer ends with: 192.0.2.80.
const DATAGRAM: &str = "send = \"hex:000701000001000000000000016100 00010001\"";
const ANSWER: &str = "expect = \"hex:c0000250\"";

/// A service for each type of check, by the type's name.
fn services(servers: &Servers<'_>, backend: std::net::IpAddr) -> Result<Vec<Service>> {
    let ca_file = servers.authority();
    let ca_file = ca_file.display();
    let datagram = format!("{}\n{ANSWER}", DATAGRAM.replace(' ', ""));
    let checks = [
        ("tcp", HTTP, String::new()),
        (
            "http",
            HTTP,
            "path = \"/healthz\"\nexpect_header = \"X-Served-By: nginx\"\nexpect_body = \"well well\""
                .to_owned(),
        ),
        (
            "https",
            HTTPS,
            format!(
                "path = \"/healthz\"\nhost = \"{NAME}\"\nca_file = \"{ca_file}\"\nalpn = [\"h2\"]"
            ),
        ),
        ("grpc", GRPC, "grpc_service = \"shop\"".to_owned()),
        ("dns", DNS, format!("query = \"www.example\"\nexpect_answer = \"{}\"", TOLD[0])),
        ("udp", DNS, datagram),
        (
            "exec",
            HTTP,
            "command = [\"/bin/sh\", \"-c\", \"exec curl -sS --fail --max-time 5 \
             http://$XLB_BACKEND:$XLB_BACKEND_PORT/healthz >/dev/null\"]"
                .to_owned(),
        ),
    ];
    let service = |(number, (kind, port, more)): (u16, (&str, u16, String))| {
        let vip = SocketAddr::new(VIP4.into(), 1000 + number);
        let service = Service::new(kind, vip, Protocol::Tcp, Forward::L2);
        Ok(service.to([backend]).watched(Health::of(kind, port, &more)?))
    };
    (0..).zip(checks).map(service).collect()
}

/// Waits until every service's backend is down for the reason that `reason` gives for it, or up
/// where that gives none.
fn expect(
    agent: &Agent<'_>,
    settings: &Settings,
    what: &str,
    reason: impl Fn(&str) -> Option<&'static str>,
) -> Result<()> {
    wait::until(what, READY, || {
        for service in &settings.services {
            let backend = agent.backend(&service.name, &service.backends[0].address)?;
            let (state, health) = (&backend["state"], &backend["health"]);
            let seen = health["reason"].as_str().unwrap_or_default();
            let expected = reason(&service.name);
            let good = match expected {
                None => state == "healthy" && health["contradicting"] == 0,
                Some(reason) => state == "unhealthy" && seen.contains(reason),
            };
            ensure!(good, "{} is {state}: {seen:?}; expected {expected:?}", service.name);
        }
        Ok(())
    })
}

#[test]
fn every_type_sees_its_server_break_and_recover() -> Result<()> {
    need_root!();
    let lab = Lab::new(Topology::OneSegment, 1)?;
    let host = &lab.backends[0];
    let servers = Servers::start(&host.namespace).context("start the servers")?;
    let settings = Settings {
        interfaces: vec!["eth0".to_owned()],
        services: services(&servers, host.address(Family::V4))?,
        ..Settings::default()
    };
    let agent = Agent::start(&lab.balancer.namespace, &settings)?;
    let up = |what: &str| expect(&agent, &settings, what, |_| None);
    up("the servers to be up")?;

    servers.kill()?;
    expect(&agent, &settings, "the servers to be killed", |kind| match kind {
        "exec" => Some("exit status 7: "),
        _ => Some("refused"),
    })?;
    servers.restart()?;
    up("the servers to be back")?;

    servers.firewall(Some(["drop", "drop"]))?;
    expect(&agent, &settings, "the packets to be dropped", |_| Some("timed out after 500ms"))?;
    servers.firewall(None)?;
    up("the packets to get through")?;

    servers.firewall(Some(["reject with tcp reset", "reject with icmp type port-unreachable"]))?;
    expect(&agent, &settings, "the packets to be refused", |kind| match kind {
        "exec" => Some("exit status 7: "),
        _ => Some("refused"),
    })?;
    servers.firewall(None)?;
    up("the packets to get through again")?;

    // The kernel goes on accepting connections for a program that stands still.
    servers.signal(Signal::SIGSTOP)?;
    expect(&agent, &settings, "the servers to stand still", |kind| {
        (kind != "tcp").then_some("timed out after 500ms")
    })?;
    servers.signal(Signal::SIGCONT)?;
    up("the servers to go on")?;

    servers.set_broken(true)?;
    expect(&agent, &settings, "the servers to be broken", |kind| match kind {
        "http" | "https" => Some("status 500 Internal Server Error, expected 200-399"),
        "grpc" => Some("NOT_SERVING"),
        "dns" => Some("none of them \"192.0.2.80\"; the first is \"192.0.2.81\""),
        "udp" => Some("doesn't hold"),
        "exec" => Some("exit status 22: "),
        _ => None,
    })?;
    servers.set_broken(false)?;
    up("the servers to be mended")?;

    servers.set_slow(true)?;
    expect(&agent, &settings, "the bodies to drip", |kind| match kind {
        "http" | "https" | "exec" => Some("timed out after 500ms"),
        _ => None,
    })?;
    servers.set_slow(false)?;
    up("the bodies to flow")
}
