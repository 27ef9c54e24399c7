//! The ways back to clients, as the kernel's tables say, remembered for a moment.

use super::Plain;
use crate::network::Address;

/// Places for remembered ways; a power of two.
pub const WAYS: u32 = 1 << 15;
/// Moments by the kernel's clock, as a power of two in ns: 1.07 s.
pub const MOMENT_SHIFT: u32 = 30;

/// What the way of an answer depends on. Aligned, so that it can be read by long words on the stack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C, align(8))]
pub struct Sought {
    /// The client's address, an IPv4 address mapped; in [`words`](crate::network::words).
    pub client: [u32; 4],
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
    reserved: u64,
}

const WORDS: usize = 6;

/// The next hop toward a client whose link-layer address the kernel doesn't know.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(C)]
pub struct UnresolvedClient {
    /// The client's address, or its gateway's; an IPv4 address is mapped.
    pub address: Address,
    /// The interface that leads there.
    pub ifindex: u32,
}

/// A question for a way, and the answer: the value of the map by which userspace asks as the program
/// does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct WayQuestion {
    /// What the way depends on.
    pub sought: Sought,
    /// The source that packets leave with; an IPv4 address is mapped.
    pub source: Address,
    /// Value of [`super::VipEntry::family`].
    pub family: u32,
    /// Number of the [`crate::verdict::DropReason`] why there is none, 0 where there is one.
    pub reason: u32,
    /// The way.
    pub way: Way,
    /// 1 where the told routes say so, and not the kernel.
    pub is_told: u32,
}

impl WayQuestion {
    /// One that isn't answered yet.
    pub const fn new(sought: Sought, source: Address, family: u8) -> Self {
        let way = Way { macs: [0; 3], ifindex: 0, mtu: 0 };
        Self { sought, source, family: family as u32, reason: 0, way, is_told: 0 }
    }
}

impl Sought {
    /// Where its way is remembered: here, or in the [neighbouring place](other_place).
    #[inline(always)]
    pub fn place(&self) -> u32 {
        let [high, low, rest] = self.words();
        // Whoever makes two of them meet makes both be asked for more often, and no more.
        // As numbers, in the order of the packet's bytes: multiples of the golden ratio, from one
        // client of a network to the next, lie as far apart as they can (Knuth volume 3, 6.4), in
        // the product's uppermost bits.
        let word = u64::from_be(high) ^ u64::from_be(low).rotate_left(23) ^ rest.rotate_left(40);
        let mixed = word.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        (mixed >> (u64::BITS - WAYS.ilog2())) as u32
    }

    #[inline(always)]
    fn words(&self) -> [u64; 3] {
        let [a, b, c, d] = self.client;
        [pair(d, c), pair(b, a), pair(self.service, self.ingress_ifindex)]
    }
}

/// The other place of a pair, whose memory lies beside it.
#[inline(always)]
pub const fn other_place(place: u32) -> u32 {
    place ^ 1
}

impl WayEntry {
    /// Nothing is remembered.
    pub const VACANT: Self = Self { words: [0; WORDS], seal: 0, reserved: 0 };

    /// Remembers a way that was asked for in that moment.
    #[inline(always)]
    pub fn set(&mut self, sought: &Sought, way: &Way, moment: u32) {
        let [a, b, c] = sought.words();
        let [one, two, three] = way.macs;
        let words =
            [a, b, c, pair(one, two), pair(three, way.ifindex), pair(way.mtu, stamp(moment))];
        let place = &raw mut *self;
        // Each at its place at once, not by way of the stack.
        let put = |at: usize, word: u64| {
            // SAFETY: within the entry, which is aligned.
            unsafe { (&raw mut (*place).words[at]).write_volatile(word) };
        };
        put(0, words[0]);
        put(1, words[1]);
        put(2, words[2]);
        put(3, words[3]);
        put(4, words[4]);
        put(5, words[5]);
        // SAFETY: as above.
        unsafe { (&raw mut (*place).seal).write_volatile(seal(&words)) };
    }

    /// Whether what is remembered, of whomever, was asked for in that moment.
    #[inline(always)]
    pub fn is_of(&self, moment: u32) -> bool {
        // SAFETY: within the entry, which is aligned.
        let last = unsafe { (&raw const self.words[WORDS - 1]).read_volatile() };
        last as u32 == stamp(moment)
    }

    /// The way, if it is the one that is sought, and was asked for in that moment.
    #[inline(always)]
    pub fn way(&self, sought: &Sought, moment: u32) -> Option<Way> {
        // Word by word, each once: another CPU may be writing.
        let place = &raw const *self;
        // SAFETY: within the entry, which is aligned.
        let word = |at: usize| unsafe { (&raw const (*place).words[at]).read_volatile() };
        let [a, b, c] = sought.words();
        let words = [word(0), word(1), word(2), word(3), word(4), word(5)];
        // SAFETY: as above.
        let found = unsafe { (&raw const (*place).seal).read_volatile() };
        let differs = (words[0] ^ a) | (words[1] ^ b) | (words[2] ^ c);
        let late = words[5] as u32 ^ stamp(moment);
        if differs | u64::from(late) | (found ^ seal(&words)) != 0 {
            return None;
        }
        let macs = [(words[3] >> 32) as u32, words[3] as u32, (words[4] >> 32) as u32];
        Some(Way { macs, ifindex: words[4] as u32, mtu: (words[5] >> 32) as u32 })
    }
}

/// A moment as an entry has it, never 0: a vacant entry is of none.
#[inline(always)]
const fn stamp(moment: u32) -> u32 {
    moment.wrapping_add(1)
}

#[inline(always)]
fn pair(high: u32, low: u32) -> u64 {
    u64::from(high) << 32 | u64::from(low)
}

/// Differs where words of two entries are mixed. By products: rotations are four instructions each.
#[inline(always)]
fn seal(words: &[u64; WORDS]) -> u64 {
    let [a, b, c, d, e, f] = *words;
    !a ^ b.wrapping_mul(0x9e37_79b9)
        ^ c.wrapping_mul(0x85eb_ca6b)
        ^ d.wrapping_mul(0xc2b2_ae35)
        ^ e.wrapping_mul(0x27d4_eb2f)
        ^ f.wrapping_mul(0x1656_67b1)
}

// SAFETY: eight u64, repr(C).
unsafe impl Plain for WayEntry {}
// SAFETY: bytes and a u32: no padding.
unsafe impl Plain for UnresolvedClient {}
// SAFETY: words, and 16 bytes: no padding.
unsafe impl Plain for WayQuestion {}

const _: () = {
    assert!(size_of::<WayEntry>() == 64);
    assert!(size_of::<UnresolvedClient>() == 20);
    assert!(size_of::<WayQuestion>() == 24 + 16 + 4 + 4 + 20 + 4);
};

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::network::{mapped, words};

    const SOUGHT: Sought = Sought { client: [7; 4], service: 3, ingress_ifindex: 2 };
    const WAY: Way = Way { macs: [1, 2, 3], ifindex: 9, mtu: 1500 };

    #[test]
    fn what_is_remembered_is_found_for_a_moment() {
        let mut entry = WayEntry::VACANT;
        entry.set(&SOUGHT, &WAY, 0);
        assert_eq!(entry.way(&SOUGHT, 0), Some(WAY));
        assert_eq!(entry.way(&SOUGHT, 1), None);
        assert_eq!(WayEntry::VACANT.way(&SOUGHT, 0), None);
        let vacant = Sought { client: [0; 4], service: 0, ingress_ifindex: 0 };
        assert_eq!(WayEntry::VACANT.way(&vacant, 0), None);
        for other in [
            Sought { client: [8; 4], ..SOUGHT },
            Sought { service: 4, ..SOUGHT },
            Sought { ingress_ifindex: 1, ..SOUGHT },
        ] {
            assert_eq!(entry.way(&other, 0), None);
        }
    }

    #[test]
    fn clients_of_a_network_have_places_of_their_own() {
        let networks: [fn(u32) -> Address; 3] = [
            |n| mapped((0x0a00_0001 + n).to_be_bytes()),
            |n| mapped((0xc0a8_0000 + (n << 8)).to_be_bytes()),
            |n| (0x2001_0db8_u128 << 96 | u128::from(n) << 64 | 1).to_be_bytes(),
        ];
        for client in networks {
            let sought = |n| Sought { client: words(client(n)), service: 1, ingress_ifindex: 3 };
            let places: HashSet<_> = (0..1 << 12).map(|n| sought(n).place()).collect();
            assert!(places.iter().all(|place| *place < WAYS));
            // Of balls thrown into bins 3,850 are expected.
            assert!(places.len() > 3800, "{}", places.len());
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
