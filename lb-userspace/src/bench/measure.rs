//! Measuring: in rounds, each of which pairs every program with the empty one, so that what
//! disturbs the machine disturbs both.

use super::{
    class::{self, Case, Class, Mode},
    frame,
    statistics::Figures,
};
use crate::dataplane::{self, Action, Bench, CONNECTIONS, UnderTest};

/// How much is done.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Effort {
    /// Packets in each run of a program; at least 1.
    pub(crate) packets: u32,
    /// Rounds that count; at least 1. One more comes before them, for the caches.
    pub(crate) rounds: u32,
}

/// What a program costs in a case, net of the driver.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Measured {
    /// The program.
    pub(crate) program: UnderTest,
    /// The packets.
    pub(crate) case: Case,
    /// ns per packet.
    pub(crate) ns: Figures,
}

/// Why there are no figures.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// The kernel refused something.
    #[error(transparent)]
    DataPlane(#[from] dataplane::Error),
    /// A figure would be of something else than of what it is said to be.
    #[error(
        "the program {program} answered {found:?} to a packet of the class {class}, not \
         {expected:?}: the benchmark is wrong, and its figures would be, too; please report it"
    )]
    WrongAction {
        /// The program's name.
        program: &'static str,
        /// The class's name.
        class: &'static str,
        /// What it must do.
        expected: Action,
        /// What it did.
        found: Action,
    },
    /// The same, by the counters.
    #[error(
        "the balancer counted {found} packets sent of the class {class}, not {expected}: the \
         benchmark is wrong, and its figures would be, too; please report it"
    )]
    WrongCount {
        /// The class's name.
        class: &'static str,
        /// Packets that it must send.
        expected: u64,
        /// Packets that it sent.
        found: u64,
    },
}

/// Measures cases, and says before each how many are done.
pub(crate) fn all(
    bench: &mut Bench,
    cases: &[Case],
    effort: Effort,
    progress: impl Fn(usize),
) -> Result<Vec<Measured>, Error> {
    let mut all = Vec::new();
    for (done, case) in cases.iter().enumerate() {
        progress(done);
        all.extend(self::case(bench, case, effort)?);
    }
    Ok(all)
}

/// Brings the reference's table of connections to the state that it is in in service: full, because
/// nothing leaves an LRU table before it has to make room, and with the connections of the moment
/// scattered among those of the past, because they came and went in no order.
fn age(bench: &mut Bench, class: Class) -> Result<(), Error> {
    let more_than_it_holds = (CONNECTIONS + 1).next_power_of_two();
    let mode = Some(Mode::Ipip);
    let traffic = Case { class, flows: Some(more_than_it_holds), mode };
    run(bench, UnderTest::Classic, &traffic, 2 * CONNECTIONS).map(|_| ())
}

/// The programs that are measured by a case.
fn programs(case: &Case) -> Vec<UnderTest> {
    let mut programs = vec![UnderTest::Balancer];
    if class::is_compared(case) {
        programs.push(UnderTest::Classic);
    }
    let simplest = Case { class: Class::V4Tcp, flows: Some(1), mode: Some(Mode::Ipip) };
    if *case == simplest {
        programs.push(UnderTest::Least);
    }
    programs
}

fn case(bench: &mut Bench, case: &Case, effort: Effort) -> Result<Vec<Measured>, Error> {
    let programs = programs(case);
    let mut costs = vec![Vec::new(); programs.len()];
    // The fewest flows of a class are measured first.
    if class::is_compared(case) && case.flows == Some(1) {
        age(bench, case.class)?;
    }
    let sent_before = bench.sent()?;
    for round in 0..=effort.rounds {
        for (program, costs) in programs.iter().zip(&mut costs) {
            let with = run(bench, *program, case, effort.packets)?;
            let without = run(bench, UnderTest::Empty, case, effort.packets)?;
            if round > 0 {
                costs.push(with - without);
            }
        }
    }
    let found = bench.sent()? - sent_before;
    let driven = u64::from(effort.packets) * (u64::from(effort.rounds) + 1);
    let expected = if case.class.is_ours() { driven } else { 0 };
    if found != expected {
        return Err(Error::WrongCount { class: case.class.name(), expected, found });
    }
    let measured = programs.into_iter().zip(costs).filter_map(|(program, costs)| {
        Some(Measured { program, case: *case, ns: Figures::of(costs)? })
    });
    Ok(measured.collect())
}

/// Drives one program; ns per packet with the driver's.
fn run(bench: &mut Bench, program: UnderTest, case: &Case, packets: u32) -> Result<f64, Error> {
    let driven = bench.drive(program, &frame::plan(case), packets)?;
    let expected = match program {
        UnderTest::Empty => Action::Pass,
        UnderTest::Least => Action::Tx,
        UnderTest::Balancer | UnderTest::Classic if case.class.is_ours() => Action::Tx,
        UnderTest::Balancer | UnderTest::Classic => Action::Pass,
    };
    if driven.action != expected {
        return Err(Error::WrongAction {
            program: program.name(),
            class: case.class.name(),
            expected,
            found: driven.action,
        });
    }
    Ok(driven.ns)
}
