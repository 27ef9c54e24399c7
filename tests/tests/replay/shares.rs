//! Each backend gets its weight's share.

use std::net::SocketAddr;

use anyhow::{Context, Result, ensure};
use xlb_tests::clients::Served;
use xlb_tests::frames::build::Packet;
use xlb_tests::lab::Family;
use xlb_tests::need_root;
use xlb_tests::xlb::{Backend, Forward, Protocol, Service, replay};

use super::{backend, client, settings};

/// Distinct flows: 40,000 source ports of some source addresses.
const FLOWS: u32 = 100_000;

#[test]
fn each_backend_gets_its_weights_share_of_flows() -> Result<()> {
    need_root!();
    let weights = [100, 100, 200, 50];
    for family in Family::ALL {
        let vip = family.vip_port(53);
        let mut service = Service::new("dns", vip, Protocol::Udp, Forward::Ipip);
        service.backends = (1..)
            .zip(weights)
            .map(|(number, weight)| Backend {
                weight: Some(weight),
                ..Backend::new(backend(family, number))
            })
            .collect();
        let mut settings = settings();
        settings.services = vec![service];
        let frames = (0..FLOWS)
            .map(|flow| Packet::new(source(family, flow), vip, Protocol::Udp).frame())
            .collect::<Result<Vec<_>>>()?;
        let mut served = Served::default();
        for replayed in replay(&settings, &frames)? {
            let backend = replayed.outcome.backend.context("a flow without a backend")?;
            *served.by_server.entry(backend).or_default() += 1;
        }
        ensure!(served.answers() == u64::from(FLOWS), "some flows are missing");
        let names: Vec<_> = (1..=4).map(|number| backend(family, number).to_string()).collect();
        let expected: Vec<_> = names.iter().map(String::as_str).zip(weights).collect();
        served.shared_by_weight(&expected, 0.03).with_context(|| format!("{family:?}"))?;
    }
    Ok(())
}

/// The source of a flow: a port, then another address.
fn source(family: Family, flow: u32) -> SocketAddr {
    let port = 20_000 + (flow % 40_000) as u16;
    let mut source = client(family, port);
    let host = 1 + (flow / 40_000) as u8;
    match source {
        SocketAddr::V4(ref mut v4) => v4.set_ip([192, 0, 2, host].into()),
        SocketAddr::V6(ref mut v6) => {
            let mut octets = v6.ip().octets();
            octets[15] = host;
            v6.set_ip(octets.into());
        }
    }
    source
}
