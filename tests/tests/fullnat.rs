//! Backends that know nothing of the VIP, of the balancer or of clients: `fullnat`.

use std::net::{SocketAddr, SocketAddrV4};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use xlb_tests::clients::flood::{Flood, Forged};
use xlb_tests::clients::stream::{Stream, Streams};
use xlb_tests::clients::{crowd, http};
use xlb_tests::lab::{Family, Host, Topology, VIP4};
use xlb_tests::scene::{ECHO, Scene, WEB};
use xlb_tests::servers::HTTP_PORT;
use xlb_tests::xlb::{Agent, Forward, Protocol, Service};
use xlb_tests::{need_root, wait};

const READY: Duration = Duration::from_secs(20);
const PATIENCE: Duration = Duration::from_secs(60);
const LARGE: usize = 16 << 20;
/// Connections that a test holds open.
const STREAMS: usize = 60;

/// A port that no server listens on.
const VIP_PORT: u16 = 8000;

const TOPOLOGIES: [Topology; 2] = [Topology::OneNicGateway, Topology::TwoNicsGateway];

/// Backends with ports of their own and no way to clients; the agent is killed and comes back, and
/// a backend is taken out, while connections are open.
#[test]
fn no_connection_breaks_while_the_agent_is_gone_or_a_backend_leaves() -> Result<()> {
    need_root!();
    for (topology, family) in TOPOLOGIES.into_iter().zip(Family::ALL) {
        let scene = Scene::new(topology, Forward::Fullnat, 3)?;
        for backend in &scene.lab.backends {
            let (v4, v6) = (scene.lab.balancer.v4, scene.lab.balancer.v6);
            let routes = format!("route del default via {v4}\nroute del default via {v6}");
            backend.namespace.ip(&routes)?;
        }
        let client = &scene.lab.client.namespace;
        let mut settings = scene.settings(family, 0);
        let web = family.vip_port(VIP_PORT);
        let service = &mut settings.services[0];
        *service = Service { vip: web.to_string(), ..service.clone() };
        let mut agent = Agent::start(&scene.lab.balancer.namespace, &settings)?;
        let own = |index: usize| SocketAddr::new(scene.lab.addresses(family)[index], HTTP_PORT);
        for index in 0..3 {
            agent.call(&["backend", "add", WEB, &own(index).to_string()])?;
        }
        wait::until("the service to be there", READY, || {
            http::load(client, web, 60, 20)?.served_by(["b1", "b2", "b3"])
        })?;

        let streams = Streams::open(client, web, STREAMS)?;
        agent.kill()?;
        streams.progress(10)?;
        http::load(client, web, 500, 20)?.all_answered(500)?;
        agent.launch(&[])?;
        streams.progress(10)?;
        agent.call(&["backend", "remove", WEB, &own(0).to_string()])?;
        wait::until("the backend to leave", READY, || {
            http::load(client, web, 60, 20)?.served_by(["b2", "b3"])
        })?;
        streams.progress(10)?;
        let answers = agent.backend(WEB, &own(1).to_string())?["answers_total"].as_u64();
        ensure!(answers.is_some_and(|answers| answers > 0), "no answers are counted");
        let broken: Vec<_> = streams.close().into_iter().filter(|s| s.broken.is_some()).collect();
        ensure!(broken.is_empty(), "{topology:?} {family:?}: {} broke", broken.len());
    }
    Ok(())
}

/// Client, balancer and backend share a segment, and the balancer's one address is the VIP, too.
#[test]
fn one_address_is_vip_and_pool() -> Result<()> {
    need_root!();
    let scene = Scene::new(Topology::OneSegment, Forward::Fullnat, 2)?;
    let balancer = &scene.lab.balancer;
    for sysctl in ["net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding"] {
        balancer.namespace.sysctl(sysctl, "1")?;
    }
    for family in Family::ALL {
        let mut settings = scene.settings(family, 2);
        let web = SocketAddr::new(balancer.address(family), HTTP_PORT);
        settings.services.truncate(1);
        settings.services[0].vip = web.to_string();
        let _agent = Agent::start(&balancer.namespace, &settings)?;
        let client = &scene.lab.client.namespace;
        wait::until("the service to be there", READY, || {
            http::load(client, web, 60, 20)?.served_by(["b1", "b2"])
        })?;
        http::load(client, web, 2000, 32)?.all_answered(2000)?;
        http::upload(client, web, LARGE, PATIENCE).with_context(|| format!("{family:?}"))?;
    }
    Ok(())
}

/// Ports of a pool are taken, told to be scarce, refused by name, and come back.
#[test]
fn ports_run_out_and_come_back() -> Result<()> {
    need_root!();
    let scene = Scene::new(Topology::TwoNicsGateway, Forward::Fullnat, 1)?;
    let client = &scene.lab.client.namespace;
    let mut settings = scene.settings(Family::V4, 1);
    settings.fullnat.insert("ports".into(), "2000-2063".into());
    settings.fullnat.insert("closing_timeout".into(), "1s".into());
    let agent = Agent::start(&scene.lab.balancer.namespace, &settings)?;
    scene.served_by(Family::V4, &["b1"])?;
    let web = Family::V4.vip_port(HTTP_PORT);

    wait::until("the ports of the first connections to come back", READY, || {
        ensure!(flows(&agent, &[])?.is_empty(), "some are taken");
        Ok(())
    })?;
    let streams = Streams::open(client, web, 60)?;
    let told = |kind: &str| -> Result<()> {
        let events = agent.try_call(&["events", "--kind", kind])?.stdout;
        let count = events.lines().count();
        ensure!(count == 1, "{count} events");
        Ok(())
    };
    wait::until("scarce ports to be told", READY, || told("ports_scarce"))?;
    wait::until("a drop for ports_exhausted", READY, || {
        // Whether they are answered doesn't matter.
        for _ in 0..5 {
            let _ = http::ask(client, web, Duration::from_millis(50));
        }
        let drops = agent.call(&["stats"])?["drops_total"]["ports_exhausted"].as_u64();
        ensure!(drops.is_some_and(|drops| drops > 0), "none yet");
        Ok(())
    })?;
    streams.progress(10)?;
    let broken: Vec<_> = streams.close().into_iter().filter(|s| s.broken.is_some()).collect();
    ensure!(broken.is_empty(), "{} broke", broken.len());
    wait::until("enough ports to be told", READY, || told("ports_eased"))?;
    http::load(client, web, 20, 5)?.all_answered(20)
}

/// Flows are told, by whom they are with, and killed.
#[test]
fn flows_are_told_and_killed() -> Result<()> {
    need_root!();
    let scene = Scene::new(Topology::OneNicGateway, Forward::Fullnat, 2)?;
    let client = &scene.lab.client;
    let agent = Agent::start(&scene.lab.balancer.namespace, &scene.settings(Family::V4, 2))?;
    scene.served_by(Family::V4, &["b1", "b2"])?;
    let streams = Streams::open(&client.namespace, Family::V4.vip_port(HTTP_PORT), STREAMS)?;
    streams.progress(2)?;

    let open = |arguments: &[&str]| -> Result<Vec<Value>> {
        let mut flows = flows(&agent, arguments)?;
        flows.retain(|flow| flow["state"] == "open");
        Ok(flows)
    };
    let all = open(&[])?;
    ensure!(all.len() == STREAMS, "{} flows are told", all.len());
    let pool = format!("{}:", scene.lab.balancer.v4);
    ensure!(
        all.iter().all(|flow| {
            let text = |key: &str| flow[key].as_str().unwrap_or_default();
            flow["service"] == WEB
                && text("client").starts_with(&client.v4.to_string())
                && text("source").starts_with(&pool)
        }),
        "{:?}",
        all[0]
    );
    let first = scene.lab.backends[0].v4.to_string();
    let of_first = open(&["--backend", &first])?;
    ensure!(!of_first.is_empty() && of_first.len() < STREAMS, "{} with b1", of_first.len());
    ensure!(of_first.iter().all(|flow| flow["backend"] == first.as_str()), "others are told");
    ensure!(open(&["--service", ECHO])?.is_empty(), "flows of another service are told");
    let one = all[0]["client"].as_str().context("a flow without a client")?;
    ensure!(open(&["--client", one])?.len() == 1, "one client's flow isn't one");
    wait::until("the ports to be counted", READY, || {
        let status = agent.backend(WEB, &first)?;
        ensure!(
            status["fullnat_ports"]["used"].as_u64() >= Some(of_first.len() as u64),
            "{status}"
        );
        Ok(())
    })?;

    let killed = agent.call(&["flows", "kill", "--backend", &first])?;
    ensure!(killed["killed"].as_u64() >= Some(of_first.len() as u64), "{killed}");
    // Each by its next packet.
    let broken = |streams: Vec<Stream>| streams.iter().filter(|s| s.broken.is_some()).count();
    wait::until("the killed ones to break", READY, || {
        let broken = broken(streams.now());
        ensure!(broken >= of_first.len(), "{broken} broke, {} were killed", of_first.len());
        Ok(())
    })?;
    streams.progress(10)?;
    let left = open(&[])?.len();
    let broken = broken(streams.close());
    ensure!(broken == of_first.len(), "{broken} broke, {} were killed", of_first.len());
    ensure!(left == STREAMS - broken, "{left} are left");
    Ok(())
}

/// More connections than one backend has ports for: from one client, to two backends, until nearly
/// all ports of both are taken.
#[test]
fn many_connections_of_one_client_never_collide() -> Result<()> {
    need_root!();
    const CONNECTIONS: usize = 20_000;
    let scene = Scene::new(Topology::TwoNicsGateway, Forward::Fullnat, 2)?;
    let mut settings = scene.settings(Family::V4, 2);
    // Both get half of them, give or take a few in a hundred.
    settings.fullnat.insert("ports".into(), "20000-30799".into());
    let agent = Agent::start(&scene.lab.balancer.namespace, &settings)?;
    scene.served_by(Family::V4, &["b1", "b2"])?;
    let client = &scene.lab.client.namespace;
    let web = Family::V4.vip_port(HTTP_PORT);
    http::load(client, web, CONNECTIONS, 64)?.all_answered(CONNECTIONS)?;
    let drops = &agent.call(&["stats"])?["drops_total"];
    ensure!(drops["ports_exhausted"] == 0, "{drops}");
    Ok(())
}

/// One client's 60,000 connections to one address and port, all open at once, over two backends.
#[test]
fn sixty_thousand_connections_of_one_client_are_open_at_once() -> Result<()> {
    need_root!();
    const CONNECTIONS: u64 = 60_000;
    const PORT: u16 = 9000;
    const CROWD: &str = "crowd";
    let scene = Scene::new(Topology::TwoNicsGateway, Forward::Fullnat, 2)?;
    let hosts = crowd::Hosts::start(&scene.lab.backends, PORT)?;
    let mut settings = scene.settings(Family::V4, 2);
    let target = Family::V4.vip_port(PORT);
    let crowded = Service::new(CROWD, target, Protocol::Tcp, Forward::Fullnat);
    settings.services.push(crowded.to(scene.lab.addresses(Family::V4)));
    settings.fullnat.insert("ports".into(), "1024-60000".into());
    settings.fullnat.insert("closing_timeout".into(), "1s".into());
    let agent = Agent::start(&scene.lab.balancer.namespace, &settings)?;
    // Apart from those of the crowd.
    let others = "62000 65535";
    scene.lab.client.namespace.sysctl("net/ipv4/ip_local_port_range", others)?;
    scene.served_by(Family::V4, &["b1", "b2"])?;

    let all = crowd::Crowd::open(&scene.lab.client, target, CONNECTIONS)?;
    let told = agent.call(&["flows", "--service", CROWD, "--limit", "1"])?;
    ensure!(told["matching"] == CONNECTIONS, "{} flows", told["matching"]);
    all.ask()?;
    all.ask()?;
    let used = || -> Result<u64> {
        let used = |backend: &Host| -> Result<u64> {
            let status = agent.backend(CROWD, &backend.v4.to_string())?;
            status["fullnat_ports"]["used"].as_u64().with_context(|| format!("{status}"))
        };
        scene.lab.backends.iter().map(used).sum()
    };
    wait::until("all ports to be counted", PATIENCE, || {
        let used = used()?;
        ensure!(used >= CONNECTIONS, "{used}");
        Ok(())
    })?;
    let drops = &agent.call(&["stats"])?["drops_total"];
    let refused: u64 = ["ports_exhausted", "flow_table_full", "no_flow"]
        .iter()
        .filter_map(|reason| drops[reason].as_u64())
        .sum();
    ensure!(refused == 0, "{drops}");
    drop(all);
    wait::until("the ports to come back", PATIENCE, || {
        let used = used()?;
        ensure!(used == 0, "{used} are taken");
        Ok(())
    })?;
    drop(hosts);
    Ok(())
}

/// Connections that nobody goes on with fill the table up to its bound, are the first to be
/// forgotten, and take the place of none that is open.
#[test]
fn a_flood_fills_the_table_and_ends_no_flow() -> Result<()> {
    need_root!();
    const CAPACITY: u64 = 4096;
    let scene = Scene::new(Topology::TwoNicsGateway, Forward::Fullnat, 1)?;
    let client = &scene.lab.client;
    let mut settings = scene.settings(Family::V4, 1);
    settings.fullnat.insert("flow_capacity".into(), (CAPACITY as i64).into());
    // So long that what isn't open leaves for no other reason than the flood.
    settings.fullnat.insert("opening_timeout".into(), "10m".into());
    let agent = Agent::start(&scene.lab.balancer.namespace, &settings)?;
    scene.served_by(Family::V4, &["b1"])?;
    let web = Family::V4.vip_port(HTTP_PORT);
    let streams = Streams::open(&client.namespace, web, STREAMS)?;
    streams.progress(2)?;

    let target = SocketAddrV4::new(VIP4, HTTP_PORT);
    let flood = Flood::start(client, vec![(Forged::Syn, target)], 10_000, PATIENCE)?;
    let drops = || -> Result<u64> {
        let drops = agent.call(&["stats"])?["drops_total"]["flow_table_full"].as_u64();
        drops.context("no count of flow_table_full")
    };
    let taken = || -> Result<u64> {
        let status = agent.call(&["status"])?;
        status["fullnat"]["taken"].as_u64().with_context(|| format!("{}", status["fullnat"]))
    };
    wait::until("the table to be full", READY, || {
        let (drops, taken) = (drops()?, taken()?);
        ensure!(drops > 0 && taken * 10 >= CAPACITY * 9, "{drops} drops, {taken} are taken");
        Ok(())
    })?;
    // It fills up again whenever those that were quiet for too long are forgotten.
    let full_once = drops()?;
    wait::until("the table to be full again", READY, || {
        let (drops, taken) = (drops()?, taken()?);
        ensure!(taken <= CAPACITY, "{taken} are taken");
        ensure!(drops > full_once, "{drops} drops");
        Ok(())
    })?;
    streams.progress(10)?;
    let mut open = flows(&agent, &["--limit", "5000"])?;
    open.retain(|flow| flow["state"] == "open");
    ensure!(open.len() == STREAMS, "{} of {STREAMS} are open", open.len());
    drop(flood);
    wait::until("most of the forged ones to be forgotten", READY, || {
        let taken = taken()?;
        ensure!(taken < CAPACITY / 4 * 3, "{taken} are taken");
        Ok(())
    })?;
    streams.progress(10)?;
    let broken: Vec<_> = streams.close().into_iter().filter(|s| s.broken.is_some()).collect();
    ensure!(broken.is_empty(), "{} broke: {:?}", broken.len(), broken.first());
    http::load(&client.namespace, web, 20, 5)?.all_answered(20)
}

/// `xlb flows` with arguments.
fn flows(agent: &Agent, arguments: &[&str]) -> Result<Vec<Value>> {
    let list = agent.call(&[&["flows"], arguments].concat())?;
    list["flows"].as_array().cloned().context("no list of flows")
}
