//! An outcome as it is handed out of the packet path.

use super::{DropReason, MayBe, Outcome, Verdict};
use crate::id::{BackendId, ServiceId};

/// An [`Outcome`] in two words, as the packet path hands it out.
///
/// Each of its many exits sets it: a word is one instruction and stays in a register, where the
/// fields of a struct are stored one by one. Nor does the verifier meet a field that some exit
/// never set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packed {
    /// From the lowest bit on: verdict (2), whether it opens a connection (1), whether it is passed
    /// only if [`crate::carry_on`] knows nothing else (1), whether it is an answer (1), or a reply
    /// (1), 2 unused,
    /// reason (8), port, or what it may be (16), bytes, or an answer's interface (32).
    what: u64,
    /// Backend (32), service (32).
    who: u64,
}

impl Packed {
    /// Not ours.
    pub const PASS: Self = Self { what: Verdict::Pass as u64, who: 0 };

    /// Not for a service, but maybe of one: a pass, if [`crate::carry_on`] finds nothing else.
    #[inline(always)]
    pub const fn pass_unless(may_be: MayBe) -> Self {
        let what = Verdict::Pass as u64 | MAYBE_ANSWER | (may_be as u64) << MAY_BE_SHIFT;
        Self { what, who: 0 }
    }

    /// For a service whose packets another program goes on with; refused, if there is none.
    #[inline(always)]
    pub const fn refused_unless(
        may_be: MayBe,
        reason: DropReason,
        service: ServiceId,
        backend: BackendId,
    ) -> Self {
        let refused = Self::refused(reason, service, backend);
        let what = refused.what | MAYBE_ANSWER | (may_be as u64) << MAY_BE_SHIFT;
        Self { what, ..refused }
    }

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

    /// Rewritten toward a client, out of the interface.
    #[inline(always)]
    pub const fn answered(
        verdict: Verdict,
        (service, backend): (ServiceId, BackendId),
        ifindex: u32,
    ) -> Self {
        let what = verdict as u64 | IS_ANSWER | (ifindex as u64) << 32;
        Self { what, who: who(service, backend) }
    }

    /// An echo request was turned into its reply.
    pub const ECHOED: Self = Self { what: Verdict::Transmit as u64 | IS_REPLY, who: 0 };

    /// Refused, and who sent it is told why.
    #[inline(always)]
    pub const fn told(reason: DropReason, service: ServiceId, backend: BackendId) -> Self {
        let what = Verdict::Transmit as u64 | IS_REPLY | (reason as u64) << 8;
        Self { what, who: who(service, backend) }
    }

    /// [`Outcome::is_reply`].
    #[inline(always)]
    pub const fn is_reply(self) -> bool {
        self.what & IS_REPLY != 0
    }

    /// What a packet may be that is passed, or refused, only if it isn't.
    #[inline(always)]
    pub const fn may_be(self) -> Option<MayBe> {
        if self.what & MAYBE_ANSWER == 0 {
            return None;
        }
        Some(match self.what >> MAY_BE_SHIFT & 0x1f {
            0 => MayBe::AnswerIpv4,
            1 => MayBe::AnswerIpv6,
            2 => MayBe::ErrorIpv4,
            3 => MayBe::ErrorIpv6,
            4 => MayBe::FullnatIpv4,
            5 => MayBe::FullnatIpv6,
            6 => MayBe::BackIpv4,
            7 => MayBe::BackIpv6,
            8 => MayBe::FullnatErrorIpv4,
            9 => MayBe::FullnatErrorIpv6,
            10 => MayBe::TooLongIpv4,
            11 => MayBe::TooLongIpv6,
            12 => MayBe::AboutAnswerIpv4,
            13 => MayBe::AboutAnswerIpv6,
            14 => MayBe::AcrossIpv4,
            15 => MayBe::AcrossIpv6,
            16 => MayBe::BackAcrossIpv4,
            17 => MayBe::BackAcrossIpv6,
            18 => MayBe::ErrorAcrossIpv4,
            19 => MayBe::ErrorAcrossIpv6,
            20 => MayBe::AboutAcrossIpv4,
            21 => MayBe::AboutAcrossIpv6,
            22 => MayBe::TellAcrossIpv4,
            23 => MayBe::TellAcrossIpv6,
            24 => MayBe::SendAcrossIpv4,
            25 => MayBe::SendAcrossIpv6,
            26 => MayBe::ReturnAcrossIpv4,
            27 => MayBe::ReturnAcrossIpv6,
            28 => MayBe::ControlIpv4,
            _ => MayBe::ControlIpv6,
        })
    }

    /// [`Outcome::is_answer`].
    #[inline(always)]
    pub const fn is_answer(self) -> bool {
        self.what & IS_ANSWER != 0
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

    /// [`Outcome::egress_ifindex`].
    #[inline(always)]
    pub const fn egress_ifindex(self) -> u32 {
        self.bytes()
    }

    /// [`Outcome::opens`].
    #[inline(always)]
    pub const fn opens(self) -> bool {
        self.what & 4 != 0
    }
}

const MAYBE_ANSWER: u64 = 8;
const IS_ANSWER: u64 = 16;
const IS_REPLY: u64 = 32;
const MAY_BE_SHIFT: u32 = 16;

#[inline(always)]
const fn who(service: ServiceId, backend: BackendId) -> u64 {
    backend.0 as u64 | (service.0 as u64) << 32
}

impl From<Packed> for Outcome {
    fn from(packed: Packed) -> Self {
        let is_answer = packed.is_answer();
        Self {
            verdict: packed.verdict(),
            reason: DropReason::try_from(packed.reason_number()).ok(),
            service: packed.service(),
            backend: packed.backend(),
            port: packed.port(),
            bytes: if is_answer { 0 } else { packed.bytes() },
            opens: packed.opens(),
            is_answer,
            egress_ifindex: if is_answer { packed.egress_ifindex() } else { 0 },
            is_reply: packed.is_reply(),
        }
    }
}

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
            is_answer: false,
            egress_ifindex: 0,
            is_reply: false,
        };
        assert_eq!(Outcome::from(packed), outcome);
        let packed = Packed::answered(Verdict::Transmit, (service, backend), u32::MAX);
        let answer = Outcome::from(packed);
        assert_eq!((answer.verdict, answer.service), (Verdict::Transmit, service));
        assert!(answer.is_answer && answer.egress_ifindex == u32::MAX && answer.bytes == 0);
        assert_eq!(packed.may_be(), None);
        for (number, (may_be, _)) in (0..).zip(MayBe::ALL) {
            let packed = Packed::pass_unless(may_be);
            assert_eq!((packed.verdict(), packed.may_be()), (Verdict::Pass, Some(may_be)));
            assert!(may_be as u32 == number && packed.reason_number() == 0);
            let packed = Packed::refused_unless(may_be, DropReason::TooBig, service, backend);
            assert_eq!((packed.verdict(), packed.may_be()), (Verdict::Drop, Some(may_be)));
            assert_eq!((packed.service(), packed.backend()), (service, backend));
        }
        for &reason in DropReason::ALL {
            let told = Outcome::from(Packed::told(reason, service, backend));
            assert_eq!((told.verdict, told.reason), (Verdict::Transmit, Some(reason)));
            assert!(told.is_reply && !told.is_forwarded() && told.backend == backend);
            let refused = Outcome::from(Packed::refused(reason, service, BackendId::NONE));
            assert_eq!((refused.verdict, refused.reason), (Verdict::Drop, Some(reason)));
            assert_eq!((refused.service, refused.backend), (service, BackendId::NONE));
            assert_eq!((refused.port, refused.bytes, refused.opens), (0, 0, false));
        }
        assert_eq!(Outcome::from(Packed::PASS).verdict, Verdict::Pass);
    }
}
