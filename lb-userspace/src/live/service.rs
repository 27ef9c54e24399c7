//! One service's decision.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use super::{
    Check, FULL, Input, Live, LiveEvent, LoadPolicy, Mode, Policy, Standing, Update, Wanted,
    flapping::{Flapping, Turn},
    load::{Controller, Sample},
    warmth::Warmth,
};
use crate::model::BackendKey;

/// Live weights change by no less than this, but for the ends: a ring isn't written for a trifle.
const QUANTUM: u16 = 10;

/// Time that a call makes up for at most: after a suspended host nothing leaps.
const LONGEST: Duration = Duration::from_secs(2);

#[derive(Debug, Default)]
pub(super) struct Service {
    backends: BTreeMap<BackendKey, Backend>,
    controller: Controller,
    mode: Mode,
    updated: Option<Instant>,
}

#[derive(Debug)]
struct Backend {
    live: Live,
    flapping: Flapping,
    warmth: Warmth,
    /// The part of its weight that its agent wants, as far as it is followed, 0 to 1.
    agent: f64,
    /// Its place in this round; a backend without one is gone.
    seen: bool,
}

/// A backend in one round of deciding.
struct Candidate<'a> {
    input: &'a Input,
    /// Neither drained nor in maintenance, and with a weight: it may serve.
    eligible: bool,
    /// Its check passes and its agent doesn't say otherwise.
    works: bool,
    pending: bool,
    damped: bool,
}

impl Candidate<'_> {
    fn lives(&self) -> bool {
        self.eligible && self.works && !self.damped
    }

    fn weight(&self) -> u64 {
        self.input.weight.into()
    }
}

/// Who serves in a round.
enum Serving {
    /// Those that live, backups or not.
    Living { backups: bool },
    /// All that may, backups or not.
    Panic { backups: bool },
}

impl Serving {
    fn has(&self, candidate: &Candidate<'_>) -> bool {
        match *self {
            Self::Living { backups } => candidate.lives() && candidate.input.backup == backups,
            Self::Panic { backups } => {
                candidate.eligible && !candidate.pending && candidate.input.backup == backups
            }
        }
    }
}

impl Service {
    pub(super) fn live(&self, backend: BackendKey) -> Option<Live> {
        self.backends.get(&backend).map(|backend| backend.live)
    }

    pub(super) fn mode(&self) -> Mode {
        self.mode
    }

    pub(super) fn update(&mut self, now: Instant, policy: &Policy, inputs: &[Input]) -> Update {
        let since = self.updated.replace(now).unwrap_or(now);
        let passed = now.saturating_duration_since(since).min(LONGEST);
        let mut events = Vec::new();
        self.follow_configured(now, policy, inputs);
        let mut candidates = self.candidates(now, policy, inputs, &mut events);
        if !candidates.iter().any(Candidate::lives) {
            // Better one that fails too often than none.
            candidates.iter_mut().for_each(|candidate| candidate.damped = false);
        }
        let serving = who_serves(policy, &candidates);
        self.tell_mode(&serving, &candidates, &mut events);
        self.warm(now, policy, &serving, &candidates);
        self.follow_agents(passed, policy, &serving, &candidates);
        match &policy.load {
            Some(load) => {
                let samples = self.samples(&serving, &candidates);
                self.controller.advance(now, passed, load, &samples);
            }
            None => self.controller = Controller::default(),
        }
        let changed = self.decide(now, policy, &serving, &candidates);
        Update { changed, events }
    }

    /// Makes room for new backends, and forgets those that are gone.
    fn follow_configured(&mut self, now: Instant, policy: &Policy, inputs: &[Input]) {
        self.backends.values_mut().for_each(|backend| backend.seen = false);
        for input in inputs {
            if let Some(backend) = self.backends.get_mut(&input.key) {
                backend.seen = true;
                continue;
            }
            let mut backend = Backend::default();
            if let Some(known) = input.known_permille.filter(|&known| known > 0) {
                let part = f64::from(known.min(FULL)) / f64::from(FULL);
                backend.live.permille = known.min(FULL);
                // One of them made it so. The load's factor comes back by itself where it did not.
                if policy.load.is_some() {
                    backend.warmth = Warmth::taken_over(now, 1.0, policy.slow_start);
                    self.controller.begin_at(input.key, part);
                } else if input.agent.percent < 100 {
                    backend.warmth = Warmth::taken_over(now, 1.0, policy.slow_start);
                    backend.agent = part;
                } else {
                    backend.warmth = Warmth::taken_over(now, part, policy.slow_start);
                }
            }
            self.backends.insert(input.key, backend);
        }
        self.backends.retain(|_, backend| backend.seen);
        let backends = &self.backends;
        self.controller.retain(|key| backends.contains_key(&key));
    }

    fn candidates<'a>(
        &mut self,
        now: Instant,
        policy: &Policy,
        inputs: &'a [Input],
        events: &mut Vec<LiveEvent>,
    ) -> Vec<Candidate<'a>> {
        let mut candidates = Vec::with_capacity(inputs.len());
        for input in inputs {
            let Some(backend) = self.backends.get_mut(&input.key) else { continue };
            let pending = input.check == Check::Pending;
            let works = input.check == Check::Passing && input.agent.up;
            if !pending {
                match backend.flapping.observe(now, works, policy) {
                    Some(Turn::Held(time)) => events.push(LiveEvent::Damped(input.key, time)),
                    Some(Turn::Released) => events.push(LiveEvent::Undamped(input.key)),
                    None => {}
                }
            }
            let taken_out =
                input.agent.wanted == Wanted::Maintenance || input.draining || input.agent.drains();
            candidates.push(Candidate {
                input,
                eligible: !taken_out && input.weight > 0,
                works,
                pending,
                damped: backend.flapping.is_held(),
            });
        }
        candidates
    }

    fn tell_mode(
        &mut self,
        serving: &Serving,
        candidates: &[Candidate<'_>],
        events: &mut Vec<LiveEvent>,
    ) {
        let served = candidates.iter().any(|candidate| serving.has(candidate));
        let mode = match *serving {
            Serving::Living { backups } => Mode { panic: false, backup: backups && served },
            Serving::Panic { backups } => Mode { panic: true, backup: backups },
        };
        match (self.mode.panic, mode.panic) {
            (false, true) => {
                let healthy_percent = healthy_percent(candidates, mode.backup);
                events.push(LiveEvent::PanicBegan { healthy_percent });
            }
            (true, false) => events.push(LiveEvent::PanicEnded),
            _ => {}
        }
        match (self.mode.backup, mode.backup) {
            (false, true) => events.push(LiveEvent::BackupActive),
            (true, false) => events.push(LiveEvent::BackupIdle),
            _ => {}
        }
        self.mode = mode;
    }

    fn warm(
        &mut self,
        now: Instant,
        policy: &Policy,
        serving: &Serving,
        candidates: &[Candidate<'_>],
    ) {
        let slow_start = policy.slow_start;
        let mut warm = 0;
        let mut known = 0;
        for candidate in candidates {
            let Some(backend) = self.backends.get_mut(&candidate.input.key) else { continue };
            if !serving.has(candidate) {
                let works = candidate.works
                    && !candidate.damped
                    && candidate.input.agent.wanted != Wanted::Maintenance;
                backend.warmth.rests(works);
            } else if backend.warmth.is_warm(now, slow_start) {
                warm += candidate.weight();
            }
            let same_pool = candidate.eligible && candidate.input.backup == self.mode.backup;
            if same_pool && backend.warmth.has_served {
                known += candidate.weight();
            }
        }
        let carried = !self.mode.panic && warm > 0 && 2 * warm >= known;
        for candidate in candidates.iter().filter(|candidate| serving.has(candidate)) {
            if let Some(backend) = self.backends.get_mut(&candidate.input.key) {
                backend.warmth.serves(now, slow_start, carried);
            }
        }
    }

    /// An agent's percentage is a set point: it is followed as fast as a live weight may change.
    fn follow_agents(
        &mut self,
        passed: Duration,
        policy: &Policy,
        serving: &Serving,
        candidates: &[Candidate<'_>],
    ) {
        let max_step = policy
            .load
            .as_ref()
            .map_or(LoadPolicy::default().max_step_permille, |load| load.max_step_permille);
        let step = f64::from(max_step) / f64::from(FULL) * passed.as_secs_f64();
        for candidate in candidates {
            let Some(backend) = self.backends.get_mut(&candidate.input.key) else { continue };
            let wanted = f64::from(candidate.input.agent.percent) / 100.0;
            backend.agent = match serving.has(candidate) && backend.live.permille > 0 {
                true => backend.agent + (wanted - backend.agent).clamp(-step, step),
                // It has no flows to move.
                false => wanted,
            };
        }
    }

    fn samples(&self, serving: &Serving, candidates: &[Candidate<'_>]) -> Vec<Sample> {
        let sample = |candidate: &Candidate<'_>| {
            let backend = self.backends.get(&candidate.input.key)?;
            Some(Sample {
                key: candidate.input.key,
                weight: candidate.input.weight,
                live: f64::from(backend.live.permille) / f64::from(FULL),
                report: candidate.input.load,
                changing: backend.warmth.is_ramping() || !candidate.works,
            })
        };
        let served = candidates.iter().filter(|candidate| serving.has(candidate));
        served.filter_map(sample).collect()
    }

    fn decide(
        &mut self,
        now: Instant,
        policy: &Policy,
        serving: &Serving,
        candidates: &[Candidate<'_>],
    ) -> bool {
        let mut changed = false;
        let panics = matches!(serving, Serving::Panic { .. });
        for candidate in candidates {
            let input = candidate.input;
            let Some(backend) = self.backends.get_mut(&input.key) else { continue };
            let serves = serving.has(candidate);
            let maintenance = input.agent.wanted == Wanted::Maintenance;
            let part = backend.warmth.part(now, policy.slow_start)
                * backend.agent
                * self.controller.factor(input.key);
            let live = Live {
                permille: if serves { stepped(backend.live.permille, part) } else { 0 },
                alive: !maintenance && (candidate.works || panics && serves),
                standing: match () {
                    () if maintenance => Standing::Maintenance,
                    () if input.draining || input.agent.drains() => Standing::Draining,
                    () if candidate.pending => Standing::Pending,
                    () if !candidate.works => Standing::Failed,
                    () if candidate.damped => Standing::Damped,
                    () if !serves && input.backup => Standing::Backup,
                    () if backend.warmth.is_ramping() => Standing::SlowStart,
                    () => Standing::Serving,
                },
            };
            let before = std::mem::replace(&mut backend.live, live);
            changed |= (before.permille, before.alive) != (live.permille, live.alive);
        }
        changed
    }
}

impl Default for Backend {
    fn default() -> Self {
        Self {
            live: Live { permille: 0, alive: false, standing: Standing::Pending },
            flapping: Flapping::default(),
            warmth: Warmth::default(),
            agent: 1.0,
            seen: true,
        }
    }
}

/// A living primary goes before a living backup, and a living backup before a failed primary.
fn who_serves(policy: &Policy, candidates: &[Candidate<'_>]) -> Serving {
    let lives = |backup: bool| candidates.iter().any(|c| c.lives() && c.input.backup == backup);
    let (primary, backup) = (lives(false), lives(true));
    if backup {
        return Serving::Living { backups: !primary };
    }
    // Where no primary may serve at all, the backups are all that there is.
    let backups = !candidates.iter().any(|c| c.eligible && !c.input.backup);
    let may = candidates.iter().any(|c| c.eligible && c.input.backup == backups);
    match may && healthy_percent(candidates, backups) < policy.panic_percent {
        true => Serving::Panic { backups },
        false => Serving::Living { backups: false },
    }
}

/// The part of the weight that is healthy, in percent, rounded down. What isn't known yet counts
/// as healthy: a service that starts doesn't panic.
fn healthy_percent(candidates: &[Candidate<'_>], backups: bool) -> u8 {
    let pool = || candidates.iter().filter(|c| c.eligible && c.input.backup == backups);
    let all: u64 = pool().map(Candidate::weight).sum();
    let healthy: u64 = pool().filter(|c| c.lives() || c.pending).map(Candidate::weight).sum();
    (healthy * 100).checked_div(all).map_or(100, |percent| percent as u8)
}

/// The live weight for a part from 0 to 1, where it was `before`: never nothing, and the same where
/// it is nearly the same.
fn stepped(before: u16, part: f64) -> u16 {
    let wanted = (part * f64::from(FULL)).clamp(1.0, f64::from(FULL));
    if wanted > f64::from(FULL) - 1.0 {
        return FULL;
    }
    if before > 0 && (wanted - f64::from(before)).abs() < f64::from(QUANTUM) {
        return before;
    }
    let quantum = f64::from(QUANTUM);
    ((wanted / quantum).round() * quantum).clamp(quantum, f64::from(FULL)) as u16
}
