//! What became of the last packet, for replay.

use super::Plain;
use crate::verdict::Packed;

/// The one value of the trace map, written only by a program loaded for tracing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct TraceRecord {
    /// A [`crate::id::ServiceId`]; 0 is none.
    pub service: u32,
    /// A [`crate::id::BackendId`]; 0 is none.
    pub backend: u32,
    /// A [`crate::verdict::DropReason`]; 0 is none.
    pub reason: u32,
    /// Zero.
    pub reserved: u32,
}

impl TraceRecord {
    /// What is recorded of an outcome.
    #[inline(always)]
    pub const fn of(outcome: Packed) -> Self {
        Self {
            service: outcome.service().0,
            backend: outcome.backend().0,
            reason: outcome.reason_number(),
            reserved: 0,
        }
    }
}

// SAFETY: four u32, repr(C).
unsafe impl Plain for TraceRecord {}
