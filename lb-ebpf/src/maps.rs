//! The balancer's maps. Their names, types and layouts are the agent's interface.

use aya_ebpf::{
    Global,
    bindings::{BPF_F_NO_PREALLOC, xdp_action},
    btf_maps::{Array, ArrayOfMaps, DevMap, HashMap, PerCpuArray},
    helpers::generated::bpf_ktime_get_coarse_ns,
    macros::btf_map,
};
use core::ops::Deref;
use lb_common::{
    hash::KeySource,
    id::BackendId,
    layout::{
        AnswerEntry, AnswerKey, BackendCounters, BackendEntry, Beginning, Directory, FlowCounters,
        FlowKey, FlowPlace, FlowRecord, FlowWords, GLIMPSES, Glimpse, Handed, RepliesInSecond,
        SERVICE_POSITIONS, ServiceEntry, Slot, TraceRecord, VIP_POSITIONS, VipEntry,
    },
    tables::{Reply, Tables},
    verdict::{OUTCOMES, Packed},
};

/// `BPF_F_MMAPABLE`: the agent maps the table into its memory (kernel 5.5).
pub const MAPPED: usize = 1024;

// Places that the agent sizes when it loads the program.
const SLOTS: usize = 65_537;
pub const BACKENDS: usize = 1_024;
const PORTS: usize = 64;
pub const FLOWS: usize = 1 << 20;

#[btf_map(name = "directory")]
static DIRECTORY: Array<Directory, 1, MAPPED> = Array::new();
#[btf_map(name = "vips")]
static VIPS: Array<VipEntry, { 2 * VIP_POSITIONS as usize }, MAPPED> = Array::new();
#[btf_map(name = "services")]
static SERVICES: Array<ServiceEntry, { 2 * SERVICE_POSITIONS as usize }, MAPPED> = Array::new();
#[btf_map(name = "slots")]
static SLOTS_OF_RINGS: Array<Slot, SLOTS, MAPPED> = Array::new();
#[btf_map(name = "backends")]
static BACKEND_ENTRIES: Array<BackendEntry, BACKENDS, MAPPED> = Array::new();
#[btf_map(name = "backend_counters")]
static BACKEND_COUNTERS: PerCpuArray<BackendCounters, BACKENDS> = PerCpuArray::new();
#[btf_map(name = "outcomes")]
static OUTCOME_COUNTERS: PerCpuArray<u64, OUTCOMES> = PerCpuArray::new();
#[btf_map(name = "ports")]
static EGRESS_PORTS: DevMap<PORTS> = DevMap::new();
/// Holds nothing: to update a map of maps, the kernel waits for all running programs.
#[btf_map(name = "grace")]
static GRACE: ArrayOfMaps<Array<u32, 1>, 1> = ArrayOfMaps::new();
/// Memory is taken as flows come: a table that nobody needs costs its buckets alone.
#[btf_map(name = "flows")]
static FLOW_PLACES: HashMap<FlowKey, FlowPlace, FLOWS, { BPF_F_NO_PREALLOC as usize }> =
    HashMap::new();
#[btf_map(name = "flow_counters")]
static FLOW_COUNTERS: PerCpuArray<FlowCounters, 1> = PerCpuArray::new();
/// Memory is taken as backends come whose answers go through here.
#[btf_map(name = "answers")]
static ANSWERS: HashMap<AnswerKey, AnswerEntry, BACKENDS, { BPF_F_NO_PREALLOC as usize }> =
    HashMap::new();
#[btf_map(name = "replies")]
static REPLIES: PerCpuArray<RepliesInSecond, 1> = PerCpuArray::new();
#[btf_map(name = "glimpses")]
static FLOW_GLIMPSES: Array<Glimpse, { GLIMPSES as usize }> = Array::new();
#[btf_map(name = "trace")]
static TRACE_RECORDS: Array<TraceRecord, 1> = Array::new();

/// What the first program found, for the one that goes on.
#[btf_map(name = "handed")]
static HANDED: PerCpuArray<Handed, 1> = PerCpuArray::new();

/// Keys of the flow hash, set when the program is loaded.
#[unsafe(no_mangle)]
static HASH_KEYS: HashKeys = HashKeys([const { Global::new(0) }; 12]);
/// Not 0: each packet's outcome is recorded. Set when the program is loaded; at 0 the verifier
/// removes the code.
#[unsafe(no_mangle)]
static TRACE: Global<u32> = Global::new(0);

/// Records that each CPU makes of opening flows in a second, and of others; set when the program
/// is loaded.
#[unsafe(no_mangle)]
static OPENING_BUDGET: Global<u32> = Global::new(0);
#[unsafe(no_mangle)]
static OTHERS_BUDGET: Global<u32> = Global::new(0);
/// The same for flows beyond that of which a packet came before.
#[unsafe(no_mangle)]
static AGAIN_BUDGET: Global<u32> = Global::new(0);

/// Messages of its own that each CPU sends in a second, of each kind; set when the program is loaded.
#[unsafe(no_mangle)]
static REPLY_BUDGET: Global<u32> = Global::new(0);

/// A [`lb_common::hash::Keys`] in read-only data.
#[repr(transparent)]
struct HashKeys([Global<u32>; 12]);

impl KeySource for HashKeys {
    #[inline(always)]
    fn key(&self, index: usize) -> u32 {
        self.0[index].load()
    }
}

/// The tables of the packet path in the kernel's maps.
pub struct Maps;

/// What the first program handed over on this CPU.
#[inline(always)]
pub fn handed() -> Option<Handed> {
    // SAFETY: this CPU's value; XDP programs don't interrupt each other on one CPU.
    HANDED.get_ptr(0).map(|place| unsafe { *place })
}

impl Tables for Maps {
    #[inline(always)]
    fn keys(&self) -> &impl KeySource {
        &HASH_KEYS
    }

    #[inline(always)]
    fn directory(&self) -> Option<&Directory> {
        DIRECTORY.get(0)
    }

    #[inline(always)]
    fn vip(&self, index: u32) -> Option<&VipEntry> {
        VIPS.get(index)
    }

    #[inline(always)]
    fn service(&self, index: u32) -> Option<&ServiceEntry> {
        SERVICES.get(index)
    }

    #[inline(always)]
    fn slot(&self, index: u32) -> Option<Slot> {
        SLOTS_OF_RINGS.get(index).copied()
    }

    #[inline(always)]
    fn backend(&self, id: BackendId) -> Option<&BackendEntry> {
        BACKEND_ENTRIES.get(id.0)
    }

    #[inline(always)]
    fn now(&self) -> u32 {
        // SAFETY: the helper takes nothing. Its clock is the kernel's tick's, read without a
        // look at the hardware.
        (unsafe { bpf_ktime_get_coarse_ns() } / 1_000_000_000) as u32
    }

    #[inline(always)]
    fn flow(&self, key: &FlowKey) -> Option<impl Deref<Target = FlowPlace>> {
        // SAFETY: the place is read and written by whole words. One that is deleted meanwhile
        // stays in memory that is a place of this map. It may be given to another flow at once
        // (Linux 6.1), whose record a run that was held up just then writes to: the agent deletes
        // records only that were quiet for long.
        unsafe { FLOW_PLACES.get(key) }
    }

    #[inline(always)]
    fn answer(&self, key: AnswerKey) -> Option<impl Deref<Target = AnswerEntry>> {
        // SAFETY: an element is never changed in its place, and stays for as long as the run.
        unsafe { ANSWERS.get(key) }
    }

    #[inline(always)]
    fn hand_over(&self, handed: Handed) {
        if let Some(place) = HANDED.get_ptr_mut(0) {
            // SAFETY: this CPU's value; XDP programs don't interrupt each other on one CPU.
            unsafe { *place = handed };
        }
    }

    #[inline(always)]
    fn remember(&self, key: &FlowKey, record: FlowRecord, first: Beginning) -> bool {
        let Some(counters) = FLOW_COUNTERS.get_ptr_mut(0) else { return false };
        // SAFETY: this CPU's value; XDP programs don't interrupt each other on one CPU.
        let counters = unsafe { &mut *counters };
        if counters.second != record.seen {
            counters.second = record.seen;
            counters.opening_in_second = 0;
            counters.others_in_second = 0;
            counters.datagrams_in_second = 0;
            counters.again_in_second = 0;
        }
        let (spent, budget) = match first {
            Beginning::Opening => (&mut counters.opening_in_second, OPENING_BUDGET.load()),
            Beginning::UnderWay => (&mut counters.others_in_second, OTHERS_BUDGET.load()),
            Beginning::Datagram => (&mut counters.datagrams_in_second, OTHERS_BUDGET.load()),
        };
        if *spent < budget {
            *spent += 1;
        } else if first == Beginning::Opening {
            // Its next packet shows that it isn't forged.
            glimpse(record.hash, record.seen);
            counters.over_budget_opening += 1;
            return false;
        } else {
            if !glimpse(record.hash, record.seen) {
                counters.over_budget += 1;
                return false;
            }
            if counters.again_in_second >= AGAIN_BUDGET.load() {
                counters.over_budget += 1;
                counters.over_budget_again += 1;
                return false;
            }
            counters.again_in_second += 1;
        }
        if FLOW_PLACES.insert(key, FlowPlace::from(FlowWords::from(record)), 0).is_err() {
            counters.table_full += 1;
            return false;
        }
        counters.recorded += 1;
        true
    }

    #[inline(always)]
    fn count_picked_anew(&self) {
        if let Some(counters) = FLOW_COUNTERS.get_ptr_mut(0) {
            // SAFETY: this CPU's value; XDP programs don't interrupt each other on one CPU.
            unsafe { (*counters).picked_anew += 1 };
        }
    }

    #[inline(always)]
    fn may_reply(&self, reply: Reply) -> bool {
        let now = self.now();
        let Some(replies) = REPLIES.get_ptr_mut(0) else { return false };
        // SAFETY: this CPU's value; XDP programs don't interrupt each other on one CPU.
        let replies = unsafe { &mut *replies };
        replies.take(reply, now, REPLY_BUDGET.load())
    }
}

/// Leaves a glimpse of a flow. Whether there was one of it before.
#[inline(always)]
fn glimpse(hash: u32, second: u32) -> bool {
    let Some(place) = FLOW_GLIMPSES.get_ptr_mut(Glimpse::place(hash)) else { return false };
    let now = Glimpse::new(hash, second);
    // SAFETY: one aligned word; where two CPUs meet, one glimpse is lost.
    unsafe {
        let earlier = place.read_volatile();
        place.write_volatile(now);
        now.follows(earlier)
    }
}

/// Records what became of the packet, if the program was loaded for tracing.
#[inline(always)]
pub fn trace(outcome: Packed) {
    if TRACE.load() != 0
        && let Some(place) = TRACE_RECORDS.get_ptr_mut(0)
    {
        // SAFETY: the map's value, which only a traced program writes, one packet at a time.
        unsafe { place.write(TraceRecord::of(outcome)) };
    }
}

/// Counts a packet that no backend gets: passed (0), or dropped for the reason of that number.
#[inline(always)]
pub fn count_outcome(outcome: u32) {
    if let Some(count) = OUTCOME_COUNTERS.get_ptr_mut(outcome) {
        // SAFETY: this CPU's value; XDP programs don't interrupt each other on one CPU.
        unsafe { *count += 1 };
    }
}

/// Counts a packet toward its backend.
#[inline(always)]
pub fn count_forwarded(outcome: Packed) {
    if let Some(counters) = BACKEND_COUNTERS.get_ptr_mut(outcome.backend().0) {
        // SAFETY: this CPU's value; XDP programs don't interrupt each other on one CPU.
        let counters = unsafe { &mut *counters };
        counters.packets += 1;
        counters.bytes += u64::from(outcome.bytes());
        counters.new_flows += u64::from(outcome.opens());
    }
}

/// Counts a packet from a backend.
#[inline(always)]
pub fn count_answer(outcome: Packed) {
    if let Some(counters) = BACKEND_COUNTERS.get_ptr_mut(outcome.backend().0) {
        // SAFETY: this CPU's value; XDP programs don't interrupt each other on one CPU.
        unsafe { (*counters).answers += 1 };
    }
}

/// Sends the frame out of another interface; aborts, which the kernel reports, where the device
/// map has none at this index.
#[inline(always)]
pub fn redirect(port: u32) -> u32 {
    EGRESS_PORTS.redirect(port, u64::from(xdp_action::XDP_ABORTED)).unwrap_or_else(|action| action)
}
