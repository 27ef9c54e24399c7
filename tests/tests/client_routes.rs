//! Answers under `nat` toward clients behind a gateway: by the few routes that the agent tells the
//! program, where the kernel's tables can be told so.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use xlb_tests::clients::http;
use xlb_tests::clients::stream::Streams;
use xlb_tests::frames::mac_text;
use xlb_tests::lab::{Family, Topology};
use xlb_tests::netns::{Namespace, run};
use xlb_tests::scene::Scene;
use xlb_tests::servers::HTTP_PORT;
use xlb_tests::xlb::{Agent, Forward};
use xlb_tests::{need_root, wait};

const READY: Duration = Duration::from_secs(20);
/// Connections that a test holds open.
const STREAMS: usize = 20;

/// What is not the same by both families.
struct Addresses {
    family: Family,
    /// The client's, behind a router.
    far: &'static str,
    /// The router's, in the client's network.
    router: &'static str,
    /// The balancer's there.
    gateway: &'static str,
    /// Of a network, and of an address.
    bits: (u8, u8),
}

const BOTH: [Addresses; 2] = [
    Addresses {
        family: Family::V4,
        far: "203.0.113.5",
        router: "10.71.0.98",
        gateway: "10.71.0.2",
        bits: (24, 32),
    },
    Addresses {
        family: Family::V6,
        far: "2001:db8:5::5",
        router: "fd47::98",
        gateway: "fd47::2",
        bits: (64, 128),
    },
];

/// Where an answer to a client goes: the next hop's address, and whether the agent told it.
fn way(agent: &Agent, backend: SocketAddr, client: &str) -> Result<(String, bool)> {
    let to = SocketAddr::new(client.parse()?, 40_000).to_string();
    let told = agent.call(&["explain", "--from", &backend.to_string(), "--to", &to])?;
    let steps = told["steps"].as_array().into_iter().flatten();
    let way = steps.into_iter().find(|step| step["step"] == "way");
    let detail = way.and_then(|step| step["detail"].as_str()).context("no way")?.to_owned();
    let mac = detail.split("next hop ").nth(1).and_then(|rest| rest.split(',').next());
    Ok((mac.with_context(|| detail.clone())?.to_owned(), detail.contains("the agent told")))
}

fn goes(agent: &Agent, backend: SocketAddr, client: &str, to: (&str, bool)) -> Result<()> {
    wait::until(&format!("answers to {client} to go to {to:?}"), READY, || {
        let (mac, is_told) = way(agent, backend, client)?;
        ensure!((mac.as_str(), is_told) == to, "they go to {mac}, told: {is_told}");
        Ok(())
    })
}

fn rule(namespace: &Namespace, family: Family, what: &str) -> Result<()> {
    let version = if family == Family::V6 { "-6" } else { "-4" };
    let mut command = namespace.command("ip");
    command.args([version, "rule"]).args(what.split(' '));
    run(&mut command, "").map(|_| ())
}

/// Packets that its interface sent.
fn sent(namespace: &Namespace) -> Result<u64> {
    let told = namespace.ip_json("-s link show dev eth0")?;
    told[0]["stats64"]["tx"]["packets"].as_u64().with_context(|| told.to_string())
}

/// A backend is the router; the client has one address on the balancer's segment and one behind it.
#[test]
fn clients_behind_a_gateway_are_answered_by_told_routes() -> Result<()> {
    need_root!();
    for Addresses { family, far, router, gateway, bits: (near_bits, far_bits) } in BOTH {
        let scene = Scene::new(Topology::OneNicGateway, Forward::Nat, 2)?;
        let lab = &scene.lab;
        let (client, balancer) = (&lab.client.namespace, &lab.balancer.namespace);
        let between = &lab.backends[1];
        let near = lab.client.address(family).to_string();
        between.namespace.sysctl("net/ipv4/ip_forward", "1")?;
        between.namespace.sysctl("net/ipv6/conf/all/forwarding", "1")?;
        let nodad = if family == Family::V6 { "nodad" } else { "" };
        between.namespace.ip(&format!(
            "addr add {router}/{near_bits} dev eth0 {nodad}\nroute add {far}/{far_bits} via {near}"
        ))?;
        client.ip(&format!("addr add {far}/{far_bits} dev lo {nodad}"))?;
        let default = if family == Family::V6 { "::/0" } else { "0.0.0.0/0" };
        balancer.ip(&format!("route add {default} via {router}"))?;

        let mut agent = Agent::start(balancer, &scene.settings(family, 1))?;
        scene.served_by(family, &["b1"])?;
        let own = SocketAddr::new(lab.addresses(family)[0], HTTP_PORT);
        let (of_router, of_client) = (mac_text(between.mac), mac_text(lab.client.mac));
        goes(&agent, own, far, (&of_router, true))?;
        goes(&agent, own, &near, (&of_client, false))?;

        // From now on the client sends from behind the router.
        let vip = family.vip_port(HTTP_PORT);
        client.ip(&format!("route replace {}/{far_bits} via {gateway} src {far}", vip.ip()))?;
        let streams = Streams::open(client, vip, STREAMS)?;

        // Two ways, of which the kernel chooses.
        balancer.ip(&format!("route add {default} via {near} metric 9000"))?;
        goes(&agent, own, far, (&of_router, false))?;
        streams.progress(10)?;
        balancer.ip(&format!("route del {default} via {near} metric 9000"))?;
        goes(&agent, own, far, (&of_router, true))?;

        // A rule may tell packets apart.
        rule(balancer, family, &format!("add from {far} lookup 100"))?;
        goes(&agent, own, far, (&of_router, false))?;
        rule(balancer, family, &format!("del from {far} lookup 100"))?;
        goes(&agent, own, far, (&of_router, true))?;

        // Another route for a part of the clients, straight to where they are.
        balancer.ip(&format!("route add {far}/{far_bits} via {near}"))?;
        wait::until("answers to take the new route", READY, || {
            ensure!(way(&agent, own, far)?.0 == of_client, "they don't");
            Ok(())
        })?;
        streams.progress(10)?;
        balancer.ip(&format!("route del {far}/{far_bits} via {near}"))?;
        goes(&agent, own, far, (&of_router, true))?;

        // The router is another machine now.
        let other = "02:48:00:00:00:77";
        between.namespace.ip(&format!("link set eth0 address {other}"))?;
        balancer.ip(&format!("neigh replace {router} lladdr {other} dev eth0 nud reachable"))?;
        goes(&agent, own, far, (other, true))?;
        streams.progress(10)?;

        // Nobody keeps the routes current any more: soon the kernel's hold.
        agent.kill()?;
        balancer.ip(&format!("route replace {default} via {near}"))?;
        wait::until("answers to leave the router out", READY, || {
            let before = sent(&between.namespace)?;
            streams.progress(5)?;
            let after = sent(&between.namespace)?;
            ensure!(after - before < 5, "it sent {} packets", after - before);
            Ok(())
        })?;
        agent.launch(&[])?;
        goes(&agent, own, far, (&of_client, true))?;
        streams.progress(10)?;
        let broken = streams.close().into_iter().filter(|stream| stream.broken.is_some()).count();
        ensure!(broken == 0, "{family:?}: {broken} broke");
    }
    Ok(())
}

/// The told way leads out by another interface than answers come in by.
#[test]
fn told_routes_lead_out_of_another_nic() -> Result<()> {
    need_root!();
    let scene = Scene::new(Topology::TwoNicsGateway, Forward::Nat, 1)?;
    let lab = &scene.lab;
    let (client, balancer) = (&lab.client.namespace, &lab.balancer.namespace);
    for Addresses { family, far, gateway, bits: (_, far_bits), .. } in BOTH {
        let near = lab.client.address(family);
        let nodad = if family == Family::V6 { "nodad" } else { "" };
        let default = if family == Family::V6 { "::/0" } else { "0.0.0.0/0" };
        client.ip(&format!("addr add {far}/{far_bits} dev lo {nodad}"))?;
        balancer.ip(&format!("route add {default} via {near}"))?;
        let agent = Agent::start(balancer, &scene.settings(family, 1))?;
        scene.served_by(family, &["b1"])?;
        let own = SocketAddr::new(lab.addresses(family)[0], HTTP_PORT);
        goes(&agent, own, far, (&mac_text(lab.client.mac), true))?;
        let vip = family.vip_port(HTTP_PORT);
        client.ip(&format!("route replace {}/{far_bits} via {gateway} src {far}", vip.ip()))?;
        http::load(client, vip, 200, 20)?.all_answered(200)?;
    }
    Ok(())
}
