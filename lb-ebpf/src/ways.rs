//! The ways back to clients: the few routes that the agent tells, else the kernel's routes and
//! neighbours, remembered for a moment.

use core::mem::offset_of;

use aya_ebpf::{
    EbpfContext as _, Global,
    bindings::{
        BPF_FIB_LKUP_RET_FWD_DISABLED, BPF_FIB_LKUP_RET_NO_NEIGH, BPF_FIB_LKUP_RET_SUCCESS,
        bpf_fib_lookup as FibLookup, xdp_md,
    },
    btf_maps::{Array, PerCpuArray, RingBuf},
    helpers::generated::{bpf_fib_lookup, bpf_jiffies64, bpf_ktime_get_coarse_ns},
    macros::btf_map,
    programs::XdpContext,
};
use lb_common::{
    answer::{Request, Ways},
    layout::{
        ClientRouteTable, FAMILY_V4, FAMILY_V6, MOMENT_SHIFT, Sought, UnresolvedClient, WAYS, Way,
        WayEntry, WayQuestion, other_place,
    },
    network::{Address, mapped, words},
    verdict::DropReason,
};

use crate::maps::MAPPED;

const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;

/// Bytes for next hops that the agent hasn't taken note of yet; a page is the least.
const UNRESOLVED_LEN: usize = 4096;

/// Not pinned: they are this program's, and hold for as long as the agent says so.
#[btf_map(name = "client_routes")]
static CLIENT_ROUTES: Array<ClientRouteTable, 1, MAPPED> = Array::new();
#[btf_map(name = "ways")]
static REMEMBERED: Array<WayEntry, { WAYS as usize }> = Array::new();
/// The last answer of the kernel on this CPU.
#[btf_map(name = "answered")]
static ANSWERED: PerCpuArray<Way, 1> = PerCpuArray::new();
/// What the kernel is asked on this CPU: the stack of who asks has no room for it.
#[btf_map(name = "asked")]
static ASKED: PerCpuArray<FibLookup, 1> = PerCpuArray::new();
#[btf_map(name = "unresolved")]
static UNRESOLVED: RingBuf<(), UNRESOLVED_LEN> = RingBuf::new();

/// What userspace asks, of [`answer_question`].
#[btf_map(name = "way_question")]
static QUESTION: Array<WayQuestion, 1> = Array::new();

/// Not 0: no kernel is asked, as where there is no interface: see [`Way::MADE_UP`]. Set when the
/// program is loaded.
#[unsafe(no_mangle)]
static MADE_UP_WAYS: Global<u32> = Global::new(0);
/// For how many ticks of the kernel's clock the told routes hold, from each time on that the agent
/// says so. Set when the program is loaded.
#[unsafe(no_mangle)]
static ROUTES_HOLD: Global<u64> = Global::new(0);

/// The ways to clients, from where a packet is: by the told routes, else as the kernel knows them.
pub struct ToldWays<'c>(pub &'c XdpContext);

impl Ways for ToldWays<'_> {
    #[inline(always)]
    fn way(&self, request: Request<'_>) -> Result<Way, DropReason> {
        match told(request.sought.client, request.family) {
            Some(way) => Ok(way),
            None => KernelWays(self.0).way(request),
        }
    }
}

/// The ways that the kernel knows. For what is rare: the stack has no room for both everywhere.
pub struct KernelWays<'c>(pub &'c XdpContext);

impl Ways for KernelWays<'_> {
    #[inline(always)]
    fn way(&self, request: Request<'_>) -> Result<Way, DropReason> {
        let Request { sought, source, family } = request;
        if let Some(entry) = REMEMBERED.get(sought.place())
            && let Some(way) = entry.way(&sought, moment())
        {
            return Ok(way);
        }
        let reason = ask(self.0.as_ptr().cast(), &sought, source, family);
        match ANSWERED.get_ptr(0) {
            // SAFETY: this CPU's value; XDP programs don't interrupt each other on one CPU.
            Some(answered) if reason == 0 => Ok(unsafe { *answered }),
            _ if reason == DropReason::ForwardingOff as u32 => Err(DropReason::ForwardingOff),
            _ if reason == DropReason::ClientUnresolved as u32 => Err(DropReason::ClientUnresolved),
            _ => Err(DropReason::NoRoute),
        }
    }
}

/// Answers what userspace asks, which runs this on no packet.
#[inline(always)]
pub fn answer_question(context: &XdpContext) {
    let Some(question) = QUESTION.get_ptr_mut(0) else { return };
    // SAFETY: the map's value, which is userspace's to write only before and after this run.
    let question = unsafe { &mut *question };
    let WayQuestion { sought, source, family, .. } = question;
    let way = match *family as u8 {
        FAMILY_V4 => told(sought.client, FAMILY_V4),
        _ => told(sought.client, FAMILY_V6),
    };
    if let Some(way) = way {
        (question.reason, question.way, question.is_told) = (0, way, 1);
        return;
    }
    question.reason = ask(context.as_ptr().cast(), sought, source, *family as u8);
    if let Some(answered) = ANSWERED.get_ptr(0)
        && question.reason == 0
    {
        // SAFETY: this CPU's value; XDP programs don't interrupt each other on one CPU.
        question.way = unsafe { *answered };
    }
}

/// The told routes hold from now on for as long as they shall.
#[inline(always)]
pub fn hold_routes() {
    if let Some(table) = CLIENT_ROUTES.get_ptr_mut(0) {
        // SAFETY: a word of the map's value, which is written at once.
        unsafe { (&raw mut (*table).until).write_volatile(ticks() + ROUTES_HOLD.load()) };
    }
}

/// The way to a client by the told routes, if they tell it.
#[inline(always)]
fn told(client: [u32; 4], family: u8) -> Option<Way> {
    CLIENT_ROUTES.get(0)?.in_force(ticks())?.way(client, family)
}

/// The kernel's clock, in its ticks. Of this helper the kernel makes a single load (Linux 5.6), where
/// the other clock takes a call.
#[inline(always)]
fn ticks() -> u64 {
    // SAFETY: the helper takes nothing.
    unsafe { bpf_jiffies64() }
}

/// The kernel's clock, in moments. Not in seconds: a division costs as much as the rest of a look at
/// what is remembered.
#[inline(always)]
fn moment() -> u32 {
    // SAFETY: the helper takes nothing.
    (unsafe { bpf_ktime_get_coarse_ns() } >> MOMENT_SHIFT) as u32
}

/// Looks in the second place, or asks the kernel for a way and remembers it, and leaves it in
/// [`ANSWERED`]. Gives the number of the reason why there is none.
///
/// Not inlined: the stack has room for the longest chain of calls alone.
#[inline(never)]
fn ask(context: *mut xdp_md, sought: &Sought, source: &Address, family: u8) -> u32 {
    let (place, moment) = (sought.place(), moment());
    let second = other_place(place);
    if let Some(entry) = REMEMBERED.get(second)
        && let Some(way) = entry.way(sought, moment)
    {
        leave(way);
        return 0;
    }
    let way = if MADE_UP_WAYS.load() == 0 {
        let Some(fib) = ASKED.get_ptr_mut(0) else { return DropReason::NoRoute as u32 };
        // SAFETY: this CPU's value, of integers and unions of them; XDP programs don't interrupt each
        // other on one CPU.
        let fib = unsafe {
            // Word by word: the compiler would call a function for all.
            let first = fib.cast::<u32>();
            for word in 0..const { size_of::<FibLookup>() / size_of::<u32>() } {
                first.add(word).write_volatile(0);
            }
            &mut *fib
        };
        fib.ifindex = sought.ingress_ifindex;
        // Any length but 0 has the kernel tell the route's MTU (Linux 5.12).
        fib.__bindgen_anon_1.tot_len = 1;
        if family == FAMILY_V4 {
            fib.family = AF_INET;
            fib.__bindgen_anon_3.ipv4_src = words(*source)[3];
            fib.__bindgen_anon_4.ipv4_dst = sought.client[3];
        } else {
            fib.family = AF_INET6;
            fib.__bindgen_anon_3.ipv6_src = words(*source);
            fib.__bindgen_anon_4.ipv6_dst = sought.client;
        }
        let len = const { size_of::<FibLookup>() as i32 };
        // SAFETY: the helper takes the program's own context and parameters of that size.
        match unsafe { bpf_fib_lookup(context.cast(), fib, len, 0) } as u32 {
            BPF_FIB_LKUP_RET_SUCCESS => way(fib),
            BPF_FIB_LKUP_RET_NO_NEIGH => {
                tell(fib, family);
                return DropReason::ClientUnresolved as u32;
            }
            BPF_FIB_LKUP_RET_FWD_DISABLED => return DropReason::ForwardingOff as u32,
            _ => return DropReason::NoRoute as u32,
        }
    } else {
        Way::MADE_UP
    };
    // Where the first place is another's of this moment, in the second.
    let taken = REMEMBERED.get(place).is_some_and(|entry| entry.is_of(moment));
    if let Some(entry) = REMEMBERED.get_ptr_mut(if taken { second } else { place }) {
        // SAFETY: an entry of the map. Who reads half of it finds that the seal is another's.
        unsafe { &mut *entry }.set(sought, &way, moment);
    }
    leave(way);
    0
}

#[inline(always)]
pub fn leave(way: Way) {
    if let Some(answered) = ANSWERED.get_ptr_mut(0) {
        // SAFETY: this CPU's value; XDP programs don't interrupt each other on one CPU.
        unsafe { *answered = way };
    }
}

/// What is in [`ANSWERED`].
#[inline(always)]
pub fn left() -> Option<Way> {
    // SAFETY: this CPU's value; XDP programs don't interrupt each other on one CPU.
    ANSWERED.get_ptr(0).map(|answered| unsafe { *answered })
}

/// What the kernel answered.
#[inline(always)]
fn way(fib: &FibLookup) -> Way {
    // By halves of words, each read by itself: the addresses lie at odd halves, and words read from
    // there would be misaligned, which the verifier refuses on the stack.
    let half = |at: usize| {
        // SAFETY: within the struct, which is 32 halves long and aligned to whole words.
        let half = unsafe { (&raw const *fib).cast::<u16>().add(at).read_volatile() };
        u32::from(half)
    };
    let both = |first: usize, second: usize| {
        let (first, second) = (half(first), half(second));
        if cfg!(target_endian = "little") { second << 16 | first } else { first << 16 | second }
    };
    const SOURCE: usize = offset_of!(FibLookup, smac) / 2;
    const DESTINATION: usize = offset_of!(FibLookup, dmac) / 2;
    let macs = [
        both(DESTINATION, DESTINATION + 1),
        both(DESTINATION + 2, SOURCE),
        both(SOURCE + 1, SOURCE + 2),
    ];
    // SAFETY: an integer in each of its readings.
    let mtu = unsafe { fib.__bindgen_anon_1.mtu_result };
    Way { macs, ifindex: fib.ifindex, mtu: u32::from(mtu) }
}

/// Tells the agent of a next hop whose link-layer address the kernel doesn't know: it has put the
/// next hop's address in the place of the client's.
#[inline(always)]
fn tell(fib: &FibLookup, family: u8) {
    // SAFETY: integers in each of their readings.
    let address = unsafe {
        if family == FAMILY_V4 {
            mapped(fib.__bindgen_anon_4.ipv4_dst.to_ne_bytes())
        } else {
            bytes(fib.__bindgen_anon_4.ipv6_dst)
        }
    };
    let unresolved = UnresolvedClient { address, ifindex: fib.ifindex };
    // Where there is no room the agent has much to do already; another packet tells.
    let _ = UNRESOLVED.output_untyped::<UnresolvedClient>(unresolved, 0);
}

#[inline(always)]
fn bytes(words: [u32; 4]) -> Address {
    // SAFETY: as many bytes, all of them initialised.
    unsafe { core::mem::transmute::<[u32; 4], Address>(words) }
}
