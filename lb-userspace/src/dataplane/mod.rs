//! The data plane in the kernel: the program, its maps and its links to interfaces.
//!
//! In come an object file, [`Change`]s and interfaces; out come [`Actual`], counters and errors.
//! The only module that speaks to the kernel's BPF. Everything is pinned, so it goes on forwarding
//! without the agent, and an agent that starts takes over what is there without losing a packet.

mod apply;
mod attach;
mod bench;
mod client_routes;
mod counters;
mod decap;
mod error;
mod flows;
mod fullnat;
mod load;
mod maps;
mod memory;
mod next_hops;
mod pins;
mod probe;
mod read;
mod run;
mod sys;
#[cfg(test)]
mod tests;
mod xdp_state;

use std::{
    collections::BTreeSet,
    mem::offset_of,
    ops::Deref,
    os::fd::AsFd as _,
    path::{Path, PathBuf},
};

use lb_common::{
    directory_builder,
    hash::Keys,
    id::BackendId,
    layout::{
        AnswerEntry, AnswerKey, BackendEntry, Beginning, Directory, FlowKey, FlowPlace, FlowRecord,
        Handed, ServiceEntry, Slot, VERSION, VipEntry, WAYS,
    },
    tables::{Reply, Tables},
};

#[cfg(test)]
pub(crate) use self::attach::Mode;
use self::{
    attach::Links,
    counters::Carried,
    load::{Program, load},
    maps::{FlowRoom, Maps, Value},
    pins::Pins,
};
pub(crate) use self::{
    attach::{AttachMode, Attached},
    bench::{Bench, CONNECTIONS, UnderTest},
    counters::Counters,
    decap::{Decapsulator, Endpoints, Totals},
    error::Error,
    flows::{FlowTable, now},
    fullnat::{Fate, FullnatTable},
    next_hops::{NextHopTable, Wanted},
    probe::{Hook, ProbePorts, ProbePrograms},
    run::Action,
    sys::stay_on_one_cpu,
};
use crate::plan::Capacity;
#[cfg(doc)]
use crate::plan::{Actual, Change};

/// The XDP program's name in the object.
const PROGRAM: &str = "xlb";

/// Messages of its own that the program sends from each CPU in a second, of each kind.
const REPLIES_A_SECOND: u32 = 1000;

/// What to load, and how.
#[derive(Clone, Debug)]
pub(crate) struct Options {
    /// The BPF object file's bytes.
    pub(crate) object: Vec<u8>,
    /// Where to pin; `None` pins nothing: all ends with the process.
    pub(crate) pin_path: Option<PathBuf>,
    /// The least that the maps shall hold. Pinned ones that hold more keep it.
    pub(crate) capacity: Capacity,
    /// Flows that are remembered at the most. A pinned table keeps its size.
    pub(crate) flow_capacity: u32,
    /// Flows under `fullnat` at the most; `None` where nobody is served so. A pinned table that is
    /// in use keeps its size.
    pub(crate) fullnat_capacity: Option<u32>,
    /// Backends answer through the balancer: there is room for the ways to their clients. Once
    /// there is, it stays while it is pinned.
    pub(crate) ways: bool,
    /// New records that each CPU may make in a second; `None` follows the capacity.
    pub(crate) flow_budget: Option<u32>,
    /// Seed of the flow hash.
    pub(crate) hash_seed: u64,
    /// Record the outcome of each packet, for [`DataPlane::test_run`].
    pub(crate) trace: bool,
    /// Ways to clients are made up, as where there are no interfaces.
    pub(crate) made_up_ways: bool,
}

/// Flows under `fullnat` that there is room for where nobody is served so: a million take 32 MiB
/// before the first one comes.
const FULLNAT_UNUSED: u32 = 256;
/// Places for ways to clients where nobody answers through the balancer: all take 2 MiB. A program
/// that finds no place asks the kernel.
const WAYS_UNUSED: u32 = 1;

/// The seed by which the program that is pinned there spreads flows; `None` where none is, or one
/// of another make.
pub(crate) fn pinned_hash_seed(pin_path: &Path) -> Option<u64> {
    let directory = maps::pinned_directory(&pin_path.join(pins::TABLES)).ok()?;
    (directory.version == VERSION).then_some(directory.hash_seed)
}

/// The loaded program with its maps and links.
///
/// When it is dropped, what is pinned stays and goes on; [`DataPlane::remove`] ends it.
pub(crate) struct DataPlane {
    options: Options,
    /// Those of the options' seed.
    keys: Keys,
    pins: Option<Pins>,
    program: Program,
    maps: Maps,
    capacity: Capacity,
    flow_room: FlowRoom,
    links: Links,
    /// Backends whose other record a running program may still read.
    recent_backends: BTreeSet<BackendId>,
    /// So with the directory's other half.
    recent_directory: bool,
    /// And with the other half of the routes toward clients.
    recent_client_routes: bool,
    /// What counters of former maps had above what was copied.
    carried: Carried,
    notices: Vec<String>,
}

impl DataPlane {
    /// Loads the program, with the maps that are pinned or new ones, and puts it in the place of
    /// the one that pinned links run. Interfaces are attached by [`DataPlane::attach`].
    ///
    /// # Errors
    /// If the kernel refuses, or what is pinned is of another make. What was pinned is in force as
    /// before then.
    pub(crate) fn open(options: Options) -> Result<Self, Error> {
        let mut notices = Vec::new();
        let pins =
            options.pin_path.as_deref().map(|path| Pins::open(path, &mut notices)).transpose()?;
        let pinned = pins.as_ref().map(Pins::tables).transpose()?.flatten();
        let mut plane = match &pinned {
            Some(tables) => {
                let pins = pins.expect("pinned tables were found in it");
                Self::take_over(options, pins, tables)?
            }
            None => Self::start(options, pins)?,
        };
        plane.notices.splice(0..0, notices);
        if let Some(pins) = &plane.pins {
            plane.links.take(plane.program.fd()?.as_fd(), pins, &mut plane.notices)?;
        }
        plane.pin_program()?;
        // Once the program in force has its keys.
        let seed = plane.options.hash_seed;
        plane.maps.directory.write_part(0, offset_of!(Directory, hash_seed), &seed)?;
        plane.grow(plane.options.capacity)?;
        plane.make_room(plane.options.fullnat_capacity, plane.options.ways)?;
        Ok(plane)
    }

    /// With maps of its own.
    fn start(options: Options, pins: Option<Pins>) -> Result<Self, Error> {
        let capacity = options.capacity;
        let tables = pins.as_ref().map(Pins::new_tables).transpose()?;
        let fullnat = options.fullnat_capacity.unwrap_or(FULLNAT_UNUSED);
        let ways = if options.ways { WAYS } else { WAYS_UNUSED };
        let flows = FlowRoom { moving: options.flow_capacity, fullnat, ways };
        let (program, mut maps) = load(&options, tables.as_deref(), capacity, flows)?;
        init(&mut maps)?;
        if let (Some(pins), Some(tables)) = (&pins, &tables) {
            pins.set_tables(tables)?;
        }
        Ok(Self::new(options, pins, program, maps, (capacity, flows)))
    }

    /// With the maps that are pinned.
    fn take_over(options: Options, pins: Pins, tables: &Path) -> Result<Self, Error> {
        let incompatible =
            |what: String| Error::Incompatible { path: pins.path().to_owned(), what };
        let (capacity, flows) = maps::pinned_capacity(tables).map_err(incompatible)?;
        pins.remove_leftovers()?;
        let (program, maps) = load(&options, Some(tables), capacity, flows)?;
        let found = maps.directory.read(0)?.version;
        if found != VERSION {
            return Err(incompatible(format!("their layout has version {found}, not {VERSION}")));
        }
        let mut plane = Self::new(options, Some(pins), program, maps, (capacity, flows));
        let fullnat = plane.options.fullnat_capacity.filter(|_| flows.fullnat != FULLNAT_UNUSED);
        let fullnat = fullnat.unwrap_or(flows.fullnat);
        let wanted = [
            ("flow", "flow_capacity", flows.moving, plane.options.flow_capacity),
            ("fullnat flow", "fullnat.flow_capacity", flows.fullnat, fullnat),
        ];
        for (table, key, room, wanted) in wanted {
            if room != wanted {
                plane.notices.push(format!(
                    "the {table} table has room for {room} flows and keeps it while it is pinned: \
                     {key} takes effect when xlb starts without pinned maps"
                ));
            }
        }
        // Also for what a former agent wrote last.
        plane.grace()?;
        Ok(plane)
    }

    fn new(
        options: Options,
        pins: Option<Pins>,
        program: Program,
        maps: Maps,
        (capacity, flow_room): (Capacity, FlowRoom),
    ) -> Self {
        Self {
            keys: Keys::from_seed(options.hash_seed),
            options,
            pins,
            program,
            maps,
            capacity,
            flow_room,
            links: Links::default(),
            recent_backends: BTreeSet::new(),
            recent_directory: false,
            recent_client_routes: false,
            carried: Carried::default(),
            notices: Vec::new(),
        }
    }

    /// Makes room for at least `capacity`: loads the program with larger maps that hold the same,
    /// and puts it in the old one's place, link by link. Every packet is served meanwhile.
    ///
    /// # Errors
    /// If something refuses; then all is as before.
    pub(crate) fn grow(&mut self, capacity: Capacity) -> Result<(), Error> {
        if holds(self.capacity, capacity) {
            return Ok(());
        }
        let capacity = Capacity {
            slots: capacity.slots.max(self.capacity.slots),
            backends: capacity.backends.max(self.capacity.backends),
            ports: capacity.ports.max(self.capacity.ports),
        };
        self.replace_maps(capacity, self.flow_room)
    }

    /// Makes room for so many flows under `fullnat`, unless there is room for some, and for `ways`
    /// to clients. Whether maps were replaced.
    ///
    /// # Errors
    /// As [`Self::grow`].
    pub(crate) fn make_room(&mut self, fullnat: Option<u32>, ways: bool) -> Result<bool, Error> {
        let mut room = self.flow_room;
        if let Some(capacity) = fullnat.filter(|_| room.fullnat == FULLNAT_UNUSED) {
            room.fullnat = capacity;
        }
        if ways {
            room.ways = WAYS;
        }
        if room == self.flow_room {
            return Ok(false);
        }
        self.replace_maps(self.capacity, room).map(|()| true)
    }

    fn replace_maps(&mut self, capacity: Capacity, flows: FlowRoom) -> Result<(), Error> {
        let tables = self.pins.as_ref().map(Pins::new_tables).transpose()?;
        if let Some(tables) = &tables {
            // The program finds them there, with all that they hold.
            let resized = flows.fullnat != self.flow_room.fullnat;
            for (name, map) in self.maps.shared(resized) {
                let path = tables.join(name);
                sys::pin(map, &path)
                    .map_err(|error| Error::kernel(format!("pin {}", path.display()), error))?;
            }
        }
        let (program, mut maps) = load(&self.options, tables.as_deref(), capacity, flows)?;
        self.maps.copy_into(&mut maps)?;
        let copied = self.maps.count(self.capacity)?;

        let old_program = std::mem::replace(&mut self.program, program);
        if let Err(error) = self.put_in_force(tables.as_deref()) {
            self.program = old_program;
            let undone = self.program.fd().and_then(|fd| self.links.update(fd.as_fd()));
            if let Err(error) = undone.and_then(|()| self.pin_program()) {
                self.notices.push(format!("what didn't grow isn't all as it was: {error}"));
            }
            return Err(error);
        }
        // From here on the new program is in force, and the new maps with it, whatever fails.
        let mut old_maps = std::mem::replace(&mut self.maps, maps);
        let old_capacity = std::mem::replace(&mut self.capacity, capacity);
        self.flow_room = flows;
        self.recent_backends.clear();
        self.recent_directory = false;
        self.recent_client_routes = false;
        if let Err(error) = self.carry_over(&mut old_maps, old_capacity, &copied) {
            self.notices.push(format!("some packets of the last moments are not counted: {error}"));
        }
        if let Some(Err(error)) = self.pins.as_ref().map(Pins::remove_leftovers) {
            self.notices.push(format!("what was pinned before is still there: {error}"));
        }
        Ok(())
    }

    /// Has the links run the program, and pins it and its maps. After an error the links, and the
    /// program's pin, may be of either program; the maps in force are the former ones.
    fn put_in_force(&self, tables: Option<&Path>) -> Result<(), Error> {
        self.links.update(self.program.fd()?.as_fd())?;
        self.pin_program()?;
        match (&self.pins, tables) {
            // The last step, since nothing takes it back.
            (Some(pins), Some(tables)) => pins.set_tables(tables),
            _ => Ok(()),
        }
    }

    /// Adds what a former program counted after its maps were copied: it counts until its last run
    /// is over.
    fn carry_over(
        &mut self,
        old: &mut Maps,
        capacity: Capacity,
        copied: &Counters,
    ) -> Result<(), Error> {
        old.grace()?;
        let last = old.count(capacity)?;
        self.carried.add_difference(&last, copied);
        Ok(())
    }

    fn pin_program(&self) -> Result<(), Error> {
        match &self.pins {
            Some(pins) => pins.replace("program", self.program.fd()?),
            None => Ok(()),
        }
    }

    /// Waits until no program run that began before is still under way: about 10 ms on an idle machine.
    pub(crate) fn grace(&mut self) -> Result<(), Error> {
        self.maps.grace()?;
        self.recent_backends.clear();
        self.recent_directory = false;
        self.recent_client_routes = false;
        Ok(())
    }

    /// What the maps hold at most.
    pub(crate) fn capacity(&self) -> Capacity {
        self.capacity
    }

    /// Flows that are remembered at the most.
    pub(crate) fn flow_capacity(&self) -> u32 {
        self.flow_room.moving
    }

    /// Flows under `fullnat` at the most.
    pub(crate) fn fullnat_capacity(&self) -> u32 {
        self.flow_room.fullnat
    }

    /// Bytes that the kernel has allocated for the maps.
    ///
    /// # Errors
    /// If the kernel doesn't tell.
    pub(crate) fn map_bytes(&self) -> Result<u64, Error> {
        self.maps.bytes()
    }

    /// What the operator should hear of, since this was asked last.
    pub(crate) fn take_notices(&mut self) -> Vec<String> {
        std::mem::take(&mut self.notices)
    }

    /// Tells from now on the next hops toward clients that the kernel doesn't know. Once for each
    /// loaded program: [`DataPlane::grow`] loads another one.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub(crate) fn unresolved_clients(&mut self) -> Result<Option<Wanted>, Error> {
        self.maps.unresolved.take().map(Wanted::new).transpose()
    }

    /// Detaches from all interfaces and unpins everything.
    ///
    /// # Errors
    /// If something can't be removed.
    pub(crate) fn remove(mut self) -> Result<(), Error> {
        self.links.detach_all(self.pins.as_ref())?;
        self.pins.take().map_or(Ok(()), Pins::remove)
    }
}

/// The running tables, for `balance` on the host.
impl Tables for DataPlane {
    fn keys(&self) -> &impl lb_common::hash::KeySource {
        &self.keys
    }

    fn directory(&self) -> Option<&Directory> {
        self.maps.directory.get(0)
    }

    fn vip(&self, index: u32) -> Option<&VipEntry> {
        self.maps.vips.get(index)
    }

    fn service(&self, index: u32) -> Option<&ServiceEntry> {
        self.maps.services.get(index)
    }

    fn slot(&self, index: u32) -> Option<Slot> {
        self.maps.slots.get(index).copied()
    }

    fn backend(&self, id: BackendId) -> Option<&BackendEntry> {
        self.maps.backends.get(id.0)
    }

    fn now(&self) -> u32 {
        now()
    }

    fn flow(&self, key: &FlowKey) -> Option<impl Deref<Target = FlowPlace>> {
        let words = self.maps.flows.get(&Value(*key), 0).ok()?;
        // A copy: who asks on the host changes nothing.
        Some(Box::new(FlowPlace::from(words.0)))
    }

    fn answer(&self, key: AnswerKey) -> Option<impl Deref<Target = AnswerEntry>> {
        self.maps.answer(key).map(Box::new)
    }

    fn hand_over(&self, _: Handed) {}

    fn remember(&self, _: &FlowKey, _: FlowRecord, _: Beginning) -> bool {
        true
    }

    fn count_picked_anew(&self) {}

    fn may_reply(&self, _: Reply) -> bool {
        true
    }
}

fn holds(have: Capacity, want: Capacity) -> bool {
    have.slots >= want.slots && have.backends >= want.backends && have.ports >= want.ports
}

/// Writes an empty directory, and the version last.
fn init(maps: &mut Maps) -> Result<(), Error> {
    let empty = directory_builder::build(&[])?;
    let directory = Directory { version: 0, active: 0, hash_seed: 0, halves: [empty.half; 2] };
    maps.directory.write(0, &directory)?;
    maps.directory.write_u32(0, offset_of!(Directory, version), VERSION)
}
