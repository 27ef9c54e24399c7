//! When which server was dead: flows that lived on it then are counted apart.

use std::time::Instant;

use super::journal::Break;

/// All deaths that a test caused, so far.
#[derive(Clone, Debug, Default)]
pub struct Deaths(Vec<Death>);

#[derive(Clone, Debug)]
struct Death {
    server: String,
    from: Instant,
    /// From here on, new flows have no reason to go there.
    detected: Option<Instant>,
    until: Option<Instant>,
}

impl Deaths {
    /// A server is about to die at `at`, or to be called dead.
    pub fn begin(&mut self, server: &str, at: Instant) {
        self.0.push(Death { server: server.to_owned(), from: at, detected: None, until: None });
    }

    /// The balancer knows of the last death.
    pub fn detected(&mut self, at: Instant) {
        if let Some(death) = self.0.last_mut() {
            death.detected = Some(at);
        }
    }

    /// The last death is over for the balancer, too.
    pub fn end(&mut self, at: Instant) {
        if let Some(death) = self.0.last_mut() {
            death.until = Some(at);
        }
    }

    /// How many there were.
    pub fn count(&self) -> usize {
        self.0.len()
    }

    /// Whether a death is reason enough for a flow to break.
    ///
    /// A flow that was answered must have lived on the server, and the server must have been dead
    /// between the flow's last answer and its end. One that never was may have met the dead
    /// server only before the balancer knew.
    pub fn explain(&self, broken: &Break) -> bool {
        self.0.iter().any(|death| {
            let over = death.until.is_some_and(|until| until < broken.began);
            if over || broken.at < death.from {
                return false;
            }
            match (&broken.server, broken.answered) {
                (Some(server), Some(answered)) => {
                    *server == death.server && death.until.is_none_or(|until| until > answered)
                }
                _ => death.detected.is_none_or(|detected| broken.began <= detected),
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::{Cause, Kind};
    use super::*;

    struct Clock(Instant);

    impl Clock {
        fn at(&self, second: u64) -> Instant {
            self.0 + Duration::from_secs(second)
        }

        /// A flow on b3 that began, was last answered and broke at these seconds.
        fn broken(&self, began: u64, answered: Option<u64>, at: u64) -> Break {
            Break {
                kind: Kind::Connection,
                server: answered.map(|_| "b3".to_owned()),
                began: self.at(began),
                answered: answered.map(|second| self.at(second)),
                at: self.at(at),
                cause: Cause::Closed,
            }
        }

        /// b3 is dead from 10 to 20, known from 12 on.
        fn deaths(&self) -> Deaths {
            let mut deaths = Deaths::default();
            deaths.begin("b3", self.at(10));
            deaths.detected(self.at(12));
            deaths.end(self.at(20));
            deaths
        }
    }

    #[test]
    fn a_flow_breaks_with_its_server_only() {
        let clock = Clock(Instant::now());
        let deaths = clock.deaths();
        assert!(deaths.explain(&clock.broken(0, Some(9), 11)));
        assert!(deaths.explain(&clock.broken(0, Some(11), 16)));
        let other = Break { server: Some("b4".into()), ..clock.broken(0, Some(9), 11) };
        assert!(!deaths.explain(&other));
    }

    #[test]
    fn a_flow_that_was_answered_after_the_death_has_no_excuse() {
        let clock = Clock(Instant::now());
        let deaths = clock.deaths();
        assert!(!deaths.explain(&clock.broken(0, Some(21), 22)));
        assert!(!deaths.explain(&clock.broken(21, Some(22), 23)));
        assert!(!deaths.explain(&clock.broken(0, Some(8), 9)), "broke before");
        assert!(deaths.explain(&clock.broken(0, Some(19), 21)), "its request met the dead server");
    }

    #[test]
    fn a_flow_that_never_was_answered_must_be_old_enough() {
        let clock = Clock(Instant::now());
        let deaths = clock.deaths();
        assert!(deaths.explain(&clock.broken(11, None, 13)));
        assert!(!deaths.explain(&clock.broken(13, None, 14)));
        assert!(!deaths.explain(&clock.broken(5, None, 6)));
    }

    #[test]
    fn without_deaths_nothing_is_explained() {
        let clock = Clock(Instant::now());
        assert!(!Deaths::default().explain(&clock.broken(0, Some(1), 2)));
    }
}
