//! One check's life: probe, judge, tell, wait.

use std::time::{Duration, SystemTime};

use tokio::{
    sync::mpsc,
    time::{Instant, sleep_until},
};

use super::{
    CheckSpec, HealthEvent, SharedReport, probe,
    state::{Outcome, State},
};

/// Runs until it is aborted or nobody listens any more.
pub(super) async fn run(spec: CheckSpec, report: SharedReport, events: mpsc::Sender<HealthEvent>) {
    let mut state = State::new(report.read().healthy, spec.check.rise, spec.check.fall);
    let mut next = Instant::now();
    loop {
        sleep_until(next).await;
        next += jittered(spec.check.interval);
        let outcome = probe::run(spec.reach(), &spec.check).await;
        let at = SystemTime::now();
        let before = report.read().healthy;
        let transition = state.observe(&outcome);
        report.update(|report| {
            match outcome {
                Outcome::Passed(_) => report.passed += 1,
                Outcome::Failed(_) => report.failed += 1,
                Outcome::Inconclusive(_) => report.inconclusive += 1,
            }
            outcome.reason().clone_into(&mut report.reason);
            (report.contradicting, report.needed) = state.turning();
            if let Some(transition) = transition {
                report.healthy = Some(transition.healthy);
                report.since = at;
            }
        });
        if let Some(transition) = transition {
            let event = HealthEvent {
                service: spec.service,
                backend: spec.backend,
                before,
                healthy: transition.healthy,
                reason: outcome.reason().to_owned(),
                at,
            };
            if events.send(event).await.is_err() {
                return;
            }
        }
        // After a suspended host or a stalled channel: go on from now, not in a burst.
        next = next.max(Instant::now());
    }
}

/// Between 0.9 and 1.1 of the interval, so that checks that began together drift apart.
fn jittered(interval: Duration) -> Duration {
    interval.mul_f64(0.9 + 0.2 * fastrand::f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jitter_stays_within_a_tenth() {
        let interval = Duration::from_secs(10);
        let drawn: Vec<_> = (0..1000).map(|_| jittered(interval)).collect();
        assert!(
            drawn.iter().all(|d| (Duration::from_secs(9)..=Duration::from_secs(11)).contains(d))
        );
        assert!(drawn.iter().any(|d| *d < interval) && drawn.iter().any(|d| *d > interval));
    }
}
