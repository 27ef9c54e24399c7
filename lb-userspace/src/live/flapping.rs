//! Damping: a backend that fails again and again is held back for a while, after the manner of
//! BGP's route flap damping (RFC 2439): for longer each time, within a bound, and forgiven as
//! time passes without a failure.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use super::Policy;

/// Doublings of the time that a backend is held back.
const MOST_DOUBLINGS: u32 = 4;

/// What is remembered of a backend's failures.
#[derive(Clone, Debug, Default)]
pub(super) struct Flapping {
    up: Option<bool>,
    /// Failures within the window: no more than decide.
    failures: VecDeque<Instant>,
    held: Option<Held>,
    /// How often it was held back and is not forgiven.
    level: u32,
    /// Since when nothing speaks against it.
    calm_since: Option<Instant>,
}

#[derive(Clone, Copy, Debug)]
struct Held {
    until: Instant,
}

/// What changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Turn {
    /// It is held back from now on, for so long.
    Held(Duration),
    /// It takes part again.
    Released,
}

impl Flapping {
    /// Whether it is held back.
    pub(super) fn is_held(&self) -> bool {
        self.held.is_some()
    }

    /// Looks at the backend: whether it is up now.
    pub(super) fn observe(&mut self, now: Instant, up: bool, policy: &Policy) -> Option<Turn> {
        let failed = self.up.replace(up) == Some(true) && !up;
        let most = policy.max_flapping as usize;
        if most == 0 {
            self.failures.clear();
            self.level = 0;
            return self.held.take().map(|_| Turn::Released);
        }
        let window = policy.flapping_window;
        if failed {
            self.calm_since = Some(now);
            self.failures.push_back(now);
        }
        let old = |at: &Instant| now.saturating_duration_since(*at) > window;
        while self.failures.front().is_some_and(old) || self.failures.len() > most + 1 {
            self.failures.pop_front();
        }
        match self.held {
            Some(held) if now < held.until => return None,
            Some(_) if self.failures.len() <= most => {
                self.held = None;
                self.calm_since = Some(now);
                return Some(Turn::Released);
            }
            _ => {}
        }
        if self.failures.len() > most {
            let time = (window / 2) * (1 << self.level.min(MOST_DOUBLINGS));
            self.level = (self.level + 1).min(MOST_DOUBLINGS);
            self.failures.clear();
            self.held = Some(Held { until: now + time });
            return Some(Turn::Held(time));
        }
        if self.calm_since.is_some_and(|since| now.saturating_duration_since(since) > window) {
            self.level = self.level.saturating_sub(1);
            self.calm_since = Some(now);
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn policy(max_flapping: u32) -> Policy {
        Policy { max_flapping, flapping_window: SECOND * 60, ..Policy::default() }
    }

    /// Fails and recovers so often, a second each.
    fn flap(
        flapping: &mut Flapping,
        now: &mut Instant,
        times: usize,
        policy: &Policy,
    ) -> Vec<Turn> {
        let mut turns = Vec::new();
        for up in [false, true].into_iter().cycle().take(2 * times) {
            turns.extend(flapping.observe(*now, up, policy));
            *now += SECOND;
        }
        turns
    }

    #[test]
    fn one_failure_too_many_holds_it_back() {
        let (mut flapping, mut now, policy) = (Flapping::default(), Instant::now(), policy(3));
        assert_eq!(flapping.observe(now, true, &policy), None);
        assert_eq!(flap(&mut flapping, &mut now, 3, &policy), []);
        assert!(!flapping.is_held());
        assert_eq!(flap(&mut flapping, &mut now, 1, &policy), [Turn::Held(SECOND * 30)]);
        assert!(flapping.is_held());
        assert_eq!(flapping.observe(now + SECOND * 27, true, &policy), None);
        assert_eq!(flapping.observe(now + SECOND * 31, true, &policy), Some(Turn::Released));
    }

    #[test]
    fn rare_failures_are_no_flapping() {
        let (mut flapping, mut now, policy) = (Flapping::default(), Instant::now(), policy(3));
        for _ in 0..100 {
            assert_eq!(flap(&mut flapping, &mut now, 1, &policy), []);
            now += SECOND * 25;
        }
    }

    #[test]
    fn it_is_held_for_longer_each_time_within_a_bound_and_forgiven() {
        let (mut flapping, mut now, policy) = (Flapping::default(), Instant::now(), policy(1));
        flapping.observe(now, true, &policy);
        // Without an end: held again as soon as it is released.
        let turns = flap(&mut flapping, &mut now, 5000, &policy);
        let held: Vec<u64> = turns
            .iter()
            .filter_map(|turn| match turn {
                Turn::Held(time) => Some(time.as_secs()),
                Turn::Released => None,
            })
            .collect();
        assert_eq!(held[..5], [30, 60, 120, 240, 480]);
        assert!(held[5..].iter().all(|time| *time == 480), "{held:?}");
        let mut released = false;
        for _ in 0..2000 {
            released |= flapping.observe(now, true, &policy) == Some(Turn::Released);
            now += SECOND;
        }
        assert!(released);
        assert_eq!(flap(&mut flapping, &mut now, 2, &policy), [Turn::Held(SECOND * 30)]);
    }

    #[test]
    fn switched_off_it_holds_nobody() {
        let (mut flapping, mut now) = (Flapping::default(), Instant::now());
        flapping.observe(now, true, &policy(1));
        flap(&mut flapping, &mut now, 2, &policy(1));
        assert!(flapping.is_held());
        assert_eq!(flapping.observe(now, true, &policy(0)), Some(Turn::Released));
        assert_eq!(flap(&mut flapping, &mut now, 100, &policy(0)), []);
    }
}
