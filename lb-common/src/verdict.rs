//! What becomes of a packet, and why.

use crate::{
    id::{BackendId, ServiceId},
    layout::FAMILY_V4,
    network::Network,
};

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

/// What a packet may be that the first program doesn't finish: each has a program of its own, because
/// the stack of one has no room for all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum MayBe {
    /// An answer by IPv4.
    AnswerIpv4 = 0,
    /// An answer by IPv6.
    AnswerIpv6 = 1,
    /// An ICMP error about a forwarded packet.
    ErrorIpv4 = 2,
    /// The same of ICMPv6.
    ErrorIpv6 = 3,
    /// A client's packet by IPv4, under `fullnat`.
    FullnatIpv4 = 4,
    /// The same by IPv6.
    FullnatIpv6 = 5,
    /// An answer by IPv4, under `fullnat`.
    BackIpv4 = 6,
    /// The same by IPv6.
    BackIpv6 = 7,
    /// An ICMP error, where some services are under `fullnat`.
    FullnatErrorIpv4 = 8,
    /// The same by IPv6.
    FullnatErrorIpv6 = 9,
    /// An answer by IPv4 that is too long for its way, under `fullnat`.
    TooLongIpv4 = 10,
    /// The same by IPv6.
    TooLongIpv6 = 11,
    /// An ICMP error about an answer, under `fullnat`.
    AboutAnswerIpv4 = 12,
    /// The same by IPv6.
    AboutAnswerIpv6 = 13,
    /// A client's packet by IPv4 for a backend of IPv6, under `fullnat`.
    AcrossIpv4 = 14,
    /// One by IPv6 for a backend of IPv4.
    AcrossIpv6 = 15,
    /// An answer by IPv4 to a client of IPv6.
    BackAcrossIpv4 = 16,
    /// One by IPv6 to a client of IPv4.
    BackAcrossIpv6 = 17,
    /// An ICMP error about a packet of a client of IPv6.
    ErrorAcrossIpv4 = 18,
    /// An ICMPv6 error about a packet of a client of IPv4.
    ErrorAcrossIpv6 = 19,
    /// An ICMP error about an answer of a backend of IPv6.
    AboutAcrossIpv4 = 20,
    /// An ICMPv6 error about an answer of a backend of IPv4.
    AboutAcrossIpv6 = 21,
    /// An ICMP error about a packet of a client of IPv6, whose way is found.
    TellAcrossIpv4 = 22,
    /// An ICMPv6 error about a packet of a client of IPv4, whose way is found.
    TellAcrossIpv6 = 23,
    /// A client's packet by IPv4 for a backend of IPv6, whose flow is known.
    SendAcrossIpv4 = 24,
    /// One by IPv6 for a backend of IPv4.
    SendAcrossIpv6 = 25,
    /// An answer by IPv4 to a client of IPv6, whose way is found.
    ReturnAcrossIpv4 = 26,
    /// One by IPv6 to a client of IPv4.
    ReturnAcrossIpv6 = 27,
    /// An ICMP message to a VIP.
    ControlIpv4 = 28,
    /// The same of ICMPv6.
    ControlIpv6 = 29,
}

impl MayBe {
    /// Every one, in the order of their numbers, and the name of its program.
    pub const ALL: [(Self, &'static str); 30] = [
        (Self::AnswerIpv4, "xlb_answer_ipv4"),
        (Self::AnswerIpv6, "xlb_answer_ipv6"),
        (Self::ErrorIpv4, "xlb_error_ipv4"),
        (Self::ErrorIpv6, "xlb_error_ipv6"),
        (Self::FullnatIpv4, "xlb_fullnat_ipv4"),
        (Self::FullnatIpv6, "xlb_fullnat_ipv6"),
        (Self::BackIpv4, "xlb_back_ipv4"),
        (Self::BackIpv6, "xlb_back_ipv6"),
        (Self::FullnatErrorIpv4, "xlb_fullnat_error_ipv4"),
        (Self::FullnatErrorIpv6, "xlb_fullnat_error_ipv6"),
        (Self::TooLongIpv4, "xlb_too_long_ipv4"),
        (Self::TooLongIpv6, "xlb_too_long_ipv6"),
        (Self::AboutAnswerIpv4, "xlb_about_answer_ipv4"),
        (Self::AboutAnswerIpv6, "xlb_about_answer_ipv6"),
        (Self::AcrossIpv4, "xlb_across_ipv4"),
        (Self::AcrossIpv6, "xlb_across_ipv6"),
        (Self::BackAcrossIpv4, "xlb_back_across_ipv4"),
        (Self::BackAcrossIpv6, "xlb_back_across_ipv6"),
        (Self::ErrorAcrossIpv4, "xlb_error_across_ipv4"),
        (Self::ErrorAcrossIpv6, "xlb_error_across_ipv6"),
        (Self::AboutAcrossIpv4, "xlb_about_across_ipv4"),
        (Self::AboutAcrossIpv6, "xlb_about_across_ipv6"),
        (Self::TellAcrossIpv4, "xlb_tell_across_ipv4"),
        (Self::TellAcrossIpv6, "xlb_tell_across_ipv6"),
        (Self::SendAcrossIpv4, "xlb_send_across_ipv4"),
        (Self::SendAcrossIpv6, "xlb_send_across_ipv6"),
        (Self::ReturnAcrossIpv4, "xlb_return_across_ipv4"),
        (Self::ReturnAcrossIpv6, "xlb_return_across_ipv6"),
        (Self::ControlIpv4, "xlb_control_ipv4"),
        (Self::ControlIpv6, "xlb_control_ipv6"),
    ];

    /// What may be about `nat`.
    #[inline(always)]
    pub const fn answer<N: Network>(is_error: bool) -> Self {
        match (is_error, N::FAMILY == FAMILY_V4) {
            (false, true) => Self::AnswerIpv4,
            (false, false) => Self::AnswerIpv6,
            (true, true) => Self::ErrorIpv4,
            (true, false) => Self::ErrorIpv6,
        }
    }

    /// What may be about `fullnat`.
    #[inline(always)]
    pub const fn back<N: Network>(is_error: bool) -> Self {
        match (is_error, N::FAMILY == FAMILY_V4) {
            (false, true) => Self::BackIpv4,
            (false, false) => Self::BackIpv6,
            (true, true) => Self::FullnatErrorIpv4,
            (true, false) => Self::FullnatErrorIpv6,
        }
    }

    /// An ICMP message to a VIP.
    #[inline(always)]
    pub const fn control<N: Network>() -> Self {
        if N::FAMILY == FAMILY_V4 { Self::ControlIpv4 } else { Self::ControlIpv6 }
    }

    /// An error about an answer, under `fullnat`.
    #[inline(always)]
    pub const fn about_answer<N: Network>() -> Self {
        if N::FAMILY == FAMILY_V4 { Self::AboutAnswerIpv4 } else { Self::AboutAnswerIpv6 }
    }

    /// An answer that is too long, under `fullnat`.
    #[inline(always)]
    pub const fn too_long<N: Network>() -> Self {
        if N::FAMILY == FAMILY_V4 { Self::TooLongIpv4 } else { Self::TooLongIpv6 }
    }

    /// A client's packet under `fullnat`.
    #[inline(always)]
    pub const fn fullnat<N: Network>() -> Self {
        if N::FAMILY == FAMILY_V4 { Self::FullnatIpv4 } else { Self::FullnatIpv6 }
    }

    /// A client's packet under `fullnat`, for a backend of the other family.
    #[inline(always)]
    pub const fn across<N: Network>() -> Self {
        if N::FAMILY == FAMILY_V4 { Self::AcrossIpv4 } else { Self::AcrossIpv6 }
    }

    /// The same, whose flow is known.
    #[inline(always)]
    pub const fn send_across<N: Network>() -> Self {
        if N::FAMILY == FAMILY_V4 { Self::SendAcrossIpv4 } else { Self::SendAcrossIpv6 }
    }

    /// An answer under `fullnat`, to a client of the other family, whose way is found.
    #[inline(always)]
    pub const fn return_across<N: Network>() -> Self {
        if N::FAMILY == FAMILY_V4 { Self::ReturnAcrossIpv4 } else { Self::ReturnAcrossIpv6 }
    }

    /// An answer under `fullnat`, to a client of the other family.
    #[inline(always)]
    pub const fn back_across<N: Network>() -> Self {
        if N::FAMILY == FAMILY_V4 { Self::BackAcrossIpv4 } else { Self::BackAcrossIpv6 }
    }

    /// An error about a packet of a client of the other family, under `fullnat`.
    #[inline(always)]
    pub const fn error_across<N: Network>() -> Self {
        if N::FAMILY == FAMILY_V4 { Self::ErrorAcrossIpv4 } else { Self::ErrorAcrossIpv6 }
    }

    /// The same, whose way is found.
    #[inline(always)]
    pub const fn tell_across<N: Network>() -> Self {
        if N::FAMILY == FAMILY_V4 { Self::TellAcrossIpv4 } else { Self::TellAcrossIpv6 }
    }

    /// An error about an answer of a backend of the other family, under `fullnat`.
    #[inline(always)]
    pub const fn about_across<N: Network>() -> Self {
        if N::FAMILY == FAMILY_V4 { Self::AboutAcrossIpv4 } else { Self::AboutAcrossIpv6 }
    }
}

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
    /// An answer of a backend: this host has no way to the client that packets may be sent by.
    NoRoute = 16, "no_route";
    /// An answer of a backend came in by an interface that this host forwards no packets of.
    ForwardingOff = 17, "forwarding_off";
    /// An answer of a backend: the next hop toward the client has no known link-layer address yet.
    ClientUnresolved = 18, "client_unresolved";
    /// Under `fullnat`, no free port toward the backend was found for a new flow.
    PortsExhausted = 19, "ports_exhausted";
    /// Under `fullnat`, the table of flows has no room for a new one.
    FlowTableFull = 20, "flow_table_full";
    /// Under `fullnat`, a reset of a connection that nobody knows.
    NoFlow = 21, "no_flow";
    /// An echo request to a VIP: this second's replies are used up.
    RateLimited = 22, "rate_limited";
    /// Between IPv4 and IPv6, a datagram without a checksum, which IPv6 demands: one that came by
    /// IPv6, or one by IPv4 that is too long to be given one.
    Unsummed = 23, "unsummed";
    /// Between IPv4 and IPv6, a packet whose options say by which hosts it goes (RFC 7915 section
    /// 4.1).
    SourceRoute = 24, "source_route";
    /// Between IPv4 and IPv6, an ICMP error that the other family has no words for.
    Untranslatable = 25, "untranslatable";
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
    pub const BALANCER: &'static [Self] = &[
        Self::Truncated,
        Self::Malformed,
        Self::Expired,
        Self::Fragment,
        Self::Ipv6Extension,
        Self::NoBackend,
        Self::Unresolved,
        Self::TooBig,
        Self::NoHeadroom,
        Self::Inconsistent,
        Self::NoRoute,
        Self::ForwardingOff,
        Self::ClientUnresolved,
        Self::PortsExhausted,
        Self::FlowTableFull,
        Self::NoFlow,
        Self::RateLimited,
        Self::Unsummed,
        Self::SourceRoute,
        Self::Untranslatable,
    ];
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
