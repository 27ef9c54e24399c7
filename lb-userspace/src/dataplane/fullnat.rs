//! The tables of flows under `fullnat`, as the agent sees them: a walk through all of them, and the
//! packet path's view, of which nothing is changed.

use std::{io, ops::Deref, os::fd::OwnedFd};

use aya::util::online_cpus;
use lb_common::{
    fullnat::{Entered, SEARCHED, Search, Translations},
    id::BackendId,
    layout::{
        FlowKey, FullnatCounters, Handed, ReturnKey, TranslatedPlace, TranslatedWords, Turn, Way,
    },
    network::Address,
};

use super::{DataPlane, Error, maps::Value, sys};

/// Entries that are read at a time.
const BATCH: usize = 4096;

/// What becomes of a port that somebody took.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    /// It stays taken.
    Keep,
    /// Its flow is forgotten, and it is free.
    Free,
    /// Its flow is forgotten, and it stays taken.
    Orphan,
}

/// CPUs that share the ports of a pool.
pub(super) fn cpus() -> Result<u32, Error> {
    let cpus = online_cpus().map_err(|(path, error)| {
        Error::kernel(format!("read which CPUs are there from {path}"), error)
    })?;
    Ok(cpus.len().max(1) as u32)
}

/// A handle on the tables, for another thread.
#[derive(Debug)]
pub(crate) struct FullnatTable {
    flows: OwnedFd,
    returns: OwnedFd,
}

impl FullnatTable {
    /// Visits every port that is taken: by whom, and the entry of the flow that it was taken for,
    /// where that flow still has it. What comes meanwhile may or may not be visited. Gives how many
    /// flows were forgotten.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub(crate) fn visit(
        &self,
        pools: impl Fn(u8) -> Option<Address>,
        mut judge: impl FnMut(&ReturnKey, &FlowKey, Option<&TranslatedWords>) -> Fate,
    ) -> Result<u64, Error> {
        let failed = |error| Error::kernel("walk through the map fullnat_returns", error);
        let mut forgotten = 0;
        let mut walk = sys::Walk::<ReturnKey, FlowKey>::new(BATCH);
        loop {
            let more = walk.next(&self.returns).map_err(failed)?;
            for (key, flow) in walk.entries() {
                let entry = self.entry(&pools, key, flow).map_err(failed)?;
                if judge(key, flow, entry.as_ref()) == Fate::Keep {
                    continue;
                }
                // A packet may have come since.
                let entry = self.entry(&pools, key, flow).map_err(failed)?;
                let fate = judge(key, flow, entry.as_ref());
                if fate == Fate::Keep {
                    continue;
                }
                if entry.is_some() {
                    sys::delete(&self.flows, flow).map_err(failed)?;
                    forgotten += 1;
                }
                if fate == Fate::Free {
                    sys::delete(&self.returns, key).map_err(failed)?;
                }
            }
            if !more {
                return Ok(forgotten);
            }
        }
    }

    /// The flow's entry, if it has that port.
    fn entry(
        &self,
        pools: impl Fn(u8) -> Option<Address>,
        key: &ReturnKey,
        flow: &FlowKey,
    ) -> io::Result<Option<TranslatedWords>> {
        let entry = sys::lookup::<FlowKey, TranslatedWords>(&self.flows, flow)?;
        Ok(entry.filter(|words| {
            let translation = words.translation();
            translation.port == lb_common::flow::destination_port(key.ports)
                && pools(translation.pool) == Some(key.pool)
        }))
    }
}

impl DataPlane {
    /// The tables of flows under `fullnat`, for another thread.
    ///
    /// # Errors
    /// If there are no more descriptors.
    pub(crate) fn fullnat_table(&self) -> Result<FullnatTable, Error> {
        let keep = |map: &OwnedFd| {
            map.try_clone().map_err(|error| Error::kernel("keep the maps of flows open", error))
        };
        let (flows, returns) = (&self.maps.fullnat_flows_fd, &self.maps.fullnat_returns_fd);
        Ok(FullnatTable { flows: keep(flows)?, returns: keep(returns)? })
    }

    /// What was counted of flows under `fullnat`, over all CPUs.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub(crate) fn fullnat_counters(&self) -> Result<FullnatCounters, Error> {
        let values = self
            .maps
            .fullnat_counters
            .get(&0, 0)
            .map_err(|error| Error::library("read the map fullnat_counters", error))?;
        Ok(values.iter().fold(FullnatCounters::default(), |sum, Value(value)| FullnatCounters {
            opened: sum.opened + value.opened,
            taken: sum.taken + value.taken,
            searches: sum.searches + value.searches,
            ..sum
        }))
    }
}

/// The running tables, for the packet path on the host, which changes nothing in them.
impl Translations for DataPlane {
    fn handed_over(&self) -> Option<Handed> {
        None
    }

    fn hand_way(&self, _: &Way) {}

    fn handed_way(&self) -> Option<Way> {
        None
    }

    fn translated<'t>(
        &'t self,
        flow: &FlowKey,
    ) -> Option<impl Deref<Target = TranslatedPlace> + use<'t>> {
        let words = self.maps.fullnat_flows.get(&Value(*flow), 0).ok()?;
        Some(Box::new(TranslatedPlace::from(words.0)))
    }

    fn returns<'t>(&'t self, answer: &ReturnKey) -> Option<impl Deref<Target = FlowKey> + use<'t>> {
        sys::lookup::<ReturnKey, FlowKey>(&self.maps.fullnat_returns_fd, answer)
            .ok()
            .flatten()
            .map(Box::new)
    }

    fn pool(&self, place: u8) -> Option<&Address> {
        self.maps.pools.get(u32::from(place))
    }

    fn turn(&self, _: BackendId) -> Turn {
        Turn { count: 0, cpu: 0, cpus: 1 }
    }

    fn search(&self, search: &mut Search) -> bool {
        (0..SEARCHED).any(|_| search.finds(self))
    }

    fn take(&self, answer: &ReturnKey, _: &FlowKey) -> Entered {
        match self.returns(answer) {
            Some(_) => Entered::Taken,
            None => Entered::New,
        }
    }

    fn give_back(&self, _: &ReturnKey) {}

    fn enter(&self, _: &FlowKey, _: TranslatedWords, _: bool) -> Entered {
        Entered::New
    }

    fn count_opened(&self) {}

    fn identification(&self) -> u16 {
        0
    }
}
