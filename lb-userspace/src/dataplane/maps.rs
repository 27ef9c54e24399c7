//! The program's maps, typed: what they are called, what they hold, how long they are.

use std::{
    cell::RefCell,
    collections::BTreeMap,
    fs,
    os::fd::{AsFd, AsRawFd as _, OwnedFd},
    path::Path,
};

use aya::{
    Ebpf, Pod,
    maps::{
        Array, ArrayOfMaps, DevMap, HashMap, Map, MapData, MapError, MapInfo, PerCpuArray,
        PerCpuValues, ProgramArray, RingBuf,
    },
};
use lb_common::{
    layout::{
        AnswerEntry, AnswerKey, BackendCounters, BackendEntry, ClientRouteTable, Directory,
        FlowCounters, FlowKey, FlowWords, FullnatCounters, GLIMPSES, Glimpse, POOLS, Plain,
        RepliesInSecond, SERVICE_POSITIONS, ServiceEntry, Slot, TraceRecord, TranslatedWords,
        VIP_POSITIONS, VipEntry, WayEntry, WayQuestion,
    },
    network::Address,
    verdict::{MayBe, OUTCOMES},
};

use super::{FULLNAT_UNUSED, WAYS_UNUSED, error::Error, memory::MappedArray};
use crate::plan::Capacity;

/// Index in the device map; entries there hold an ifindex and a program.
const PORT_BYTES: u32 = 8;

/// A value that aya copies as bytes.
#[derive(Clone, Copy, Debug)]
#[repr(transparent)]
pub(super) struct Value<T: Plain>(pub(super) T);

// SAFETY: transparent over `Plain` memory.
unsafe impl<T: Plain> Pod for Value<T> {}

/// Which of the caller's capacities sets a map's length.
#[derive(Clone, Copy, Debug)]
enum Length {
    Fixed(u32),
    Slots,
    Backends,
    Ports,
    Flows,
    Fullnat,
    Ways,
}

/// What there is room for, beside what a [`Capacity`] says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct FlowRoom {
    /// Flows in moving slots.
    pub(super) moving: u32,
    /// Flows under `fullnat`.
    pub(super) fullnat: u32,
    /// Ways to clients.
    pub(super) ways: u32,
}

impl FlowRoom {
    /// Whether packets can meet a program where there is room for no more than this.
    pub(super) fn uses(&self, program: MayBe) -> bool {
        let fullnat = self.fullnat != FULLNAT_UNUSED;
        let answers = fullnat || self.ways != WAYS_UNUSED;
        (fullnat || !program.is_of_fullnat()) && (answers || !program.is_of_answers())
    }
}

/// Every pinned map: its name, the bytes of a value, its length.
const SHAPES: [(&str, usize, Length); 21] = [
    ("directory", size_of::<Directory>(), Length::Fixed(1)),
    ("vips", size_of::<VipEntry>(), Length::Fixed(2 * VIP_POSITIONS)),
    ("services", size_of::<ServiceEntry>(), Length::Fixed(2 * SERVICE_POSITIONS)),
    ("slots", size_of::<Slot>(), Length::Slots),
    ("backends", size_of::<BackendEntry>(), Length::Backends),
    ("backend_counters", size_of::<BackendCounters>(), Length::Backends),
    ("answers", size_of::<AnswerEntry>(), Length::Backends),
    ("ways", size_of::<WayEntry>(), Length::Ways),
    ("programs", size_of::<u32>(), Length::Fixed(MayBe::ALL.len() as u32)),
    ("outcomes", size_of::<u64>(), Length::Fixed(OUTCOMES as u32)),
    ("ports", PORT_BYTES as usize, Length::Ports),
    ("flows", size_of::<FlowWords>(), Length::Flows),
    ("flow_counters", size_of::<FlowCounters>(), Length::Fixed(1)),
    ("replies", size_of::<RepliesInSecond>(), Length::Fixed(1)),
    ("glimpses", size_of::<Glimpse>(), Length::Fixed(GLIMPSES)),
    ("grace", size_of::<u32>(), Length::Fixed(1)),
    ("fullnat_flows", size_of::<TranslatedWords>(), Length::Fullnat),
    ("fullnat_returns", size_of::<FlowKey>(), Length::Fullnat),
    ("fullnat_pools", size_of::<Address>(), Length::Fixed(POOLS)),
    ("fullnat_turns", size_of::<u32>(), Length::Backends),
    ("fullnat_counters", size_of::<FullnatCounters>(), Length::Fixed(1)),
];

/// The maps of a loaded program.
pub(super) struct Maps {
    pub(super) directory: MappedArray<Directory>,
    pub(super) vips: MappedArray<VipEntry>,
    pub(super) services: MappedArray<ServiceEntry>,
    pub(super) slots: MappedArray<Slot>,
    pub(super) backends: MappedArray<BackendEntry>,
    pub(super) backend_counters: PerCpuArray<MapData, Value<BackendCounters>>,
    pub(super) outcomes: PerCpuArray<MapData, u64>,
    answers: HashMap<MapData, Value<AnswerKey>, Value<AnswerEntry>>,
    pub(super) programs: ProgramArray<MapData>,
    pub(super) client_routes: MappedArray<ClientRouteTable>,
    /// The program's alone.
    _ways: MapData,
    /// Next hops toward clients that the kernel doesn't know, until somebody listens.
    pub(super) unresolved: Option<RingBuf<MapData>>,
    pub(super) ports: DevMap<MapData>,
    pub(super) ports_fd: OwnedFd,
    pub(super) flows: HashMap<MapData, Value<FlowKey>, Value<FlowWords>>,
    pub(super) flows_fd: OwnedFd,
    pub(super) flow_counters: PerCpuArray<MapData, Value<FlowCounters>>,
    pub(super) fullnat_flows: HashMap<MapData, Value<FlowKey>, Value<TranslatedWords>>,
    pub(super) fullnat_flows_fd: OwnedFd,
    pub(super) fullnat_returns_fd: OwnedFd,
    pub(super) pools: MappedArray<Address>,
    pools_fd: OwnedFd,
    pub(super) fullnat_counters: PerCpuArray<MapData, Value<FullnatCounters>>,
    /// The program's alone.
    _turns: MapData,
    /// The program's alone.
    _glimpses: MapData,
    _replies: MapData,
    pub(super) trace: Array<MapData, Value<TraceRecord>>,
    /// For one question after the other, by who may change nothing else.
    pub(super) way_question: RefCell<Array<MapData, Value<WayQuestion>>>,
    grace: ArrayOfMaps<MapData, Array<MapData, u32>>,
    grace_inner: Array<MapData, u32>,
    /// Bytes that the kernel has allocated for the maps but those of flows.
    bytes: u64,
}

/// The maps pinned in a directory and the length that each shall have, by name.
pub(super) fn pinned(
    capacity: Capacity,
    flows: FlowRoom,
) -> impl Iterator<Item = (&'static str, u32)> {
    SHAPES.into_iter().map(move |(name, _, length)| (name, length.of(capacity, flows)))
}

/// How much the maps pinned in a directory hold, and how many flows.
///
/// # Errors
/// What differs from what this xlb makes, in words.
pub(super) fn pinned_capacity(directory: &Path) -> Result<(Capacity, FlowRoom), String> {
    let mut capacity = Capacity::default();
    let mut flows = FlowRoom::default();
    for (name, bytes, length) in SHAPES {
        let info = MapInfo::from_pin(directory.join(name))
            .map_err(|error| format!("the map {name} can't be opened ({error})"))?;
        if info.value_size() as usize != bytes {
            let found = info.value_size();
            return Err(format!("values of the map {name} have {found} bytes, not {bytes}"));
        }
        let len = info.max_entries();
        match length {
            Length::Fixed(expected) if expected != len => {
                return Err(format!("the map {name} has {len} entries, not {expected}"));
            }
            Length::Fixed(_) => {}
            Length::Slots => capacity.slots = len,
            Length::Backends if capacity.backends != 0 && capacity.backends != len => {
                return Err(format!("the map {name} has {len} entries, not {}", capacity.backends));
            }
            Length::Backends => capacity.backends = len,
            Length::Ports => capacity.ports = len,
            Length::Flows => flows.moving = len,
            Length::Fullnat => flows.fullnat = len,
            Length::Ways => flows.ways = len,
        }
    }
    Ok((capacity, flows))
}

/// The directory of the maps pinned there.
///
/// # Errors
/// It isn't there, or is of another make.
pub(super) fn pinned_directory(tables: &Path) -> Result<Directory, Error> {
    let path = tables.join("directory");
    let data = MapData::from_pin(&path)
        .map_err(|error| Error::library(format!("open the map {}", path.display()), error))?;
    mapping("directory", &data, 1).and_then(|directory: MappedArray<_>| directory.read(0))
}

impl Length {
    fn of(self, capacity: Capacity, flows: FlowRoom) -> u32 {
        match self {
            Self::Fixed(len) => len,
            Self::Slots => capacity.slots,
            Self::Backends => capacity.backends,
            Self::Ports => capacity.ports,
            Self::Flows => flows.moving,
            Self::Fullnat => flows.fullnat,
            Self::Ways => flows.ways,
        }
    }
}

impl Maps {
    /// Takes the maps out of a loaded object.
    ///
    /// # Errors
    /// If one is missing, of another kind, or can't be mapped.
    pub(super) fn take(object: &mut Ebpf, capacity: Capacity) -> Result<Self, Error> {
        let mut bytes = 0;
        let ports = take_data(object, "ports", &mut bytes)?;
        let ports_fd = keep_open(&ports, "ports")?;
        // It grows and shrinks: asked for when it is told.
        let flows = take_data(object, "flows", &mut 0)?;
        let flows_fd = keep_open(&flows, "flows")?;
        let fullnat_flows = take_data(object, "fullnat_flows", &mut 0)?;
        let fullnat_flows_fd = keep_open(&fullnat_flows, "fullnat_flows")?;
        let returns = take_data(object, "fullnat_returns", &mut 0)?;
        let fullnat_returns_fd = keep_open(&returns, "fullnat_returns")?;
        let pools = take_data(object, "fullnat_pools", &mut bytes)?;
        Ok(Self {
            directory: mapped(object, "directory", 1, &mut bytes)?,
            vips: mapped(object, "vips", 2 * VIP_POSITIONS, &mut bytes)?,
            services: mapped(object, "services", 2 * SERVICE_POSITIONS, &mut bytes)?,
            slots: mapped(object, "slots", capacity.slots, &mut bytes)?,
            backends: mapped(object, "backends", capacity.backends, &mut bytes)?,
            backend_counters: typed(object, "backend_counters", &mut bytes)?,
            outcomes: typed(object, "outcomes", &mut bytes)?,
            answers: typed(object, "answers", &mut bytes)?,
            programs: typed(object, "programs", &mut bytes)?,
            client_routes: mapped(object, "client_routes", 1, &mut bytes)?,
            _ways: take_data(object, "ways", &mut bytes)?,
            unresolved: Some(typed(object, "unresolved", &mut bytes)?),
            ports: kind("ports", Map::DevMap(ports).try_into())?,
            ports_fd,
            flows: kind("flows", Map::HashMap(flows).try_into())?,
            flows_fd,
            flow_counters: typed(object, "flow_counters", &mut bytes)?,
            fullnat_flows: kind("fullnat_flows", Map::HashMap(fullnat_flows).try_into())?,
            fullnat_flows_fd,
            fullnat_returns_fd,
            pools: mapping("fullnat_pools", &pools, POOLS)?,
            pools_fd: keep_open(&pools, "fullnat_pools")?,
            fullnat_counters: typed(object, "fullnat_counters", &mut bytes)?,
            _turns: take_data(object, "fullnat_turns", &mut bytes)?,
            _glimpses: take_data(object, "glimpses", &mut bytes)?,
            _replies: take_data(object, "replies", &mut bytes)?,
            trace: typed(object, "trace", &mut bytes)?,
            way_question: RefCell::new(typed(object, "way_question", &mut bytes)?),
            grace: typed(object, "grace", &mut bytes)?,
            grace_inner: Array::create(1, 0)
                .map_err(|error| Error::library("create the inner map of grace", error))?,
            bytes,
        })
    }

    /// Waits until no program run that began before is still under way.
    ///
    /// The kernel does that on an update of a map of maps (`synchronize_rcu` in its
    /// `maybe_wait_bpf_programs`, Linux 4.19), so that nobody still uses the map that was there.
    pub(super) fn grace(&mut self) -> Result<(), Error> {
        self.grace
            .set(0, &self.grace_inner, 0)
            .map_err(|error| Error::library("wait for running programs by the map grace", error))
    }

    /// Bytes that the kernel has allocated for the maps.
    pub(super) fn bytes(&self) -> Result<u64, Error> {
        let of_flows = [&self.flows_fd, &self.fullnat_flows_fd, &self.fullnat_returns_fd];
        of_flows.into_iter().try_fold(self.bytes, |bytes, map| Ok(bytes + allocated(map)?))
    }

    /// Maps that a program with larger tables goes on with; without those of flows under `fullnat`
    /// where these are `resized`.
    pub(super) fn shared(&self, resized: bool) -> impl Iterator<Item = (&'static str, &OwnedFd)> {
        let of_fullnat = [
            ("fullnat_flows", &self.fullnat_flows_fd),
            ("fullnat_returns", &self.fullnat_returns_fd),
        ];
        [("flows", &self.flows_fd), ("fullnat_pools", &self.pools_fd)]
            .into_iter()
            .chain(of_fullnat.into_iter().filter(move |_| !resized))
    }

    /// Copies everything into maps that are no smaller: tables, counters and the device map. What
    /// is [shared](Maps::shared) is not copied.
    pub(super) fn copy_into(&self, new: &mut Self) -> Result<(), Error> {
        new.vips.copy_from(&self.vips)?;
        new.services.copy_from(&self.services)?;
        new.slots.copy_from(&self.slots)?;
        new.backends.copy_from(&self.backends)?;
        for (key, entry) in self.answers()? {
            new.set_answer(key, entry)?;
        }
        new.directory.copy_from(&self.directory)?;
        new.client_routes.copy_from(&self.client_routes)?;
        for port in 0..self.ports.len() {
            if let Some(ifindex) = self.port(port)? {
                new.set_port(port, ifindex)?;
            }
        }
        copy_counters(&self.backend_counters, &mut new.backend_counters)?;
        copy_counters(&self.outcomes, &mut new.outcomes)?;
        copy_counters(&self.fullnat_counters, &mut new.fullnat_counters)?;
        copy_counters(&self.flow_counters, &mut new.flow_counters)
    }

    /// What becomes of backends' answers.
    pub(super) fn answers(&self) -> Result<BTreeMap<AnswerKey, AnswerEntry>, Error> {
        let all = self.answers.iter().map(|entry| entry.map(|(key, entry)| (key.0, entry.0)));
        all.collect::<Result<_, _>>().map_err(|error| Error::library("read the map answers", error))
    }

    /// What becomes of answers from there.
    pub(super) fn answer(&self, key: AnswerKey) -> Option<AnswerEntry> {
        self.answers.get(&Value(key), 0).ok().map(|entry| entry.0)
    }

    pub(super) fn set_answer(&mut self, key: AnswerKey, entry: AnswerEntry) -> Result<(), Error> {
        self.answers
            .insert(Value(key), Value(entry), 0)
            .map_err(|error| Error::library("fill the map answers", error))
    }

    pub(super) fn clear_answer(&mut self, key: AnswerKey) -> Result<(), Error> {
        match self.answers.remove(&Value(key)) {
            Ok(()) | Err(MapError::KeyNotFound) => Ok(()),
            Err(error) => Err(Error::library("clear an entry of the map answers", error)),
        }
    }

    /// The interface at an entry of the device map.
    pub(super) fn port(&self, port: u32) -> Result<Option<u32>, Error> {
        match self.ports.get(port, 0) {
            Ok(value) => Ok(Some(value.if_index)),
            Err(MapError::KeyNotFound) => Ok(None),
            Err(error) => Err(Error::library(format!("read entry {port} of the map ports"), error)),
        }
    }

    /// Points an entry of the device map at an interface.
    pub(super) fn set_port(&mut self, port: u32, ifindex: u32) -> Result<(), Error> {
        self.ports.set(port, ifindex, None, 0).map_err(|error| {
            Error::library(
                format!("point entry {port} of the map ports at interface {ifindex}"),
                error,
            )
        })
    }
}

fn take_data(object: &mut Ebpf, name: &'static str, bytes: &mut u64) -> Result<MapData, Error> {
    let missing = || Error::Object { what: format!("map {name} of the kind that it should be") };
    let data = match object.take_map(name).ok_or_else(missing)? {
        Map::Array(data)
        | Map::PerCpuArray(data)
        | Map::DevMap(data)
        | Map::ArrayOfMaps(data)
        | Map::HashMap(data)
        | Map::ProgramArray(data)
        | Map::RingBuf(data) => data,
        _ => return Err(missing()),
    };
    *bytes += allocated(data.fd())?;
    Ok(data)
}

fn keep_open(data: &MapData, name: &str) -> Result<OwnedFd, Error> {
    let descriptor = data.fd().as_fd().try_clone_to_owned();
    descriptor.map_err(|error| Error::kernel(format!("keep the map {name} open"), error))
}

fn typed<M>(object: &mut Ebpf, name: &'static str, bytes: &mut u64) -> Result<M, Error>
where
    M: TryFrom<Map, Error = MapError>,
{
    let data = take_data(object, name, bytes)?;
    kind(name, Map::from_map_data(data).and_then(M::try_from))
}

fn kind<M>(name: &str, map: Result<M, MapError>) -> Result<M, Error> {
    map.map_err(|error| Error::Object { what: format!("usable map {name} ({error})") })
}

fn mapped<T: Plain>(
    object: &mut Ebpf,
    name: &'static str,
    len: u32,
    bytes: &mut u64,
) -> Result<MappedArray<T>, Error> {
    let data = take_data(object, name, bytes)?;
    mapping(name, &data, len)
}

fn mapping<T: Plain>(
    name: &'static str,
    data: &MapData,
    len: u32,
) -> Result<MappedArray<T>, Error> {
    // By its descriptor: to ask by number takes CAP_SYS_ADMIN.
    let info =
        data.info().map_err(|error| Error::library(format!("describe the map {name}"), error))?;
    if info.value_size() as usize != size_of::<T>() || info.max_entries() != len {
        return Err(Error::Object {
            what: format!("map {name} of {len} entries of {} bytes", size_of::<T>()),
        });
    }
    MappedArray::new(name, data.fd(), len)
}

/// Bytes of a map: `memlock` in its descriptor's info.
fn allocated(map: impl AsFd) -> Result<u64, Error> {
    let descriptor = map.as_fd().as_raw_fd();
    let path = format!("/proc/self/fdinfo/{descriptor}");
    let text =
        fs::read_to_string(&path).map_err(|error| Error::kernel(format!("read {path}"), error))?;
    let value = text.lines().find_map(|line| line.strip_prefix("memlock:"));
    value
        .and_then(|value| value.trim().parse().ok())
        .ok_or_else(|| Error::Inconsistent(format!("{path} has no memlock")))
}

fn copy_counters<T: Pod>(
    old: &PerCpuArray<MapData, T>,
    new: &mut PerCpuArray<MapData, T>,
) -> Result<(), Error> {
    for index in 0..old.len() {
        let values: PerCpuValues<T> = old.get(&index, 0).map_err(|error| {
            Error::library(format!("read the counters of number {index}"), error)
        })?;
        new.set(index, values, 0).map_err(|error| {
            Error::library(format!("copy the counters of number {index}"), error)
        })?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use lb_common::layout::WAYS;

    use super::*;

    #[test]
    fn programs_come_with_the_room_for_what_they_serve() {
        let used = |fullnat, ways| {
            let room = FlowRoom { moving: 1, fullnat, ways };
            let used = MayBe::ALL.into_iter().filter(|&(it, _)| room.uses(it));
            used.map(|(_, name)| name.trim_end_matches(['4', '6'])).collect::<BTreeSet<_>>()
        };
        let always = BTreeSet::from(["xlb_too_long_ipv", "xlb_control_ipv"]);
        assert_eq!(used(FULLNAT_UNUSED, WAYS_UNUSED), always);
        let of_answers = BTreeSet::from(["xlb_answer_ipv", "xlb_error_ipv"]);
        assert_eq!(used(FULLNAT_UNUSED, WAYS), &always | &of_answers);
        assert_eq!(used(1 << 10, WAYS_UNUSED).len(), MayBe::ALL.len() / 2);
    }
}
