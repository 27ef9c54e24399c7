//! The backend's decapsulation.
#![no_std]
#![no_main]

use aya_ebpf::{
    bindings::xdp_action,
    btf_maps::{HashMap, LpmTrie, PerCpuArray, lpm_trie::Key},
    macros::{btf_map, xdp},
    programs::XdpContext,
};
use lb_common::{
    decapsulate::{Decapsulation, Endpoints, decapsulate},
    layout::BackendCounters,
    network::Address,
    packet::Packet,
    verdict::{OUTCOME_FOREIGN, OUTCOME_PASS, OUTCOMES},
};
use lb_ebpf::buffer::XdpBuffer;

const ADDRESSES: usize = 1_024;

/// This host's addresses; the values mean nothing.
#[btf_map(name = "local_addresses")]
static LOCAL_ADDRESSES: HashMap<Address, u32, ADDRESSES> = HashMap::new();
/// Where balancers send from; the values mean nothing.
#[btf_map(name = "balancers")]
static BALANCERS: LpmTrie<Address, u32, ADDRESSES> = LpmTrie::new();
#[btf_map(name = "outcomes")]
static OUTCOME_COUNTERS: PerCpuArray<u64, OUTCOMES> = PerCpuArray::new();
/// One entry: what was decapsulated.
#[btf_map(name = "decapsulated")]
static DECAPSULATED: PerCpuArray<BackendCounters, 1> = PerCpuArray::new();

struct Maps;

impl Endpoints for Maps {
    #[inline(always)]
    fn is_local(&self, address: &Address) -> bool {
        // SAFETY: the value isn't looked at.
        unsafe { LOCAL_ADDRESSES.get(address) }.is_some()
    }

    #[inline(always)]
    fn is_balancer(&self, address: &Address) -> bool {
        BALANCERS.get(&Key::new(128, *address)).is_some()
    }
}

/// Hands inner packets to this host's stack.
#[xdp(frags)]
fn xlb_decap(context: XdpContext) -> u32 {
    match decapsulate(Packet::new(XdpBuffer::new(&context)), &Maps) {
        Ok(Decapsulation::Untouched) => {
            count_outcome(OUTCOME_PASS);
            xdp_action::XDP_PASS
        }
        Ok(Decapsulation::Foreign) => {
            count_outcome(OUTCOME_FOREIGN);
            xdp_action::XDP_PASS
        }
        Ok(Decapsulation::Inner { bytes }) => {
            if let Some(counters) = DECAPSULATED.get_ptr_mut(0) {
                // SAFETY: this CPU's value; XDP programs don't interrupt each other on one CPU.
                let counters = unsafe { &mut *counters };
                counters.packets += 1;
                counters.bytes += u64::from(bytes);
            }
            xdp_action::XDP_PASS
        }
        Err(reason) => {
            count_outcome(reason as u32);
            xdp_action::XDP_DROP
        }
    }
}

#[inline(always)]
fn count_outcome(outcome: u32) {
    if let Some(count) = OUTCOME_COUNTERS.get_ptr_mut(outcome) {
        // SAFETY: this CPU's value; XDP programs don't interrupt each other on one CPU.
        unsafe { *count += 1 };
    }
}

lb_ebpf::license!();
