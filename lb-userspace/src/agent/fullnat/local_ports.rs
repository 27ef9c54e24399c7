//! Ports of pools that this host's own connections may use, too.

use std::{
    collections::BTreeSet,
    fs,
    net::{IpAddr, UdpSocket},
    ops::RangeInclusive,
};

use crate::{
    config::{Config, ServiceConfig},
    model::Forward,
};

const LOCAL: &str = "/proc/sys/net/ipv4/ip_local_port_range";
const RESERVED: &str = "/proc/sys/net/ipv4/ip_local_reserved_ports";

/// What the operator should do about ports of pools that the kernel gives to this host's own
/// connections.
pub(crate) fn warning(config: &Config, services: &[ServiceConfig]) -> Option<String> {
    let is_used = services.iter().any(|service| {
        let mut modes = service.backends.iter().filter_map(|backend| backend.forward);
        service.forward == Forward::Fullnat || modes.any(|mode| mode == Forward::Fullnat)
    });
    let pools = &config.fullnat.pools;
    let addresses: Vec<IpAddr> = (pools.ipv4.iter().copied().map(IpAddr::V4))
        .chain(pools.ipv6.iter().copied().map(IpAddr::V6))
        .collect();
    // Where a family has no pool, this host's own address is it.
    let is_own = |address: &IpAddr| UdpSocket::bind((*address, 0)).is_ok();
    let own = pools.ipv4.is_empty() || pools.ipv6.is_empty() || addresses.iter().any(is_own);
    if !is_used || !own {
        return None;
    }
    overlap(&pools.ports, &fs::read_to_string(LOCAL).ok()?, &fs::read_to_string(RESERVED).ok()?)
}

fn overlap(ports: &RangeInclusive<u16>, local: &str, reserved: &str) -> Option<String> {
    let mut local = local.split_whitespace().map(str::parse);
    let (first, last) = (local.next()?.ok()?, local.next()?.ok()?);
    let shared: RangeInclusive<u16> = *ports.start().max(&first)..=*ports.end().min(&last);
    let reserved: Vec<_> = reserved.trim().split(',').filter_map(range).collect();
    let is_reserved = |port: u16| reserved.iter().any(|range| range.contains(&port));
    let (first, last) = (*shared.start(), *shared.end());
    if shared.clone().all(is_reserved) {
        return None;
    }
    let mut all: BTreeSet<(u16, u16)> =
        reserved.iter().map(|range| (*range.start(), *range.end())).collect();
    all.insert((first, last));
    let all: Vec<_> = all.iter().map(|(first, last)| format!("{first}-{last}")).collect();
    Some(format!(
        "this host's own connections may use the ports {first} to {last}, which belong to pools of \
         fullnat: answers to them would be taken for answers to clients; `sysctl -w \
         net.ipv4.ip_local_reserved_ports={}` keeps them apart, or other `ports` in [fullnat]",
        all.join(",")
    ))
}

/// `8080` or `30000-32767`
fn range(text: &str) -> Option<RangeInclusive<u16>> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    Some(first.parse().ok()?..=last.parse().ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_of_both_are_told() {
        let of = |reserved| overlap(&(30_000..=40_000), "32768\t60999\n", reserved);
        let told = of("8080,50000-50009\n").unwrap();
        assert!(told.contains("ports 32768 to 40000"), "{told}");
        let sysctl = "ip_local_reserved_ports=8080-8080,32768-40000,50000-50009";
        assert!(told.contains(sysctl), "{told}");
        assert!(of("32768-39999\n").is_some());
        for reserved in ["32768-40000\n", "30000-36000,36001-65535\n"] {
            assert_eq!(of(reserved), None);
        }
        assert_eq!(overlap(&(1024..=32_767), "32768\t60999\n", "\n"), None);
    }
}
