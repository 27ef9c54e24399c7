//! What an agent on a backend says: the words of HAProxy's agent-check (HAProxy Configuration
//! Manual, `agent-check`).
//!
//! In: a line. Out: the words in it, which change an [`AgentState`]. What a line doesn't speak of
//! stays as the agent last said it.

/// What an agent has said so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AgentState {
    /// What the backend's administrator wants.
    pub wanted: Wanted,
    /// Whether the backend works, as the agent sees it.
    pub up: bool,
    /// The part of its weight that it shall serve, 0 to 100.
    pub percent: u8,
}

/// What a backend's administrator wants of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// It serves.
    Ready,
    /// It takes no new flows.
    Drain,
    /// It serves nobody.
    Maintenance,
}

impl Default for AgentState {
    fn default() -> Self {
        Self { wanted: Wanted::Ready, up: true, percent: 100 }
    }
}

/// A line, understood.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Words {
    wanted: Option<Wanted>,
    up: Option<bool>,
    /// The percentage that it speaks of, 0 to 100.
    pub percent: Option<u8>,
    /// Words that mean nothing here.
    pub unknown: Vec<String>,
}

/// Words of a line that are told when they aren't understood.
const UNKNOWN_TOLD: usize = 4;

impl Words {
    /// Reads a line; what stands behind a `#` is for people. Of words that contradict each other,
    /// the last counts.
    pub fn parse(line: &str) -> Self {
        let mut words = Self::default();
        let spoken = line.split('#').next().unwrap_or_default();
        for word in spoken.split([' ', '\t', ',', '\r', '\n']).filter(|word| !word.is_empty()) {
            words.add(word);
        }
        words
    }

    fn add(&mut self, word: &str) {
        match word.to_ascii_lowercase().as_str() {
            "ready" => self.wanted = Some(Wanted::Ready),
            "drain" => self.wanted = Some(Wanted::Drain),
            "maint" => self.wanted = Some(Wanted::Maintenance),
            "up" => self.up = Some(true),
            "down" | "fail" | "failed" | "stopped" => self.up = Some(false),
            // Connections are not counted here.
            other if other.starts_with("maxconn:") => {}
            other => match percent(other) {
                Some(percent) => self.percent = Some(percent),
                None if self.unknown.len() < UNKNOWN_TOLD => {
                    self.unknown.push(word.chars().take(32).collect());
                }
                None => {}
            },
        }
    }

    /// Whether it says anything.
    pub fn is_empty(&self) -> bool {
        (self.wanted, self.up, self.percent) == (None, None, None)
    }
}

/// More than 100 % is all: nobody serves more than its weight.
fn percent(word: &str) -> Option<u8> {
    let digits = word.strip_suffix('%')?;
    let numeric = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    numeric.then(|| digits.parse::<u32>().unwrap_or(u32::MAX).min(100) as u8)
}

impl AgentState {
    /// What it is after a line.
    #[must_use]
    pub fn after(self, words: &Words) -> Self {
        Self {
            wanted: words.wanted.unwrap_or(self.wanted),
            up: words.up.unwrap_or(self.up),
            percent: words.percent.unwrap_or(self.percent),
        }
    }

    /// Whether it takes no new flows and keeps those that it has.
    pub fn drains(self) -> bool {
        self.wanted == Wanted::Drain || self.percent == 0
    }

    /// In the words of the protocol.
    pub fn sentence(self) -> String {
        let wanted = match self.wanted {
            Wanted::Ready => "ready",
            Wanted::Drain => "drain",
            Wanted::Maintenance => "maint",
        };
        format!("{wanted} {} {}%", if self.up { "up" } else { "down" }, self.percent)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(lines: &[&str]) -> String {
        let state = lines
            .iter()
            .fold(AgentState::default(), |state, line| state.after(&Words::parse(line)));
        state.sentence()
    }

    #[test]
    fn words_change_what_they_speak_of() {
        for (lines, state) in [
            (&[][..], "ready up 100%"),
            (&["75%\n"], "ready up 75%"),
            (&["up 50%\r\n"], "ready up 50%"),
            (&["ready up 75%"], "ready up 75%"),
            (&["READY,UP,75%"], "ready up 75%"),
            (&["drain"], "drain up 100%"),
            (&["drain", "75%"], "drain up 75%"),
            (&["drain", "ready"], "ready up 100%"),
            (&["maint", "up"], "maint up 100%"),
            (&["down # disk full, up soon"], "ready down 100%"),
            (&["down#disk full"], "ready down 100%"),
            (&["stopped", "50%", "up"], "ready up 50%"),
            (&["failed"], "ready down 100%"),
            (&["fail\t10%"], "ready down 10%"),
            (&["maxconn:30 20%"], "ready up 20%"),
            (&["0%"], "ready up 0%"),
            (&["300%"], "ready up 100%"),
            (&["99999999999999999999%"], "ready up 100%"),
            (&["up down"], "ready down 100%"),
        ] {
            assert_eq!(said(lines), state, "{lines:?}");
        }
    }

    #[test]
    fn what_means_nothing_changes_nothing_and_is_told() {
        for (line, unknown) in [
            ("", &[][..]),
            (" ,\t,", &[]),
            ("# 10% down", &[]),
            ("75", &["75"]),
            ("-5% %", &["-5%", "%"]),
            ("HTTP/1.1 200 OK", &["HTTP/1.1", "200", "OK"]),
            ("a b c d e f", &["a", "b", "c", "d"]),
        ] {
            let words = Words::parse(line);
            assert!(words.is_empty(), "{line:?}");
            assert_eq!(words.unknown, unknown, "{line:?}");
        }
        let long = "x".repeat(4096);
        assert_eq!(Words::parse(&long).unknown[0].len(), 32);
    }

    #[test]
    fn no_weight_is_a_drain() {
        assert!(AgentState { percent: 0, ..AgentState::default() }.drains());
        assert!(AgentState { wanted: Wanted::Drain, ..AgentState::default() }.drains());
        assert!(!AgentState { percent: 1, ..AgentState::default() }.drains());
    }
}
