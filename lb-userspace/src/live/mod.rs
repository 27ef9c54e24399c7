//! Live weights: what part of its weight each backend serves of new flows, and whether its open
//! flows are served.
//!
//! In: what is known of a service's backends ([`Input`]: checks, agents, load reports, drains)
//! and the time. Out: a [`Live`] for each, and [`LiveEvent`]s. No I/O and no clock: the agent calls
//! [`Lives::update`] whenever something may have changed, and once a second for what changes with
//! time alone.

mod flapping;
mod load;
pub mod orca;
mod policy;
mod service;
#[cfg(test)]
mod tests;
mod warmth;
mod words;

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

pub use load::Reported;
pub use policy::{LoadPolicy, LoadSource, Policy};
pub use words::{AgentState, Wanted, Words};

use crate::model::{BackendKey, ServiceKey};
use service::Service;

/// Live weight of a backend that serves its full configured weight, in thousandths.
pub const FULL: u16 = 1000;

/// What a backend does now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Live {
    /// The part of its weight that it serves of new flows, in thousandths.
    pub permille: u16,
    /// Its open flows are served.
    pub alive: bool,
    /// Why it serves as much as it does.
    pub standing: Standing,
}

/// Why a backend serves as much as it does: the first of these that holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Its agent put it into maintenance.
    Maintenance,
    /// It takes no new flows, as the operator or its agent wants it.
    Draining,
    /// Nothing is known of it yet.
    Pending,
    /// Its check or its agent says that it doesn't work.
    Failed,
    /// It fails too often.
    Damped,
    /// It waits until no other one lives.
    Backup,
    /// It serves a part of its weight, and more each second.
    SlowStart,
    /// It serves.
    Serving,
}

/// What a check says of a backend; one without a check passes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Check {
    /// Nothing yet.
    Pending,
    /// It works.
    Passing,
    /// It doesn't.
    Failing,
}

/// What is known of a backend.
#[derive(Clone, Copy, Debug)]
pub struct Input {
    /// Unique within the service.
    pub key: BackendKey,
    /// Configured weight.
    pub weight: u16,
    /// It serves only while no other lives.
    pub backup: bool,
    /// The operator drains it.
    pub draining: bool,
    /// What its check says.
    pub check: Check,
    /// What its agent has said.
    pub agent: AgentState,
    /// What it reported of its load.
    pub load: Option<Reported>,
    /// What it served before this agent knew it, in thousandths of its weight.
    pub known_permille: Option<u16>,
}

/// Something that an operator should know of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LiveEvent {
    /// Too few backends are healthy: failed ones are used as well.
    PanicBegan {
        /// Percent of the weight that is healthy.
        healthy_percent: u8,
    },
    /// Enough are healthy again.
    PanicEnded,
    /// No other backend lives: backups serve.
    BackupActive,
    /// Others serve again.
    BackupIdle,
    /// A backend fails too often, and is held back.
    Damped(BackendKey, Duration),
    /// It takes part again.
    Undamped(BackendKey),
}

/// A service as it is now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Mode {
    /// Failed backends are used as well.
    pub panic: bool,
    /// Backups serve.
    pub backup: bool,
}

/// What a decision changed.
#[derive(Debug, Default)]
pub struct Update {
    /// Some backend's live weight, or whether it is alive, is another one.
    pub changed: bool,
    /// What there is to tell.
    pub events: Vec<LiveEvent>,
}

/// The live weights of all services.
#[derive(Debug, Default)]
pub struct Lives {
    services: BTreeMap<ServiceKey, Service>,
}

impl Lives {
    /// Decides anew for a service.
    pub fn update(
        &mut self,
        service: ServiceKey,
        now: Instant,
        policy: &Policy,
        inputs: &[Input],
    ) -> Update {
        self.services.entry(service).or_default().update(now, policy, inputs)
    }

    /// Forgets services that are gone.
    pub fn retain(&mut self, keep: impl Fn(ServiceKey) -> bool) {
        self.services.retain(|key, _| keep(*key));
    }

    /// What was last decided for a backend; `None` where it is none of the service's.
    pub fn of(&self, service: ServiceKey, backend: BackendKey) -> Option<Live> {
        self.services.get(&service)?.live(backend)
    }

    /// What was last decided for a service.
    pub fn mode(&self, service: ServiceKey) -> Mode {
        self.services.get(&service).map(Service::mode).unwrap_or_default()
    }
}
