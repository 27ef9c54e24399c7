//! Flows under `fullnat`: the maps of both directions, the addresses of pools, and turns for ports.

use aya_ebpf::{
    Global,
    bindings::{BPF_F_NO_PREALLOC, BPF_NOEXIST},
    btf_maps::{Array, HashMap, PerCpuArray},
    helpers::generated::{bpf_get_prandom_u32, bpf_get_smp_processor_id, bpf_loop},
    macros::btf_map,
};
use core::{
    ffi::{c_long, c_void},
    ops::Deref,
};
use lb_common::{
    fullnat::{Entered, SEARCHED, Search, Translations},
    id::BackendId,
    layout::{
        FlowKey, FullnatCounters, Handed, POOLS, ReturnKey, TranslatedPlace, TranslatedWords, Turn,
        Way,
    },
    network::Address,
    tables::Tables as _,
};

use crate::{
    maps::{self, BACKENDS, FLOWS, MAPPED, Maps},
    ways,
};

const EEXIST: i32 = 17;
/// Searches that each CPU may make in vain in a second: where all ports are taken, a flood of new
/// flows would make it search all the time.
const IN_VAIN: u32 = 500;
/// Memory is taken as flows come.
const LAZY: usize = BPF_F_NO_PREALLOC as usize;

/// Flows by how clients' packets come.
#[btf_map(name = "fullnat_flows")]
static TRANSLATED: HashMap<FlowKey, TranslatedPlace, FLOWS, LAZY> = HashMap::new();
/// Whose answers come where: who is in it has the port.
#[btf_map(name = "fullnat_returns")]
static RETURNS: HashMap<ReturnKey, FlowKey, FLOWS, LAZY> = HashMap::new();
#[btf_map(name = "fullnat_pools")]
static POOL_ADDRESSES: Array<Address, { POOLS as usize }, MAPPED> = Array::new();
/// Flows that each CPU began with each backend.
#[btf_map(name = "fullnat_turns")]
static TURNS: PerCpuArray<u32, BACKENDS> = PerCpuArray::new();
#[btf_map(name = "fullnat_counters")]
static COUNTERS: PerCpuArray<FullnatCounters, 1> = PerCpuArray::new();

/// CPUs that share a pool's ports; 0: all begin with the first port. Set when the program is loaded.
#[unsafe(no_mangle)]
static CPUS: Global<u32> = Global::new(1);

impl Translations for Maps {
    #[inline(always)]
    fn handed_over(&self) -> Option<Handed> {
        maps::handed()
    }

    #[inline(always)]
    fn hand_way(&self, way: &Way) {
        ways::leave(*way);
    }

    #[inline(always)]
    fn handed_way(&self) -> Option<Way> {
        ways::left()
    }

    #[inline(always)]
    fn translated<'t>(
        &'t self,
        flow: &FlowKey,
    ) -> Option<impl Deref<Target = TranslatedPlace> + use<'t>> {
        // SAFETY: the place is read and written by whole words. One that is deleted meanwhile stays
        // in memory that is a place of this map. It may be given to another flow at once (Linux
        // 6.1), of which a run that was held up just then changes how far it is, until its next
        // packet: with whom a flow lives is never written in its place.
        unsafe { TRANSLATED.get(flow) }
    }

    #[inline(always)]
    fn returns<'t>(&'t self, answer: &ReturnKey) -> Option<impl Deref<Target = FlowKey> + use<'t>> {
        // SAFETY: an element is never changed in its place. Its memory stays one of this map's, and
        // the agent deletes only those of flows that were quiet for long.
        unsafe { RETURNS.get(answer) }
    }

    #[inline(always)]
    fn pool(&self, place: u8) -> Option<&Address> {
        POOL_ADDRESSES.get(u32::from(place))
    }

    #[inline(always)]
    fn turn(&self, backend: BackendId) -> Turn {
        // SAFETY: the helper takes nothing.
        let cpu = unsafe { bpf_get_smp_processor_id() };
        let cpus = CPUS.load();
        let (cpu, cpus) = if cpus == 0 { (0, 1) } else { (cpu, cpus) };
        let Some(turns) = TURNS.get_ptr_mut(backend.0) else { return Turn { count: 0, cpu, cpus } };
        // SAFETY: this CPU's value; XDP programs don't interrupt each other on one CPU.
        let count = unsafe { *turns };
        // SAFETY: as above.
        unsafe { *turns = count.wrapping_add(1) };
        Turn { count, cpu, cpus }
    }

    #[inline(always)]
    fn search(&self, search: &mut Search) -> bool {
        let Some(counters) = COUNTERS.get_ptr_mut(0) else { return false };
        // SAFETY: this CPU's value; XDP programs don't interrupt each other on one CPU.
        let counters = unsafe { &mut *counters };
        let now = self.now();
        if counters.second != now {
            counters.second = now;
            counters.in_vain = 0;
        }
        if counters.in_vain >= IN_VAIN {
            return false;
        }
        counters.searches += 1;
        // SAFETY: the search outlives the loop, whose steps alone have it meanwhile.
        unsafe { bpf_loop(SEARCHED, look as *mut c_void, (&raw mut *search).cast(), 0) };
        counters.in_vain += u32::from(!search.has_found());
        search.has_found()
    }

    #[inline(always)]
    fn take(&self, answer: &ReturnKey, flow: &FlowKey) -> Entered {
        let entered = entered(RETURNS.insert(answer, flow, u64::from(BPF_NOEXIST)));
        if entered == Entered::Taken {
            count(|counters| counters.taken += 1);
        }
        entered
    }

    #[inline(always)]
    fn give_back(&self, answer: &ReturnKey) {
        let _ = RETURNS.remove(answer);
    }

    #[inline(always)]
    fn enter(&self, flow: &FlowKey, entry: TranslatedWords, replace: bool) -> Entered {
        let flags = if replace { 0 } else { u64::from(BPF_NOEXIST) };
        entered(TRANSLATED.insert(flow, TranslatedPlace::from(entry), flags))
    }

    #[inline(always)]
    fn count_opened(&self) {
        count(|counters| counters.opened += 1);
    }

    #[inline(always)]
    fn identification(&self) -> u16 {
        // SAFETY: the helper takes nothing.
        unsafe { bpf_get_prandom_u32() as u16 }
    }
}

/// A step of a search, for the kernel's loop, which ends with a 1.
unsafe extern "C" fn look(_: u32, search: *mut c_void) -> c_long {
    // SAFETY: the loop was given a search.
    let search = unsafe { &mut *search.cast::<Search>() };
    c_long::from(search.finds(&Maps))
}

#[inline(always)]
fn entered(result: Result<(), i32>) -> Entered {
    match result {
        Ok(()) => Entered::New,
        Err(error) if error == -EEXIST => Entered::Taken,
        Err(_) => Entered::Full,
    }
}

#[inline(always)]
fn count(change: impl FnOnce(&mut FullnatCounters)) {
    if let Some(counters) = COUNTERS.get_ptr_mut(0) {
        // SAFETY: this CPU's value; XDP programs don't interrupt each other on one CPU.
        change(unsafe { &mut *counters });
    }
}
