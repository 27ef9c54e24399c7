use std::net::IpAddr;

use lb_common::layout::{Affinity, Kind, PoolRange};
use proptest::prelude::*;

use super::{record::address_bytes, *};
use crate::model::{Backend, FormerMember, FormerRing, Forward, MacAddress, Protocol, Route};

const ROOM: Capacity = Capacity { slots: 1 << 20, backends: 1024, ports: 8 };

fn route(interface: u32) -> Route {
    Route {
        next_hop: MacAddress([2, 0, 0, 0, 0, 1]),
        source_mac: MacAddress([2, 0, 0, 0, 0, 2]),
        egress_ifindex: interface,
        mtu: 1500,
        outer_source: Some("198.51.100.2".parse().unwrap()),
    }
}

fn backend(last: u8, live_permille: u16) -> Backend {
    Backend {
        key: BackendKey { address: IpAddr::from([10, 0, 0, last]), port: None },
        weight: 100,
        live_permille,
        counted: true,
        alive: live_permille > 0,
        forward: Forward::Ipip,
        route: Some(route(0)),
    }
}

fn service(last: u8, backends: Vec<Backend>) -> Service {
    let vip = IpAddr::from([203, 0, 113, last]);
    Service {
        name: format!("service-{last}"),
        key: ServiceKey { vip, port: Some(80), protocol: Protocol::Tcp },
        affinity: Affinity::Flow,
        icmp_echo: false,
        idle_seconds: 60,
        ring_size: Some(251),
        backends,
        leaving: Vec::new(),
        former: Vec::new(),
    }
}

fn desired(services: Vec<Service>) -> Desired {
    Desired { services, ..Desired::default() }
}

fn empty() -> Actual {
    Actual { capacity: ROOM, ..Actual::default() }
}

/// Applies a plan, and holds it to what every plan promises.
fn carry_out(desired: &Desired, actual: &mut Actual) -> Vec<Change> {
    let changes = plan(desired, actual).unwrap();
    for change in &changes {
        actual.apply(change);
        check_whole(actual);
    }
    assert_eq!(plan(desired, actual).unwrap(), [], "nothing is left to do");
    changes
}

/// After every single step, what is pointed at is there.
fn check_whole(actual: &Actual) {
    for (id, service) in &actual.services {
        for slot in &service.ring {
            for owner in slot.names() {
                let record = actual.backends.get(&owner).expect("a slot's owner has a record");
                assert_eq!(record.service, id.0, "a slot's owner is its service's");
            }
        }
    }
    for record in actual.backends.values().filter(|record| record.egress_ifindex != 0) {
        assert_eq!(actual.ports.get(&record.egress_port), Some(&record.egress_ifindex));
    }
}

fn owners(actual: &Actual, service: u32) -> BTreeSet<BackendId> {
    actual.services[&ServiceId(service)].ring.iter().map(|slot| slot.current()).collect()
}

#[test]
fn from_nothing_to_services_and_back() {
    let mut actual = empty();
    let wanted = desired(vec![
        service(1, vec![backend(1, 1000), backend(2, 1000)]),
        service(2, vec![backend(1, 1000)]),
    ]);
    carry_out(&wanted, &mut actual);
    assert_eq!(actual.services.len(), 2);
    assert_eq!(owners(&actual, 1), [BackendId(1), BackendId(2)].into());
    assert_eq!(owners(&actual, 2), [BackendId(3)].into(), "one server behind two services is two");
    let changes = carry_out(&desired(vec![]), &mut actual);
    assert!(actual.services.is_empty() && actual.backends.is_empty());
    assert!(actual.unclaimed.is_empty(), "no ring is left to inherit");
    assert!(changes.contains(&Change::Grace), "removals wait for running programs");
}

#[test]
fn a_failure_moves_the_failed_backends_slots_alone() {
    let mut actual = empty();
    let all = |live| service(1, vec![backend(1, live), backend(2, 1000), backend(3, 1000)]);
    carry_out(&desired(vec![all(1000)]), &mut actual);
    let before = actual.services[&ServiceId(1)].ring.clone();
    let changes = carry_out(&desired(vec![all(0)]), &mut actual);
    let [Change::SetSlots { slots }, Change::SetBackend { .. }] = changes.as_slice() else {
        panic!("{changes:?}")
    };
    let of_failed = before.iter().filter(|slot| slot.current() == BackendId(1)).count();
    assert_eq!(slots.len(), of_failed);
    assert!(slots.iter().all(|(_, slot)| slot.previous() == BackendId(1)));
    assert_eq!(owners(&actual, 1), [BackendId(2), BackendId(3)].into());
    carry_out(&desired(vec![all(1000)]), &mut actual);
    let ring = &actual.services[&ServiceId(1)].ring;
    let same = |(after, before): (&Slot, &Slot)| after.current() == before.current();
    assert!(ring.iter().zip(&before).all(same), "recovery restores the ring");
    let moving = ring.iter().filter(|slot| slot.is_moving()).count();
    assert_eq!(moving, of_failed, "flows that began meanwhile have records");
}

#[test]
fn without_a_live_backend_the_ring_is_empty_at_once() {
    let mut actual = empty();
    carry_out(&desired(vec![service(1, vec![backend(1, 1000)])]), &mut actual);
    carry_out(&desired(vec![service(1, vec![backend(1, 0)])]), &mut actual);
    assert_eq!(owners(&actual, 1), [BackendId::NONE].into());
    carry_out(&desired(vec![service(1, vec![backend(1, 1000)])]), &mut actual);
    carry_out(&desired(vec![service(1, vec![])]), &mut actual);
    assert_eq!(owners(&actual, 1), [BackendId::NONE].into());
}

#[test]
fn a_new_service_inherits_nothing() {
    let mut actual = empty();
    // As after a crash between a directory without the service and the clearing of its ring.
    for index in 0..251 {
        actual.unclaimed.insert(index, Slot::stable(BackendId(9)));
    }
    carry_out(&desired(vec![service(1, vec![])]), &mut actual);
    assert_eq!(owners(&actual, 1), [BackendId::NONE].into());
}

#[test]
fn numbers_given_again_have_another_generation() {
    let mut actual = empty();
    carry_out(&desired(vec![service(1, vec![backend(1, 1000)])]), &mut actual);
    let first = actual.backends[&BackendId(1)].generation;
    carry_out(&desired(vec![service(1, vec![])]), &mut actual);
    carry_out(&desired(vec![service(1, vec![backend(2, 1000)])]), &mut actual);
    assert_ne!(actual.backends[&BackendId(1)].generation, first);
}

/// Maps that are read again tell nothing of a vacant number whose generation was 0.
#[test]
fn no_backend_has_the_generation_of_a_number_that_nobody_had() {
    let mut actual = empty();
    carry_out(&desired(vec![service(1, vec![backend(1, 1000)])]), &mut actual);
    assert_eq!(actual.backends[&BackendId(1)].generation, 1);
    carry_out(&desired(vec![service(1, vec![])]), &mut actual);
    actual.generations.insert(BackendId(1), u32::MAX);
    carry_out(&desired(vec![service(1, vec![backend(2, 1000)])]), &mut actual);
    assert_eq!(actual.backends[&BackendId(1)].generation, 1);
}

#[test]
fn a_changed_next_hop_changes_the_record_alone() {
    let mut actual = empty();
    carry_out(&desired(vec![service(1, vec![backend(1, 1000)])]), &mut actual);
    let mut moved = backend(1, 1000);
    moved.route = None;
    let changes = carry_out(&desired(vec![service(1, vec![moved.clone()])]), &mut actual);
    assert!(matches!(changes.as_slice(), [Change::SetBackend { .. }]), "{changes:?}");
    assert_eq!(actual.backends[&BackendId(1)].resolved, 0);
    moved.route = Some(Route { next_hop: MacAddress([2, 9, 9, 9, 9, 9]), ..route(0) });
    carry_out(&desired(vec![service(1, vec![moved])]), &mut actual);
    assert_eq!(actual.backends[&BackendId(1)].macs[..6], [2, 9, 9, 9, 9, 9]);
}

#[test]
fn egress_interfaces_share_ports_and_lose_them() {
    let mut actual = empty();
    let by = |last, interface| Backend { route: Some(route(interface)), ..backend(last, 1000) };
    carry_out(&desired(vec![service(1, vec![by(1, 7), by(2, 8), by(3, 7)])]), &mut actual);
    assert_eq!(actual.ports, [(0, 7), (1, 8)].into());
    carry_out(&desired(vec![service(1, vec![by(2, 8)])]), &mut actual);
    assert_eq!(actual.ports, [(1, 8)].into());
}

#[test]
fn what_does_not_fit_says_how_much_would() {
    let mut actual = empty();
    actual.capacity = Capacity { slots: 300, backends: 2, ports: 1 };
    let wanted =
        desired(vec![service(1, vec![backend(1, 1000), backend(2, 1000)]), service(2, vec![])]);
    let too_small = plan(&wanted, &actual).unwrap_err();
    assert_eq!(too_small.needed, Capacity { slots: 502, backends: 3, ports: 0 });
}

fn slots(actual: &Actual) -> Vec<Slot> {
    actual.services[&ServiceId(1)].ring.clone()
}

/// Every balancer has the ring of the config, whatever was before; and who had a slot's hashes in
/// the former ring is its previous owner.
#[test]
fn a_ring_of_another_size_knows_its_former_owners() {
    let sized = |size| {
        let backends = vec![backend(1, 1000), backend(2, 1000)];
        desired(vec![Service { ring_size: Some(size), ..service(1, backends) }])
    };
    let mut actual = empty();
    carry_out(&sized(251), &mut actual);
    let before = slots(&actual);
    carry_out(&sized(509), &mut actual);
    let mut fresh = empty();
    carry_out(&sized(509), &mut fresh);
    let current = |slots: Vec<Slot>| slots.iter().map(|slot| slot.current()).collect::<Vec<_>>();
    assert_eq!(current(slots(&actual)), current(slots(&fresh)));
    let right = (0..509).filter(|&index| {
        let former = before[(2 * index + 1) * 251 / (2 * 509)].current();
        slots(&actual)[index].previous() == former
    });
    assert_eq!(right.count(), 509);
}

#[test]
fn a_leaving_backend_keeps_its_flows_until_it_is_gone() {
    let mut actual = empty();
    let pair = vec![backend(1, 1000), backend(2, 1000)];
    carry_out(&desired(vec![service(1, pair)]), &mut actual);
    let leaving = Backend { live_permille: 0, alive: true, ..backend(2, 0) };
    let without = Service { leaving: vec![leaving], ..service(1, vec![backend(1, 1000)]) };
    carry_out(&desired(vec![without]), &mut actual);
    assert_eq!(owners(&actual, 1), [BackendId(1)].into());
    assert!(slots(&actual).iter().any(|slot| slot.previous() == BackendId(2)));
    assert_eq!(actual.backends[&BackendId(2)].alive, 1);
    carry_out(&desired(vec![service(1, vec![backend(1, 1000)])]), &mut actual);
    assert!(slots(&actual).iter().all(|slot| slot.names().all(|id| id == BackendId(1))));
    assert_eq!(actual.backends.len(), 1);
}

/// From empty maps the slots are what they were: each change of the past moved them.
#[test]
fn a_cold_start_lays_out_former_rings() {
    let former = |lives: &[(u8, u16)]| FormerRing {
        ring_size: 251,
        members: lives
            .iter()
            .map(|&(last, live_permille)| FormerMember {
                key: backend(last, 0).key,
                weight: 100,
                live_permille,
            })
            .collect(),
    };
    let lives = |lives: &[(u8, u16)]| -> Vec<Backend> {
        lives.iter().map(|&(last, live)| Backend { alive: true, ..backend(last, live) }).collect()
    };
    let past = [&[(1, 1000), (2, 1000), (3, 1000)], &[(1, 1000), (2, 0), (3, 1000)]];
    let now = &[(1, 1000), (2, 1000), (3, 0)];

    let mut warm = empty();
    for past in past {
        carry_out(&desired(vec![service(1, lives(past))]), &mut warm);
    }
    carry_out(&desired(vec![service(1, lives(now))]), &mut warm);
    let mut cold = empty();
    let former = past.map(|past| former(past)).to_vec();
    carry_out(&desired(vec![Service { former, ..service(1, lives(now)) }]), &mut cold);
    assert_eq!(slots(&cold), slots(&warm));
    assert!(slots(&cold).iter().any(|slot| slot.is_moving()));
}

/// A ring is built again only where something of it changed, and the plan is the same.
#[test]
fn what_did_not_change_is_not_planned_again() {
    let with = |live| {
        desired(vec![
            service(1, vec![backend(1, 1000), backend(2, 1000)]),
            service(2, vec![backend(1, live), backend(2, 1000)]),
        ])
    };
    let mut actual = empty();
    carry_out(&with(1000), &mut actual);
    let changes = plan_after(Some(&with(1000)), &mut Bases::default(), &with(0), &actual).unwrap();
    assert_eq!(changes, plan(&with(0), &actual).unwrap());
    assert!(!changes.is_empty());
    assert_eq!(
        plan_after(Some(&with(1000)), &mut Bases::default(), &with(1000), &actual).unwrap(),
        []
    );
}

/// Slots may name a backend that the ring hasn't: it came back, and nothing is known of it yet.
#[test]
fn slots_forget_one_that_goes_before_it_counts() {
    let (mut actual, mut bases) = (empty(), Bases::default());
    let one = || backend(1, 1000);
    let left = Service {
        leaving: vec![Backend { live_permille: 0, ..backend(2, 1000) }],
        ..service(1, vec![one()])
    };
    let back = Backend { counted: false, alive: false, ..backend(2, 0) };
    let steps = [
        service(1, vec![one(), backend(2, 1000)]),
        left,
        service(1, vec![one(), back]),
        service(1, vec![one()]),
    ]
    .map(|service| desired(vec![service]));
    let mut last = None;
    for step in &steps {
        for change in &plan_after(last, &mut bases, step, &actual).unwrap() {
            actual.apply(change);
            check_whole(&actual);
        }
        last = Some(step);
    }
    assert_eq!(actual.backends.len(), 1);
}

/// Nothing is remembered of packets that stand alone.
#[test]
fn slots_of_single_packets_never_move() {
    let mut actual = empty();
    let alone = |backends| Service { affinity: Affinity::Packet, ..service(1, backends) };
    carry_out(&desired(vec![alone(vec![backend(1, 1000), backend(2, 1000)])]), &mut actual);
    carry_out(&desired(vec![alone(vec![backend(1, 1000), backend(2, 0)])]), &mut actual);
    assert!(slots(&actual).iter().all(|&slot| slot == Slot::stable(BackendId(1))));
}

#[test]
fn records_hold_the_outer_header() {
    let vip4 = "203.0.113.1".parse().unwrap();
    let vip6 = "2001:db8::1".parse().unwrap();
    let v6 = |forward| Backend {
        key: BackendKey { address: "2001:db8::11".parse().unwrap(), port: None },
        forward,
        route: Some(Route { outer_source: Some("2001:db8::2".parse().unwrap()), ..route(0) }),
        ..backend(1, 1000)
    };
    let build = |vip, backend: &Backend| record::build(ServiceId(1), vip, backend, 3, 0, None);
    let record = build(vip4, &backend(1, 1000));
    assert_eq!((record.kind, record.resolved, record.generation), (Kind::Ipv4 as u8, 1, 3));
    assert_eq!(record.outer[9], 4);
    assert_eq!(record.outer[12..20], [198, 51, 100, 2, 10, 0, 0, 1]);
    assert_eq!(build(vip6, &backend(1, 1000)).outer[9], 41);
    let record = build(vip4, &v6(Forward::Gue));
    assert_eq!((record.kind, record.outer[6]), (Kind::GueIpv6 as u8, 17));
    assert_eq!(record.outer[42..44], 6080u16.to_be_bytes());
    assert_eq!(record.outer[48..52], [0, 4, 0, 0]);
    assert_eq!(backend_key(&record), v6(Forward::Gue).key);
    // A source of the other family is none.
    let crossed = Backend { route: Some(route(0)), ..v6(Forward::Ipip) };
    assert_eq!(build(vip4, &crossed).resolved, 0);
    assert_eq!(build(vip6, &v6(Forward::L2)).outer, [0; 56]);
}

/// A backend's packets come from a pool's addresses, or from its way's source; places are given before
/// they are named, and stay.
#[test]
fn pools_have_places() {
    let fullnat = |last| Backend { forward: Forward::Fullnat, ..backend(last, 1000) };
    let mut wish = desired(vec![service(1, vec![fullnat(1), fullnat(2)])]);
    let mut actual = empty();
    carry_out(&wish, &mut actual);
    let own = |n| lb_common::network::mapped([198, 51, 100, n]);
    let records = |actual: &Actual| actual.backends.values().map(|r| r.pool()).collect::<Vec<_>>();
    let pool = PoolRange { first: 0, count: 1, first_port: 1024, ports: 31_744 };
    assert_eq!((records(&actual), &actual.pools), (vec![pool; 2], &[(0, own(2))].into()));
    assert!(actual.services.values().all(|s| s.entry.answers == lb_common::layout::FULLNAT));
    assert_eq!(
        actual.backends.values().next().unwrap().vip(),
        &address_bytes(wish.services[0].key.vip)
    );

    wish.pools.ipv4 = [7, 8].map(|n| [198, 51, 100, n].into()).to_vec();
    wish.pools.ports = 40_000..=40_099;
    let changes = plan(&wish, &actual).unwrap();
    let first_record = changes.iter().position(|c| matches!(c, Change::SetBackend { .. }));
    let last_pool = changes.iter().rposition(|c| matches!(c, Change::SetPool { .. }));
    assert!(last_pool < first_record, "{changes:?}");
    carry_out(&wish, &mut actual);
    let pool = PoolRange { first: 1, count: 2, first_port: 40_000, ports: 100 };
    assert_eq!(records(&actual), [pool; 2]);
    assert_eq!(actual.pools, [(0, own(2)), (1, own(7)), (2, own(8))].into());
    // Without a source there is no way.
    wish.pools = Pools::default();
    wish.services[0].backends[0].route.as_mut().unwrap().outer_source = None;
    carry_out(&wish, &mut actual);
    let resolved: Vec<u8> = actual.backends.values().map(|record| record.resolved).collect();
    assert_eq!(resolved, [0, 1]);
}

/// A pool of the backend's family, the VIP as it is, and the way's length for packets as they leave.
#[test]
fn records_between_families() {
    let vip: IpAddr = "2001:db8::10".parse().unwrap();
    let crossed = Backend { forward: Forward::Fullnat, ..backend(1, 1000) };
    let pool = PoolRange { first: 3, count: 1, first_port: 1024, ports: 64 };
    let record = record::build(ServiceId(1), vip, &crossed, 3, 0, Some(pool));
    assert_eq!((record.kind, record.resolved), (Kind::FullnatToIpv4 as u8, 1));
    assert_eq!((record.vip(), record.pool()), (&address_bytes(vip), pool));
    assert_eq!((record.mtu, record.mtu_across()), (u16::MAX, 1500));
    assert_eq!(record.destination().0, &address_bytes(crossed.key.address));
    let other =
        Backend { key: BackendKey { address: "fd00::11".parse().unwrap(), port: None }, ..crossed };
    let record = record::build(ServiceId(1), [203, 0, 113, 10].into(), &other, 3, 0, Some(pool));
    assert_eq!((record.kind, record.resolved), (Kind::FullnatToIpv6 as u8, 1));
}

/// Any few services with any few backends.
fn any_desired() -> impl Strategy<Value = Desired> {
    let backends = prop::collection::btree_map(1u8..6, (0u16..=1000, 0u32..3, any::<bool>()), 0..5);
    prop::collection::btree_map(1u8..4, backends, 0..3).prop_map(|services| Desired {
        services: services
            .into_iter()
            .map(|(last, backends)| {
                let backends = backends.into_iter().map(|(last, (live, interface, known))| {
                    Backend { route: known.then(|| route(interface)), ..backend(last, live) }
                });
                service(last, backends.collect())
            })
            .collect(),
        ..Desired::default()
    })
}

proptest! {
    /// From any state to any other: whole after each step, nothing left to do, nothing left over.
    #[test]
    fn any_change_is_safe_in_every_step(wishes in prop::collection::vec(any_desired(), 1..6)) {
        let mut actual = empty();
        for wish in &wishes {
            carry_out(wish, &mut actual);
            prop_assert!(actual.unclaimed.is_empty());
            let backends: usize = wish.services.iter().map(|s| s.backends.len()).sum();
            prop_assert_eq!(actual.backends.len(), backends);
        }
    }
}
