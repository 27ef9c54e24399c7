//! Backends that know nothing of the VIP: what `nat` turns toward them, and back.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use socket2::{Domain, Socket, Type};
use xlb_tests::clients::http;
use xlb_tests::clients::stream::Streams;
use xlb_tests::frames::mac_text;
use xlb_tests::lab::{Family, Topology};
use xlb_tests::scene::{Scene, WEB};
use xlb_tests::servers::HTTP_PORT;
use xlb_tests::xlb::{Agent, Forward, Service};
use xlb_tests::{need_root, wait};

const READY: Duration = Duration::from_secs(20);
/// Connections that a test holds open.
const STREAMS: usize = 60;

/// A port that no server listens on.
const VIP_PORT: u16 = 8000;

const TOPOLOGIES: [Topology; 2] = [Topology::OneNicGateway, Topology::TwoNicsGateway];

/// Backends with ports of their own; the agent is killed and comes back, and a backend is taken
/// out, while connections are open.
#[test]
fn no_connection_breaks_while_the_agent_is_gone_or_a_backend_leaves() -> Result<()> {
    need_root!();
    for (topology, family) in TOPOLOGIES.into_iter().zip(Family::ALL) {
        let scene = Scene::new(topology, Forward::Nat, 3)?;
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
        agent.call(&["backend", "drain", WEB, &own(0).to_string()])?;
        wait::until("the drain to be in force", READY, || {
            http::load(client, web, 60, 20)?.served_by(["b2", "b3"])
        })?;
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

/// Of an answer it is told whose it is, which way it goes and what becomes of it; of what is none,
/// that it passes.
#[test]
fn answers_are_explained() -> Result<()> {
    need_root!();
    let expected = [("eth0", "tx"), ("front", "redirect")];
    for (topology, (out, verdict)) in TOPOLOGIES.into_iter().zip(expected) {
        let scene = Scene::new(topology, Forward::Nat, 1)?;
        for family in Family::ALL {
            let agent = Agent::start(&scene.lab.balancer.namespace, &scene.settings(family, 1))?;
            scene.served_by(family, &["b1"])?;
            let before = agent.call(&["stats"])?;
            let own = SocketAddr::new(scene.lab.addresses(family)[0], HTTP_PORT);
            let client = SocketAddr::new(scene.lab.client.address(family), 40_000);
            let explain = |from: SocketAddr, to: SocketAddr| {
                agent.call(&["explain", "--from", &from.to_string(), "--to", &to.to_string()])
            };
            let told = explain(own, client)?;
            ensure!(told["verdict"] == verdict && told["service"] == WEB, "{told}");
            ensure!(told["backend"] == own.ip().to_string(), "{told}");
            let detail = |name: &str| {
                let steps = told["steps"].as_array().into_iter().flatten();
                let found = steps.into_iter().find(|step| step["step"] == name);
                found.and_then(|step| step["detail"].as_str()).unwrap_or_default().to_owned()
            };
            let mac = mac_text(scene.lab.client.mac);
            let way = detail("way");
            ensure!(way.contains(out) && way.contains(&mac), "{way}");
            let vip = family.vip_port(HTTP_PORT).to_string();
            ensure!(detail("rewrite").ends_with(&vip), "{told}");
            let nobody = SocketAddr::new(own.ip(), HTTP_PORT + 1);
            ensure!(explain(nobody, client)?["verdict"] == "pass", "it isn't passed");
            ensure!(agent.call(&["stats"])? == before, "explaining is counted");
        }
    }
    Ok(())
}

/// Where the kernel forwards nothing, the reason is told, and what mends it.
#[test]
fn forwarding_that_is_off_is_named() -> Result<()> {
    need_root!();
    let scene = Scene::new(Topology::OneNicGateway, Forward::Nat, 1)?;
    let balancer = &scene.lab.balancer.namespace;
    for (family, key) in
        [(Family::V4, "net/ipv4/ip_forward"), (Family::V6, "net/ipv6/conf/all/forwarding")]
    {
        let agent = Agent::start(balancer, &scene.settings(family, 1))?;
        scene.served_by(family, &["b1"])?;
        let warned = || Ok::<_, anyhow::Error>(agent.call(&["status"])?["warnings"].to_string());
        let mends = format!("sysctl -w {}=1", key.replace('/', "."));
        ensure!(!warned()?.contains(&mends), "{}", warned()?);
        balancer.sysctl(key, "0")?;
        let client = &scene.lab.client.namespace;
        let web = family.vip_port(HTTP_PORT);
        wait::until("drops for forwarding_off", READY, || {
            // Whether it is answered doesn't matter.
            let _ = http::ask(client, web, Duration::from_millis(200));
            let drops = agent.call(&["stats"])?["drops_total"]["forwarding_off"].as_u64();
            ensure!(drops.is_some_and(|drops| drops > 0), "none yet");
            Ok(())
        })?;
        ensure!(warned()?.contains(&mends), "{}", warned()?);
        balancer.sysctl(key, "1")?;
        scene.served_by(family, &["b1"])?;
    }
    Ok(())
}

/// The first answer to a client that the kernel doesn't know is lost; then it is asked for, and TCP
/// sends again.
#[test]
fn a_client_that_nobody_knows_is_answered() -> Result<()> {
    need_root!();
    for topology in TOPOLOGIES {
        let scene = Scene::new(topology, Forward::Nat, 1)?;
        let client = &scene.lab.client.namespace;
        // Deprecated: only who asks for it is given it.
        client.ip("addr add 10.71.0.99/24 dev eth0\n\
             addr add fd47::99/64 dev eth0 nodad preferred_lft 0")?;
        for (family, source) in [(Family::V4, "10.71.0.99"), (Family::V6, "fd47::99")] {
            let agent = Agent::start(&scene.lab.balancer.namespace, &scene.settings(family, 1))?;
            // By the client's other address, so that it has no need to ask for its gateway.
            scene.served_by(family, &["b1"])?;
            let source = SocketAddr::new(source.parse()?, 0);
            let served = client.run(|| fetch(source, family.vip_port(HTTP_PORT)))?;
            let served = served.with_context(|| format!("{topology:?} {family:?}"))?;
            ensure!(served.starts_with("HTTP/1.1 200 OK"), "{served}");
            let lost = agent.call(&["stats"])?["drops_total"]["client_unresolved"].as_u64();
            ensure!(lost.is_some_and(|lost| lost > 0), "{topology:?} {family:?}: it was known");
        }
    }
    Ok(())
}

fn fetch(source: SocketAddr, target: SocketAddr) -> Result<String> {
    let socket = Socket::new(Domain::for_address(target), Type::STREAM, None)?;
    socket.bind(&source.into())?;
    socket.connect_timeout(&target.into(), READY)?;
    socket.set_read_timeout(Some(READY))?;
    let mut stream = TcpStream::from(socket);
    stream.write_all(b"GET / HTTP/1.1\r\nhost: vip\r\nconnection: close\r\n\r\n")?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    Ok(text)
}
