//! The way from one backend to another, for packets that try a second one.

use super::Plain;

/// How frames reach another backend.
///
/// The program makes an entry without a way for an address that it hasn't met; userspace fills
/// it in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct NextHop {
    /// The interface that leads there; 0 as long as the way isn't known.
    pub ifindex: u32,
    /// Longest packet that the way takes, in bytes.
    pub mtu: u32,
    /// Destination, then source MAC address.
    pub macs: [u8; 12],
    /// When a packet last named the backend, in seconds of the kernel's monotonic clock.
    pub used: u32,
}

impl NextHop {
    /// Asked for, not known yet.
    pub const fn wanted(used: u32) -> Self {
        Self { ifindex: 0, mtu: 0, macs: [0; 12], used }
    }

    /// Whether it leads anywhere.
    #[inline(always)]
    pub const fn is_known(&self) -> bool {
        self.ifindex != 0
    }
}

// SAFETY: integers and an array of bytes whose length is a multiple of four: no padding.
unsafe impl Plain for NextHop {}

/// Network namespaces besides the interface's own, in which connections may end.
pub const NAMESPACES: usize = 8;

/// Numbers of network namespaces, as the interface's namespace knows them (`NETNSA_NSID`), each
/// with one added: 0 is none, and nothing follows it.
pub type Namespaces = [u32; NAMESPACES];

const _: () = {
    use core::mem::{offset_of, size_of};
    assert!(size_of::<NextHop>() == 24);
    assert!(offset_of!(NextHop, macs) == 8);
    assert!(offset_of!(NextHop, used) == 20);
};
