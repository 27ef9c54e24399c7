//! Captures as other programs write them, and as no program should.

use super::*;

const FRAME: [u8; 16] = [7; 16];

/// The words of a pcap file's header, and those of a record.
fn pcap(snaplen: u32, link: u32, records: &[([u32; 4], &[u8])]) -> Vec<u8> {
    let mut file = Vec::new();
    for word in [0xa1b2_c3d4, 0x0004_0002, 0, 0, snaplen, link] {
        file.extend(u32::to_le_bytes(word));
    }
    for (words, data) in records {
        words.iter().for_each(|word| file.extend(word.to_le_bytes()));
        file.extend(*data);
    }
    file
}

/// A record of a frame.
fn record(bytes: &[u8]) -> ([u32; 4], &[u8]) {
    ([1, 2, bytes.len() as u32, bytes.len() as u32], bytes)
}

/// Frames, and the error at the end.
fn read(content: &[u8]) -> (Vec<Frame>, Option<String>) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("a.pcap");
    fs::write(&path, content).unwrap();
    let mut reader = match Reader::open(&path) {
        Ok(reader) => reader,
        Err(error) => return (Vec::new(), Some(format!("{error:#}"))),
    };
    let mut frames = Vec::new();
    loop {
        match reader.next_frame() {
            Ok(Some(frame)) => frames.push(frame),
            Ok(None) => return (frames, None),
            Err(error) => return (frames, Some(format!("{error:#}"))),
        }
    }
}

#[track_caller]
fn all(content: &[u8]) -> Vec<Frame> {
    match read(content) {
        (frames, None) => frames,
        (_, Some(error)) => panic!("{error}"),
    }
}

#[test]
fn ordinary_captures_are_read() {
    // Cut at a snapshot length, with none, and above it.
    let cut = ([1, 2, 16, 1500], &FRAME[..]);
    for snaplen in [16, 0, 10, 65_535, u32::MAX] {
        let frames = all(&pcap(snaplen, 1, &[cut, record(&FRAME)]));
        assert_eq!(frames[0].bytes, FRAME);
        assert_eq!((frames[0].cut, frames[1].cut), (1484, 0));
        assert_eq!(frames[0].at, Duration::new(1, 2000));
    }
    // More in the file than there was on the wire.
    let frames = all(&pcap(65_535, 1, &[([1, 2, 16, 4], &FRAME)]));
    assert_eq!((frames[0].bytes.len(), frames[0].cut), (16, 0));
    // Four bytes of checksum behind each frame.
    assert_eq!(all(&pcap(65_535, 0x4400_0001, &[record(&FRAME)])).len(), 1);
    // A fraction of more than a second.
    let frames = all(&pcap(65_535, 1, &[([u32::MAX, u32::MAX, 16, 16], &FRAME)]));
    assert_eq!(frames[0].at, LAST_MOMENT);
    assert!(all(&pcap(65_535, 1, &[])).is_empty());
}

#[test]
fn what_is_no_capture_of_ethernet_is_refused() {
    for (content, words) in [
        (Vec::new(), "neither pcap nor pcapng"),
        (b"interfaces = [\"eth0\"]\n# and more than 24 bytes".to_vec(), "neither pcap nor pcapng"),
        (PCAPNG_MAGIC.to_vec(), "can't read"),
        (pcap(65_535, 113, &[record(&FRAME)]), "only Ethernet"),
    ] {
        let (frames, error) = read(&content);
        assert!(frames.is_empty());
        let error = error.unwrap();
        assert!(error.contains(words), "{error}");
    }
}

#[test]
fn what_stands_before_a_damage_is_read() {
    let good = pcap(65_535, 1, &[record(&FRAME), record(&FRAME)]);
    for end in [good.len() - 1, good.len() - 16, good.len() - 31] {
        let (frames, error) = read(&good[..end]);
        assert_eq!(frames.len(), 1);
        let error = error.unwrap();
        assert!(error.contains("damaged behind frame 1"), "{error}");
    }
    let (frames, error) = read(&pcap(0, 1, &[record(&FRAME), ([1, 2, u32::MAX, 4], &FRAME)]));
    assert_eq!((frames.len(), error.is_some()), (1, true));
}

/// A block of a pcapng file.
fn block(kind: u32, words: &[u32], data: &[u8]) -> Vec<u8> {
    let padded = data.len().next_multiple_of(4);
    let len = (12 + 4 * words.len() + padded) as u32;
    let mut block = Vec::new();
    for word in [&[kind, len], words].concat() {
        block.extend(word.to_le_bytes());
    }
    block.extend(data);
    block.resize(len as usize - 4, 0);
    block.extend(len.to_le_bytes());
    block
}

#[test]
fn every_kind_of_block_with_a_frame_is_read() {
    let section = block(0x0a0d_0d0a, &[0x1a2b_3c4d, 1, u32::MAX, u32::MAX], &[]);
    // Ethernet with a snapshot length of 12; then raw IP, of which there are no frames.
    let ethernet = block(1, &[1, 12], &[]);
    let raw = block(1, &[101, 0], &[]);
    let enhanced = |interface| block(6, &[interface, 0, 1_500_000, 10, 99], &FRAME[..10]);
    let simple = block(3, &[60], &FRAME[..12]);
    let obsolete = block(2, &[7 << 16, 0, 1, 16, 16], &FRAME);
    let unknown = block(0xbad, &[1], &FRAME);
    let good = [section, ethernet, raw, enhanced(0), unknown, simple, obsolete].concat();
    let frames = all(&good);
    let seen: Vec<_> = frames.iter().map(|frame| (frame.bytes.len(), frame.cut)).collect();
    assert_eq!(seen, [(10, 89), (12, 48), (16, 0)]);
    assert_eq!(frames[0].at, Duration::from_millis(1500));
    for (interface, words) in [(1, "only Ethernet"), (2, "not described")] {
        let (frames, error) = read(&[good.clone(), enhanced(interface)].concat());
        assert_eq!(frames.len(), 3);
        let error = error.unwrap();
        assert!(error.contains(words) && error.contains("behind frame 3"), "{error}");
    }
    let lies = block(6, &[0, 0, 0, 4000, 4000], &FRAME);
    let (frames, error) = read(&[good, lies].concat());
    assert_eq!((frames.len(), error.is_some()), (3, true));
}

#[test]
fn a_file_is_replaced_at_the_end_or_not_at_all() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("out.pcap");
    let link = directory.path().join("link.pcap");
    std::os::unix::fs::symlink(&path, &link).unwrap();
    fs::write(&path, "before").unwrap();
    assert!(are_one(&path, &link) && !are_one(&path, directory.path()));
    assert!(!are_one(&path, &directory.path().join("none")));

    let mut given_up = Writer::create(&link).unwrap();
    given_up.write(Duration::ZERO, &FRAME, 0).unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"before");
    drop(given_up);
    assert_eq!(fs::read(&path).unwrap(), b"before");
    let mut writer = Writer::create(&link).unwrap();
    writer.write(Duration::MAX, &FRAME, 5).unwrap();
    writer.finish().unwrap();
    assert!(link.is_symlink());
    let frames = all(&fs::read(&path).unwrap());
    assert_eq!(frames, [Frame { at: LAST_MOMENT, bytes: FRAME.to_vec(), cut: 5 }]);
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 2, "nothing is left");

    let mut nowhere = Writer::create(Path::new("/dev/null")).unwrap();
    nowhere.write(Duration::ZERO, &FRAME, 0).unwrap();
    nowhere.finish().unwrap();
    assert!(!fs::metadata("/dev/null").unwrap().is_file());
}
