//! Records of flows in the kernel's table: made, followed, walked through, kept and bounded.

use std::collections::BTreeSet;

use lb_common::{
    id::BackendId,
    layout::{FlowKey, FlowRecord, FlowState},
};

use super::world::*;
use crate::{
    dataplane::{DataPlane, Options, now},
    plan::{Capacity, Change},
};

/// Backend 1's slots begin to move to backend 2.
fn move_to_second(plane: &mut DataPlane) {
    let ring = plane.actual().unwrap().services.into_values().next().unwrap().ring;
    let slots = (200..).zip(ring).map(|(index, slot)| (index, slot.toward(BackendId(2))));
    plane.apply(&Change::SetSlots { slots: slots.collect() }).unwrap();
}

fn records(plane: &DataPlane) -> Vec<(FlowKey, FlowRecord)> {
    let mut records = Vec::new();
    let table = plane.flow_table().unwrap();
    table
        .retain(|key, record| {
            records.push((*key, *record));
            true
        })
        .unwrap();
    records
}

#[test]
fn flows_stay_where_they_are_while_their_slots_move() {
    run("flows", |world| {
        let mut plane = world.open();
        apply(&mut plane, &two_backends());
        let before = spread(&mut plane);
        assert_eq!(records(&plane), [], "nothing moves");
        move_to_second(&mut plane);
        assert_eq!(spread(&mut plane), before);

        let found = records(&plane);
        let of_first = before.iter().filter(|&&backend| backend == 1).count();
        assert_eq!(found.len(), of_first, "flows of stable slots need no record");
        let keys: BTreeSet<FlowKey> = found.iter().map(|(key, _)| *key).collect();
        assert_eq!(keys.len(), of_first);
        for (key, record) in &found {
            assert_eq!((key.service, record.owner.backend), (1, BackendId(1)));
            assert_eq!((record.owner.generation, record.state), (1, FlowState::Open));
            assert!(record.quiet_seconds(now()) <= 5, "{record:?}");
        }
        assert_eq!(plane.flow_counters().unwrap().recorded, of_first as u64);

        // Settled, the slots give flows without a record to their owner; records go on.
        let settled = plane.actual().unwrap().services.into_values().next().unwrap().ring;
        let slots = (200..).zip(settled).map(|(index, slot)| (index, slot.settled())).collect();
        plane.apply(&Change::SetSlots { slots }).unwrap();
        assert_eq!(spread(&mut plane), before);
        plane.flow_table().unwrap().retain(|_, _| false).unwrap();
        assert_eq!(records(&plane), []);
        assert_eq!(spread(&mut plane), vec![2; before.len()]);
        plane.remove().unwrap();
    });
}

#[test]
fn records_outlive_the_agent_and_larger_maps() {
    run("flows-kept", |world| {
        let mut plane = world.open();
        apply(&mut plane, &two_backends());
        move_to_second(&mut plane);
        let before = spread(&mut plane);
        let known = records(&plane).len();
        assert!(known > 60);
        plane.grow(Capacity { slots: 5000, ..CAPACITY }).unwrap();
        assert_eq!(records(&plane).len(), known);
        drop(plane);
        let mut plane = world.open();
        assert_eq!(records(&plane).len(), known);
        assert_eq!(spread(&mut plane), before);
        plane.remove().unwrap();
    });
}

/// A flow beyond the budget is forwarded to where it lives all the same.
#[test]
fn the_budget_bounds_records_and_nothing_else() {
    run("flows-budget", |world| {
        let options = Options { flow_capacity: 1024, ..world.options() };
        let mut plane = DataPlane::open(options).unwrap();
        apply(&mut plane, &two_backends());
        let before = spread(&mut plane);
        move_to_second(&mut plane);
        assert_eq!(spread(&mut plane), before);
        let counters = plane.flow_counters().unwrap();
        assert!(counters.over_budget > 0, "{counters:?}");
        assert_eq!(counters.over_budget_opening, 0, "a datagram opens nothing");
        assert_eq!(records(&plane).len() as u64, counters.recorded);
        plane.remove().unwrap();
    });
}

/// Where the budget is spent, a flow is remembered at its second packet.
#[test]
fn who_comes_twice_is_remembered() {
    run("flows-twice", |world| {
        let options = Options { flow_budget: Some(0), ..world.options() };
        let mut plane = DataPlane::open(options).unwrap();
        apply(&mut plane, &two_backends());
        move_to_second(&mut plane);
        let before = spread(&mut plane);
        assert_eq!(records(&plane), []);
        assert_eq!(spread(&mut plane), before);
        let of_first = before.iter().filter(|&&backend| backend == 1).count();
        let known = records(&plane).len();
        assert!(known * 10 >= of_first * 9, "{known} of {of_first}: few share a place");
        let counters = plane.flow_counters().unwrap();
        assert_eq!((counters.recorded, counters.over_budget_again), (known as u64, 0));
        plane.remove().unwrap();
    });
}

/// A record that names a dead backend, or a number that is another backend's now, is not followed.
#[test]
fn who_is_dead_or_another_is_not_followed() {
    run("flows-dead", |world| {
        let mut plane = world.open();
        apply(&mut plane, &two_backends());
        move_to_second(&mut plane);
        let before = spread(&mut plane);
        plane.apply(&dead_backend(1, 11)).unwrap();
        let actual = plane.actual().unwrap();
        assert_eq!(actual.backends[&BackendId(1)].alive, 0);
        assert_eq!(actual.backends[&BackendId(1)].macs, [2, 0, 0, 0, 0, 11, 2, 0, 0, 0, 0, 0xfe]);
        assert_eq!(spread(&mut plane), vec![2; before.len()]);
        let anew = plane.flow_counters().unwrap().picked_anew;
        assert_eq!(anew, before.iter().filter(|&&backend| backend == 1).count() as u64);
        assert!(records(&plane).iter().all(|(_, r)| r.owner.backend == BackendId(2)));
        plane.remove().unwrap();
    });
}

/// A table that is full refuses records, evicts none, and says so.
#[test]
fn a_full_table_evicts_nobody() {
    run("flows-full", |world| {
        let options = Options { flow_capacity: 32, flow_budget: Some(10_000), ..world.options() };
        let mut plane = DataPlane::open(options).unwrap();
        apply(&mut plane, &two_backends());
        let before = spread(&mut plane);
        move_to_second(&mut plane);
        assert_eq!(spread(&mut plane), before);
        let counters = plane.flow_counters().unwrap();
        assert_eq!(counters.recorded, 32);
        assert!(counters.table_full > 0, "{counters:?}");
        let first: BTreeSet<FlowKey> = records(&plane).into_iter().map(|(key, _)| key).collect();
        assert_eq!(spread(&mut plane), before);
        let second: BTreeSet<FlowKey> = records(&plane).into_iter().map(|(key, _)| key).collect();
        assert_eq!(first, second);
        plane.remove().unwrap();
    });
}
