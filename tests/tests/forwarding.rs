//! Real clients reach real servers through the balancer, in every mode and family.

use std::time::Duration;

use anyhow::{Context, Result};
use xlb_tests::clients::{http, udp};
use xlb_tests::lab::{Family, Topology};
use xlb_tests::need_root;
use xlb_tests::scene::Scene;
use xlb_tests::servers::{HTTP_PORT, UDP_PORT};
use xlb_tests::xlb::{Agent, Forward};

/// How long a large transfer may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// Size of the large transfers in bytes.
const LARGE: usize = 32 << 20;

/// How far a backend's share of some thousand connections may be from the fair one: the ring's
/// own 3 %, and chance.
const TOLERANCE: f64 = 0.12;

macro_rules! forwarding {
    ($($name:ident: $topology:ident $forward:ident $family:ident, $requests:literal;)+) => {
        $(#[test]
        fn $name() -> Result<()> {
            need_root!();
            serves(Topology::$topology, Forward::$forward, Family::$family, $requests)
        })+
    };
}

forwarding! {
    l2_v4: OneSegment L2 V4, 10_000;
    l2_v6: OneSegment L2 V6, 10_000;
    ipip_v4: OneSegment Ipip V4, 10_000;
    ipip_v6: OneSegment Ipip V6, 10_000;
    gue_v4: OneSegment Gue V4, 10_000;
    gue_v6: OneSegment Gue V6, 10_000;
    two_nics_l2_v4: TwoNics L2 V4, 2_000;
    two_nics_l2_v6: TwoNics L2 V6, 2_000;
    two_nics_ipip_v4: TwoNics Ipip V4, 2_000;
    two_nics_ipip_v6: TwoNics Ipip V6, 2_000;
    two_nics_gue_v4: TwoNics Gue V4, 2_000;
    two_nics_gue_v6: TwoNics Gue V6, 2_000;
    nat_v4: OneNicGateway Nat V4, 10_000;
    nat_v6: OneNicGateway Nat V6, 10_000;
    two_nics_nat_v4: TwoNicsGateway Nat V4, 10_000;
    two_nics_nat_v6: TwoNicsGateway Nat V6, 10_000;
    fullnat_v4: OneNicGateway Fullnat V4, 10_000;
    fullnat_v6: OneNicGateway Fullnat V6, 10_000;
    two_nics_fullnat_v4: TwoNicsGateway Fullnat V4, 10_000;
    two_nics_fullnat_v6: TwoNicsGateway Fullnat V6, 10_000;
}

fn serves(topology: Topology, forward: Forward, family: Family, requests: usize) -> Result<()> {
    let scene = Scene::new(topology, forward, 3)?;
    let _agent = Agent::start(&scene.lab.balancer.namespace, &scene.settings(family, 3))?;
    let names = scene.names();
    scene.served_by(family, &names)?;

    let client = &scene.lab.client.namespace;
    let weights: Vec<_> = names.iter().map(|&name| (name, 100)).collect();
    let web = family.vip_port(HTTP_PORT);
    let served = http::load(client, web, requests, 64)?;
    served.all_answered(requests)?;
    served.shared_by_weight(&weights, TOLERANCE)?;

    http::download(client, web, LARGE, PATIENCE).context("the large download")?;
    http::upload(client, web, LARGE, PATIENCE).context("the large upload")?;

    let source = scene.lab.client.address(family);
    let echo = family.vip_port(UDP_PORT);
    let served = udp::flows(client, source, 20_000, echo, 3000, 1200)?;
    served.all_answered(3000)?;
    served.shared_by_weight(&weights, TOLERANCE)
}

/// A balancer in front of IPv6 backends for IPv4 clients, and the other way round.
#[test]
fn encapsulation_crosses_families() -> Result<()> {
    need_root!();
    for forward in [Forward::Ipip, Forward::Gue] {
        let scene = Scene::new(Topology::OneSegment, forward, 2)?;
        for (vip, target) in [(Family::V4, Family::V6), (Family::V6, Family::V4)] {
            let mut settings = scene.settings(vip, 0);
            for service in &mut settings.services {
                *service = service.clone().to(scene.lab.addresses(target));
            }
            let case = || format!("{forward:?} from {vip:?} to {target:?}");
            let _agent =
                Agent::start(&scene.lab.balancer.namespace, &settings).with_context(case)?;
            scene.served_by(vip, &["b1", "b2"]).with_context(case)?;
            let client = &scene.lab.client.namespace;
            let web = vip.vip_port(HTTP_PORT);
            http::load(client, web, 1000, 32)?.all_answered(1000).with_context(case)?;
            http::upload(client, web, LARGE, PATIENCE).with_context(case)?;
            let source = scene.lab.client.address(vip);
            let echo = vip.vip_port(UDP_PORT);
            udp::flows(client, source, 20_000, echo, 500, 1200)?
                .all_answered(500)
                .with_context(case)?;
        }
    }
    Ok(())
}
