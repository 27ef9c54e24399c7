//! The maps of decapsulation. Their names, types and layouts are the interface of `xlb decap`.

use aya_ebpf::{
    bindings::BPF_NOEXIST,
    btf_maps::{Array, HashMap, LpmTrie, PerCpuArray, RingBuf, lpm_trie::Key},
    helpers::generated::bpf_ktime_get_coarse_ns,
    macros::btf_map,
    programs::XdpContext,
};
use lb_common::{
    decapsulate::Endpoints,
    layout::{BackendCounters, Namespaces, NextHop},
    network::{Address, Network},
    packet::{Buffer, Packet},
    verdict::OUTCOMES,
};

use crate::sockets;

const ADDRESSES: usize = 1_024;
/// Bytes: several times what all addresses need at once.
const WANTED_LEN: usize = 1 << 17;

/// This host's addresses; the values mean nothing.
#[btf_map(name = "local_addresses")]
static LOCAL_ADDRESSES: HashMap<Address, u32, ADDRESSES> = HashMap::new();
/// Where balancers send from; the values mean nothing.
#[btf_map(name = "balancers")]
static BALANCERS: LpmTrie<Address, u32, ADDRESSES> = LpmTrie::new();
/// The ways to other backends.
#[btf_map(name = "next_hops")]
static NEXT_HOPS: HashMap<Address, NextHop, ADDRESSES> = HashMap::new();
/// Addresses to which userspace shall find a way. The type is not the entries': libbpf takes no
/// ring buffer whose type has a size.
#[btf_map(name = "wanted")]
static WANTED: RingBuf<(), WANTED_LEN> = RingBuf::new();
/// One entry: where else than in the interface's own network namespace connections may end.
#[btf_map(name = "namespaces")]
static NAMESPACES: Array<Namespaces, 1> = Array::new();
#[btf_map(name = "outcomes")]
static OUTCOME_COUNTERS: PerCpuArray<u64, OUTCOMES> = PerCpuArray::new();
/// One entry: what was decapsulated.
#[btf_map(name = "decapsulated")]
static DECAPSULATED: PerCpuArray<BackendCounters, 1> = PerCpuArray::new();

/// A key whose address begins at a whole word: see [`sockets`].
#[repr(C, align(8))]
struct AlignedKey {
    before: u32,
    key: Key<Address>,
}

/// The maps, for one frame.
pub struct Maps<'c>(pub &'c XdpContext);

impl Endpoints for Maps<'_> {
    #[inline(always)]
    fn is_local(&self, address: &Address) -> bool {
        // SAFETY: the value isn't looked at.
        unsafe { LOCAL_ADDRESSES.get(address) }.is_some()
    }

    #[inline(always)]
    fn is_balancer(&self, address: &Address) -> bool {
        let aligned = AlignedKey { before: 0, key: Key::new(128, *address) };
        BALANCERS.get(&aligned.key).is_some()
    }

    #[inline(always)]
    fn has_connection<N: Network, B: Buffer>(
        &self,
        _: &Packet<B>,
        at: usize,
        tcp_at: usize,
    ) -> bool {
        sockets::have_connection::<N>(self.0, at, tcp_at, NAMESPACES.get(0))
    }

    #[inline(always)]
    fn next_hop(&self, address: &Address) -> NextHop {
        // SAFETY: the helper takes nothing.
        let now = (unsafe { bpf_ktime_get_coarse_ns() } / 1_000_000_000) as u32;
        if let Some(place) = NEXT_HOPS.get_ptr_mut(address) {
            // SAFETY: the map's value. Others write the time alone, as one word; userspace puts
            // another value in its place.
            unsafe {
                (&raw mut (*place).used).write_volatile(now);
                return place.read();
            }
        }
        want(address, now);
        NextHop::wanted(now)
    }
}

/// Asks userspace for the way to another backend.
///
/// Not inlined: the stack has room for the longest chain of calls alone.
#[inline(never)]
fn want(address: &Address, now: u32) {
    // Only one packet makes the entry, so each address is told once.
    let made = NEXT_HOPS.insert(address, NextHop::wanted(now), u64::from(BPF_NOEXIST));
    if made.is_ok() {
        // Where there is no room, userspace finds it in the map.
        let _ = WANTED.output_untyped::<Address>(address, 0);
    }
}

/// Counts a frame that was decapsulated.
#[inline(always)]
pub fn count_decapsulated(bytes: u32) {
    if let Some(counters) = DECAPSULATED.get_ptr_mut(0) {
        // SAFETY: this CPU's value; XDP programs don't interrupt each other on one CPU.
        let counters = unsafe { &mut *counters };
        counters.packets += 1;
        counters.bytes += u64::from(bytes);
    }
}

/// Counts any other frame.
#[inline(always)]
pub fn count_outcome(outcome: u32) {
    if let Some(count) = OUTCOME_COUNTERS.get_ptr_mut(outcome) {
        // SAFETY: this CPU's value; XDP programs don't interrupt each other on one CPU.
        unsafe { *count += 1 };
    }
}
