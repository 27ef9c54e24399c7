//! Capture files: pcap and pcapng in, pcap out.

use std::{
    borrow::Cow,
    fs::File,
    io::{BufReader, BufWriter, Read, Write as _},
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, bail};
use pcap_file::{
    DataLink, TsResolution,
    pcap::{PcapHeader, PcapPacket, PcapReader, PcapWriter},
    pcapng::{Block, PcapNgReader},
};

use super::in_file;

/// The first four bytes of a pcapng file.
const PCAPNG_MAGIC: [u8; 4] = [0x0a, 0x0d, 0x0d, 0x0a];
/// The longest frame that is written.
const MAX_FRAME: u32 = 1 << 18;

/// A frame of a capture.
#[derive(Debug)]
pub(super) struct Frame {
    /// Since the epoch.
    pub(super) at: Duration,
    /// As captured.
    pub(super) bytes: Vec<u8>,
}

/// A capture that is read.
pub(super) struct Reader {
    path: PathBuf,
    format: Format,
}

enum Format {
    Pcap(Box<PcapReader<Input>>),
    PcapNg(Box<PcapNgReader<Input>>),
}

type Input = std::io::Chain<std::io::Cursor<Vec<u8>>, BufReader<File>>;

impl Reader {
    /// Opens a capture of Ethernet frames, of either format.
    pub(super) fn open(path: &Path) -> anyhow::Result<Self> {
        let open = || -> anyhow::Result<Format> {
            let mut file = BufReader::new(File::open(path)?);
            let mut magic = Vec::new();
            file.by_ref().take(4).read_to_end(&mut magic)?;
            let is_pcapng = magic == PCAPNG_MAGIC;
            let input = std::io::Cursor::new(magic).chain(file);
            if is_pcapng {
                return Ok(Format::PcapNg(Box::new(PcapNgReader::new(input)?)));
            }
            let reader = PcapReader::new(input)
                .context("it is neither pcap nor pcapng; tcpdump -w and wireshark write both")?;
            check_link(reader.header().datalink)?;
            Ok(Format::Pcap(Box::new(reader)))
        };
        let format = open().with_context(|| format!("can't read {}", in_file(path)))?;
        Ok(Self { path: path.to_owned(), format })
    }

    /// The next frame; `None` at the end.
    pub(super) fn next_frame(&mut self) -> anyhow::Result<Option<Frame>> {
        let next = match &mut self.format {
            Format::Pcap(reader) => match reader.next_packet() {
                None => Ok(None),
                Some(Ok(packet)) => {
                    Ok(Some(Frame { at: packet.timestamp, bytes: packet.data.into_owned() }))
                }
                Some(Err(error)) => Err(error.into()),
            },
            Format::PcapNg(reader) => next_of_pcapng(reader),
        };
        next.with_context(|| format!("{} is damaged", in_file(&self.path)))
    }
}

fn next_of_pcapng(reader: &mut PcapNgReader<Input>) -> anyhow::Result<Option<Frame>> {
    loop {
        let Some(block) = reader.next_block() else { return Ok(None) };
        match block? {
            Block::InterfaceDescription(interface) => check_link(interface.linktype)?,
            Block::EnhancedPacket(packet) => {
                return Ok(Some(Frame { at: packet.timestamp, bytes: packet.data.into_owned() }));
            }
            Block::SimplePacket(packet) => {
                return Ok(Some(Frame { at: Duration::ZERO, bytes: packet.data.into_owned() }));
            }
            _ => {}
        }
    }
}

fn check_link(link: DataLink) -> anyhow::Result<()> {
    if link != DataLink::ETHERNET {
        bail!("its frames are of link type {link:?}; only Ethernet frames can be replayed");
    }
    Ok(())
}

/// A capture that is written.
pub(super) struct Writer {
    path: PathBuf,
    writer: PcapWriter<BufWriter<File>>,
}

impl Writer {
    /// Makes the file, or empties it.
    pub(super) fn create(path: &Path) -> anyhow::Result<Self> {
        let create = || -> anyhow::Result<_> {
            let header = PcapHeader {
                datalink: DataLink::ETHERNET,
                snaplen: MAX_FRAME,
                ts_resolution: TsResolution::NanoSecond,
                ..PcapHeader::default()
            };
            Ok(PcapWriter::with_header(BufWriter::new(File::create(path)?), header)?)
        };
        let writer = create().with_context(|| format!("can't write {}", in_file(path)))?;
        Ok(Self { path: path.to_owned(), writer })
    }

    /// Adds a frame.
    pub(super) fn write(&mut self, at: Duration, bytes: &[u8]) -> anyhow::Result<()> {
        let packet =
            PcapPacket { timestamp: at, orig_len: bytes.len() as u32, data: Cow::Borrowed(bytes) };
        self.writer
            .write_packet(&packet)
            .with_context(|| format!("can't write {}", in_file(&self.path)))?;
        Ok(())
    }

    /// Writes what is still held.
    pub(super) fn finish(self) -> anyhow::Result<()> {
        let mut file = self.writer.into_writer();
        file.flush().with_context(|| format!("can't write {}", in_file(&self.path)))
    }
}
