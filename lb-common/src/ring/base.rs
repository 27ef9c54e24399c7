//! The base ring: what the configured members claim at their full weight.

use super::{FULL, MAX_MEMBERS, MAX_SIZE, Member, Ring, hash::Preference, share};

/// The claims of a configured set. Rings of whatever live weights follow from it, at a small part
/// of its cost where most members are at their full weight.
#[derive(Clone, Debug)]
pub struct Base {
    /// Key and weight of each member, in the order in which they were given.
    set: Vec<(u64, u16)>,
    /// For each member in the order of keys, its place in `set`.
    order: Vec<u16>,
    preferences: Vec<Preference>,
    /// The owner of each slot.
    owners: Vec<u16>,
    /// Slots: those of one member after the other's, each in the order of time.
    claims: Vec<u32>,
    /// Where each member's claims begin; then their end.
    starts: Vec<usize>,
}

impl Base {
    /// Lets the members claim all of `size` slots by their configured weight; none if that is 0
    /// for all of them.
    ///
    /// # Panics
    /// If there are more than [`MAX_MEMBERS`] members or [`MAX_SIZE`] slots.
    pub fn claim(members: &[Member], size: u32) -> Self {
        assert!(members.len() <= MAX_MEMBERS, "{} members in a ring", members.len());
        assert!(size <= MAX_SIZE, "a ring of {size} slots");
        let set: Vec<_> = members.iter().map(|member| (member.key, member.weight)).collect();
        let mut order: Vec<u16> = (0..set.len()).map(|index| index as u16).collect();
        order.sort_unstable_by_key(|&index| (set[usize::from(index)], index));
        let sorted = order.iter().map(|&index| set[usize::from(index)]);
        let preferences: Vec<_> =
            sorted.clone().map(|(key, _)| Preference::new(key, size.max(1))).collect();
        let weights: Vec<u64> = sorted.map(|(_, weight)| u64::from(weight)).collect();

        let mut starts = vec![0];
        for share in share::apportion(&weights, size) {
            starts.push(starts[starts.len() - 1] + share as usize);
        }
        let mut ends = starts.clone();
        let mut claims = vec![0; starts[starts.len() - 1]];
        let mut owners = vec![0; size as usize];
        fill(&preferences, &weights, &mut Free::all(size), size, |member, slot| {
            let end = &mut ends[usize::from(member)];
            claims[*end] = slot;
            *end += 1;
            owners[slot as usize] = member;
        });
        Self { set, order, preferences, owners, claims, starts }
    }

    /// Slots.
    pub fn size(&self) -> u32 {
        self.owners.len() as u32
    }

    /// Whether it is what these members claim of so many slots.
    pub fn is_of(&self, members: &[Member], size: u32) -> bool {
        let set = members.iter().map(|member| (member.key, member.weight));
        self.size() == size && set.eq(self.set.iter().copied())
    }

    /// The ring of the same members, at their live weights.
    ///
    /// `None` if nobody can own a slot: no member has live weight, or there are no slots.
    ///
    /// # Panics
    /// If they are others.
    pub fn ring(&self, members: &[Member]) -> Option<Ring> {
        assert!(self.is_of(members, self.size()), "a base of other members");
        let sorted = self.order.iter().map(|&index| &members[usize::from(index)]);
        let live: Vec<u64> = sorted.clone().map(Member::live_weight).collect();
        if self.owners.is_empty() || live.iter().all(|&weight| weight == 0) {
            return None;
        }
        // Who is below its full weight gives up its last claims above its live share, rounded up.
        // The live share of anybody else is at least the configured one.
        let mut free = Free::none(self.size());
        let mut freed = 0;
        let limits = share::ceilings(&live, self.size());
        let mut kept = Vec::with_capacity(limits.len());
        for ((member, limit), bounds) in sorted.zip(limits).zip(self.starts.windows(2)) {
            let claims = &self.claims[bounds[0]..bounds[1]];
            let keeps =
                if member.live >= FULL { claims.len() } else { claims.len().min(limit as usize) };
            claims[keeps..].iter().for_each(|&slot| free.put(slot));
            freed += (claims.len() - keeps) as u32;
            kept.push(keeps as u32);
        }
        let mut owners = self.owners.clone();
        let lacks = share::lacks(&live, &kept, self.size());
        fill(&self.preferences, &lacks, &mut free, freed, |member, slot| {
            owners[slot as usize] = member;
        });
        owners.iter_mut().for_each(|owner| *owner = self.order[usize::from(*owner)]);
        Some(Ring { owners })
    }
}

/// Lets the members claim the `count` slots that are free, in turns at the given rates: each time
/// the next one in the member's preference order.
fn fill(
    preferences: &[Preference],
    rates: &[u64],
    free: &mut Free,
    count: u32,
    mut claimed: impl FnMut(u16, u32),
) {
    let size = preferences.first().map_or(0, Preference::size);
    let mut walks: Vec<_> = preferences.iter().map(Preference::walk).collect();
    let turns = share::turns(rates, count);
    // A walk to the next of few slots is long: from then on, each of them is asked how far it is.
    let walked = turns.len().saturating_sub(2 * size.isqrt() as usize);
    for &member in &turns[..walked] {
        let walk = &mut walks[usize::from(member)];
        let slot = loop {
            let slot = walk.next();
            if free.take(slot) {
                break slot;
            }
        };
        claimed(member, slot);
    }
    let mut left: Vec<u32> = free.all_free().collect();
    let mut steps_by_one = vec![None; preferences.len()];
    for &member in &turns[walked..] {
        let index = usize::from(member);
        let steps_by_one =
            *steps_by_one[index].get_or_insert_with(|| preferences[index].steps_by_one());
        let walk = &mut walks[index];
        let steps = |&place: &usize| walk.steps_to(left[place], steps_by_one);
        let next = (0..left.len()).min_by_key(steps).expect("a free slot for each turn");
        let slot = left.swap_remove(next);
        walk.go_behind(slot);
        claimed(member, slot);
    }
}

/// A bit for each slot that is free.
struct Free(Vec<u64>);

impl Free {
    fn none(size: u32) -> Self {
        Self(vec![0; size.div_ceil(64) as usize])
    }

    fn all(size: u32) -> Self {
        let mut all = Self(vec![u64::MAX; size.div_ceil(64) as usize]);
        if let Some(last) = all.0.last_mut().filter(|_| !size.is_multiple_of(64)) {
            *last = (1 << (size % 64)) - 1;
        }
        all
    }

    /// Slots that are free, in order.
    fn all_free(&self) -> impl Iterator<Item = u32> {
        (0..).zip(&self.0).flat_map(|(index, &word): (u32, _)| {
            (0..64).filter(move |bit| word >> bit & 1 == 1).map(move |bit| index * 64 + bit)
        })
    }

    #[inline(always)]
    fn put(&mut self, slot: u32) {
        self.0[(slot >> 6) as usize] |= 1 << (slot & 63);
    }

    /// Whether it was free.
    #[inline(always)]
    fn take(&mut self, slot: u32) -> bool {
        let (word, bit) = (&mut self.0[(slot >> 6) as usize], 1 << (slot & 63));
        let free = *word & bit != 0;
        *word &= !bit;
        free
    }
}
