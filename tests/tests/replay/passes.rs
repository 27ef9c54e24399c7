//! What isn't ours goes on untouched.

use anyhow::{Result, ensure};
use etherparse::{Icmpv4Type, Icmpv6Type, PacketBuilder};
use xlb_tests::frames::build::{BALANCER_MAC, CLIENT_MAC, Packet, Tags, pad};
use xlb_tests::lab::{Family, VIP4, VIP6};
use xlb_tests::need_root;
use xlb_tests::xlb::{Forward, Protocol, Service, replay};

use super::{backend, client, consistent, packet, settings};

#[test]
fn what_is_not_ours_passes_untouched() -> Result<()> {
    need_root!();
    let mut settings = settings();
    for family in Family::ALL {
        let vip = family.vip_port(80);
        let service = Service::new(&format!("web{vip}"), vip, Protocol::Tcp, Forward::Ipip);
        settings.services.push(service.to([backend(family, 1)]));
    }
    let table = table()?;
    let frames: Vec<_> = table.iter().map(|(_, frame)| frame.clone()).collect();
    for ((what, frame), replayed) in table.iter().zip(replay(&settings, &frames)?) {
        let outcome = &replayed.outcome;
        ensure!(outcome.verdict == "pass", "{what}: {outcome:?}");
        consistent(outcome)?;
        ensure!(&replayed.after == frame, "{what}: the frame changed");
    }
    Ok(())
}

fn table() -> Result<Vec<(String, Vec<u8>)>> {
    let mut table = Vec::new();
    let mut add = |what: &str, frame: Vec<u8>| table.push((what.to_owned(), frame));
    let typed = |destination: [u8; 6], ether_type: u16, rest: &[u8]| {
        pad([&destination[..], &CLIENT_MAC, &ether_type.to_be_bytes(), rest].concat())
    };
    let arp =
        [&[0, 1, 8, 0, 6, 4, 0, 1][..], &CLIENT_MAC, &[192, 0, 2, 1], &[0; 6], &VIP4.octets()];
    add("ARP for the virtual address", typed([0xff; 6], 0x0806, &arp.concat()));
    add("LLDP", typed([1, 0x80, 0xc2, 0, 0, 0x0e], 0x88cc, &[2, 7, 4, 2, 0, 0, 0, 0, 1, 0, 0]));
    add("an unknown EtherType", typed(BALANCER_MAC, 0x9999, &[0x45; 40]));

    for family in Family::ALL {
        for tags in Tags::ALL {
            let tcp = Packet { tags, ..packet(family, Protocol::Tcp, 80) };
            let mut other = tcp.clone();
            other.to.set_ip(client(family, 0).ip());
            add("another address", other.frame()?);
            other = tcp.clone();
            other.to.set_port(81);
            add("another port", other.frame()?);
            add("another protocol", Packet { protocol: Protocol::Udp, ..tcp.clone() }.frame()?);
            let answer = Packet { from: tcp.to, to: tcp.from, ..tcp };
            add("an answer from the virtual address", answer.frame()?);
        }
        // Before the destination address is whole, nothing can be known to be ours.
        let whole = packet(family, Protocol::Tcp, 80).frame()?;
        let known = if family == Family::V4 { 14 + 20 } else { 14 + 40 };
        for length in 0..known {
            add(&format!("a runt of {length} bytes, {family:?}"), whole[..length].to_vec());
        }
    }

    let mut ping = Vec::new();
    PacketBuilder::ethernet2(CLIENT_MAC, BALANCER_MAC)
        .ipv4([192, 0, 2, 1], VIP4.octets(), 57)
        .icmpv4(Icmpv4Type::EchoRequest(etherparse::IcmpEchoHeader { id: 1, seq: 1 }))
        .write(&mut ping, b"ping")?;
    add("ICMP echo to the virtual address", ping);
    let mut ping = Vec::new();
    PacketBuilder::ethernet2(CLIENT_MAC, BALANCER_MAC)
        .ipv6([0x20; 16], VIP6.octets(), 57)
        .icmpv6(Icmpv6Type::EchoRequest(etherparse::IcmpEchoHeader { id: 1, seq: 1 }))
        .write(&mut ping, b"ping")?;
    add("ICMPv6 echo to the virtual address", ping);
    Ok(table)
}
