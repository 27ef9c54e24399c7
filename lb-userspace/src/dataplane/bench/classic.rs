//! The maps of the reference with a table of connections.

use aya::{
    Ebpf, EbpfLoader,
    maps::{Array, ArrayOfMaps, HashMap, Map, MapData},
    util::nr_cpus,
};
use aya_obj::generated::bpf_map_type;
use lb_common::{
    layout::{BackendRecord, ClassicConnection, ClassicFlow, ClassicService, ClassicVip, Slot},
    network::{TCP, UDP, words},
};

use super::{Error, Value, take};
use crate::{
    model::Protocol,
    plan::{Actual, Capacity, address_bytes},
};

/// Connections that a table holds: the most flows that are measured, 2²⁰, and half as many.
pub(crate) const CONNECTIONS: u32 = (1 << 20) + (1 << 19);

type Table = HashMap<MapData, Value<ClassicFlow>, Value<ClassicConnection>>;

/// Gives the reference room for as much as the balancer has room for.
pub(super) fn size(loader: &mut EbpfLoader<'_>, capacity: Capacity) -> Result<(), Error> {
    let cpus = nr_cpus().map_err(|(path, error)| {
        Error::kernel(format!("read the number of CPUs from {path}"), error)
    })?;
    loader
        .map_max_entries("classic_tables", cpus as u32)
        .map_max_entries("classic_slots", capacity.slots)
        .map_max_entries("classic_backends", capacity.backends)
        .map_max_entries("classic_counters", capacity.backends);
    Ok(())
}

/// Gives the reference the services, rings and backends that the balancer has, and an empty table
/// of connections for the CPU that it will run on.
pub(super) fn fill(object: &mut Ebpf, actual: &Actual, cpu: usize) -> Result<(), Error> {
    let refused = |name: &str, error| Error::library(format!("fill the map {name}"), error);

    let mut vips: HashMap<_, Value<ClassicVip>, Value<ClassicService>> =
        take(object, "classic_vips")?;
    let mut slots: Array<_, Value<Slot>> = take(object, "classic_slots")?;
    for (number, service) in (0..).zip(actual.services.values()) {
        let (key, ring_start) = (service.entry.key, service.entry.ring_start);
        let vip = ClassicVip {
            address: words(address_bytes(key.vip)),
            port: key.port.unwrap_or(0),
            protocol: match key.protocol {
                Protocol::Tcp => TCP.into(),
                Protocol::Udp => UDP.into(),
            },
        };
        let entry = ClassicService { number, ring_start, ring_size: service.entry.ring_size };
        vips.insert(Value(vip), Value(entry), 0).map_err(|error| refused("classic_vips", error))?;
        for (index, slot) in (ring_start..).zip(&service.ring) {
            slots.set(index, Value(*slot), 0).map_err(|error| refused("classic_slots", error))?;
        }
    }
    let mut backends: Array<_, Value<BackendRecord>> = take(object, "classic_backends")?;
    for (id, record) in &actual.backends {
        backends
            .set(id.0, Value(*record), 0)
            .map_err(|error| refused("classic_backends", error))?;
    }
    let mut tables: ArrayOfMaps<_, Table> = take(object, "classic_tables")?;
    tables.set(cpu as u32, &table()?, 0).map_err(|error| refused("classic_tables", error))
}

fn table() -> Result<Table, Error> {
    let definition = aya_obj::Map::new_from_params(
        bpf_map_type::BPF_MAP_TYPE_LRU_HASH as u32,
        size_of::<ClassicFlow>() as u32,
        size_of::<ClassicConnection>() as u32,
        CONNECTIONS,
        0,
    );
    MapData::create(definition, "classic_table", None)
        .and_then(|data| Map::LruHashMap(data).try_into())
        .map_err(|error| Error::library("create a table of connections", error))
}
