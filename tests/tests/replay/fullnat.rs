//! Flows under `fullnat`, from frame to frame.

use std::net::{IpAddr, SocketAddr};

use anyhow::{Result, ensure};
use xlb_tests::frames::build::{ETHERNET, Packet};
use xlb_tests::lab::Family;
use xlb_tests::need_root;
use xlb_tests::xlb::{Backend, Forward, Protocol, Service, replay};

use super::{SOURCE4, SOURCE6, backend, client, settings};

const VIP_PORT: u16 = 80;
const BACKEND_PORT: u16 = 8080;
/// The pool's first.
const POOL_PORT: u16 = 1024;

/// The client's packet leaves from the pool, and the answer to that comes from the VIP: whole frames,
/// with every checksum.
#[test]
fn a_flow_goes_out_and_back() -> Result<()> {
    need_root!();
    for (family, protocol) in [
        (Family::V4, Protocol::Tcp),
        (Family::V6, Protocol::Tcp),
        (Family::V4, Protocol::Udp),
        (Family::V6, Protocol::Udp),
    ] {
        let own = SocketAddr::new(backend(family, 1), BACKEND_PORT);
        let vip = family.vip_port(VIP_PORT);
        let mut service = Service::new("web", vip, protocol, Forward::Fullnat);
        service.backends = vec![Backend { address: own.to_string(), ..Backend::new(own.ip()) }];
        let mut settings = settings();
        settings.services.push(service);

        let source: IpAddr = match family {
            Family::V4 => SOURCE4.into(),
            Family::V6 => SOURCE6.into(),
        };
        let pool = |port| SocketAddr::new(source, port);
        let client = client(family, 40_000);
        let between = |from, to| Packet::new(from, to, protocol).frame();
        let steps = [
            (between(client, vip)?, Some(between(pool(POOL_PORT), own)?)),
            (between(own, pool(POOL_PORT))?, Some(between(vip, client)?)),
            // Nobody has that port yet.
            (between(own, pool(POOL_PORT + 1))?, None),
            (between(client, vip)?, Some(between(pool(POOL_PORT), own)?)),
        ];
        let frames: Vec<_> = steps.iter().map(|(frame, _)| frame.clone()).collect();
        for (step, replayed) in steps.iter().zip(replay(&settings, &frames)?) {
            let case = format!("{family:?} {protocol:?}: {:?}", replayed.outcome);
            let (verdict, expected) = match &step.1 {
                Some(expected) => ("tx", expected),
                None => ("pass", &step.0),
            };
            ensure!(replayed.outcome.verdict == verdict, "{case}");
            let name = (verdict == "tx").then(|| own.to_string());
            ensure!(replayed.outcome.backend == name, "{case}");
            ensure!(replayed.after[ETHERNET..] == expected[ETHERNET..], "{case}");
        }
    }
    Ok(())
}
