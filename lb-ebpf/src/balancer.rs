//! The balancer.
#![no_std]
#![no_main]

mod maps;

use aya_ebpf::{bindings::xdp_action, macros::xdp, programs::XdpContext};
use lb_common::{
    balance::balance,
    packet::Packet,
    verdict::{DropReason, Verdict},
};
use lb_ebpf::buffer::XdpBuffer;

/// Turns the outcome of a packet into the kernel's action, and counts it.
#[xdp(frags)]
fn xlb(context: XdpContext) -> u32 {
    let outcome = balance(Packet::new(XdpBuffer::new(&context)), &maps::Maps);
    maps::trace(&outcome);
    if outcome.is_forwarded() {
        maps::count_forwarded(&outcome);
    } else {
        maps::count_outcome(DropReason::number(outcome.reason));
    }
    match outcome.verdict {
        Verdict::Pass => xdp_action::XDP_PASS,
        Verdict::Transmit => xdp_action::XDP_TX,
        Verdict::Redirect => maps::redirect(outcome.port),
        Verdict::Drop => xdp_action::XDP_DROP,
    }
}

lb_ebpf::license!();
