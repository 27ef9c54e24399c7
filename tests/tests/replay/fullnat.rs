//! Flows under `fullnat`, from frame to frame.

use std::net::{IpAddr, SocketAddr};

use anyhow::{Result, ensure};
use xlb_tests::frames::build::{ETHERNET, Packet, Tags, edit_ipv4};
use xlb_tests::lab::Family;
use xlb_tests::need_root;
use xlb_tests::xlb::{Backend, Forward, Protocol, Replayed, Service, replay};

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

/// Between families: whole frames, with every field and checksum, as built for the other family. Only
/// an IPv4 packet's identification is the program's own choice.
#[test]
fn a_flow_goes_out_and_back_between_families() -> Result<()> {
    need_root!();
    let mut settings = settings();
    let mut steps = Vec::new();
    for (family, other, source) in
        [(Family::V4, Family::V6, SOURCE6.into()), (Family::V6, Family::V4, SOURCE4.into())]
    {
        for protocol in [Protocol::Tcp, Protocol::Udp] {
            let own = SocketAddr::new(backend(other, 1), BACKEND_PORT);
            let vip = family.vip_port(VIP_PORT);
            let name = format!("{protocol:?}-{family:?}").to_lowercase();
            let mut service = Service::new(&name, vip, protocol, Forward::Fullnat);
            service.backends = vec![Backend { address: own.to_string(), ..Backend::new(own.ip()) }];
            settings.services.push(service);
            let (pool, client) = (SocketAddr::new(source, POOL_PORT), client(family, 40_000));
            for (tags, len) in Tags::ALL.into_iter().flat_map(|t| [0, 1, 700, 1300].map(|l| (t, l)))
            {
                let between = |from, to| {
                    let payload = (0..len).map(|at: usize| (at * 7) as u8).collect();
                    Packet { tags, payload, ..Packet::new(from, to, protocol) }.frame()
                };
                let case = format!("{name} {tags:?} {len}");
                steps.push((case.clone(), own, between(client, vip)?, between(pool, own)?));
                steps.push((case, own, between(own, pool)?, between(vip, client)?));
            }
        }
    }
    let frames: Vec<_> = steps.iter().map(|(_, _, frame, _)| frame.clone()).collect();
    for ((case, own, _, expected), replayed) in steps.iter().zip(replay(&settings, &frames)?) {
        let Replayed { outcome, after, .. } = &replayed;
        ensure!(outcome.verdict == "tx", "{case}: {outcome:?}");
        ensure!(outcome.backend == Some(own.to_string()), "{case}: {outcome:?}");
        ensure!(after[12..] == identified(expected, after)[12..], "{case}: {after:02x?}");
    }
    Ok(())
}

/// The frame with the identification of another one, where it is IPv4's, and not to be fragmented
/// where RFC 7915 section 5.1 says so.
fn identified(frame: &[u8], like: &[u8]) -> Vec<u8> {
    let tags = match frame[12] {
        0x81 => 4,
        0x88 => 8,
        _ => 0,
    };
    let at = ETHERNET + tags;
    if frame[at] >> 4 != 4 {
        return frame.to_vec();
    }
    // Without tags, as `edit_ipv4` has it.
    let link = &frame[..tags + ETHERNET];
    let untagged = [&frame[..12], &frame[at - 2..]].concat();
    let is_long = untagged.len() - ETHERNET > 1260;
    let edited = edit_ipv4(untagged, |header| {
        header[4..6].copy_from_slice(&like[at + 4..at + 6]);
        header[6] = if is_long { 0x40 } else { 0 };
    });
    [link, &edited[ETHERNET..]].concat()
}
