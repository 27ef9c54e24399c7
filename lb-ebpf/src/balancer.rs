//! The balancer.
#![no_std]
#![no_main]

mod maps;

use aya_ebpf::{bindings::xdp_action, macros::xdp, programs::XdpContext};
use lb_common::{
    balance::balance,
    layout::TraceRecord,
    packet::Packet,
    verdict::{Egress, OUTCOME_PASS, Verdict},
};
use lb_ebpf::buffer::XdpBuffer;

/// Turns the outcome of a packet into the kernel's action, counts it, and records it where the
/// program was loaded for tracing.
#[xdp(frags)]
fn xlb(context: XdpContext) -> u32 {
    match balance(Packet::new(XdpBuffer::new(&context)), &maps::Maps) {
        Ok(Verdict::Pass) => {
            maps::trace(|| TraceRecord::default());
            maps::count_outcome(OUTCOME_PASS);
            xdp_action::XDP_PASS
        }
        Ok(Verdict::Forward(forwarded)) => {
            maps::trace(|| TraceRecord::of_forwarded(&forwarded));
            maps::count_forwarded(&forwarded);
            match forwarded.egress {
                Egress::Ingress => xdp_action::XDP_TX,
                Egress::Port(port) => maps::redirect(port),
            }
        }
        Err(refusal) => {
            maps::trace(|| TraceRecord::of_refusal(&refusal));
            maps::count_outcome(refusal.reason as u32);
            xdp_action::XDP_DROP
        }
    }
}

lb_ebpf::license!();
