//! What the benchmark's driver program is told.

use super::Plain;

/// Length in bytes of the frames that the driver writes.
pub const BENCH_FRAME_LEN: usize = 96;

/// The one value of the driver's map: the frame to write, and how it differs by flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct BenchPlan {
    /// Packets driven so far.
    pub counter: u32,
    /// Packet `n` belongs to flow `n * step & mask`.
    pub step: u32,
    /// Number of flows less 1; a power of two less 1.
    pub mask: u32,
    /// Offset of the 32-bit word that the flow's number is added to (the source address's last).
    pub flow_offset: u32,
    /// Offsets of 16-bit words that take the number out of the IP and the transport checksum
    /// again, so that every packet is valid.
    pub balance_offsets: [u32; 2],
    /// The word at `flow_offset` in flow 0, host order.
    pub first_flow: u32,
    /// The frame of flow 0, with zeros where it differs by flow.
    pub frame: [u8; BENCH_FRAME_LEN],
}

// SAFETY: integers and arrays of them; the assertion leaves no room for padding.
unsafe impl Plain for BenchPlan {}

const _: () = assert!(size_of::<BenchPlan>() == 28 + BENCH_FRAME_LEN);
