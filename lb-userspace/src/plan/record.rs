//! A backend's record from what is known of it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use lb_common::{
    checksum,
    id::ServiceId,
    layout::{BackendRecord, Kind, OUTER_CAPACITY, PoolRange},
    network::mapped,
    rewrite::GUE_PORT,
};

use crate::model::{Backend, BackendKey, Forward};

const IPV4_IN_IP: u8 = 4;
const IPV6_IN_IP: u8 = 41;
const UDP: u8 = 17;
/// TTL and hop limit of outer headers: the recommended default (IANA, "IP option numbers").
const OUTER_TTL: u8 = 64;

/// The address as records and ring keys have it.
pub fn address_bytes(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(address) => mapped(address.octets()),
        IpAddr::V6(address) => address.octets(),
    }
}

/// Whose record it is: the inverse of what [`build`] stores.
pub fn backend_key(record: &BackendRecord) -> BackendKey {
    BackendKey {
        address: Ipv6Addr::from(record.address).to_canonical(),
        port: (record.port != 0).then_some(record.port),
    }
}

/// The record of a backend that serves VIPs of `vip`'s family.
///
/// Without a route, or without the outer source or the pool that its mode needs, it is unresolved.
pub fn build(
    service: ServiceId,
    vip: IpAddr,
    backend: &Backend,
    generation: u32,
    egress_port: u32,
    pool: Option<PoolRange>,
) -> BackendRecord {
    let kind = kind(backend, vip);
    let mut record = BackendRecord {
        kind: kind as u8,
        service: service.0,
        generation,
        address: address_bytes(backend.key.address),
        port: backend.key.port.unwrap_or(0),
        alive: backend.alive.into(),
        ..BackendRecord::VACANT
    };
    let Some(route) = &backend.route else { return record };
    let translates = backend.forward.translates();
    if translates {
        if vip.is_ipv4() != backend.key.address.is_ipv4() && !kind.is_across() {
            return record;
        }
        record.set_destination();
        record.outer_sum = checksum::address_difference(&address_bytes(vip), &record.address);
    }
    if kind.is_fullnat() {
        let Some(pool) = pool else { return record };
        record.set_fullnat(pool, &address_bytes(vip));
    }
    match outer_header(kind, vip, route.outer_source, backend.key.address) {
        Some(_) if translates => {}
        Some(outer) => record.outer = outer,
        None => return record,
    }
    if matches!(kind, Kind::Ipv4 | Kind::GueIpv4) {
        record.outer_sum = checksum::sum(&record.outer[..20]).into();
    }
    record.macs[..6].copy_from_slice(&route.next_hop.0);
    record.macs[6..].copy_from_slice(&route.source_mac.0);
    let mtu = if route.mtu == 0 { u16::MAX } else { route.mtu };
    if kind.is_across() {
        record.set_mtu_across(mtu);
    } else {
        record.mtu = mtu;
    }
    record.egress_ifindex = route.egress_ifindex;
    record.egress_port = egress_port;
    record.resolved = 1;
    record
}

fn kind(backend: &Backend, vip: IpAddr) -> Kind {
    match (backend.forward, backend.key.address) {
        (Forward::L2, _) => Kind::L2,
        (Forward::Ipip, IpAddr::V4(_)) => Kind::Ipv4,
        (Forward::Ipip, IpAddr::V6(_)) => Kind::Ipv6,
        (Forward::Gue, IpAddr::V4(_)) => Kind::GueIpv4,
        (Forward::Gue, IpAddr::V6(_)) => Kind::GueIpv6,
        (Forward::Nat, IpAddr::V4(_)) => Kind::NatIpv4,
        (Forward::Nat, IpAddr::V6(_)) => Kind::NatIpv6,
        (Forward::Fullnat, IpAddr::V4(_)) if vip.is_ipv6() => Kind::FullnatToIpv4,
        (Forward::Fullnat, IpAddr::V4(_)) => Kind::FullnatIpv4,
        (Forward::Fullnat, IpAddr::V6(_)) if vip.is_ipv4() => Kind::FullnatToIpv6,
        (Forward::Fullnat, IpAddr::V6(_)) => Kind::FullnatIpv6,
    }
}

/// The outer header with all that differs per packet zero. `None` without a source of the
/// backend's family.
fn outer_header(
    kind: Kind,
    vip: IpAddr,
    source: Option<IpAddr>,
    destination: IpAddr,
) -> Option<[u8; OUTER_CAPACITY]> {
    let inner = if vip.is_ipv4() { IPV4_IN_IP } else { IPV6_IN_IP };
    let mut outer = [0; OUTER_CAPACITY];
    let ip_len = match (kind, source, destination) {
        (Kind::L2 | Kind::NatIpv4 | Kind::NatIpv6, _, _) => return Some(outer),
        (kind, _, _) if kind.is_fullnat() => return Some(outer),
        (Kind::Ipv4 | Kind::GueIpv4, Some(IpAddr::V4(source)), IpAddr::V4(destination)) => {
            let protocol = if kind == Kind::Ipv4 { inner } else { UDP };
            outer[..20].copy_from_slice(&ipv4_header(protocol, source, destination));
            20
        }
        (Kind::Ipv6 | Kind::GueIpv6, Some(IpAddr::V6(source)), IpAddr::V6(destination)) => {
            let next_header = if kind == Kind::Ipv6 { inner } else { UDP };
            outer[..40].copy_from_slice(&ipv6_header(next_header, source, destination));
            40
        }
        _ => return None,
    };
    if matches!(kind, Kind::GueIpv4 | Kind::GueIpv6) {
        outer[ip_len + 2..ip_len + 4].copy_from_slice(&GUE_PORT.to_be_bytes());
        // GUE: version 0, data message, no fields; then the inner protocol, and no flags.
        outer[ip_len + 9] = inner;
    }
    Some(outer)
}

/// An IPv4 header that is never fragmented: DF, so that the identification may be zero (RFC 6864).
fn ipv4_header(protocol: u8, source: Ipv4Addr, destination: Ipv4Addr) -> [u8; 20] {
    let mut header = [0; 20];
    header[0] = 0x45;
    header[6] = 0x40;
    header[8] = OUTER_TTL;
    header[9] = protocol;
    header[12..16].copy_from_slice(&source.octets());
    header[16..].copy_from_slice(&destination.octets());
    header
}

fn ipv6_header(next_header: u8, source: Ipv6Addr, destination: Ipv6Addr) -> [u8; 40] {
    let mut header = [0; 40];
    header[0] = 0x60;
    header[6] = next_header;
    header[7] = OUTER_TTL;
    header[8..24].copy_from_slice(&source.octets());
    header[24..].copy_from_slice(&destination.octets());
    header
}
