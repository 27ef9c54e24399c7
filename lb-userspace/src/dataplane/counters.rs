//! What the program counted, over all CPUs.

use std::collections::BTreeMap;

use aya::{maps::PerCpuValues, util::nr_cpus};
use lb_common::{id::BackendId, layout::BackendCounters, verdict::OUTCOMES};

use super::{
    DataPlane, Error,
    maps::{Maps, Value},
};
use crate::plan::Capacity;

/// Sums over all CPUs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Counters {
    /// By backend, since its number was given to it.
    pub(crate) backends: BTreeMap<BackendId, BackendCounters>,
    /// By outcome: entry 0 is passed packets, entry `n` drops for the reason of that number.
    pub(crate) outcomes: [u64; OUTCOMES],
}

impl Default for Counters {
    fn default() -> Self {
        Self { backends: BTreeMap::new(), outcomes: [0; OUTCOMES] }
    }
}

/// What a map's counters lack, because the former program went on counting while they were copied.
#[derive(Debug, Default)]
pub(super) struct Carried(Counters);

impl Carried {
    /// Adds what was counted between two readings.
    pub(super) fn add_difference(&mut self, last: &Counters, copied: &Counters) {
        for (id, last) in &last.backends {
            let copied = copied.backends.get(id).copied().unwrap_or_default();
            add(self.0.backends.entry(*id).or_default(), &difference(last, &copied));
        }
        for (sum, (last, copied)) in
            self.0.outcomes.iter_mut().zip(last.outcomes.iter().zip(copied.outcomes))
        {
            *sum += last.saturating_sub(copied);
        }
    }
}

impl DataPlane {
    /// The counters of all backends in force and all outcomes.
    ///
    /// # Errors
    /// If the kernel refuses to read them.
    pub(crate) fn counters(&self) -> Result<Counters, Error> {
        let mut counters = self.maps.count(self.capacity)?;
        for (id, carried) in &self.carried.0.backends {
            if let Some(counters) = counters.backends.get_mut(id) {
                add(counters, carried);
            }
        }
        for (sum, carried) in counters.outcomes.iter_mut().zip(self.carried.0.outcomes) {
            *sum += carried;
        }
        Ok(counters)
    }

    /// Starts a backend's number anew.
    pub(super) fn clear_counters(&mut self, id: BackendId) -> Result<(), Error> {
        let doing = || format!("clear the counters of backend number {}", id.0);
        let cpus = nr_cpus().map_err(|(path, error)| {
            Error::kernel(format!("read the number of CPUs from {path}"), error)
        })?;
        let zero = PerCpuValues::try_from(vec![Value(BackendCounters::default()); cpus])
            .map_err(|error| Error::kernel(doing(), error))?;
        self.carried.0.backends.remove(&id);
        self.maps
            .backend_counters
            .set(id.0, zero, 0)
            .map_err(|error| Error::library(doing(), error))
    }
}

impl Maps {
    /// The counters as the maps have them.
    pub(super) fn count(&self, capacity: Capacity) -> Result<Counters, Error> {
        let mut counters = Counters::default();
        for id in (1..capacity.backends).map(BackendId) {
            if self.backends.read(id.0)?.active().kind == 0 {
                continue;
            }
            let values = self.backend_counters.get(&id.0, 0).map_err(|error| {
                Error::library(format!("read the counters of backend number {}", id.0), error)
            })?;
            let sum = counters.backends.entry(id).or_default();
            values.iter().for_each(|Value(value)| add(sum, value));
        }
        for (outcome, sum) in (0..).zip(&mut counters.outcomes) {
            let values = self.outcomes.get(&outcome, 0).map_err(|error| {
                Error::library(format!("read the counter of outcome {outcome}"), error)
            })?;
            *sum = values.iter().sum();
        }
        Ok(counters)
    }
}

fn add(sum: &mut BackendCounters, value: &BackendCounters) {
    sum.packets += value.packets;
    sum.bytes += value.bytes;
    sum.new_flows += value.new_flows;
    sum.answers += value.answers;
}

fn difference(last: &BackendCounters, first: &BackendCounters) -> BackendCounters {
    BackendCounters {
        packets: last.packets.saturating_sub(first.packets),
        bytes: last.bytes.saturating_sub(first.bytes),
        new_flows: last.new_flows.saturating_sub(first.new_flows),
        answers: last.answers.saturating_sub(first.answers),
    }
}
