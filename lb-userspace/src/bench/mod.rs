//! `xlb bench`: what the loaded program costs on this machine, class by class, in ns per packet.
//!
//! A driver program in the kernel hands valid packets to the program under test, so that no system
//! call is in the figures. Packets, tables, figures and targets are pure; the programs are the data
//! plane's.

mod class;
mod frame;
mod machine;
mod measure;
mod network;
mod report;
mod scene;
mod show;
mod statistics;
mod targets;
#[cfg(test)]
mod tests;

use std::{
    io::{IsTerminal as _, Write as _},
    time::Instant,
};

use anyhow::Context as _;
use lb_common::ring::{FULL, Member, Ring, member_key};

use crate::{
    agent::room,
    cli::{BenchArgs, DONE},
    dataplane::{Bench, DataPlane, Options},
    model::Desired,
    objects,
    plan::{Actual, Capacity, plan},
};
use measure::Effort;
use report::{Memory, Report, RingBuild};
use statistics::Figures;

/// The ring whose building is timed: backends, slots.
const RING: (u16, u32) = (1_000, 65_537);
/// How often it is built.
const RING_BUILDS: usize = 9;
/// The balancer whose memory is told: services with a ring of [`scene::RING_SIZE`] slots each, and
/// backends of each.
const FULL_HOUSE: (u32, usize) = (64, 100);

/// Measures everything, and prints it.
///
/// # Errors
/// The kernel refuses, or a program does something else than it must.
pub fn run(args: &BenchArgs, json: bool) -> anyhow::Result<u8> {
    let progress = Progress { shown: std::io::stderr().is_terminal() };
    let effort = Effort { packets: args.packets, rounds: args.rounds };
    let report = report(effort, |done, of| progress.tell(done, of))?;
    let text = match json {
        true => serde_json::to_string(&report).context("can't write the result as JSON")?,
        false => show::text(&report),
    };
    let mut out = anstream::stdout();
    writeln!(out, "{}", text.trim_end())?;
    out.flush()?;
    Ok(DONE)
}

fn report(effort: Effort, progress: impl Fn(usize, usize)) -> anyhow::Result<Report> {
    let memory = memory()?;
    let ring_build = ring_build();
    let (ifindex, client_routes) = network::enter()?;
    let direct = class::direct();
    let others = [(scene::answered(), class::answered()), (scene::by_flow(), class::by_flow())];
    let cases = direct.len() + others.iter().map(|(_, cases)| cases.len()).sum::<usize>();
    let (plane, actual) = filled(&scene::direct())?;
    let mut bench = Bench::open(plane, &actual, ifindex)?;
    let machine = machine::describe(bench.cpu(), bench.is_jited()?);
    let mut measured = measure::all(&mut bench, &direct, effort, |done| progress(done, cases))?;
    let mut done_before = direct.len();
    for (desired, its_cases) in others {
        let (mut plane, _) = filled(&desired)?;
        // As the agent would find them, and for as long as it measures.
        plane.tell_client_routes(&client_routes)?;
        plane.hold_client_routes_until(u64::MAX)?;
        bench.replace(plane);
        measured.extend(measure::all(&mut bench, &its_cases, effort, |done| {
            progress(done_before + done, cases)
        })?);
        done_before += its_cases.len();
    }
    progress(cases, cases);
    Ok(Report::new(machine, effort, &measured, memory, ring_build))
}

/// A balancer of its own, unpinned, that does what is desired, and what its maps hold.
fn filled(desired: &Desired) -> anyhow::Result<(DataPlane, Actual)> {
    let backends = desired.services.iter().map(|service| service.backends.len()).sum();
    let slots = desired.services.iter().filter_map(|service| service.ring_size).sum();
    let capacity = room(slots, backends);
    let mut plane = open(capacity, Some(FLOW_CAPACITY), true)?;
    let mut actual = Actual { capacity, ..Actual::default() };
    for change in plan(desired, &actual)? {
        plane.apply(&change)?;
        actual.apply(&change);
    }
    Ok((plane, actual))
}

/// Flows that there is room for: all of the largest case.
const FLOW_CAPACITY: u32 = 1 << 20;

fn open(
    capacity: Capacity,
    fullnat_capacity: Option<u32>,
    ways: bool,
) -> anyhow::Result<DataPlane> {
    Ok(DataPlane::open(Options {
        object: objects::BALANCER.to_vec(),
        pin_path: None,
        capacity,
        flow_capacity: FLOW_CAPACITY,
        fullnat_capacity,
        ways,
        // Every flow of a moving slot has a record.
        flow_budget: Some(u32::MAX),
        hash_seed: 0x5eed_5eed_5eed_5eed,
        trace: false,
        made_up_ways: false,
    })?)
}

/// Bytes of the maps of a large balancer, with the room for more that the agent gives it.
fn memory() -> anyhow::Result<Memory> {
    let (services, backends) = FULL_HOUSE;
    let capacity = room(services * scene::RING_SIZE, services as usize * backends);
    Ok(Memory::new(services, capacity, open(capacity, None, false)?.map_bytes()?))
}

fn ring_build() -> RingBuild {
    let (backends, slots) = RING;
    let members: Vec<Member> = (0..backends)
        .map(|n| {
            let [high, low] = n.to_be_bytes();
            let address = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 198, 19, high, low];
            Member { key: member_key(address, 0), weight: 100, live: FULL }
        })
        .collect();
    let times = (0..RING_BUILDS).map(|_| {
        let start = Instant::now();
        let ring = std::hint::black_box(Ring::build(std::hint::black_box(&members), slots));
        let took = start.elapsed();
        drop(ring);
        took.as_secs_f64() * 1e3
    });
    let times = Figures::of(times.collect()).expect("it is built more than once");
    RingBuild::new(backends, slots, times)
}

/// A line on the terminal that says how far it is.
struct Progress {
    shown: bool,
}

impl Progress {
    fn tell(&self, done: usize, of: usize) {
        if self.shown {
            // The line is a comfort: where it can't be written, nothing is lost.
            let _ = write!(std::io::stderr(), "\r\x1b[K");
            if done < of {
                let _ = write!(std::io::stderr(), "measuring: {done} of {of} cases done");
            }
        }
    }
}
