//! What became of the last packet, for replay.

use super::Plain;
use crate::verdict::{Forwarded, Refusal};

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
    /// What is recorded of a forwarded packet.
    #[inline(always)]
    pub const fn of_forwarded(forwarded: &Forwarded) -> Self {
        Self { service: forwarded.service.0, backend: forwarded.backend.0, reason: 0, reserved: 0 }
    }

    /// What is recorded of a refused packet.
    #[inline(always)]
    pub const fn of_refusal(refusal: &Refusal) -> Self {
        Self {
            service: refusal.service.0,
            backend: refusal.backend.0,
            reason: refusal.reason as u32,
            reserved: 0,
        }
    }
}

// SAFETY: four u32, repr(C).
unsafe impl Plain for TraceRecord {}
