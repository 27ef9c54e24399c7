//! Programs that measure others: a driver, which hands one valid packet after the other to a
//! program under test, and what there is to compare with.
#![no_std]
#![no_main]

mod classic;

use aya_ebpf::{
    EbpfContext as _,
    bindings::xdp_action,
    btf_maps::{Array, ProgramArray},
    helpers::bpf_xdp_adjust_head,
    macros::{btf_map, xdp},
    programs::XdpContext,
};
use lb_common::{
    layout::{BENCH_FRAME_LEN, BenchPlan},
    packet::Packet,
    verdict::DropReason,
};
use lb_ebpf::buffer::XdpBuffer;

/// The program under test, at index 0.
#[btf_map(name = "under_test")]
static UNDER_TEST: ProgramArray<1> = ProgramArray::new();
#[btf_map(name = "plan")]
static PLAN: Array<BenchPlan, 1> = Array::new();

/// Restores the frame, whatever the program under test made of it, makes it the next flow's, and
/// goes on with the program under test.
///
/// It calls `bpf_xdp_adjust_head` whether or not there is anything to undo: its own cost is the
/// same for every program under test.
#[xdp(frags)]
fn drive(context: XdpContext) -> u32 {
    let Some(plan) = PLAN.get_ptr_mut(0) else { return xdp_action::XDP_ABORTED };
    // SAFETY: one value, and one program run at a time.
    let plan = unsafe { &mut *plan };
    let grown = (context.data_end() - context.data()) as i32 - BENCH_FRAME_LEN as i32;
    // SAFETY: the helper takes the program's own context.
    if unsafe { bpf_xdp_adjust_head(context.as_ptr().cast(), grown) } != 0 {
        return xdp_action::XDP_ABORTED;
    }
    plan.counter = plan.counter.wrapping_add(1);
    if write_frame(&context, plan).is_err() {
        return xdp_action::XDP_ABORTED;
    }
    // SAFETY: the helper takes the program's own context.
    unsafe { UNDER_TEST.tail_call(&context, 0) };
    xdp_action::XDP_ABORTED
}

#[inline(always)]
fn write_frame(context: &XdpContext, plan: &BenchPlan) -> Result<(), DropReason> {
    let mut packet = Packet::new(XdpBuffer::new(context));
    packet.write::<[u8; BENCH_FRAME_LEN]>(0, plan.frame)?;
    let word = plan.first_flow.wrapping_add(plan.flow(plan.counter));
    let sum = (word & 0xffff) + (word >> 16);
    let balance = !((sum & 0xffff) + (sum >> 16)) as u16;
    let [first, second] = plan.balance_offsets;
    packet.write((plan.flow_offset & 0x7f) as usize, word.to_be())?;
    packet.write((first & 0x7f) as usize, balance.to_be())?;
    packet.write((second & 0x7f) as usize, balance.to_be())
}

/// What the driver costs.
#[xdp(frags)]
fn empty(_: XdpContext) -> u32 {
    xdp_action::XDP_PASS
}

/// The least that an encapsulation can cost: room for a header, and 34 bytes of it.
#[xdp(frags)]
fn least(context: XdpContext) -> u32 {
    /// All differ, or the compiler would set them in a loop.
    const HEADER: [u8; 34] = {
        let mut header = [0; 34];
        let mut at = 0;
        while at < header.len() {
            header[at] = at as u8;
            at += 1;
        }
        header
    };
    let packet = Packet::new(XdpBuffer::new(&context)).grow_front(20);
    match packet.and_then(|mut packet| packet.write(0, HEADER)) {
        Ok(()) => xdp_action::XDP_TX,
        Err(_) => xdp_action::XDP_DROP,
    }
}

lb_ebpf::license!();
