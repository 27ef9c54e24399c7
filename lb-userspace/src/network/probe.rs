//! When to make the kernel ask for a neighbour: pure, the time comes in.
//!
//! Packets that an XDP program sends confirm no neighbour and use none, so the kernel would let
//! every entry go stale, and a backend's new address would never be noticed. So a stale entry is
//! asked for again, spread over [`Tuning::stagger`]; a known one once per [`Tuning::refresh`], which
//! keeps it from being collected; an unknown one at once, and then with growing pauses. One that
//! the operator set is left alone: the question would make it an ordinary entry.

use std::{
    collections::BTreeMap,
    hash::{DefaultHasher, Hash, Hasher},
    time::Duration,
};

use tokio::time::Instant;

use super::neighbour::{Neighbour, NeighbourKey, Reachability};

/// How often and how much.
#[derive(Clone, Copy, Debug)]
pub(super) struct Tuning {
    /// How long events are gathered before they are acted on.
    pub(super) coalesce: Duration,
    /// The time over which stale neighbours are asked for.
    pub(super) stagger: Duration,
    /// How often, give or take a quarter, every neighbour is asked for.
    pub(super) refresh: Duration,
    /// The longest pause between two questions for an unknown neighbour.
    pub(super) retry: Duration,
    /// How often all tables are read anew, should an event have been lost.
    pub(super) resync: Duration,
    /// Receive buffer of the event socket in bytes; the kernel caps it at `net.core.rmem_max`.
    pub(super) event_buffer_bytes: i32,
}

impl Default for Tuning {
    /// The buffer holds some 4,000 neighbour events; 30 s is the kernel's own `base_reachable_time`.
    fn default() -> Self {
        Self {
            coalesce: Duration::from_millis(3),
            stagger: Duration::from_secs(5),
            refresh: Duration::from_secs(30),
            retry: Duration::from_secs(5),
            resync: Duration::from_secs(30),
            event_buffer_bytes: 4 << 20,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Need {
    Unknown,
    Aging,
    Known,
    Nothing,
}

#[derive(Clone, Copy, Debug)]
struct Plan {
    need: Need,
    next: Option<Instant>,
    attempts: u32,
}

/// Which neighbours are due for a question.
#[derive(Debug)]
pub(super) struct Prober {
    tuning: Tuning,
    plans: BTreeMap<NeighbourKey, Plan>,
}

impl Prober {
    pub(super) fn new(tuning: Tuning) -> Self {
        Self { tuning, plans: BTreeMap::new() }
    }

    pub(super) fn watches(&self, key: &NeighbourKey) -> bool {
        self.plans.contains_key(key)
    }

    /// Takes in which neighbours matter now, and their state.
    pub(super) fn observe(&mut self, now: Instant, watched: &BTreeMap<NeighbourKey, Neighbour>) {
        self.plans.retain(|key, _| watched.contains_key(key));
        for (key, neighbour) in watched {
            let need = need(neighbour);
            let before = self.plans.get(key).copied();
            if before.is_some_and(|plan| plan.need == need) {
                continue;
            }
            let next = match need {
                Need::Unknown => Some(now),
                Need::Aging => Some(now + self.tuning.stagger.mul_f64(fraction(key))),
                Need::Known => Some(now + self.refresh(key)),
                Need::Nothing => None,
            };
            self.plans.insert(*key, Plan { need, next, attempts: 0 });
        }
    }

    /// The neighbours to ask for now; each is put off to its next time.
    pub(super) fn take_due(&mut self, now: Instant) -> Vec<NeighbourKey> {
        let due: Vec<_> = self
            .plans
            .iter()
            .filter(|(_, plan)| plan.next.is_some_and(|next| next <= now))
            .map(|(key, _)| *key)
            .collect();
        for key in &due {
            let refresh = self.refresh(key);
            if let Some(plan) = self.plans.get_mut(key) {
                let pause = match plan.need {
                    Need::Unknown => {
                        let doubled = Duration::from_millis(500 << plan.attempts.min(8));
                        doubled.min(self.tuning.retry)
                    }
                    _ => refresh,
                };
                plan.attempts += 1;
                plan.next = Some(now + pause);
            }
        }
        due
    }

    /// When the next question is due.
    pub(super) fn next(&self) -> Option<Instant> {
        self.plans.values().filter_map(|plan| plan.next).min()
    }

    fn refresh(&self, key: &NeighbourKey) -> Duration {
        self.tuning.refresh.mul_f64(0.75 + fraction(key) / 2.0)
    }
}

fn need(neighbour: &Neighbour) -> Need {
    match neighbour.reachability {
        Reachability::Absent | Reachability::Incomplete | Reachability::Failed => Need::Unknown,
        Reachability::Stale => Need::Aging,
        Reachability::Known => Need::Known,
        Reachability::Fixed => Need::Nothing,
    }
}

/// A number in 0..1 that spreads neighbours in time; the same one for the same neighbour.
fn fraction(key: &NeighbourKey) -> f64 {
    let mut hasher = DefaultHasher::new();
    key.hash(&mut hasher);
    f64::from(u32::try_from(hasher.finish() >> 32).unwrap_or(0)) / (f64::from(u32::MAX) + 1.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::MacAddress;

    fn watched(count: u8, reachability: Reachability) -> BTreeMap<NeighbourKey, Neighbour> {
        let mac = Some(MacAddress([2, 0, 0, 0, 0, 1]));
        (0..count)
            .map(|last| NeighbourKey { ifindex: 2, address: [10, 0, 0, last].into() })
            .map(|key| (key, Neighbour { reachability, mac }))
            .collect()
    }

    #[test]
    fn an_unknown_neighbour_is_asked_for_at_once_then_ever_more_rarely() {
        let (mut now, tuning) = (Instant::now(), Tuning::default());
        let mut prober = Prober::new(tuning);
        prober.observe(now, &watched(1, Reachability::Absent));
        let mut pauses = Vec::new();
        for _ in 0..7 {
            assert_eq!(prober.take_due(now).len(), 1);
            assert_eq!(prober.take_due(now), []);
            // An attempt that fails is no news.
            prober.observe(now, &watched(1, Reachability::Failed));
            let next = prober.next().unwrap();
            pauses.push(next - now);
            now = next;
        }
        assert!(pauses.is_sorted());
        assert_eq!(pauses[0], Duration::from_millis(500));
        assert_eq!(pauses[6], tuning.retry);
    }

    #[test]
    fn stale_neighbours_are_asked_for_spread_over_the_stagger() {
        let (start, tuning) = (Instant::now(), Tuning::default());
        let mut prober = Prober::new(tuning);
        prober.observe(start, &watched(200, Reachability::Stale));
        let early = prober.take_due(start + tuning.stagger / 10).len();
        let half = early + prober.take_due(start + tuning.stagger / 2).len();
        let all = half + prober.take_due(start + tuning.stagger).len();
        assert!((1..60).contains(&early), "{early}");
        assert!((60..140).contains(&half), "{half}");
        assert_eq!(all, 200);
    }

    #[test]
    fn known_neighbours_are_refreshed_and_fixed_ones_are_left_alone() {
        let (start, tuning) = (Instant::now(), Tuning::default());
        let mut prober = Prober::new(tuning);
        prober.observe(start, &watched(50, Reachability::Known));
        assert_eq!(prober.take_due(start + tuning.refresh.mul_f64(0.74)), []);
        assert_eq!(prober.take_due(start + tuning.refresh.mul_f64(1.25)).len(), 50);
        prober.observe(start, &watched(50, Reachability::Fixed));
        assert_eq!(prober.next(), None);
    }

    #[test]
    fn what_is_no_longer_wanted_is_no_longer_asked_for() {
        let now = Instant::now();
        let mut prober = Prober::new(Tuning::default());
        prober.observe(now, &watched(3, Reachability::Absent));
        prober.observe(now, &watched(1, Reachability::Absent));
        assert_eq!(prober.take_due(now).len(), 1);
    }
}
