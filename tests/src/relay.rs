//! A balancer in userspace, for tests that say of each packet where it goes.
//!
//! It sends GUE as the program does, with candidates, but by the kernel's stack. So a test can do
//! what a balancer does only for a moment: send a connection's packets to another backend.

use std::io::ErrorKind;
use std::net::{IpAddr, UdpSocket};
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};

use anyhow::{Context, Result, ensure};
use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, SockFlag, SockProtocol, SockType, recv, setsockopt, socket, sockopt,
};
use nix::sys::time::{TimeVal, TimeValLike};

use crate::lab::{Family, Host};

/// Port of GUE (IANA "gue").
const GUE_PORT: u16 = 6080;
/// Protocol number of TCP.
const TCP: u8 = 6;
/// Version 1 of the private data.
const CANDIDATES: u8 = 1;
/// Addresses that the private data has room for.
const ROOM: usize = 2;
/// How long the end of a relay may go unnoticed.
const PATIENCE_MS: i64 = 20;

/// Where a packet goes.
#[derive(Clone, Debug)]
pub struct Way {
    /// The backend.
    pub to: IpAddr,
    /// Others that may have its connection.
    pub candidates: Vec<IpAddr>,
}

/// Sends TCP packets for the virtual address on, until it is dropped.
#[derive(Debug)]
pub struct Relay {
    ended: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Relay {
    /// Starts it on the balancer. Packets that open a connection take the first way, all others
    /// the second.
    ///
    /// # Errors
    /// This process isn't root.
    pub fn start(balancer: &Host, family: Family, opening: Way, others: Way) -> Result<Self> {
        // The kernel gets the packets, too, and would answer that it has no route.
        let (vip, width) = (family.vip(), if family == Family::V4 { 32 } else { 128 });
        balancer.namespace.ip(&format!("route add blackhole {vip}/{width}"))?;
        let (packets, sender) = balancer.namespace.run(|| {
            // Whole IP packets, of all interfaces.
            let packets = socket(
                AddressFamily::Packet,
                SockType::Datagram,
                SockFlag::SOCK_CLOEXEC,
                SockProtocol::EthAll,
            )?;
            setsockopt(&packets, sockopt::ReceiveTimeout, &TimeVal::milliseconds(PATIENCE_MS))?;
            let sender = UdpSocket::bind((balancer.address(family_of(opening.to)), 0))?;
            Ok::<_, anyhow::Error>((packets, sender))
        })??;
        ensure!(
            others.candidates.len() <= ROOM,
            "there is room for {ROOM} candidates, not {}",
            others.candidates.len()
        );
        let ended = Arc::new(AtomicBool::new(false));
        let ends = Arc::clone(&ended);
        let thread = thread::Builder::new()
            .name("relay".to_owned())
            .spawn(move || {
                if let Err(error) = relay(&packets, &sender, family, &[opening, others], &ends) {
                    eprintln!("the relay ended: {error:#}");
                }
            })
            .context("start the relay's thread")?;
        Ok(Self { ended, thread: Some(thread) })
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            eprintln!("the relay had panicked");
        }
    }
}

fn family_of(address: IpAddr) -> Family {
    if address.is_ipv4() { Family::V4 } else { Family::V6 }
}

fn relay(
    packets: &OwnedFd,
    sender: &UdpSocket,
    family: Family,
    [opening, others]: &[Way; 2],
    ended: &AtomicBool,
) -> Result<()> {
    let mut buffer = [0; 2048];
    while !ended.load(Ordering::Relaxed) {
        let length =
            match recv(packets.as_raw_fd(), &mut buffer, nix::sys::socket::MsgFlags::empty()) {
                Ok(length) => length,
                Err(Errno::EAGAIN | Errno::EINTR) => continue,
                Err(error) => return Err(error).context("receive packets"),
            };
        let packet = &buffer[..length];
        let Some(opens) = opens(packet, family.vip()) else { continue };
        let way = if opens { opening } else { others };
        match sender.send_to(&gue(packet, &way.candidates), (way.to, GUE_PORT)) {
            // An ICMP answer to an earlier one.
            Err(error) if error.kind() == ErrorKind::ConnectionRefused => {}
            sent => drop(sent.context("send a packet on")?),
        }
    }
    Ok(())
}

/// Whether a packet opens a connection; `None` if it is no TCP packet for the address.
fn opens(packet: &[u8], vip: IpAddr) -> Option<bool> {
    let (destination, protocol, transport) = match (packet.first()? >> 4, vip) {
        (4, IpAddr::V4(vip)) => {
            (packet.get(16..20)? == vip.octets(), *packet.get(9)?, usize::from(packet[0] & 15) * 4)
        }
        (6, IpAddr::V6(vip)) => (packet.get(24..40)? == vip.octets(), *packet.get(6)?, 40),
        _ => return None,
    };
    let flags = packet.get(transport + 13)?;
    (destination && protocol == TCP).then_some(flags & 0x12 == 0x02)
}

/// The packet with a GUE header in front.
fn gue(packet: &[u8], candidates: &[IpAddr]) -> Vec<u8> {
    let protocol = if packet[0] >> 4 == 4 { 4 } else { 41 };
    let mut private = Vec::new();
    if let Some(first) = candidates.first() {
        private.extend([CANDIDATES, candidates.len() as u8, 0, 0]);
        let octets = |address: &IpAddr| match address {
            IpAddr::V4(v4) => v4.octets().to_vec(),
            IpAddr::V6(v6) => v6.octets().to_vec(),
        };
        let length = private.len() + ROOM * octets(first).len();
        private.extend(candidates.iter().flat_map(octets));
        private.resize(length, 0);
    }
    [&[(private.len() / 4) as u8, protocol, 0, 0], &private[..], packet].concat()
}
