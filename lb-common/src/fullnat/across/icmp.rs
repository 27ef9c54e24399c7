//! What an ICMP error says in the other family's terms (RFC 7915 sections 4.2 and 5.2).

/// The header of an error, without its checksum.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Message {
    /// The type.
    pub kind: u8,
    /// The code.
    pub code: u8,
    /// The four bytes that follow the checksum.
    pub rest: u32,
}

const V4_UNREACHABLE: u8 = 3;
const V4_TIME_EXCEEDED: u8 = 11;
const V4_PARAMETER: u8 = 12;
const V6_UNREACHABLE: u8 = 1;
const V6_TOO_BIG: u8 = 2;
const V6_TIME_EXCEEDED: u8 = 3;
const V6_PARAMETER: u8 = 4;

/// What every link of IPv6 takes, in bytes (RFC 8200 section 5).
const LEAST_MTU: u32 = 1280;
/// How much longer IPv6's header is, in bytes.
const GROWTH: u32 = 20;

/// An ICMP error as ICMPv6 says it: `None` where it doesn't. `quoted_len` is the length that the
/// quoted packet gives itself, `limit` the longest packet of IPv6 that the way takes as far as it is
/// known, in bytes.
///
/// Extensions (RFC 4884) are not announced any more: the quoted packet grows, and they with it.
#[inline(always)]
pub fn to_v6(message: Message, quoted_len: u32, limit: u32) -> Option<Message> {
    let Message { kind, code, rest } = message;
    let (kind, code, rest) = match (kind, code) {
        (V4_UNREACHABLE, 2) => (V6_PARAMETER, 1, 6),
        (V4_UNREACHABLE, 3) => (V6_UNREACHABLE, 4, 0),
        (V4_UNREACHABLE, 4) => {
            let told = match rest & 0xffff {
                0 => plateau(quoted_len),
                told => told,
            };
            (V6_TOO_BIG, 0, (told + GROWTH).min(limit).max(LEAST_MTU))
        }
        (V4_UNREACHABLE, 9 | 10 | 13 | 15) => (V6_UNREACHABLE, 1, 0),
        (V4_UNREACHABLE, 0..=1 | 5..=8 | 11 | 12) => (V6_UNREACHABLE, 0, 0),
        (V4_TIME_EXCEEDED, code) => (V6_TIME_EXCEEDED, code, 0),
        (V4_PARAMETER, 0 | 2) => (V6_PARAMETER, 0, pointer_in_v6(rest >> 24)?),
        _ => return None,
    };
    Some(Message { kind, code, rest })
}

/// An ICMPv6 error as ICMP says it: `None` where it doesn't. `limit` is the longest packet of IPv4
/// that the way takes as far as it is known, in bytes.
#[inline(always)]
pub fn to_v4(message: Message, limit: u32) -> Option<Message> {
    let Message { kind, code, rest } = message;
    let (kind, code, rest) = match (kind, code) {
        (V6_UNREACHABLE, 1) => (V4_UNREACHABLE, 10, 0),
        (V6_UNREACHABLE, 4) => (V4_UNREACHABLE, 3, 0),
        (V6_UNREACHABLE, 0 | 2 | 3) => (V4_UNREACHABLE, 1, 0),
        (V6_TOO_BIG, _) => {
            let told = rest.saturating_sub(GROWTH).min(limit).min(0xffff);
            (V4_UNREACHABLE, 4, told)
        }
        (V6_TIME_EXCEEDED, code) => (V4_TIME_EXCEEDED, code, 0),
        (V6_PARAMETER, 0) => (V4_PARAMETER, 0, pointer_in_v4(rest)? << 24),
        (V6_PARAMETER, 1) => (V4_UNREACHABLE, 2, 0),
        _ => return None,
    };
    Some(Message { kind, code, rest })
}

/// Where IPv6 has the field at that byte of an IPv4 header (RFC 7915 figure 3).
#[inline(always)]
const fn pointer_in_v6(pointer: u32) -> Option<u32> {
    Some(match pointer {
        0 | 1 => pointer,
        2 | 3 => 4,
        8 => 7,
        9 => 6,
        12..=15 => 8,
        16..=19 => 24,
        _ => return None,
    })
}

/// Where IPv4 has the field at that byte of an IPv6 header (RFC 7915 figure 6).
#[inline(always)]
const fn pointer_in_v4(pointer: u32) -> Option<u32> {
    Some(match pointer {
        0 | 1 => pointer,
        4 | 5 => 2,
        6 => 9,
        7 => 8,
        8..=23 => 12,
        24..=39 => 16,
        _ => return None,
    })
}

/// The greatest length that links are made for, below that of the packet: for a router that doesn't
/// tell (RFC 1191 section 7).
#[inline(always)]
const fn plateau(len: u32) -> u32 {
    // Below these, IPv6's least counts.
    match len {
        32_001.. => 32_000,
        17_915.. => 17_914,
        8_167.. => 8_166,
        4_353.. => 4_352,
        2_003.. => 2_002,
        1_493.. => 1_492,
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn message(kind: u8, code: u8, rest: u32) -> Message {
        Message { kind, code, rest }
    }

    /// RFC 7915 section 4.2, line by line.
    #[test]
    fn errors_of_v4() {
        let to = |kind, code, rest| to_v6(message(kind, code, rest), 1500, 9000);
        let unreachable = |code| Some(message(1, code, 0));
        for (code, expected) in [
            (0, unreachable(0)),
            (1, unreachable(0)),
            (2, Some(message(4, 1, 6))),
            (3, unreachable(4)),
            (5, unreachable(0)),
            (6, unreachable(0)),
            (7, unreachable(0)),
            (8, unreachable(0)),
            (9, unreachable(1)),
            (10, unreachable(1)),
            (11, unreachable(0)),
            (12, unreachable(0)),
            (13, unreachable(1)),
            (14, None),
            (15, unreachable(1)),
            (16, None),
        ] {
            // A length of RFC 4884 is not carried over.
            assert_eq!(to(3, code, 0x0020_0000), expected, "code {code}");
        }
        for code in [0, 1] {
            assert_eq!(to(11, code, 0), Some(message(3, code, 0)));
        }
        let pointers = [
            (0, Some(0)),
            (1, Some(1)),
            (2, Some(4)),
            (3, Some(4)),
            (4, None),
            (5, None),
            (6, None),
            (7, None),
            (8, Some(7)),
            (9, Some(6)),
            (10, None),
            (11, None),
            (12, Some(8)),
            (15, Some(8)),
            (16, Some(24)),
            (19, Some(24)),
            (20, None),
        ];
        for (pointer, expected) in pointers {
            for code in [0, 2] {
                let expected = expected.map(|pointer| message(4, 0, pointer));
                assert_eq!(to(12, code, pointer << 24), expected, "pointer {pointer}");
            }
        }
        for (kind, code) in [(12, 1), (12, 3), (0, 0), (4, 0), (5, 1), (8, 0)] {
            assert_eq!(to(kind, code, 0), None, "{kind} {code}");
        }
    }

    /// RFC 7915 section 5.2, line by line.
    #[test]
    fn errors_of_v6() {
        let to = |kind, code, rest| to_v4(message(kind, code, rest), 1500);
        for (code, expected) in
            [(0, Some(1)), (1, Some(10)), (2, Some(1)), (3, Some(1)), (4, Some(3)), (5, None)]
        {
            let expected = expected.map(|code| message(3, code, 0));
            assert_eq!(to(1, code, 0), expected, "code {code}");
        }
        for code in [0, 1] {
            assert_eq!(to(3, code, 0), Some(message(11, code, 0)));
        }
        let pointers = [
            (0, Some(0)),
            (1, Some(1)),
            (2, None),
            (3, None),
            (4, Some(2)),
            (5, Some(2)),
            (6, Some(9)),
            (7, Some(8)),
            (8, Some(12)),
            (23, Some(12)),
            (24, Some(16)),
            (39, Some(16)),
            (40, None),
        ];
        for (pointer, expected) in pointers {
            let expected = expected.map(|pointer| message(12, 0, pointer << 24));
            assert_eq!(to(4, 0, pointer), expected, "pointer {pointer}");
        }
        assert_eq!(to(4, 1, 40), Some(message(3, 2, 0)));
        for (kind, code) in [(4, 2), (128, 0), (5, 0)] {
            assert_eq!(to(kind, code, 0), None, "{kind} {code}");
        }
    }

    #[test]
    fn lengths_are_those_of_the_told() {
        let v6 = |told, quoted_len, limit| {
            to_v6(message(3, 4, told), quoted_len, limit).map(|message| message.rest)
        };
        assert_eq!(v6(1400, 1480, 9000), Some(1420));
        assert_eq!(v6(1400, 1480, 1410), Some(1410));
        assert_eq!(v6(576, 1480, 1500), Some(1280));
        // Who doesn't tell is taken for the next smaller kind of link.
        assert_eq!(v6(0, 1500, 9000), Some(1512));
        assert_eq!(v6(0, 1492, 9000), Some(1280));
        assert_eq!(v6(0, 8166, 9000), Some(4372));
        let v4 = |told, limit| to_v4(message(2, 0, told), limit).map(|message| message.rest);
        assert_eq!(v4(1420, 1500), Some(1400));
        assert_eq!(v4(1420, 1300), Some(1300));
        assert_eq!(v4(u32::MAX, u32::MAX), Some(0xffff));
        assert_eq!(v4(3, 1500), Some(0));
    }
}
