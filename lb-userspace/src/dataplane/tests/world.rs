//! What the tests stand on: the object, pins and namespaces that vanish, frames.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use lb_common::{
    id::{BackendId, ServiceId},
    layout::{Affinity, BackendRecord, Kind, Slot},
    ring::{Member, Ring, member_key},
};

use crate::{
    dataplane::{DataPlane, Error, Options},
    model::{Protocol, ServiceKey},
    plan::{Capacity, Change, DirectoryService},
};

pub(super) const VIP: [u8; 4] = [203, 0, 113, 10];
pub(super) const CAPACITY: Capacity = Capacity { slots: 1000, backends: 16, ports: 8 };

/// How long one condition is waited for.
const DEADLINE: Duration = Duration::from_secs(10);

/// A pin directory that is removed at the end, also after a panic.
pub(super) struct World {
    pub(super) pins: PathBuf,
}

/// Tries until there is something. What this process has closed may stay open a little longer:
/// a child that another test starts has all descriptors until it becomes another program.
pub(super) fn eventually<T>(mut attempt: impl FnMut() -> Option<T>) -> T {
    let begin = Instant::now();
    loop {
        if let Some(done) = attempt() {
            return done;
        }
        assert!(begin.elapsed() < DEADLINE, "it never came true");
        std::thread::yield_now();
    }
}

/// Runs a test in a network namespace of its own, if it may.
pub(super) fn run(name: &str, test: impl FnOnce(&World) + Send) {
    // SAFETY: asks for a number.
    if unsafe { libc::geteuid() } != 0 {
        println!("SKIP {name}: needs root");
        return;
    }
    let world = World {
        pins: PathBuf::from(format!("/sys/fs/bpf/xlb-test-{}-{name}", std::process::id())),
    };
    let result = std::thread::scope(|scope| {
        scope
            .spawn(|| {
                // SAFETY: affects this thread alone; the namespace ends with it.
                assert_eq!(unsafe { libc::unshare(libc::CLONE_NEWNET) }, 0, "a network namespace");
                ip("link set lo up");
                test(&world);
            })
            .join()
    });
    if let Err(panic) = result {
        std::panic::resume_unwind(panic);
    }
}

impl Drop for World {
    fn drop(&mut self) {
        // What a failed test left; a test that ends well leaves nothing.
        if self.pins.exists() {
            let _ = fs::remove_dir_all(&self.pins);
        }
    }
}

impl World {
    pub(super) fn options(&self) -> Options {
        Options {
            object: object(),
            pin_path: Some(self.pins.clone()),
            capacity: CAPACITY,
            flow_capacity: 1 << 16,
            fullnat_capacity: Some(1 << 16),
            ways: true,
            flow_budget: None,
            hash_seed: 1,
            trace: true,
            made_up_ways: true,
        }
    }

    /// Opens it, once a former one has let go of its pins.
    pub(super) fn open(&self) -> DataPlane {
        eventually(|| match DataPlane::open(self.options()) {
            Err(Error::InUse(_)) => None,
            opened => Some(opened.unwrap()),
        })
    }

    /// The error of an opening that must fail.
    pub(super) fn refused(&self) -> Error {
        match DataPlane::open(self.options()) {
            Ok(_) => panic!("opened"),
            Err(error) => error,
        }
    }
}

fn object() -> Vec<u8> {
    let built = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../target/bpf/bpfel-unknown-none/release/balancer");
    let path = std::env::var_os("XLB_BALANCER_OBJECT").map_or(built, PathBuf::from);
    fs::read(&path).unwrap_or_else(|error| {
        panic!("{}: {error}; build it: cargo xtask build --release", path.display())
    })
}

/// Runs `ip` in this thread's namespace.
pub(super) fn ip(arguments: &str) {
    let output = Command::new("ip").args(arguments.split(' ')).output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "ip {arguments}: {error}");
}

pub(super) fn backend(id: u32, last: u8) -> Change {
    let mut address = [0; 16];
    address[10..].copy_from_slice(&[0xff, 0xff, 10, 0, 0, last]);
    let record = BackendRecord {
        kind: Kind::L2 as u8,
        resolved: 1,
        mtu: u16::MAX,
        macs: [2, 0, 0, 0, 0, last, 2, 0, 0, 0, 0, 0xfe],
        service: 1,
        generation: id,
        address,
        alive: 1,
        ..BackendRecord::VACANT
    };
    Change::SetBackend { id: BackendId(id), record: Box::new(record) }
}

/// The same, but it has failed.
pub(super) fn dead_backend(id: u32, last: u8) -> Change {
    match backend(id, last) {
        Change::SetBackend { id, record } => {
            Change::SetBackend { id, record: Box::new(BackendRecord { alive: 0, ..*record }) }
        }
        other => other,
    }
}

pub(super) fn service(ring_start: u32, ring_size: u32) -> DirectoryService {
    let key = ServiceKey { vip: VIP.into(), port: Some(80), protocol: Protocol::Udp };
    DirectoryService {
        id: ServiceId(1),
        key,
        ring_start,
        ring_size,
        affinity: Affinity::Flow,
        idle_seconds: 60,
        answers: 0,
        icmp_echo: false,
    }
}

/// A service with backends 1 and 2, of equal weight.
pub(super) fn two_backends() -> Vec<Change> {
    let member = |last| Member { key: member_key([last; 16], 0), weight: 1, live: 1000 };
    let ring = Ring::build(&[member(1), member(2)], 101).unwrap();
    let slot = |&owner: &u16| Slot::stable(BackendId(u32::from(owner) + 1));
    let slots = (200..).zip(ring.owners().iter().map(slot)).collect();
    vec![
        Change::SetPort { port: 2, ifindex: 1 },
        backend(1, 11),
        backend(2, 12),
        Change::SetSlots { slots },
        Change::SetDirectory { services: vec![service(200, 101)] },
    ]
}

pub(super) fn apply(plane: &mut DataPlane, changes: &[Change]) {
    changes.iter().for_each(|change| plane.apply(change).unwrap());
}

/// An Ethernet frame with a UDP datagram to the VIP.
pub(super) fn frame(source_port: u16) -> Vec<u8> {
    let mut frame = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0];
    frame.extend([0x45, 0, 0, 28 + 4, 0, 0, 0x40, 0, 64, 17, 0, 0, 192, 0, 2, 1]);
    frame.extend(VIP);
    let header: u32 =
        frame[14..34].chunks(2).map(|word| u32::from(u16::from_be_bytes([word[0], word[1]]))).sum();
    let checksum = !((header & 0xffff) + (header >> 16)) as u16;
    frame[24..26].copy_from_slice(&checksum.to_be_bytes());
    frame.extend(source_port.to_be_bytes());
    frame.extend([0, 80, 0, 12, 0, 0, 1, 2, 3, 4]);
    frame
}

/// The backend that each of many flows goes to; 0 where it is not transmitted.
pub(super) fn spread(plane: &mut DataPlane) -> Vec<u32> {
    (1000..1200)
        .map(|port| {
            let run = plane.test_run(&frame(port), None).unwrap().unwrap();
            let sent = run.action == crate::dataplane::Action::Tx;
            if sent { run.trace.backend } else { 0 }
        })
        .collect()
}
