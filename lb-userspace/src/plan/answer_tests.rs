//! The table of answers: what is in it, and in which order it changes.

use std::net::IpAddr;

use lb_common::layout::{ANSWERS, ANSWERS_OF_ANY_PORT, Affinity, AnswerKey};

use super::*;
use crate::model::{Backend, Forward, MacAddress, Protocol, Route};

const ROOM: Capacity = Capacity { slots: 1 << 16, backends: 64, ports: 8 };

fn backend(last: u8, port: Option<u16>, forward: Forward) -> Backend {
    let route = Route {
        next_hop: MacAddress([2, 0, 0, 0, 0, last]),
        source_mac: MacAddress([2, 0, 0, 0, 0, 0]),
        egress_ifindex: 0,
        mtu: 1500,
        outer_source: Some("198.51.100.2".parse().unwrap()),
    };
    Backend {
        key: BackendKey { address: IpAddr::from([10, 0, 0, last]), port },
        weight: 100,
        live_permille: 1000,
        counted: true,
        alive: true,
        forward,
        route: Some(route),
    }
}

fn nat(last: u8, port: u16) -> Backend {
    backend(last, Some(port), Forward::Nat)
}

fn service(last: u8, port: Option<u16>, backends: Vec<Backend>) -> Service {
    Service {
        name: format!("service-{last}"),
        key: ServiceKey { vip: [203, 0, 113, last].into(), port, protocol: Protocol::Tcp },
        affinity: Affinity::Flow,
        icmp_echo: false,
        idle_seconds: 60,
        ring_size: Some(251),
        backends,
        leaving: Vec::new(),
        former: Vec::new(),
    }
}

fn carry_out(services: Vec<Service>, actual: &mut Actual) -> Vec<Change> {
    let desired = Desired { services, ..Desired::default() };
    let changes = plan(&desired, actual).unwrap();
    for change in &changes {
        actual.apply(change);
    }
    assert_eq!(plan(&desired, actual).unwrap(), [], "nothing is left to do");
    changes
}

fn empty() -> Actual {
    Actual { capacity: ROOM, ..Actual::default() }
}

fn place(changes: &[Change], is: impl Fn(&Change) -> bool) -> usize {
    changes.iter().position(is).unwrap_or_else(|| panic!("{changes:#?}"))
}

/// A key as a backend's answers have it.
fn from(last: u8, port: u16) -> AnswerKey {
    AnswerKey::new(lb_common::network::mapped([10, 0, 0, last]), port, 6)
}

fn vip(last: u8) -> [u8; 16] {
    lb_common::network::mapped([203, 0, 113, last])
}

#[test]
fn answers_are_known_before_they_come_and_until_none_does() {
    let mut actual = empty();
    let wanted = || service(1, Some(443), vec![nat(1, 8443), nat(2, 8443)]);
    let changes = carry_out(vec![wanted()], &mut actual);
    let last = changes.iter().rposition(|change| matches!(change, Change::SetAnswer { .. }));
    assert!(last < Some(place(&changes, |change| matches!(change, Change::SetBackend { .. }))));
    assert!(last < Some(place(&changes, |change| matches!(change, Change::SetDirectory { .. }))));
    let entry = actual.answers[&from(1, 8443)];
    assert_eq!((entry.vip, entry.port, entry.service), (vip(1), 443, 1));
    assert_eq!(actual.backends[&BackendId(entry.backend)].service, 1);
    assert_ne!(entry.backend, actual.answers[&from(2, 8443)].backend);
    assert_eq!(actual.answers.len(), 2);

    let changes = carry_out(vec![], &mut actual);
    let grace = place(&changes, |change| *change == Change::Grace);
    let cleared: Vec<_> =
        (0..).zip(&changes).filter(|(_, c)| matches!(c, Change::ClearAnswer { .. })).collect();
    assert_eq!(cleared.len(), 2);
    assert!(cleared.iter().all(|(at, _)| *at > grace), "{changes:#?}");
    assert!(actual.answers.is_empty());
}

/// The program looks for answers before the first packet goes out that has one.
#[test]
fn a_service_that_becomes_nat_is_heeded_first() {
    let mut actual = empty();
    let by = |forward| vec![service(1, Some(443), vec![backend(1, None, forward)])];
    carry_out(by(Forward::Ipip), &mut actual);
    assert!(actual.answers.is_empty());
    assert_eq!(actual.services[&ServiceId(1)].entry.answers, 0);

    let changes = carry_out(by(Forward::Nat), &mut actual);
    let heeded = |change: &Change| match change {
        Change::SetDirectory { services } => services.iter().any(|s| s.answers == ANSWERS),
        _ => false,
    };
    let answer = place(&changes, |change| matches!(change, Change::SetAnswer { .. }));
    let directory = place(&changes, heeded);
    let record = place(&changes, |change| matches!(change, Change::SetBackend { .. }));
    assert!(answer < directory && directory < record, "{changes:#?}");

    carry_out(by(Forward::Ipip), &mut actual);
    assert!(actual.answers.is_empty());
    assert_eq!(actual.services[&ServiceId(1)].entry.answers, 0);
}

#[test]
fn where_ports_stay_answers_of_any_port_are_turned_back() {
    let mut actual = empty();
    let any = service(1, None, vec![backend(1, None, Forward::Nat)]);
    carry_out(vec![any], &mut actual);
    assert_eq!(actual.answers[&from(1, 0)].port, 0);
    let flags = actual.services[&ServiceId(1)].entry.answers;
    assert_eq!(flags, ANSWERS | ANSWERS_OF_ANY_PORT);
}

/// What clients of a backend that leaves are still answered ends where another service takes its
/// place.
#[test]
fn a_backend_that_leaves_is_answered_until_another_service_has_it() {
    let mut actual = empty();
    let first = || service(1, Some(443), vec![nat(1, 8443), nat(2, 8443)]);
    let second = |backends| service(2, Some(443), backends);
    carry_out(vec![first(), second(vec![nat(3, 8443)])], &mut actual);

    let leaving = || {
        let mut first = first();
        first.leaving = vec![Backend { live_permille: 0, ..first.backends.remove(0) }];
        first
    };
    carry_out(vec![leaving(), second(vec![nat(3, 8443)])], &mut actual);
    assert_eq!(actual.answers[&from(1, 8443)].vip, vip(1));

    let changes = carry_out(vec![leaving(), second(vec![nat(3, 8443), nat(1, 8443)])], &mut actual);
    assert_eq!(actual.answers[&from(1, 8443)].vip, vip(2));
    assert!(!changes.iter().any(|change| matches!(change, Change::ClearAnswer { .. })), "at once");
}

/// Addresses of the other family can't be put in a packet's place.
#[test]
fn the_other_family_has_no_answers() {
    let mut actual = empty();
    let mut wanted = service(1, Some(443), vec![nat(1, 8443)]);
    wanted.backends[0].key.address = "2001:db8::1".parse().unwrap();
    carry_out(vec![wanted], &mut actual);
    assert!(actual.answers.is_empty());
}
