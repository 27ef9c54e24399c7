//! What the balancer's first program doesn't finish: answers, and flows whose both ends are rewritten.

use network_types::ip::{Ipv4Hdr, Ipv6Hdr};

use crate::{
    answer::{self, Ways},
    control,
    fullnat::{self, Translations, across},
    packet::{Buffer, Packet},
    too_big,
    verdict::{MayBe, Packed},
};

/// Decides what becomes of a frame that [`crate::balance::balance`] passes, or refuses, unless it
/// [may be](Packed::may_be) something else, and rewrites it where it is. That may be another outcome
/// of the same kind. The content of a frame that is dropped is not defined any more.
pub fn carry_on<B: Buffer>(
    packet: Packet<B>,
    may_be: MayBe,
    tables: &impl Translations,
    ways: &impl Ways,
) -> Packed {
    match may_be {
        MayBe::AnswerIpv4 => answer::from_backend::<Ipv4Hdr, B>(packet, tables, ways),
        MayBe::AnswerIpv6 => answer::from_backend::<Ipv6Hdr, B>(packet, tables, ways),
        MayBe::ErrorIpv4 => control::to_client::<Ipv4Hdr, B>(packet, tables, ways),
        MayBe::ErrorIpv6 => control::to_client::<Ipv6Hdr, B>(packet, tables, ways),
        MayBe::ControlIpv4 => control::to_vip::<Ipv4Hdr, B>(packet, tables),
        MayBe::ControlIpv6 => control::to_vip::<Ipv6Hdr, B>(packet, tables),
        MayBe::FullnatIpv4 => fullnat::toward::<Ipv4Hdr, B>(packet, tables),
        MayBe::FullnatIpv6 => fullnat::toward::<Ipv6Hdr, B>(packet, tables),
        MayBe::BackIpv4 => fullnat::back::<Ipv4Hdr, B>(packet, tables, ways),
        MayBe::BackIpv6 => fullnat::back::<Ipv6Hdr, B>(packet, tables, ways),
        MayBe::FullnatErrorIpv4 => fullnat::error::<Ipv4Hdr, B>(packet, tables, ways),
        MayBe::AboutAnswerIpv4 => fullnat::error_about_answer::<Ipv4Hdr, B>(packet, tables),
        MayBe::AboutAnswerIpv6 => fullnat::error_about_answer::<Ipv6Hdr, B>(packet, tables),
        MayBe::TooLongIpv4 => too_big::too_long::<Ipv4Hdr, B>(packet, tables),
        MayBe::TooLongIpv6 => too_big::too_long::<Ipv6Hdr, B>(packet, tables),
        MayBe::FullnatErrorIpv6 => fullnat::error::<Ipv6Hdr, B>(packet, tables, ways),
        MayBe::AcrossIpv4 => across::toward::<Ipv4Hdr, B>(packet, tables),
        MayBe::AcrossIpv6 => across::toward::<Ipv6Hdr, B>(packet, tables),
        MayBe::BackAcrossIpv4 => across::back::<Ipv4Hdr, B>(packet, tables, ways),
        MayBe::BackAcrossIpv6 => across::back::<Ipv6Hdr, B>(packet, tables, ways),
        MayBe::ErrorAcrossIpv4 => across::error::<Ipv4Hdr, B>(packet, tables, ways),
        MayBe::ErrorAcrossIpv6 => across::error::<Ipv6Hdr, B>(packet, tables, ways),
        MayBe::SendAcrossIpv4 => across::send::<Ipv4Hdr, B>(packet, tables),
        MayBe::SendAcrossIpv6 => across::send::<Ipv6Hdr, B>(packet, tables),
        MayBe::ReturnAcrossIpv4 => across::give_back::<Ipv4Hdr, B>(packet, tables),
        MayBe::ReturnAcrossIpv6 => across::give_back::<Ipv6Hdr, B>(packet, tables),
        MayBe::TellAcrossIpv4 => across::tell::<Ipv4Hdr, B>(packet, tables),
        MayBe::TellAcrossIpv6 => across::tell::<Ipv6Hdr, B>(packet, tables),
        MayBe::AboutAcrossIpv4 => across::error_about_answer::<Ipv4Hdr, B>(packet, tables),
        MayBe::AboutAcrossIpv6 => across::error_about_answer::<Ipv6Hdr, B>(packet, tables),
    }
}
