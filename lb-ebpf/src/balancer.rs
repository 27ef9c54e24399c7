//! The balancer.
#![no_std]
#![no_main]

mod maps;

use aya_ebpf::{bindings::xdp_action, macros::xdp, programs::XdpContext};
use lb_common::{
    balance::balance,
    packet::Packet,
    verdict::{OUTCOME_PASS, Verdict},
};
use lb_ebpf::buffer::XdpBuffer;

/// Turns the outcome of a packet into the kernel's action, and counts it.
#[xdp(frags)]
fn xlb(context: XdpContext) -> u32 {
    let outcome = balance(Packet::new(XdpBuffer::new(&context)), &maps::Maps);
    maps::trace(outcome);
    match outcome.verdict() {
        Verdict::Pass => {
            maps::count_outcome(OUTCOME_PASS);
            xdp_action::XDP_PASS
        }
        Verdict::Transmit => {
            maps::count_forwarded(outcome);
            xdp_action::XDP_TX
        }
        Verdict::Redirect => {
            maps::count_forwarded(outcome);
            maps::redirect(outcome.port())
        }
        Verdict::Drop => {
            maps::count_outcome(outcome.reason_number());
            xdp_action::XDP_DROP
        }
    }
}

lb_ebpf::license!();
