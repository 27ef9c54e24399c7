//! Probes through VIPs: out of the agent's own network namespace to the backends, and back.
#![no_std]
#![no_main]

use aya_ebpf::{
    Global,
    bindings::{BPF_F_NO_PREALLOC, TC_ACT_SHOT, TC_ACT_UNSPEC},
    btf_maps::{Array, HashMap},
    helpers::generated::{bpf_redirect, bpf_redirect_peer, bpf_skb_pull_data},
    macros::{btf_map, classifier},
    programs::TcContext,
};
use lb_common::{
    layout::{ProbePort, ProbeTarget},
    packet::Packet,
    probe::{HEADERS_LEN, Probes, is_answer, send},
};
use lb_ebpf::buffer::SkbBuffer;

/// `BPF_F_MMAPABLE`: the agent maps the table into its memory (kernel 5.5).
const MAPPED: usize = 1024;
const TARGETS: usize = 1 << 18;

/// By source port.
#[btf_map(name = "probe_ports")]
static PORTS: Array<ProbePort, 65_536, MAPPED> = Array::new();
/// By number.
#[btf_map(name = "probe_targets")]
static PROBE_TARGETS: HashMap<u32, ProbeTarget, TARGETS, { BPF_F_NO_PREALLOC as usize }> =
    HashMap::new();

/// Index of the interface whose peer is the agent's own, set when the program is loaded.
#[unsafe(no_mangle)]
static HOST_END: Global<u32> = Global::new(0);

struct Maps;

impl Probes for Maps {
    #[inline(always)]
    fn target(&self, source_port: u16) -> Option<&ProbeTarget> {
        let number = PORTS.get(u32::from(source_port))?.target;
        if number == 0 {
            return None;
        }
        // SAFETY: an element is never changed in its place, and stays for as long as the run.
        unsafe { PROBE_TARGETS.get(number) }
    }
}

/// What comes out of the agent's own namespace: probes go to their backends, and nothing else
/// anywhere.
#[classifier]
fn xlb_probe_out(context: TcContext) -> i32 {
    match send(Packet::new(SkbBuffer::new(&context)), &Maps) {
        // SAFETY: the helper takes numbers.
        Some(ifindex) => unsafe { bpf_redirect(ifindex, 0) as i32 },
        None => TC_ACT_SHOT,
    }
}

/// What comes in by an interface: answers to probes go into the agent's own namespace, before this
/// host's stack, which may take the VIP for its own, can look at them.
#[classifier]
fn xlb_probe_back(context: TcContext) -> i32 {
    // SAFETY: the program's own context.
    let tagged = unsafe { (*context.skb.skb).vlan_present } != 0;
    let len = context.len();
    let wanted = if len < HEADERS_LEN as u32 { len } else { HEADERS_LEN as u32 };
    if context.data_end() - context.data() < wanted as usize {
        // SAFETY: the helper takes the program's own context. Where it fails, the frame is read
        // as far as it can be.
        unsafe { bpf_skb_pull_data(context.skb.skb, wanted) };
    }
    if !tagged && is_answer(&Packet::new(SkbBuffer::new(&context)), &Maps) {
        // SAFETY: the helper takes numbers.
        return unsafe { bpf_redirect_peer(HOST_END.load(), 0) as i32 };
    }
    // Whatever else is there to look at it.
    TC_ACT_UNSPEC
}

lb_ebpf::license!();
