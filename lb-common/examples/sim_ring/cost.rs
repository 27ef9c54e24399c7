//! What a change costs: the slots that moved, those of them that had to, and the load afterwards.

use crate::{change::Change, maglev::weight};

/// What one change costs with one way to build tables.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cost {
    /// Slots whose owner is another one afterwards.
    pub(crate) moved: u32,
    /// Moved slots for which a backend's own change accounts: those that a backend whose weight or
    /// live weight fell had to give up, and those that one whose weight rose had to gain.
    pub(crate) unavoidable: u32,
    /// The fewest slots between the loads of before and after: the sum of what backends gained.
    pub(crate) least: u32,
    /// The highest load of a backend over its fair share by live weight, afterwards.
    pub(crate) load: f64,
}

impl Cost {
    /// Of two tables over the same slots, built from the change's backends.
    pub(crate) fn of(change: &Change, before: &[u16], after: &[u16]) -> Self {
        assert_eq!(before.len(), after.len(), "tables of different sizes");
        let count = change.after.len();
        let (old, new) = (loads(before, count), loads(after, count));
        let moves: Vec<(usize, usize)> = before
            .iter()
            .zip(after)
            .filter(|(from, to)| from != to)
            .map(|(&from, &to)| (from.into(), to.into()))
            .collect();
        Self {
            moved: moves.len() as u32,
            unavoidable: unavoidable(change, &moves, &old, &new),
            least: old.iter().zip(&new).map(|(old, new)| new.saturating_sub(*old)).sum(),
            load: highest_load(change, &new),
        }
    }

    /// Moved slots that nobody's change accounts for.
    pub(crate) fn extra(&self) -> u32 {
        self.moved - self.unavoidable
    }
}

/// Counts the moves, each once, that are within what the old owner has to give up or the new one
/// has to gain. Moves that are both come first: they use up both.
fn unavoidable(change: &Change, moves: &[(usize, usize)], old: &[u32], new: &[u32]) -> u32 {
    let weights = |index: usize| (weight(&change.before[index]), weight(&change.after[index]));
    let owed = |index: usize| {
        let (before, after) = weights(index);
        let gives = if after < before { old[index].saturating_sub(new[index]) } else { 0 };
        let gains = if after > before { new[index].saturating_sub(old[index]) } else { 0 };
        (gives, gains)
    };
    let (mut gives, mut gains): (Vec<u32>, Vec<u32>) = (0..old.len()).map(owed).unzip();
    let mut count = 0;
    let mut others = Vec::new();
    for &(from, to) in moves {
        if gives[from] > 0 && gains[to] > 0 {
            gives[from] -= 1;
            gains[to] -= 1;
            count += 1;
        } else {
            others.push((from, to));
        }
    }
    for (from, to) in others {
        if gives[from] > 0 {
            gives[from] -= 1;
            count += 1;
        } else if gains[to] > 0 {
            gains[to] -= 1;
            count += 1;
        }
    }
    count
}

fn loads(owners: &[u16], members: usize) -> Vec<u32> {
    let mut loads = vec![0; members];
    owners.iter().for_each(|&owner| loads[usize::from(owner)] += 1);
    loads
}

/// # Panics
/// If a backend without live weight owns a slot.
fn highest_load(change: &Change, loads: &[u32]) -> f64 {
    let slots: u32 = loads.iter().sum();
    let sum: u64 = change.after.iter().map(weight).sum();
    let over_share = |(load, weight): (&u32, u64)| match (load, weight) {
        (0, 0) => 0.0,
        (_, 0) => panic!("a backend without live weight owns {load} slots"),
        _ => f64::from(*load) * sum as f64 / (weight as f64 * f64::from(slots)),
    };
    loads.iter().zip(change.after.iter().map(weight)).map(over_share).fold(0.0, f64::max)
}
