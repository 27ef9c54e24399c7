//! Maps: what is applied is in force, is read back, survives the agent, and grows.

use std::{mem::offset_of, time::Duration};

use lb_common::{
    id::BackendId,
    layout::{Directory, Slot, VERSION, WAYS, WayEntry},
    verdict::DropReason,
};

use super::world::*;
use crate::{
    dataplane::{Action, Counters, DataPlane, Error, Options, run::TestRun},
    plan::{Actual, Capacity, Change},
};

#[test]
fn frames_go_where_the_ring_says() {
    run("frames", |world| {
        let mut plane = world.open();
        let run = |plane: &mut DataPlane| plane.test_run(&frame(1000), None).unwrap().unwrap();
        assert_eq!(run(&mut plane).action, Action::Pass);
        assert_eq!(run(&mut plane).frame, frame(1000));

        apply(&mut plane, &two_backends());
        let found = spread(&mut plane);
        let of = |backend| found.iter().filter(|&&found| found == backend).count();
        assert_eq!(of(1) + of(2), 200);
        assert!(of(1) > 60 && of(2) > 60, "{} and {}", of(1), of(2));
        let sent: TestRun = run(&mut plane);
        assert_eq!(sent.trace.service, 1);
        assert_eq!(sent.frame[..6], [2, 0, 0, 0, 0, 10 + sent.trace.backend as u8]);
        assert_eq!(sent.frame[12..], frame(1000)[12..]);

        let counters: Counters = plane.counters().unwrap();
        assert_eq!(counters.outcomes[0], 2);
        let packets = counters.backends.values().map(|counters| counters.packets).sum::<u64>();
        let bytes = counters.backends.values().map(|counters| counters.bytes).sum::<u64>();
        assert_eq!((packets, bytes), (201, 201 * frame(0).len() as u64));

        plane
            .apply(&Change::SetSlots { slots: (200..301).map(|index| (index, Slot(0))).collect() })
            .unwrap();
        let refused = run(&mut plane);
        assert_eq!(
            (refused.action, refused.trace.reason),
            (Action::Drop, DropReason::NoBackend as u32)
        );
        assert_eq!(plane.counters().unwrap().outcomes[DropReason::NoBackend as usize], 1);
        plane.apply(&Change::SetDirectory { services: vec![] }).unwrap();
        assert_eq!(run(&mut plane).action, Action::Pass);
        plane.remove().unwrap();
        assert!(!world.pins.exists());
    });
}

#[test]
fn the_kernel_takes_frames_of_14_to_65536_bytes() {
    run("lengths", |world| {
        let mut plane = world.open();
        apply(&mut plane, &two_backends());
        for len in 0..14 {
            assert_eq!(plane.test_run(&vec![0; len], None).unwrap(), None);
        }
        for len in [14, 60, 1514, 3520, 3521, 9014, 65_536] {
            let result = plane.test_run(&vec![0; len], None).unwrap().unwrap();
            assert_eq!((result.action, result.frame), (Action::Pass, vec![0; len]));
        }
        for len in [65_601, 1 << 20] {
            let error = plane.test_run(&vec![0; len], None).unwrap_err();
            assert!(matches!(error, Error::FrameTooLong { .. }), "{error}");
        }
        let ingress = plane.test_run(&frame(1), Some(1)).unwrap().unwrap();
        assert_eq!(ingress.action, Action::Tx);
        plane.remove().unwrap();
    });
}

/// The mirror that planning keeps is what the maps hold, after every kind of change.
#[test]
fn the_maps_read_back_as_they_were_written() {
    run("mirror", |world| {
        let mut plane = world.open();
        let mut mirror = plane.actual().unwrap();
        assert_eq!(mirror, Actual { capacity: CAPACITY, ..Actual::default() });
        let mut changes = two_backends();
        changes.extend([
            backend(1, 13),
            backend(1, 14),
            backend(3, 15),
            Change::SetSlots { slots: vec![(200, Slot(7)), (999, Slot(8)), (201, Slot(0))] },
            Change::SetDirectory { services: vec![service(190, 20)] },
            Change::ClearBackend { id: BackendId(3) },
            Change::ClearPort { port: 2 },
            Change::ClearPort { port: 2 },
            Change::Grace,
            Change::SetPort { port: 7, ifindex: 1 },
            Change::SetDirectory { services: vec![] },
        ]);
        for change in &changes {
            plane.apply(change).unwrap();
            mirror.apply(change);
            assert_eq!(plane.actual().unwrap(), mirror, "after {change:?}");
        }
        plane.remove().unwrap();
    });
}

#[test]
fn a_new_agent_takes_over_what_is_in_force() {
    run("restart", |world| {
        let mut plane = world.open();
        apply(&mut plane, &two_backends());
        let before = (plane.actual().unwrap(), spread(&mut plane));
        let counted = plane.counters().unwrap();
        assert!(matches!(world.refused(), Error::InUse(_)));
        drop(plane);

        let mut plane = world.open();
        assert_eq!(plane.counters().unwrap(), counted);
        assert_eq!((plane.actual().unwrap(), spread(&mut plane)), before);
        apply(&mut plane, &[backend(1, 21), backend(1, 22)]);
        assert_eq!(plane.actual().unwrap().backends[&BackendId(1)].address[15], 22);
        plane.remove().unwrap();
    });
}

/// A new agent has it from there, where nothing else tells.
#[test]
fn the_seed_is_found_where_the_program_is_pinned() {
    run("seed", |world| {
        let seed = || crate::dataplane::pinned_hash_seed(&world.pins);
        assert_eq!(seed(), None);
        let mut plane = world.open();
        assert_eq!(seed(), Some(1));
        plane.grow(Capacity { slots: 70_000, ..CAPACITY }).unwrap();
        assert_eq!(seed(), Some(1));
        drop(plane);
        let open = || DataPlane::open(Options { hash_seed: u64::MAX, ..world.options() });
        let mut plane = eventually(|| open().ok());
        assert_eq!(seed(), Some(u64::MAX));
        plane.maps.directory.write_u32(0, offset_of!(Directory, version), VERSION + 1).unwrap();
        assert_eq!(seed(), None);
        plane.remove().unwrap();
        assert_eq!(seed(), None);
    });
}

/// Nobody else pays for the memory.
#[test]
fn ways_to_clients_take_memory_where_somebody_answers_through_the_balancer() {
    run("ways-room", |world| {
        let without = || Options { ways: false, ..world.options() };
        let mut plane = DataPlane::open(without()).unwrap();
        apply(&mut plane, &two_backends());
        let flows = spread(&mut plane);
        let (bytes, before) = (plane.map_bytes().unwrap(), plane.actual().unwrap());
        assert!(!plane.make_room(None, false).unwrap());
        assert!(plane.make_room(None, true).unwrap());
        let ways = u64::from(WAYS - 1) * size_of::<WayEntry>() as u64;
        let with = plane.map_bytes().unwrap();
        assert!(with >= bytes + ways && with < bytes + ways + (1 << 16), "{bytes} and {with}");
        assert_eq!(plane.actual().unwrap(), before);
        assert_eq!(spread(&mut plane), flows);
        assert!(!plane.make_room(None, true).unwrap());
        drop(plane);
        // Who comes later keeps what is in use, or makes it. Elements of hash maps come and go.
        let has_room = |plane: &DataPlane| plane.map_bytes().unwrap().abs_diff(with) < 1 << 12;
        let plane = DataPlane::open(without()).unwrap();
        assert!(has_room(&plane), "{:?} and {with}", plane.map_bytes());
        plane.remove().unwrap();
        drop(DataPlane::open(without()).unwrap());
        let plane = world.open();
        assert!(has_room(&plane), "{:?} and {with}", plane.map_bytes());
        plane.remove().unwrap();
    });
}

#[test]
fn maps_grow_and_keep_what_they_hold() {
    run("grow", |world| {
        let mut plane = world.open();
        apply(&mut plane, &two_backends());
        let flows = spread(&mut plane);
        let before = plane.actual().unwrap();
        let counted = plane.counters().unwrap();
        let bytes = plane.map_bytes().unwrap();
        assert!(plane.apply(&backend(16, 1)).is_err());

        let larger = Capacity { slots: 70_000, backends: 10, ports: 8 };
        plane.grow(larger).unwrap();
        let capacity = Capacity { slots: 70_000, ..CAPACITY };
        assert_eq!(plane.capacity(), capacity);
        let grown = plane.map_bytes().unwrap();
        assert!(grown >= bytes + 8 * 69_000, "{bytes} and {grown}");
        assert_eq!(plane.actual().unwrap(), Actual { capacity, ..before.clone() });
        assert_eq!(plane.counters().unwrap(), counted);
        assert_eq!(spread(&mut plane), flows);
        drop(plane);

        let mut options = world.options();
        options.capacity.backends = 40;
        let mut plane = DataPlane::open(options).unwrap();
        let capacity = Capacity { backends: 40, ..capacity };
        assert_eq!(plane.actual().unwrap(), Actual { capacity, ..before });
        assert_eq!(spread(&mut plane), flows);
        plane.apply(&backend(39, 1)).unwrap();
        let directories = std::fs::read_dir(&world.pins).unwrap();
        let tables = directories.filter(|entry| {
            entry.as_ref().unwrap().file_name().to_string_lossy().starts_with("tables-")
        });
        assert_eq!(tables.count(), 1);
        plane.remove().unwrap();
    });
}

/// A number's next backend starts at zero.
#[test]
fn counters_are_not_inherited() {
    run("counters", |world| {
        let mut plane = world.open();
        apply(&mut plane, &two_backends());
        spread(&mut plane);
        let id = BackendId(1);
        assert!(plane.counters().unwrap().backends[&id].packets > 0);
        apply(&mut plane, &[Change::ClearBackend { id }]);
        assert!(!plane.counters().unwrap().backends.contains_key(&id));
        apply(&mut plane, &[backend(1, 30)]);
        assert_eq!(plane.counters().unwrap().backends[&id].packets, 0);
        assert!(plane.counters().unwrap().backends[&BackendId(2)].packets > 0);
        plane.remove().unwrap();
    });
}

#[test]
fn what_does_not_fit_is_refused_and_changes_nothing() {
    run("bounds", |world| {
        let mut plane = world.open();
        apply(&mut plane, &two_backends());
        let before = plane.actual().unwrap();
        let mut twice = vec![service(200, 101); 2];
        twice[1].id.0 = 2;
        let changes = [
            backend(0, 1),
            backend(16, 1),
            Change::ClearBackend { id: BackendId(u32::MAX) },
            Change::SetPort { port: 8, ifindex: 1 },
            Change::SetPort { port: 1, ifindex: 999_999 },
            Change::SetSlots { slots: vec![(1000, Slot(1))] },
            Change::SetDirectory { services: vec![service(900, 101)] },
            Change::SetDirectory { services: vec![service(u32::MAX, 2)] },
            Change::SetDirectory { services: twice },
        ];
        for change in &changes {
            let error = plane.apply(change).unwrap_err().to_string();
            assert!(!error.is_empty());
            assert_eq!(plane.actual().unwrap(), before, "after {change:?}: {error}");
        }
        plane.remove().unwrap();
    });
}

#[test]
fn maps_of_another_make_are_refused_with_a_way_out() {
    run("version", |world| {
        let mut plane = world.open();
        plane.maps.directory.write_u32(0, offset_of!(Directory, version), VERSION + 1).unwrap();
        drop(plane);
        let error = world.refused();
        assert!(matches!(error, Error::Incompatible { .. }), "{error}");
        assert!(error.to_string().contains(&format!("rm -r {}", world.pins.display())));

        std::fs::remove_file(world.pins.join("tables/slots")).unwrap();
        let error = world.refused().to_string();
        assert!(error.contains("slots"), "{error}");
    });
}

#[test]
fn an_object_that_is_not_ours_is_refused() {
    run("object", |world| {
        let mut options = world.options();
        options.object = b"no ELF".to_vec();
        let error = DataPlane::open(options).err().unwrap();
        assert!(matches!(error, Error::Object { .. }), "{error}");
        let mut options = world.options();
        options.pin_path = Some("/proc/xlb".into());
        let error = DataPlane::open(options).err().unwrap();
        assert!(error.to_string().contains("mount -t bpf"), "{error}");
        let mut options = world.options();
        options.pin_path = Some(world.pins.join("a.b/c"));
        let error = DataPlane::open(options).err().unwrap();
        assert!(matches!(error, Error::DotInName(path) if path == world.pins.join("a.b")));
    });
}

#[test]
fn a_grace_period_is_short() {
    run("grace", |world| {
        let mut plane = world.open();
        let start = std::time::Instant::now();
        (0..10).for_each(|_| plane.grace().unwrap());
        let each = start.elapsed() / 10;
        println!("a grace period takes {each:?}");
        assert!(each < Duration::from_secs(1), "{each:?}");
        plane.remove().unwrap();
    });
}
