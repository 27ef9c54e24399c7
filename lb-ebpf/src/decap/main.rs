//! The backend's decapsulation.
#![no_std]
#![no_main]

mod maps;
mod sockets;

use aya_ebpf::{
    bindings::xdp_action, helpers::generated::bpf_redirect, macros::xdp, programs::XdpContext,
};
use lb_common::{
    decapsulate::{Decapsulation, decapsulate},
    packet::Packet,
    verdict::{OUTCOME_FOREIGN, OUTCOME_PASS, OUTCOME_SENT_ON},
};
use lb_ebpf::buffer::XdpBuffer;
use maps::{Maps, count_decapsulated, count_outcome};

/// Hands inner packets to this host's stack, or sends them on to another backend.
#[xdp(frags)]
fn xlb_decap(context: XdpContext) -> u32 {
    match decapsulate(Packet::new(XdpBuffer::new(&context)), &Maps(&context)) {
        Ok(Decapsulation::Untouched) => {
            count_outcome(OUTCOME_PASS);
            xdp_action::XDP_PASS
        }
        Ok(Decapsulation::Foreign) => {
            count_outcome(OUTCOME_FOREIGN);
            xdp_action::XDP_PASS
        }
        Ok(Decapsulation::Inner { bytes }) => {
            count_decapsulated(bytes);
            xdp_action::XDP_PASS
        }
        Ok(Decapsulation::SentOn { ifindex }) => {
            count_outcome(OUTCOME_SENT_ON);
            send_out(ifindex, context.ingress_ifindex() as u32)
        }
        Err(reason) => {
            count_outcome(reason as u32);
            xdp_action::XDP_DROP
        }
    }
}

#[inline(always)]
fn send_out(ifindex: u32, ingress: u32) -> u32 {
    if ifindex == ingress {
        return xdp_action::XDP_TX;
    }
    // SAFETY: the helper takes numbers.
    unsafe { bpf_redirect(ifindex, 0) as u32 }
}

lb_ebpf::license!();
