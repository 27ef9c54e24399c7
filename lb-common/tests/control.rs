//! ICMP on the host: errors toward backends in every mode, echo, and what is told of packets that
//! are too big.

#![expect(clippy::unwrap_used, reason = "a test fails by it")]

#[expect(dead_code, reason = "other tests use the rest")]
mod frames;
mod packets;
mod through;

use std::net::IpAddr;

use frames::{MACS, TAGS, ethernet, ipv4, ipv6, record, tcp, udp};
use lb_common::{
    directory_builder::{Entry, Transport},
    hash::Keys,
    id::{BackendId, ServiceId},
    layout::{Affinity, Kind, Slot},
    tables::MemoryTables,
    verdict::{DropReason, Verdict},
};
use packets::{addresses, assert_right, ether_type, from, packet, sealed};
use through::{run, v6};

const VIP4: [u8; 4] = [203, 0, 113, 10];
const CLIENT4: [u8; 4] = [192, 0, 2, 1];
const KINDS: [Kind; 5] = [Kind::L2, Kind::Ipv4, Kind::Ipv6, Kind::GueIpv4, Kind::GueIpv6];

fn vip6() -> [u8; 16] {
    v6("2001:db8::10")
}

/// VIP, client and a router of a family.
fn hosts(is_v4: bool) -> [Vec<u8>; 3] {
    match is_v4 {
        true => [VIP4.to_vec(), CLIENT4.to_vec(), vec![198, 51, 100, 7]],
        false => [vip6().to_vec(), v6("2001:db8::1").to_vec(), v6("2001:db8:7::7").to_vec()],
    }
}

/// TCP port 80 of one VIP and any UDP port, for a family, with two backends of a kind; the first has
/// all slots.
fn tables(kind: Kind, is_v4: bool, icmp_echo: bool) -> MemoryTables {
    let vip = if is_v4 { IpAddr::from(VIP4) } else { vip6().into() };
    let service = |id: u32, transport, port| Entry {
        vip,
        port,
        transport,
        id,
        ring_start: 7 * (id - 1),
        ring_size: 7,
        affinity: Affinity::Flow,
        idle_seconds: 60,
        answers: 0,
        icmp_echo: icmp_echo && id == 2,
    };
    let services = [service(1, Transport::Tcp, Some(80)), service(2, Transport::Udp, None)];
    let mut tables = MemoryTables::new(Keys::from_seed(1), &services).unwrap();
    tables.slots.fill(Slot::stable(BackendId(1)));
    for id in [1, 2] {
        let mut record = record(kind, is_v4);
        record.alive = 1;
        record.mtu = 1500;
        tables.set_backend(BackendId(id), record);
    }
    tables
}

/// An ICMP error of a router about what a VIP sent to the client, of which so many bytes of the
/// transport are quoted.
fn error(is_v4: bool, payload: &[u8], protocol: u8, quoted_len: usize) -> Vec<u8> {
    let [vip, client, router] = hosts(is_v4);
    let quoted = packet(is_v4, &vip, &client, protocol, payload);
    let (control, header, kind) = if is_v4 { (1, 20, 3) } else { (58, 40, 2) };
    let message = [&[kind, 4, 0, 0, 0, 0, 5, 0], &quoted[..header + quoted_len]].concat();
    packet(is_v4, &router, &vip, control, &message)
}

#[test]
fn errors_go_to_the_backend_of_their_flow_in_every_mode() {
    for (kind, is_v4) in KINDS.into_iter().flat_map(|kind| [(kind, true), (kind, false)]) {
        for (protocol, payload) in [(6, tcp(80, 4711, 0x10, b"")), (17, udp(53, 4711, b"answer"))] {
            for tags in 0..=2 {
                let tables = tables(kind, is_v4, false);
                let link = 14 + 4 * tags;
                let sent = error(is_v4, &payload, protocol, 8);
                let frame = ethernet(&TAGS[..4 * tags], ether_type(is_v4), &sent);
                let (outcome, out) = run(&tables, &frame);
                assert_eq!(outcome.verdict, Verdict::Transmit, "{kind:?} {is_v4}");
                assert_eq!(outcome.backend, BackendId(1));
                assert_eq!(outcome.service, ServiceId(if protocol == 6 { 1 } else { 2 }));
                assert_eq!(outcome.bytes as usize, frame.len());
                assert!(!outcome.opens && !outcome.is_reply);
                assert_eq!(out[..12], MACS);
                assert_eq!(out[link + kind.outer_len()..], sent, "the error itself is untouched");
                assert_eq!(out.len(), frame.len() + kind.outer_len());
            }
        }
    }
}

/// It takes the way of the client's packets: the outer header has the same entropy.
#[test]
fn errors_follow_their_flow() {
    for is_v4 in [true, false] {
        let [vip, client, _] = hosts(is_v4);
        let mut tables = tables(Kind::GueIpv6, is_v4, false);
        let error = ethernet(&[], ether_type(is_v4), &error(is_v4, &tcp(80, 4711, 0, b""), 6, 8));
        let segment = packet(is_v4, &client, &vip, 6, &tcp(4711, 80, 0x02, b""));
        let opens = ethernet(&[], ether_type(is_v4), &segment);
        let source_port = |frame: &[u8]| frame[54..56].to_vec();
        assert_eq!(source_port(&run(&tables, &error).1), source_port(&run(&tables, &opens).1));

        tables.slots.fill(Slot::stable(BackendId(1)).toward(BackendId(2)));
        assert_eq!(
            run(&tables, &error).0.backend,
            BackendId(1),
            "an unknown one lives where it was"
        );
        assert!(tables.records().is_empty(), "nothing is remembered of an error");
        assert_eq!(run(&tables, &opens).0.backend, BackendId(2));
        assert_eq!(run(&tables, &error).0.backend, BackendId(2), "a known one where it is");

        tables.slots.fill(Slot::default());
        let outcome = run(&tables, &error).0;
        assert_eq!(outcome.reason, Some(DropReason::NoBackend));
    }
}

#[test]
fn what_is_no_error_about_a_flow_passes_untouched() {
    for is_v4 in [true, false] {
        let tables = tables(Kind::Ipv4, is_v4, false);
        let [vip, client, router] = hosts(is_v4);
        let control = if is_v4 { 1 } else { 58 };
        let echo = if is_v4 { 8 } else { 128 };
        let about = |source: &[u8], protocol, payload: &[u8], len: usize| {
            let quoted = packet(is_v4, source, &client, protocol, payload);
            let len = if is_v4 { 20 } else { 40 } + len;
            let kind = if is_v4 { 3 } else { 1 };
            [&[kind, 1, 0, 0, 0, 0, 0, 0], &quoted[..len]].concat()
        };
        let segment = tcp(80, 4711, 0x10, b"");
        let messages = [
            vec![echo, 0, 0, 0, 0, 1, 0, 1, 1, 2],
            // Of another sender, of a service that isn't there, cut before the ports' end.
            about(&router, 6, &segment, 8),
            about(&vip, 6, &tcp(81, 4711, 0x10, b""), 8),
            about(&vip, 6, &segment, 3),
            about(&vip, 6, &segment, 7),
            about(&vip, 6, &segment, 0)[..12].to_vec(),
            vec![3],
            vec![],
        ];
        for message in messages {
            let sent = match is_v4 {
                true => from(ipv4(VIP4, control, &[], &message), &router),
                false => from(ipv6(vip6(), control, &message), &router),
            };
            let frame = ethernet(&[], ether_type(is_v4), &sent);
            let (outcome, after) = run(&tables, &frame);
            assert_eq!(outcome.verdict, Verdict::Pass, "{message:?}");
            assert_eq!(after, frame);
        }
    }
}

#[test]
fn echo_requests_are_answered_where_the_vip_says_so() {
    for (is_v4, tags) in [(true, 0), (true, 2), (false, 0), (false, 1)] {
        let [vip, client, _] = hosts(is_v4);
        let (control, request, reply) = if is_v4 { (1, 8, 0) } else { (58, 128, 129) };
        for data in [&b""[..], b"odd", &[0xff; 1400]] {
            let message = |kind| [&[kind, 0, 0, 0, 0x12, 0x34, 0, 1], data].concat();
            let sent = packet(is_v4, &client, &vip, control, &message(request));
            let frame = ethernet(&TAGS[..4 * tags], ether_type(is_v4), &sent);
            assert_eq!(run(&tables(Kind::L2, is_v4, false), &frame).0.verdict, Verdict::Pass);

            let tables = tables(Kind::L2, is_v4, true);
            let (outcome, out) = run(&tables, &frame);
            assert_eq!((outcome.verdict, outcome.reason), (Verdict::Transmit, None));
            assert!(outcome.is_reply && outcome.service == ServiceId::NONE);
            let link = 14 + 4 * tags;
            assert_eq!(out[..12], [&frame[6..12], &frame[..6]].concat());
            assert_eq!(out[12..link], frame[12..link]);
            let answer = &out[link..];
            assert_eq!(addresses(answer), [&vip[..], &client].concat());
            assert_eq!(answer[if is_v4 { 8 } else { 7 }], 64);
            let header = if is_v4 { 20 } else { 40 };
            assert_eq!(answer[header], reply);
            assert_eq!(answer[header + 4..], sent[header + 4..]);
            let [at, len] = if is_v4 { [0, 20] } else { [0, 0] };
            assert_eq!(lb_common::checksum::sum(&answer[at..len]), if is_v4 { 0xffff } else { 0 });
            assert_eq!(sealed(answer.to_vec()), answer, "the checksum is right");

            tables.replies.set(0);
            let outcome = run(&tables, &frame).0;
            assert_eq!(outcome.reason, Some(DropReason::RateLimited));
        }
    }
}

/// Each fragment of a long request becomes one of the reply.
#[test]
fn fragments_of_echo_requests_are_answered() {
    let tables = tables(Kind::L2, true, true);
    let whole = [&[8, 0, 0, 0, 0, 1, 0, 1], &[7; 24][..]].concat();
    let sealed = sealed(ipv4(VIP4, 1, &[], &whole));
    let mut reply = Vec::new();
    for (at, more) in [(0, true), (16, false)] {
        let part = &sealed[20..][at..][..16];
        let mut sent = ipv4(VIP4, 1, &[], part);
        let field = (at / 8) as u16 | if more { 0x2000 } else { 0 };
        sent[6..8].copy_from_slice(&field.to_be_bytes());
        let sent = from(sent, &CLIENT4);
        let (outcome, out) = run(&tables, &ethernet(&[], 0x0800, &sent));
        assert!(outcome.is_reply, "{at}");
        assert_eq!(out[14 + 6..14 + 8], field.to_be_bytes());
        assert_eq!(lb_common::checksum::sum(&out[14..34]), 0xffff);
        reply.extend(&out[34..]);
    }
    assert_eq!(reply[0], 0);
    assert_eq!(lb_common::checksum::sum(&reply), 0xffff, "of the whole message");
}

#[test]
fn nobody_is_answered_who_is_no_host() {
    let request = [8, 0, 0, 0, 0, 1, 0, 1];
    for source in [[0; 4], [127, 0, 0, 1], [224, 0, 0, 1], [255; 4]] {
        let sent = sealed(from(ipv4(VIP4, 1, &[], &request), &source));
        let outcome = run(&tables(Kind::L2, true, true), &ethernet(&[], 0x0800, &sent)).0;
        assert_eq!(outcome.verdict, Verdict::Pass, "{source:?}");
    }
    let request = [128, 0, 0, 0, 0, 1, 0, 1];
    for source in ["::", "::1", "ff02::1"] {
        let sent = sealed(from(ipv6(vip6(), 58, &request), &v6(source)));
        let outcome = run(&tables(Kind::L2, false, true), &ethernet(&[], 0x86dd, &sent)).0;
        assert_eq!(outcome.verdict, Verdict::Pass, "{source}");
    }
}

#[test]
fn who_sends_too_big_packets_is_told_what_fits() {
    for (kind, is_v4) in KINDS.into_iter().flat_map(|kind| [(kind, true), (kind, false)]) {
        let [vip, client, _] = hosts(is_v4);
        let mut tables = tables(kind, is_v4, false);
        let mtu = 1400;
        for id in [1, 2] {
            tables.backend_mut(BackendId(id)).mtu = mtu as u16;
        }
        let header = if is_v4 { 20 } else { 40 };
        let fits = mtu - kind.outer_len();
        for (tags, len) in [(0, fits), (0, fits + 1), (1, 1500)] {
            let data = vec![0x5a; len - header - 20];
            let mut sent = packet(is_v4, &client, &vip, 6, &tcp(4711, 80, 0x10, &data));
            if is_v4 {
                sent[6] = 0x40;
                sent = from(sent, &CLIENT4);
            }
            let frame = ethernet(&TAGS[..4 * tags], ether_type(is_v4), &sent);
            let (outcome, out) = run(&tables, &frame);
            if len == fits {
                assert!(outcome.is_forwarded(), "{kind:?} {is_v4}");
                continue;
            }
            assert_eq!(
                (outcome.verdict, outcome.reason),
                (Verdict::Transmit, Some(DropReason::TooBig))
            );
            assert!(outcome.is_reply && outcome.service == ServiceId(1));
            let link = 14 + 4 * tags;
            assert_eq!(out[..12], [&frame[6..12], &frame[..6]].concat());
            assert_eq!(out[12..link], frame[12..link]);
            let told = &out[link..];
            assert_right(told, "told");
            assert_eq!(addresses(told), [&vip[..], &client].concat());
            let message = &told[header..];
            let (kind_and_code, at, told_mtu) = if is_v4 {
                ([3, 4], 6..8, fits as u16)
            } else {
                ([2, 0], 6..8, fits.max(1280) as u16)
            };
            assert_eq!(message[..2], kind_and_code);
            assert_eq!(message[at], told_mtu.to_be_bytes());
            assert_eq!(message[8..], sent[..message.len() - 8], "what is quoted");
            assert!(message.len() >= 8 + header + 8);

            tables.replies.set(0);
            let (outcome, _) = run(&tables, &frame);
            assert_eq!(
                (outcome.verdict, outcome.reason),
                (Verdict::Drop, Some(DropReason::TooBig))
            );
            tables.replies.set(u32::MAX);
        }
    }
}

/// Where routers may fragment it, nobody is told.
#[test]
fn too_big_packets_that_may_be_fragmented_are_refused() {
    let tables = tables(Kind::Ipv4, true, false);
    let sent = packet(true, &CLIENT4, &VIP4, 6, &tcp(4711, 80, 0x10, &[0; 1450]));
    let (outcome, _) = run(&tables, &ethernet(&[], 0x0800, &sent));
    assert_eq!((outcome.verdict, outcome.reason), (Verdict::Drop, Some(DropReason::TooBig)));
}
