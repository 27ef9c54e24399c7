//! A host with a VIP, joined to a peer that sends frames, and `xlb decap` on it.

use std::{
    ffi::CString,
    fs, io,
    net::{SocketAddr, UdpSocket},
    path::PathBuf,
    process::Command,
    time::{Duration, Instant},
};

use serde_json::Value;
use tokio::{
    sync::{mpsc, oneshot},
    task::JoinHandle,
};

use super::super::{DecapError, Settings, serve};
use super::frames::{PORT, VIP4, VIP6};
use crate::{
    dataplane::Error,
    network::tests::namespace::{Peer, ip, join, joined, sysctl},
};

/// How long one condition is waited for.
const DEADLINE: Duration = Duration::from_secs(15);
/// Between two tries of something that is done until it works.
const RETRY: Duration = Duration::from_millis(50);

/// What a test has.
pub(super) struct World {
    peer: Peer,
    /// A pin path of its own, removed at the end.
    pub(super) pins: PathBuf,
    sockets: [tokio::net::UdpSocket; 2],
}

/// A running one.
pub(super) struct Running {
    /// Its first line.
    pub(super) first: Value,
    lines: mpsc::UnboundedReceiver<Value>,
    stop: Option<oneshot::Sender<()>>,
    task: JoinHandle<Result<(), DecapError>>,
}

/// Takes lines of JSON.
struct Lines(mpsc::UnboundedSender<Value>);

impl io::Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        for line in bytes.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
            self.0.send(serde_json::from_slice(line)?).map_err(io::Error::other)?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Runs a test on a host whose VIPs lie on the loopback, with a socket on each.
pub(super) fn run(name: &str, test: impl AsyncFnOnce(World) + Send) {
    joined(name, async |peer| {
        ip(&format!("addr add {VIP4}/32 dev lo"));
        ip(&format!("addr add {VIP6}/128 dev lo nodad"));
        for interface in ["all", "b0"] {
            sysctl(&format!("ipv4/conf/{interface}/rp_filter"), "0");
        }
        // Answers to the clients' addresses go nowhere else.
        ip("route add default via 10.7.0.2");
        ip("-6 route add default via 2001:db8:7::2");
        let bind = |address: SocketAddr| {
            let socket = UdpSocket::bind(address).unwrap();
            socket.set_nonblocking(true).unwrap();
            tokio::net::UdpSocket::from_std(socket).unwrap()
        };
        let sockets = [bind((VIP4, PORT).into()), bind((VIP6, PORT).into())];
        let name = format!("xlb-test-decap-{}-{name}", std::process::id());
        test(World { peer, pins: PathBuf::from("/sys/fs/bpf").join(name), sockets }).await;
    });
}

impl Drop for World {
    fn drop(&mut self) {
        // What a failed test left; and the directory around the folders of interfaces.
        if self.pins.exists() {
            let _ = fs::remove_dir_all(&self.pins);
        }
    }
}

impl World {
    pub(super) fn settings(&self, interface: &str, from: &[&str]) -> Settings {
        Settings {
            interface: interface.to_owned(),
            from: from.iter().map(|network| network.parse().unwrap()).collect(),
            netns: Vec::new(),
            pin_path: self.pins.clone(),
            json: true,
        }
    }

    /// Starts it on `b0`, and waits for its first line. Tries again while the pins of a former one
    /// are held: a child that another test starts has all descriptors until it becomes another
    /// program.
    pub(super) async fn start(&self, from: &[&str]) -> Running {
        let begin = Instant::now();
        loop {
            match self.try_start(from).await {
                Ok(running) => return running,
                Err(DecapError::DataPlane(Error::InUse(_))) if begin.elapsed() < DEADLINE => {}
                Err(error) => panic!("it ended: {error}"),
            }
        }
    }

    async fn try_start(&self, from: &[&str]) -> Result<Running, DecapError> {
        let settings = self.settings("b0", from);
        let (lines_in, mut lines) = mpsc::unbounded_channel();
        let (stop, stopped) = oneshot::channel();
        let task = tokio::spawn(async move {
            let stopped = async {
                let _ = stopped.await;
            };
            serve(&settings, &mut Lines(lines_in), stopped).await
        });
        match within(lines.recv()).await {
            Some(first) => Ok(Running { first, lines, stop: Some(stop), task }),
            None => Err(task.await.unwrap().expect_err("it says something where it starts")),
        }
    }

    /// The error of a start that must fail.
    pub(super) async fn refused(&self, interface: &str) -> DecapError {
        let settings = self.settings(interface, &[]);
        within(serve(&settings, &mut io::sink(), std::future::pending()))
            .await
            .expect_err("it must not start")
    }

    /// Makes `b0` and its peer again.
    pub(super) fn join_anew(&self) {
        join(&self.peer);
    }

    /// Sends a frame from the peer.
    pub(super) fn send(&self, frame: &[u8]) {
        let frame = frame.to_vec();
        self.peer.run(move || send("p0", &frame).expect("the frame is sent"));
    }

    /// Joins `b1` (10.8.0.1/24, 2001:db8:8::1/64) to `p1` at the peer (….2), which binds a socket
    /// to GUE's port.
    pub(super) fn join_another(&self) -> UdpSocket {
        ip(&format!("link add b1 type veth peer name p1 netns {}", self.peer.thread_id()));
        ip("addr add 10.8.0.1/24 dev b1");
        ip("addr add 2001:db8:8::1/64 dev b1 nodad");
        self.peer.ip("addr add 10.8.0.2/24 dev p1");
        self.peer.ip("addr add 2001:db8:8::2/64 dev p1 nodad");
        let (socket, bound) = std::sync::mpsc::channel();
        self.peer.run(move || {
            // A veth takes what is redirected to it only if it receives by NAPI.
            let gro = Command::new("ethtool").args(["-K", "p1", "gro", "on"]).status();
            assert!(gro.expect("ethtool runs").success());
            for interface in ["all", "p1"] {
                sysctl(&format!("ipv4/conf/{interface}/rp_filter"), "0");
            }
            let bound = UdpSocket::bind("[::]:6080").unwrap();
            take_without_checksum(&bound);
            socket.send(bound).unwrap();
        });
        self.peer.ip("link set p1 up");
        ip("link set b1 up");
        bound.recv().unwrap()
    }

    /// The next datagram that the VIP of a family got.
    pub(super) async fn received(&self, ipv4: bool) -> String {
        let mut data = [0; 256];
        let len = within(self.socket(ipv4).recv(&mut data)).await.unwrap();
        String::from_utf8_lossy(&data[..len]).into_owned()
    }

    /// Sends a frame again and again until its datagram arrives.
    pub(super) async fn send_until_received(&self, frame: &[u8]) {
        let begin = Instant::now();
        let mut data = [0; 256];
        loop {
            self.send(frame);
            if tokio::time::timeout(RETRY, self.socket(true).recv(&mut data)).await.is_ok() {
                return;
            }
            assert!(begin.elapsed() < DEADLINE, "it never arrived");
        }
    }

    fn socket(&self, ipv4: bool) -> &tokio::net::UdpSocket {
        &self.sockets[usize::from(!ipv4)]
    }

    pub(super) fn xdp_is_on(&self, interface: &str) -> bool {
        let output = Command::new("ip").args(["-j", "link", "show", interface]).output().unwrap();
        let links: Value = serde_json::from_slice(&output.stdout).unwrap();
        links[0].get("xdp").is_some()
    }
}

impl Running {
    /// Stops it as a signal does; gives its last line.
    pub(super) async fn stop(mut self) -> Value {
        let _ = self.stop.take().expect("it is stopped once").send(());
        let last = within(self.lines.recv()).await.expect("a last line");
        within(self.task).await.unwrap().expect("it ends well");
        last
    }

    /// Ends it without a chance to clean up.
    pub(super) async fn kill(self) {
        self.task.abort();
        assert!(within(self.task).await.unwrap_err().is_cancelled());
    }
}

async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(DEADLINE, future).await.expect("in time")
}

/// Has an IPv6 socket take datagrams whose checksum is zero (RFC 6935).
fn take_without_checksum(socket: &UdpSocket) {
    use std::os::fd::AsRawFd as _;

    let yes: libc::c_int = 1;
    // SAFETY: the value outlives the call, and its length is its own.
    let set = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_UDP,
            libc::UDP_NO_CHECK6_RX,
            (&raw const yes).cast(),
            size_of_val(&yes) as u32,
        )
    };
    assert_eq!(set, 0, "{}", io::Error::last_os_error());
}

/// Sends a whole frame out of an interface of this thread's namespace.
fn send(interface: &str, frame: &[u8]) -> io::Result<()> {
    use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};

    let name = CString::new(interface)?;
    // SAFETY: a string that ends in 0.
    let index = unsafe { libc::if_nametoindex(name.as_ptr()) };
    // SAFETY: numbers only.
    let socket = unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0) };
    if socket < 0 || index == 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: a new descriptor that belongs to nobody else.
    let socket = unsafe { OwnedFd::from_raw_fd(socket) };
    // SAFETY: integers, for which zero is a value.
    let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    address.sll_family = libc::AF_PACKET as u16;
    address.sll_ifindex = index as i32;
    // SAFETY: the frame and the address outlive the call, and their lengths are theirs.
    let sent = unsafe {
        libc::sendto(
            socket.as_raw_fd(),
            frame.as_ptr().cast(),
            frame.len(),
            0,
            (&raw const address).cast(),
            size_of_val(&address) as u32,
        )
    };
    if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
