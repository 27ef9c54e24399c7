//! What a backend said, short and harmless: for reasons that people read.

use std::fmt::Write as _;

/// Most characters that are shown.
const CHARACTERS: usize = 80;

/// The beginning of `bytes` in quotes, with everything escaped that isn't plainly visible.
pub(super) fn excerpt(bytes: &[u8]) -> String {
    // A character has at most four bytes.
    let text = String::from_utf8_lossy(&bytes[..bytes.len().min(4 * (CHARACTERS + 1))]);
    let mut out = String::from("\"");
    for (index, character) in text.chars().enumerate() {
        if index == CHARACTERS {
            out.push_str("\"…");
            return out;
        }
        // Writing into a String can't fail.
        let _ = match character {
            '\u{fffd}' => write!(out, "\u{fffd}"),
            other => write!(out, "{}", other.escape_debug()),
        };
    }
    out.push('"');
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_reaches_a_terminal_that_it_obeys() {
        assert_eq!(excerpt(b"+PONG\r\n"), r#""+PONG\r\n""#);
        assert_eq!(excerpt(b"\x1b[2J\0\xff"), "\"\\u{1b}[2J\\0\u{fffd}\"");
        assert_eq!(excerpt("grüß".as_bytes()), "\"grüß\"");
        assert_eq!(excerpt(b""), "\"\"");
        let long = excerpt(&[b'a'; 100_000]);
        assert_eq!(long.chars().count(), CHARACTERS + 3);
    }
}
