//! Packet in, verdict and packet out, through the loaded program: `xlb replay` on fixtures.

mod answers;
mod anything;
mod capture;
mod forwards;
mod fullnat;
mod passes;
mod refusals;
mod shares;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use anyhow::{Result, ensure};
use xlb_tests::frames::build::Packet;
use xlb_tests::lab::Family;
use xlb_tests::xlb::{Outcome, Protocol, Settings};

/// The outer source that the config gives, by family.
const SOURCE4: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 2);
const SOURCE6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, 2);

/// A config for replay: the interface doesn't exist, and nothing is left to chance.
fn settings() -> Settings {
    Settings {
        interfaces: vec!["absent0".into()],
        hash_seed: Some("0x5eed5eed5eed5eed".into()),
        source_ipv4: Some(SOURCE4),
        source_ipv6: Some(SOURCE6),
        ..Settings::default()
    }
}

/// A client's address and port.
fn client(family: Family, port: u16) -> SocketAddr {
    let address: IpAddr = match family {
        Family::V4 => Ipv4Addr::new(192, 0, 2, 1).into(),
        Family::V6 => Ipv6Addr::new(0x2001, 0xdb8, 0xc, 0, 0, 0, 0, 1).into(),
    };
    SocketAddr::new(address, port)
}

/// A backend's address, by its number from 1.
fn backend(family: Family, number: u8) -> IpAddr {
    match family {
        Family::V4 => Ipv4Addr::new(10, 0, 0, 10 + number).into(),
        Family::V6 => Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 0x10 + u16::from(number)).into(),
    }
}

/// A packet to a port of the family's virtual address.
fn packet(family: Family, protocol: Protocol, port: u16) -> Packet {
    Packet::new(client(family, 40_000), family.vip_port(port), protocol)
}

/// What every line says consistently, whatever the frame was.
fn consistent(outcome: &Outcome) -> Result<()> {
    let (service, backend) = (outcome.service.is_some(), outcome.backend.is_some());
    match outcome.verdict.as_str() {
        "pass" => ensure!(!service && !backend && outcome.reason.is_none(), "{outcome:?}"),
        "tx" | "redirect" => ensure!(service && backend && outcome.reason.is_none(), "{outcome:?}"),
        "drop" => {
            let known = |reason: &str| {
                lb_common::verdict::DropReason::ALL.iter().any(|known| known.name() == reason)
            };
            ensure!(outcome.reason.as_deref().is_some_and(known), "{outcome:?}");
        }
        _ => anyhow::bail!("no verdict of the contract: {outcome:?}"),
    }
    Ok(())
}
