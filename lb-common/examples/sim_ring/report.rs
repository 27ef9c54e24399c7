//! The simulation's rows, as tables for the documentation and as JSON.

use std::{
    fmt::{self, Write as _},
    time::{Duration, Instant},
};

use lb_common::ring::{Member, Ring};
use serde::Serialize;

use crate::{
    change::{Change, Event},
    cost::Cost,
    maglev,
};

/// How many changes of its kind a row tells of.
pub(crate) const DRAWS: usize = 5;

/// A kind of change, for a service of so many backends.
#[derive(Serialize)]
pub(crate) struct Row {
    pub(crate) backends: usize,
    pub(crate) change: String,
    pub(crate) slots: u32,
    pub(crate) xlb: Summary,
    pub(crate) maglev: Summary,
}

/// What the changes of a row cost with one way to build tables.
#[derive(Serialize)]
pub(crate) struct Summary {
    /// Mean.
    pub(crate) moved_slots: f64,
    /// Mean.
    pub(crate) unavoidable_slots: f64,
    /// Mean.
    pub(crate) least_slots: f64,
    /// Mean, in percent of all slots.
    pub(crate) extra_percent: f64,
    /// The highest, in percent of all slots.
    pub(crate) extra_percent_worst: f64,
    /// The highest.
    pub(crate) load_over_fair_share: f64,
    /// Median of the times to build the table of after, in milliseconds.
    pub(crate) build_ms: f64,
}

impl Row {
    pub(crate) fn simulate(event: Event, backends: usize, slots: u32) -> Self {
        let changes = event.changes(backends, DRAWS);
        Self {
            backends,
            change: event.name(),
            slots,
            xlb: Summary::of(&changes, |members| xlb(members, slots)),
            maglev: Summary::of(&changes, |members| maglev::build(members, slots)),
        }
    }
}

/// The ring of xlb.
///
/// # Panics
/// If no member has live weight.
pub(crate) fn xlb(members: &[Member], slots: u32) -> Vec<u16> {
    Ring::build(members, slots).expect("a simulated service has live backends").owners().to_vec()
}

impl Summary {
    fn of(changes: &[Change], build: impl Fn(&[Member]) -> Vec<u16>) -> Self {
        let mut times = Vec::new();
        let mut costs = Vec::new();
        let mut slots = 0;
        for change in changes {
            let before = build(&change.before);
            let start = Instant::now();
            let after = build(&change.after);
            times.push(start.elapsed());
            costs.push(Cost::of(change, &before, &after));
            slots = after.len();
        }
        let mean = |value: fn(&Cost) -> u32| {
            costs.iter().map(|cost| f64::from(value(cost))).sum::<f64>() / costs.len() as f64
        };
        let percent = |count: f64| count * 100.0 / slots as f64;
        let worst = costs.iter().map(Cost::extra).max().unwrap_or(0);
        Self {
            moved_slots: mean(|cost| cost.moved),
            unavoidable_slots: mean(|cost| cost.unavoidable),
            least_slots: mean(|cost| cost.least),
            extra_percent: percent(mean(Cost::extra)),
            extra_percent_worst: percent(worst.into()),
            load_over_fair_share: costs.iter().map(|cost| cost.load).fold(0.0, f64::max),
            build_ms: milliseconds(median(times)),
        }
    }
}

/// The table of disruption and load: the same on every machine.
pub(crate) fn disruption(rows: &[Row]) -> String {
    let mut table = String::from(
        "| backends | change | moved | unavoidable | least | extra | load | \
         Maglev: moved | extra | load |\n|--:|---|--:|--:|--:|--:|--:|--:|--:|--:|\n",
    );
    for Row { backends, change, xlb, maglev, .. } in rows {
        let written = writeln!(
            table,
            "| {backends} | {change} | {:.0} | {:.0} | {:.0} | {} | {:.3} | {:.0} | {} | {:.3} |",
            xlb.moved_slots,
            xlb.unavoidable_slots,
            xlb.least_slots,
            Percent(xlb.extra_percent),
            xlb.load_over_fair_share,
            maglev.moved_slots,
            Percent(maglev.extra_percent),
            maglev.load_over_fair_share,
        );
        written.expect("a string takes all");
    }
    table
}

/// The table of build times: of this machine, now.
pub(crate) fn times(rows: &[Row]) -> String {
    let mut table =
        String::from("| backends | slots | xlb, ms | Maglev, ms |\n|--:|--:|--:|--:|\n");
    for group in rows.chunk_by(|left, right| left.backends == right.backends) {
        let median = |time: fn(&Row) -> f64| {
            let mut times: Vec<f64> = group.iter().map(time).collect();
            times.sort_by(f64::total_cmp);
            times[times.len() / 2]
        };
        let Row { backends, slots, .. } = group[0];
        let (xlb, maglev) = (median(|row| row.xlb.build_ms), median(|row| row.maglev.build_ms));
        writeln!(table, "| {backends} | {slots} | {xlb:.1} | {maglev:.1} |")
            .expect("a string takes all");
    }
    table
}

/// In percent; a plain 0 is exactly nothing, which rounding would hide.
struct Percent(f64);

impl fmt::Display for Percent {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            0.0 => formatter.write_str("0"),
            small if small < 0.005 => formatter.write_str("< 0.01 %"),
            percent => write!(formatter, "{percent:.2} %"),
        }
    }
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}
