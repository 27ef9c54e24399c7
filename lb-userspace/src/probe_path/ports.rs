//! Source ports of probes: pure, and time is an argument.
//!
//! A port names what its probe is for, so none is used again while an older probe from it may
//! still be under way.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, VecDeque},
    fs,
    ops::RangeInclusive,
    time::Instant,
};

/// Ports that anybody may bind to.
const ALL: RangeInclusive<u16> = 1024..=65_535;
/// Where the host's own connections leave fewer than so many ports, they are not avoided.
const LEAST: usize = 16_384;
/// So many agents of one network namespace have ports of their own each: they may probe the same
/// VIP from the same address, and what comes back must find who asked.
const AGENTS: u32 = 4;

/// The ports, the longest unused first.
#[derive(Debug)]
pub(super) struct Ports {
    free: VecDeque<u16>,
    /// Ports in use, by when they are free again.
    busy: BinaryHeap<Reverse<(Instant, u16)>>,
}

impl Ports {
    /// The ports of an agent, which has that number in its network namespace, but for those that
    /// connections of the host itself come from: on those, answers of a VIP may be somebody else's.
    pub(super) fn new(hosts_own: Option<RangeInclusive<u16>>, number: u32) -> Self {
        let others = |port: &u16| hosts_own.as_ref().is_none_or(|own| !own.contains(port));
        let enough = ALL.filter(others).count() >= LEAST;
        let ours = |port: &u16| u32::from(*port) % AGENTS == number % AGENTS;
        let free = ALL.filter(|port| ours(port) && (!enough || others(port)));
        Self { free: free.collect(), busy: BinaryHeap::new() }
    }

    /// A port for a probe that is over by `until`; `None` while all are in use.
    pub(super) fn take(&mut self, now: Instant, until: Instant) -> Option<u16> {
        while let Some(Reverse((free_again, port))) = self.busy.peek().copied()
            && free_again <= now
        {
            self.busy.pop();
            self.free.push_back(port);
        }
        let port = self.free.pop_front()?;
        self.busy.push(Reverse((until, port)));
        Some(port)
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
    use std::{collections::BTreeSet, time::Duration};

    use super::*;

    #[test]
    fn no_port_is_used_again_in_time() {
        let begin = Instant::now();
        let second = Duration::from_secs(1);
        let mut ports = Ports::new(None, 0);
        let mut taken = BTreeSet::new();
        while let Some(port) = ports.take(begin, begin + second) {
            assert!(taken.insert(port), "{port} twice");
        }
        assert_eq!(taken.len(), ALL.count() / 4);
        assert_eq!(ports.take(begin + second / 2, begin + second), None);
        let again = ports.take(begin + second, begin + 2 * second);
        assert_eq!(again, Some(1024), "the one that is unused for the longest");
    }

    #[test]
    fn a_short_probe_frees_its_port_before_a_long_one() {
        let begin = Instant::now();
        let second = Duration::from_secs(1);
        let mut ports = Ports::new(Some(1024..=49_151), 0);
        let long = ports.take(begin, begin + 10 * second).unwrap();
        let short = ports.take(begin, begin + second).unwrap();
        while ports.take(begin, begin + 5 * second).is_some() {}
        assert_eq!(ports.take(begin + second, begin + second), Some(short));
        assert_ne!(long, short);
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
            while let Some(port) = ports.take(now, now + Duration::from_secs(1)) {
                assert!(!(32_768..=60_999).contains(&port), "{port}");
                assert!(seen.insert(port), "{port} is two agents'");
            }
        }
        assert_eq!(seen.len(), 36_280);
        // None would be left.
        assert_eq!(Ports::new(Some(1024..=65_535), 1).take(now, now), Some(1025));
    }
}
