use std::path::Path;

use lb_common::ring::{FULL, Member, Ring};

use super::{change::Change, cost::Cost, *};

/// A ring small enough that its rounding shows.
const BACKENDS: usize = 100;
const SLOTS: u32 = 10_007;

fn simulate(event: Event) -> Row {
    Row::simulate(event, BACKENDS, SLOTS)
}

#[test]
fn failure_and_recovery_move_only_slots_of_the_failed() {
    for percent in [1, 10] {
        for event in [Event::Fail { percent }, Event::Recover { percent }] {
            let Row { xlb, maglev, .. } = simulate(event);
            assert_eq!(xlb.moved_slots, xlb.unavoidable_slots, "{event:?}");
            assert_eq!(xlb.extra_percent_worst, 0.0, "{event:?}");
            // Each of equal backends has a hundredth; the same measure finds the peer wanting.
            let share = f64::from(SLOTS) * percent as f64 / 100.0;
            assert!((xlb.moved_slots - share).abs() <= percent as f64, "{event:?}");
            assert!(maglev.extra_percent > 0.1, "{event:?}: {}", maglev.extra_percent);
        }
    }
    assert_eq!(simulate(Event::FailMixedWeights { percent: 10 }).xlb.extra_percent_worst, 0.0);
}

#[test]
fn from_one_failed_set_to_another_at_most_a_hundredth_moves_beside() {
    for percent in [1, 10] {
        let worst = simulate(Event::FailInstead { percent }).xlb.extra_percent_worst;
        assert!(worst <= 1.0, "{percent} %: {worst} % of all slots");
    }
}

/// Slots of backends that are up in both sets stay, so it is at most what stays down.
#[test]
fn replacing_half_of_a_failed_set_moves_at_most_what_stays_down_beside() {
    let worst = simulate(Event::ReplaceHalf { percent: 10 }).xlb.extra_percent_worst;
    assert!(worst > 0.0 && worst <= 5.0, "{worst} % of all slots");
}

#[test]
fn nobody_has_more_than_three_percent_above_its_share() {
    for event in Event::ALL {
        let load = simulate(event).xlb.load_over_fair_share;
        assert!((1.0..=1.03).contains(&load), "{event:?}: {load}");
    }
}

/// The simulation says "not configured" that way.
#[test]
fn a_backend_of_weight_0_changes_nobodys_slots() {
    let changes = Event::RemoveOne.changes(BACKENDS, 1);
    let with = &changes[0].after;
    let without: Vec<Member> = with.iter().copied().filter(|member| member.weight > 0).collect();
    assert_eq!(without.len(), BACKENDS - 1);
    let keys = |members: &[Member], owners: Vec<u16>| -> Vec<u64> {
        owners.iter().map(|&owner| members[usize::from(owner)].key).collect()
    };
    assert_eq!(keys(with, report::xlb(with, SLOTS)), keys(&without, report::xlb(&without, SLOTS)));
    assert_eq!(
        keys(with, maglev::build(with, SLOTS)),
        keys(&without, maglev::build(&without, SLOTS))
    );
}

#[test]
fn a_drift_is_one_walk_in_small_steps() {
    let changes = Event::Drift.changes(BACKENDS, 20);
    for pair in changes.windows(2) {
        assert_eq!(pair[0].after, pair[1].before);
    }
    for Change { before, after } in &changes {
        assert_ne!(before, after);
        for (before, after) in before.iter().zip(after) {
            assert!((FULL / 2..=FULL).contains(&after.live), "{}", after.live);
            assert!(after.live.abs_diff(before.live) <= FULL / 20);
        }
    }
}

/// The peer is no weak one: it spreads by weight as well.
#[test]
fn plain_maglev_spreads_by_live_weight() {
    let change = &Event::FailMixedWeights { percent: 10 }.changes(BACKENDS, 1)[0];
    let owners = maglev::build(&change.after, SLOTS);
    let sum: u64 = change.after.iter().map(maglev::weight).sum();
    for (index, member) in (0..).zip(&change.after) {
        let load = owners.iter().filter(|&&owner| owner == index).count() as f64;
        let share = f64::from(SLOTS) * maglev::weight(member) as f64 / sum as f64;
        // One for the last round, which not everybody has, and one for credit not yet spent.
        assert!((load - share).abs() <= 2.0, "{load} slots for {share}");
    }
}

/// Three backends with two slots each; what one table cost against another, by hand.
#[test]
fn a_move_counts_as_unavoidable_only_where_a_change_asks_for_it() {
    let member = |key, live| Member { key, weight: 1, live };
    let all = [1, 2, 3].map(|key| member(key, FULL));
    let failed = [member(1, 0), all[1], all[2]];
    let cost = |before: [Member; 3], after: [Member; 3], old: [u16; 6], new: [u16; 6]| {
        let change = Change { before: before.to_vec(), after: after.to_vec() };
        let cost = Cost::of(&change, &old, &new);
        (cost.moved, cost.unavoidable, cost.least, cost.extra())
    };
    let base = [0, 0, 1, 1, 2, 2];
    assert_eq!(cost(all, failed, base, [1, 2, 1, 1, 2, 2]), (2, 2, 2, 0));
    assert_eq!(cost(all, failed, base, [1, 2, 2, 1, 1, 2]), (4, 2, 2, 2));
    assert_eq!(cost(failed, all, [1, 2, 1, 1, 2, 2], base), (2, 2, 2, 0));
    assert_eq!(cost(failed, all, [1, 2, 1, 1, 2, 2], [0, 0, 2, 1, 1, 2]), (4, 2, 2, 2));
    // The first fails, the second comes back: by way of the third, which changed nothing itself,
    // and straight.
    let other = [all[0], member(2, 0), all[2]];
    let owners = [0, 0, 0, 2, 2, 2];
    assert_eq!(cost(other, failed, owners, [1, 1, 1, 2, 2, 2]), (3, 3, 3, 0));
    assert_eq!(cost(other, failed, owners, [2, 2, 2, 1, 1, 1]), (6, 6, 3, 0));
    // A half-full one that swaps a slot without need.
    let half = [member(1, FULL / 2), all[1], all[2]];
    assert_eq!(cost(all, half, base, [2, 1, 0, 1, 2, 2]), (3, 1, 1, 2));
}

#[test]
#[should_panic(expected = "without live weight owns")]
fn a_slot_of_a_dead_backend_is_no_cost_but_a_fault() {
    let change = &Event::Fail { percent: 10 }.changes(10, 1)[0];
    let owners = Ring::build(&change.before, 101).unwrap().owners().to_vec();
    Cost::of(change, &owners, &owners);
}

#[test]
fn the_page_shows_what_the_simulation_finds() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/ring.md");
    let text = std::fs::read_to_string(&path).unwrap();
    assert_eq!(
        page::block(&text, "disruption").unwrap(),
        report::disruption(&rows()),
        "{} is out of date: `cargo xtask sim-ring --write` mends it",
        path.display()
    );
    assert!(page::block(&text, "times").unwrap().lines().count() > 2, "{}", path.display());
}

#[test]
fn a_page_without_a_marker_is_left_alone() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("page.md");
    let text = "# Page\n<!-- disruption: x -->\nold\n<!-- end of disruption -->\n";
    std::fs::write(&path, text).unwrap();
    let message = page::write(&path, &[]).unwrap_err().to_string();
    assert!(message.contains("page.md") && message.contains("<!-- times:"), "{message}");
    assert_eq!(std::fs::read_to_string(&path).unwrap(), text);

    std::fs::write(&path, format!("{text}<!-- times: x -->\nold\n<!-- end of times -->\nrest"))
        .unwrap();
    page::write(&path, &[simulate(Event::AddOne)]).unwrap();
    let text = std::fs::read_to_string(&path).unwrap();
    assert!(!text.contains("old") && text.ends_with("rest"), "{text}");
    assert!(page::block(&text, "disruption").unwrap().contains("| 100 | one added |"), "{text}");
}
