//! Source ports of probes: pure, and time is an argument.
//!
//! A port names what its probe is for, so none is used again while packets of an older probe from
//! it may still be under way.

use std::{
    collections::VecDeque,
    fs,
    ops::RangeInclusive,
    time::{Duration, Instant},
};

/// Ports that anybody may bind to.
const ALL: RangeInclusive<u16> = 1024..=65_535;
/// Where the host's own connections leave fewer than so many ports, they are not avoided.
const LEAST: usize = 16_384;
/// So many agents of one network namespace have ports of their own each: they may probe the same
/// VIP from the same address, and what comes back must find who asked.
const AGENTS: u32 = 4;

/// How long after a probe's end its last packets may still be under way.
const AFTERMATH: Duration = Duration::from_millis(250);

/// The ports that nobody uses.
#[derive(Debug)]
pub(super) struct Ports {
    /// The longest unused first, with the time since when each may be used again.
    unused: VecDeque<(Option<Instant>, u16)>,
}

impl Ports {
    /// The ports of an agent, which has that number in its network namespace, but for those that
    /// connections of the host itself come from: on those, answers of a VIP may be somebody else's.
    pub(super) fn new(hosts_own: Option<RangeInclusive<u16>>, number: u32) -> Self {
        let others = |port: &u16| hosts_own.as_ref().is_none_or(|own| !own.contains(port));
        let enough = ALL.filter(others).count() >= LEAST;
        let ours = |port: &u16| u32::from(*port) % AGENTS == number % AGENTS;
        let unused = ALL.filter(|port| ours(port) && (!enough || others(port)));
        Self { unused: unused.map(|port| (None, port)).collect() }
    }

    /// A port for a probe; `None` while all are in use, or were a moment ago.
    pub(super) fn take(&mut self, now: Instant) -> Option<u16> {
        let rested = |(since, _): &mut (Option<Instant>, u16)| since.is_none_or(|it| it <= now);
        self.unused.pop_front_if(rested).map(|(_, port)| port)
    }

    /// The probe from that port has ended.
    pub(super) fn give_back(&mut self, port: u16, now: Instant) {
        self.unused.push_back((Some(now + AFTERMATH), port));
    }
}

/// The ports that connections of this host come from, where nobody asks for others.
pub(super) fn hosts_own() -> Option<RangeInclusive<u16>> {
    range(&fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").ok()?)
}

fn range(text: &str) -> Option<RangeInclusive<u16>> {
    let mut numbers = text.split_whitespace().map(str::parse);
    Some(numbers.next()?.ok()?..=numbers.next()?.ok()?)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn no_port_is_used_again_in_time() {
        let begin = Instant::now();
        let mut ports = Ports::new(None, 0);
        let mut taken = BTreeSet::new();
        while let Some(port) = ports.take(begin) {
            assert!(taken.insert(port), "{port} twice");
        }
        assert_eq!(taken.len(), ALL.count() / 4);
        ports.give_back(2048, begin);
        ports.give_back(1024, begin + AFTERMATH / 2);
        assert_eq!(ports.take(begin + AFTERMATH / 2), None, "neither has rested");
        assert_eq!(ports.take(begin + AFTERMATH), Some(2048), "the one that is unused for longer");
        assert_eq!(ports.take(begin + AFTERMATH), None);
        assert_eq!(ports.take(begin + 2 * AFTERMATH), Some(1024));
    }

    #[test]
    fn the_hosts_own_ports_are_left_to_it() {
        assert_eq!(range("32768\t60999\n"), Some(32_768..=60_999));
        assert_eq!(range(""), None);
        assert_eq!(range("1 99999"), None);
        let now = Instant::now();
        let mut seen = BTreeSet::new();
        for number in 0..4 {
            let mut ports = Ports::new(Some(32_768..=60_999), number);
            while let Some(port) = ports.take(now) {
                assert!(!(32_768..=60_999).contains(&port), "{port}");
                assert!(seen.insert(port), "{port} is two agents'");
            }
        }
        assert_eq!(seen.len(), 36_280);
        // None would be left.
        assert_eq!(Ports::new(Some(1024..=65_535), 1).take(now), Some(1025));
    }
}
