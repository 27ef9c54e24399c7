//! One row of the table, and the table of all that was run so far.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Result, ensure};
use xlb_tests::clients::traffic::{Break, Kind, Tally};

/// Rows of all courses. Who holds it has the machine: two courses at a time would only measure
/// each other.
static TABLE: Mutex<Vec<Row>> = Mutex::new(Vec::new());

/// The one course that runs now.
pub(crate) struct Turn(MutexGuard<'static, Vec<Row>>);

impl Turn {
    /// Waits for the end of the others.
    pub(crate) fn wait() -> Self {
        Self(TABLE.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Prints the table of all rows so far, with these at its end.
    ///
    /// # Errors
    /// One of these rows isn't as it should be.
    pub(crate) fn end(mut self, rows: Vec<Row>) -> Result<()> {
        let failures: Vec<_> = rows.iter().filter_map(Row::failure).collect();
        self.0.extend(rows);
        println!("{HEADER}");
        self.0.iter().for_each(|row| println!("{row}"));
        ensure!(failures.is_empty(), "{} rows failed:\n{}", failures.len(), failures.join("\n"));
        Ok(())
    }
}

/// Which flows may break in a row, besides those of dead servers.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Allowed {
    /// TCP connections that lived on this server.
    pub(crate) tcp: Option<&'static str>,
    /// UDP sessions that lived on this server.
    pub(crate) udp: Option<&'static str>,
}

impl Allowed {
    /// None.
    pub(crate) const NOTHING: Self = Self { tcp: None, udp: None };

    fn refuses(&self, broken: &Break) -> bool {
        let allowed = if broken.kind == Kind::Session { self.udp } else { self.tcp };
        // One that no server has answered yet may be with any.
        let server = broken.server.as_deref().or(allowed);
        allowed.is_none() || server != allowed
    }
}

/// What a change did to the flows.
#[derive(Clone, Debug)]
pub(crate) struct Row {
    pub(crate) scenario: &'static str,
    pub(crate) mode: &'static str,
    pub(crate) connections: usize,
    pub(crate) sessions: usize,
    pub(crate) tally: Tally,
    pub(crate) allowed: Allowed,
    /// Forged packets per second.
    pub(crate) flood: Option<u64>,
    pub(crate) took: Duration,
    /// What went wrong besides broken flows.
    pub(crate) trouble: Vec<String>,
}

const HEADER: &str = "\
scenario                        | mode | TCP live | TCP new | UDP live | UDP new | bulk MB \
| TCP broken | UDP broken | on dead | flood/s |    s |
--------------------------------|------|---------:|--------:|---------:|--------:|--------:\
|-----------:|-----------:|--------:|--------:|-----:|";

impl Row {
    fn broken(&self, udp: bool) -> usize {
        self.tally.broken.iter().filter(|flow| (flow.kind == Kind::Session) == udp).count()
    }

    fn began(&self, kind: Kind) -> u64 {
        self.tally.began.get(&kind).copied().unwrap_or_default()
    }

    /// Why the row isn't as it should be.
    fn failure(&self) -> Option<String> {
        let mut words = self.trouble.clone();
        let wrong: Vec<_> =
            self.tally.broken.iter().filter(|flow| self.allowed.refuses(flow)).collect();
        if !wrong.is_empty() {
            words.push(format!("{} flows broke:", wrong.len()));
        }
        let mut sorts: BTreeMap<String, Vec<&Break>> = BTreeMap::new();
        for flow in wrong {
            let server = flow.server.as_deref().unwrap_or("nobody");
            let sort = format!("{:?} on {server}, {}", flow.kind, flow.cause);
            sorts.entry(sort).or_default().push(flow);
        }
        words.extend(sorts.iter().map(|(sort, flows)| {
            let ages = flows.iter().map(|flow| flow.at - flow.began);
            let youngest = ages.clone().min().unwrap_or_default();
            let oldest = ages.max().unwrap_or_default();
            format!("{:>4} {sort}; {youngest:.1?} to {oldest:.1?} old", flows.len())
        }));
        let place = || format!("{} ({}):", self.scenario, self.mode);
        (!words.is_empty()).then(|| format!("{} {}", place(), words.join("\n  ")))
    }
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let flood = self.flood.map_or_else(|| "-".to_owned(), |rate| rate.to_string());
        write!(
            f,
            "{:<31} | {:<4} | {:>8} | {:>7} | {:>8} | {:>7} | {:>7} | {:>10} | {:>10} | {:>7} | {:>7} | {:>4.1} |",
            self.scenario,
            self.mode,
            self.connections,
            self.began(Kind::Newcomer),
            self.sessions,
            self.began(Kind::Session),
            self.tally.bulk_bytes >> 20,
            self.broken(false),
            self.broken(true),
            self.tally.on_dead,
            flood,
            self.took.as_secs_f64(),
        )?;
        if self.trouble.is_empty() { Ok(()) } else { write!(f, " !") }
    }
}
