//! The balancer.
#![no_std]
#![no_main]
#![feature(asm_experimental_arch)]

mod maps;
mod translations;
mod ways;

use core::arch::asm;

use aya_ebpf::{
    EbpfContext as _,
    bindings::{bpf_func_id::BPF_FUNC_tail_call, xdp_action},
    btf_maps::ProgramArray,
    helpers::generated::bpf_redirect,
    macros::{btf_map, xdp},
    programs::XdpContext,
};
use lb_common::{
    answer,
    balance::balance,
    control,
    fullnat::{self, across},
    packet::Packet,
    too_big,
    verdict::{MayBe, OUTCOME_ECHOED, OUTCOME_PASS, OUTCOME_TOLD, Packed, Verdict},
};
use lb_ebpf::buffer::XdpBuffer;
use network_types::ip::{Ipv4Hdr, Ipv6Hdr};

use ways::{KernelWays, ToldWays};

/// Programs that go on with what the first one doesn't finish, by the number of the [`MayBe`].
///
/// Programs, not functions: a call costs every packet more than most of its steps do (the kernel
/// guards each return), and they need a stack of their own.
#[btf_map(name = "programs")]
static PROGRAMS: ProgramArray<{ MayBe::ALL.len() }> = ProgramArray::new();

/// Turns the outcome of a packet into the kernel's action, and counts it.
#[xdp(frags)]
fn xlb(context: XdpContext) -> u32 {
    let outcome = balance(Packet::new(XdpBuffer::new(&context)), &maps::Maps);
    go_on(&context, outcome);
    act_toward(outcome)
}

/// Goes on with the program for what a packet may be. Where that fails, the outcome holds.
#[inline(always)]
fn go_on(context: &XdpContext, outcome: Packed) {
    match outcome.may_be() {
        Some(MayBe::AnswerIpv4) => jump::<{ MayBe::AnswerIpv4 as u32 }>(context),
        Some(MayBe::AnswerIpv6) => jump::<{ MayBe::AnswerIpv6 as u32 }>(context),
        Some(MayBe::ErrorIpv4) => jump::<{ MayBe::ErrorIpv4 as u32 }>(context),
        Some(MayBe::ErrorIpv6) => jump::<{ MayBe::ErrorIpv6 as u32 }>(context),
        Some(MayBe::FullnatIpv4) => jump::<{ MayBe::FullnatIpv4 as u32 }>(context),
        Some(MayBe::FullnatIpv6) => jump::<{ MayBe::FullnatIpv6 as u32 }>(context),
        Some(MayBe::BackIpv4) => jump::<{ MayBe::BackIpv4 as u32 }>(context),
        Some(MayBe::BackIpv6) => jump::<{ MayBe::BackIpv6 as u32 }>(context),
        Some(MayBe::FullnatErrorIpv4) => jump::<{ MayBe::FullnatErrorIpv4 as u32 }>(context),
        Some(MayBe::FullnatErrorIpv6) => jump::<{ MayBe::FullnatErrorIpv6 as u32 }>(context),
        Some(MayBe::TooLongIpv4) => jump::<{ MayBe::TooLongIpv4 as u32 }>(context),
        Some(MayBe::TooLongIpv6) => jump::<{ MayBe::TooLongIpv6 as u32 }>(context),
        Some(MayBe::AboutAnswerIpv4) => jump::<{ MayBe::AboutAnswerIpv4 as u32 }>(context),
        Some(MayBe::AboutAnswerIpv6) => jump::<{ MayBe::AboutAnswerIpv6 as u32 }>(context),
        Some(MayBe::AcrossIpv4) => jump::<{ MayBe::AcrossIpv4 as u32 }>(context),
        Some(MayBe::AcrossIpv6) => jump::<{ MayBe::AcrossIpv6 as u32 }>(context),
        Some(MayBe::BackAcrossIpv4) => jump::<{ MayBe::BackAcrossIpv4 as u32 }>(context),
        Some(MayBe::BackAcrossIpv6) => jump::<{ MayBe::BackAcrossIpv6 as u32 }>(context),
        Some(MayBe::ErrorAcrossIpv4) => jump::<{ MayBe::ErrorAcrossIpv4 as u32 }>(context),
        Some(MayBe::ErrorAcrossIpv6) => jump::<{ MayBe::ErrorAcrossIpv6 as u32 }>(context),
        Some(MayBe::SendAcrossIpv4) => jump::<{ MayBe::SendAcrossIpv4 as u32 }>(context),
        Some(MayBe::SendAcrossIpv6) => jump::<{ MayBe::SendAcrossIpv6 as u32 }>(context),
        Some(MayBe::ReturnAcrossIpv4) => jump::<{ MayBe::ReturnAcrossIpv4 as u32 }>(context),
        Some(MayBe::ReturnAcrossIpv6) => jump::<{ MayBe::ReturnAcrossIpv6 as u32 }>(context),
        Some(MayBe::TellAcrossIpv4) => jump::<{ MayBe::TellAcrossIpv4 as u32 }>(context),
        Some(MayBe::TellAcrossIpv6) => jump::<{ MayBe::TellAcrossIpv6 as u32 }>(context),
        Some(MayBe::AboutAcrossIpv4) => jump::<{ MayBe::AboutAcrossIpv4 as u32 }>(context),
        Some(MayBe::AboutAcrossIpv6) => jump::<{ MayBe::AboutAcrossIpv6 as u32 }>(context),
        Some(MayBe::ControlIpv4) => jump::<{ MayBe::ControlIpv4 as u32 }>(context),
        Some(MayBe::ControlIpv6) => jump::<{ MayBe::ControlIpv6 as u32 }>(context),
        None => {}
    }
}

/// A tail call with a constant, of which the kernel makes a jump: any other is an indirect one, which
/// costs more than half of what `ipip` does where the processor may not guess its end (retpolines).
/// The compiler would make one call of several that differ in the number alone.
#[inline(always)]
fn jump<const TO: u32>(context: &XdpContext) {
    // SAFETY: the helper takes the program's own context, a map of programs and a number; registers
    // 0 to 5 are lost, as in any call.
    unsafe {
        asm!(
            "r3 = {to}",
            "call {tail_call}",
            to = const TO,
            tail_call = const BPF_FUNC_tail_call,
            inlateout("r1") context.as_ptr() => _,
            inlateout("r2") &raw const PROGRAMS => _,
            out("r3") _,
            lateout("r4") _,
            lateout("r5") _,
            lateout("r0") _,
        );
    }
}

#[xdp(frags)]
fn xlb_answer_ipv4(context: XdpContext) -> u32 {
    let packet = Packet::new(XdpBuffer::new(&context));
    act_back(answer::from_backend::<Ipv4Hdr, _>(packet, &maps::Maps, &ToldWays(&context)))
}

#[xdp(frags)]
fn xlb_answer_ipv6(context: XdpContext) -> u32 {
    let packet = Packet::new(XdpBuffer::new(&context));
    act_back(answer::from_backend::<Ipv6Hdr, _>(packet, &maps::Maps, &ToldWays(&context)))
}

#[xdp(frags)]
fn xlb_error_ipv4(context: XdpContext) -> u32 {
    let packet = Packet::new(XdpBuffer::new(&context));
    act_back(control::to_client::<Ipv4Hdr, _>(packet, &maps::Maps, &KernelWays(&context)))
}

#[xdp(frags)]
fn xlb_control_ipv4(context: XdpContext) -> u32 {
    let packet = Packet::new(XdpBuffer::new(&context));
    act_back(control::to_vip::<Ipv4Hdr, _>(packet, &maps::Maps))
}

#[xdp(frags)]
fn xlb_error_ipv6(context: XdpContext) -> u32 {
    let packet = Packet::new(XdpBuffer::new(&context));
    act_back(control::to_client::<Ipv6Hdr, _>(packet, &maps::Maps, &KernelWays(&context)))
}

#[xdp(frags)]
fn xlb_control_ipv6(context: XdpContext) -> u32 {
    let packet = Packet::new(XdpBuffer::new(&context));
    act_back(control::to_vip::<Ipv6Hdr, _>(packet, &maps::Maps))
}

#[xdp(frags)]
fn xlb_fullnat_ipv4(context: XdpContext) -> u32 {
    let packet = Packet::new(XdpBuffer::new(&context));
    let outcome = fullnat::toward::<Ipv4Hdr, _>(packet, &maps::Maps);
    go_on(&context, outcome);
    act_toward(outcome)
}

#[xdp(frags)]
fn xlb_fullnat_ipv6(context: XdpContext) -> u32 {
    let packet = Packet::new(XdpBuffer::new(&context));
    let outcome = fullnat::toward::<Ipv6Hdr, _>(packet, &maps::Maps);
    go_on(&context, outcome);
    act_toward(outcome)
}

#[xdp(frags)]
fn xlb_back_ipv4(context: XdpContext) -> u32 {
    let packet = Packet::new(XdpBuffer::new(&context));
    let outcome = fullnat::back::<Ipv4Hdr, _>(packet, &maps::Maps, &ToldWays(&context));
    go_on(&context, outcome);
    act_back(outcome)
}

#[xdp(frags)]
fn xlb_back_ipv6(context: XdpContext) -> u32 {
    let packet = Packet::new(XdpBuffer::new(&context));
    let outcome = fullnat::back::<Ipv6Hdr, _>(packet, &maps::Maps, &ToldWays(&context));
    go_on(&context, outcome);
    act_back(outcome)
}

#[xdp(frags)]
fn xlb_fullnat_error_ipv4(context: XdpContext) -> u32 {
    let packet = Packet::new(XdpBuffer::new(&context));
    let outcome = fullnat::error::<Ipv4Hdr, _>(packet, &maps::Maps, &KernelWays(&context));
    go_on(&context, outcome);
    act_back(outcome)
}

#[xdp(frags)]
fn xlb_fullnat_error_ipv6(context: XdpContext) -> u32 {
    let packet = Packet::new(XdpBuffer::new(&context));
    let outcome = fullnat::error::<Ipv6Hdr, _>(packet, &maps::Maps, &KernelWays(&context));
    go_on(&context, outcome);
    act_back(outcome)
}

#[xdp(frags)]
fn xlb_about_answer_ipv4(context: XdpContext) -> u32 {
    let packet = Packet::new(XdpBuffer::new(&context));
    let outcome = fullnat::error_about_answer::<Ipv4Hdr, _>(packet, &maps::Maps);
    go_on(&context, outcome);
    act_toward(outcome)
}

#[xdp(frags)]
fn xlb_about_answer_ipv6(context: XdpContext) -> u32 {
    let packet = Packet::new(XdpBuffer::new(&context));
    let outcome = fullnat::error_about_answer::<Ipv6Hdr, _>(packet, &maps::Maps);
    go_on(&context, outcome);
    act_toward(outcome)
}

#[xdp(frags)]
fn xlb_too_long_ipv4(context: XdpContext) -> u32 {
    let packet = Packet::new(XdpBuffer::new(&context));
    act_back(too_big::too_long::<Ipv4Hdr, _>(packet, &maps::Maps))
}

#[xdp(frags)]
fn xlb_too_long_ipv6(context: XdpContext) -> u32 {
    let packet = Packet::new(XdpBuffer::new(&context));
    act_back(too_big::too_long::<Ipv6Hdr, _>(packet, &maps::Maps))
}

#[xdp(frags)]
fn xlb_across_ipv4(context: XdpContext) -> u32 {
    let packet = Packet::new(XdpBuffer::new(&context));
    let outcome = across::toward::<Ipv4Hdr, _>(packet, &maps::Maps);
    go_on(&context, outcome);
    act_toward(outcome)
}

#[xdp(frags)]
fn xlb_across_ipv6(context: XdpContext) -> u32 {
    let packet = Packet::new(XdpBuffer::new(&context));
    let outcome = across::toward::<Ipv6Hdr, _>(packet, &maps::Maps);
    go_on(&context, outcome);
    act_toward(outcome)
}

#[xdp(frags)]
fn xlb_back_across_ipv4(context: XdpContext) -> u32 {
    let packet = Packet::new(XdpBuffer::new(&context));
    let outcome = across::back::<Ipv4Hdr, _>(packet, &maps::Maps, &KernelWays(&context));
    go_on(&context, outcome);
    act_back(outcome)
}

#[xdp(frags)]
fn xlb_back_across_ipv6(context: XdpContext) -> u32 {
    let packet = Packet::new(XdpBuffer::new(&context));
    let outcome = across::back::<Ipv6Hdr, _>(packet, &maps::Maps, &KernelWays(&context));
    go_on(&context, outcome);
    act_back(outcome)
}

#[xdp(frags)]
fn xlb_error_across_ipv4(context: XdpContext) -> u32 {
    let packet = Packet::new(XdpBuffer::new(&context));
    let outcome = across::error::<Ipv4Hdr, _>(packet, &maps::Maps, &KernelWays(&context));
    go_on(&context, outcome);
    act_back(outcome)
}

#[xdp(frags)]
fn xlb_tell_across_ipv4(context: XdpContext) -> u32 {
    let packet = Packet::new(XdpBuffer::new(&context));
    act_back(across::tell::<Ipv4Hdr, _>(packet, &maps::Maps))
}

#[xdp(frags)]
fn xlb_error_across_ipv6(context: XdpContext) -> u32 {
    let packet = Packet::new(XdpBuffer::new(&context));
    let outcome = across::error::<Ipv6Hdr, _>(packet, &maps::Maps, &KernelWays(&context));
    go_on(&context, outcome);
    act_back(outcome)
}

#[xdp(frags)]
fn xlb_tell_across_ipv6(context: XdpContext) -> u32 {
    let packet = Packet::new(XdpBuffer::new(&context));
    act_back(across::tell::<Ipv6Hdr, _>(packet, &maps::Maps))
}

#[xdp(frags)]
fn xlb_about_across_ipv4(context: XdpContext) -> u32 {
    let packet = Packet::new(XdpBuffer::new(&context));
    act_toward(across::error_about_answer::<Ipv4Hdr, _>(packet, &maps::Maps))
}

#[xdp(frags)]
fn xlb_about_across_ipv6(context: XdpContext) -> u32 {
    let packet = Packet::new(XdpBuffer::new(&context));
    act_toward(across::error_about_answer::<Ipv6Hdr, _>(packet, &maps::Maps))
}

#[xdp(frags)]
fn xlb_send_across_ipv4(context: XdpContext) -> u32 {
    let packet = Packet::new(XdpBuffer::new(&context));
    let outcome = across::send::<Ipv4Hdr, _>(packet, &maps::Maps);
    go_on(&context, outcome);
    act_toward(outcome)
}

#[xdp(frags)]
fn xlb_return_across_ipv4(context: XdpContext) -> u32 {
    let packet = Packet::new(XdpBuffer::new(&context));
    let outcome = across::give_back::<Ipv4Hdr, _>(packet, &maps::Maps);
    go_on(&context, outcome);
    act_back(outcome)
}

#[xdp(frags)]
fn xlb_send_across_ipv6(context: XdpContext) -> u32 {
    let packet = Packet::new(XdpBuffer::new(&context));
    let outcome = across::send::<Ipv6Hdr, _>(packet, &maps::Maps);
    go_on(&context, outcome);
    act_toward(outcome)
}

#[xdp(frags)]
fn xlb_return_across_ipv6(context: XdpContext) -> u32 {
    let packet = Packet::new(XdpBuffer::new(&context));
    let outcome = across::give_back::<Ipv6Hdr, _>(packet, &maps::Maps);
    go_on(&context, outcome);
    act_back(outcome)
}

/// What becomes of a packet toward a backend.
#[inline(always)]
fn act_toward(outcome: Packed) -> u32 {
    maps::trace(outcome);
    act(outcome)
}

/// Says which way packets to a client go, when userspace asks: see [`ways::answer_question`].
#[xdp(frags)]
fn xlb_way(context: XdpContext) -> u32 {
    ways::answer_question(&context);
    xdp_action::XDP_DROP
}

/// Has the told routes toward clients hold on: see [`ways::hold_routes`].
#[xdp(frags)]
fn xlb_hold_routes(_: XdpContext) -> u32 {
    ways::hold_routes();
    xdp_action::XDP_DROP
}

/// The same for what came from a backend, or is told somebody.
#[inline(always)]
fn act_back(outcome: Packed) -> u32 {
    maps::trace(outcome);
    if outcome.is_reply() {
        if outcome.reason_number() == 0 {
            maps::count_outcome(OUTCOME_ECHOED);
        } else {
            maps::count_outcome(outcome.reason_number());
            maps::count_outcome(OUTCOME_TOLD);
        }
        return xdp_action::XDP_TX;
    }
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
