//! Every drop reason, by a packet that meets it.

use std::collections::BTreeSet;

use anyhow::{Context, Result, ensure};
use lb_common::verdict::DropReason;
use xlb_tests::frames::build::{ETHERNET, Packet, Tags, edit_ipv4, extend_ipv6};
use xlb_tests::lab::Family;
use xlb_tests::need_root;
use xlb_tests::xlb::{Backend, Forward, Protocol, Service, Settings, replay};

use super::{backend, client, consistent, packet, settings};

const WEB: u16 = 80;
const DNS: u16 = 53;
const EMPTY: u16 = 81;
const ASLEEP: u16 = 82;
const BY_FLOW: u16 = 83;
const ACROSS: u16 = 84;

/// Reasons that replay can't meet, and why. Their fixtures are beside the code.
const ELSEWHERE: &[(DropReason, &str)] = &[
    (DropReason::Unresolved, "replay has a next hop for every backend"),
    (DropReason::TooBig, "replay's ways take any length"),
    (DropReason::NoHeadroom, "the kernel's test run has the room that drivers must have"),
    (DropReason::Inconsistent, "the agent writes no such tables"),
    (DropReason::NoRoute, "replay has a way to every client"),
    (DropReason::ForwardingOff, "replay has a way to every client"),
    (DropReason::ClientUnresolved, "replay has a way to every client"),
    (DropReason::PortsExhausted, "one packet takes one port: `ports_run_out` below"),
    (DropReason::FlowTableFull, "a table of 1,024 flows takes as many packets"),
    (DropReason::RateLimited, "replay answers as many as ask"),
    (DropReason::Untranslatable, "an error about a flow, which takes a packet before it"),
    (DropReason::BadInner, "a reason of xlb decap"),
    (DropReason::BadGue, "a reason of xlb decap"),
    (DropReason::EcnDiscard, "a reason of xlb decap"),
    (DropReason::CandidateUnresolved, "a reason of xlb decap"),
    (DropReason::NoHopLeft, "a reason of xlb decap"),
];

#[test]
fn each_reason_is_met_by_its_packets() -> Result<()> {
    need_root!();
    let table = table()?;
    let frames: Vec<_> = table.iter().map(|(_, frame, _)| frame.clone()).collect();
    for ((what, _, reason), replayed) in table.iter().zip(replay(&services(), &frames)?) {
        let outcome = &replayed.outcome;
        consistent(outcome).context(*what)?;
        ensure!(
            outcome.verdict == "drop" && outcome.reason.as_deref() == Some(reason.name()),
            "{what}: expected drop for {}, got {outcome:?}",
            reason.name()
        );
        ensure!(outcome.backend.is_none(), "{what}: dropped, but went to a backend: {outcome:?}");
        if *reason == DropReason::NoBackend {
            ensure!(outcome.service.is_some(), "{what}: its service isn't told: {outcome:?}");
        }
    }
    Ok(())
}

#[test]
fn no_reason_is_without_a_packet() -> Result<()> {
    let table = table()?;
    let met = table.iter().map(|(_, _, reason)| *reason);
    let elsewhere = ELSEWHERE.iter().map(|(reason, _)| *reason);
    let known: BTreeSet<_> = met.chain(elsewhere).collect();
    let missing: Vec<_> = DropReason::ALL.iter().filter(|reason| !known.contains(reason)).collect();
    ensure!(missing.is_empty(), "add packets that meet {missing:?} to the table");
    Ok(())
}

/// As many flows as a pool has ports, and one more.
#[test]
fn ports_run_out() -> Result<()> {
    need_root!();
    let mut settings = services();
    settings.fullnat.insert("ports".into(), "1024-1087".into());
    settings.services.retain(|service| service.forward == Forward::Fullnat);
    settings.services.iter_mut().for_each(|service| service.backends.truncate(1));
    for family in Family::ALL {
        let flow = |number: u16| {
            Packet::new(client(family, 40_000 + number), family.vip_port(BY_FLOW), Protocol::Tcp)
                .frame()
        };
        // The last one comes again: it has no port then, either; the first has kept its own.
        let frames = (0..65).chain([64, 0]).map(flow).collect::<Result<Vec<_>>>()?;
        let replayed = replay(&settings, &frames)?;
        let exhausted = DropReason::PortsExhausted.name();
        for (number, replayed) in replayed.iter().enumerate() {
            let reason = replayed.outcome.reason.as_deref();
            let expected = (64..66).contains(&number).then_some(exhausted);
            ensure!(reason == expected, "{family:?} flow {number}: {:?}", replayed.outcome);
        }
        let at = ETHERNET + if family == Family::V4 { 20 } else { 40 };
        let port = |number: usize| &replayed[number].after[at..at + 2];
        ensure!(port(0) == port(66), "{family:?}: a flow's port changed");
    }
    Ok(())
}

/// The same packets to an address that isn't ours are none of our business.
#[test]
fn broken_packets_to_others_pass() -> Result<()> {
    need_root!();
    let mut frames = Vec::new();
    for (what, mut frame, _) in table()? {
        let tagged = frame[12] != 0x08 && frame[12] != 0x86;
        let empty = what.starts_with("a service");
        if tagged || empty {
            continue;
        }
        // The last octet of the destination address, and with it the address.
        let at = ETHERNET + if frame[12] == 0x08 { 19 } else { 39 };
        frame[at] ^= 0x55;
        frames.push((what, frame));
    }
    let bytes: Vec<_> = frames.iter().map(|(_, frame)| frame.clone()).collect();
    for ((what, _), replayed) in frames.iter().zip(replay(&services(), &bytes)?) {
        ensure!(
            replayed.outcome.verdict == "pass" && replayed.after == replayed.before,
            "{what}, to another address: {:?}",
            replayed.outcome
        );
    }
    Ok(())
}

fn services() -> Settings {
    let mut settings = settings();
    for family in Family::ALL {
        let backends = [backend(family, 1), backend(family, 2)];
        let service = |name: &str, port, protocol| {
            let name = format!("{name}-{family:?}").to_lowercase();
            Service::new(&name, family.vip_port(port), protocol, Forward::Ipip)
        };
        settings.services.push(service("web", WEB, Protocol::Tcp).to(backends));
        settings.services.push(service("dns", DNS, Protocol::Udp).to(backends));
        settings.services.push(service("empty", EMPTY, Protocol::Tcp));
        let mut asleep = service("asleep", ASLEEP, Protocol::Tcp);
        asleep.backends = vec![Backend { weight: Some(0), ..Backend::new(backends[0]) }];
        settings.services.push(asleep);
        let by_flow =
            Service { forward: Forward::Fullnat, ..service("by-flow", BY_FLOW, Protocol::Tcp) };
        settings.services.push(by_flow.to(backends));
        let other = if family == Family::V4 { Family::V6 } else { Family::V4 };
        let across =
            Service { forward: Forward::Fullnat, ..service("across", ACROSS, Protocol::Udp) };
        settings.services.push(across.to([backend(other, 3)]));
    }
    settings
}

/// What it is, the frame, and why it is dropped.
fn table() -> Result<Vec<(&'static str, Vec<u8>, DropReason)>> {
    use DropReason::{
        Expired, Fragment, Ipv6Extension, Malformed, NoBackend, NoFlow, SourceRoute, Truncated,
        Unsummed,
    };
    let web4 = packet(Family::V4, Protocol::Tcp, WEB);
    let web6 = packet(Family::V6, Protocol::Tcp, WEB);
    let dns4 = packet(Family::V4, Protocol::Udp, DNS);
    let (v4, v6, udp4) = (web4.frame()?, web6.frame()?, dns4.frame()?);
    let udp6 = packet(Family::V6, Protocol::Udp, DNS).frame()?;
    let options = Packet { options: vec![1; 40], ..web4.clone() }.frame()?;
    let qinq = Packet { tags: Tags::Qinq, ..web4.clone() }.frame()?;
    let word = |at: usize, value: u16| {
        move |header: &mut [u8]| header[at..at + 2].copy_from_slice(&value.to_be_bytes())
    };
    let across = |family| packet(family, Protocol::Udp, ACROSS);
    let route = Packet { options: vec![131, 7, 4, 10, 0, 0, 1, 0], ..across(Family::V4) };
    let mut unsummed = across(Family::V6).frame()?;
    unsummed[ETHERNET + 40 + 6..][..2].fill(0);
    Ok(vec![
        ("a source route to a backend by IPv6", route.frame()?, SourceRoute),
        ("an IPv6 datagram without a checksum to a backend by IPv4", unsummed, Unsummed),
        ("IPv4 TCP cut within its header", v4[..ETHERNET + 20 + 10].to_vec(), Truncated),
        ("IPv4 TCP cut within its payload", v4[..v4.len() - 1].to_vec(), Truncated),
        ("IPv4 cut within its options", options[..ETHERNET + 30].to_vec(), Truncated),
        ("IPv4 UDP cut within its header", udp4[..ETHERNET + 24].to_vec(), Truncated),
        ("tagged IPv4 TCP cut within its header", qinq[..22 + 24].to_vec(), Truncated),
        ("IPv6 TCP cut within its header", v6[..ETHERNET + 40 + 10].to_vec(), Truncated),
        ("IPv6 TCP cut within its payload", v6[..v6.len() - 1].to_vec(), Truncated),
        ("IPv6 UDP cut within its header", udp6[..ETHERNET + 40 + 7].to_vec(), Truncated),
        ("IPv4 header of 16 bytes", edit_ipv4(v4.clone(), |ip| ip[0] = 0x44), Malformed),
        ("IPv4 total length below its header", edit_ipv4(v4.clone(), word(2, 19)), Malformed),
        ("IPv4 of version 6", edit_ipv4(v4.clone(), |ip| ip[0] = 0x65), Malformed),
        (
            "IPv6 of version 4",
            {
                let mut frame = v6.clone();
                frame[ETHERNET] = 0x48;
                frame
            },
            Malformed,
        ),
        ("IPv4 TCP whose ports lie in the padding", edit_ipv4(v4.clone(), word(2, 20)), Malformed),
        (
            "an atomic IPv6 fragment that ends before its TCP header",
            {
                let mut frame = extend_ipv6(v6.clone(), 44, &[0, 0, 0, 0, 0, 0, 7]);
                frame[ETHERNET + 4..][..2].copy_from_slice(&4u16.to_be_bytes());
                frame
            },
            Malformed,
        ),
        ("TTL 0", Packet { hops: 0, ..web4.clone() }.frame()?, Expired),
        ("hop limit 0", Packet { hops: 0, ..web6.clone() }.frame()?, Expired),
        ("TTL 0 with tags", Packet { hops: 0, tags: Tags::Qinq, ..web4 }.frame()?, Expired),
        ("first IPv4 fragment", edit_ipv4(udp4.clone(), word(6, 0x2000)), Fragment),
        ("middle IPv4 fragment", edit_ipv4(udp4.clone(), word(6, 0x2010)), Fragment),
        ("last IPv4 fragment", edit_ipv4(udp4, word(6, 0x0010)), Fragment),
        (
            "first IPv6 fragment",
            extend_ipv6(udp6.clone(), 44, &[0, 0x00, 0x01, 0, 0, 0, 7]),
            Fragment,
        ),
        ("last IPv6 fragment", extend_ipv6(udp6, 44, &[0, 0x01, 0x00, 0, 0, 0, 7]), Fragment),
        (
            "IPv6 hop-by-hop options",
            extend_ipv6(v6.clone(), 0, &[0, 1, 4, 0, 0, 0, 0]),
            Ipv6Extension,
        ),
        (
            "IPv6 destination options",
            extend_ipv6(v6.clone(), 60, &[0, 1, 4, 0, 0, 0, 0]),
            Ipv6Extension,
        ),
        ("IPv6 routing header", extend_ipv6(v6, 43, &[0, 253, 0, 0, 0, 0, 0]), Ipv6Extension),
        (
            "a service without backends, IPv4",
            packet(Family::V4, Protocol::Tcp, EMPTY).frame()?,
            NoBackend,
        ),
        (
            "a service without backends, IPv6",
            packet(Family::V6, Protocol::Tcp, EMPTY).frame()?,
            NoBackend,
        ),
        (
            "a service whose backends have weight 0",
            packet(Family::V4, Protocol::Tcp, ASLEEP).frame()?,
            NoBackend,
        ),
        (
            "a reset of no connection, under fullnat",
            {
                let mut frame = packet(Family::V4, Protocol::Tcp, BY_FLOW).frame()?;
                frame[ETHERNET + 20 + 13] = 0x04;
                frame
            },
            NoFlow,
        ),
    ])
}
