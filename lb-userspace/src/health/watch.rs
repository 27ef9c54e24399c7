//! One check's life: probe, judge, tell, wait.

use std::{
    sync::Arc,
    time::{Duration, Instant as Clock, SystemTime},
};

use tokio::{
    sync::mpsc,
    time::{Instant, sleep_until},
};

use super::{
    CheckSpec, EndpointLoad, HealthEvent, SharedReport,
    probe::{self, Means, Probed},
    state::{Outcome, State},
};
use crate::config::ActiveCheck;

/// Probes from `start` on, until it is aborted or nobody listens any more.
pub(super) async fn run(
    spec: CheckSpec,
    start: Instant,
    report: SharedReport,
    means: Arc<Means>,
    events: mpsc::Sender<HealthEvent>,
) {
    let mut state = State::new(report.read().healthy, spec.check.rise, spec.check.fall);
    let mut next = start;
    let mut first = true;
    loop {
        sleep_until(next).await;
        // A probe takes some kilobytes while it runs, and a check rests most of the time.
        let Probed { outcome, load } = Box::pin(probe::run(&spec, &means)).await;
        let (at, decided) = (SystemTime::now(), Clock::now());
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
            if let Some(text) = load {
                report.endpoint_load = Some(EndpointLoad { text, at: decided });
            }
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
                decided,
            };
            if events.send(event).await.is_err() {
                return;
            }
        }
        let pause = pause(&spec.check, state.is_deciding());
        // Checks that begin together are spread over their interval from the second probe on.
        next += if first { pause.mul_f64(fastrand::f64()) } else { pause };
        first = false;
        // After a suspended host or a stalled channel: go on from now, not in a burst.
        next = next.max(Instant::now());
    }
}

/// From the begin of one probe to the begin of the next; drawn anew each time, so that checks that
/// began together drift apart.
fn pause(check: &ActiveCheck, deciding: bool) -> Duration {
    let interval = if deciding { check.fast_interval } else { check.interval };
    let jitter = f64::from(check.jitter) / 100.0;
    interval.mul_f64(1.0 + jitter * (2.0 * fastrand::f64() - 1.0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Probe;

    fn check(jitter: u8) -> ActiveCheck {
        ActiveCheck {
            probe: Probe::Tcp,
            port: 80,
            port_is_set: true,
            via: None,
            interval: Duration::from_secs(10),
            fast_interval: Duration::from_secs(1),
            jitter,
            timeout: Duration::from_secs(1),
            rise: 2,
            fall: 3,
        }
    }

    #[test]
    fn jitter_stays_within_its_part() {
        let check = check(10);
        let drawn: Vec<_> = (0..1000).map(|_| pause(&check, false)).collect();
        let [least, most] = [9, 11].map(Duration::from_secs);
        assert!(drawn.iter().all(|pause| (least..=most).contains(pause)));
        assert!(drawn.iter().any(|pause| *pause < check.interval));
        assert!(drawn.iter().any(|pause| *pause > check.interval));
    }

    #[test]
    fn a_change_is_decided_faster() {
        assert_eq!(pause(&check(0), false), Duration::from_secs(10));
        assert_eq!(pause(&check(0), true), Duration::from_secs(1));
    }
}
