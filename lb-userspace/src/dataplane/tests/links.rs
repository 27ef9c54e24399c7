//! Interfaces: attach, take over, refuse, let go.

use lb_common::id::BackendId;

use super::world::*;
use crate::dataplane::{
    AttachMode, Attached, DataPlane, Error,
    attach::Mode,
    sys::{self, LinkInfo},
};

fn veth() {
    ip("link add left type veth peer name right");
    ip("link set left up");
    ip("link set right up");
}

fn link(world: &World, name: &str) -> LinkInfo {
    sys::link_info(sys::open_pinned(&world.pins.join("links").join(name)).unwrap()).unwrap()
}

#[test]
fn a_link_outlives_the_agent_and_runs_its_next_program() {
    run("links", |world| {
        veth();
        let mut plane = world.open();
        let attached: Attached = plane.attach("left", AttachMode::Auto).unwrap();
        assert_eq!(attached.mode, Mode::Native);
        assert_eq!(plane.attach("left", AttachMode::Native).unwrap(), attached);
        let first = link(world, "left");
        assert_eq!(first.ifindex, attached.ifindex);
        drop(plane);
        assert_eq!(link(world, "left"), first);

        let mut plane = world.open();
        assert_eq!(plane.attached().unwrap(), std::slice::from_ref(&attached));
        let second = link(world, "left");
        assert_eq!(second.ifindex, first.ifindex);
        assert_ne!(second.program_id, first.program_id);

        plane.grow(crate::plan::Capacity { slots: 2000, ..CAPACITY }).unwrap();
        assert_ne!(link(world, "left").program_id, second.program_id);

        assert_eq!(plane.attach("left", AttachMode::Generic).unwrap().mode, Mode::Generic);
        plane.detach("left").unwrap();
        assert_eq!(plane.attached().unwrap(), []);
        assert!(!world.pins.join("links/left").exists());
        plane.remove().unwrap();
    });
}

#[test]
fn an_interface_of_another_program_is_left_alone() {
    run("busy", |world| {
        veth();
        let mut options = world.options();
        options.pin_path = None;
        let mut other = DataPlane::open(options).unwrap();
        other.attach("left", AttachMode::Native).unwrap();
        let mut plane = world.open();
        for mode in [AttachMode::Auto, AttachMode::Native, AttachMode::Generic] {
            let error = plane.attach("left", mode).unwrap_err();
            let Error::Busy { interface, program, by_link: true } = &error else {
                panic!("{error}")
            };
            assert_eq!(interface, "left");
            assert!(program.ends_with(", xlb"), "{program}");
        }
        drop(other);
        eventually(|| plane.attach("left", AttachMode::Auto).ok());
        plane.remove().unwrap();
    });
}

#[test]
fn a_driver_without_xdp_gets_generic_mode_or_an_error() {
    run("generic", |world| {
        let mut plane = world.open();
        let error = plane.attach("lo", AttachMode::Native).unwrap_err();
        assert!(matches!(error, Error::NoNative { .. }), "{error}");
        assert_eq!(plane.attach("lo", AttachMode::Auto).unwrap().mode, Mode::Generic);
        let notices = plane.take_notices().join("\n");
        assert!(notices.contains("generic"), "{notices}");
        drop(plane);
        let mut plane = world.open();
        assert_eq!(plane.attached().unwrap()[0].mode, Mode::Generic);
        let error = plane.attach("nowhere", AttachMode::Auto).unwrap_err();
        assert!(matches!(error, Error::NoInterface(name) if name == "nowhere"));
        plane.remove().unwrap();
    });
}

/// A mode that the driver refuses leaves the program where it was, and how.
#[test]
fn a_refused_mode_leaves_the_former_one() {
    run("refused", |world| {
        let mut plane = world.open();
        let attached = plane.attach("lo", AttachMode::Generic).unwrap();
        let error = plane.attach("lo", AttachMode::Native).unwrap_err();
        assert!(matches!(error, Error::NoNative { .. }), "{error}");
        assert_eq!(plane.attached().unwrap(), [attached]);
        assert_eq!(link(world, "lo").ifindex, 1);
        plane.remove().unwrap();
    });
}

/// What somebody else detached is told apart from an interface that is gone.
#[test]
fn a_link_that_somebody_detached_is_put_back() {
    run("detached", |world| {
        veth();
        let mut plane = world.open();
        let attached = plane.attach("left", AttachMode::Auto).unwrap();
        sys::link_detach(sys::open_pinned(&world.pins.join("links/left")).unwrap()).unwrap();
        assert_eq!(plane.attached().unwrap(), []);
        let notices = plane.take_notices().join("\n");
        assert!(notices.contains("detached from left, and not by xlb"), "{notices}");
        assert_eq!(plane.attach("left", AttachMode::Auto).unwrap(), attached);
        plane.remove().unwrap();
    });
}

/// A program that can't be put in force whole isn't in force at all.
#[test]
fn growing_is_done_or_undone() {
    run("undone", |world| {
        veth();
        let mut plane = world.open();
        apply(&mut plane, &two_backends());
        plane.attach("left", AttachMode::Auto).unwrap();
        let (before, capacity) = (link(world, "left"), plane.capacity());
        let larger = crate::plan::Capacity { slots: 2000, ..CAPACITY };
        // In the way of the new program's pin.
        std::fs::create_dir(world.pins.join("program-new")).unwrap();
        plane.grow(larger).unwrap_err();
        assert_eq!(link(world, "left"), before);
        assert_eq!(plane.capacity(), capacity);
        let spread_before = spread(&mut plane);
        // The maps that the running program reads are those that are written.
        apply(&mut plane, &[backend(1, 13)]);
        let record = |plane: &DataPlane| plane.actual().unwrap().backends[&BackendId(1)].macs[5];
        assert_eq!(record(&plane), 13);
        drop(plane);
        std::fs::remove_dir(world.pins.join("program-new")).unwrap();
        let mut plane = world.open();
        assert_eq!(record(&plane), 13, "what is pinned is what was in force");
        plane.grow(larger).unwrap();
        assert_eq!(plane.capacity().slots, 2000);
        assert_eq!(spread(&mut plane), spread_before);
        plane.remove().unwrap();
    });
}

#[test]
fn a_vanished_interface_takes_its_link_along() {
    run("vanished", |world| {
        veth();
        ip("link add eth0.7 type veth peer name peer");
        let mut plane = world.open();
        for interface in ["left", "eth0.7"] {
            plane.attach(interface, AttachMode::Auto).unwrap();
        }
        drop(plane);
        ip("link del left");
        let mut plane = world.open();
        let names = |plane: &mut DataPlane| -> Vec<String> {
            plane.attached().unwrap().into_iter().map(|attached| attached.interface).collect()
        };
        assert_eq!(names(&mut plane), ["eth0.7"]);
        assert!(plane.take_notices().join("\n").contains("left"));
        ip("link del peer");
        assert_eq!(names(&mut plane), [""; 0]);

        // The same name again is another interface.
        veth();
        plane.attach("left", AttachMode::Auto).unwrap();
        ip("link del left");
        veth();
        let attached = plane.attach("left", AttachMode::Auto).unwrap();
        assert_eq!(link(world, "left").ifindex, attached.ifindex);
        assert_ne!(attached.ifindex, 0);
        plane.remove().unwrap();
    });
}
