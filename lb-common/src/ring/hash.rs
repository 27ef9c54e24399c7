//! Hashes that never change: the ring of a service is the same on every balancer, for ever.

/// The key of a backend: its address (IPv4 mapped, `::ffff:a.b.c.d`) and its port (0 for none).
pub const fn member_key(address: [u8; 16], port: u16) -> u64 {
    let address = u128::from_be_bytes(address);
    let key = mix((address >> 64) as u64);
    let key = mix(key ^ address as u64);
    mix(key ^ port as u64)
}

/// A bijection whose output bits each depend on all input bits: the finalizer of SplitMix64
/// (Steele, Lea, Flood, OOPSLA 2014) behind its increment, so that 0 isn't a fixed point.
pub(crate) const fn mix(value: u64) -> u64 {
    let value = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

/// A member's order of preference among the slots: a walk of constant step from its offset.
#[derive(Clone, Copy, Debug)]
pub(super) struct Preference {
    offset: u32,
    skip: u32,
    size: u32,
}

impl Preference {
    /// `size` is 1 or more.
    pub(super) fn new(key: u64, size: u32) -> Self {
        let offset = mix(key) % u64::from(size);
        let mut skip = (mix(mix(key)) % u64::from(size.max(2) - 1)) as u32 + 1;
        // Always so for a prime; otherwise the walk would miss slots.
        while greatest_common_divisor(skip, size) != 1 {
            skip += 1;
        }
        Self { offset: offset as u32, skip: skip % size, size }
    }

    /// Slots.
    pub(super) fn size(&self) -> u32 {
        self.size
    }

    /// The walk from the most preferred slot on; it visits every slot once, then all again.
    pub(super) fn walk(&self) -> Walk {
        Walk { slot: self.offset, skip: self.skip, size: self.size }
    }

    /// By how many of the walk's steps a slot's number grows by one, modulo the size: the inverse
    /// of its step, by the extended algorithm of Euclid.
    pub(super) fn steps_by_one(&self) -> u32 {
        let (mut former, mut rest) = (i64::from(self.size), i64::from(self.skip));
        let (mut former_steps, mut steps) = (0_i64, 1_i64);
        while rest != 0 {
            let times = former / rest;
            (former, rest) = (rest, former - times * rest);
            (former_steps, steps) = (steps, former_steps - times * steps);
        }
        former_steps.rem_euclid(i64::from(self.size)) as u32
    }
}

/// A place in a member's preference order.
pub(super) struct Walk {
    slot: u32,
    skip: u32,
    size: u32,
}

impl Walk {
    #[inline(always)]
    pub(super) fn next(&mut self) -> u32 {
        let slot = self.slot;
        let next = slot + self.skip;
        self.slot = if next >= self.size { next - self.size } else { next };
        slot
    }

    /// Steps from here to a slot; `steps_by_one` is the preference's.
    #[inline(always)]
    pub(super) fn steps_to(&self, slot: u32, steps_by_one: u32) -> u32 {
        let ahead = if slot < self.slot { slot + self.size - self.slot } else { slot - self.slot };
        (u64::from(ahead) * u64::from(steps_by_one) % u64::from(self.size)) as u32
    }

    /// Goes on behind a slot.
    pub(super) fn go_behind(&mut self, slot: u32) {
        self.slot = slot;
        self.next();
    }
}

fn greatest_common_divisor(mut left: u32, mut right: u32) -> u32 {
    while right != 0 {
        (left, right) = (right, left % right);
    }
    left
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_counted_as_they_are_walked() {
        for (key, size) in
            (0..200).map(|n| (mix(n), [1, 2, 3, 12, 251, 1024, 65_537][n as usize % 7]))
        {
            let preference = Preference::new(key, size);
            let (start, by_one) = (preference.walk(), preference.steps_by_one());
            let mut walk = preference.walk();
            for steps in 0..size {
                assert_eq!(start.steps_to(walk.next(), by_one), steps, "{preference:?}");
            }
        }
    }
}
