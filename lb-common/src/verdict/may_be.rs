//! Programs that go on with what the first one doesn't finish.

use crate::{layout::FAMILY_V4, network::Network};

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
    /// It is met where services answer through the balancer alone.
    pub const fn is_of_answers(self) -> bool {
        matches!(self, Self::AnswerIpv4 | Self::AnswerIpv6 | Self::ErrorIpv4 | Self::ErrorIpv6)
    }

    /// It is met where services are under `fullnat` alone.
    pub const fn is_of_fullnat(self) -> bool {
        let is_of_all = matches!(
            self,
            Self::TooLongIpv4 | Self::TooLongIpv6 | Self::ControlIpv4 | Self::ControlIpv6
        );
        !is_of_all && !self.is_of_answers()
    }

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
