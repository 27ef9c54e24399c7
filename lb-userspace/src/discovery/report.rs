//! What is known of a source, and whether its word is taken: pure but for the wall clock.

use std::time::SystemTime;

use super::{Findings, SourceSpec};
use crate::{
    config::{DiscoverySource, DnsRecord},
    state::Found,
};

/// What a source did so far.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// What is asked, for people.
    pub source: String,
    /// Backends that it tells, or last told.
    pub found: usize,
    /// When it last told something that was taken.
    pub last_success: Option<SystemTime>,
    /// When it is asked again.
    pub next: Option<SystemTime>,
    /// What is wrong; what it told before stays.
    pub trouble: Option<String>,
    /// Answers that were taken.
    pub succeeded: u64,
    /// Times that there was none, or that it was not taken.
    pub failed: u64,
}

/// What becomes of findings.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// These are the backends from now on.
    Taken(Vec<Found>),
    /// Everything stays as it is.
    Kept,
}

impl Report {
    pub(super) fn new(spec: &SourceSpec, found: usize) -> Self {
        Self {
            source: describe(spec),
            found,
            last_success: None,
            next: None,
            trouble: None,
            succeeded: 0,
            failed: 0,
        }
    }

    pub(super) fn is_pending(&self) -> bool {
        self.found == 0 && self.succeeded + self.failed == 0
    }

    /// Notes an answer that was taken, and how many backends it has.
    pub fn took(&mut self, found: usize, now: SystemTime, trouble: Option<String>) {
        self.found = found;
        self.last_success = Some(now);
        self.succeeded += 1;
        self.trouble = trouble;
    }

    /// Notes that nothing changes, and why.
    pub fn refused(&mut self, why: String) {
        self.failed += 1;
        self.trouble = Some(why);
    }
}

/// Whether findings are taken. `kept` is how many backends the source last told.
pub fn judge(findings: &Findings, allow_empty: bool, kept: usize) -> (Outcome, Option<String>) {
    let stay = match kept {
        0 => String::new(),
        1 => "; the one that it last told stays".to_owned(),
        kept => format!("; the {kept} that it last told stay"),
    };
    match &findings.result {
        Err(why) => (Outcome::Kept, Some(format!("{why}{stay}"))),
        Ok(answer) if answer.backends.is_empty() && !allow_empty => {
            let why = answer.trouble.as_deref().unwrap_or("it tells no backend");
            (Outcome::Kept, Some(format!("{why}{stay} (allow_empty is false)")))
        }
        Ok(answer) => (Outcome::Taken(answer.backends.clone()), answer.trouble.clone()),
    }
}

fn describe(spec: &SourceSpec) -> String {
    match &spec.config.source {
        DiscoverySource::Dns(dns) => {
            let records = match dns.record {
                DnsRecord::Address => "addresses",
                DnsRecord::A => "A",
                DnsRecord::Aaaa => "AAAA",
                DnsRecord::Srv => "SRV",
            };
            let server = dns.server.map(|server| format!(" by {server}")).unwrap_or_default();
            format!("{records} of {}{server}", dns.name)
        }
        DiscoverySource::Directory(path) => format!("files in {}", path.display()),
        DiscoverySource::Register { .. } => "xlb register".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::discovery::Answer;

    #[test]
    fn silence_and_emptiness_take_nobody_out() {
        let findings =
            |result| Findings { service: "web".into(), generation: 1, result, next: None };
        let found = vec![Found::new("10.0.0.1", 100)];
        let answer = |backends| Ok(Answer { backends, trouble: None });
        let full = findings(answer(found.clone()));
        assert_eq!(judge(&full, false, 3), (Outcome::Taken(found), None));
        let (outcome, why) = judge(&findings(answer(Vec::new())), false, 3);
        assert_eq!(outcome, Outcome::Kept);
        let said = "it tells no backend; the 3 that it last told stay (allow_empty is false)";
        assert_eq!(why.as_deref(), Some(said));
        let (outcome, _) = judge(&findings(answer(Vec::new())), true, 3);
        assert_eq!(outcome, Outcome::Taken(Vec::new()));
        let (outcome, why) = judge(&findings(Err("no answer".into())), true, 1);
        assert_eq!(outcome, Outcome::Kept);
        assert_eq!(why.as_deref(), Some("no answer; the one that it last told stays"));
    }
}
