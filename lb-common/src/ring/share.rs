//! How many slots each member gets, and the order of their turns.

use core::cmp::Reverse;

/// Deals `total` slots out in proportion to `weights`, each share rounded up or down: the largest
/// remainders win, among equal ones the first.
///
/// All zero if the weights are.
pub(super) fn apportion(weights: &[u64], total: u32) -> Vec<u32> {
    let sum: u128 = weights.iter().map(|&weight| u128::from(weight)).sum();
    if sum == 0 {
        return vec![0; weights.len()];
    }
    let exact = |&weight: &u64| u128::from(weight) * u128::from(total);
    let mut shares: Vec<u32> = weights.iter().map(|weight| (exact(weight) / sum) as u32).collect();
    let left = total - shares.iter().sum::<u32>();
    let mut remainders: Vec<(Reverse<u128>, usize)> = weights
        .iter()
        .enumerate()
        .map(|(index, weight)| (Reverse(exact(weight) % sum), index))
        .collect();
    remainders.sort_unstable();
    for &(_, index) in remainders.iter().take(left as usize) {
        shares[index] += 1;
    }
    shares
}

/// Each member's share of `size` slots by weight, rounded up.
pub(super) fn ceilings(weights: &[u64], size: u32) -> Vec<u32> {
    let sum: u128 = weights.iter().map(|&weight| u128::from(weight)).sum();
    let ceiling = |&weight: &u64| (u128::from(weight) * u128::from(size)).div_ceil(sum) as u32;
    weights.iter().map(ceiling).collect()
}

/// What each member lacks of its share of `size` slots, in the unit 1 / (sum of `weights`) of a
/// slot; 0 for a member that kept more.
pub(super) fn lacks(weights: &[u64], kept: &[u32], size: u32) -> Vec<u64> {
    // At most 65,536 members' weights of 65,535,000 times 2^20 slots: less than 2^63.
    let sum: u64 = weights.iter().sum();
    let lack = |(&weight, &kept): (&u64, &u32)| {
        (weight * u64::from(size)).saturating_sub(u64::from(kept) * sum)
    };
    weights.iter().zip(kept).map(lack).collect()
}

/// The members whose turn it is, one after another, until `total` turns are dealt out in
/// proportion to `rates`.
///
/// Turn number k of a member comes at (k + ½) / rate: evenly spread, and the faster the more
/// often. Turns at about the same time are in the members' order.
pub(super) fn turns(rates: &[u64], total: u32) -> Vec<u16> {
    let quotas = apportion(rates, total);
    let sum: u128 = rates.iter().map(|&rate| u128::from(rate)).sum();
    // Additions, multiplications and divisions of f64 give the same on every machine (IEEE 754).
    let time = |rate: u64, turn: u32| {
        let time = (f64::from(turn) + 0.5) * (sum as f64 / rate as f64);
        (time as u32).min(total - 1) as usize
    };
    let each = |visit: &mut dyn FnMut(usize, u16)| {
        for (member, (&quota, &rate)) in quotas.iter().zip(rates).enumerate() {
            (0..quota).for_each(|turn| visit(time(rate, turn), member as u16));
        }
    };
    // Sorted by counting.
    let mut places = vec![0_u32; total as usize + 1];
    each(&mut |time, _| places[time + 1] += 1);
    for time in 0..total as usize {
        places[time + 1] += places[time];
    }
    let mut members = vec![0; quotas.iter().sum::<u32>() as usize];
    each(&mut |time, member| {
        members[places[time] as usize] = member;
        places[time] += 1;
    });
    members
}
