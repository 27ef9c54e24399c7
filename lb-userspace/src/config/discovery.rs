//! Checks a `[service.discovery]` and the `[api.register]` that self-registration needs.

use std::{net::IpAddr, time::Duration};

use super::{
    error::{ErrorKind, Fault, Faults},
    keys::{Key, discovery as keys, register},
    node::Node,
    read::Table,
    types::{DiscoveryConfig, DiscoverySource, DnsRecord, DnsSource, DoorTls, RegisterDoor},
    value::{self, DiscoveryType},
};
use crate::model::{Destination, Forward};

/// Keys that only one type has.
const DNS_ONLY: [&Key; 5] =
    [&keys::NAME, &keys::RECORD, &keys::SERVER, &keys::MIN_TTL, &keys::MAX_TTL];

/// Checks the section; `vip` and `forward` are the service's, where they are known.
pub(super) fn check(
    node: &Node,
    path: &str,
    vip: Option<Destination>,
    forward: Option<Forward>,
    faults: &mut Faults,
) -> Option<DiscoveryConfig> {
    let table = Table::open(node, path, &keys::SECTION, faults)?;
    let kind = table.value(&keys::TYPE, faults, value::discovery_type);
    let allow_empty = table.value(&keys::ALLOW_EMPTY, faults, value::boolean);
    let kind = kind?;
    let source = match kind {
        DiscoveryType::Dns => {
            refuse(&table, &[&keys::PATH], kind, faults);
            dns(&table, vip, forward, faults).map(DiscoverySource::Dns)
        }
        DiscoveryType::Directory => {
            refuse(&table, &DNS_ONLY, kind, faults);
            refuse(&table, &[&keys::WEIGHT], kind, faults);
            let path = required(&table, &keys::PATH, faults)
                .and_then(|()| table.value(&keys::PATH, faults, value::absolute_path));
            path.map(DiscoverySource::Directory)
        }
        DiscoveryType::Register => {
            refuse(&table, &DNS_ONLY, kind, faults);
            refuse(&table, &[&keys::PATH], kind, faults);
            let weight = table.value(&keys::WEIGHT, faults, value::integer(0..=u16::MAX));
            weight.map(|weight| DiscoverySource::Register { weight })
        }
    };
    Some(DiscoveryConfig { source: source?, allow_empty: allow_empty? })
}

fn dns(
    table: &Table<'_>,
    vip: Option<Destination>,
    forward: Option<Forward>,
    faults: &mut Faults,
) -> Option<DnsSource> {
    let name = required(table, &keys::NAME, faults)
        .and_then(|()| table.value(&keys::NAME, faults, value::domain_name));
    let record = table.value(&keys::RECORD, faults, value::dns_record);
    let server = table.value(&keys::SERVER, faults, value::dns_server);
    let weight = table.value(&keys::WEIGHT, faults, value::integer(0..=u16::MAX));
    let (second, week) = (Duration::from_secs(1), Duration::from_secs(7 * 86_400));
    let min_ttl = table.value(&keys::MIN_TTL, faults, value::duration(second..=week));
    let max_ttl = table.value(&keys::MAX_TTL, faults, value::duration(second..=week));
    if let (Some(min), Some(max)) = (min_ttl, max_ttl)
        && min > max
    {
        let [min, max] = [min, max].map(value::duration_text);
        let message = format!("min_ttl {min} is longer than max_ttl {max}");
        let help = format!("at most {max}, or a longer max_ttl");
        let fault = Fault::new(ErrorKind::Impossible, message).help(help);
        table.fault(&keys::MIN_TTL, fault, faults);
    }
    if let (Some(record), Some(Destination { address, .. }), Some(forward)) = (record, vip, forward)
        && !forward.joins_families()
        && !fits_l2(record, address)
    {
        let fault = Fault::new(
            ErrorKind::Impossible,
            format!(
                "`{forward}` can't carry packets for {address} to addresses of the other family"
            ),
        );
        let help = "record = \"address\", or forward = \"ipip\", \"gue\" or \"fullnat\"";
        table.fault(&keys::RECORD, fault.help(help), faults);
    }
    Some(DnsSource {
        name: name?,
        record: record?,
        server,
        weight: weight?,
        min_ttl: min_ttl?,
        max_ttl: max_ttl?,
    })
}

fn fits_l2(record: DnsRecord, vip: IpAddr) -> bool {
    match record {
        DnsRecord::A => vip.is_ipv4(),
        DnsRecord::Aaaa => vip.is_ipv6(),
        DnsRecord::Address | DnsRecord::Srv => true,
    }
}

/// A key that this type of discovery can't do without.
fn required(table: &Table<'_>, key: &Key, faults: &mut Faults) -> Option<()> {
    if table.get(key).is_none() {
        let fault = Fault::new(ErrorKind::MissingKey, "required key is missing");
        table.fault(key, fault, faults);
        return None;
    }
    Some(())
}

fn refuse(table: &Table<'_>, keys: &[&Key], kind: DiscoveryType, faults: &mut Faults) {
    for key in keys.iter().filter(|key| table.get(key).is_some()) {
        let message =
            format!("discovery of type \"{}\" has no `{}`", value::discovery_word(kind), key.name);
        table.fault(key, Fault::new(ErrorKind::Impossible, message).help("leave it out"), faults);
    }
}

/// Checks `[api.register]`.
pub(super) fn door(node: &Node, path: &str, faults: &mut Faults) -> Option<RegisterDoor> {
    let table = Table::open(node, path, &register::SECTION, faults)?;
    let listen = table.value(&register::LISTEN, faults, value::listen_address);
    let mut path = |key| table.value(key, faults, value::absolute_path);
    let token_file = path(&register::TOKEN_FILE);
    let certificate = path(&register::TLS_CERT);
    let key = path(&register::TLS_KEY);
    let client_ca = path(&register::CLIENT_CA);
    let any_address = table.value(&register::ANY_ADDRESS, faults, value::boolean);
    let has = |key: &Key| table.get(key).is_some();
    let with = |key: &Key, other: &Key, faults: &mut Faults| {
        if has(key) && !has(other) {
            let message = format!("`{}` needs `{}`", key.name, other.name);
            let fault = Fault::new(ErrorKind::MissingKey, message);
            table.fault(key, fault.help(format!("set `{}` too", other.name)), faults);
        }
    };
    with(&register::TLS_CERT, &register::TLS_KEY, faults);
    with(&register::TLS_KEY, &register::TLS_CERT, faults);
    with(&register::CLIENT_CA, &register::TLS_CERT, faults);
    if !has(&register::TOKEN_FILE) && !has(&register::CLIENT_CA) {
        let fault = Fault::new(
            ErrorKind::MissingKey,
            "anybody could register: there is neither `token_file` nor `client_ca`",
        );
        let help = "set `token_file`, or `client_ca` with `tls_cert` and `tls_key`";
        table.fault(&register::TOKEN_FILE, fault.help(help), faults);
        return None;
    }
    let tls = match (certificate, key) {
        (Some(certificate), Some(key)) => Some(DoorTls { certificate, key, client_ca }),
        _ => None,
    };
    Some(RegisterDoor { listen: listen?, token_file, tls, any_address: any_address? })
}
