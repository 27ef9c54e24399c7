//! What the benchmark's programs are told: the driver, and the reference that works by a
//! connection table.

use super::Plain;

/// Length in bytes of the frames that the driver writes.
pub const BENCH_FRAME_LEN: usize = 96;

/// The one value of the driver's map: the frame to write, and how it differs by flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct BenchPlan {
    /// Packets driven so far.
    pub counter: u32,
    /// 0: flows come in no order; else they count up.
    pub in_order: u32,
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

impl BenchPlan {
    /// The number of the flow that a packet, by the counter, belongs to.
    ///
    /// Where flows come in no order, they are mixed as real traffic mixes them: by MurmurHash3's
    /// finaliser, so that no cache and no prefetcher can tell the next one from the last ones. It is
    /// a bijection: without a mask no flow comes twice.
    #[inline(always)]
    pub const fn flow(&self, packet: u32) -> u32 {
        let number = if self.in_order == 0 { mix(packet) } else { packet };
        number & self.mask
    }
}

/// Every bit of the word moves every bit of the result.
#[inline(always)]
const fn mix(mut word: u32) -> u32 {
    word = (word ^ (word >> 16)).wrapping_mul(0x85eb_ca6b);
    word = (word ^ (word >> 13)).wrapping_mul(0xc2b2_ae35);
    word ^ (word >> 16)
}

/// The reference's key of a service, of either family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct ClassicVip {
    /// The address, an IPv4 address mapped; in words as they lie in memory.
    pub address: [u32; 4],
    /// Port, host order; 0 for any.
    pub port: u16,
    /// Protocol number.
    pub protocol: u16,
}

/// The reference's service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct ClassicService {
    /// Its place in the reference's counters.
    pub number: u32,
    /// The first slot of its ring.
    pub ring_start: u32,
    /// Slots of its ring.
    pub ring_size: u32,
}

/// The reference's key of a connection, of either family: the five-tuple.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct ClassicFlow {
    /// As in [`ClassicVip`].
    pub source: [u32; 4],
    /// As in [`ClassicVip`].
    pub destination: [u32; 4],
    /// Source and destination port as they lie in the packet.
    pub ports: u32,
    /// Protocol number.
    pub protocol: u32,
}

/// What the reference remembers of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct ClassicConnection {
    /// When UDP last used it, in ns of the monotonic clock.
    pub last_use_ns: u64,
    /// Number of its backend.
    pub backend: u32,
    /// Padding: 0.
    pub reserved: u32,
}

// SAFETY: integers and arrays of them; the assertion leaves no room for padding.
unsafe impl Plain for BenchPlan {}
// SAFETY: as above.
unsafe impl Plain for ClassicVip {}
// SAFETY: as above.
unsafe impl Plain for ClassicService {}
// SAFETY: as above.
unsafe impl Plain for ClassicFlow {}
// SAFETY: as above.
unsafe impl Plain for ClassicConnection {}

const _: () = {
    assert!(size_of::<BenchPlan>() == 28 + BENCH_FRAME_LEN);
    assert!(size_of::<ClassicVip>() == 20);
    assert!(size_of::<ClassicService>() == 12);
    assert!(size_of::<ClassicFlow>() == 40);
    assert!(size_of::<ClassicConnection>() == 16);
};
