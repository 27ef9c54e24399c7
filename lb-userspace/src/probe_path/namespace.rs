//! A network namespace of the agent's own, for the sockets of probes.
//!
//! A VIP may be an address of this host, and its packet filters, route filters and routes are for
//! other packets than probes: here, none of it is in the way. In: addresses to send from. Out:
//! sockets, which stay in the namespace wherever they are used.
//!
//! The namespace is a thread's, and everything in it ends with the process, however that ends.

use std::{
    collections::BTreeSet,
    fs, io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
    sync::mpsc,
    thread,
    time::Duration,
};

use futures_util::TryStreamExt as _;
use netlink_packet_route::{
    address::{AddressAttribute, AddressFlags, AddressMessage},
    link::{
        AfSpecInet6, AfSpecUnspec, In6AddrGenMode, InfoData, InfoVeth, LinkAttribute, LinkMessage,
    },
};
use rtnetlink::{
    AddressMessageBuilder, Handle, LinkMessageBuilder, LinkUnspec, LinkVeth, RouteMessageBuilder,
};
use tokio::{net::TcpSocket, sync::oneshot};

use super::PathError;

/// The host's end of the pair; further agents take a name with a number.
const HOST_END: &str = "xlb-probe";
/// The end in the namespace.
const OWN_END: &str = "probe";
/// Names that are tried.
const NAMES: u32 = 100;
/// Longest packet of probes in bytes: any outer header still fits 1,500, and it is more than IPv6
/// asks for.
const MTU: u32 = 1400;
/// How long the kernel may take for everything.
const PATIENCE: Duration = Duration::from_secs(5);

/// The end that the host has of the pair.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct HostEnd {
    pub(super) name: String,
    pub(super) ifindex: u32,
    /// No other agent of the host's network namespace has the same.
    pub(super) number: u32,
}

/// What the thread is asked to do.
enum Job {
    Tcp(SocketAddr, oneshot::Sender<io::Result<TcpSocket>>),
    Udp(SocketAddr, oneshot::Sender<io::Result<std::net::UdpSocket>>),
    Addresses(BTreeSet<IpAddr>, mpsc::Sender<io::Result<()>>),
}

/// The namespace. It is gone when the last handle and the last socket are.
#[derive(Clone, Debug)]
pub(super) struct Namespace {
    jobs: mpsc::Sender<Job>,
}

impl Namespace {
    /// Makes the namespace, and a pair of interfaces between it and the calling thread's.
    pub(super) fn open() -> Result<(Self, HostEnd), PathError> {
        let (jobs, queue) = mpsc::channel();
        let (ready, opened) = mpsc::channel();
        thread::Builder::new()
            .name("probes".to_owned())
            .spawn(move || match Inside::open() {
                Ok((inside, host_end)) => {
                    if ready.send(Ok(host_end)).is_ok() {
                        queue.iter().for_each(|job| inside.work(job));
                    }
                }
                Err(error) => drop(ready.send(Err(error))),
            })
            .map_err(|source| PathError::kernel("start a thread", source))?;
        let host_end = opened.recv().map_err(|_| {
            PathError::kernel("make a network namespace", io::Error::other("its thread ended"))
        })??;
        Ok((Self { jobs }, host_end))
    }

    /// Makes exactly these the addresses that can be sent from.
    pub(super) fn set_addresses(&self, addresses: BTreeSet<IpAddr>) -> io::Result<()> {
        let (reply, answer) = mpsc::channel();
        self.jobs.send(Job::Addresses(addresses, reply)).map_err(|_| gone())?;
        answer.recv_timeout(PATIENCE).map_err(|_| gone())?
    }

    /// A TCP socket that is bound to an address and port.
    ///
    /// # Errors
    /// As socket(2) and bind(2).
    pub(super) async fn tcp(&self, source: SocketAddr) -> io::Result<TcpSocket> {
        let (reply, answer) = oneshot::channel();
        self.jobs.send(Job::Tcp(source, reply)).map_err(|_| gone())?;
        answer.await.map_err(|_| gone())?
    }

    /// A UDP socket that is bound to an address and port.
    ///
    /// # Errors
    /// As socket(2) and bind(2).
    pub(super) async fn udp(&self, source: SocketAddr) -> io::Result<std::net::UdpSocket> {
        let (reply, answer) = oneshot::channel();
        self.jobs.send(Job::Udp(source, reply)).map_err(|_| gone())?;
        answer.await.map_err(|_| gone())?
    }
}

fn gone() -> io::Error {
    io::Error::other("the network namespace of probes is gone")
}

/// The thread's part.
struct Inside {
    runtime: tokio::runtime::Runtime,
    netlink: Handle,
    ifindex: u32,
}

impl Inside {
    /// Leaves the host's namespace for a new one.
    fn open() -> Result<(Self, HostEnd), PathError> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|source| PathError::kernel("start a runtime", source))?;
        let connect = || {
            let connection = rtnetlink::new_connection();
            let (connection, handle, _) =
                connection.map_err(|source| PathError::kernel("open a netlink socket", source))?;
            runtime.spawn(connection);
            Ok::<_, PathError>(handle)
        };
        let own = fs::File::open("/proc/thread-self/ns/net")
            .map_err(|source| PathError::kernel("open this network namespace", source))?;
        let _entered = runtime.enter();
        let outside = connect()?;
        // SAFETY: affects this thread alone.
        if unsafe { libc::unshare(libc::CLONE_NEWNET) } != 0 {
            return Err(PathError::unshare(io::Error::last_os_error()));
        }
        let netlink = connect()?;
        // A host may have it off for every new namespace; where it can't be had, IPv6 VIPs say so.
        let _ = fs::write("/proc/sys/net/ipv6/conf/all/disable_ipv6", "0");
        let _ = fs::write("/proc/sys/net/ipv6/conf/default/disable_ipv6", "0");
        let wired = runtime.block_on(async {
            tokio::time::timeout(PATIENCE, wire(&netlink, &outside, own.as_raw_fd())).await
        });
        let (ifindex, host_end) = wired.map_err(|_| {
            PathError::kernel("make a pair of interfaces", io::ErrorKind::TimedOut.into())
        })??;
        drop(_entered);
        Ok((Self { runtime, netlink, ifindex }, host_end))
    }

    fn work(&self, job: Job) {
        // Somebody who doesn't wait for the answer any more needs none.
        match job {
            Job::Tcp(source, reply) => drop(reply.send(tcp(source))),
            Job::Udp(source, reply) => drop(reply.send(udp(source))),
            Job::Addresses(addresses, reply) => {
                let set = set_addresses(&self.netlink, self.ifindex, &addresses);
                let set =
                    self.runtime.block_on(async { tokio::time::timeout(PATIENCE, set).await });
                drop(reply.send(set.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))));
            }
        }
    }
}

fn tcp(source: SocketAddr) -> io::Result<TcpSocket> {
    let socket = if source.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    // A reset instead of the closing handshake, however a probe ends: no TIME_WAIT for each, here
    // or there, and the port is free again at once.
    socket.set_zero_linger()?;
    socket.bind(source)?;
    Ok(socket)
}

fn udp(source: SocketAddr) -> io::Result<std::net::UdpSocket> {
    let socket = std::net::UdpSocket::bind(source)?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

/// Makes the pair, and the way out of the namespace.
async fn wire(
    own: &Handle,
    outside: &Handle,
    host: std::os::fd::RawFd,
) -> Result<(u32, HostEnd), PathError> {
    let failed = |doing: &str| {
        let doing = doing.to_owned();
        move |error| PathError::kernel(&doing, into_io(error))
    };
    let (name, number) = pair(own, host).await?;
    let ifindex = index(own, OWN_END).await?;
    let host_end = HostEnd { ifindex: index(outside, &name).await?, name, number };
    whole_checksums()?;
    // Nothing speaks on the host's end, and nobody there shall think so.
    let quiet = AfSpecUnspec::Inet6(vec![AfSpecInet6::AddrGenMode(In6AddrGenMode::None)]);
    let silent = |ifindex, quiet| {
        LinkUnspec::new_with_index(ifindex)
            .append_extra_attribute(LinkAttribute::AfSpecUnspec(vec![quiet]))
            .build()
    };
    // A kernel without IPv6 has nothing to be silent about.
    let _ = outside.link().set(silent(host_end.ifindex, quiet.clone())).execute().await;
    let _ = own.link().set(silent(ifindex, quiet)).execute().await;
    let up = |ifindex| LinkUnspec::new_with_index(ifindex).up().build();
    for (handle, ifindex) in [(outside, host_end.ifindex), (own, ifindex), (own, 1)] {
        let set = handle.link().set(up(ifindex)).execute().await;
        set.map_err(failed("set an interface up"))?;
    }
    let v4 = RouteMessageBuilder::<Ipv4Addr>::new().output_interface(ifindex).build();
    own.route().add(v4).execute().await.map_err(failed("add a route"))?;
    let v6 = RouteMessageBuilder::<Ipv6Addr>::new().output_interface(ifindex).build();
    // Without IPv6 it is refused; then an IPv6 address is, too, and that is told.
    let _ = own.route().add(v6).execute().await;
    Ok((ifindex, host_end))
}

/// Makes the pair with the first name that is free on the host.
async fn pair(own: &Handle, host: std::os::fd::RawFd) -> Result<(String, u32), PathError> {
    let mut last = io::Error::other("no name was tried");
    for number in 0..NAMES {
        let name = if number == 0 { HOST_END.to_owned() } else { format!("{HOST_END}{number}") };
        let peer = LinkMessageBuilder::<LinkUnspec>::new()
            .name(name.clone())
            .mtu(MTU)
            .setns_by_fd(host)
            .build();
        // Without neighbours: whoever takes the frames knows where they go.
        let message = LinkVeth::new(OWN_END, &name)
            .set_info_data(InfoData::Veth(InfoVeth::Peer(peer)))
            .mtu(MTU)
            .arp(false)
            .build();
        match own.link().add(message).execute().await.map_err(into_io) {
            Ok(()) => return Ok((name, number)),
            Err(error) if error.raw_os_error() == Some(libc::EEXIST) => last = error,
            Err(error) => return Err(PathError::kernel("make a pair of interfaces", error)),
        }
    }
    Err(PathError::kernel(&format!("find a free name for {HOST_END}"), last))
}

async fn index(handle: &Handle, name: &str) -> Result<u32, PathError> {
    let links = handle.link().get().match_name(name.to_owned()).execute();
    let found: Result<Vec<LinkMessage>, _> = links.try_collect().await;
    let found = found.map_err(into_io).and_then(|found| {
        found.first().map(|link| link.header.index).ok_or_else(|| io::ErrorKind::NotFound.into())
    });
    found.map_err(|error| PathError::kernel(&format!("find the interface {name}"), error))
}

async fn set_addresses(
    netlink: &Handle,
    ifindex: u32,
    wanted: &BTreeSet<IpAddr>,
) -> io::Result<()> {
    let all = netlink.address().get().set_link_index_filter(ifindex).execute();
    let all: Vec<AddressMessage> = all.try_collect().await.map_err(into_io)?;
    let mut present = BTreeSet::new();
    for message in all {
        let local = message.attributes.iter().find_map(|attribute| match attribute {
            AddressAttribute::Address(address) => Some(*address),
            _ => None,
        });
        match local {
            Some(address) if wanted.contains(&address) => drop(present.insert(address)),
            _ => netlink.address().del(message).execute().await.map_err(into_io)?,
        }
    }
    for address in wanted.difference(&present) {
        let bits = if address.is_ipv4() { 32 } else { 128 };
        let mut request = netlink.address().add(ifindex, *address, bits);
        if let IpAddr::V6(address) = *address {
            *request.message_mut() = AddressMessageBuilder::<Ipv6Addr>::new()
                .index(ifindex)
                .address(address, bits)
                .build();
            // The host had it checked.
            let flags = AddressAttribute::Flags(AddressFlags::Nodad);
            request.message_mut().attributes.push(flags);
        }
        request.replace().execute().await.map_err(into_io)?;
    }
    Ok(())
}

/// `ethtool -K probe tx off tso off gso off`: frames are turned toward a backend as they come,
/// and need a whole checksum.
fn whole_checksums() -> Result<(), PathError> {
    /// From linux/ethtool.h: transmit checksums, segmentation by hardware, segmentation in general.
    const OFF: [u32; 3] = [0x17, 0x1f, 0x24];

    #[repr(C)]
    struct Value {
        command: u32,
        data: u32,
    }

    let failed = |source| PathError::kernel("have checksums computed", source);
    // SAFETY: makes a socket.
    let socket = unsafe { libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0) };
    if socket < 0 {
        return Err(failed(io::Error::last_os_error()));
    }
    // SAFETY: a new descriptor that belongs to nobody else.
    let socket = unsafe { OwnedFd::from_raw_fd(socket) };
    for command in OFF {
        let mut value = Value { command, data: 0 };
        // SAFETY: bytes and a pointer, for which zero is a value.
        let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
        for (to, from) in request.ifr_name.iter_mut().zip(OWN_END.bytes()) {
            *to = from as libc::c_char;
        }
        request.ifr_ifru.ifru_data = (&raw mut value).cast();
        // SAFETY: the kernel reads the request and the value, which outlive the call.
        let result =
            unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCETHTOOL as _, &raw mut request) };
        if result != 0 {
            return Err(failed(io::Error::last_os_error()));
        }
    }
    Ok(())
}

fn into_io(error: rtnetlink::Error) -> io::Error {
    match error {
        rtnetlink::Error::NetlinkError(message) => message.to_io(),
        other => io::Error::other(other),
    }
}
