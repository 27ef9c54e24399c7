//! The ways back to clients, as the kernel's tables say, remembered for a second.

use super::Plain;
use crate::network::Address;

/// Places for remembered ways; a power of two.
pub const WAYS: u32 = 1 << 15;

/// What the way of an answer depends on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Sought {
    /// The client's address; an IPv4 address is mapped.
    pub client: Address,
    /// The service, a [`crate::id::ServiceId`]: routes may ask for the source, which is its VIP.
    pub service: u32,
    /// The interface that the answer came in by.
    pub ingress_ifindex: u32,
}

/// How an answer leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Way {
    /// Destination, then source MAC address, in words as they lie in a frame: bytes would be copied
    /// on the stack by longer words than they are aligned to, which the verifier refuses.
    pub macs: [u32; 3],
    /// The interface.
    pub ifindex: u32,
    /// Longest IP packet in bytes that it takes.
    pub mtu: u32,
}

impl Way {
    /// Where there is no interface, as for replay and benchmarks: back out, by
    /// 02:00:00:00:00:fe, from 02:00:00:00:00:fd.
    pub const MADE_UP: Self = Self {
        macs: [
            u32::from_ne_bytes([2, 0, 0, 0]),
            u32::from_ne_bytes([0, 0xfe, 2, 0]),
            u32::from_ne_bytes([0, 0, 0, 0xfd]),
        ],
        ifindex: 0,
        mtu: u16::MAX as u32,
    };
}

/// A remembered way.
///
/// Programs on several CPUs read and write it without a lock. What they make of it in a race fails
/// the comparison with `seal`, which is taken over all the rest, and then nothing is remembered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C, align(64))]
pub struct WayEntry {
    /// In words: what is sought (3), the way (2, and a half), and when it was asked for (a half).
    words: [u64; WORDS],
    seal: u64,
}

const WORDS: usize = 7;

/// The next hop toward a client whose link-layer address the kernel doesn't know.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(C)]
pub struct UnresolvedClient {
    /// The client's address, or its gateway's; an IPv4 address is mapped.
    pub address: Address,
    /// The interface that leads there.
    pub ifindex: u32,
}

impl Sought {
    /// Where its way is remembered.
    #[inline(always)]
    pub fn place(&self) -> u32 {
        let [high, low, rest] = self.words();
        // Whoever makes two of them meet makes both be asked for more often, and no more.
        let mixed = (high ^ low.rotate_left(23) ^ rest).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        (mixed >> 32) as u32 & (WAYS - 1)
    }

    #[inline(always)]
    fn words(&self) -> [u64; 3] {
        let client = u128::from_ne_bytes(self.client);
        let rest = u64::from(self.service) << 32 | u64::from(self.ingress_ifindex);
        [(client >> 64) as u64, client as u64, rest]
    }
}

impl WayEntry {
    /// Nothing is remembered.
    pub const VACANT: Self = Self { words: [0; WORDS], seal: 0 };

    /// Remembers a way that was asked for in that second.
    #[inline(always)]
    pub fn set(&mut self, sought: &Sought, way: &Way, second: u32) {
        let [a, b, c] = sought.words();
        let [one, two, three] = way.macs;
        let first = u64::from(one) << 32 | u64::from(two);
        let rest = u64::from(three) << 32 | u64::from(way.ifindex);
        let words = [a, b, c, first, rest, u64::from(way.mtu), u64::from(second) + 1];
        let place = &raw mut *self;
        // Each at its place at once, not by way of the stack.
        let put = |at: usize, word: u64| {
            // SAFETY: within the entry, which is aligned.
            unsafe { (&raw mut (*place).words[at]).write_volatile(word) };
        };
        put(0, a);
        put(1, b);
        put(2, c);
        put(3, first);
        put(4, rest);
        put(5, words[5]);
        put(6, words[6]);
        // SAFETY: as above.
        unsafe { (&raw mut (*place).seal).write_volatile(seal(&words)) };
    }

    /// The way, if it is the one that is sought, and was asked for in the same second.
    #[inline(always)]
    pub fn way(&self, sought: &Sought, second: u32) -> Option<Way> {
        // Word by word, each once: another CPU may be writing.
        let place = &raw const *self;
        // SAFETY: within the entry, which is aligned.
        let word = |at: usize| unsafe { (&raw const (*place).words[at]).read_volatile() };
        let [a, b, c] = sought.words();
        let words = [word(0), word(1), word(2), word(3), word(4), word(5), word(6)];
        // SAFETY: as above.
        let found = unsafe { (&raw const (*place).seal).read_volatile() };
        let differs = (words[0] ^ a) | (words[1] ^ b) | (words[2] ^ c);
        if differs | (words[6] ^ (u64::from(second) + 1)) | (found ^ seal(&words)) != 0 {
            return None;
        }
        let macs = [(words[3] >> 32) as u32, words[3] as u32, (words[4] >> 32) as u32];
        Some(Way { macs, ifindex: words[4] as u32, mtu: words[5] as u32 })
    }
}

/// Differs where words of two entries are mixed.
#[inline(always)]
fn seal(words: &[u64; WORDS]) -> u64 {
    let [a, b, c, d, e, f, g] = *words;
    a ^ b.rotate_left(9)
        ^ c.rotate_left(18)
        ^ d.rotate_left(27)
        ^ e.rotate_left(36)
        ^ f.rotate_left(45)
        ^ g.rotate_left(54)
}

// SAFETY: eight u64, repr(C).
unsafe impl Plain for WayEntry {}
// SAFETY: bytes and a u32: no padding.
unsafe impl Plain for UnresolvedClient {}

const _: () = {
    assert!(size_of::<WayEntry>() == 64);
    assert!(size_of::<UnresolvedClient>() == 20);
};

#[cfg(test)]
mod tests {
    use super::*;

    const SOUGHT: Sought = Sought { client: [7; 16], service: 3, ingress_ifindex: 2 };
    const WAY: Way = Way { macs: [1, 2, 3], ifindex: 9, mtu: 1500 };

    #[test]
    fn what_is_remembered_is_found_for_a_second() {
        let mut entry = WayEntry::VACANT;
        entry.set(&SOUGHT, &WAY, 0);
        assert_eq!(entry.way(&SOUGHT, 0), Some(WAY));
        assert_eq!(entry.way(&SOUGHT, 1), None);
        assert_eq!(WayEntry::VACANT.way(&SOUGHT, 0), None);
        let vacant = Sought { client: [0; 16], service: 0, ingress_ifindex: 0 };
        assert_eq!(WayEntry::VACANT.way(&vacant, 0), None);
        for other in [
            Sought { client: [8; 16], ..SOUGHT },
            Sought { service: 4, ..SOUGHT },
            Sought { ingress_ifindex: 1, ..SOUGHT },
        ] {
            assert_eq!(entry.way(&other, 0), None);
        }
    }

    #[test]
    fn a_mixture_of_two_is_none() {
        let (mut one, mut other) = (WayEntry::VACANT, WayEntry::VACANT);
        one.set(&SOUGHT, &WAY, 5);
        let way = Way { macs: [9; 3], ifindex: 4, mtu: 9000 };
        other.set(&SOUGHT, &way, 5);
        for at in 3..6 {
            let mut torn = one;
            torn.words[at] = other.words[at];
            assert_eq!(torn.way(&SOUGHT, 5), None);
            torn.seal = other.seal;
            assert_eq!(torn.way(&SOUGHT, 5), None);
        }
    }
}
