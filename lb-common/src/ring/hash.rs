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

    /// The walk from the most preferred slot on; it visits every slot once, then all again.
    pub(super) fn walk(&self) -> Walk {
        Walk { slot: self.offset, skip: self.skip, size: self.size }
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
}

fn greatest_common_divisor(mut left: u32, mut right: u32) -> u32 {
    while right != 0 {
        (left, right) = (right, left % right);
    }
    left
}
