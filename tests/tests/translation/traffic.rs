//! What goes through the balancer: iperf3, HTTP, UDP echo, dnsperf.

use std::fmt::Write as _;
use std::io::Read as _;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;
use std::{fs, io};

use anyhow::{Context, Result, ensure};
use nix::sys::socket::setsockopt;
use nix::sys::socket::sockopt::RcvBufForce;
use serde_json::Value;
use socket2::{Domain, Socket, Type};
use xlb_tests::clients::{http, udp};
use xlb_tests::frames::{pcap, tshark};
use xlb_tests::lab::{Host, Lab};
use xlb_tests::netns::run;
use xlb_tests::process::Process;
use xlb_tests::{scratch, wait};

use crate::{BULK, DNS, ECHO, Row, WEB};

/// iperf3's.
pub const BULK_PORT: u16 = 5201;
/// DNS's.
pub const DNS_PORT: u16 = 53;

const READY: Duration = Duration::from_secs(10);
const PATIENCE: Duration = Duration::from_secs(30);
/// Names that are asked for.
const NAMES: usize = 250;
/// The first source port of UDP flows.
const FIRST_PORT: u16 = 20_000;
/// Bytes of captured frames that wait.
const ROOM: usize = 64 << 20;
/// Bytes of an Ethernet header.
const ETHERNET_LEN: usize = 14;
/// Bytes of a datagram.
const DATAGRAM: usize = 1200;

/// How much is sent.
#[derive(Clone, Copy, Debug)]
pub struct Effort {
    /// Bytes by iperf3, each way.
    bulk: usize,
    /// Bytes down and up whose digests are compared.
    compared: usize,
    /// HTTP requests, each over a connection of its own.
    requests: usize,
    /// UDP flows.
    flows: u16,
    /// How often each name is asked for.
    rounds: usize,
}

impl Effort {
    /// A little of everything.
    pub const SAMPLE: Self =
        Self { bulk: 1 << 20, compared: 1 << 20, requests: 100, flows: 100, rounds: 1 };
    /// As much as shall go through.
    pub const FULL: Self =
        Self { bulk: 64 << 20, compared: 16 << 20, requests: 10_000, flows: 1_000, rounds: 20 };
}

/// Sends everything, and fails unless all is answered, and rightly.
pub fn through(lab: &Lab, row: Row, effort: Effort) -> Result<()> {
    let client = &lab.client.namespace;
    let source = lab.client.address(row.vip);
    udp::flows(client, source, FIRST_PORT, row.target(ECHO), effort.flows, DATAGRAM)?
        .all_answered(effort.flows.into())?;
    dns(lab, row, effort.rounds)?;
    http::load(client, row.target(WEB), effort.requests, 50)?.all_answered(effort.requests)?;
    http::download(client, row.target(WEB), effort.compared, PATIENCE)?;
    http::upload(client, row.target(WEB), effort.compared, PATIENCE)?;
    bulk(lab, row, effort.bulk)
}

fn bulk(lab: &Lab, row: Row, bytes: usize) -> Result<()> {
    let target = row.target(BULK);
    for way in [&[][..], &["--reverse"]] {
        let mut iperf = lab.client.namespace.command("iperf3");
        iperf.args(["--client", &target.ip().to_string(), "--port", &target.port().to_string()]);
        iperf.args(["--json", "--bytes", &bytes.to_string(), "--connect-timeout", "5000"]);
        let told: Value = serde_json::from_str(&run(iperf.args(way), "")?)?;
        let of = |sum: &str| told["end"][sum]["bytes"].as_u64();
        let (sent, received) = (of("sum_sent"), of("sum_received"));
        // What is under way at the end isn't counted.
        let all = sent >= Some(bytes as u64) && received > Some(0);
        ensure!(all, "iperf3 {way:?}: {sent:?} of {bytes} bytes sent, {received:?} received");
    }
    Ok(())
}

fn dns(lab: &Lab, row: Row, rounds: usize) -> Result<()> {
    let files = scratch::directory()?;
    let path = files.path().join("names");
    let names = (0..NAMES).fold(String::new(), |mut text, n| {
        // Writing to a string can't fail.
        let _ = writeln!(text, "host-{n}.example A");
        text
    });
    fs::write(&path, names)?;
    let target = row.target(DNS);
    let mut dnsperf = lab.client.namespace.command("dnsperf");
    dnsperf.args(["-s", &target.ip().to_string(), "-p", &target.port().to_string()]);
    dnsperf.args(["-n", &rounds.to_string(), "-c", "20", "-q", "50", "-d"]).arg(&path);
    let told = run(&mut dnsperf, "")?;
    let value = |name: &str| {
        told.lines().find_map(|line| line.trim().strip_prefix(name)).unwrap_or_default().trim()
    };
    let all = (rounds * NAMES).to_string();
    ensure!(value("Queries completed:").starts_with(&format!("{all} (100.00%)")), "{told}");
    ensure!(value("Response codes:").starts_with(&format!("NOERROR {all} ")), "{told}");
    Ok(())
}

/// The servers that aren't ours, on every backend.
pub struct Programs {
    _running: Vec<Process>,
}

impl Programs {
    /// Starts them.
    pub fn start(lab: &Lab) -> Result<Self> {
        let mut running = Vec::new();
        for host in &lab.backends {
            let mut iperf = host.namespace.command("iperf3");
            iperf.args(["--server", "--port", &BULK_PORT.to_string()]);
            let mut dnsmasq = host.namespace.command("dnsmasq");
            dnsmasq.args(["--keep-in-foreground", "--no-resolv", "--no-hosts", "--pid-file="]);
            dnsmasq.args(["--conf-file=/dev/null", "--user=root", "--dns-forward-max=1000"]);
            dnsmasq.arg("--address=/#/192.0.2.80");
            for (name, command) in [("iperf3", &mut iperf), ("dnsmasq", &mut dnsmasq)] {
                running.push(Process::start(&format!("{name} on {}", host.name), command)?);
            }
            let listening = || {
                let listening = run(host.namespace.command("ss").arg("-tulnH"), "")?;
                let missing = [BULK_PORT, DNS_PORT]
                    .into_iter()
                    .find(|port| !listening.contains(&format!(":{port} ")));
                ensure!(missing.is_none(), "nobody listens on {missing:?}: {listening}");
                Ok(())
            };
            wait::until("servers to listen", READY, listening)?;
        }
        Ok(Self { _running: running })
    }
}

/// All frames that a host receives.
pub struct Capture {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Result<Vec<Vec<u8>>>>,
    /// The longest frame in bytes that comes by a wire.
    longest: usize,
}

impl Capture {
    /// Begins, at once.
    pub fn start(host: &Host) -> Result<Self> {
        let all = nix::libc::ETH_P_ALL as u16;
        let socket = host.namespace.run(|| {
            let protocol = Some(socket2::Protocol::from(i32::from(all.to_be())));
            Socket::new(Domain::PACKET, Type::RAW, protocol)
        })?;
        let mut socket = socket.context("open a packet socket")?;
        socket.set_read_timeout(Some(Duration::from_millis(20)))?;
        setsockopt(&socket, RcvBufForce, &ROOM)?;
        let links = host.namespace.ip_json("link show eth0")?;
        let mtu = links[0]["mtu"].as_u64().context("eth0 has no MTU")?;
        let longest = ETHERNET_LEN + usize::try_from(mtu)?;
        let (stop, own) = (Arc::new(AtomicBool::new(false)), host.mac);
        let stopped = Arc::clone(&stop);
        let thread = thread::spawn(move || {
            let mut frames = Vec::new();
            let mut frame = vec![0; 1 << 17];
            loop {
                match socket.read(&mut frame) {
                    Ok(len) if frame.starts_with(&own) => frames.push(frame[..len].to_vec()),
                    Ok(_) => {}
                    // Nothing is left.
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                        if stopped.load(Ordering::Relaxed) {
                            return Ok(frames);
                        }
                    }
                    Err(error) => return Err(error).context("read frames"),
                }
            }
        });
        Ok(Self { stop, thread, longest })
    }

    /// Ends, and fails where tshark finds fault with a frame, or doesn't find everything in it.
    pub fn judge(self) -> Result<()> {
        self.stop.store(true, Ordering::Relaxed);
        let mut frames = self.thread.join().ok().context("the capture panicked")??;
        // The kernel put those together, after it had verified what they are from (GRO).
        frames.retain(|frame| frame.len() <= self.longest);
        let files = scratch::directory()?;
        let path = files.path().join("frames.pcap");
        pcap::write(&path, &frames)?;
        tshark::rightly_summed(&path)?;
        let mut tshark = Command::new("tshark");
        tshark.arg("-r").arg(&path).args(["-T", "fields", "-e", "frame.protocols"]);
        let stacks = run(&mut tshark, "")?;
        for protocol in ["tcp", "udp"] {
            let has = |stack: &str| stack.split(':').any(|part| part == protocol);
            let found = stacks.lines().filter(|stack| has(stack)).count();
            ensure!(found > 50, "{found} frames of {protocol} were captured");
        }
        Ok(())
    }
}

/// Fails if the host's kernel ever met a wrong checksum.
pub fn no_bad_checksum(host: &Host) -> Result<()> {
    let mut nstat = host.namespace.command("nstat");
    nstat.args(["-asz", "--json", "*InCsumErrors"]);
    let counts: Value = serde_json::from_str(&run(&mut nstat, "")?)?;
    let counts = counts["kernel"].as_object().context("nstat tells nothing")?;
    ensure!(counts.contains_key("TcpInCsumErrors"), "nstat tells nothing of TCP: {counts:?}");
    let bad: Vec<_> = counts.iter().filter(|(_, count)| count.as_u64() != Some(0)).collect();
    ensure!(bad.is_empty(), "{} met bad checksums: {bad:?}", host.name);
    Ok(())
}
