//! The peer: plain weighted Maglev, rebuilt over the live backends at every change.

use lb_common::ring::{FULL, Member};

use crate::random::Random;

/// The owner of each of `size` slots, as an index into `members`; `size` is a prime.
///
/// Maglev's population (Eisenbud et al., NSDI 2016, section 3.4): in each round every backend takes
/// the next free slot of its own permutation. With weights, the heaviest does so in every round,
/// another in the part of the rounds that its live weight is of the heaviest one's.
///
/// # Panics
/// If no member has live weight.
pub(crate) fn build(members: &[Member], size: u32) -> Vec<u16> {
    let heaviest = members.iter().map(weight).max().unwrap_or(0);
    assert!(heaviest > 0, "nobody can own a slot");
    let mut walkers: Vec<Walker> = (0..)
        .zip(members)
        .filter(|(_, member)| weight(member) > 0)
        .map(|(index, member)| Walker::new(index, member, size))
        .collect();
    let mut owners: Vec<Option<u16>> = vec![None; size as usize];
    let mut free = size;
    loop {
        for walker in &mut walkers {
            walker.credit += walker.weight;
            if walker.credit < heaviest {
                continue;
            }
            walker.credit -= heaviest;
            let slot = loop {
                let slot = walker.step(size);
                if owners[slot].is_none() {
                    break slot;
                }
            };
            owners[slot] = Some(walker.index);
            free -= 1;
            if free == 0 {
                return owners.into_iter().flatten().collect();
            }
        }
    }
}

/// Weight times live weight.
pub(crate) fn weight(member: &Member) -> u64 {
    u64::from(member.weight) * u64::from(member.live.min(FULL))
}

/// A backend on its way through its permutation of the slots.
struct Walker {
    index: u16,
    weight: u64,
    /// What it has gained in the rounds so far and not yet spent on slots.
    credit: u64,
    slot: u32,
    skip: u32,
}

impl Walker {
    fn new(index: u16, member: &Member, size: u32) -> Self {
        let mut random = Random(member.key);
        let slot = random.below(size as usize) as u32;
        let skip = random.below(size as usize - 1) as u32 + 1;
        Self { index, weight: weight(member), credit: 0, slot, skip }
    }

    fn step(&mut self, size: u32) -> usize {
        let slot = self.slot;
        self.slot = (slot + self.skip) % size;
        slot as usize
    }
}
