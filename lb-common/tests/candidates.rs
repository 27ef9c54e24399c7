//! What a GUE header says of other backends, byte by byte, and when it says it.

#![expect(clippy::unwrap_used, reason = "a test fails by it")]

#[expect(dead_code, reason = "other tests build more")]
mod frames;

use frames::{TAGS, ethernet, ipv4, record, tcp, udp};
use lb_common::{
    balance::balance,
    checksum,
    directory_builder::{Entry, Transport},
    hash::Keys,
    id::BackendId,
    layout::{Affinity, BackendRecord, Kind, Slot},
    network::mapped,
    packet::Packet,
    tables::{MemoryBuffer, MemoryTables},
    verdict::{DropReason, Outcome},
};

const VIP: [u8; 4] = [203, 0, 113, 10];
const ACK: u8 = 0x10;
const SYN: u8 = 0x02;
const CHOSEN: BackendId = BackendId(1);
const FIRST: BackendId = BackendId(2);
const SECOND: BackendId = BackendId(3);

/// TCP port 80 and any UDP port; backends whose addresses end in 1, 2 and 3, in that slot.
fn tables(kind: Kind, slot: Slot) -> MemoryTables {
    let service = |id, transport, port| Entry {
        vip: VIP.into(),
        port,
        transport,
        id,
        ring_start: 7 * (id - 1),
        ring_size: 7,
        affinity: Affinity::Flow,
        idle_seconds: 60,
        answers: 0,
        icmp_echo: false,
    };
    let services = [service(1, Transport::Tcp, Some(80)), service(2, Transport::Udp, None)];
    let mut tables = MemoryTables::new(Keys::from_seed(1), &services).unwrap();
    tables.slots.fill(slot);
    for id in [CHOSEN, FIRST, SECOND] {
        let alive = BackendRecord { address: address(kind, id), alive: 1, ..record(kind, true) };
        tables.set_backend(id, alive);
    }
    tables
}

fn address(kind: Kind, id: BackendId) -> [u8; 16] {
    let last = id.0 as u8;
    match kind {
        Kind::GueIpv4 => mapped([10, 0, 0, last]),
        _ => [0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, last],
    }
}

/// The flow lives with `CHOSEN`, perhaps with the others.
fn moving() -> Slot {
    Slot::moving(FIRST, CHOSEN, SECOND)
}

fn segment(flags: u8) -> Vec<u8> {
    ipv4(VIP, 6, &[], &tcp(4711, 80, flags, b"hello"))
}

/// The frame behind its link header, without the packet itself at its end.
fn outer(tables: &MemoryTables, tags: &[u8], packet: &[u8]) -> Result<Vec<u8>, DropReason> {
    let mut buffer = MemoryBuffer::new(&ethernet(tags, 0x0800, packet), 256, 3);
    let outcome = Outcome::from(balance(Packet::new(&mut buffer), tables));
    if let Some(reason) = outcome.reason {
        return Err(reason);
    }
    let frame = buffer.frame();
    assert_eq!(frame[12..12 + tags.len()], *tags, "tags are kept");
    let outer = frame[14 + tags.len()..].strip_suffix(packet).expect("the packet is untouched");
    Ok(outer.to_vec())
}

/// What stands behind the 4 bytes of GUE.
fn private(outer: &[u8], kind: Kind) -> &[u8] {
    let ip_len = if kind == Kind::GueIpv4 { 20 } else { 40 };
    let gue = &outer[ip_len + 8..];
    assert_eq!(gue[1..4], [4, 0, 0], "a data message with IPv4, no flags");
    assert_eq!(usize::from(gue[0]) * 4, gue.len() - 4, "version 0, and the length of the rest");
    &gue[4..]
}

#[test]
fn ipv4_addresses_byte_by_byte() {
    for tags in [&TAGS[..0], &TAGS[..4], &TAGS] {
        let packet = segment(ACK);
        let outer = outer(&tables(Kind::GueIpv4, moving()), tags, &packet).unwrap();
        let expected = [1, 2, 0, 0, 10, 0, 0, 2, 10, 0, 0, 3];
        assert_eq!(private(&outer, Kind::GueIpv4), expected);
        let word = |at: usize| usize::from(u16::from_be_bytes([outer[at], outer[at + 1]]));
        assert_eq!(word(2), outer.len() + packet.len(), "the outer length");
        assert_eq!(checksum::sum(&outer[..20]), 0xffff, "the outer checksum");
        assert_eq!(word(24), outer.len() - 20 + packet.len(), "UDP's length");
        assert_eq!(outer[16..20], [10, 0, 0, 11], "still toward the chosen one's record");
    }
}

#[test]
fn ipv6_addresses_byte_by_byte() {
    let packet = segment(ACK);
    let outer = outer(&tables(Kind::GueIpv6, moving()), &[], &packet).unwrap();
    let addresses = [address(Kind::GueIpv6, FIRST), address(Kind::GueIpv6, SECOND)].concat();
    assert_eq!(private(&outer, Kind::GueIpv6), [&[1, 2, 0, 0], &addresses[..]].concat());
    let word = |at: usize| usize::from(u16::from_be_bytes([outer[at], outer[at + 1]]));
    assert_eq!(word(4), outer.len() - 40 + packet.len(), "the outer length");
    assert_eq!(word(44), outer.len() - 40 + packet.len(), "UDP's length");
}

#[test]
fn who_is_dead_unresolved_or_reached_otherwise_is_no_candidate() {
    let without = |change: fn(&mut BackendRecord), changed: &[BackendId]| {
        let mut tables = tables(Kind::GueIpv4, moving());
        for &id in changed {
            change(tables.backend_mut(id));
        }
        let outer = outer(&tables, &[], &segment(ACK)).unwrap();
        private(&outer, Kind::GueIpv4).to_vec()
    };
    let dead: fn(&mut BackendRecord) = |record| record.alive = 0;
    let changes: [fn(&mut BackendRecord); 3] =
        [dead, |record| record.resolved = 0, |record| record.kind = Kind::GueIpv6 as u8];
    for change in changes {
        assert_eq!(without(change, &[FIRST]), [1, 1, 0, 0, 10, 0, 0, 3, 0, 0, 0, 0]);
        assert_eq!(without(change, &[SECOND]), [1, 1, 0, 0, 10, 0, 0, 2, 0, 0, 0, 0]);
        assert_eq!(without(change, &[FIRST, SECOND]), [0; 0]);
    }
}

#[test]
fn only_open_tcp_connections_in_moving_slots_have_candidates() {
    let len = |slot, packet: &[u8]| {
        let tables = tables(Kind::GueIpv4, slot);
        private(&outer(&tables, &[], packet).unwrap(), Kind::GueIpv4).len()
    };
    assert_eq!(len(moving(), &segment(ACK)), 12);
    assert_eq!(len(moving(), &segment(0x04)), 12, "a RST ends the connection where it lives");
    assert_eq!(len(moving(), &segment(SYN)), 0, "nobody has it yet");
    assert_eq!(len(moving(), &segment(SYN | ACK)), 0, "no client sends it");
    assert_eq!(len(Slot::stable(CHOSEN), &segment(ACK)), 0);
    assert_eq!(len(moving(), &ipv4(VIP, 17, &[], &udp(1, 53, b"query"))), 0, "UDP has no sockets");
}

#[test]
fn other_modes_have_no_room_for_them() {
    for kind in [Kind::L2, Kind::Ipv4, Kind::Ipv6] {
        let outer = outer(&tables(kind, moving()), &[], &segment(ACK)).unwrap();
        assert_eq!(outer.len(), kind.outer_len(), "{kind:?}");
    }
}

#[test]
fn what_does_not_fit_with_them_goes_without() {
    for (kind, len) in [(Kind::GueIpv4, 12), (Kind::GueIpv6, 36)] {
        let packet = segment(ACK);
        let least = kind.outer_len() + packet.len();
        let at_mtu = |mtu: usize| {
            let mut tables = tables(kind, moving());
            tables.backend_mut(CHOSEN).mtu = mtu as u16;
            outer(&tables, &[], &packet).map(|outer| private(&outer, kind).len())
        };
        assert_eq!(at_mtu(least + len), Ok(len));
        assert_eq!(at_mtu(least + len - 1), Ok(0));
        assert_eq!(at_mtu(least), Ok(0));
        assert_eq!(at_mtu(least - 1), Err(DropReason::TooBig));
    }
}

/// As long as the longest packet may be, with them or without: no length wraps.
#[test]
fn no_length_wraps() {
    let tables = tables(Kind::GueIpv4, moving());
    let packet = |outer_len: usize| {
        ipv4(VIP, 6, &[], &tcp(4711, 80, ACK, &vec![0; 65_535 - 40 - outer_len]))
    };
    assert_eq!(outer(&tables, &[], &packet(32 + 12)).unwrap().len(), 32 + 12);
    assert_eq!(outer(&tables, &[], &packet(32)).unwrap().len(), 32);
    assert_eq!(outer(&tables, &[], &packet(31)), Err(DropReason::TooBig));
}
