//! The keyed flow hash.
//!
//! NH (Black, Halevi, Krawczyk, Krovetz, Rogaway: UMAC, CRYPTO 1999) compresses the flow's
//! addresses and ports: for any two flows the chance over the keys that they collide is 2⁻³², so
//! an attacker without the seed can't choose flows that meet in one slot. A multiply-xorshift
//! finaliser spreads the sum over all bits. Balancers with the same seed agree.

/// Keys of the flow hash, expanded from the configured seed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Keys(pub [u32; 12]);

impl Keys {
    /// Expands a seed by SplitMix64 (Steele, Lea, Flood, OOPSLA 2014).
    pub const fn from_seed(seed: u64) -> Self {
        let mut keys = [0; 12];
        let mut state = seed;
        let mut index = 0;
        while index < keys.len() {
            state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let word = spread(state);
            keys[index] = word as u32;
            keys[index + 1] = (word >> 32) as u32;
            index += 2;
        }
        Self(keys)
    }
}

/// Where the keys are. Read word by word, so that a program loads only those that it needs.
pub trait KeySource {
    /// One of the 12 words of [`Keys`].
    fn key(&self, index: usize) -> u32;
}

impl KeySource for Keys {
    fn key(&self, index: usize) -> u32 {
        self.0[index]
    }
}

/// NH of one pair of words, by the pair's keys.
#[inline(always)]
fn pair(keys: &impl KeySource, index: usize, low: u32, high: u32) -> u64 {
    let low = u64::from(low.wrapping_add(keys.key(2 * index)));
    let high = u64::from(high.wrapping_add(keys.key(2 * index + 1)));
    low.wrapping_mul(high)
}

/// Hash of an IPv4 flow. The order of bytes in a word doesn't matter, as long as it is always the
/// same: words are taken as they lie in the packet.
#[inline(always)]
pub fn ipv4(keys: &impl KeySource, source: u32, destination: u32, ports: u32, protocol: u8) -> u64 {
    spread(pair(keys, 0, source, destination).wrapping_add(pair(
        keys,
        1,
        ports,
        u32::from(protocol),
    )))
}

/// Hash of an IPv6 flow.
#[inline(always)]
pub fn ipv6(
    keys: &impl KeySource,
    source: [u32; 4],
    destination: [u32; 4],
    ports: u32,
    protocol: u8,
) -> u64 {
    spread(
        pair(keys, 1, ports, u32::from(protocol))
            .wrapping_add(pair(keys, 2, source[0], source[1]))
            .wrapping_add(pair(keys, 3, source[2], source[3]))
            .wrapping_add(pair(keys, 4, destination[0], destination[1]))
            .wrapping_add(pair(keys, 5, destination[2], destination[3])),
    )
}

/// The finaliser of SplitMix64: a bijection in which every input bit moves every output bit.
#[inline(always)]
pub const fn spread(mut word: u64) -> u64 {
    word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ (word >> 31)
}

/// Maps a hash onto `0..size` without a division (Lemire, ACM TOMACS 2019), by its high half.
#[inline(always)]
pub const fn reduce(hash: u64, size: u32) -> u32 {
    (((hash >> 32) * size as u64) >> 32) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A fleet agrees on these for ever: a changed value breaks every flow at an upgrade.
    #[test]
    fn golden() {
        let keys = Keys::from_seed(0x5eed_5eed_5eed_5eed);
        assert_eq!(ipv4(&keys, 0x0102_0304, 0x0506_0708, 0x1234_0050, 6), GOLDEN_V4);
        assert_eq!(ipv6(&keys, [1, 2, 3, 4], [5, 6, 7, 8], 0x1234_0050, 17), GOLDEN_V6);
    }

    const GOLDEN_V4: u64 = 10_430_053_178_474_949_768;
    const GOLDEN_V6: u64 = 10_978_451_324_375_702_365;

    /// Neighbouring ports and addresses, the weakest input there is, fill slots evenly.
    #[test]
    fn sequential_flows_spread() {
        let keys = Keys::from_seed(1);
        for vary_port in [true, false] {
            let mut slots = vec![0u32; 97];
            for n in 0..97_000u32 {
                let (source, ports) =
                    if vary_port { (7, n << 16) } else { ((n).to_be(), 0x5000_3930) };
                slots[reduce(ipv4(&keys, source, 9, ports, 6), 97) as usize] += 1;
            }
            let (low, high) = (slots.iter().min().unwrap(), slots.iter().max().unwrap());
            // 1,000 expected in each, with a standard deviation of 32.
            assert!(*low > 850 && *high < 1150, "{low} to {high}");
        }
    }

    #[test]
    fn seeds_differ() {
        let slots = |seed| {
            let keys = Keys::from_seed(seed);
            (0..64u32).map(|n| reduce(ipv4(&keys, n, 9, 1, 6), 65537)).collect::<Vec<_>>()
        };
        assert_ne!(slots(1), slots(2));
    }
}
