//! Capture files: pcap and pcapng in, pcap out.
//!
//! Records are taken as they lie in the file. What is odd in them (a frame that is longer than the
//! file's header promises, a fraction above a second) is no reason not to run the frame.

use std::{
    borrow::Cow,
    fs::{self, File},
    io::{BufReader, BufWriter, Read, Write as _},
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, bail};
use pcap_file::{
    DataLink, PcapError, TsResolution,
    pcap::{PcapHeader, PcapPacket, PcapReader, PcapWriter, RawPcapPacket},
    pcapng::PcapNgReader,
};

use super::{in_file, pcapng};

/// The first four bytes of a pcapng file.
const PCAPNG_MAGIC: [u8; 4] = [0x0a, 0x0d, 0x0d, 0x0a];
/// The longest frame that is written.
const MAX_FRAME: u32 = 1 << 18;
/// The last moment that a pcap file can tell.
const LAST_MOMENT: Duration = Duration::new(u32::MAX as u64, 999_999_999);

/// A frame of a capture.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Frame {
    /// Since the epoch.
    pub(super) at: Duration,
    /// As captured.
    pub(super) bytes: Vec<u8>,
    /// Bytes behind them that were not captured.
    pub(super) cut: u32,
}

/// A capture that is read.
pub(super) struct Reader {
    path: PathBuf,
    format: Format,
    /// Frames so far.
    frames: u64,
}

enum Format {
    Pcap(Box<PcapReader<Input>>),
    PcapNg(Box<PcapNgReader<Input>>),
}

pub(super) type Input = std::io::Chain<std::io::Cursor<Vec<u8>>, BufReader<File>>;

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
        Ok(Self { path: path.to_owned(), format, frames: 0 })
    }

    /// The next frame; `None` at the end.
    ///
    /// # Errors
    /// What follows is none: the file is damaged from there on.
    pub(super) fn next_frame(&mut self) -> anyhow::Result<Option<Frame>> {
        let next = match &mut self.format {
            Format::Pcap(reader) => next_of_pcap(reader).map_err(anyhow::Error::from),
            Format::PcapNg(reader) => pcapng::next_frame(reader),
        };
        let frames = self.frames;
        let next = next
            .with_context(|| format!("{} is damaged behind frame {frames}", in_file(&self.path)));
        self.frames += u64::from(matches!(next, Ok(Some(_))));
        next
    }
}

fn next_of_pcap(reader: &mut PcapReader<Input>) -> Result<Option<Frame>, PcapError> {
    let to_nanoseconds = match reader.header().ts_resolution {
        TsResolution::MicroSecond => 1000,
        TsResolution::NanoSecond => 1,
    };
    let Some(packet) = reader.next_raw_packet() else { return Ok(None) };
    let RawPcapPacket { ts_sec, ts_frac, orig_len, data, .. } = packet?;
    let nanoseconds = ts_frac.saturating_mul(to_nanoseconds).min(999_999_999);
    let cut = orig_len.saturating_sub(data.len() as u32);
    Ok(Some(Frame { at: Duration::new(ts_sec.into(), nanoseconds), bytes: data.into_owned(), cut }))
}

/// Refuses link types other than Ethernet. Bits above the type tell of checksums behind the
/// frames, which no length in a frame counts in.
pub(super) fn check_link(link: DataLink) -> anyhow::Result<()> {
    let link = DataLink::from(u32::from(link) & 0xffff);
    if link != DataLink::ETHERNET {
        bail!("its frames are of link type {link:?}; only Ethernet frames can be replayed");
    }
    Ok(())
}

/// Whether two paths lead to one file.
pub(super) fn are_one(one: &Path, other: &Path) -> bool {
    let identity = |path| fs::metadata(path).map(|file| (file.dev(), file.ino())).ok();
    identity(one).is_some_and(|found| identity(other) == Some(found))
}

/// A capture that is written. It gets its name at the end: what had that before stays until then.
pub(super) struct Writer {
    path: PathBuf,
    writer: PcapWriter<BufWriter<File>>,
    draft: Option<Draft>,
}

/// A file that goes unless it gets its name.
struct Draft {
    path: PathBuf,
    becomes: PathBuf,
}

impl Drop for Draft {
    fn drop(&mut self) {
        // After the renaming it isn't there any more.
        let _ = fs::remove_file(&self.path);
    }
}

impl Writer {
    /// Begins a file.
    pub(super) fn create(path: &Path) -> anyhow::Result<Self> {
        let create = || -> anyhow::Result<_> {
            let header = PcapHeader {
                datalink: DataLink::ETHERNET,
                snaplen: MAX_FRAME,
                ts_resolution: TsResolution::NanoSecond,
                ..PcapHeader::default()
            };
            let (draft, file) = match fs::metadata(path) {
                // A pipe or a device is written to as it is.
                Ok(there) if !there.is_file() => (None, File::create(path)?),
                there => {
                    let becomes = path.canonicalize().unwrap_or_else(|_| path.to_owned());
                    let mut name = becomes.clone().into_os_string();
                    name.push(format!(".{}", std::process::id()));
                    let file = File::create(&name)?;
                    if let Ok(there) = there {
                        file.set_permissions(there.permissions())?;
                    }
                    (Some(Draft { path: name.into(), becomes }), file)
                }
            };
            Ok((draft, PcapWriter::with_header(BufWriter::new(file), header)?))
        };
        let created = create().with_context(|| format!("can't write {}", in_file(path)));
        created.map(|(draft, writer)| Self { path: path.to_owned(), writer, draft })
    }

    /// Adds a frame.
    pub(super) fn write(&mut self, at: Duration, bytes: &[u8], cut: u32) -> anyhow::Result<()> {
        let packet = PcapPacket {
            timestamp: at.min(LAST_MOMENT),
            orig_len: (bytes.len() as u32).saturating_add(cut),
            data: Cow::Borrowed(bytes),
        };
        self.writer
            .write_packet(&packet)
            .with_context(|| format!("can't write {}", in_file(&self.path)))?;
        Ok(())
    }

    /// Writes what is still held, and gives the file its name.
    pub(super) fn finish(self) -> anyhow::Result<()> {
        let Self { path, writer, draft } = self;
        let finish = || {
            writer.into_writer().flush()?;
            draft.map_or(Ok(()), |draft| fs::rename(&draft.path, &draft.becomes))
        };
        finish().with_context(|| format!("can't write {}", in_file(&path)))
    }
}

#[cfg(test)]
mod tests;
