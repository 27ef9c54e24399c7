//! Frames: made, kept in captures, and read back with a parser that isn't the program's.

pub mod build;
pub mod every_kind;
pub mod pcap;
pub mod tshark;
pub mod view;

/// A link-layer address as people write it.
pub fn mac_text(mac: [u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}
