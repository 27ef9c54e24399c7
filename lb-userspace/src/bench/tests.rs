//! The whole benchmark in a real kernel, with few packets.

use lb_common::layout::BackendCounters;
use serde_json::Value;

use super::{frame::tests::assert_valid, *};
use crate::{
    bench::class::{Case, Class, Mode, cases},
    dataplane::{Action, UnderTest},
};

fn may_run(name: &str) -> bool {
    // SAFETY: asks for a number.
    let root = unsafe { libc::geteuid() } == 0;
    if !root {
        println!("SKIP {name}: needs root");
    }
    root
}

#[test]
fn every_case_has_figures_and_a_target() {
    if !may_run("every_case_has_figures_and_a_target") {
        return;
    }
    let report = report(Effort { packets: 500, rounds: 3 }, |_, _| {}).unwrap();
    assert_eq!(report.results.len(), cases().len());
    for row in &report.results {
        assert!(row.ns.is_finite() && row.ns_min <= row.ns && row.ns <= row.ns_max, "{row:?}");
        assert_eq!(row.target_ns.is_some(), row.class != Class::Moving, "{row:?}");
    }
    for program in ["least", "classic"] {
        assert!(report.references.iter().any(|reference| reference.program == program));
    }
    assert!(report.memory.map_bytes > 64 * 65_537 * 8, "{:?}", report.memory);
    assert!(report.ring_build_ms.ms.min > 0.0);

    let json: Value = serde_json::to_value(&report).unwrap();
    assert_eq!(json["results"][0]["class"], "v4_tcp");
    assert_eq!(json["results"][0]["forward"], "l2");
    let text = anstream::adapter::strip_str(&show::text(&report)).to_string();
    let lines = text.lines().filter(|line| line.ends_with("  ok") || line.ends_with("  over"));
    let judged = cases().iter().filter(|case| case.class != Class::Moving).count();
    assert_eq!(lines.count(), judged, "{text}");
}

/// Counters are per CPU, so the limit is told for a machine of two.
#[test]
fn a_large_balancer_whose_backends_answer_directly_fits_its_limit() {
    if !may_run("a_large_balancer_whose_backends_answer_directly_fits_its_limit") {
        return;
    }
    let memory = memory().unwrap();
    let counters = u64::from(memory.backends) * size_of::<BackendCounters>() as u64;
    let further = aya::util::nr_cpus().unwrap().saturating_sub(2) as u64 * counters;
    let bytes = memory.map_bytes - further;
    assert!(bytes <= targets::MAP_BYTES, "{bytes} bytes");
}

#[test]
fn driven_packets_are_valid_before_and_after_the_balancer() {
    if !may_run("driven_packets_are_valid_before_and_after_the_balancer") {
        return;
    }
    let (ifindex, client_routes) = network::enter().unwrap();
    let (plane, actual) = filled(&scene::direct()).unwrap();
    let mut bench = Bench::open(plane, &actual, ifindex).unwrap();
    let classic = [UnderTest::Balancer, UnderTest::Classic];
    drive(&mut bench, &class::direct(), &classic);
    bench.replace(filled(&scene::answered()).unwrap().0);
    drive(&mut bench, &class::answered(), &[UnderTest::Balancer]);
    // The same by the routes that are told.
    let mut plane = filled(&scene::answered()).unwrap().0;
    plane.tell_client_routes(&client_routes).unwrap();
    plane.hold_client_routes_until(u64::MAX).unwrap();
    bench.replace(plane);
    drive(&mut bench, &class::answered(), &[UnderTest::Balancer]);
}

fn drive(bench: &mut Bench, cases: &[Case], programs: &[UnderTest]) {
    for case in cases.iter().filter(|case| case.class != Class::Arp) {
        let plan = frame::plan(case);
        let driven = bench.drive(UnderTest::Empty, &plan, 7).unwrap();
        assert_eq!(driven.action, Action::Pass);
        assert_valid(&driven.frame);
        if !case.class.is_ours() {
            continue;
        }
        for program in programs {
            let sent = bench.drive(*program, &plan, 7).unwrap();
            assert_eq!(sent.action, Action::Tx, "{program:?} {case:?}");
            let outer = outer_len(case);
            assert_eq!(sent.frame.len(), driven.frame.len() + outer, "{program:?} {case:?}");
            // The MAC addresses in place, and the packet behind the outer header.
            let next_hop = if case.class.is_answer() { 0xc } else { 1 };
            assert_eq!(sent.frame[..4], [2, 0, 0, next_hop], "{program:?} {case:?}");
            if matches!(case.mode, Some(Mode::Nat | Mode::Fullnat)) {
                assert_ne!(sent.frame[14..], driven.frame[14..], "{program:?} {case:?}");
            }
            let inner = [&driven.frame[..14], &sent.frame[14 + outer..]].concat();
            assert_valid(&inner);
        }
    }
}

fn outer_len(case: &Case) -> usize {
    match case.mode {
        None | Some(Mode::L2 | Mode::Nat | Mode::Fullnat) => 0,
        Some(Mode::Ipip) => 20,
        Some(Mode::Ipip6) => 40,
        Some(Mode::Gue) => 32,
        Some(Mode::Gue6) => 52,
    }
}
