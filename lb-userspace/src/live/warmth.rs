//! Slow start: which backends are warm, and how far the others have come.
//!
//! A backend that comes back cold takes a part of its weight at first, and the others carry the
//! rest for that time. So a ramp only begins where there are others that can: warm ones, that
//! serve at full weight for as long as a ramp takes, with half of the weight or more of all that
//! have served. Where all of a service's backends are new, or most of them come back at once,
//! capacity is what lacks, and nobody is held back.

use std::time::{Duration, Instant};

/// The part of its weight that a cold backend begins with.
const BEGINNING: f64 = 0.1;

/// One backend's way to full weight.
#[derive(Clone, Copy, Debug)]
pub(super) struct Warmth {
    /// It was out, or never in: when it serves, it is cold.
    cold: bool,
    /// It has served before.
    pub(super) has_served: bool,
    serving_since: Option<Instant>,
    ramp: Option<Instant>,
}

impl Default for Warmth {
    fn default() -> Self {
        Self { cold: true, has_served: false, serving_since: None, ramp: None }
    }
}

impl Warmth {
    /// It served before this agent knew it, at a part of its weight from 0 to 1.
    pub(super) fn taken_over(now: Instant, part: f64, slow_start: Duration) -> Self {
        let long_ago = now.checked_sub(slow_start).unwrap_or(now);
        let done = ((part - BEGINNING) / (1.0 - BEGINNING)).clamp(0.0, 1.0);
        let ramp = (part < 1.0 && !slow_start.is_zero())
            .then(|| now.checked_sub(slow_start.mul_f64(done)).unwrap_or(now));
        Self { cold: false, has_served: true, serving_since: Some(long_ago), ramp }
    }

    /// Whether it serves at full weight, and has for as long as a ramp takes.
    pub(super) fn is_warm(&self, now: Instant, slow_start: Duration) -> bool {
        let long = |since: Instant| now.saturating_duration_since(since) >= slow_start;
        self.ramp.is_none() && self.serving_since.is_some_and(long)
    }

    pub(super) fn is_ramping(&self) -> bool {
        self.ramp.is_some()
    }

    /// It doesn't serve. `works` says whether it could.
    pub(super) fn rests(&mut self, works: bool) {
        self.cold |= !works;
        self.serving_since = None;
        self.ramp = None;
    }

    /// It serves; `carried` says whether the others can carry a ramp.
    pub(super) fn serves(&mut self, now: Instant, slow_start: Duration, carried: bool) {
        if self.serving_since.is_none() {
            self.serving_since = Some(now);
            self.ramp = (self.cold && carried && !slow_start.is_zero()).then_some(now);
        }
        self.cold = false;
        self.has_served = true;
        let over = |ramp: Instant| now.saturating_duration_since(ramp) >= slow_start;
        if !carried || self.ramp.is_some_and(over) {
            self.ramp = None;
        }
    }

    /// The part of its weight that it may serve, 0 to 1.
    pub(super) fn part(&self, now: Instant, slow_start: Duration) -> f64 {
        let Some(begun) = self.ramp else { return 1.0 };
        let done = now.saturating_duration_since(begun).as_secs_f64() / slow_start.as_secs_f64();
        BEGINNING + (1.0 - BEGINNING) * done.min(1.0)
    }
}
