//! What becomes of a packet, and why.

mod drop_reason;
mod may_be;
mod packed;

pub use drop_reason::DropReason;
pub use may_be::MayBe;
pub use packed::Packed;

use crate::id::{BackendId, ServiceId};

/// What happens to a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Verdict {
    /// Not ours: the kernel's stack goes on with it, untouched.
    Pass,
    /// Rewritten toward a backend, out of the interface that it came in by.
    Transmit,
    /// Rewritten toward a backend, out of another interface.
    Redirect,
    /// Ours, and can't be served.
    Drop,
}

/// A verdict with what led to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// What happens to the packet.
    pub verdict: Verdict,
    /// Why it is dropped; `None` for the other verdicts.
    pub reason: Option<DropReason>,
    /// The service, where one was found; else [`ServiceId::NONE`].
    pub service: ServiceId,
    /// The backend, where one was found; else [`BackendId::NONE`].
    pub backend: BackendId,
    /// [`Verdict::Redirect`]: index in the device map of the interface that it leaves by.
    pub port: u32,
    /// Length in bytes of a forwarded frame as it arrived, without padding behind the IP packet.
    pub bytes: u32,
    /// A forwarded packet opens a connection: a TCP SYN without ACK.
    pub opens: bool,
    /// The packet came from the backend and was rewritten toward its client: `egress_ifindex` says
    /// by which interface it leaves, `port` and `bytes` say nothing.
    pub is_answer: bool,
    /// Of answers: the interface that they leave by.
    pub egress_ifindex: u32,
    /// What leaves is a message of the balancer's own, back to who sent the packet; where there is a
    /// reason, about that. `port` and `bytes` say nothing.
    pub is_reply: bool,
}

impl Outcome {
    /// The packet was rewritten toward a backend, or from one toward its client.
    pub const fn is_forwarded(&self) -> bool {
        matches!(self.verdict, Verdict::Transmit | Verdict::Redirect) && !self.is_reply
    }
}

/// Entries of the map of outcomes: entry `n` counts drops for reason `n`,
/// the others are named below.
pub const OUTCOMES: usize = 64;

/// The entry that counts packets handed to the kernel's stack.
pub const OUTCOME_PASS: u32 = 0;

/// Decapsulation: the entry that counts packets sent on to another backend.
pub const OUTCOME_SENT_ON: u32 = 30;

/// Decapsulation: the entry that counts tunnel packets which came from no balancer.
pub const OUTCOME_FOREIGN: u32 = 31;

/// The entry that counts echo replies.
pub const OUTCOME_ECHOED: u32 = 32;

/// The entry that counts senders of too big packets who were told so.
pub const OUTCOME_TOLD: u32 = 33;

const _: () = {
    let mut index = 0;
    while index < DropReason::ALL.len() {
        assert!((DropReason::ALL[index] as u32) < OUTCOME_SENT_ON);
        index += 1;
    }
};
