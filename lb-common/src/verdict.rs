//! What becomes of a packet, and why.

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
}

impl Outcome {
    /// The packet was rewritten toward a backend.
    pub const fn is_forwarded(&self) -> bool {
        matches!(self.verdict, Verdict::Transmit | Verdict::Redirect)
    }
}

/// An [`Outcome`] in two words, as the packet path hands it out.
///
/// Each of its many exits sets it: a word is one instruction and stays in a register, where the
/// fields of a struct are stored one by one. Nor does the verifier meet a field that some exit
/// never set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packed {
    /// From the lowest bit on: verdict (2), whether it opens a connection (1), 5 unused, reason
    /// (8), port (16), bytes (32).
    what: u64,
    /// Backend (32), service (32).
    who: u64,
}

impl Packed {
    /// Not ours.
    pub const PASS: Self = Self { what: Verdict::Pass as u64, who: 0 };

    /// Refused, with what was found before.
    #[inline(always)]
    pub const fn refused(reason: DropReason, service: ServiceId, backend: BackendId) -> Self {
        Self { what: Verdict::Drop as u64 | (reason as u64) << 8, who: who(service, backend) }
    }

    /// Rewritten toward a backend. `port` is below 2¹⁶: see [`Outcome::port`].
    #[inline(always)]
    pub const fn forwarded(
        verdict: Verdict,
        (service, backend): (ServiceId, BackendId),
        port: u32,
        bytes: u32,
        opens: bool,
    ) -> Self {
        let what = verdict as u64
            | (opens as u64) << 2
            | (port as u64 & 0xffff) << 16
            | (bytes as u64) << 32;
        Self { what, who: who(service, backend) }
    }

    /// What happens to the packet.
    #[inline(always)]
    pub const fn verdict(self) -> Verdict {
        match self.what & 3 {
            0 => Verdict::Pass,
            1 => Verdict::Transmit,
            2 => Verdict::Redirect,
            _ => Verdict::Drop,
        }
    }

    /// Number of the [`DropReason`], 0 for none.
    #[inline(always)]
    pub const fn reason_number(self) -> u32 {
        (self.what >> 8) as u32 & 0xff
    }

    /// [`Outcome::service`].
    #[inline(always)]
    pub const fn service(self) -> ServiceId {
        ServiceId((self.who >> 32) as u32)
    }

    /// [`Outcome::backend`].
    #[inline(always)]
    pub const fn backend(self) -> BackendId {
        BackendId(self.who as u32)
    }

    /// [`Outcome::port`].
    #[inline(always)]
    pub const fn port(self) -> u32 {
        (self.what >> 16) as u32 & 0xffff
    }

    /// [`Outcome::bytes`].
    #[inline(always)]
    pub const fn bytes(self) -> u32 {
        (self.what >> 32) as u32
    }

    /// [`Outcome::opens`].
    #[inline(always)]
    pub const fn opens(self) -> bool {
        self.what & 4 != 0
    }
}

#[inline(always)]
const fn who(service: ServiceId, backend: BackendId) -> u64 {
    backend.0 as u64 | (service.0 as u64) << 32
}

impl From<Packed> for Outcome {
    fn from(packed: Packed) -> Self {
        Self {
            verdict: packed.verdict(),
            reason: DropReason::try_from(packed.reason_number()).ok(),
            service: packed.service(),
            backend: packed.backend(),
            port: packed.port(),
            bytes: packed.bytes(),
            opens: packed.opens(),
        }
    }
}

macro_rules! drop_reasons {
    ($($(#[doc = $doc:literal])+ $variant:ident = $number:literal, $name:literal;)+) => {
        /// Why a packet was refused. Numbers and names are an interface: they are never given
        /// another meaning.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u32)]
        pub enum DropReason { $($(#[doc = $doc])+ $variant = $number,)+ }

        impl DropReason {
            /// Every reason, by number.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// The reason's name in metrics, JSON and tables.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)+ }
            }

            /// One sentence for people.
            pub const fn description(self) -> &'static str {
                match self { $(Self::$variant => concat!($($doc),+),)+ }
            }
        }

        impl TryFrom<u32> for DropReason {
            type Error = u32;

            fn try_from(number: u32) -> Result<Self, u32> {
                match number { $($number => Ok(Self::$variant),)+ other => Err(other) }
            }
        }
    };
}

drop_reasons! {
    /// The frame ends before the headers or lengths inside it do.
    Truncated = 1, "truncated";
    /// A header contradicts itself: version, header length or datagram length.
    Malformed = 2, "malformed";
    /// The TTL or hop limit arrived as 0 (RFC 1122 section 3.2.1.7, RFC 8200 section 3).
    Expired = 3, "expired";
    /// A fragment, whose ports are not known.
    Fragment = 4, "fragment";
    /// An IPv6 extension header that the program doesn't read.
    Ipv6Extension = 5, "ipv6_extension";
    /// The service has no backend that takes packets.
    NoBackend = 6, "no_backend";
    /// The backend's next hop has no known link-layer address yet.
    Unresolved = 7, "unresolved";
    /// The packet doesn't fit the way to the backend once it is encapsulated.
    TooBig = 8, "too_big";
    /// The driver has no room in front of the packet for another header.
    NoHeadroom = 9, "no_headroom";
    /// The tables contradict themselves: a ring names a backend that has no record.
    Inconsistent = 10, "inconsistent";
    /// Decapsulation: what follows the outer header is no IP packet that fits it.
    BadInner = 11, "bad_inner";
    /// Decapsulation: a GUE header of a version, kind or length that we don't speak.
    BadGue = 12, "bad_gue";
    /// Decapsulation: congestion was marked outside a flow that can't hear it (RFC 6040).
    EcnDiscard = 13, "ecn_discard";
    /// Decapsulation: another backend may have the connection, and the way to it isn't known yet.
    CandidateUnresolved = 14, "candidate_unresolved";
    /// Decapsulation: another backend may have the connection, and the outer TTL or hop limit is
    /// spent.
    NoHopLeft = 15, "no_hop_left";
}

impl DropReason {
    /// The reason's number, 0 for none.
    #[inline(always)]
    pub const fn number(reason: Option<Self>) -> u32 {
        match reason {
            Some(reason) => reason as u32,
            None => 0,
        }
    }

    /// The reasons that a balancer can have; the others are decapsulation's.
    pub const BALANCER: &'static [Self] = DropReason::ALL.split_at(10).0;
}

const _: () = {
    let first_of_decapsulation = DropReason::ALL[DropReason::BALANCER.len()];
    assert!(matches!(first_of_decapsulation, DropReason::BadInner));
};

/// Entries of the map of outcomes: entry `n` counts drops for reason `n`,
/// the others are named below.
pub const OUTCOMES: usize = 32;

/// The entry that counts packets handed to the kernel's stack.
pub const OUTCOME_PASS: u32 = 0;

/// Decapsulation: the entry that counts packets sent on to another backend.
pub const OUTCOME_SENT_ON: u32 = 30;

/// Decapsulation: the entry that counts tunnel packets which came from no balancer.
pub const OUTCOME_FOREIGN: u32 = 31;

const _: () = {
    let mut index = 0;
    while index < DropReason::ALL.len() {
        assert!((DropReason::ALL[index] as u32) < OUTCOME_SENT_ON);
        index += 1;
    }
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_do_not_mix() {
        let (service, backend) = (ServiceId(u32::MAX), BackendId(u32::MAX - 1));
        let packed =
            Packed::forwarded(Verdict::Redirect, (service, backend), 0xffff, u32::MAX - 2, true);
        let outcome = Outcome {
            verdict: Verdict::Redirect,
            reason: None,
            service,
            backend,
            port: 0xffff,
            bytes: u32::MAX - 2,
            opens: true,
        };
        assert_eq!(Outcome::from(packed), outcome);
        for &reason in DropReason::ALL {
            let refused = Outcome::from(Packed::refused(reason, service, BackendId::NONE));
            assert_eq!((refused.verdict, refused.reason), (Verdict::Drop, Some(reason)));
            assert_eq!((refused.service, refused.backend), (service, BackendId::NONE));
            assert_eq!((refused.port, refused.bytes, refused.opens), (0, 0, false));
        }
        assert_eq!(Outcome::from(Packed::PASS).verdict, Verdict::Pass);
    }
}
