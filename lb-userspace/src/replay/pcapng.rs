//! Frames in pcapng files (draft-ietf-opsawg-pcapng), by their three kinds of blocks.

use std::time::Duration;

use anyhow::Context as _;
use pcap_file::{
    Endianness,
    pcapng::{PcapNgReader, blocks::interface_description::InterfaceDescriptionOption},
};

use super::capture::{Frame, Input, check_link};

/// Types of blocks that hold a frame.
const PACKET: u32 = 2;
const SIMPLE_PACKET: u32 = 3;
const ENHANCED_PACKET: u32 = 6;

/// The next frame; `None` at the end.
pub(super) fn next_frame(reader: &mut PcapNgReader<Input>) -> anyhow::Result<Option<Frame>> {
    loop {
        let Some(block) = reader.next_raw_block() else { return Ok(None) };
        let block = block?;
        let (kind, body) = (block.type_, block.body.into_owned());
        if ![PACKET, SIMPLE_PACKET, ENHANCED_PACKET].contains(&kind) {
            continue;
        }
        let fields = Fields { body: &body, endianness: reader.section().endianness };
        let frame = match kind {
            SIMPLE_PACKET => fields.simple(reader),
            _ => fields.packet(kind, reader),
        };
        return frame.map(Some);
    }
}

/// The 32-bit fields at the head of a block.
struct Fields<'a> {
    body: &'a [u8],
    endianness: Endianness,
}

impl Fields<'_> {
    fn bytes(&self, at: usize, len: usize) -> anyhow::Result<&[u8]> {
        let end = at.checked_add(len).filter(|end| *end <= self.body.len());
        Ok(&self.body[at..end.context("a packet is longer than its block")?])
    }

    fn word(&self, at: usize) -> anyhow::Result<u32> {
        let bytes = self.bytes(at, 4)?.try_into().context("four bytes")?;
        Ok(match self.endianness {
            Endianness::Big => u32::from_be_bytes(bytes),
            Endianness::Little => u32::from_le_bytes(bytes),
        })
    }

    /// An enhanced packet, or the obsolete packet, which has half of the word for the interface.
    fn packet(&self, kind: u32, reader: &PcapNgReader<Input>) -> anyhow::Result<Frame> {
        let mut interface = self.word(0)?;
        if kind == PACKET {
            interface = match self.endianness {
                Endianness::Big => interface >> 16,
                Endianness::Little => interface & 0xffff,
            };
        }
        let ticks = u64::from(self.word(4)?) << 32 | u64::from(self.word(8)?);
        let (captured, original) = (self.word(12)?, self.word(16)?);
        Ok(Frame {
            at: moment(ticks, resolution(reader, interface)?),
            bytes: self.bytes(20, captured as usize)?.to_vec(),
            cut: original.saturating_sub(captured),
        })
    }

    /// A simple packet: of the first interface, at no time.
    fn simple(&self, reader: &PcapNgReader<Input>) -> anyhow::Result<Frame> {
        resolution(reader, 0)?;
        let original = self.word(0)?;
        let limit = match reader.interfaces().first().map_or(0, |interface| interface.snaplen) {
            0 => u32::MAX,
            limit => limit,
        };
        let captured = original.min(limit).min((self.body.len() - 4) as u32);
        Ok(Frame {
            at: Duration::ZERO,
            bytes: self.bytes(4, captured as usize)?.to_vec(),
            cut: original - captured,
        })
    }
}

/// The option `if_tsresol` of an interface of Ethernet frames.
fn resolution(reader: &PcapNgReader<Input>, interface: u32) -> anyhow::Result<u8> {
    let interface = reader.interfaces().get(interface as usize);
    let interface = interface.context("a packet is of an interface that was not described")?;
    check_link(interface.linktype)?;
    let resolution = interface.options.iter().find_map(|option| match option {
        InterfaceDescriptionOption::IfTsResol(resolution) => Some(*resolution),
        _ => None,
    });
    // Microseconds.
    Ok(resolution.unwrap_or(6))
}

/// So many ticks, each a negative power of ten of a second, or of two with the highest bit.
fn moment(ticks: u64, resolution: u8) -> Duration {
    let exponent = u32::from(resolution & 0x7f);
    let base: u128 = if resolution & 0x80 == 0 { 10 } else { 2 };
    // So fine that all of 64 bits are less than a nanosecond.
    let Some(second) = base.checked_pow(exponent) else { return Duration::ZERO };
    let ticks = u128::from(ticks);
    let fraction = (ticks % second).checked_mul(1_000_000_000).map_or(0, |part| part / second);
    let seconds = u64::try_from(ticks / second).unwrap_or(u64::MAX);
    Duration::new(seconds, u32::try_from(fraction).unwrap_or(999_999_999))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_what_the_interface_says() {
        let at = Duration::new(1_700_000_000, 123_456_789);
        assert_eq!(moment(1_700_000_000_123_456_789, 9), at);
        assert_eq!(moment(1_700_000_000_123_456, 6), Duration::new(1_700_000_000, 123_456_000));
        assert_eq!(moment(3 << 20 | 1 << 19, 0x80 | 20), Duration::from_millis(3500));
        assert_eq!(moment(7, 0), Duration::from_secs(7));
        assert_eq!(moment(u64::MAX, 0), Duration::from_secs(u64::MAX));
        for resolution in 0..=u8::MAX {
            moment(u64::MAX, resolution);
        }
    }
}
