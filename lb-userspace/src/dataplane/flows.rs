//! The table of flows in moving slots, as the agent sees it: how many new ones there may be, and
//! a walk through all of them.

use std::{io, os::fd::OwnedFd};

use aya::util::online_cpus;
use lb_common::layout::{FlowCounters, FlowKey, FlowRecord, FlowWords};

use super::{DataPlane, Error, maps::Value, sys};

/// Records that are read at a time.
const BATCH: usize = 4096;

/// New records that each CPU may make in a second.
///
/// Flows that open can be forged by anybody: what they make in the time that a handshake may take
/// fills no more than half of the table, so others always find room. Others must at least be
/// known to be flows of the service; the table's length in a minute is room for a burst of all.
/// Where others spend theirs, forged ones too, a flow is remembered at its second packet, by a
/// third budget: a flood hardly sends two of one flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Budget {
    /// Of flows that open.
    pub(super) opening: u32,
    /// Of others.
    pub(super) others: u32,
    /// Beyond these, of flows of which a packet came before.
    pub(super) again: u32,
}

impl Budget {
    pub(super) fn of(flow_capacity: u32) -> Result<Self, Error> {
        // Not of those that a machine may get one day: virtual machines often have room for many.
        let cpus = online_cpus().map_err(|(path, error)| {
            Error::kernel(format!("read which CPUs are there from {path}"), error)
        })?;
        Ok(Self::each(flow_capacity, cpus.len() as u32))
    }

    fn each(flow_capacity: u32, cpus: u32) -> Self {
        // 75 s is how long an opening flow is remembered.
        let per_second = |seconds: u32| (flow_capacity / seconds / cpus.max(1)).max(8);
        Self { opening: per_second(2 * 75), others: per_second(60), again: per_second(60) }
    }
}

/// Seconds of the clock that records name: CLOCK_MONOTONIC, as the program reads it.
pub(crate) fn now() -> u32 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the kernel writes one timespec; this clock is always there.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC_COARSE, &raw mut time) };
    time.tv_sec as u32
}

/// A handle on the flow table, for another thread.
#[derive(Debug)]
pub(crate) struct FlowTable(OwnedFd);

impl FlowTable {
    /// Visits every record; those that `keep` refuses are deleted. A record that comes meanwhile
    /// may or may not be visited.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub(crate) fn retain(
        &self,
        mut keep: impl FnMut(&FlowKey, &FlowRecord) -> bool,
    ) -> Result<(), Error> {
        let failed = |error| Error::kernel("walk through the map flows", error);
        let mut walk = sys::Walk::<FlowKey, FlowWords>::new(BATCH);
        loop {
            let more = walk.next(&self.0).map_err(failed)?;
            for (key, words) in walk.entries() {
                if !keep(key, &(*words).into()) {
                    self.delete_unless_changed(key, words, &mut keep).map_err(failed)?;
                }
            }
            if !more {
                return Ok(());
            }
        }
    }

    /// Deletes a record, unless a packet came since it was read.
    fn delete_unless_changed(
        &self,
        key: &FlowKey,
        read: &FlowWords,
        keep: &mut impl FnMut(&FlowKey, &FlowRecord) -> bool,
    ) -> io::Result<()> {
        match sys::lookup::<FlowKey, FlowWords>(&self.0, key)? {
            Some(words) if words == *read || !keep(key, &words.into()) => sys::delete(&self.0, key),
            _ => Ok(()),
        }
    }
}

impl DataPlane {
    /// The flow table, for another thread.
    ///
    /// # Errors
    /// If there are no more descriptors.
    pub(crate) fn flow_table(&self) -> Result<FlowTable, Error> {
        let table = self.maps.flows_fd.try_clone();
        table.map(FlowTable).map_err(|error| Error::kernel("keep the map flows open", error))
    }

    /// What was counted of flows in moving slots, over all CPUs.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub(crate) fn flow_counters(&self) -> Result<FlowCounters, Error> {
        let values = self
            .maps
            .flow_counters
            .get(&0, 0)
            .map_err(|error| Error::library("read the map flow_counters", error))?;
        let mut sum = FlowCounters::default();
        for Value(value) in values.iter() {
            sum.recorded += value.recorded;
            sum.over_budget_opening += value.over_budget_opening;
            sum.over_budget += value.over_budget;
            sum.over_budget_again += value.over_budget_again;
            sum.table_full += value.table_full;
            sum.picked_anew += value.picked_anew;
        }
        Ok(sum)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn opening_flows_leave_half_of_the_table() {
        for (capacity, cpus) in [(1_000_000, 2), (1 << 26, 128), (100_000, 1)] {
            let budget = Budget::each(capacity, cpus);
            assert!(budget.opening * cpus * 75 <= capacity / 2, "{budget:?}");
            assert!(budget.others > budget.opening);
        }
        assert_eq!(Budget::each(1024, 64), Budget { opening: 8, others: 8, again: 8 });
    }
}
