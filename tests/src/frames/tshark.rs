//! Wireshark's opinion on a capture.

use std::path::Path;
use std::process::Command;

use anyhow::{Result, ensure};

use crate::netns::run;

/// What makes a frame faulty: a bad checksum, or a protocol that Wireshark can't read to its end.
const FAULTY: &str = "ip.checksum.status == \"Bad\" || tcp.checksum.status == \"Bad\" \
    || udp.checksum.status == \"Bad\" || _ws.malformed || _ws.expert.severity == \"Error\"";

/// What makes a frame of a live capture faulty. Longer ones were put together by the receiving
/// kernel (GRO), out of frames whose checksums were right.
const BADLY_SUMMED: &str = "frame.len <= 1514 && (ip.checksum.status == \"Bad\" \
    || tcp.checksum.status == \"Bad\" || udp.checksum.status == \"Bad\" \
    || icmp.checksum.status == \"Bad\" || icmpv6.checksum.status == \"Bad\")";

/// Lines of an error: of many frames the first few tell enough.
const SHOWN: usize = 10;

/// Dissects every frame with all checksums verified. A zero UDP checksum over IPv6 is right in a
/// tunnel (RFC 6935).
///
/// # Errors
/// tshark isn't installed or can't read the file; else the faulty frames, with their columns.
pub fn without_fault(capture: &Path) -> Result<()> {
    find_none(capture, FAULTY)
}

/// Verifies the checksums of every frame that was on a wire, whatever is in it.
///
/// # Errors
/// As [`without_fault`].
pub fn rightly_summed(capture: &Path) -> Result<()> {
    find_none(capture, BADLY_SUMMED)
}

fn find_none(capture: &Path, filter: &str) -> Result<()> {
    let mut command = Command::new("tshark");
    command.arg("-r").arg(capture).args(["-Y", filter]);
    let preferences = [
        "ip.check_checksum:TRUE",
        "tcp.check_checksum:TRUE",
        "udp.check_checksum:TRUE",
        "udp.ignore_ipv6_zero_checksum:TRUE",
        // The lines are of flows that no handshake began.
        "tcp.analyze_sequence_numbers:FALSE",
    ];
    for preference in preferences {
        command.args(["-o", preference]);
    }
    let faulty = run(&mut command, "")?;
    let first: Vec<_> = faulty.lines().take(SHOWN).collect();
    ensure!(
        first.is_empty(),
        "tshark finds fault with {} frames of {}:\n{}",
        faulty.lines().count(),
        capture.display(),
        first.join("\n")
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frames::build::Packet;
    use crate::frames::pcap;
    use crate::xlb::Protocol;

    #[test]
    fn finds_a_bad_checksum_and_no_fault_in_a_good_one() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a.pcap");
        let (from, to) = ("192.0.2.1:4711".parse().unwrap(), "203.0.113.10:80".parse().unwrap());
        let good = Packet::new(from, to, Protocol::Tcp).frame().unwrap();
        pcap::write(&path, std::slice::from_ref(&good)).unwrap();
        without_fault(&path).unwrap();
        rightly_summed(&path).unwrap();
        for byte in [24, 50] {
            let mut bad = good.clone();
            bad[byte] ^= 1;
            pcap::write(&path, &[bad]).unwrap();
            assert!(without_fault(&path).is_err(), "byte {byte}");
            assert!(rightly_summed(&path).is_err(), "byte {byte}");
        }
    }
}
