//! Floods of forged packets toward a virtual address, from sources that nobody has.
//!
//! The sources are of 198.18.0.0/15 (RFC 2544), which the namespaces of a test have no way to:
//! [`contain`] makes backends throw such packets away before they answer.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use crate::lab::Host;

/// The forged sources' network.
pub const SOURCES: &str = "198.18.0.0/15";

/// Bits of a source address that are random.
const RANDOM_BITS: u32 = (1 << 17) - 1;

/// Packets that are sent without looking at the clock.
const BURST: u32 = 64;

/// The part of one CPU that a flood may take: with all of it, nobody else would get a word in on
/// a small machine, and the test would show that alone.
const CPU_SHARE: f64 = 0.7;

const TCP: u8 = 6;
const UDP: u8 = 17;
const SYN: u8 = 0x02;
const ACK: u8 = 0x10;

/// What is forged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Forged {
    /// TCP SYNs.
    Syn,
    /// TCP ACKs of connections that don't exist.
    Ack,
    /// UDP datagrams.
    Udp,
}

/// What a flood consists of: packets are sent to each of these in turn.
pub type Targets = Vec<(Forged, SocketAddrV4)>;

/// A running flood. Ends when dropped, or by itself at its time limit.
#[derive(Debug)]
pub struct Flood {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    stop: AtomicBool,
    sent: AtomicU64,
}

impl Flood {
    /// Sends from a host's namespace, at most that many packets a second, at most for that long.
    ///
    /// # Errors
    /// There is nothing to send, or no raw socket.
    pub fn start(from: &Host, targets: Targets, per_second: u32, limit: Duration) -> Result<Self> {
        ensure!(!targets.is_empty() && per_second > 0, "a flood of nothing");
        let socket = from.namespace.run(|| {
            let socket = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::from(255)))?;
            socket.set_header_included_v4(true)?;
            Ok::<_, std::io::Error>(socket)
        })?;
        let socket = socket.context("open a raw socket")?;
        let shared = Arc::new(Shared::default());
        let theirs = Arc::clone(&shared);
        let thread = thread::Builder::new().name("flood".into()).spawn(move || {
            flood(&socket, &targets, per_second, Instant::now() + limit, &theirs);
        })?;
        Ok(Self { shared, thread: Some(thread) })
    }

    /// Packets sent so far.
    pub fn sent(&self) -> u64 {
        self.shared.sent.load(Ordering::Relaxed)
    }
}

impl Drop for Flood {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            eprintln!("the flood had panicked");
        }
    }
}

/// Makes a host throw forged packets away: a source without a way back is no source.
///
/// # Errors
/// A command refuses.
pub fn contain(host: &Host) -> Result<()> {
    host.namespace.ip(&format!("route add blackhole {SOURCES}"))?;
    // The larger of `all` and the device's own holds.
    host.namespace.sysctl("net/ipv4/conf/eth0/rp_filter", "1")
}

fn flood(socket: &Socket, targets: &Targets, per_second: u32, end: Instant, shared: &Shared) {
    let mut random = fastrand::Rng::new();
    let due = Duration::from_secs(1) * BURST / per_second;
    let targets: Vec<_> =
        targets.iter().map(|&(forged, target)| (forged, target, SockAddr::from(target))).collect();
    for (forged, target, address) in targets.iter().cycle() {
        let start = Instant::now();
        if shared.stop.load(Ordering::Relaxed) || start > end {
            return;
        }
        let mut sent = 0;
        for _ in 0..BURST {
            // What doesn't fit the queue is lost on the way, as any packet may be.
            sent +=
                u64::from(socket.send_to(&packet(*forged, *target, &mut random), address).is_ok());
        }
        shared.sent.fetch_add(sent, Ordering::Relaxed);
        let busy = start.elapsed();
        thread::sleep(due.saturating_sub(busy).max(busy.mul_f64(1.0 / CPU_SHARE - 1.0)));
    }
}

/// An IPv4 packet from a random source.
fn packet(forged: Forged, to: SocketAddrV4, random: &mut fastrand::Rng) -> Vec<u8> {
    let source = Ipv4Addr::from_bits(0xc612_0000 | random.u32(..) & RANDOM_BITS);
    let port = random.u16(1024..);
    let (protocol, length) = match forged {
        Forged::Syn | Forged::Ack => (TCP, 20u16),
        Forged::Udp => (UDP, 16),
    };
    let mut packet = Vec::with_capacity(usize::from(20 + length));
    // Version and header length, total length, "don't fragment", 64 hops; the kernel puts the
    // checksum in (raw(7)).
    packet.extend_from_slice(&[0x45, 0]);
    packet.extend_from_slice(&(20 + length).to_be_bytes());
    packet.extend_from_slice(&[0, 0, 0x40, 0, 64, protocol, 0, 0]);
    packet.extend_from_slice(&source.octets());
    packet.extend_from_slice(&to.ip().octets());
    let transport = packet.len();
    packet.extend_from_slice(&port.to_be_bytes());
    packet.extend_from_slice(&to.port().to_be_bytes());
    let checksum = match forged {
        Forged::Syn | Forged::Ack => {
            let (flags, acknowledged) =
                if forged == Forged::Syn { (SYN, 0) } else { (ACK, random.u32(..)) };
            packet.extend_from_slice(&random.u32(..).to_be_bytes());
            packet.extend_from_slice(&acknowledged.to_be_bytes());
            packet.extend_from_slice(&[0x50, flags, 0xff, 0xff, 0, 0, 0, 0]);
            16
        }
        Forged::Udp => {
            packet.extend_from_slice(&length.to_be_bytes());
            packet.extend_from_slice(&[0, 0]);
            packet.extend_from_slice(&random.u64(..).to_be_bytes());
            6
        }
    };
    let mut pseudo = packet[12..20].to_vec();
    pseudo.extend_from_slice(&[0, protocol]);
    pseudo.extend_from_slice(&length.to_be_bytes());
    let sum = u32::from(lb_common::checksum::sum(&pseudo))
        + u32::from(lb_common::checksum::sum(&packet[transport..]));
    let whole = !lb_common::checksum::fold(sum);
    packet[transport + checksum..transport + checksum + 2].copy_from_slice(&whole.to_be_bytes());
    packet
}

#[cfg(test)]
mod tests {
    use etherparse::{IpNumber, SlicedPacket, TransportSlice};

    use super::*;

    #[test]
    fn packets_are_what_they_seem() {
        let to = SocketAddrV4::new(Ipv4Addr::new(203, 0, 113, 10), 80);
        let mut random = fastrand::Rng::with_seed(1);
        for forged in [Forged::Syn, Forged::Ack, Forged::Udp] {
            for _ in 0..100 {
                let packet = packet(forged, to, &mut random);
                let sliced = SlicedPacket::from_ip(&packet).unwrap();
                let Some(etherparse::NetSlice::Ipv4(ip)) = &sliced.net else { panic!("no IPv4") };
                let header = ip.header().to_header();
                assert!(matches!(header.source, [198, 18 | 19, ..]));
                assert_eq!(header.destination, to.ip().octets());
                assert_eq!(usize::from(header.total_len), packet.len());
                match sliced.transport.unwrap() {
                    TransportSlice::Tcp(tcp) => {
                        let tcp = tcp.to_header();
                        let sum = tcp.calc_checksum_ipv4(&header, &[]).unwrap();
                        assert_eq!((tcp.checksum, tcp.destination_port), (sum, 80));
                        assert_eq!(
                            (tcp.syn, tcp.ack),
                            (forged == Forged::Syn, forged == Forged::Ack)
                        );
                    }
                    TransportSlice::Udp(udp) => {
                        let header_there = udp.to_header();
                        let sum = header_there.calc_checksum_ipv4(&header, udp.payload()).unwrap();
                        assert_eq!(
                            (header_there.checksum, header_there.destination_port),
                            (sum, 80)
                        );
                        assert_eq!(header.protocol, IpNumber::UDP);
                    }
                    other => panic!("{other:?}"),
                }
            }
        }
    }
}
