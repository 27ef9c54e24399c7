use proptest::prelude::*;

use super::*;

fn member(number: u32, weight: u16, live: u16) -> Member {
    let mut address = [0; 16];
    address[10..12].fill(0xff);
    address[12..].copy_from_slice(&number.to_be_bytes());
    Member { key: member_key(address, 0), weight, live }
}

fn equal(count: u32) -> Vec<Member> {
    (0..count).map(|number| member(0x0a00_0001 + number, 100, FULL)).collect()
}

fn loads(ring: &Ring, members: usize) -> Vec<u32> {
    let mut loads = vec![0; members];
    ring.owners().iter().for_each(|&owner| loads[usize::from(owner)] += 1);
    loads
}

fn owners(members: &[Member], size: u32) -> Vec<u16> {
    Ring::build(members, size).unwrap().owners().to_vec()
}

/// A member's exact share of `size` slots by live weight.
fn share(members: &[Member], index: usize, size: u32) -> f64 {
    let live = |member: &Member| f64::from(member.weight) * f64::from(member.live.min(FULL));
    live(&members[index]) / members.iter().map(live).sum::<f64>() * f64::from(size)
}

fn down(members: &[Member], failed: impl Fn(usize) -> bool) -> Vec<Member> {
    let mut members = members.to_vec();
    for (index, member) in members.iter_mut().enumerate() {
        member.live = if failed(index) { 0 } else { member.live };
    }
    members
}

/// FNV-1a of a ring, to pin it down.
fn fingerprint(owners: &[u16]) -> u64 {
    owners.iter().flat_map(|owner| owner.to_le_bytes()).fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

/// Every balancer of a fleet, of every version, computes these.
#[test]
fn rings_are_the_same_for_ever() {
    let key =
        |last, port| member_key([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 10, 0, 0, last], port);
    assert_eq!(key(1, 0), GOLDEN_KEYS[0]);
    assert_eq!(key(1, 8080), GOLDEN_KEYS[1]);
    assert_eq!(key(2, 0), GOLDEN_KEYS[2]);
    assert_eq!(owners(&equal(3), 13), GOLDEN_SMALL);
    assert_eq!(owners(&down(&equal(3), |index| index == 1), 13), GOLDEN_SMALL_FAILED);
    let mixed: Vec<Member> = (0..100)
        .map(|number| member(number, (number * 7 % 50) as u16, (number * 13) as u16))
        .collect();
    assert_eq!(fingerprint(&owners(&mixed, 65_537)), GOLDEN_MIXED);
}

const GOLDEN_KEYS: [u64; 3] = [0x87d4_f7d2_fece_4fe7, 0x5462_4cca_2b7b_2365, 0x2163_802b_86a3_8f85];
const GOLDEN_SMALL: [u16; 13] = [1, 1, 2, 0, 2, 2, 1, 0, 0, 1, 0, 2, 2];
const GOLDEN_SMALL_FAILED: [u16; 13] = [0, 0, 2, 0, 2, 2, 2, 0, 0, 2, 0, 2, 2];
const GOLDEN_MIXED: u64 = 0x582d_a3ab_99f9_d55d;

#[test]
fn nobody_alive_is_no_ring() {
    assert_eq!(Ring::build(&[], 13), None);
    assert_eq!(Ring::build(&down(&equal(3), |_| true), 13), None);
    assert_eq!(Ring::build(&[member(1, 0, FULL)], 13), None);
    assert_eq!(Ring::build(&equal(3), 0), None);
}

/// A member of weight 0 is configured, and owns nothing.
#[test]
fn extreme_weights_get_their_share() {
    let members = [member(1, 0, FULL), member(2, 1, FULL), member(3, 65_535, FULL)];
    assert_eq!(loads(&Ring::build(&members, 65_537).unwrap(), 3), [0, 1, 65_536]);
    let more_than_full = [member(1, 10, u16::MAX), member(2, 10, FULL)];
    assert_eq!(loads(&Ring::build(&more_than_full, 4093).unwrap(), 2).iter().sum::<u32>(), 4093);
}

/// Only the last one up: it gets everything, also where its base share is nothing.
#[test]
fn a_survivor_takes_all() {
    let mut members = vec![member(1, 1, FULL)];
    members.extend((2..50).map(|number| member(number, 65_535, 0)));
    assert_eq!(loads(&Ring::build(&members, 251).unwrap(), members.len())[0], 251);
}

#[test]
fn more_members_than_slots() {
    let loads = loads(&Ring::build(&equal(100), 13).unwrap(), 100);
    assert_eq!(loads.iter().sum::<u32>(), 13);
    assert_eq!(*loads.iter().max().unwrap(), 1);
}

#[test]
fn twins_share() {
    let twins = [member(1, 5, FULL); 2];
    let loads = loads(&Ring::build(&twins, 101).unwrap(), 2);
    assert_eq!(loads.iter().max().unwrap() - loads.iter().min().unwrap(), 1);
}

/// 1 % of 1,000 backends fail, then another 1 %: what moves beside the slots of those that failed
/// or came back.
#[test]
fn from_one_failed_set_to_another_little_else_moves() {
    const SIZE: u32 = 131_071;
    let members = equal(1000);
    let mut worst = 0.0_f64;
    for step in [10, 5, 1] {
        let first = |index: usize| index < 10;
        let second = |index: usize| (step..step + 10).contains(&index);
        let before = owners(&down(&members, first), SIZE);
        let after = owners(&down(&members, second), SIZE);
        let base = owners(&members, SIZE);
        let moved = (0..SIZE as usize)
            .filter(|&slot| before[slot] != after[slot])
            .filter(|&slot| first(base[slot].into()) == second(base[slot].into()))
            .count();
        worst = worst.max(moved as f64 / f64::from(SIZE));
    }
    assert!(worst <= 0.01, "{worst} of all slots moved");
}

/// And at the end the ring is as it was.
#[test]
fn a_slow_start_gains_slots_and_never_loses_one() {
    let mut members = equal(20);
    let mut previous = Vec::new();
    for live in (0..=FULL).step_by(50) {
        members[3].live = live;
        let owned: Vec<usize> = (0..4093)
            .zip(owners(&members, 4093))
            .filter(|&(_, owner)| owner == 3)
            .map(|(slot, _)| slot)
            .collect();
        assert!(previous.iter().all(|slot| owned.contains(slot)), "at {live} per mille");
        previous = owned;
    }
    assert_eq!(owners(&members, 4093), owners(&equal(20), 4093));
}

fn members() -> impl Strategy<Value = Vec<Member>> {
    let weight = prop_oneof![4 => 1..200_u16, 1 => Just(0), 1 => Just(u16::MAX), 1 => any::<u16>()];
    let live = prop_oneof![3 => Just(FULL), 1 => Just(0), 1 => 0..=FULL];
    prop::collection::vec((weight, live), 1..60).prop_map(|members| {
        let build = |(number, (weight, live))| member(number, weight, live);
        (0..).zip(members).map(build).collect()
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn order_does_not_matter(members in members(), turn in 0..60_usize, size in 1..3000_u32) {
        let mut turned = members.clone();
        turned.rotate_left(turn % members.len());
        let keys = |members: &[Member]| Ring::build(members, size)
            .map(|ring| ring.owners().iter().map(|&owner| members[usize::from(owner)].key).collect::<Vec<_>>());
        prop_assert_eq!(keys(&members), keys(&turned));
    }

    #[test]
    fn every_member_has_its_share(members in members(), size in 1..20_000_u32) {
        let Some(ring) = Ring::build(&members, size) else {
            prop_assert!(members.iter().all(|member| member.weight == 0 || member.live == 0));
            return Ok(());
        };
        prop_assert_eq!(ring.owners().len(), size as usize);
        for (index, load) in loads(&ring, members.len()).into_iter().enumerate() {
            let share = share(&members, index, size);
            prop_assert!(f64::from(load) < share + 1.0 + 1e-6, "{} slots for {}", load, share);
            prop_assert!(share > 0.0 || load == 0);
        }
    }

    #[test]
    fn default_sizes_keep_equal_weights_within_three_percent(count in 1..700_u32, failed in 0..100_u32) {
        let members = down(&equal(count), |index| (index as u32) < failed.min(count - 1));
        let ring = Ring::build(&members, default_size(members.len())).unwrap();
        let size = ring.owners().len() as f64;
        let alive = members.iter().filter(|member| member.live > 0).count() as f64;
        let most = *loads(&ring, members.len()).iter().max().unwrap();
        prop_assert!(f64::from(most) <= 1.03 * size / alive);
    }

    /// Failed members' slots move, and no others; recovery restores the ring.
    #[test]
    fn a_failure_moves_only_what_failed(members in members(), failed in prop::collection::vec(any::<bool>(), 60), size in 1..5000_u32) {
        let full: Vec<Member> = members.iter().map(|member| Member { live: FULL, ..*member }).collect();
        let Some(before) = Ring::build(&full, size) else { return Ok(()) };
        let Some(after) = Ring::build(&down(&full, |index| failed[index]), size) else { return Ok(()) };
        for (&old, &new) in before.owners().iter().zip(after.owners()) {
            prop_assert!(failed[usize::from(old)] || old == new);
            prop_assert!(!failed[usize::from(new)]);
        }
    }
}
