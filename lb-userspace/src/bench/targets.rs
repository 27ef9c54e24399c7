//! What xlb shall cost at most.

use super::class::{Case, Class, Mode};

/// Packets that aren't ours: ns each.
const NOT_OURS_NS: f64 = 40.0;
/// New flows and SYN floods: ns each packet.
const NEW_NS: f64 = 115.0;
/// Established flows: up to so many flows, ns each packet, and part of `classic`'s cost.
const ESTABLISHED: [(u32, f64, f64); 3] =
    [(1, 75.0, 0.45), (1 << 14, 95.0, 0.25), (1 << 20, 115.0, 0.2)];
/// IPv6 packets by that of IPv4 packets.
const V6_BY_V4: f64 = 1.2;
/// GUE by IP in IP.
const GUE_BY_IPIP: f64 = 1.15;
/// NAT by IP in IP, there and back.
const NAT_BY_IPIP: f64 = 1.2;
/// Full NAT: up to so many flows, ns each packet.
const FULLNAT: [(u32, f64); 2] = [(1 << 14, 250.0), (1 << 20, 400.0)];

/// Building a ring of 1,000 backends and 65,537 slots: ms.
pub(crate) const RING_BUILD_MS: f64 = 30.0;
/// Maps of 64 services of 65,537 slots: bytes.
pub(crate) const MAP_BYTES: u64 = 64 << 20;

/// The most that a case shall cost, in ns. `measured` gives another case's median.
///
/// IPv6 packets are measured by IPv4 packets over IPv4, whatever carries them, and GUE by IP in IP
/// of the same packets; where both hold, the lower one. NAT is measured by IP in IP alone, of the
/// same packets, or of those that are answered.
pub(crate) fn ns(case: &Case, measured: impl Fn(&Case) -> Option<f64>) -> Option<f64> {
    let mode = match case.class {
        Class::NotOurs | Class::NoAnswer | Class::Arp => return Some(NOT_OURS_NS),
        Class::NewFlows | Class::SynFlood => return Some(NEW_NS),
        Class::Moving => return None,
        Class::V4Answers => return by_nat(&Case { class: Class::V4Tcp, ..*case }, measured),
        Class::V6Answers => return by_nat(&Case { class: Class::V6Tcp, ..*case }, measured),
        Class::V4Tcp | Class::V4Udp | Class::V6Tcp => case.mode?,
    };
    let (over_v4, over_ipip) = match mode {
        Mode::L2 => (Mode::L2, None),
        Mode::Ipip => (Mode::Ipip, None),
        Mode::Ipip6 => (Mode::Ipip, None),
        Mode::Gue => (Mode::Gue, Some(Mode::Ipip)),
        Mode::Gue6 => (Mode::Gue, Some(Mode::Ipip6)),
        Mode::Nat => return by_nat(case, measured),
        Mode::Fullnat => {
            let flows = case.flows?;
            return FULLNAT.into_iter().find(|(most, _)| flows <= *most).map(|(_, ns)| ns);
        }
    };
    let by_v4 = case.class.is_v6().then(|| {
        let other = Case { class: Class::V4Tcp, mode: Some(over_v4), ..*case };
        measured(&other).map(|ns| ns * V6_BY_V4)
    });
    let by_ipip = over_ipip
        .map(|mode| measured(&Case { mode: Some(mode), ..*case }).map(|ns| ns * GUE_BY_IPIP));
    match (by_v4.flatten(), by_ipip.flatten()) {
        (Some(one), Some(other)) => Some(one.min(other)),
        (Some(one), None) | (None, Some(one)) => Some(one),
        (None, None) => established(case).map(|(ns, _)| ns),
    }
}

/// The most that NAT shall cost, there or back.
fn by_nat(there: &Case, measured: impl Fn(&Case) -> Option<f64>) -> Option<f64> {
    measured(&Case { mode: Some(Mode::Ipip), ..*there }).map(|ns| ns * NAT_BY_IPIP)
}

/// The most that a case shall cost as a part of `classic`'s cost.
pub(crate) fn ratio(case: &Case) -> Option<f64> {
    (case.class != Class::Moving && matches!(case.mode, Some(Mode::L2 | Mode::Ipip)))
        .then(|| established(case).map(|(_, ratio)| ratio))
        .flatten()
}

fn established(case: &Case) -> Option<(f64, f64)> {
    let flows = case.flows?;
    ESTABLISHED.into_iter().find(|(most, ..)| flows <= *most).map(|(_, ns, ratio)| (ns, ratio))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::class::cases;

    fn case(class: Class, flows: u32, mode: Mode) -> Case {
        Case { class, flows: Some(flows), mode: Some(mode) }
    }

    #[test]
    fn targets_follow_flows_mode_and_family() {
        let measured = |other: &Case| match other.mode {
            Some(Mode::Ipip) => Some(50.0),
            Some(Mode::Gue) => Some(80.0),
            _ => Some(100.0),
        };
        let target = |class, flows, mode| ns(&case(class, flows, mode), measured).unwrap();
        assert_eq!(target(Class::V4Tcp, 1, Mode::L2), 75.0);
        assert_eq!(target(Class::V4Udp, 1 << 14, Mode::Ipip), 95.0);
        assert_eq!(target(Class::V4Tcp, 1 << 20, Mode::Ipip6), 115.0);
        assert_eq!(target(Class::V4Tcp, 1, Mode::Gue), 50.0 * 1.15);
        assert_eq!(target(Class::V6Tcp, 1, Mode::Ipip6), 50.0 * 1.2);
        for class in [Class::V4Tcp, Class::V4Answers, Class::V6Tcp, Class::V6Answers] {
            assert_eq!(target(class, 1, Mode::Nat), 50.0 * 1.2);
        }
        assert_eq!(target(Class::V6Tcp, 1 << 14, Mode::Fullnat), 250.0);
        // By IPv4: 96; by IP in IP: 57.5, or over IPv6 115.
        assert_eq!(target(Class::V6Tcp, 1, Mode::Gue), 50.0 * 1.15);
        assert_eq!(target(Class::V6Tcp, 1, Mode::Gue6), 80.0 * 1.2);
    }

    #[test]
    fn every_case_but_the_moving_has_a_target() {
        let has = |case: &Case| ns(case, |_| Some(1.0)).is_some();
        assert!(cases().iter().all(|case| has(case) != (case.class == Class::Moving)));
        assert_eq!(ratio(&case(Class::V6Tcp, 1 << 14, Mode::Ipip)), Some(0.25));
        assert_eq!(ratio(&case(Class::V4Tcp, 1, Mode::Gue)), None);
        assert_eq!(ratio(&case(Class::V4Udp, 1, Mode::Ipip)), Some(0.45));
        assert_eq!(ratio(&Case { class: Class::NotOurs, flows: None, mode: None }), None);
    }
}
