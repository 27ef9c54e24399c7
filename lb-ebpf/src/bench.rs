//! Programs that measure others: a driver, which hands one valid packet after the other to a
//! program under test, and what there is to compare with.
#![no_std]
#![no_main]

use aya_ebpf::{
    EbpfContext as _,
    bindings::xdp_action,
    btf_maps::{Array, HashMap, LruHashMap, PerCpuArray, ProgramArray},
    helpers::bpf_xdp_adjust_head,
    macros::{btf_map, xdp},
    programs::XdpContext,
};
use lb_common::{
    flow,
    hash::{KeySource, reduce},
    layout::{
        BENCH_FRAME_LEN, BackendCounters, BackendRecord, BenchPlan, ClassicService, ClassicVip,
        Slot,
    },
    link::{Link, NetworkProtocol},
    network::{Address, Network},
    packet::Packet,
    rewrite::{self, Inner},
    verdict::DropReason,
};
use lb_ebpf::buffer::XdpBuffer;
use network_types::ip::{Ipv4Hdr, Ipv6Hdr};

/// The program under test, at index 0.
#[btf_map(name = "under_test")]
static UNDER_TEST: ProgramArray<1> = ProgramArray::new();
#[btf_map(name = "plan")]
static PLAN: Array<BenchPlan, 1> = Array::new();

/// Restores the frame, whatever the program under test made of it, makes it the next flow's, and
/// goes on with the program under test.
///
/// It calls `bpf_xdp_adjust_head` whether or not there is anything to undo: its own cost is the
/// same for every program under test.
#[xdp(frags)]
fn drive(context: XdpContext) -> u32 {
    let Some(plan) = PLAN.get_ptr_mut(0) else { return xdp_action::XDP_ABORTED };
    // SAFETY: one value, and one program run at a time.
    let plan = unsafe { &mut *plan };
    let grown = (context.data_end() - context.data()) as i32 - BENCH_FRAME_LEN as i32;
    // SAFETY: the helper takes the program's own context.
    if unsafe { bpf_xdp_adjust_head(context.as_ptr().cast(), grown) } != 0 {
        return xdp_action::XDP_ABORTED;
    }
    plan.counter = plan.counter.wrapping_add(1);
    if write_frame(&context, plan).is_err() {
        return xdp_action::XDP_ABORTED;
    }
    // SAFETY: the helper takes the program's own context.
    unsafe { UNDER_TEST.tail_call(&context, 0) };
    xdp_action::XDP_ABORTED
}

#[inline(always)]
fn write_frame(context: &XdpContext, plan: &BenchPlan) -> Result<(), DropReason> {
    let mut packet = Packet::new(XdpBuffer::new(context));
    packet.write::<[u8; BENCH_FRAME_LEN]>(0, plan.frame)?;
    let word = plan.first_flow.wrapping_add(plan.flow(plan.counter));
    let sum = (word & 0xffff) + (word >> 16);
    let balance = !((sum & 0xffff) + (sum >> 16)) as u16;
    let [first, second] = plan.balance_offsets;
    packet.write((plan.flow_offset & 0x7f) as usize, word.to_be())?;
    packet.write((first & 0x7f) as usize, balance.to_be())?;
    packet.write((second & 0x7f) as usize, balance.to_be())
}

/// What the driver costs.
#[xdp(frags)]
fn empty(_: XdpContext) -> u32 {
    xdp_action::XDP_PASS
}

/// The least that an encapsulation can cost: room for a header, and 34 bytes of it.
#[xdp(frags)]
fn least(context: XdpContext) -> u32 {
    const HEADER: [u8; 34] = [0x45; 34];
    let packet = Packet::new(XdpBuffer::new(&context)).grow_front(20);
    match packet.and_then(|mut packet| packet.write(0, HEADER)) {
        Ok(()) => xdp_action::XDP_TX,
        Err(_) => xdp_action::XDP_DROP,
    }
}

/// A third is free when the most flows that are measured, 2²⁰, are in it.
const CLASSIC_CONNECTIONS: usize = (1 << 20) + (1 << 19);
// Places that the benchmark sizes when it loads the program.
const CLASSIC_SERVICES: usize = 512;
const CLASSIC_RINGS: usize = 65_537;
const CLASSIC_BACKENDS: usize = 1_024;

/// Key of a connection of either family: the five-tuple.
#[repr(C)]
#[derive(Clone, Copy)]
struct ClassicFlow {
    source: Address,
    destination: Address,
    ports: u32,
    protocol: u32,
}

#[btf_map(name = "classic_vips")]
static CLASSIC_VIPS: HashMap<ClassicVip, ClassicService, CLASSIC_SERVICES> = HashMap::new();
#[btf_map(name = "classic_flows")]
static CLASSIC_FLOWS: LruHashMap<ClassicFlow, u32, CLASSIC_CONNECTIONS> = LruHashMap::new();
#[btf_map(name = "classic_slots")]
static CLASSIC_SLOTS: Array<Slot, CLASSIC_RINGS> = Array::new();
#[btf_map(name = "classic_backends")]
static CLASSIC_RECORDS: Array<BackendRecord, CLASSIC_BACKENDS> = Array::new();
#[btf_map(name = "classic_counters")]
static CLASSIC_COUNTERS: PerCpuArray<BackendCounters, CLASSIC_BACKENDS> = PerCpuArray::new();

/// How balancers with a connection table work: the VIP in a hash map, every flow in a per-CPU LRU
/// hash, the ring only on a miss. Parsing and encapsulation are ours, so that only the look-ups
/// differ.
#[xdp(frags)]
fn classic(context: XdpContext) -> u32 {
    match classic_balance(&context) {
        Ok(true) => xdp_action::XDP_TX,
        Ok(false) => xdp_action::XDP_PASS,
        Err(_) => xdp_action::XDP_DROP,
    }
}

#[inline(always)]
fn classic_balance(context: &XdpContext) -> Result<bool, DropReason> {
    let packet = Packet::new(XdpBuffer::new(context));
    let Some(link) = Link::read(&packet) else { return Ok(false) };
    match link.network {
        NetworkProtocol::Ipv4 => classic_journey::<Ipv4Hdr>(packet, link),
        NetworkProtocol::Ipv6 => classic_journey::<Ipv6Hdr>(packet, link),
    }
}

#[inline(always)]
fn classic_journey<N: Network>(
    packet: Packet<XdpBuffer<'_>>,
    link: Link,
) -> Result<bool, DropReason> {
    let offset = link.tags.link_len();
    let Some(header) = N::read(&packet, offset) else { return Ok(false) };
    let transport = header.transport(&packet, offset)?;
    let ports = flow::ports(&packet, offset, &header, transport)?;
    flow::flags(&packet, offset, &header, transport)?;
    let vip = ClassicVip {
        address: header.destination_address(),
        port: flow::destination_port(ports),
        protocol: transport.protocol.into(),
    };
    // SAFETY: the value is only read, and nobody changes it during a run.
    let Some(service) = (unsafe { CLASSIC_VIPS.get(vip) }) else { return Ok(false) };
    let key = ClassicFlow {
        source: header.source_address(),
        destination: vip.address,
        ports,
        protocol: transport.protocol.into(),
    };
    let hash = header.flow_hash(&ClassicKeys, ports, transport.protocol);
    // SAFETY: the value is only read.
    let backend = match unsafe { CLASSIC_FLOWS.get(key) } {
        Some(backend) => *backend,
        None => {
            let index = service.ring_start + reduce(hash, service.ring_size);
            let slot = CLASSIC_SLOTS.get(index).ok_or(DropReason::NoBackend)?;
            let backend = slot.current().0;
            let _: Result<(), i32> = CLASSIC_FLOWS.insert(key, backend, 0);
            backend
        }
    };
    let record = CLASSIC_RECORDS.get(backend).ok_or(DropReason::Inconsistent)?;
    if let Some(counters) = CLASSIC_COUNTERS.get_ptr_mut(backend) {
        // SAFETY: this CPU's value; XDP programs don't interrupt each other on one CPU.
        let counters = unsafe { &mut *counters };
        counters.packets += 1;
        counters.bytes += (offset + header.total_len()) as u64;
    }
    rewrite::toward(packet, link, Inner::of(&header, hash), record)?;
    Ok(true)
}

/// A fixed key: nobody attacks a benchmark.
struct ClassicKeys;

impl KeySource for ClassicKeys {
    #[inline(always)]
    fn key(&self, index: usize) -> u32 {
        0x9e37_79b9 ^ index as u32
    }
}

lb_ebpf::license!();
