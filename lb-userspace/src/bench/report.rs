//! The result, as JSON has it. The keys are an interface.

use serde::Serialize;

use super::{
    class::{self, Case, Class, Mode},
    machine::Machine,
    measure::{Effort, Measured},
    scene,
    statistics::Figures,
    targets,
};
use crate::{dataplane::UnderTest, plan::Capacity};

/// Everything that was measured.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Report {
    /// Where.
    pub(crate) machine: Machine,
    /// Packets in each run.
    pub(crate) packets: u32,
    /// Rounds, of which the median is told.
    pub(crate) rounds: u32,
    /// The balancer.
    pub(crate) results: Vec<Row>,
    /// What there is to compare with.
    pub(crate) references: Vec<Reference>,
    /// Of the maps.
    pub(crate) memory: Memory,
    /// Of the consistent-hash ring.
    pub(crate) ring_build_ms: RingBuild,
}

/// The balancer in one case.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Row {
    /// What kind of packets.
    pub(crate) class: Class,
    /// `None` where each packet is another flow's.
    pub(crate) flows: Option<u32>,
    /// `None` for packets that aren't ours.
    pub(crate) forward: Option<Mode>,
    /// Median of the rounds.
    pub(crate) ns: f64,
    /// The least of the rounds.
    pub(crate) ns_min: f64,
    /// The most of the rounds.
    pub(crate) ns_max: f64,
    /// The most that it shall cost.
    pub(crate) target_ns: Option<f64>,
    /// By the cost of `classic` for the same packets.
    pub(crate) ratio_classic: Option<f64>,
    /// The most that this shall be.
    pub(crate) target_ratio: Option<f64>,
    /// No target is missed.
    pub(crate) within: bool,
}

/// A reference in one case.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Reference {
    /// `least` or `classic`.
    pub(crate) program: &'static str,
    /// As in [`Row`], and so the rest.
    pub(crate) class: Class,
    pub(crate) flows: Option<u32>,
    pub(crate) forward: Option<Mode>,
    pub(crate) ns: f64,
    pub(crate) ns_min: f64,
    pub(crate) ns_max: f64,
}

/// Memory of a large balancer's maps.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Memory {
    /// Services that it has.
    pub(crate) services: u32,
    /// Slots of each one's ring.
    pub(crate) ring_size: u32,
    /// Slots that there is room for.
    pub(crate) slots: u32,
    /// Backends that there is room for.
    pub(crate) backends: u32,
    /// Bytes of all maps.
    pub(crate) map_bytes: u64,
    /// The most that they shall be.
    pub(crate) target_bytes: u64,
    /// They aren't more.
    pub(crate) within: bool,
}

/// Time to build a ring, in ms.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct RingBuild {
    /// Backends in it.
    pub(crate) backends: u16,
    /// Its slots.
    pub(crate) slots: u32,
    /// What it took.
    #[serde(flatten)]
    pub(crate) ms: Figures,
    /// The most that it shall take.
    pub(crate) target: f64,
    /// The median isn't more.
    pub(crate) within: bool,
}

impl Report {
    /// What was measured, beside the targets.
    pub(crate) fn new(
        machine: Machine,
        effort: Effort,
        measured: &[Measured],
        memory: Memory,
        ring_build_ms: RingBuild,
    ) -> Self {
        let of = |program| measured.iter().filter(move |measured| measured.program == program);
        Self {
            machine,
            packets: effort.packets,
            rounds: effort.rounds,
            results: of(UnderTest::Balancer).map(|one| Row::new(one, measured)).collect(),
            references: of(UnderTest::Least)
                .chain(of(UnderTest::Classic))
                .map(Reference::new)
                .collect(),
            memory,
            ring_build_ms,
        }
    }
}

impl Row {
    fn new(one: &Measured, all: &[Measured]) -> Self {
        let median = |program, case: &Case| {
            all.iter()
                .find(|other| other.program == program && other.case == *case)
                .map(|other| other.ns.median)
        };
        let case = &one.case;
        let target_ns = targets::ns(case, |other| median(UnderTest::Balancer, other));
        let ratio_classic = median(UnderTest::Classic, &class::comparable(case))
            .filter(|classic| *classic > 0.0)
            .map(|classic| one.ns.median / classic);
        let target_ratio = targets::ratio(case).filter(|_| ratio_classic.is_some());
        let holds = |found: Option<f64>, most: Option<f64>| {
            found.zip(most).is_none_or(|(found, most)| found <= most)
        };
        Self {
            class: case.class,
            flows: case.flows,
            forward: case.mode,
            ns: rounded(one.ns.median),
            ns_min: rounded(one.ns.min),
            ns_max: rounded(one.ns.max),
            target_ns: target_ns.map(rounded),
            ratio_classic: ratio_classic.map(|ratio| (ratio * 1e3).round() / 1e3),
            target_ratio,
            within: holds(Some(one.ns.median), target_ns) && holds(ratio_classic, target_ratio),
        }
    }
}

impl Reference {
    fn new(one: &Measured) -> Self {
        Self {
            program: one.program.name(),
            class: one.case.class,
            flows: one.case.flows,
            forward: one.case.mode,
            ns: rounded(one.ns.median),
            ns_min: rounded(one.ns.min),
            ns_max: rounded(one.ns.max),
        }
    }
}

impl Memory {
    /// Of maps that hold so much, for so many services.
    pub(crate) fn new(services: u32, capacity: Capacity, map_bytes: u64) -> Self {
        Self {
            services,
            ring_size: scene::RING_SIZE,
            slots: capacity.slots,
            backends: capacity.backends,
            map_bytes,
            target_bytes: targets::MAP_BYTES,
            within: map_bytes <= targets::MAP_BYTES,
        }
    }
}

impl RingBuild {
    /// Of a ring of so many backends and slots.
    pub(crate) fn new(backends: u16, slots: u32, ms: Figures) -> Self {
        let target = targets::RING_BUILD_MS;
        Self { backends, slots, ms, target, within: ms.median <= target }
    }
}

/// To a tenth: more is noise.
fn rounded(ns: f64) -> f64 {
    (ns * 10.0).round() / 10.0
}
