//! The program that decapsulates on a backend: its maps, its link, its pins.
//!
//! Only the link is pinned. It keeps the program and its maps alive when the process is killed;
//! the next one puts its own in their place.

use std::{collections::BTreeSet, os::fd::AsFd as _, path::Path};

use aya::{
    Ebpf, EbpfLoader,
    maps::{
        Array, HashMap, Map, MapData, MapError, PerCpuArray,
        lpm_trie::{Key, LpmTrie},
    },
};
use lb_common::{
    layout::{BackendCounters, Namespaces},
    network::Address,
    verdict::OUTCOMES,
};

use super::{
    AttachMode, Attached, Error, Program,
    attach::Links,
    error::os_error,
    maps::Value,
    next_hops::{NextHopTable, Wanted},
    pins::Pins,
};

/// The XDP program's name in the object.
const PROGRAM: &str = "xlb_decap";
const LOCAL_ADDRESSES: &str = "local_addresses";
const BALANCERS: &str = "balancers";
/// Entries of either map of endpoints at least.
const LEAST_ENTRIES: usize = 1024;

/// Whom tunnel packets may come from, and whom they must be sent to; in the form of
/// [`lb_common::network::mapped`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Endpoints {
    /// This host's addresses.
    pub(crate) local: BTreeSet<Address>,
    /// Networks that balancers send from: bits of the prefix, and an address.
    pub(crate) balancers: BTreeSet<(u32, Address)>,
}

/// What the program did, over all CPUs, since it was loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Totals {
    /// What was decapsulated.
    pub(crate) decapsulated: BackendCounters,
    /// By outcome: see [`lb_common::verdict`].
    pub(crate) outcomes: [u64; OUTCOMES],
}

impl Default for Totals {
    fn default() -> Self {
        Self { decapsulated: BackendCounters::default(), outcomes: [0; OUTCOMES] }
    }
}

/// The loaded program.
///
/// When it is dropped, a link that is pinned stays and goes on; [`Decapsulator::remove`] ends it.
pub(crate) struct Decapsulator {
    pins: Pins,
    program: Program,
    links: Links,
    maps: Maps,
    notices: Vec<String>,
}

impl Decapsulator {
    /// Loads the program for these endpoints, and puts it in the place of one that a pinned link
    /// runs. An interface is attached by [`Decapsulator::attach`].
    ///
    /// # Errors
    /// If another process has the pins, or the kernel refuses. What was pinned is in force as
    /// before then.
    pub(crate) fn open(
        object: &[u8],
        pin_path: &Path,
        endpoints: &Endpoints,
    ) -> Result<Self, Error> {
        let mut notices = Vec::new();
        let pins = Pins::open(pin_path, &mut notices)?;
        match load(object, endpoints) {
            Ok((program, maps)) => {
                let mut links = Links::default();
                links.take(program.fd()?.as_fd(), &pins, &mut notices)?;
                Ok(Self { pins, program, links, maps, notices })
            }
            Err(error) => {
                if pins.linked()?.is_empty() {
                    pins.remove()?;
                }
                Err(error)
            }
        }
    }

    /// Attaches the program to an interface: in the driver where it can, else in the network
    /// stack. One that has it already stays as it is.
    ///
    /// # Errors
    /// If another program is there, or the kernel refuses.
    pub(crate) fn attach(&mut self, interface: &str) -> Result<Attached, Error> {
        let program = self.program.fd()?.as_fd();
        self.links.attach(program, Some(&self.pins), interface, AttachMode::Auto, &mut self.notices)
    }

    /// Puts other endpoints in force; those that stay are never missing meanwhile.
    ///
    /// # Errors
    /// [`Error::Full`], which changes nothing, or if the kernel refuses.
    pub(crate) fn set_endpoints(&mut self, endpoints: &Endpoints) -> Result<(), Error> {
        self.maps.set(endpoints)
    }

    /// Sets the numbers of the network namespaces besides the interface's own in which connections
    /// may end.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub(crate) fn set_namespaces(&mut self, namespaces: Namespaces) -> Result<(), Error> {
        self.maps
            .namespaces
            .set(0, namespaces, 0)
            .map_err(|error| Error::library("fill the map namespaces", error))
    }

    /// Tells from now on to whom the program wants a way. Given once.
    ///
    /// # Errors
    /// If the kernel refuses.
    ///
    /// # Panics
    /// Outside of a tokio runtime with I/O.
    pub(crate) fn wanted(&mut self) -> Result<Wanted, Error> {
        Wanted::new(take(&mut self.program.object, "wanted")?)
    }

    /// The ways to other backends.
    pub(crate) fn next_hops(&mut self) -> &mut NextHopTable {
        &mut self.maps.next_hops
    }

    /// What the program did.
    ///
    /// # Errors
    /// If the maps can't be read.
    pub(crate) fn totals(&self) -> Result<Totals, Error> {
        self.maps.totals()
    }

    /// What the operator should hear of, since this was asked last.
    pub(crate) fn take_notices(&mut self) -> Vec<String> {
        std::mem::take(&mut self.notices)
    }

    /// Detaches from all interfaces and unpins everything. Gives the last totals.
    ///
    /// # Errors
    /// If something can't be removed.
    pub(crate) fn remove(mut self) -> Result<Totals, Error> {
        self.links.detach_all(Some(&self.pins))?;
        let totals = self.totals()?;
        self.pins.remove()?;
        Ok(totals)
    }
}

fn load(object: &[u8], endpoints: &Endpoints) -> Result<(Program, Maps), Error> {
    let wanted = endpoints.local.len().max(endpoints.balancers.len());
    // As many again may come while it runs.
    let room = (2 * wanted).max(LEAST_ENTRIES);
    let mut loader = EbpfLoader::new();
    for name in [LOCAL_ADDRESSES, BALANCERS] {
        loader.map_max_entries(name, room as u32);
    }
    let mut program = Program::load(loader.load(object).map_err(Error::load)?, PROGRAM)?;
    let mut maps = Maps {
        room,
        endpoints: Endpoints::default(),
        local_addresses: take(&mut program.object, LOCAL_ADDRESSES)?,
        balancers: take(&mut program.object, BALANCERS)?,
        next_hops: NextHopTable::take(&mut program.object)?,
        namespaces: take(&mut program.object, "namespaces")?,
        outcomes: take(&mut program.object, "outcomes")?,
        decapsulated: take(&mut program.object, "decapsulated")?,
    };
    maps.set(endpoints)?;
    Ok((program, maps))
}

pub(super) fn take<M>(object: &mut Ebpf, name: &str) -> Result<M, Error>
where
    M: TryFrom<Map, Error = MapError>,
{
    let map = object.take_map(name);
    map.and_then(|map| M::try_from(map).ok())
        .ok_or_else(|| Error::Object { what: format!("map {name} of the kind that it should be") })
}

struct Maps {
    /// Entries that either map of endpoints has room for.
    room: usize,
    /// What they hold.
    endpoints: Endpoints,
    local_addresses: HashMap<MapData, Address, u32>,
    balancers: LpmTrie<MapData, Address, u32>,
    next_hops: NextHopTable,
    namespaces: Array<MapData, Namespaces>,
    outcomes: PerCpuArray<MapData, u64>,
    decapsulated: PerCpuArray<MapData, Value<BackendCounters>>,
}

impl Maps {
    fn set(&mut self, wanted: &Endpoints) -> Result<(), Error> {
        let room = self.room;
        for (map, wanted) in
            [(LOCAL_ADDRESSES, wanted.local.len()), (BALANCERS, wanted.balancers.len())]
        {
            if wanted > room {
                return Err(Error::Full { map, room, wanted });
            }
        }
        let Self { endpoints, local_addresses, balancers, .. } = self;
        change(LOCAL_ADDRESSES, &mut endpoints.local, &wanted.local, |address, present| {
            match present {
                true => local_addresses.insert(address, 0, 0),
                false => local_addresses.remove(&address),
            }
        })?;
        change(
            BALANCERS,
            &mut endpoints.balancers,
            &wanted.balancers,
            |(bits, address), present| {
                let key = Key::new(bits, address);
                match present {
                    true => balancers.insert(&key, 0, 0),
                    false => balancers.remove(&key),
                }
            },
        )
    }

    fn totals(&self) -> Result<Totals, Error> {
        let mut totals = Totals::default();
        for (outcome, sum) in (0..).zip(&mut totals.outcomes) {
            let values = self.outcomes.get(&outcome, 0).map_err(|error| {
                Error::library(format!("read the counter of outcome {outcome}"), error)
            })?;
            *sum = values.iter().sum();
        }
        let values = self
            .decapsulated
            .get(&0, 0)
            .map_err(|error| Error::library("read the map decapsulated", error))?;
        for Value(value) in values.iter() {
            totals.decapsulated.packets += value.packets;
            totals.decapsulated.bytes += value.bytes;
        }
        Ok(totals)
    }
}

/// Removes the entries that aren't wanted from a map, then adds those that are missing:
/// in this order there is room for both. `in_force` tells what the map holds, after an error too.
fn change<K: Copy + Ord>(
    map: &str,
    in_force: &mut BTreeSet<K>,
    wanted: &BTreeSet<K>,
    mut set: impl FnMut(K, bool) -> Result<(), MapError>,
) -> Result<(), Error> {
    let old: Vec<K> = in_force.difference(wanted).copied().collect();
    let new: Vec<K> = wanted.difference(in_force).copied().collect();
    for key in old {
        match set(key, false) {
            Err(error) if os_error(&error) != Some(libc::ENOENT) => {
                return Err(Error::library(format!("clear the map {map}"), error));
            }
            _ => in_force.remove(&key),
        };
    }
    for key in new {
        set(key, true).map_err(|error| Error::library(format!("fill the map {map}"), error))?;
        in_force.insert(key);
    }
    Ok(())
}
