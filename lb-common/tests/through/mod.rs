//! A frame through all of the balancer's programs, on the host.

use lb_common::{
    answer::{Request, Ways},
    balance::balance,
    carry_on::carry_on,
    layout::Way,
    packet::Packet,
    tables::{MemoryBuffer, MemoryTables},
    verdict::{DropReason, Outcome},
};

/// The interface that frames come in by.
const INGRESS: u32 = 3;

/// The way to every client.
pub const WAY: Way = Way { macs: [1, 2, 3], ifindex: 9, mtu: 1400 };

/// A way for everybody, or none for a reason.
struct Everywhere(Result<Way, DropReason>);

impl Ways for Everywhere {
    fn way(&self, _: Request<'_>) -> Result<Way, DropReason> {
        self.0
    }
}

/// Bytes that the driver leaves before each frame.
pub const HEADROOM: usize = 128;

/// What becomes of a frame behind so much headroom, with these ways to clients.
pub fn run_with(
    tables: &MemoryTables,
    frame: &[u8],
    headroom: usize,
    ways: &impl Ways,
) -> (Outcome, Vec<u8>) {
    let mut buffer = MemoryBuffer::new(frame, headroom, INGRESS);
    let mut outcome = balance(Packet::new(&mut buffer), tables);
    while let Some(may_be) = outcome.may_be() {
        outcome = carry_on(Packet::new(&mut buffer), may_be, tables, ways);
    }
    (outcome.into(), buffer.frame())
}

/// What becomes of a frame, where that is the way to every client.
pub fn run_by(
    tables: &MemoryTables,
    frame: &[u8],
    way: Result<Way, DropReason>,
) -> (Outcome, Vec<u8>) {
    run_with(tables, frame, HEADROOM, &Everywhere(way))
}

/// The same by [`WAY`].
pub fn run(tables: &MemoryTables, frame: &[u8]) -> (Outcome, Vec<u8>) {
    run_by(tables, frame, Ok(WAY))
}

/// An IPv6 address.
pub fn v6(text: &str) -> [u8; 16] {
    text.parse::<std::net::Ipv6Addr>().expect("an IPv6 address").octets()
}
