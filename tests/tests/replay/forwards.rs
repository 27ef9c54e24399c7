//! What the balancer sends to a backend, field by field, in every mode and pair of families.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use anyhow::{Context, Result, ensure};
use xlb_tests::frames::build::{BALANCER_MAC, CLIENT_MAC, Packet, Tags, pad};
use xlb_tests::frames::mac_text;
use xlb_tests::frames::view::{Frame, Ip};
use xlb_tests::lab::Family;
use xlb_tests::need_root;
use xlb_tests::xlb::{Backend, Forward, Protocol, Replayed, Service, replay};

use super::{SOURCE4, SOURCE6, backend, client, consistent, settings};

/// Flows of each case.
const FLOWS: u16 = 24;

/// Backends of each service.
const BACKENDS: u8 = 3;

/// The next hop that the config gives for backend 1.
const GIVEN_HOP: [u8; 6] = [0x02, 0, 0, 0, 0, 0x11];

/// The next hop that replay takes where the config gives none.
const DEFAULT_HOP: [u8; 6] = [0x02, 0, 0, 0, 0, 0xfe];

/// A service of the fixtures.
#[derive(Clone, Copy, Debug)]
struct Case {
    forward: Forward,
    vip: Family,
    backend: Family,
    protocol: Protocol,
    port: u16,
}

/// A frame of the fixtures.
#[derive(Clone, Debug)]
struct Fixture {
    case: Case,
    packet: Packet,
    frame: Vec<u8>,
}

#[test]
fn every_field_is_right_in_every_mode_and_family() -> Result<()> {
    need_root!();
    let cases = cases();
    let mut settings = settings();
    settings.services = cases.iter().map(Case::service).collect();
    let mut fixtures = Vec::new();
    for &case in &cases {
        fixtures.extend(case.fixtures()?);
    }
    let frames: Vec<_> = fixtures.iter().map(|fixture| fixture.frame.clone()).collect();
    let replayed = replay(&settings, &frames)?;

    // What identifies a flow on the way: its backend, and its entropy in the outer header.
    let mut ways = BTreeMap::<_, BTreeSet<_>>::new();
    for (fixture, replayed) in fixtures.iter().zip(&replayed) {
        let way = check(fixture, replayed)
            .with_context(|| format!("{:?} {:?}", fixture.case, fixture.packet))
            .with_context(|| format!("{:?}", replayed.outcome))?;
        let (case, from) = (fixture.case, fixture.packet.from.port());
        ways.entry((case.port, from)).or_default().insert(way);
    }
    for (flow, ways) in &ways {
        ensure!(ways.len() == 1, "flow {flow:?} went several ways: {ways:?}");
    }
    for case in &cases {
        let of_case = || ways.iter().filter(|((port, _), _)| *port == case.port);
        let chosen: BTreeSet<_> = of_case().flat_map(|(_, ways)| ways).map(|way| way.0).collect();
        ensure!(chosen.len() == usize::from(BACKENDS), "{case:?}: only {chosen:?} were chosen");
        let entropies: BTreeSet<_> = of_case().flat_map(|(_, way)| way).map(|way| way.1).collect();
        let carries = case.forward == Forward::Gue
            || (case.forward.encapsulates() && case.backend == Family::V6);
        // 24 flows of 16,384 source ports: two equal ones may be, a few can't.
        ensure!(
            !carries || entropies.len() >= usize::from(FLOWS) - 2,
            "{case:?}: {FLOWS} flows share {entropies:?}"
        );
    }
    Ok(())
}

/// All services: each mode, each pair of families that it can, each protocol, on its own port.
fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for forward in Forward::ALL {
        for vip in Family::ALL {
            for backend in Family::ALL {
                for protocol in [Protocol::Tcp, Protocol::Udp] {
                    if forward.encapsulates() || vip == backend {
                        let port = 1000 + cases.len() as u16;
                        cases.push(Case { forward, vip, backend, protocol, port });
                    }
                }
            }
        }
    }
    cases
}

impl Case {
    fn service(&self) -> Service {
        let name = format!("on-{}", self.port);
        let addresses = (1..=BACKENDS).map(|number| backend(self.backend, number));
        let vip = self.vip.vip_port(self.port);
        let mut service = Service::new(&name, vip, self.protocol, self.forward).to(addresses);
        let first = Backend::new(backend(self.backend, 1));
        service.backends[0] = Backend { next_hop: Some(mac_text(GIVEN_HOP)), ..first };
        service
    }

    fn fixtures(self) -> Result<Vec<Fixture>> {
        let mut packets = Vec::new();
        for tags in Tags::ALL {
            for flow in 0..FLOWS {
                let from = client(self.vip, 40_000 + flow);
                let mut packet = Packet::new(from, self.vip.vip_port(self.port), self.protocol);
                packet.tags = tags;
                // Not-ECT best effort, AF41 with ECT(0), everything set with CE.
                packet.traffic_class = [0, 0x8a, 0xff][usize::from(flow) % 3];
                packet.syn = flow % 2 == 0;
                packets.push(packet);
            }
            let from = client(self.vip, 40_000);
            let plain = Packet::new(from, self.vip.vip_port(self.port), self.protocol);
            let plain = Packet { tags, ..plain };
            packets.push(Packet { hops: 1, ..plain.clone() });
            packets.push(Packet { payload: vec![], ..plain.clone() });
            packets.push(Packet { payload: vec![0xa5; 1299], ..plain.clone() });
            if self.vip == Family::V4 {
                for length in [4, 24, 40] {
                    packets.push(Packet { options: vec![1; length], ..plain.clone() });
                }
            }
        }
        packets
            .into_iter()
            .map(|packet| Ok(Fixture { case: self, frame: pad(packet.frame()?), packet }))
            .collect()
    }
}

/// Checks one frame; hands back its backend and its entropy (0 where the header carries none).
fn check(fixture: &Fixture, replayed: &Replayed) -> Result<(IpAddr, u32)> {
    let Fixture { case, packet, .. } = fixture;
    let outcome = &replayed.outcome;
    consistent(outcome)?;
    ensure!(outcome.verdict == "tx", "not sent");
    ensure!(outcome.service.as_deref() == Some(&*format!("on-{}", case.port)), "other service");
    let chosen: IpAddr = outcome.backend.as_deref().context("no backend")?.parse()?;
    let number = (1..=BACKENDS).find(|&number| backend(case.backend, number) == chosen);
    let number = number.context("not a backend of the service")?;

    let (before, after) = (Frame::parse(&replayed.before)?, Frame::parse(&replayed.after)?);
    let hop = if number == 1 { GIVEN_HOP } else { DEFAULT_HOP };
    ensure!(after.destination == hop, "next hop is {}", mac_text(after.destination));
    let source = after.source;
    ensure!(
        source != [0; 6] && source[0] & 1 == 0 && source != CLIENT_MAC && source != hop,
        "source MAC address is {} (the balancer's was {})",
        mac_text(source),
        mac_text(BALANCER_MAC)
    );
    ensure!(after.tags == before.tags, "the tags changed to {:02x?}", after.tags);

    let inner = before.ip()?;
    let outer = after.ip()?;
    if case.forward == Forward::L2 {
        ensure!(after.ether_type == before.ether_type, "other EtherType");
        ensure!(after.payload == before.payload, "the packet changed");
        return Ok((chosen, 0));
    }
    check_outer(case, packet, chosen, &outer)?;
    let number = if case.vip == Family::V4 { 4 } else { 41 };
    if case.forward == Forward::Ipip {
        ensure!(outer.protocol == number, "protocol is {}, not {number}", outer.protocol);
        ensure!(outer.payload == inner.whole, "the inner packet changed");
        return Ok((chosen, outer.flow_label));
    }
    let gue = outer.gue()?;
    ensure!(gue.destination_port == 6080, "UDP destination port is {}", gue.destination_port);
    ensure!(gue.source_port >= 49_152, "UDP source port is {}", gue.source_port);
    ensure!(gue.checksum == 0, "UDP checksum is {:#06x}", gue.checksum);
    // Version 0, no control message, no optional words; then the inner protocol, no flags.
    ensure!(gue.header == [0, number, 0, 0], "GUE header is {:02x?}", gue.header);
    ensure!(gue.payload == inner.whole, "the inner packet changed");
    Ok((chosen, gue.source_port.into()))
}

fn check_outer(case: &Case, packet: &Packet, chosen: IpAddr, outer: &Ip<'_>) -> Result<()> {
    let source = match case.backend {
        Family::V4 => IpAddr::from(SOURCE4),
        Family::V6 => SOURCE6.into(),
    };
    ensure!(outer.source == source, "outer source is {}", outer.source);
    ensure!(outer.destination == chosen, "outer destination is {}", outer.destination);
    ensure!(outer.hops == 64, "outer TTL or hop limit is {}", outer.hops);
    ensure!(
        outer.traffic_class == packet.traffic_class,
        "outer DSCP and ECN are {:#04x}, not {:#04x}",
        outer.traffic_class,
        packet.traffic_class
    );
    match case.backend {
        Family::V4 => {
            ensure!(outer.dont_fragment == Some(true), "the outer header lacks DF");
            let header = outer.whole.len() - outer.payload.len();
            ensure!(header == 20, "the outer header is {header} bytes long");
        }
        Family::V6 => ensure!(outer.flow_label != 0, "the outer flow label is 0"),
    }
    Ok(())
}
