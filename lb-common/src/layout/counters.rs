//! What the program counts, per CPU.

use super::Plain;

/// Traffic of one backend on one CPU, since the maps were made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct BackendCounters {
    /// Packets forwarded.
    pub packets: u64,
    /// Bytes of them as they arrived: link header and IP packet, without padding.
    pub bytes: u64,
    /// TCP connections opened: SYN without ACK.
    pub new_flows: u64,
    /// Packets from it that were turned back toward clients.
    pub answers: u64,
}

// SAFETY: four u64, repr(C).
unsafe impl Plain for BackendCounters {}
