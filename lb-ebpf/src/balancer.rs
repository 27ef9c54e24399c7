//! The balancer.
#![no_std]
#![no_main]

mod maps;
mod ways;

use aya_ebpf::{
    bindings::xdp_action,
    btf_maps::ProgramArray,
    helpers::generated::bpf_redirect,
    macros::{btf_map, xdp},
    programs::XdpContext,
};
use lb_common::{
    answer::{error, from_backend},
    balance::balance,
    packet::Packet,
    verdict::{MayBe, OUTCOME_PASS, Packed, Verdict},
};
use lb_ebpf::buffer::XdpBuffer;
use network_types::ip::{Ipv4Hdr, Ipv6Hdr};

use ways::KernelWays;

/// Programs that go on with what may be an answer, by the number of the [`MayBe`].
///
/// Programs, not functions: a call costs every packet more than most of its steps do (the kernel
/// guards each return), and they need a stack of their own.
#[btf_map(name = "answer_programs")]
static ANSWER_PROGRAMS: ProgramArray<{ MayBe::ALL.len() }> = ProgramArray::new();

/// Turns the outcome of a packet into the kernel's action, and counts it.
#[xdp(frags)]
fn xlb(context: XdpContext) -> u32 {
    let outcome = balance(Packet::new(XdpBuffer::new(&context)), &maps::Maps);
    if let Some(may_be) = outcome.may_be() {
        // SAFETY: the helper takes the program's own context. Where it fails, the packet is passed.
        unsafe { ANSWER_PROGRAMS.tail_call(&context, may_be as u32) };
    }
    maps::trace(outcome);
    act(outcome)
}

#[xdp(frags)]
fn xlb_answer_ipv4(context: XdpContext) -> u32 {
    let packet = Packet::new(XdpBuffer::new(&context));
    act_back(from_backend::<Ipv4Hdr, _>(packet, &maps::Maps, &KernelWays(&context)))
}

#[xdp(frags)]
fn xlb_answer_ipv6(context: XdpContext) -> u32 {
    let packet = Packet::new(XdpBuffer::new(&context));
    act_back(from_backend::<Ipv6Hdr, _>(packet, &maps::Maps, &KernelWays(&context)))
}

#[xdp(frags)]
fn xlb_error_ipv4(context: XdpContext) -> u32 {
    let packet = Packet::new(XdpBuffer::new(&context));
    act_back(error::<Ipv4Hdr, _>(packet, &maps::Maps, &KernelWays(&context)))
}

#[xdp(frags)]
fn xlb_error_ipv6(context: XdpContext) -> u32 {
    let packet = Packet::new(XdpBuffer::new(&context));
    act_back(error::<Ipv6Hdr, _>(packet, &maps::Maps, &KernelWays(&context)))
}

/// The same for what came from a backend, or is told one.
#[inline(always)]
fn act_back(outcome: Packed) -> u32 {
    maps::trace(outcome);
    if !outcome.is_answer() {
        return act(outcome);
    }
    maps::count_answer(outcome);
    match outcome.verdict() {
        // By any interface, whether or not a backend is behind it.
        // SAFETY: the helper takes numbers.
        Verdict::Redirect => unsafe { bpf_redirect(outcome.egress_ifindex(), 0) as u32 },
        _ => xdp_action::XDP_TX,
    }
}

#[inline(always)]
fn act(outcome: Packed) -> u32 {
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
