//! The simulation's rows, as a table for the documentation and as JSON.

use std::fmt::Write as _;

use serde::Serialize;

use crate::world::{self, SECONDS, STEP_AT, Scene, Second};

/// One scene, and what came of it.
#[derive(Serialize)]
pub(crate) struct Row {
    pub(crate) backends: usize,
    pub(crate) delay_seconds: usize,
    pub(crate) noise_percent: f64,
    pub(crate) flow_seconds: f64,
    /// The busiest server's utilisation over the mean, after so many seconds.
    pub(crate) busiest_at: Vec<(usize, f64)>,
    /// The highest from a minute after the start on.
    pub(crate) busiest_worst: f64,
    /// Slots that moved in the first minute, in percent of the ring.
    pub(crate) first_minute_percent: f64,
    /// The most that moved in a second, in percent of the ring.
    pub(crate) most_a_second_percent: f64,
    /// The most that moved in a minute from the second minute on, in percent of the ring.
    pub(crate) settled_percent: f64,
    /// What moved in the minute after the step in load, in percent of the ring.
    pub(crate) step_percent: f64,
}

/// Moments that are told.
const MOMENTS: [usize; 4] = [0, 15, 30, 60];

impl Row {
    pub(crate) fn simulate(scene: &Scene) -> Self {
        let seconds = world::run(scene);
        // The first second only lays the ring out.
        let moved = |from: usize, to: usize| {
            seconds[from.max(1)..to].iter().map(|second| second.moved * 100.0).sum::<f64>()
        };
        let worst =
            |seconds: &[Second], of: fn(&Second) -> f64| seconds.iter().map(of).fold(0.0, f64::max);
        Self {
            backends: scene.backends,
            delay_seconds: scene.delay,
            noise_percent: scene.noise * 100.0,
            flow_seconds: scene.flow_seconds,
            busiest_at: MOMENTS.iter().map(|&at| (at, seconds[at].busiest)).collect(),
            busiest_worst: worst(&seconds[60..], |second| second.busiest),
            first_minute_percent: moved(0, 60),
            most_a_second_percent: worst(&seconds[1..], |second| second.moved * 100.0),
            settled_percent: (60..=SECONDS - 60).map(|at| moved(at, at + 60)).fold(0.0, f64::max),
            step_percent: moved(STEP_AT, STEP_AT + 60),
        }
    }
}

/// The same on every machine.
pub(crate) fn table(rows: &[Row]) -> String {
    let mut table = String::from(
        "| servers | reports late by | noise | flows live | busiest / mean: 0 s | 15 s | 30 s | 60 s | \
         worst after | moved: first minute | at most in a second | at most in a later minute | \
         minute of the step |\n\
         |--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|\n",
    );
    for row in rows {
        let busiest: Vec<String> =
            row.busiest_at.iter().map(|(_, busiest)| format!("{busiest:.2}")).collect();
        // Writing into a String can't fail.
        let _ = writeln!(
            table,
            "| {} | {} s | {:.0} % | {:.0} s | {} | {:.2} | {:.1} % | {:.2} % | {:.2} % | {:.2} % |",
            row.backends,
            row.delay_seconds,
            row.noise_percent,
            row.flow_seconds,
            busiest.join(" | "),
            row.busiest_worst,
            row.first_minute_percent,
            row.most_a_second_percent,
            row.settled_percent,
            row.step_percent,
        );
    }
    table
}
