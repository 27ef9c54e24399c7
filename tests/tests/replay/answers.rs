//! What `nat` makes of packets from backends, and of ICMP errors about both ways: every byte.

use std::net::{IpAddr, SocketAddr};

use anyhow::{Context, Result, ensure};
use xlb_tests::frames::build::{BALANCER_MAC, CLIENT_MAC, ETHERNET, Packet, checksum};
use xlb_tests::lab::Family;
use xlb_tests::need_root;
use xlb_tests::xlb::{Backend, Forward, Protocol, Service, Settings, replay};

use super::{backend, client, consistent, settings};

const PROTOCOLS: [Protocol; 2] = [Protocol::Tcp, Protocol::Udp];
const VIP_PORT: u16 = 80;
const BACKEND_PORT: u16 = 8080;

/// A frame, and what becomes of the packet in it; `None` where it passes as it came.
struct Fixture {
    what: String,
    frame: Vec<u8>,
    becomes: Option<Vec<u8>>,
}

#[test]
fn answers_and_errors_get_the_addresses_that_their_receivers_know() -> Result<()> {
    need_root!();
    let mut fixtures = Vec::new();
    for family in Family::ALL {
        for protocol in PROTOCOLS {
            fixtures.extend(of(family, protocol)?);
        }
    }
    let frames: Vec<_> = fixtures.iter().map(|fixture| fixture.frame.clone()).collect();
    let replayed = replay(&services(), &frames)?;
    ensure!(replayed.len() == fixtures.len(), "{} lines", replayed.len());
    for (fixture, replayed) in fixtures.iter().zip(&replayed) {
        let checked = || {
            consistent(&replayed.outcome)?;
            let Some(becomes) = &fixture.becomes else {
                ensure!(replayed.outcome.verdict == "pass", "{:?}", replayed.outcome);
                ensure!(replayed.after == replayed.before, "it isn't untouched");
                return Ok(());
            };
            ensure!(replayed.outcome.verdict == "tx", "{:?}", replayed.outcome);
            ensure!(replayed.outcome.backend.is_some(), "{:?}", replayed.outcome);
            let after = &replayed.after[ETHERNET..];
            ensure!(after == becomes, "{after:02x?}\nisn't\n{becomes:02x?}");
            Ok(())
        };
        checked().with_context(|| fixture.what.clone())?;
    }
    Ok(())
}

/// A service of each family and protocol, over one backend with a port of its own.
fn services() -> Settings {
    let service = |family: Family, protocol| {
        let name = format!("{family:?}-{protocol:?}").to_lowercase();
        let address = SocketAddr::new(backend(family, 1), BACKEND_PORT).to_string();
        let backends = vec![Backend { address, ..Backend::new(backend(family, 1)) }];
        let vip = family.vip_port(VIP_PORT);
        Service { backends, ..Service::new(&name, vip, protocol, Forward::Nat) }
    };
    let families = Family::ALL.into_iter();
    let services = families.flat_map(|family| PROTOCOLS.map(|protocol| service(family, protocol)));
    Settings { services: services.collect(), ..settings() }
}

fn of(family: Family, protocol: Protocol) -> Result<Vec<Fixture>> {
    let client = client(family, 40_000);
    let vip = family.vip_port(VIP_PORT);
    let own = SocketAddr::new(backend(family, 1), BACKEND_PORT);
    let packet = |from, to| Packet::new(from, to, protocol).frame();
    let inside = |frame: Vec<u8>| frame[ETHERNET..].to_vec();
    let mut fixtures = Vec::new();
    let mut add = |what: &str, frame, becomes| {
        let what = format!("{family:?} {protocol:?}: {what}");
        fixtures.push(Fixture { what, frame, becomes });
    };
    add("to the VIP", packet(client, vip)?, Some(inside(packet(client, own)?)));
    add("an answer", packet(own, client)?, Some(inside(packet(vip, client)?)));
    for (what, from) in [
        ("another port of the backend", SocketAddr::new(own.ip(), BACKEND_PORT + 1)),
        ("no port of the service", SocketAddr::new(own.ip(), VIP_PORT)),
        ("another host", SocketAddr::new(backend(family, 2), BACKEND_PORT)),
    ] {
        add(what, packet(from, client)?, None);
    }

    let error = |from: IpAddr, to: IpAddr, about: Vec<u8>| error(from, to, &inside(about));
    let told = inside(error(vip.ip(), client.ip(), packet(client, vip)?)?);
    let forwarded = error(own.ip(), client.ip(), packet(client, own)?)?;
    add("an error about what the client sent", forwarded, Some(told));
    let told = inside(error(client.ip(), own.ip(), packet(own, client)?)?);
    let answered = error(client.ip(), vip.ip(), packet(vip, client)?)?;
    add("an error about what the backend sent", answered, Some(told));
    let other = SocketAddr::new(own.ip(), BACKEND_PORT + 1);
    let foreign = error(own.ip(), client.ip(), packet(client, other)?)?;
    add("an error about another port", foreign, None);
    // Its receiver isn't who sent the packet.
    let forged = error(own.ip(), backend(family, 2), packet(client, own)?)?;
    add("an error about somebody else's packet", forged, None);
    Ok(fixtures)
}

/// "Port unreachable", with the whole packet that it is about.
fn error(from: IpAddr, to: IpAddr, about: &[u8]) -> Result<Vec<u8>> {
    let (from, to) = (octets(from), octets(to));
    let is_v4 = from.len() == 4;
    let kind = if is_v4 { [3, 3] } else { [1, 4] };
    let mut message = [&kind[..], &[0; 6], about].concat();
    let len = u16::try_from(message.len()).context("a short packet")?.to_be_bytes();
    // ICMPv6's checksum covers addresses, too.
    let pseudo =
        if is_v4 { vec![] } else { [&from[..], &to, &[0, 0], &len, &[0, 0, 0, 58]].concat() };
    let sum = checksum(&[&pseudo[..], &message].concat());
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    let (ether_type, mut header) = match is_v4 {
        true => {
            let total = u16::try_from(20 + message.len())?.to_be_bytes();
            let start = [&[0x45, 0], &total[..], &[0, 0, 0, 0, 64, 1, 0, 0]].concat();
            ([0x08, 0x00], start)
        }
        false => ([0x86, 0xdd], [&[0x60, 0, 0, 0], &len[..], &[58, 64]].concat()),
    };
    header.extend([from, to].concat());
    if is_v4 {
        let sum = checksum(&header);
        header[10..12].copy_from_slice(&sum.to_be_bytes());
    }
    Ok([&BALANCER_MAC[..], &CLIENT_MAC, &ether_type, &header, &message].concat())
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}
