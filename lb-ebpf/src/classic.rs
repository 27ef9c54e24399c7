//! The reference: how mature balancers work, which keep a table of connections.
//!
//! Parsing and encapsulation are xlb's own, so that only what is looked up and kept differs. What
//! is looked up and kept for each packet is what Katran does, but for what it does less than
//! others: there is no guard against floods, and every miss is recorded.

use aya_ebpf::{
    bindings::xdp_action,
    btf_maps::{Array, ArrayOfMaps, HashMap, LruHashMap, PerCpuArray},
    helpers::{bpf_get_smp_processor_id, bpf_ktime_get_ns},
    macros::{btf_map, xdp},
    programs::XdpContext,
};
use lb_common::{
    flow::{self, Flow},
    hash::{KeySource, reduce},
    layout::{
        BackendCounters, BackendRecord, ClassicConnection, ClassicFlow, ClassicService, ClassicVip,
        Slot,
    },
    link::{Link, NetworkProtocol},
    network::{Network, UDP, words},
    packet::Packet,
    rewrite::{self, Inner},
    verdict::DropReason,
};
use lb_ebpf::buffer::XdpBuffer;
use network_types::ip::{Ipv4Hdr, Ipv6Hdr};

// Places that the benchmark sizes when it loads the program.
const CPUS: usize = 1;
const SERVICES: usize = 512;
const SLOTS: usize = 65_537;
const BACKENDS: usize = 1_024;

/// A UDP flow that was quiet for so long is a new one.
const UDP_TIMEOUT_NS: u64 = 30_000_000_000;

/// One CPU's table; what it really holds is the benchmark's to say.
type Connections = LruHashMap<ClassicFlow, ClassicConnection, 1_024>;

#[btf_map(name = "classic_vips")]
static VIPS: HashMap<ClassicVip, ClassicService, SERVICES> = HashMap::new();
/// A table for each CPU, so that no two write to one.
#[btf_map(name = "classic_tables")]
static TABLES: ArrayOfMaps<Connections, CPUS> = ArrayOfMaps::new();
#[btf_map(name = "classic_slots")]
static SLOTS_OF_RINGS: Array<Slot, SLOTS> = Array::new();
#[btf_map(name = "classic_backends")]
static RECORDS: Array<BackendRecord, BACKENDS> = Array::new();
#[btf_map(name = "classic_vip_counts")]
static SERVICE_COUNTERS: PerCpuArray<BackendCounters, SERVICES> = PerCpuArray::new();
#[btf_map(name = "classic_counters")]
static BACKEND_COUNTERS: PerCpuArray<BackendCounters, BACKENDS> = PerCpuArray::new();
#[btf_map(name = "classic_lookups")]
static LOOKUPS: PerCpuArray<Lookups, 1> = PerCpuArray::new();

/// How well the tables of connections do.
#[repr(C)]
struct Lookups {
    packets: u64,
    misses: u64,
}

/// See the module.
#[xdp(frags)]
fn classic(context: XdpContext) -> u32 {
    match balance(&context) {
        Ok(true) => xdp_action::XDP_TX,
        Ok(false) => xdp_action::XDP_PASS,
        Err(_) => xdp_action::XDP_DROP,
    }
}

#[inline(always)]
fn balance(context: &XdpContext) -> Result<bool, DropReason> {
    let packet = Packet::new(XdpBuffer::new(context));
    let Some(link) = Link::read(&packet) else { return Ok(false) };
    match link.network {
        NetworkProtocol::Ipv4 => journey::<Ipv4Hdr>(packet, link),
        NetworkProtocol::Ipv6 => journey::<Ipv6Hdr>(packet, link),
    }
}

#[inline(always)]
fn journey<N: Network>(packet: Packet<XdpBuffer<'_>>, link: Link) -> Result<bool, DropReason> {
    let offset = link.tags.link_len();
    let Some(header) = N::read(&packet, offset) else { return Ok(false) };
    let transport = header.transport(&packet, offset)?;
    let ports = flow::ports(&packet, offset, &header, transport)?;
    let flags = flow::flags(&packet, offset, &header, transport)?;
    let flow = Flow { protocol: transport.protocol, ports, flags };

    let destination = words(header.destination_address());
    let Some(service) = service(destination, &flow) else { return Ok(false) };
    let key = ClassicFlow {
        source: words(header.source_address()),
        destination,
        ports,
        protocol: flow.protocol.into(),
    };
    let hash = header.flow_hash(&Keys, ports, flow.protocol);
    let backend = backend(&key, &flow, hash, service)?;
    let record = RECORDS.get(backend).ok_or(DropReason::Inconsistent)?;

    let bytes = (offset + header.total_len()) as u64;
    count(&SERVICE_COUNTERS, service.number, bytes)?;
    count(&BACKEND_COUNTERS, backend, bytes)?;
    rewrite::toward(packet, link, Inner::of(&header, hash), record)?;
    Ok(true)
}

/// The service of the very port, else the VIP's for any port.
#[inline(always)]
fn service(address: [u32; 4], flow: &Flow) -> Option<&'static ClassicService> {
    let vip = |port| ClassicVip { address, port, protocol: flow.protocol.into() };
    // SAFETY: the value is only read, and nobody changes it during a run.
    let exact = unsafe { VIPS.get(vip(flow::destination_port(flow.ports))) };
    // SAFETY: as above.
    exact.or_else(|| unsafe { VIPS.get(vip(0)) })
}

/// The backend that the CPU's table has for the flow, else the ring's, which the table then has.
#[inline(always)]
fn backend(
    key: &ClassicFlow,
    flow: &Flow,
    hash: u64,
    service: &ClassicService,
) -> Result<u32, DropReason> {
    let lookups = LOOKUPS.get_ptr_mut(0).ok_or(DropReason::Inconsistent)?;
    // SAFETY: this CPU's value; XDP programs don't interrupt each other on one CPU.
    let lookups = unsafe { &mut *lookups };
    lookups.packets += 1;
    // SAFETY: the helper takes nothing.
    let cpu = unsafe { bpf_get_smp_processor_id() };
    let table = TABLES.get(cpu).ok_or(DropReason::Inconsistent)?;
    // A connection that opens is in no table.
    if !flow.opens()
        && let Some(backend) = known(table, key)
    {
        return Ok(backend);
    }

    lookups.misses += 1;
    let index = service.ring_start.wrapping_add(reduce(hash, service.ring_size));
    let backend = SLOTS_OF_RINGS.get(index).ok_or(DropReason::NoBackend)?.current().0;
    let last_use_ns = if flow.protocol == UDP { now_ns() } else { 0 };
    let connection = ClassicConnection { last_use_ns, backend, reserved: 0 };
    // A table that can't take it costs the flow its place, not the packet its way.
    let _: Result<(), i32> = table.insert(key, connection, 0);
    Ok(backend)
}

/// The backend in a table, unless it is a UDP flow's that was quiet for too long.
#[inline(always)]
fn known(table: &Connections, key: &ClassicFlow) -> Option<u32> {
    let connection = table.get_ptr_mut(key)?;
    // SAFETY: nobody but this CPU uses this table.
    let connection = unsafe { &mut *connection };
    if key.protocol == UDP.into() {
        let now_ns = now_ns();
        if now_ns - connection.last_use_ns > UDP_TIMEOUT_NS {
            return None;
        }
        connection.last_use_ns = now_ns;
    }
    Some(connection.backend)
}

#[inline(always)]
fn now_ns() -> u64 {
    // SAFETY: the helper takes nothing.
    unsafe { bpf_ktime_get_ns() }
}

#[inline(always)]
fn count<const ENTRIES: usize>(
    counters: &PerCpuArray<BackendCounters, ENTRIES>,
    index: u32,
    bytes: u64,
) -> Result<(), DropReason> {
    let counters = counters.get_ptr_mut(index).ok_or(DropReason::Inconsistent)?;
    // SAFETY: this CPU's value; XDP programs don't interrupt each other on one CPU.
    let counters = unsafe { &mut *counters };
    counters.packets += 1;
    counters.bytes += bytes;
    Ok(())
}

/// A fixed key: nobody attacks a benchmark.
struct Keys;

impl KeySource for Keys {
    #[inline(always)]
    fn key(&self, index: usize) -> u32 {
        0x9e37_79b9 ^ index as u32
    }
}
