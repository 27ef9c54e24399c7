//! A walk through all records of flows.

use std::collections::{BTreeMap, HashMap, HashSet};

use lb_common::{
    hash::reduce,
    id::{BackendId, ServiceId},
    layout::{FlowKey, FlowRecord},
};

/// Where a service's ring lies, and how long its flows may be quiet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// Its first slot.
    pub ring_start: u32,
    /// Its slots.
    pub ring_size: u32,
    /// In seconds.
    pub idle_seconds: u32,
}

/// What a walk needs to know of the maps, at the moment that it begins.
#[derive(Clone, Debug, Default)]
pub struct SurveyPlan {
    /// When that is, in seconds of the clock that records name.
    pub now: u32,
    /// All services.
    pub services: BTreeMap<ServiceId, Extent>,
    /// The generation of each backend.
    pub generations: BTreeMap<BackendId, u32>,
    /// By index in the slot table: whether the slot moves. Slots past the end don't.
    pub moving: Vec<bool>,
}

/// What a walk found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Survey {
    /// When it began.
    pub began: u32,
    /// Records that were left in the table.
    pub kept: u64,
    /// Records of flows that live in moving slots.
    pub records: u64,
    /// Of these, by backend.
    pub by_backend: BTreeMap<BackendId, u64>,
    /// The backends of flows in each moving slot, by index in the slot table; each once.
    pub owners: HashMap<u32, Vec<BackendId>>,
    /// Moving slots with flows that were under way when they were first seen, by index.
    pub unsure: HashSet<u32>,
}

/// A record that is younger than this may be of a slot, a service or a backend that the plan
/// doesn't know yet: of a slot that has begun to move since, or of a number given anew.
const FRESH_SECONDS: u32 = 3;

impl Survey {
    /// Before a walk.
    pub fn new(plan: &SurveyPlan) -> Self {
        Self { began: plan.now, ..Self::default() }
    }

    /// Takes a record in. `false`: nothing depends on it any more, and it may go.
    pub fn visit(&mut self, plan: &SurveyPlan, key: &FlowKey, record: &FlowRecord) -> bool {
        let kept = self.count(plan, key, record);
        self.kept += u64::from(kept);
        kept
    }

    fn count(&mut self, plan: &SurveyPlan, key: &FlowKey, record: &FlowRecord) -> bool {
        let fresh = record.quiet_seconds(plan.now) < FRESH_SECONDS;
        let Some(extent) = plan.services.get(&ServiceId(key.service)) else { return fresh };
        let owner = record.owner;
        if plan.generations.get(&owner.backend) != Some(&owner.generation) {
            return fresh;
        }
        if record.is_over(plan.now, extent.idle_seconds) {
            return false;
        }
        let index = extent.ring_start + reduce(u64::from(record.hash) << 32, extent.ring_size);
        let moves = plan.moving.get(index as usize).is_some_and(|&moves| moves);
        if !moves {
            return fresh;
        }
        self.records += 1;
        *self.by_backend.entry(owner.backend).or_default() += 1;
        if record.unsure {
            self.unsure.insert(index);
        }
        let owners = self.owners.entry(index).or_default();
        if !owners.contains(&owner.backend) {
            owners.push(owner.backend);
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use lb_common::layout::{FlowState, Owner};

    use super::*;

    fn plan() -> SurveyPlan {
        let extent = Extent { ring_start: 10, ring_size: 4, idle_seconds: 900 };
        SurveyPlan {
            now: 10_000,
            services: [(ServiceId(1), extent)].into(),
            generations: [(BackendId(1), 0), (BackendId(2), 7)].into(),
            moving: (0..14).map(|index| index >= 12).collect(),
        }
    }

    fn key(service: u32) -> FlowKey {
        FlowKey { service, ..FlowKey::default() }
    }

    /// In slot 10 + `quarter` of the ring.
    fn record(backend: u32, generation: u32, quarter: u32) -> FlowRecord {
        FlowRecord {
            owner: Owner { backend: BackendId(backend), generation },
            hash: quarter << 30,
            seen: 9_500,
            unsure: false,
            state: FlowState::Open,
        }
    }

    #[test]
    fn living_flows_of_moving_slots_are_counted() {
        let mut survey = Survey::new(&plan());
        assert!(survey.visit(&plan(), &key(1), &record(1, 0, 2)));
        assert!(survey.visit(&plan(), &key(1), &record(2, 7, 2)));
        assert!(survey.visit(&plan(), &key(1), &record(2, 7, 2)));
        assert!(survey.visit(&plan(), &key(1), &record(2, 7, 3)));
        assert_eq!((survey.began, survey.records), (10_000, 4));
        assert_eq!(survey.by_backend, [(BackendId(1), 1), (BackendId(2), 3)].into());
        assert_eq!(survey.owners[&12], [BackendId(1), BackendId(2)]);
        assert_eq!(survey.owners[&13], [BackendId(2)]);
        assert!(survey.unsure.is_empty());
        let unsure = FlowRecord { unsure: true, ..record(1, 0, 3) };
        assert!(survey.visit(&plan(), &key(1), &unsure));
        assert_eq!(survey.unsure, [13].into());
    }

    #[test]
    fn what_nothing_depends_on_goes() {
        let mut survey = Survey::new(&plan());
        let over = FlowRecord { seen: 9_000, ..record(1, 0, 2) };
        let unknown = [(key(2), record(1, 0, 2)), (key(1), record(3, 0, 2))];
        let former = [(key(1), record(2, 6, 2)), (key(1), over), (key(1), record(1, 0, 0))];
        for (key, record) in unknown.into_iter().chain(former) {
            assert!(!survey.visit(&plan(), &key, &record), "{record:?}");
        }
        assert_eq!(survey, Survey::new(&plan()));
    }

    /// A slot may have begun to move after the plan was made.
    #[test]
    fn fresh_records_stay() {
        let fresh = FlowRecord { seen: 10_001, ..record(1, 0, 0) };
        assert!(Survey::new(&plan()).visit(&plan(), &key(1), &fresh));
    }

    /// So may a backend or a service have come, and a number been given again.
    #[test]
    fn a_fresh_record_of_a_new_backend_stays() {
        let new = FlowRecord { seen: 10_001, ..record(3, 0, 2) };
        assert!(Survey::new(&plan()).visit(&plan(), &key(1), &new), "of a new backend");
        // A number that was given again: another generation.
        let again = FlowRecord { seen: 10_001, ..record(2, 8, 2) };
        assert!(Survey::new(&plan()).visit(&plan(), &key(1), &again), "of a number given again");
        let of_service = FlowRecord { seen: 10_001, ..record(1, 0, 2) };
        assert!(Survey::new(&plan()).visit(&plan(), &key(2), &of_service), "of a new service");
    }
}
