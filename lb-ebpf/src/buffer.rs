//! The frame behind a program's context.

use aya_ebpf::{
    EbpfContext as _,
    helpers::{
        bpf_xdp_adjust_head,
        generated::{
            bpf_skb_change_head, bpf_skb_change_tail, bpf_xdp_adjust_tail, bpf_xdp_get_buff_len,
        },
    },
    programs::{TcContext, XdpContext},
};
use lb_common::packet::Buffer;

/// The kernel's buffer of one frame.
pub struct XdpBuffer<'c>(&'c XdpContext);

impl<'c> XdpBuffer<'c> {
    /// The frame that the program was called for.
    #[inline(always)]
    pub const fn new(context: &'c XdpContext) -> Self {
        Self(context)
    }
}

// SAFETY: the kernel gives the frame between `data` and `data_end` to the program alone for the
// time of its run, and the verifier checks every access.
unsafe impl Buffer for XdpBuffer<'_> {
    #[inline(always)]
    fn start(&self) -> usize {
        self.0.data()
    }

    #[inline(always)]
    fn end(&self) -> usize {
        self.0.data_end()
    }

    #[inline(always)]
    fn whole_len(&self) -> usize {
        // SAFETY: the helper takes the program's own context.
        unsafe { bpf_xdp_get_buff_len(self.0.as_ptr().cast()) as usize }
    }

    #[inline(always)]
    fn ingress_ifindex(&self) -> u32 {
        self.0.ingress_ifindex() as u32
    }

    #[inline(always)]
    fn grow_front(&mut self, bytes: i32) -> bool {
        // SAFETY: the helper takes the program's own context.
        unsafe { bpf_xdp_adjust_head(self.0.as_ptr().cast(), -bytes) == 0 }
    }

    #[inline(always)]
    fn cut(&mut self, len: usize) -> bool {
        let bytes = len as i32 - self.whole_len() as i32;
        // SAFETY: the helper takes the program's own context.
        bytes < 0 && unsafe { bpf_xdp_adjust_tail(self.0.as_ptr().cast(), bytes) == 0 }
    }
}

/// The kernel's buffer of one frame, as the network stack has it.
pub struct SkbBuffer<'c>(&'c TcContext);

impl<'c> SkbBuffer<'c> {
    /// The frame that the program was called for.
    #[inline(always)]
    pub const fn new(context: &'c TcContext) -> Self {
        Self(context)
    }
}

// SAFETY: the kernel gives the frame between `data` and `data_end` to the program for the time of
// its run: it copies one that others have, too, before a program may write. The verifier checks
// every access.
unsafe impl Buffer for SkbBuffer<'_> {
    #[inline(always)]
    fn start(&self) -> usize {
        self.0.data()
    }

    #[inline(always)]
    fn end(&self) -> usize {
        self.0.data_end()
    }

    #[inline(always)]
    fn whole_len(&self) -> usize {
        self.0.len() as usize
    }

    #[inline(always)]
    fn ingress_ifindex(&self) -> u32 {
        // SAFETY: the program's own context.
        unsafe { (*self.0.skb.skb).ingress_ifindex }
    }

    /// There is no taking away.
    #[inline(always)]
    fn grow_front(&mut self, bytes: i32) -> bool {
        let Ok(bytes) = u32::try_from(bytes) else { return false };
        // SAFETY: the helper takes the program's own context.
        unsafe { bpf_skb_change_head(self.0.skb.skb, bytes, 0) == 0 }
    }

    #[inline(always)]
    fn cut(&mut self, len: usize) -> bool {
        // SAFETY: the helper takes the program's own context.
        len < self.whole_len() && unsafe { bpf_skb_change_tail(self.0.skb.skb, len as u32, 0) == 0 }
    }
}
