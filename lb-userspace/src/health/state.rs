//! When a backend is healthy: `rise` and `fall`, without clock or I/O.

/// What one probe saw.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// The backend answered as it should.
    Passed(String),
    /// It did not.
    Failed(String),
    /// The probe could not be made for want of something on this host (descriptors, memory,
    /// ports): it says nothing about the backend, and must not take all of them out at once.
    Inconclusive(String),
}

impl Outcome {
    /// What was seen, for people.
    pub(super) fn reason(&self) -> &str {
        match self {
            Self::Passed(reason) | Self::Failed(reason) | Self::Inconclusive(reason) => reason,
        }
    }
}

/// The backend is something else from now on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Transition {
    pub(super) healthy: bool,
}

/// A backend's health.
///
/// The first outcome decides alone, so that a balancer that starts doesn't keep good backends out
/// for `rise` intervals; `rise` and `fall` are for changes from then on.
#[derive(Clone, Debug)]
pub(super) struct State {
    healthy: Option<bool>,
    /// Outcomes in a row that contradict `healthy`.
    contradictions: u32,
    rise: u32,
    fall: u32,
}

impl State {
    pub(super) fn new(known: Option<bool>, rise: u32, fall: u32) -> Self {
        Self { healthy: known, contradictions: 0, rise, fall }
    }

    /// How far the last outcomes came in turning it: so many in a row of so many. (0, 0) while
    /// they agree with what it is.
    pub(super) fn turning(&self) -> (u32, u32) {
        match (self.contradictions, self.healthy) {
            (0, _) | (_, None) => (0, 0),
            (seen, Some(true)) => (seen, self.fall),
            (seen, Some(false)) => (seen, self.rise),
        }
    }

    /// Whether the next outcome may change what it is: nothing is known yet, or the last ones
    /// contradict it.
    pub(super) fn is_deciding(&self) -> bool {
        self.healthy.is_none() || self.contradictions > 0
    }

    /// Takes a probe's outcome in; says whether it changed what the backend is.
    pub(super) fn observe(&mut self, outcome: &Outcome) -> Option<Transition> {
        let passed = match outcome {
            Outcome::Passed(_) => true,
            Outcome::Failed(_) => false,
            Outcome::Inconclusive(_) => return None,
        };
        let needed = match self.healthy {
            None => 1,
            Some(healthy) if healthy == passed => {
                self.contradictions = 0;
                return None;
            }
            Some(true) => self.fall,
            Some(false) => self.rise,
        };
        self.contradictions += 1;
        if self.contradictions < needed {
            return None;
        }
        self.contradictions = 0;
        self.healthy = Some(passed);
        Some(Transition { healthy: passed })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `+` passed, `-` failed, `?` inconclusive in; for each `U`p, `D`own or `.` nothing out.
    fn transitions(known: Option<bool>, rise: u32, fall: u32, outcomes: &str) -> String {
        let mut state = State::new(known, rise, fall);
        let observe = |outcome| {
            let outcome = match outcome {
                '+' => Outcome::Passed(String::new()),
                '-' => Outcome::Failed(String::new()),
                _ => Outcome::Inconclusive(String::new()),
            };
            match state.observe(&outcome) {
                Some(Transition { healthy: true }) => 'U',
                Some(Transition { healthy: false }) => 'D',
                None => '.',
            }
        };
        outcomes.chars().map(observe).collect()
    }

    #[test]
    fn the_first_outcome_decides_alone() {
        assert_eq!(transitions(None, 3, 3, "+"), "U");
        assert_eq!(transitions(None, 3, 3, "-"), "D");
        assert_eq!(transitions(None, 3, 3, "?+"), ".U");
    }

    #[test]
    fn rise_and_fall_count_in_a_row() {
        assert_eq!(transitions(Some(true), 2, 3, "--+---"), ".....D");
        assert_eq!(transitions(Some(false), 2, 3, "+-++"), "...U");
        assert_eq!(transitions(None, 2, 3, "+---++---"), "U..D.U..D");
        assert_eq!(transitions(None, 1, 1, "-+-+"), "DUDU");
    }

    #[test]
    fn the_way_to_a_turn_is_told() {
        let mut state = State::new(None, 2, 3);
        let outcomes = [
            (Outcome::Failed(String::new()), (0, 0)),
            (Outcome::Passed(String::new()), (1, 2)),
            (Outcome::Inconclusive(String::new()), (1, 2)),
            (Outcome::Passed(String::new()), (0, 0)),
            (Outcome::Failed(String::new()), (1, 3)),
            (Outcome::Failed(String::new()), (2, 3)),
            (Outcome::Passed(String::new()), (0, 0)),
        ];
        for (outcome, turning) in outcomes {
            state.observe(&outcome);
            assert_eq!(state.turning(), turning, "{outcome:?}");
        }
    }

    #[test]
    fn it_is_being_decided_while_outcomes_contradict() {
        let mut state = State::new(None, 2, 2);
        assert!(state.is_deciding());
        for (passed, deciding) in [
            (true, false),
            (false, true),
            (true, false),
            (false, true),
            (false, false),
            (true, true),
        ] {
            let outcome = match passed {
                true => Outcome::Passed(String::new()),
                false => Outcome::Failed(String::new()),
            };
            state.observe(&outcome);
            assert_eq!(state.is_deciding(), deciding, "{state:?}");
        }
    }

    #[test]
    fn what_is_lacking_here_is_no_one_elses_failure() {
        assert_eq!(transitions(Some(true), 2, 2, "????-?-"), "......D");
        assert_eq!(transitions(Some(false), 2, 2, "+??+"), "...U");
    }
}
