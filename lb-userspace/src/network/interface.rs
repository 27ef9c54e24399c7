//! The network interfaces of this network namespace and their addresses.
//!
//! In: links and addresses as the kernel tells them. Out: [`Interfaces`], a value that can be
//! compared with an older one.

use std::{collections::BTreeMap, net::IpAddr};

use crate::model::MacAddress;

/// The kernel's operational state of an interface (RFC 2863, `IF_OPER_*`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum OperationalState {
    /// The driver doesn't say.
    #[default]
    Unknown,
    /// It passes packets.
    Up,
    /// It doesn't.
    Down,
    /// The interface below it doesn't.
    LowerLayerDown,
    /// Waits for something, 802.1X for instance; or is under test, or not present.
    Waiting,
}

/// How an interface addresses its neighbours.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum LinkKind {
    /// Ethernet frames, neighbours by ARP and ND.
    Ethernet,
    /// The loopback interface.
    Loopback,
    /// Anything without Ethernet addresses: tunnels, PPP, InfiniBand.
    #[default]
    Other,
}

/// An address of this host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct InterfaceAddress {
    /// This host's own address.
    pub(crate) local: IpAddr,
    /// An address of the attached network: on point-to-point links the peer's, else `local`.
    pub(crate) network: IpAddr,
    /// Leading bits of `network` that all addresses of the attached network share.
    pub(crate) prefix_length: u8,
}

impl InterfaceAddress {
    /// Whether `address` is on the attached network.
    pub(crate) fn covers(&self, address: IpAddr) -> bool {
        match (self.network, address) {
            (IpAddr::V4(network), IpAddr::V4(address)) => {
                let bits = u32::from(self.prefix_length.min(32));
                let mask = u32::MAX.checked_shl(32 - bits).unwrap_or(0);
                (network.to_bits() ^ address.to_bits()) & mask == 0
            }
            (IpAddr::V6(network), IpAddr::V6(address)) => {
                let bits = u32::from(self.prefix_length.min(128));
                let mask = u128::MAX.checked_shl(128 - bits).unwrap_or(0);
                (network.to_bits() ^ address.to_bits()) & mask == 0
            }
            _ => false,
        }
    }
}

/// One interface.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Interface {
    /// Its number: unique in the network namespace, another after it was made anew.
    pub(crate) index: u32,
    /// Its name.
    pub(crate) name: String,
    /// Its own Ethernet address; `None` where it has none.
    pub(crate) mac: Option<MacAddress>,
    /// The longest packet without its link-layer header, in bytes.
    pub(crate) mtu: u32,
    /// The longest IPv6 packet in bytes, where IPv6 allows less (router advertisement, sysctl).
    pub(crate) mtu_ipv6: Option<u32>,
    /// How it addresses neighbours.
    pub(crate) kind: LinkKind,
    /// It adds and removes the tags of a VLAN, on top of another interface.
    pub(crate) vlan: bool,
    /// Whether the operator wants it up (`IFF_UP`).
    pub(crate) up: bool,
    /// Whether it has a carrier (`IFF_LOWER_UP`).
    pub(crate) carrier: bool,
    /// The operational state.
    pub(crate) state: OperationalState,
    /// This host's addresses on it, sorted; without those that failed duplicate detection.
    pub(crate) addresses: Vec<InterfaceAddress>,
}

/// All interfaces, by index.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Interfaces {
    by_index: BTreeMap<u32, Interface>,
}

/// A difference between two states of an interface that was asked for by name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum InterfaceChange {
    /// It is there now: attach.
    Appeared(Interface),
    /// It is gone, or another took its name (then it also appeared).
    Disappeared(Interface),
    /// The same interface, with another state, MAC, MTU or addresses.
    Changed(Interface),
}

impl Interfaces {
    /// The interface of that number.
    pub(crate) fn get(&self, index: u32) -> Option<&Interface> {
        self.by_index.get(&index)
    }

    /// The interface of that name.
    pub(crate) fn named(&self, name: &str) -> Option<&Interface> {
        self.by_index.values().find(|interface| interface.name == name)
    }

    /// All of them, by index.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Interface> {
        self.by_index.values()
    }

    /// This host's addresses on the interface of that name; none where there is no such one.
    #[cfg(test)]
    pub(crate) fn local_addresses(&self, name: &str) -> Vec<IpAddr> {
        let addresses = self.named(name).map_or(&[][..], |interface| &interface.addresses);
        addresses.iter().map(|address| address.local).collect()
    }

    /// What happened to the interfaces `names` since `before`, removals first.
    pub(crate) fn changes_since(&self, before: &Self, names: &[String]) -> Vec<InterfaceChange> {
        let mut gone = Vec::new();
        let mut there = Vec::new();
        for name in names {
            match (before.named(name), self.named(name)) {
                (Some(old), Some(new)) if old == new => {}
                (Some(old), Some(new)) if old.index == new.index => {
                    there.push(InterfaceChange::Changed(new.clone()));
                }
                (old, new) => {
                    gone.extend(old.cloned().map(InterfaceChange::Disappeared));
                    there.extend(new.cloned().map(InterfaceChange::Appeared));
                }
            }
        }
        gone.append(&mut there);
        gone
    }

    pub(super) fn insert(&mut self, interface: Interface) {
        self.by_index.insert(interface.index, interface);
    }

    pub(super) fn remove(&mut self, index: u32) -> bool {
        self.by_index.remove(&index).is_some()
    }

    /// Adds an address, or takes it away; says whether that was a change.
    pub(super) fn set_address(
        &mut self,
        index: u32,
        address: InterfaceAddress,
        present: bool,
    ) -> bool {
        let Some(interface) = self.by_index.get_mut(&index) else { return false };
        match (interface.addresses.binary_search(&address), present) {
            (Err(position), true) => interface.addresses.insert(position, address),
            (Ok(position), false) => {
                interface.addresses.remove(position);
            }
            (Ok(_), true) | (Err(_), false) => return false,
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn interface(index: u32, name: &str) -> Interface {
        Interface { index, name: name.into(), ..Interface::default() }
    }

    fn interfaces(all: &[Interface]) -> Interfaces {
        Interfaces { by_index: all.iter().map(|one| (one.index, one.clone())).collect() }
    }

    fn address(local: &str, prefix_length: u8) -> InterfaceAddress {
        let local = local.parse().unwrap();
        InterfaceAddress { local, network: local, prefix_length }
    }

    #[test]
    fn prefixes_cover_what_they_should() {
        let covers = |local: &str, length, other: &str| {
            address(local, length).covers(other.parse().unwrap())
        };
        assert!(covers("10.0.1.1", 24, "10.0.1.255"));
        assert!(!covers("10.0.1.1", 24, "10.0.2.1"));
        assert!(covers("10.0.1.1", 0, "192.0.2.1"));
        assert!(!covers("10.0.1.1", 32, "10.0.1.2"));
        assert!(covers("2001:db8::1", 64, "2001:db8::ffff"));
        assert!(!covers("2001:db8::1", 128, "2001:db8::2"));
        assert!(covers("2001:db8::1", 0, "fe80::1"));
        assert!(!covers("0.0.0.0", 0, "::1"));
    }

    #[test]
    fn changes_name_what_came_and_went() {
        let before = interfaces(&[interface(1, "lo"), interface(2, "a"), interface(3, "b")]);
        let after = interfaces(&[
            interface(1, "lo"),
            Interface { up: true, ..interface(2, "a") },
            interface(9, "b"),
            interface(4, "c"),
        ]);
        let names = ["a", "b", "c", "never"].map(String::from);
        assert_eq!(
            after.changes_since(&before, &names),
            [
                InterfaceChange::Disappeared(interface(3, "b")),
                InterfaceChange::Changed(Interface { up: true, ..interface(2, "a") }),
                InterfaceChange::Appeared(interface(9, "b")),
                InterfaceChange::Appeared(interface(4, "c")),
            ]
        );
        assert_eq!(after.changes_since(&after, &names), []);
    }

    #[test]
    fn addresses_are_kept_once_and_sorted() {
        let mut interfaces = interfaces(&[interface(2, "a")]);
        assert!(interfaces.set_address(2, address("10.0.0.2", 24), true));
        assert!(interfaces.set_address(2, address("10.0.0.1", 24), true));
        assert!(!interfaces.set_address(2, address("10.0.0.1", 24), true));
        assert!(!interfaces.set_address(7, address("10.0.0.1", 24), true));
        let local: [IpAddr; 2] = ["10.0.0.1".parse().unwrap(), "10.0.0.2".parse().unwrap()];
        assert_eq!(interfaces.local_addresses("a"), local);
        assert!(interfaces.set_address(2, address("10.0.0.1", 24), false));
        assert!(!interfaces.set_address(2, address("10.0.0.1", 24), false));
        assert_eq!(interfaces.local_addresses("a"), local[1..]);
        assert_eq!(interfaces.local_addresses("none"), [] as [IpAddr; 0]);
    }
}
