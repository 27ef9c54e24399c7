//! Flows under `fullnat` in the kernel's tables: made, kept, told, ended, and what they take.

use std::collections::{BTreeMap, BTreeSet};

use lb_common::{
    checksum,
    flow::destination_port,
    id::BackendId,
    layout::{BackendRecord, FULLNAT, FlowKey, Kind, PoolRange, Stage, TranslatedWords},
    network::{Address, mapped},
};

use super::world::*;
use crate::{
    dataplane::{DataPlane, Fate, Options},
    plan::{Capacity, Change, DirectoryService},
};

const POOL: [u8; 4] = [10, 0, 0, 2];

/// A service whose one backend is under `fullnat`.
fn by_flow(plane: &mut DataPlane, ports: u16) {
    let mut changes = two_backends();
    let Change::SetBackend { record, .. } = backend(1, 11) else { panic!("another change") };
    let mut record = BackendRecord {
        kind: Kind::FullnatIpv4 as u8,
        port: 8080,
        outer_sum: checksum::address_difference(&mapped(VIP), &record.address),
        ..*record
    };
    record.set_destination();
    let pool = PoolRange { first: 0, count: 1, first_port: 1024, ports };
    record.set_fullnat(pool, &mapped(VIP));
    changes.insert(0, Change::SetPool { place: 0, address: mapped(POOL) });
    for change in &mut changes {
        match change {
            Change::SetBackend { id, record: other } if *id == BackendId(1) => **other = record,
            Change::SetSlots { slots } => {
                slots
                    .iter_mut()
                    .for_each(|(_, s)| *s = lb_common::layout::Slot::stable(BackendId(1)));
            }
            Change::SetDirectory { services } => {
                services[0] = DirectoryService { answers: FULLNAT, ..services[0] };
            }
            _ => {}
        }
    }
    apply(plane, &changes);
}

/// Every port that is taken, and the flow that has it.
fn taken(plane: &DataPlane) -> BTreeMap<u16, (FlowKey, Option<TranslatedWords>)> {
    let mut taken = BTreeMap::new();
    visit(plane, |port, flow, entry| {
        taken.insert(port, (*flow, entry.copied()));
        Fate::Keep
    });
    taken
}

fn visit(
    plane: &DataPlane,
    mut judge: impl FnMut(u16, &FlowKey, Option<&TranslatedWords>) -> Fate,
) -> u64 {
    let pools = |place| (place == 0).then(|| -> Address { mapped(POOL) });
    let judge = |key: &lb_common::layout::ReturnKey, flow: &FlowKey, entry: Option<&_>| {
        judge(destination_port(key.ports), flow, entry)
    };
    plane.fullnat_table().unwrap().visit(pools, judge).unwrap()
}

fn sends(plane: &mut DataPlane, ports: impl IntoIterator<Item = u16>) {
    for port in ports {
        let run = plane.test_run(&frame(port), None).unwrap().unwrap();
        assert_eq!((run.action, run.trace.backend), (crate::dataplane::Action::Tx, 1));
    }
}

#[test]
fn flows_outlive_the_agent_and_larger_maps() {
    run("fullnat", |world| {
        let mut plane = world.open();
        by_flow(&mut plane, 31_744);
        sends(&mut plane, 5000..5100);
        let before = taken(&plane);
        assert_eq!(before.len(), 100);
        let flows: BTreeSet<_> = before.values().map(|(flow, _)| *flow).collect();
        assert_eq!(flows.len(), 100);
        for (port, (_, entry)) in &before {
            let entry = entry.unwrap();
            assert_eq!((entry.translation().port, entry.progress().stage), (*port, Stage::Opening));
        }
        let larger = Capacity { backends: 64, ..CAPACITY };
        plane.grow(larger).unwrap();
        sends(&mut plane, 5000..5100);
        assert_eq!(taken(&plane).keys().collect::<Vec<_>>(), before.keys().collect::<Vec<_>>());
        drop(plane);
        let mut plane = world.open();
        assert_eq!(plane.actual().unwrap().pools, [(0, mapped(POOL))].into());
        sends(&mut plane, 5000..5100);
        assert_eq!(taken(&plane).keys().collect::<Vec<_>>(), before.keys().collect::<Vec<_>>());
        assert_eq!(plane.fullnat_counters().unwrap().opened, 100);
        plane.remove().unwrap();
    });
}

#[test]
fn a_flow_that_is_forgotten_may_leave_its_port_taken() {
    run("fullnat-fates", |world| {
        let mut plane = world.open();
        by_flow(&mut plane, 31_744);
        sends(&mut plane, [5000, 5001, 5002]);
        let fate = |flow: &FlowKey| match lb_common::flow::source_port(flow.ports) {
            5000 => Fate::Free,
            5001 => Fate::Orphan,
            _ => Fate::Keep,
        };
        assert_eq!(
            visit(&plane, |_, flow, entry| if entry.is_some() { fate(flow) } else { Fate::Keep }),
            2
        );
        let left = taken(&plane);
        let has_entry: Vec<bool> = left.values().map(|(_, entry)| entry.is_some()).collect();
        assert_eq!(has_entry, [false, true]);
        // Both begin anew, at other ports.
        sends(&mut plane, [5000, 5001, 5002]);
        assert_eq!(taken(&plane).len(), 4);
        assert_eq!(plane.fullnat_counters().unwrap().opened, 5);
        plane.remove().unwrap();
    });
}

/// Every new flow gets a port as long as one in fifty is free, wherever; and then the rest is found,
/// too.
#[test]
fn the_last_ports_are_found() {
    run("fullnat-ports", |world| {
        const PORTS: u16 = 5000;
        let options = Options { fullnat_capacity: Some(1 << 14), ..world.options() };
        let mut plane = DataPlane::open(options).unwrap();
        by_flow(&mut plane, PORTS);
        for port in 10_000..15_300 {
            plane.test_run(&frame(port), None).unwrap().unwrap();
        }
        assert_eq!(taken(&plane).len(), usize::from(PORTS));
        let fate = |port, _: &FlowKey, _: Option<&_>| match port % 25 {
            0 => Fate::Free,
            _ => Fate::Keep,
        };
        assert_eq!(visit(&plane, fate), 200);
        let before = plane.fullnat_counters().unwrap().searches;
        sends(&mut plane, 40_000..40_100);
        let searches = plane.fullnat_counters().unwrap().searches - before;
        assert!((20..=100).contains(&searches), "{searches}");
        assert_eq!(taken(&plane).len(), usize::from(PORTS - 100));
        plane.remove().unwrap();
    });
}

/// The room is made once somebody is served so, also where another agent's maps are pinned.
#[test]
fn room_is_made_for_the_first_service() {
    run("fullnat-room", |world| {
        let without = || Options { fullnat_capacity: None, ..world.options() };
        let plane = DataPlane::open(without()).unwrap();
        let unused = plane.map_bytes().unwrap();
        drop(plane);
        let mut plane = world.open();
        assert!(plane.map_bytes().unwrap() > unused);
        by_flow(&mut plane, 31_744);
        sends(&mut plane, 5000..5400);
        assert_eq!(taken(&plane).len(), 400);
        drop(plane);
        // In use, it stays.
        let mut plane = DataPlane::open(without()).unwrap();
        assert!(!plane.make_room(Some(1 << 10), false).unwrap());
        assert_eq!(taken(&plane).len(), 400);
        plane.remove().unwrap();

        let mut plane = DataPlane::open(without()).unwrap();
        assert!(plane.make_room(Some(1 << 16), false).unwrap());
        by_flow(&mut plane, 31_744);
        sends(&mut plane, 5000..5400);
        assert_eq!(taken(&plane).len(), 400);
        plane.remove().unwrap();
    });
}

/// A million flows take no more than 256 MiB.
#[test]
fn flows_take_little_memory() {
    run("fullnat-memory", |world| {
        const FLOWS: u16 = 50_000;
        // So that no port in turn was given out by another one's count.
        crate::dataplane::stay_on_one_cpu().unwrap();
        let capacity = 1_000_000;
        let options = Options { fullnat_capacity: Some(capacity), ..world.options() };
        let mut plane = DataPlane::open(options).unwrap();
        let small = Options { fullnat_capacity: None, pin_path: None, ..world.options() };
        let others = DataPlane::open(small).unwrap().map_bytes().unwrap();
        by_flow(&mut plane, u16::MAX - 1024);
        let empty = plane.map_bytes().unwrap();
        sends(&mut plane, 1000..1000 + FLOWS);
        let each = (plane.map_bytes().unwrap() - empty) as f64 / f64::from(FLOWS);
        let million = (empty - others) as f64 + each * f64::from(capacity);
        println!("{each} bytes a flow, {:.0} MiB for a million", million / f64::from(1 << 20));
        assert!(million <= f64::from(256 << 20), "{each} bytes a flow, {million} in all");
        plane.remove().unwrap();
    });
}
