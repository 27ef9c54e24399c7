//! Whom the program believes, and what it takes for this host: from the interfaces and `--from`.

use std::{collections::BTreeSet, net::IpAddr};

use lb_common::network::Address;

use crate::{
    cli::Cidr,
    dataplane::Endpoints,
    network::{InterfaceAddress, Interfaces},
    plan::address_bytes,
};

/// Bits that all IPv4 addresses share in the form that the program has them (`::ffff:0:0/96`).
const MAPPED_BITS: u32 = 96;

/// The networks that balancers are believed to send from: those that were given, else those that
/// the interface of that index is on.
pub(super) fn senders(given: &[Cidr], interfaces: &Interfaces, ifindex: u32) -> BTreeSet<Cidr> {
    if !given.is_empty() {
        return given.iter().copied().collect();
    }
    let addresses = interfaces.get(ifindex).map_or(&[][..], |interface| &interface.addresses);
    addresses.iter().filter_map(attached_network).collect()
}

/// The network behind an address; `None` where nobody else is on it.
fn attached_network(address: &InterfaceAddress) -> Option<Cidr> {
    let (width, prefix) = match address.network {
        IpAddr::V4(_) => (32, address.prefix_length.min(32)),
        IpAddr::V6(_) => (128, address.prefix_length.min(128)),
    };
    if prefix == width && address.network == address.local {
        return None;
    }
    let network = match address.network {
        IpAddr::V4(v4) => {
            let mask = u32::MAX.checked_shl(u32::from(32 - prefix)).unwrap_or(0);
            IpAddr::V4((v4.to_bits() & mask).into())
        }
        IpAddr::V6(v6) => {
            let mask = u128::MAX.checked_shl(u32::from(128 - prefix)).unwrap_or(0);
            IpAddr::V6((v6.to_bits() & mask).into())
        }
    };
    Some(Cidr { address: network, prefix })
}

/// Both sides in the program's form.
pub(super) fn endpoints(senders: &BTreeSet<Cidr>, interfaces: &Interfaces) -> Endpoints {
    let local = interfaces.iter().flat_map(|interface| &interface.addresses);
    let local = local.map(|address| address.local).filter(|address| {
        !(address.is_loopback() || address.is_unspecified() || address.is_multicast())
    });
    Endpoints {
        local: local.map(address_bytes).collect(),
        balancers: senders.iter().copied().flat_map(prefixes).collect(),
    }
}

/// A network as prefixes of 16-byte addresses. An IPv6 network stays one, even `::/0`: where it
/// surrounds the mapped IPv4 addresses, these are left out.
fn prefixes(network: Cidr) -> Vec<(u32, Address)> {
    let address = u128::from_be_bytes(address_bytes(network.address));
    let prefix = u32::from(network.prefix);
    if network.address.is_ipv4() {
        return vec![(MAPPED_BITS + prefix, address.to_be_bytes())];
    }
    let all_mapped: u128 = 0xffff << 32;
    let surrounds = prefix < MAPPED_BITS
        && (address ^ all_mapped)
            .checked_shr(128 - prefix)
            .is_none_or(|difference| difference == 0);
    if !surrounds {
        return vec![(prefix, address.to_be_bytes())];
    }
    // Bit by bit along the way to the mapped addresses, whatever turns off it.
    let turn = |bit: u32| {
        let flipped = all_mapped ^ 1 << (127 - bit);
        let kept = u128::MAX << (127 - bit);
        (bit + 1, (flipped & kept).to_be_bytes())
    };
    (prefix..MAPPED_BITS).map(turn).collect()
}

#[cfg(test)]
mod tests {
    use lb_common::network::mapped;

    use super::*;

    fn address(local: &str, network: &str, prefix_length: u8) -> InterfaceAddress {
        let [local, network] = [local, network].map(|text| text.parse().unwrap());
        InterfaceAddress { local, network, prefix_length }
    }

    fn covers(prefixes: &[(u32, Address)], address: &str) -> usize {
        let address = u128::from_be_bytes(address_bytes(address.parse().unwrap()));
        let hit = |(bits, prefix): &&(u32, Address)| {
            let difference = u128::from_be_bytes(*prefix) ^ address;
            difference.checked_shr(128 - bits).unwrap_or(0) == 0
        };
        prefixes.iter().filter(hit).count()
    }

    #[test]
    fn networks_behind_addresses() {
        let network = |local, network, prefix| {
            attached_network(&address(local, network, prefix)).map(|cidr| cidr.to_string())
        };
        assert_eq!(network("10.0.1.7", "10.0.1.7", 24).as_deref(), Some("10.0.1.0/24"));
        assert_eq!(network("10.0.1.7", "10.0.1.7", 0).as_deref(), Some("0.0.0.0/0"));
        assert_eq!(network("fe80::7", "fe80::7", 64).as_deref(), Some("fe80::/64"));
        assert_eq!(network("10.0.1.7", "10.0.9.9", 32).as_deref(), Some("10.0.9.9/32"), "a peer");
        assert_eq!(network("203.0.113.10", "203.0.113.10", 32), None, "its own address alone");
        assert_eq!(network("2001:db8::10", "2001:db8::10", 128), None, "its own address alone");
    }

    #[test]
    fn families_do_not_mix() {
        let of = |text: &str| prefixes(text.parse().unwrap());
        assert_eq!(of("10.0.0.0/8"), [(104, mapped([10, 0, 0, 0]))]);
        assert_eq!(covers(&of("0.0.0.0/0"), "192.0.2.1"), 1);
        assert_eq!(covers(&of("0.0.0.0/0"), "2001:db8::1"), 0);
        assert_eq!(of("2001:db8::/32").len(), 1);
        for (network, inside) in [
            ("::/0", &["2001:db8::1", "::1", "ff02::1", "::fffe:0:1", "::1:0:0:1"][..]),
            ("::/80", &["::1"]),
        ] {
            let prefixes = of(network);
            for address in inside {
                assert_eq!(covers(&prefixes, address), 1, "{network} {address}");
            }
            for address in ["0.0.0.0", "192.0.2.1", "255.255.255.255"] {
                assert_eq!(covers(&prefixes, address), 0, "{network} {address}");
            }
        }
        assert_eq!(of("::/0").len(), 96);
        assert_eq!(of("::/96"), [(96, [0; 16])]);
        assert_eq!(covers(&of("::ffff:10.0.0.0/104"), "10.1.2.3"), 1);
    }
}
