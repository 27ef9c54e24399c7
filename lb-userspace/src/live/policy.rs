//! What an operator may set about live weights.

use std::time::Duration;

/// How a service's live weights follow what becomes of its backends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// How long a new or recovered backend takes to its full weight; zero is at once.
    pub slow_start: Duration,
    /// Below this part of the weight that is healthy, failed backends are used as well; 0 is never.
    pub panic_percent: u8,
    /// How often a backend may fail within the window; 0 is as often as it likes.
    pub max_flapping: u32,
    /// The time that failures are counted in.
    pub flapping_window: Duration,
    /// How load is followed, where it is.
    pub load: Option<LoadPolicy>,
}

/// How live weights follow load reports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoadPolicy {
    /// Who tells how loaded a backend is.
    pub source: LoadSource,
    /// Time constant of the means that decide.
    pub smoothing: Duration,
    /// The least part of its weight that a backend is given for its load, in thousandths.
    pub floor_permille: u16,
    /// The most that a live weight changes in a second, in thousandths of the weight.
    pub max_step_permille: u16,
    /// A report that is older says nothing any more.
    pub stale_after: Duration,
}

/// Where load reports come from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LoadSource {
    /// Open Request Cost Aggregation, in the responses to HTTP checks.
    #[default]
    Orca,
    /// Agents on the backends: their percentage is what the backend has idle, no set point.
    Agent,
}

impl LoadSource {
    /// Each with its word in the config.
    pub const WORDS: &[(&str, Self)] = &[("orca", Self::Orca), ("agent", Self::Agent)];

    /// Its word in the config.
    pub fn word(self) -> &'static str {
        match self {
            Self::Orca => "orca",
            Self::Agent => "agent",
        }
    }
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            slow_start: Duration::ZERO,
            panic_percent: 30,
            max_flapping: 0,
            flapping_window: Duration::from_secs(60),
            load: None,
        }
    }
}

impl Default for LoadPolicy {
    fn default() -> Self {
        Self {
            source: LoadSource::default(),
            smoothing: Duration::from_secs(15),
            floor_permille: 100,
            max_step_permille: 50,
            stale_after: Duration::from_secs(10),
        }
    }
}
