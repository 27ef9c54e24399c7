//! Which flows under `fullnat` are over, and which ports are free again: pure.
//!
//! A port is taken for longer than its flow has an entry where the backend may remember the
//! connection: after a flow was killed, or had to go to another backend. Those are its *orphans*.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use lb_common::{
    flow::source_port,
    id::{BackendId, ServiceId},
    layout::{FlowKey, QuietLimits, ReturnKey, TranslatedWords},
    network::Address,
};

use crate::dataplane::Fate;

/// Where the table is nearly full, flows that aren't open may be quiet no longer than this, in
/// seconds: a client whose SYN or answer was lost has sent it again by then.
const HURRIED_SECONDS: u32 = 3;

/// A flow that is younger than this may be of a service or a backend that the plan doesn't know
/// yet.
const FRESH_SECONDS: u32 = 3;

/// What a walk needs to know, at the moment that it begins.
#[derive(Clone, Debug, Default)]
pub struct FullnatPlan {
    /// When that is, in seconds of the clock that entries name.
    pub now: u32,
    /// How long flows of each service may be quiet once they are open, in seconds.
    pub idle_seconds: BTreeMap<ServiceId, u32>,
    /// The lowest bits of each backend's generation, as entries have them.
    pub generations: BTreeMap<BackendId, u32>,
    /// How long one may be quiet that isn't open, in seconds.
    pub opening_seconds: u32,
    /// How long a port stays taken that a backend may remember, in seconds.
    pub closing_seconds: u32,
    /// The table is nearly full.
    pub hurry: bool,
    /// Since when ports are orphans that were before.
    pub orphans: HashMap<ReturnKey, u32>,
}

/// What a walk found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FullnatSurvey {
    /// Ports that stay taken.
    pub taken: u64,
    /// Flows that are not over.
    pub flows: u64,
    /// Of these, those that aren't open.
    pub embryonic: u64,
    /// Flows that have not ended, by backend.
    pub by_backend: BTreeMap<BackendId, u64>,
    /// Ports that stay taken, by the backend's address, protocol and port.
    pub ports: BTreeMap<(Address, u8, u16), u32>,
    /// Places of pools that flows are from.
    pub pools: BTreeSet<u8>,
    /// Since when which ports are orphans, in seconds of the clock.
    pub orphans: HashMap<ReturnKey, u32>,
}

impl FullnatSurvey {
    /// What becomes of a port and the flow that it was taken for: none where that has another one,
    /// or is gone. Whoever shall stay as it is is counted, once.
    pub fn judge(
        &mut self,
        plan: &FullnatPlan,
        key: &ReturnKey,
        flow: &FlowKey,
        entry: Option<&TranslatedWords>,
    ) -> Fate {
        let Some(entry) = entry else { return self.orphan(plan, key) };
        let (translation, progress) = (entry.translation(), entry.progress());
        let fresh = progress.quiet_seconds(plan.now) < FRESH_SECONDS;
        let idle = plan.idle_seconds.get(&ServiceId(flow.service)).copied();
        let lives = plan.generations.get(&translation.backend) == Some(&translation.generation);
        let (Some(idle), true) = (idle.or(fresh.then_some(u32::MAX)), lives || fresh) else {
            self.orphans.insert(*key, plan.now);
            return Fate::Orphan;
        };
        let opening = if plan.hurry {
            plan.opening_seconds.min(HURRIED_SECONDS)
        } else {
            plan.opening_seconds
        };
        if progress.is_over(plan.now, QuietLimits { opening, idle, closing: plan.closing_seconds })
        {
            return Fate::Free;
        }
        self.flows += 1;
        self.embryonic += u64::from(progress.stage.is_embryonic());
        if !progress.stage.has_ended() {
            *self.by_backend.entry(translation.backend).or_default() += 1;
        }
        self.pools.insert(translation.pool);
        self.count(key);
        Fate::Keep
    }

    fn orphan(&mut self, plan: &FullnatPlan, key: &ReturnKey) -> Fate {
        let since = plan.orphans.get(key).copied().unwrap_or(plan.now);
        if plan.now.saturating_sub(since) > plan.closing_seconds {
            return Fate::Free;
        }
        self.orphans.insert(*key, since);
        self.count(key);
        Fate::Keep
    }

    fn count(&mut self, key: &ReturnKey) {
        self.taken += 1;
        *self
            .ports
            .entry((key.backend, key.protocol as u8, source_port(key.ports)))
            .or_default() += 1;
    }

    /// Ports that are taken toward a backend; of one that takes packets at any port, at the one where
    /// the most are.
    pub fn ports_toward(&self, address: Address, protocol: u8, port: Option<u16>) -> u32 {
        let ports = port.unwrap_or(0)..=port.unwrap_or(u16::MAX);
        let range = (address, protocol, *ports.start())..=(address, protocol, *ports.end());
        self.ports.range(range).map(|(_, count)| *count).max().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use lb_common::layout::{Progress, Stage, Translation};

    use super::*;

    fn plan() -> FullnatPlan {
        FullnatPlan {
            now: 10_000,
            idle_seconds: [(ServiceId(1), 900)].into(),
            generations: [(BackendId(1), 7)].into(),
            opening_seconds: 30,
            closing_seconds: 60,
            ..FullnatPlan::default()
        }
    }

    fn flow(service: u32) -> FlowKey {
        FlowKey { service, ..FlowKey::default() }
    }

    fn key(port: u16) -> ReturnKey {
        ReturnKey::new([1; 16], [2; 16], (8080 << 16 | u32::from(port)).to_be(), 6)
    }

    fn entry(generation: u32, stage: Stage, quiet: u32) -> TranslatedWords {
        let translation = Translation { backend: BackendId(1), generation, pool: 3, port: 1024 };
        let seen = plan().now - quiet;
        TranslatedWords::new(translation, Progress { began: seen, seen, stage })
    }

    fn fate(plan: &FullnatPlan, service: u32, entry: &TranslatedWords) -> Fate {
        FullnatSurvey::default().judge(plan, &key(1024), &flow(service), Some(entry))
    }

    #[test]
    fn what_was_quiet_for_too_long_goes() {
        let plan = plan();
        for (stage, limit) in [
            (Stage::Opening, 30),
            (Stage::Answered, 30),
            (Stage::Open, 900),
            (Stage::ClientDone, 900),
            (Stage::TimeWait, 60),
            (Stage::Closed, 10),
        ] {
            assert_eq!(fate(&plan, 1, &entry(7, stage, limit)), Fate::Keep, "{stage:?}");
            assert_eq!(fate(&plan, 1, &entry(7, stage, limit + 1)), Fate::Free, "{stage:?}");
        }
    }

    #[test]
    fn embryonic_flows_go_first_where_room_is_short() {
        let plan = FullnatPlan { hurry: true, ..plan() };
        assert_eq!(fate(&plan, 1, &entry(7, Stage::Opening, 3)), Fate::Keep);
        assert_eq!(fate(&plan, 1, &entry(7, Stage::Answered, 4)), Fate::Free);
        assert_eq!(fate(&plan, 1, &entry(7, Stage::Open, 4)), Fate::Keep);
        assert_eq!(fate(&plan, 1, &entry(7, Stage::TimeWait, 4)), Fate::Keep);
    }

    #[test]
    fn flows_of_what_is_gone_leave_their_port_taken() {
        let plan = plan();
        assert_eq!(fate(&plan, 2, &entry(7, Stage::Open, 3)), Fate::Orphan);
        assert_eq!(fate(&plan, 1, &entry(6, Stage::Open, 3)), Fate::Orphan);
        // The plan may be older than they are.
        assert_eq!(fate(&plan, 2, &entry(7, Stage::Open, 2)), Fate::Keep);
        assert_eq!(fate(&plan, 1, &entry(8, Stage::Open, 2)), Fate::Keep);
    }

    #[test]
    fn an_orphan_is_freed_once_nobody_remembers_it() {
        let mut plan = plan();
        let mut survey = FullnatSurvey::default();
        assert_eq!(survey.judge(&plan, &key(1024), &flow(1), None), Fate::Keep);
        assert_eq!((survey.taken, survey.flows), (1, 0));
        plan.now += 60;
        plan.orphans = std::mem::take(&mut survey).orphans;
        assert_eq!(survey.judge(&plan, &key(1024), &flow(1), None), Fate::Keep);
        plan.now += 1;
        plan.orphans = std::mem::take(&mut survey).orphans;
        assert_eq!(survey.judge(&plan, &key(1024), &flow(1), None), Fate::Free);
        assert_eq!(survey, FullnatSurvey::default());
    }

    #[test]
    fn what_stays_is_counted() {
        let (plan, mut survey) = (plan(), FullnatSurvey::default());
        for (port, stage) in [(1, Stage::Open), (2, Stage::Opening), (3, Stage::TimeWait)] {
            survey.judge(&plan, &key(port), &flow(1), Some(&entry(7, stage, 1)));
        }
        assert_eq!((survey.taken, survey.flows, survey.embryonic), (3, 3, 1));
        assert_eq!(survey.by_backend, [(BackendId(1), 2)].into());
        assert_eq!(survey.pools, [3].into());
        for (protocol, port, expected) in
            [(6, Some(8080), 3), (6, None, 3), (6, Some(80), 0), (17, None, 0)]
        {
            assert_eq!(survey.ports_toward([1; 16], protocol, port), expected);
        }
    }
}
