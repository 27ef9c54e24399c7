//! The controller: from load reports to the part of its weight that each backend serves.
//!
//! Reports come late, are noisy, and tell the effect of live weights of some time ago. So both,
//! utilisation and live weight, go through the same filter; their ratio is what the backend can
//! take, whatever has been changed meanwhile, and the live weight that evens utilisation out
//! follows from it at once instead of being searched for. That is why the loop doesn't oscillate
//! as long as the reports' delay is below the filter's time constant (docs/load.md).

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use super::LoadPolicy;
use crate::model::BackendKey;

/// Utilisation this far from the mean, as the logarithm of their ratio, begins an adjustment.
const BEGIN: f64 = 0.1;
/// An adjustment ends this near to the mean.
const END: f64 = 0.04;
/// A mean utilisation, by the work that each does, below this says that there is nothing to even out.
const IDLE: f64 = 0.03;
/// The best share of its weight that is let be, when no backend serves all of its weight.
const NEARLY_FULL: f64 = 0.95;
/// Of the greatest step, what a backend without reports regains in a second.
const SLOWLY: f64 = 0.2;

/// A backend that serves, as the controller sees it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sample {
    pub(super) key: BackendKey,
    /// Configured weight.
    pub(super) weight: u16,
    /// All of its live weight that is in force, 0 to 1, whatever it comes from.
    pub(super) live: f64,
    /// What it reported last, and when.
    pub(super) report: Option<Reported>,
    /// Something else changes its live weight now: it is neither compared nor adjusted.
    pub(super) changing: bool,
}

/// A report of a backend.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Reported {
    /// Above 0; 1 is all that the backend can.
    pub utilization: f64,
    /// When it came.
    pub at: Instant,
}

/// How loaded the backends are together.
#[derive(Clone, Copy, Debug)]
struct Means {
    /// Weighted by what each can take: the work that is done over the work that could be.
    mean: f64,
    /// Weighted by what each does: one alone that idles doesn't make it small.
    busy: f64,
}

/// All backends of a service.
#[derive(Clone, Debug, Default)]
pub(super) struct Controller {
    followed: BTreeMap<BackendKey, Followed>,
}

#[derive(Clone, Copy, Debug)]
struct Followed {
    /// Its part of the weight, 0 to 1.
    factor: f64,
    /// Filtered, while its reports are fresh: utilisation and live weight.
    means: Option<(f64, f64)>,
    adjusting: bool,
}

impl Controller {
    /// The part of its weight that a backend gets for its load, 0 to 1.
    pub(super) fn factor(&self, key: BackendKey) -> f64 {
        self.followed.get(&key).map_or(1.0, |followed| followed.factor)
    }

    /// Takes over what a backend had before.
    pub(super) fn begin_at(&mut self, key: BackendKey, factor: f64) {
        self.followed.insert(key, Followed { factor, means: None, adjusting: false });
    }

    /// Forgets backends that are gone.
    pub(super) fn retain(&mut self, keep: impl Fn(BackendKey) -> bool) {
        self.followed.retain(|key, _| keep(*key));
    }

    /// Goes on by `passed`; `samples` are the backends that serve.
    pub(super) fn advance(
        &mut self,
        now: Instant,
        passed: Duration,
        policy: &LoadPolicy,
        samples: &[Sample],
    ) {
        let passed = passed.as_secs_f64();
        let smoothing = policy.smoothing.as_secs_f64();
        let max_step = f64::from(policy.max_step_permille) / 1000.0 * passed;
        for sample in samples {
            let fresh =
                sample.report.filter(|r| now.saturating_duration_since(r.at) <= policy.stale_after);
            let followed = self.followed.entry(sample.key).or_insert(Followed {
                factor: 1.0,
                means: None,
                adjusting: false,
            });
            followed.means = match (fresh, followed.means) {
                (None, _) => None,
                (Some(report), None) => Some((report.utilization, sample.live)),
                (Some(report), Some((utilization, live))) => {
                    let part = 1.0 - (-passed / smoothing).exp();
                    Some((
                        utilization + (report.utilization - utilization) * part,
                        live + (sample.live - live) * part,
                    ))
                }
            };
        }
        let means = self.means(samples);
        for sample in samples {
            let Some(followed) = self.followed.get_mut(&sample.key) else { continue };
            let Some(Means { mean, busy }) = means else {
                followed.regain(max_step);
                continue;
            };
            if sample.changing || busy < IDLE {
                continue;
            }
            let Some((utilization, live)) = followed.means else {
                followed.regain(max_step);
                continue;
            };
            let apart = (utilization / mean).ln();
            followed.adjusting = apart.abs() > if followed.adjusting { END } else { BEGIN };
            if followed.adjusting && sample.live > 0.0 {
                let wanted = followed.factor * (live / sample.live) / apart.exp();
                let part = 1.0 - (-passed / smoothing).exp();
                let step = (wanted - followed.factor) * part;
                followed.factor += step.clamp(-max_step, max_step);
            }
        }
        self.lift(samples, max_step);
        let floor = f64::from(policy.floor_permille) / 1000.0;
        for sample in samples {
            if let Some(followed) = self.followed.get_mut(&sample.key) {
                followed.factor = followed.factor.clamp(floor, 1.0);
            }
        }
    }

    /// Of all that can be compared; `None` for fewer than two.
    fn means(&self, samples: &[Sample]) -> Option<Means> {
        let (mut count, mut work, mut capacity, mut busy) = (0, 0.0, 0.0, 0.0);
        for sample in samples.iter().filter(|sample| !sample.changing) {
            let Some((utilization, live)) = self.followed.get(&sample.key).and_then(|f| f.means)
            else {
                continue;
            };
            let done = f64::from(sample.weight) * live;
            if done > 0.0 {
                count += 1;
                work += done;
                capacity += done / utilization;
                busy += done * utilization;
            }
        }
        let means = Means { mean: work / capacity, busy: busy / work };
        (count >= 2 && capacity > 0.0).then_some(means)
    }

    /// Where even the best has less than its weight, all rise together, which moves no slots.
    fn lift(&mut self, samples: &[Sample], max_step: f64) {
        let factors = samples.iter().filter_map(|s| self.followed.get(&s.key)).map(|f| f.factor);
        let best = factors.fold(0.0, f64::max);
        if best <= 0.0 || best >= NEARLY_FULL {
            return;
        }
        let lift = (1.0 / best).min(1.0 + max_step);
        for sample in samples {
            let Some(followed) = self.followed.get_mut(&sample.key) else { continue };
            followed.factor *= lift;
            if let Some((_, live)) = &mut followed.means {
                *live *= lift;
            }
        }
    }
}

impl Followed {
    /// Nothing is known of its load: back to the whole weight.
    fn regain(&mut self, max_step: f64) {
        self.adjusting = false;
        self.factor = (self.factor + max_step * SLOWLY).min(1.0);
    }
}
