//! Captures in the classic pcap format, Ethernet frames.

use std::fs::File;
use std::io::{BufReader, BufWriter, Write};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use pcap_file::pcap::{PcapPacket, PcapReader, PcapWriter};

/// Writes frames, a microsecond apart.
///
/// # Errors
/// The file can't be written.
pub fn write(path: &Path, frames: &[Vec<u8>]) -> Result<()> {
    let what = || format!("write {}", path.display());
    let file = BufWriter::new(File::create(path).with_context(what)?);
    let mut writer = PcapWriter::new(file).with_context(what)?;
    for (number, frame) in (0..).zip(frames) {
        let length = u32::try_from(frame.len()).context("a frame longer than 4 GiB")?;
        let packet = PcapPacket::new(Duration::from_micros(number), length, frame);
        writer.write_packet(&packet).with_context(what)?;
    }
    writer.into_writer().flush().with_context(what)
}

/// Reads all frames of a capture.
///
/// # Errors
/// The file can't be read or isn't a capture.
pub fn read(path: &Path) -> Result<Vec<Vec<u8>>> {
    let what = || format!("read {}", path.display());
    let file = BufReader::new(File::open(path).with_context(what)?);
    let mut reader = PcapReader::new(file).with_context(what)?;
    let mut frames = Vec::new();
    while let Some(packet) = reader.next_packet() {
        frames.push(packet.with_context(what)?.data.into_owned());
    }
    Ok(frames)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_survive_a_round_trip() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a.pcap");
        let frames = vec![vec![], vec![1], vec![7; 9000]];
        write(&path, &frames).unwrap();
        assert_eq!(read(&path).unwrap(), frames);
        assert!(read(&directory.path().join("none")).is_err());
    }
}
