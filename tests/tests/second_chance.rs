//! Packets that reach a backend without their connection are sent on to the one that has it.

use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use xlb_tests::clients::http;
use xlb_tests::clients::stream::Streams;
use xlb_tests::lab::{Family, Host, Lab, Topology};
use xlb_tests::need_root;
use xlb_tests::netns::Namespace;
use xlb_tests::relay::{Relay, Way};
use xlb_tests::servers::{HTTP_PORT, Server};
use xlb_tests::wait;
use xlb_tests::xlb::{Decap, balancer_of};

/// How long it may take until routes and next hops are there.
const READY: Duration = Duration::from_secs(20);
/// How long one request may take until then.
const PATIENCE: Duration = Duration::from_secs(2);
/// Connections in each test.
const CONNECTIONS: usize = 20;
/// Requests on each of them.
const EXCHANGES: u64 = 30;

/// Connections are opened with one backend, then all of their packets go to another.
struct Case<'a> {
    lab: &'a Lab,
    family: Family,
    /// Where they are opened.
    opened: usize,
    /// Where their packets go then.
    moved: usize,
    /// Others, in the order in which they are tried.
    candidates: &'a [usize],
    /// Options of `xlb decap` on all backends.
    options: &'a [&'a str],
    /// Who serves.
    server: &'a str,
}

impl Case<'_> {
    /// Runs the connections, and checks that none breaks. Gives what each backend counted.
    fn run(&self) -> Result<Vec<Value>> {
        let Self { lab, family, .. } = *self;
        let from = balancer_of(lab);
        let decaps = lab
            .backends
            .iter()
            .map(|host| Decap::start_with(host, &from, self.options))
            .collect::<Result<Vec<_>>>()?;
        let address = |backend: usize| -> IpAddr { lab.backends[backend].address(family) };
        let opening = Way { to: address(self.opened), candidates: Vec::new() };
        let candidates = self.candidates.iter().map(|&backend| address(backend)).collect();
        let moved = Way { to: address(self.moved), candidates };
        let relay = Relay::start(&lab.balancer, family, opening, moved)?;

        let target = family.vip_port(HTTP_PORT);
        let client = &lab.client.namespace;
        wait::until("the first answer", READY, || http::ask(client, target, PATIENCE))?;
        let streams = Streams::open(client, target, CONNECTIONS)?;
        streams.progress(EXCHANGES)?;
        for stream in streams.close() {
            ensure!(stream.broken.is_none(), "a connection broke: {stream:?}");
            ensure!(stream.server == self.server, "another backend served: {stream:?}");
        }
        drop(relay);
        decaps.into_iter().map(Decap::stop).collect()
    }
}

fn forwarded(counted: &Value) -> Result<u64> {
    counted["forwarded"].as_u64().with_context(|| format!("no number in {counted}"))
}

/// For both families.
fn each(backends: u8, test: impl Fn(&Lab, Family) -> Result<()>) -> Result<()> {
    for family in Family::ALL {
        let lab = Lab::new(Topology::OneSegment, backends)?;
        test(&lab, family).with_context(|| format!("{family:?}"))?;
    }
    Ok(())
}

#[test]
fn a_connection_that_lives_elsewhere_goes_on() -> Result<()> {
    need_root!();
    each(2, |lab, family| {
        let _servers = Server::start_all(&lab.backends)?;
        let case =
            Case { lab, family, opened: 0, moved: 1, candidates: &[0], options: &[], server: "b1" };
        let counted = case.run()?;
        let sent_on = forwarded(&counted[1])?;
        ensure!(sent_on >= CONNECTIONS as u64 * EXCHANGES, "too few were sent on: {counted:?}");
        ensure!(forwarded(&counted[0])? == 0, "sent on by the one that has it: {counted:?}");
        ensure!(counted[1]["packets"] == 0, "taken by the one that hasn't it: {counted:?}");
        Ok(())
    })
}

#[test]
fn the_second_candidate_is_found_by_way_of_the_first() -> Result<()> {
    need_root!();
    each(3, |lab, family| {
        let _servers = Server::start_all(&lab.backends)?;
        let case = Case {
            lab,
            family,
            opened: 0,
            moved: 2,
            candidates: &[1, 0],
            options: &[],
            server: "b1",
        };
        let counted = case.run()?;
        for hop in [2, 1] {
            let sent_on = forwarded(&counted[hop])?;
            ensure!(sent_on >= CONNECTIONS as u64 * EXCHANGES, "b{}: {counted:?}", hop + 1);
        }
        Ok(())
    })
}

#[test]
fn a_connection_that_is_here_stays() -> Result<()> {
    need_root!();
    each(2, |lab, family| {
        let _servers = Server::start_all(&lab.backends)?;
        let case =
            Case { lab, family, opened: 1, moved: 1, candidates: &[0], options: &[], server: "b2" };
        let counted = case.run()?;
        ensure!(forwarded(&counted[1])? == 0, "sent on: {counted:?}");
        Ok(())
    })
}

/// No socket knows of the connection between its SYN and the ACK that brings the cookie back.
#[test]
fn syn_cookies_are_told_from_strangers() -> Result<()> {
    need_root!();
    for opened in [0, 1] {
        each(2, |lab, family| {
            for host in &lab.backends {
                host.namespace.sysctl("net/ipv4/tcp_syncookies", "2")?;
            }
            let _servers = Server::start_all(&lab.backends)?;
            let server = &lab.backends[opened].name;
            let case =
                Case { lab, family, opened, moved: 1, candidates: &[0], options: &[], server };
            let counted = case.run()?;
            let stayed = forwarded(&counted[1])? == 0;
            ensure!(stayed == (opened == 1), "opened at {server}: {counted:?}");
            Ok(())
        })?;
    }
    Ok(())
}

/// A server in a network namespace of its own behind the backend, which has the virtual address
/// there.
#[test]
fn connections_of_containers_are_found() -> Result<()> {
    need_root!();
    each(2, |lab, family| {
        let container = container(&lab.backends[1], family)?;
        let _servers = [Server::start(&lab.backends[0])?, Server::start(&container)?];
        let name = container.namespace.name();
        let case = Case {
            lab,
            family,
            opened: 1,
            moved: 1,
            candidates: &[0],
            options: &["--netns", name],
            server: "container",
        };
        let counted = case.run()?;
        ensure!(forwarded(&counted[1])? == 0, "sent on: {counted:?}");
        Ok(())
    })
}

/// Moves the virtual address of a backend into a container.
fn container(backend: &Host, family: Family) -> Result<Host> {
    let container = Host {
        namespace: Namespace::new("container")?,
        name: "container".to_owned(),
        v4: "10.99.0.2".parse()?,
        v6: "fd99::2".parse()?,
        mac: [0; 6],
    };
    let (inside, outside) = (&container.namespace, &backend.namespace);
    outside.ip(&format!(
        "link add c0 type veth peer name eth0 netns {}
         addr add 10.99.0.1/24 dev c0
         addr add fd99::1/64 dev c0 nodad
         link set c0 up",
        inside.name()
    ))?;
    inside.ip("addr add 10.99.0.2/24 dev eth0
         addr add fd99::2/64 dev eth0 nodad
         link set eth0 up
         route add default via 10.99.0.1
         route add default via fd99::1")?;
    for vip in Family::ALL.map(Family::vip) {
        let width = if vip.is_ipv4() { 32 } else { 128 };
        inside.ip(&format!("addr add {vip}/{width} dev lo"))?;
    }
    let (width, gateway) = if family == Family::V4 { (32, "10.99.0.2") } else { (128, "fd99::2") };
    let vip = family.vip();
    outside.ip(&format!(
        "addr del {vip}/{width} dev lo
         route add {vip}/{width} via {gateway}"
    ))?;
    outside.sysctl("net/ipv4/ip_forward", "1")?;
    outside.sysctl("net/ipv6/conf/all/forwarding", "1")?;
    Ok(container)
}
