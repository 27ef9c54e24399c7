//! A bounds-checked cursor over one frame: the only code that touches packet memory.

use core::marker::PhantomData;

use crate::{checksum::fold_words, verdict::DropReason};

/// Where a frame lies: the kernel's buffer behind an XDP context, or a test's.
///
/// # Safety
/// Every byte from [`start`](Buffer::start) up to [`end`](Buffer::end) may be read and written
/// for as long as the buffer lives and isn't grown, and nothing else touches it meanwhile.
pub unsafe trait Buffer {
    /// Address of the frame's first byte.
    fn start(&self) -> usize;

    /// Address behind the frame's last byte.
    fn end(&self) -> usize;

    /// Length in bytes of the whole frame, with what lies beyond [`end`](Buffer::end) in other
    /// pieces of memory (large frames).
    fn whole_len(&self) -> usize;

    /// Index of the interface that the frame came in by.
    fn ingress_ifindex(&self) -> u32;

    /// Puts `bytes` (negative: takes away) in front of the frame. All addresses are void after
    /// it. `false`, and nothing changed, where there is no room.
    #[must_use]
    fn grow_front(&mut self, bytes: i32) -> bool;

    /// Takes away all behind that many bytes. All addresses are void after it. `false`, and nothing
    /// changed, where it isn't longer or that can't be done.
    #[must_use]
    fn cut(&mut self, len: usize) -> bool;
}

/// Types that may be read from and written to any bytes.
///
/// # Safety
/// Integers and arrays of them, without padding.
pub unsafe trait Wire: Copy {}

// SAFETY: arrays of bytes have neither padding nor invalid values.
unsafe impl<const N: usize> Wire for [u8; N] {}
// SAFETY: every bit pattern is an integer.
unsafe impl Wire for u8 {}
// SAFETY: every bit pattern is an integer.
unsafe impl Wire for u16 {}
// SAFETY: every bit pattern is an integer.
unsafe impl Wire for u32 {}
// SAFETY: `repr(C)`, byte arrays and one `u16` at an even offset: 14 bytes, no padding.
unsafe impl Wire for network_types::eth::EthHdr {}
// SAFETY: `repr(C)`, byte arrays only.
unsafe impl Wire for network_types::ip::Ipv4Hdr {}
// SAFETY: `repr(C)`, byte arrays only.
unsafe impl Wire for network_types::ip::Ipv6Hdr {}
// SAFETY: `repr(C)`, byte arrays only.
unsafe impl Wire for network_types::udp::UdpHdr {}

/// Copies a value word by word.
///
/// Left to itself, the compiler calls a function that copies byte by byte, where it can't tell
/// whether source and destination overlap: a map's value and a frame.
///
/// # Safety
/// As many bytes as the value has may be written at `to`.
#[inline(always)]
unsafe fn store<T: Wire>(value: &T, to: *mut u8) {
    const { assert!(size_of::<T>() < 104) };
    let from = (&raw const *value).cast::<u8>();
    let len = size_of::<T>();
    // Not a loop, of which the compiler would make that call again.
    macro_rules! words {
        ($($at:literal)*) => {$(
            if len >= $at + 8 {
                // SAFETY: inside the value, and so many bytes may be written.
                unsafe { word::<u64>(from, to, $at) };
            }
        )*};
    }
    words!(0 8 16 24 32 40 48 56 64 72 80 88);
    // SAFETY: as above: each goes on where the larger ones end.
    unsafe {
        if len & 4 != 0 {
            word::<u32>(from, to, len & !7);
        }
        if len & 2 != 0 {
            word::<u16>(from, to, len & !3);
        }
        if len & 1 != 0 {
            word::<u8>(from, to, len & !1);
        }
    }
}

/// The sum over so many 32-bit words.
///
/// # Safety
/// They may be read.
#[inline(always)]
unsafe fn words_sum<const WORDS: usize>(at: usize) -> u64 {
    let mut sum = 0;
    let mut index = 0;
    while index < WORDS {
        // SAFETY: the caller says so.
        sum += u64::from(unsafe { ((at + 4 * index) as *const u32).read_unaligned() });
        index += 1;
    }
    sum
}

/// Copies one word.
///
/// # Safety
/// There is one at `at` bytes from either address.
#[inline(always)]
unsafe fn word<W: Copy>(from: *const u8, to: *mut u8, at: usize) {
    // SAFETY: the caller says so.
    unsafe { to.add(at).cast::<W>().write_unaligned(from.add(at).cast::<W>().read_unaligned()) };
}

/// What [`sum_between`] gives where it finds too little.
const NO_SUM: u32 = u32::MAX;

/// [`Packet::sum_of`]. Both addresses are those of a buffer.
///
/// Not inlined: the verifier forgets by which turn of the loop it came back.
#[inline(never)]
fn sum_between<const MOST: usize>(start: usize, end: usize, len: u32) -> u32 {
    const CHUNK: usize = 32;
    let len = len as usize;
    if len > MOST {
        return NO_SUM;
    }
    let mut sum = 0;
    let mut at = start;
    let mut chunks = 0;
    while chunks < len / CHUNK && chunks < MOST / CHUNK {
        // Else the compiler reckons with the end how often, and the verifier has that pointer left
        // alone.
        at = core::hint::black_box(at);
        if at + CHUNK > end {
            return NO_SUM;
        }
        // SAFETY: the bytes are inside the frame, checked above.
        sum += unsafe { words_sum::<{ CHUNK / 4 }>(at) };
        at += CHUNK;
        chunks += 1;
    }
    // Not where the loop ended: that is another pointer for the verifier after each turn.
    let mut at = core::hint::black_box(start + len / CHUNK * CHUNK);
    macro_rules! piece {
        ($len:literal, $sum:expr) => {
            if len & $len != 0 {
                if at + $len > end {
                    return NO_SUM;
                }
                // SAFETY: the bytes are inside the frame, checked above.
                sum += unsafe { $sum(at) };
                at += $len;
            }
        };
    }
    piece!(16, words_sum::<4>);
    piece!(8, words_sum::<2>);
    piece!(4, words_sum::<1>);
    piece!(2, |at| u64::from((at as *const u16).read_unaligned()));
    if len & 1 != 0 {
        if at + 1 > end {
            return NO_SUM;
        }
        // SAFETY: the byte is inside the frame, checked above.
        let byte = unsafe { (at as *const u8).read() };
        sum += u64::from(u16::from_ne_bytes([byte, 0]));
    }
    fold_words(sum).into()
}

/// One frame, of which the first piece of memory, with all headers, can be read and written.
///
/// Not `Copy`: growing consumes it, so that no stale header is ever read.
#[derive(Debug)]
pub struct Packet<B> {
    buffer: B,
    start: usize,
    end: usize,
}

impl<B: Buffer> Packet<B> {
    /// A cursor over what the buffer holds now.
    #[inline(always)]
    pub fn new(buffer: B) -> Self {
        let (start, end) = (buffer.start(), buffer.end());
        Self { buffer, start, end }
    }

    /// Whether the frame has `length` bytes from `offset` on, readable or not.
    #[inline(always)]
    pub fn has(&self, offset: usize, length: usize) -> bool {
        // What isn't in the first piece is rare, and costs a call to find out.
        self.holds(offset, length) || offset + length <= self.buffer.whole_len()
    }

    /// Whether `length` bytes from `offset` on can be read.
    #[inline(always)]
    fn holds(&self, offset: usize, length: usize) -> bool {
        self.start + offset + length <= self.end
    }

    /// Index of the interface that the frame came in by.
    #[inline(always)]
    pub fn ingress_ifindex(&self) -> u32 {
        self.buffer.ingress_ifindex()
    }

    /// The value at `offset` bytes, or `None` past the end of what can be read.
    #[inline(always)]
    pub fn read<T: Wire>(&self, offset: usize) -> Option<T> {
        if !self.holds(offset, size_of::<T>()) {
            return None;
        }
        // SAFETY: the bytes are inside the frame, checked above; `Wire` takes any bytes.
        Some(unsafe { ((self.start + offset) as *const T).read_unaligned() })
    }

    /// The sum over so many 32-bit words from `offset` bytes on, as they lie in memory, or `None`
    /// past the end of what can be read.
    #[inline(always)]
    pub fn sum<const WORDS: usize>(&self, offset: usize) -> Option<u64> {
        if !self.holds(offset, WORDS * size_of::<u32>()) {
            return None;
        }
        // SAFETY: the bytes are inside the frame, checked above.
        Some(unsafe { words_sum::<WORDS>(self.start + offset) })
    }

    /// The folded sum over the first `len` bytes, by 16-bit big-endian words, an odd byte with a zero
    /// behind it; `None` past the end of what can be read, or for more than `MOST`, which is less than
    /// 2¹⁶.
    #[inline(always)]
    pub fn sum_of<const MOST: usize>(&self, len: usize) -> Option<u16> {
        let sum = sum_between::<MOST>(self.start, self.end, len as u32);
        (sum != NO_SUM).then_some(sum as u16)
    }

    /// Writes a value at `offset` bytes.
    ///
    /// # Errors
    /// [`DropReason::Truncated`] past the end of what can be written; nothing is, then.
    #[inline(always)]
    pub fn write<T: Wire>(&mut self, offset: usize, value: T) -> Result<(), DropReason> {
        if !self.holds(offset, size_of::<T>()) {
            return Err(DropReason::Truncated);
        }
        // SAFETY: the bytes are inside the frame, checked above; `Wire` has no padding.
        unsafe { store(&value, (self.start + offset) as *mut u8) };
        Ok(())
    }

    /// The same frame, with offsets from `offset` on.
    ///
    /// For what lies behind headers of variable length: the verifier knows what was compared with
    /// the frame's end by the one pointer that was, and the compiler, which knows the sum, would
    /// make others of it. It doesn't know what comes out here.
    #[inline(always)]
    pub fn behind(&mut self, offset: usize) -> Packet<Behind<'_>> {
        let start = core::hint::black_box(self.start + offset);
        let buffer = Behind { start, end: self.end, frame: PhantomData };
        Packet { buffer, start, end: self.end }
    }

    /// The frame with `bytes` more in front, of which the content is not defined; fewer, where
    /// negative.
    ///
    /// # Errors
    /// [`DropReason::NoHeadroom`]: the frame is as it was.
    #[inline(always)]
    pub fn grow_front(mut self, bytes: i32) -> Result<Self, DropReason> {
        if self.buffer.grow_front(bytes) {
            Ok(Self::new(self.buffer))
        } else {
            Err(DropReason::NoHeadroom)
        }
    }

    /// The frame's first `len` bytes.
    ///
    /// # Errors
    /// [`DropReason::Truncated`]: the frame is as it was.
    #[inline(always)]
    pub fn cut(mut self, len: usize) -> Result<Self, DropReason> {
        if self.buffer.cut(len) { Ok(Self::new(self.buffer)) } else { Err(DropReason::Truncated) }
    }
}

/// A part of a frame, up to its end.
#[derive(Debug)]
pub struct Behind<'p> {
    start: usize,
    end: usize,
    frame: PhantomData<&'p mut u8>,
}

// SAFETY: what holds of the whole frame, which is borrowed for as long, holds of a part.
unsafe impl Buffer for Behind<'_> {
    #[inline(always)]
    fn start(&self) -> usize {
        self.start
    }

    #[inline(always)]
    fn end(&self) -> usize {
        self.end
    }

    #[inline(always)]
    fn whole_len(&self) -> usize {
        self.end.saturating_sub(self.start)
    }

    /// Not known here.
    #[inline(always)]
    fn ingress_ifindex(&self) -> u32 {
        0
    }

    #[inline(always)]
    fn grow_front(&mut self, _: i32) -> bool {
        false
    }

    #[inline(always)]
    fn cut(&mut self, _: usize) -> bool {
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tables::MemoryBuffer;

    fn written<const LEN: usize>() {
        let value: [u8; LEN] = core::array::from_fn(|at| at as u8 + 1);
        let mut buffer = MemoryBuffer::new(&[0; 128], 0, 1);
        Packet::new(&mut buffer).write(1, value).unwrap();
        let bytes = buffer.frame();
        assert_eq!(bytes[1..=LEN], value);
        assert!(bytes[0] == 0 && bytes[LEN + 1..].iter().all(|byte| *byte == 0), "{LEN}");
    }

    #[test]
    fn sums_are_those_of_whole_words_and_what_is_left() {
        let bytes: Vec<u8> = (0..300u32).map(|at| ((at * 151) >> 3) as u8 | 0x80).collect();
        let mut buffer = MemoryBuffer::new(&bytes, 0, 1);
        let packet = Packet::new(&mut buffer);
        for len in 0..=300 {
            let sum = packet.sum_of::<300>(len);
            let mut even = bytes[..len].to_vec();
            even.resize(len.next_multiple_of(2), 0);
            assert_eq!(sum, Some(crate::checksum::sum(&even)), "{len}");
        }
        assert_eq!((packet.sum_of::<299>(300), packet.sum_of::<500>(301)), (None, None));
    }

    #[test]
    fn values_of_every_length_are_written_whole() {
        written::<1>();
        written::<2>();
        written::<3>();
        written::<7>();
        written::<8>();
        written::<12>();
        written::<20>();
        written::<52>();
        written::<103>();
    }
}
