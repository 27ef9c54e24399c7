//! Since when slots move, and when they may rest.

use std::collections::{BTreeSet, HashSet};

use lb_common::{
    id::{BackendId, ServiceId},
    layout::{Kind, Slot},
};

use super::Survey;
use crate::plan::{Actual, ActualService, Change};

/// A flow's packet may take so long from the program's first look at the slot to the record, and
/// the clocks that tell the seconds may differ by so much.
const SLACK_SECONDS: u32 = 2;

/// Since when each moving slot is as it is. Times are in seconds of the clock that records name.
#[derive(Clone, Debug, Default)]
pub struct Transition {
    /// By index in the slot table; [`STABLE`] where the slot doesn't move.
    since: Vec<u32>,
    /// Slots that moved before there were records of all their flows, or where nobody knows: a
    /// flow that was under way when it was first seen may live with whom its record doesn't name.
    unsure: HashSet<u32>,
    /// Moving slots.
    moving: usize,
    /// When a packet of an open flow last got no record, although it should have one.
    unrecorded: u32,
    /// When a packet that opens a flow last got none.
    unrecorded_opening: u32,
}

/// How long a handshake may take whose SYN got no record, and went where its next packet goes
/// without one: as long as a record of it would last.
const HANDSHAKE_SECONDS: u32 = 75;

const STABLE: u32 = u32::MAX;

impl Transition {
    /// As maps that another agent left are found: who knows since when and out of which records
    /// their slots move.
    pub fn of(actual: &Actual, now: u32) -> Self {
        let mut transition = Self::default();
        for service in actual.services.values() {
            for (index, slot) in (service.entry.ring_start..).zip(&service.ring) {
                transition.note_slot(index, *slot, now);
                if slot.is_moving() {
                    transition.unsure.insert(index);
                }
            }
        }
        transition
    }

    /// Follows a change that was made.
    pub fn note(&mut self, change: &Change, now: u32) {
        if let Change::SetSlots { slots } = change {
            for &(index, slot) in slots {
                // A slot that begins with former owners comes from the history.
                let begins = self.since.get(index as usize).is_none_or(|&since| since == STABLE);
                if begins && slot.elder() != BackendId::NONE {
                    self.unsure.insert(index);
                }
                self.note_slot(index, slot, now);
            }
        }
    }

    fn note_slot(&mut self, index: u32, slot: Slot, now: u32) {
        let place = index as usize;
        if place >= self.since.len() {
            if !slot.is_moving() {
                return;
            }
            self.since.resize(place + 1, STABLE);
        }
        let before = self.since[place] != STABLE;
        self.since[place] = if slot.is_moving() { now } else { STABLE };
        self.moving = self.moving + usize::from(slot.is_moving()) - usize::from(before);
        if !slot.is_moving() {
            self.unsure.remove(&index);
        }
        if self.moving == 0 {
            self.since = Vec::new();
        }
    }

    /// An open flow got no record: the window begins anew for all, since it may be quiet from now
    /// on.
    pub fn note_unrecorded(&mut self, now: u32) {
        self.unrecorded = now;
    }

    /// An opening flow got no record: no slot settles before its handshake is over.
    pub fn note_unrecorded_opening(&mut self, now: u32) {
        self.unrecorded_opening = now;
    }

    /// Whether any slot moves.
    pub fn is_over(&self) -> bool {
        self.moving == 0
    }

    /// By index in the slot table: whether the slot moves.
    pub fn moving(&self) -> Vec<bool> {
        self.since.iter().map(|&since| since != STABLE).collect()
    }

    /// The slots that come closer to rest, after a survey: by index in the slot table.
    ///
    /// First a slot is settled, when every flow of `previous` that lives has a record; then, when
    /// a later survey finds no record that names another than the current owner, it is stable.
    ///
    /// Where flows are unsure and the second chance finds their backends (`gue`), a slot waits
    /// until these have ended. It waits for the window also where it begins settled: its elder's
    /// flows have no records yet.
    pub fn rest(&self, actual: &Actual, survey: &Survey, now: u32) -> Vec<(u32, Slot)> {
        let mut slots = Vec::new();
        let mut seen = BTreeSet::new();
        for (id, service) in &actual.services {
            // Several services may share a ring.
            if seen.insert(service.entry.ring_start) {
                let by_chance = has_second_chance(actual, *id);
                slots.extend(self.rest_of(service, by_chance, survey, now));
            }
        }
        slots
    }

    /// Backends that flows may live with for all that slots tell: their current and previous
    /// owners, and elders of whom no survey has told since.
    pub fn busy(&self, actual: &Actual, survey: &Survey) -> BTreeSet<BackendId> {
        let mut busy = BTreeSet::new();
        let mut last = Slot::VACANT;
        for (id, service) in &actual.services {
            let by_chance = has_second_chance(actual, *id);
            for (index, &slot) in (service.entry.ring_start..).zip(&service.ring) {
                if slot.elder() == BackendId::NONE {
                    // Nobody to ask about.
                } else if survey.began <= self.since(index).saturating_add(SLACK_SECONDS)
                    || by_chance && self.unsure.contains(&index)
                {
                    // An unsure flow of the elder's has a record that names another.
                    busy.insert(slot.elder());
                }
                // Runs of equal slots are common where little moves.
                if slot != last {
                    busy.extend([slot.current(), slot.previous()]);
                    last = slot;
                }
            }
        }
        busy
    }

    fn since(&self, index: u32) -> u32 {
        self.since.get(index as usize).copied().unwrap_or(0)
    }

    fn rest_of(
        &self,
        service: &ActualService,
        by_chance: bool,
        survey: &Survey,
        now: u32,
    ) -> impl Iterator<Item = (u32, Slot)> {
        let idle = service.entry.idle_seconds;
        (service.entry.ring_start..).zip(&service.ring).filter_map(move |(index, &slot)| {
            let since = *self.since.get(index as usize).filter(|&&since| since != STABLE)?;
            let unsure = by_chance && self.unsure.contains(&index);
            let begin = since.max(self.unrecorded);
            let quiet_end = begin.saturating_add(idle).saturating_add(SLACK_SECONDS);
            if unsure && (survey.unsure.contains(&index) || survey.began <= quiet_end) {
                return None;
            }
            let after = if slot.is_settled() {
                let alone = |owners: &Vec<BackendId>| owners.iter().all(|&o| o == slot.current());
                let surveyed = survey.began > since.saturating_add(SLACK_SECONDS);
                let alone = survey.owners.get(&index).is_none_or(alone);
                if surveyed && alone { Slot::stable(slot.current()) } else { slot }
            } else {
                // Who is quiet for longer than it may is no flow, either.
                let opened = self.unrecorded_opening.saturating_add(HANDSHAKE_SECONDS.min(idle));
                if now > quiet_end.max(opened) { slot.settled() } else { slot }
            };
            (after != slot).then_some((index, after))
        })
    }
}

/// Whether a backend of the service passes on what belongs to another.
fn has_second_chance(actual: &Actual, id: ServiceId) -> bool {
    let gue = [Kind::GueIpv4, Kind::GueIpv6].map(|kind| kind as u8);
    let mut backends = actual.backends.values().filter(|record| record.service == id.0);
    backends.any(|record| gue.contains(&record.kind))
}

#[cfg(test)]
mod tests {
    use lb_common::layout::{Affinity, BackendRecord};

    use super::*;
    use crate::{
        model::{Protocol, ServiceKey},
        plan::DirectoryService,
    };

    const A: BackendId = BackendId(1);
    const B: BackendId = BackendId(2);
    const C: BackendId = BackendId(3);
    const IDLE: u32 = 60;

    fn actual(ring: &[Slot]) -> Actual {
        let vip = "203.0.113.10".parse().unwrap();
        let entry = DirectoryService {
            id: ServiceId(1),
            key: ServiceKey { vip, port: Some(80), protocol: Protocol::Tcp },
            ring_start: 5,
            ring_size: ring.len() as u32,
            affinity: Affinity::Flow,
            idle_seconds: IDLE,
            answers: 0,
            icmp_echo: false,
        };
        let service = ActualService { entry, ring: ring.to_vec() };
        Actual { services: [(ServiceId(1), service)].into(), ..Actual::default() }
    }

    /// The same, with backends that pass on what isn't theirs.
    fn actual_of_gue(ring: &[Slot]) -> Actual {
        let record =
            BackendRecord { service: 1, kind: Kind::GueIpv4 as u8, ..BackendRecord::VACANT };
        Actual { backends: [(A, record)].into(), ..actual(ring) }
    }

    fn survey(began: u32, owners: &[(u32, &[BackendId])]) -> Survey {
        let owners = owners.iter().map(|&(index, owners)| (index, owners.to_vec())).collect();
        Survey { began, owners, ..Survey::default() }
    }

    /// A slot goes from A to B and rests when nobody of A's can be left.
    #[test]
    fn a_slot_settles_and_rests() {
        let mut actual = actual(&[Slot::stable(C), Slot::stable(A).toward(B)]);
        let mut transition = Transition::of(&actual, 1000);
        assert!(!transition.is_over());
        assert_eq!(transition.moving(), [false, false, false, false, false, false, true]);
        let at = |transition: &Transition, actual: &Actual, now, owners| {
            transition.rest(actual, &survey(now, owners), now)
        };
        assert_eq!(at(&transition, &actual, 1000 + IDLE + SLACK_SECONDS, &[]), []);
        let settled = at(&transition, &actual, 1000 + IDLE + SLACK_SECONDS + 1, &[]);
        assert_eq!(settled, [(6, Slot::moving(B, B, A))]);
        let change = Change::SetSlots { slots: settled };
        actual.apply(&change);
        transition.note(&change, 1100);
        assert_eq!(at(&transition, &actual, 1102, &[]), [], "a survey from before says nothing");
        assert_eq!(at(&transition, &actual, 2000, &[(6, &[B, A])]), [], "a flow lives with A");
        let stable = at(&transition, &actual, 2000, &[(6, &[B])]);
        assert_eq!(stable, [(6, Slot::stable(B))]);
        transition.note(&Change::SetSlots { slots: stable }, 2000);
        assert!(transition.is_over());
        assert!(transition.moving().is_empty());
    }

    #[test]
    fn a_further_change_and_a_spent_budget_begin_the_window_anew() {
        let actual = actual(&[Slot::stable(A).toward(B), Slot::stable(A).toward(C)]);
        let mut transition = Transition::of(&actual, 1000);
        transition.note(&Change::SetSlots { slots: vec![(6, Slot::stable(A).toward(C))] }, 1050);
        let late = 1000 + IDLE + SLACK_SECONDS + 1;
        let settled: Vec<u32> = transition
            .rest(&actual, &survey(late, &[]), late)
            .into_iter()
            .map(|(index, _)| index)
            .collect();
        assert_eq!(settled, [5]);
        transition.note_unrecorded(1030);
        assert_eq!(transition.rest(&actual, &survey(late, &[]), late), []);
    }

    /// Back at its owner, a slot has none but recorded flows elsewhere: it needs no window.
    #[test]
    fn a_slot_that_returned_rests_when_its_guests_are_gone() {
        let actual = actual(&[Slot::stable(A).toward(B).toward(A)]);
        let transition = Transition::of(&actual, 1000);
        assert_eq!(transition.rest(&actual, &survey(1010, &[(5, &[B])]), 1010), []);
        let rest = transition.rest(&actual, &survey(1010, &[(5, &[A])]), 1010);
        assert_eq!(rest, [(5, Slot::stable(A))]);
    }

    /// A SYN without a record went where its ACK will go: to whom it does, until then.
    #[test]
    fn a_handshake_without_a_record_holds_a_slot() {
        let actual = actual(&[Slot::stable(A).toward(B)]);
        let mut transition = Transition::of(&actual, 1000);
        let late = 1000 + IDLE + SLACK_SECONDS + 1;
        transition.note_unrecorded_opening(late - 1);
        assert_eq!(transition.rest(&actual, &survey(late, &[]), late), []);
        let later = late + HANDSHAKE_SECONDS.min(IDLE);
        let settled = [(5, Slot::moving(B, B, A))];
        assert_eq!(transition.rest(&actual, &survey(later, &[]), later), settled);
    }

    /// From the history, a slot has flows whose records may name the wrong one of its owners: it
    /// keeps all of these until such flows have ended.
    #[test]
    fn a_slot_out_of_the_history_waits_for_its_unsure_flows() {
        let slot = Slot::moving(C, A, B);
        let actual = actual_of_gue(&[slot]);
        let mut transition = Transition::default();
        transition.note(&Change::SetSlots { slots: vec![(5, slot)] }, 1000);
        let late = 2000;
        let unsure = Survey { unsure: [5].into(), ..survey(late, &[(5, &[A])]) };
        assert_eq!(transition.rest(&actual, &unsure, late), []);
        let sure = survey(late, &[(5, &[A])]);
        assert_eq!(transition.rest(&actual, &sure, late), [(5, Slot::moving(C, C, A))]);
        // Where all owners since it moved are known by records, nobody is unsure.
        let mut warm = Transition::default();
        let changes = [Slot::stable(A).toward(B), Slot::stable(A).toward(B).toward(C)];
        for slot in changes {
            warm.note(&Change::SetSlots { slots: vec![(5, slot)] }, 1000);
        }
        assert_eq!(warm.rest(&actual, &unsure, late), [(5, Slot::moving(C, C, A))]);
    }

    /// Everybody drained, and nobody is left: the slot is vacant.
    #[test]
    fn a_slot_of_nobody_rests_vacant() {
        let actual = actual(&[Slot::stable(A).toward(BackendId::NONE).settled()]);
        let transition = Transition::of(&actual, 1000);
        let rest = transition.rest(&actual, &survey(1010, &[]), 1010);
        assert_eq!(rest, [(5, Slot::VACANT)]);
    }

    /// Out of the history (A, then B, then A again) or a resized ring (most of its hashes are A's,
    /// some are B's): B's flows have no records yet, and may be quiet for as long as any.
    #[test]
    fn a_slot_that_begins_settled_waits_for_quiet_flows() {
        let slot = Slot::stable(A).toward(B).toward(A);
        let actual = actual_of_gue(&[slot]);
        let mut transition = Transition::default();
        transition.note(&Change::SetSlots { slots: vec![(5, slot)] }, 1000);
        let soon = 1000 + SLACK_SECONDS + 1;
        assert_eq!(transition.rest(&actual, &survey(soon, &[]), soon), []);
        let late = soon + IDLE;
        let rest = transition.rest(&actual, &survey(late, &[]), late);
        assert_eq!(rest, [(5, Slot::stable(A))]);
    }

    /// B owned the slot between A and C, and is known from the history alone: no record of its
    /// flows names it, also where they speak (the balancer sends them to A, whose decapsulation
    /// sends them on).
    #[test]
    fn an_elder_out_of_the_history_is_busy() {
        let slot = Slot::moving(C, A, B);
        let actual = actual_of_gue(&[slot]);
        let mut transition = Transition::default();
        transition.note(&Change::SetSlots { slots: vec![(5, slot)] }, 1000);
        let unsure = Survey {
            unsure: [5].into(),
            by_backend: [(A, 1)].into(),
            ..survey(1010, &[(5, &[A])])
        };
        assert!(transition.busy(&actual, &unsure).contains(&B));
    }

    /// The agent was restarted while a slot had returned to A. A's connections have records, whose
    /// first packets were no SYNs, and which name the current owner. Without the second chance,
    /// nobody can live with another than the record's.
    #[test]
    fn a_slot_rests_after_a_restart_while_its_owners_flows_live() {
        let actual = actual(&[Slot::stable(A).toward(B).toward(A)]);
        let transition = Transition::of(&actual, 1000);
        let late = 1000 + 100 * IDLE;
        let home = Survey { unsure: [5].into(), ..survey(late, &[(5, &[A])]) };
        assert_eq!(transition.rest(&actual, &home, late), [(5, Slot::stable(A))]);
    }
}
