//! The way in the kernel: out in the backend's frames, and the answers back.

use std::{
    net::{Ipv4Addr, Ipv6Addr},
    process::Command,
};

use lb_common::id::ServiceId;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::UdpSocket,
    sync::oneshot,
    time::timeout,
};

use super::*;
use crate::{
    model::{Backend, BackendKey, Forward, MacAddress, Protocol, Route, ServiceKey},
    network::tests::namespace::{BALANCER_MAC, PEER_MAC, Peer, ip, joined, sysctl},
    objects::PROBE,
    plan::backend_record,
};

const PATIENCE: Duration = Duration::from_secs(20);
/// From a datagram that isn't answered to the next.
const RESEND: Duration = Duration::from_millis(500);
const PORT: u16 = 8080;
const VIP4: IpAddr = IpAddr::V4(Ipv4Addr::new(203, 0, 113, 10));
const VIP6: IpAddr = IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x10));

fn id() -> CheckId {
    let service = ServiceKey { vip: VIP4, port: Some(PORT), protocol: Protocol::Tcp };
    (service, BackendKey { address: address("10.7.0.2"), port: None })
}

fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn index(name: &str) -> u32 {
    let output = Command::new("ip").args(["-json", "link", "show", name]).output().unwrap();
    let links: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    links[0]["ifindex"].as_u64().unwrap() as u32
}

/// The peer as a backend that has the VIPs.
fn wanted(vip: IpAddr) -> Wanted {
    let (source, backend) = match vip {
        IpAddr::V4(_) => ("10.7.0.1", "10.7.0.2"),
        IpAddr::V6(_) => ("2001:db8:7::1", "2001:db8:7::2"),
    };
    let route = Route {
        next_hop: MacAddress(PEER_MAC),
        source_mac: MacAddress(BALANCER_MAC),
        egress_ifindex: index("b0"),
        mtu: 1500,
        outer_source: None,
    };
    let backend = Backend {
        key: BackendKey { address: address(backend), port: None },
        weight: 1,
        live_permille: 0,
        counted: false,
        alive: true,
        forward: Forward::L2,
        route: Some(route),
    };
    let record = Box::new(backend_record(ServiceId::NONE, vip, &backend, 0, 0, None));
    Wanted {
        vip: SocketAddr::new(vip, PORT),
        timeout: Duration::from_millis(500),
        hint: "is the VIP there?".to_owned(),
        way: Way::Known { record, source: address(source) },
    }
}

/// The VIPs on the peer, as a backend has them.
fn give_vips(peer: &Peer) {
    peer.ip("link set lo up");
    // Who has the VIP, too, answers no question from it.
    peer.run(|| sysctl("ipv4/conf/all/arp_announce", "2"));
    peer.ip(&format!("addr add {VIP4}/32 dev lo"));
    peer.ip(&format!("addr add {VIP6}/128 dev lo nodad"));
}

/// Serves one connection on the peer: echoes what comes.
fn serve(peer: &Peer, listen: SocketAddr) {
    let (ready, listening) = std::sync::mpsc::channel();
    peer.run(move || {
        let listener = std::net::TcpListener::bind(listen).unwrap();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                std::thread::spawn(move || {
                    let mut reader = stream.try_clone().unwrap();
                    // A probe ends with a reset.
                    let _ = io::copy(&mut reader, &mut stream);
                });
            }
        });
        ready.send(()).unwrap();
    });
    listening.recv().unwrap();
}

async fn echoes(target: &Target) {
    let exchange = async {
        let (socket, _port) = target.tcp().await.unwrap();
        let mut stream = socket.connect(target.vip()).await.unwrap();
        let sent = vec![7; 20_000];
        stream.write_all(&sent).await.unwrap();
        let mut received = vec![0; sent.len()];
        stream.read_exact(&mut received).await.unwrap();
        assert_eq!(received, sent);
    };
    timeout(PATIENCE, exchange).await.expect("an echo in time");
}

fn through(hook: Hook) {
    joined("through", async move |peer| {
        give_vips(&peer);
        // Whatever a host may have: VIPs of its own, and strict filters.
        ip(&format!("addr add {VIP4}/32 dev lo"));
        ip(&format!("addr add {VIP6}/128 dev lo nodad"));
        for part in ["all", "default", "b0"] {
            sysctl(&format!("ipv4/conf/{part}/rp_filter"), "1");
        }
        let mut path = ProbePath::open_with(PROBE, b"one", hook).unwrap();
        let mut second = ProbePath::open_with(PROBE, b"two", hook).unwrap();
        assert_ne!(path.host_end.name, second.host_end.name);
        let interfaces = BTreeMap::from([("b0".to_owned(), index("b0"))]);
        for vip in [VIP4, VIP6] {
            let wanted = wanted(vip);
            serve(&peer, wanted.vip);
            for path in [&mut path, &mut second] {
                path.set(BTreeMap::from([(id(), wanted.clone())]), &interfaces);
                assert_eq!(path.warnings().collect::<Vec<_>>(), [] as [String; 0]);
            }
            echoes(&path.target(id()).unwrap()).await;
            echoes(&second.target(id()).unwrap()).await;
        }
        // One that ends takes nothing of the other's.
        drop(second);
        echoes(&path.target(id()).unwrap()).await;
    });
}

#[test]
fn connections_carry_data() {
    through(Hook::Link);
}

#[test]
fn on_older_kernels_too() {
    through(Hook::Filter);
}

#[test]
fn what_a_killed_agent_left_is_taken_off() {
    joined("left", async |_peer| {
        let interfaces = BTreeMap::from([("b0".to_owned(), index("b0"))]);
        let filters = || {
            let output =
                Command::new("tc").args(["filter", "show", "dev", "b0", "ingress"]).output();
            let text = String::from_utf8(output.unwrap().stdout).unwrap();
            text.matches("handle 0x").count()
        };
        let mut path = ProbePath::open_with(PROBE, b"same", Hook::Filter).unwrap();
        path.set(BTreeMap::new(), &interfaces);
        let mut other = ProbePath::open_with(PROBE, b"other", Hook::Filter).unwrap();
        other.set(BTreeMap::new(), &interfaces);
        assert_eq!(filters(), 2);
        // As after SIGKILL.
        std::mem::forget(path.programs);
        let mut again = ProbePath::open_with(PROBE, b"same", Hook::Filter).unwrap();
        assert_eq!(filters(), 1);
        again.set(BTreeMap::new(), &interfaces);
        assert_eq!(filters(), 2);
        drop((again, other));
        assert_eq!(filters(), 0);
    });
}

#[test]
fn datagrams_come_back_and_a_closed_port_shows() {
    joined("datagrams", async |peer| {
        give_vips(&peer);
        let mut path = ProbePath::open(PROBE, b"udp").unwrap();
        let interfaces = BTreeMap::from([("b0".to_owned(), index("b0"))]);
        for vip in [VIP4, VIP6] {
            let wanted = wanted(vip);
            let server = wanted.vip;
            path.set(BTreeMap::from([(id(), wanted)]), &interfaces);
            let target = path.target(id()).unwrap();
            let (done, bound) = oneshot::channel();
            peer.run(move || {
                let socket = std::net::UdpSocket::bind(server).unwrap();
                let _ = done.send(socket);
            });
            let socket = bound.await.unwrap();
            socket.set_nonblocking(true).unwrap();
            let server = UdpSocket::from_std(socket).unwrap();
            let (probe, _port) = target.datagrams().await.unwrap();
            probe.send(b"ping").await.unwrap();
            let mut buffer = [0; 16];
            let (length, from) =
                timeout(PATIENCE, server.recv_from(&mut buffer)).await.unwrap().unwrap();
            assert_eq!(&buffer[..length], b"ping");
            server.send_to(b"pong", from).await.unwrap();
            let length = timeout(PATIENCE, probe.recv(&mut buffer)).await.unwrap().unwrap();
            assert_eq!(&buffer[..length], b"pong");
            drop(server);
            // The kernel may leave out an ICMP error, and a datagram may be lost.
            let refused = async {
                loop {
                    let asked = match probe.send(b"ping").await {
                        Ok(_) => timeout(RESEND, probe.recv(&mut buffer)).await,
                        Err(error) => Ok(Err(error)),
                    };
                    if let Ok(told) = asked {
                        return told.unwrap_err();
                    }
                }
            };
            let refused = timeout(PATIENCE, refused).await.unwrap();
            assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
        }
    });
}

#[test]
fn connections_of_the_host_itself_are_left_to_it() {
    joined("host", async |peer| {
        give_vips(&peer);
        let mut path = ProbePath::open(PROBE, b"host").unwrap();
        let interfaces = BTreeMap::from([("b0".to_owned(), index("b0"))]);
        path.set(BTreeMap::from([(id(), wanted(VIP4))]), &interfaces);
        ip(&format!("route add {VIP4}/32 via 10.7.0.2"));
        serve(&peer, SocketAddr::new(VIP4, PORT));
        serve(&peer, SocketAddr::new(address("10.7.0.2"), PORT));
        echoes(&path.target(id()).unwrap()).await;
        for to in [VIP4, address("10.7.0.2")] {
            let connect = tokio::net::TcpStream::connect(SocketAddr::new(to, PORT));
            timeout(PATIENCE, connect).await.expect("an answer in time").expect("a connection");
        }
    });
}

#[test]
fn a_probe_waits_for_the_way_and_says_what_is_missing() {
    joined("waits", async |peer| {
        give_vips(&peer);
        let mut path = ProbePath::open(PROBE, b"waits").unwrap();
        let interfaces = BTreeMap::from([("b0".to_owned(), index("b0"))]);
        let missing = Wanted { way: Way::Missing("nobody knows".to_owned()), ..wanted(VIP4) };
        path.set(BTreeMap::from([(id(), missing.clone())]), &interfaces);
        let target = path.target(id()).unwrap();
        assert_eq!(target.why_silent(), "nobody knows");
        serve(&peer, missing.vip);
        let waiting = tokio::spawn({
            let target = Arc::clone(&target);
            async move { target.tcp().await?.0.connect(target.vip()).await.map(drop) }
        });
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        path.set(BTreeMap::from([(id(), wanted(VIP4))]), &interfaces);
        assert!(Arc::ptr_eq(&target, &path.target(id()).unwrap()), "the check goes on");
        timeout(PATIENCE, waiting).await.unwrap().unwrap().unwrap();
        assert_eq!(target.why_silent(), "is the VIP there?");
        let way = Way::Impossible("no address".to_owned());
        path.set(BTreeMap::from([(id(), Wanted { way, ..missing })]), &interfaces);
        let error = target.tcp().await.unwrap_err();
        assert_eq!(
            (error.kind(), error.to_string().as_str()),
            (io::ErrorKind::AddrNotAvailable, "no address")
        );
    });
}

#[test]
fn nothing_is_left_when_it_ends() {
    joined("ends", async |_peer| {
        let before = links();
        let mut path = ProbePath::open(PROBE, b"ends").unwrap();
        path.set(BTreeMap::from([(id(), wanted(VIP4))]), &BTreeMap::new());
        assert_ne!(links(), before);
        drop(path);
        let begin = std::time::Instant::now();
        // The kernel takes a namespace down later.
        while links() != before {
            assert!(begin.elapsed() < PATIENCE, "{}", links());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
}

fn links() -> String {
    let output = Command::new("ip").args(["-br", "link"]).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines().filter_map(|line| line.split_whitespace().next()).collect::<Vec<_>>().join(" ")
}
