//! Modes in which backends get packets under addresses of their own: everything that clients send
//! through them, and all of its answers, arrives whole.

mod traffic;

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use xlb_tests::clients::http;
use xlb_tests::lab::{CLIENT_MTU, Family, Lab, Topology};
use xlb_tests::netns::run;
use xlb_tests::servers::{HTTP_PORT, Server, UDP_PORT};
use xlb_tests::xlb::{Agent, Backend, Forward, Protocol, Service, Settings};
use xlb_tests::{need_root, wait};

use traffic::{Capture, Effort, Programs};

const READY: Duration = Duration::from_secs(20);
const BACKENDS: u8 = 2;

/// A mode, the family of VIPs and that of backends.
#[derive(Clone, Copy, Debug)]
struct Row {
    forward: Forward,
    vip: Family,
    backends: Family,
}

/// Every row of the matrix.
const ROWS: [Row; 6] = [
    Row { forward: Forward::Nat, vip: Family::V4, backends: Family::V4 },
    Row { forward: Forward::Nat, vip: Family::V6, backends: Family::V6 },
    Row { forward: Forward::Fullnat, vip: Family::V4, backends: Family::V4 },
    Row { forward: Forward::Fullnat, vip: Family::V6, backends: Family::V6 },
    Row { forward: Forward::Fullnat, vip: Family::V6, backends: Family::V4 },
    Row { forward: Forward::Fullnat, vip: Family::V4, backends: Family::V6 },
];

/// What is served, on which port of the VIP and of the backends.
#[derive(Clone, Copy)]
struct Offer {
    name: &'static str,
    protocol: Protocol,
    vip_port: u16,
    port: u16,
    backends: usize,
}

const fn offer(name: &'static str, protocol: Protocol, vip_port: u16, port: u16) -> Offer {
    Offer { name, protocol, vip_port, port, backends: BACKENDS as usize }
}

const WEB: Offer = offer("web", Protocol::Tcp, 8000, HTTP_PORT);
const ECHO: Offer = offer("echo", Protocol::Udp, 8007, UDP_PORT);
const DNS: Offer = offer("dns", Protocol::Udp, 8053, traffic::DNS_PORT);
/// A test of iperf3 is two connections to one server.
const BULK: Offer = Offer { backends: 1, ..offer("bulk", Protocol::Tcp, 8201, traffic::BULK_PORT) };

impl Row {
    fn target(self, offer: Offer) -> SocketAddr {
        self.vip.vip_port(offer.vip_port)
    }

    fn settings(self, lab: &Lab) -> Settings {
        let service = |offer: Offer| {
            let backends = lab.addresses(self.backends).into_iter().take(offer.backends);
            let backends = backends.map(|address| Backend {
                address: SocketAddr::new(address, offer.port).to_string(),
                ..Backend::new(address)
            });
            Service {
                backends: backends.collect(),
                ..Service::new(offer.name, self.target(offer), offer.protocol, self.forward)
            }
        };
        Settings {
            interfaces: lab.interfaces().iter().map(|&name| name.to_owned()).collect(),
            services: [WEB, ECHO, DNS, BULK].map(service).into(),
            ..Settings::default()
        }
    }
}

#[test]
fn everything_arrives_whole_by_one_nic() -> Result<()> {
    need_root!();
    matrix(Topology::OneNicGateway)
}

#[test]
fn everything_arrives_whole_by_two_nics() -> Result<()> {
    need_root!();
    matrix(Topology::TwoNicsGateway)
}

/// All rows in a network: a little of everything under the eyes of tshark at both ends, then much of
/// it, after which no host has met a bad checksum.
fn matrix(topology: Topology) -> Result<()> {
    let lab = Lab::new(topology, BACKENDS)?;
    let _servers = Server::start_all(&lab.backends)?;
    let _programs = Programs::start(&lab)?;
    for row in ROWS {
        let _agent = Agent::start(&lab.balancer.namespace, &row.settings(&lab))?;
        wait::until("the services to be there", READY, || {
            let client = &lab.client.namespace;
            http::load(client, row.target(WEB), 40, 20)?.served_by(["b1", "b2"])
        })?;
        let both = || {
            let captures = [Capture::start(&lab.client)?, Capture::start(&lab.backends[0])?];
            traffic::through(&lab, row, Effort::SAMPLE)?;
            captures.into_iter().try_for_each(Capture::judge)?;
            traffic::through(&lab, row, Effort::FULL)?;
            let hosts = lab.backends.iter().chain([&lab.client]);
            hosts.into_iter().try_for_each(traffic::no_bad_checksum)
        };
        both().with_context(|| format!("{topology:?} {row:?}"))?;
    }
    Ok(())
}

/// Who asks the VIP is answered by the host that has it, who asks a backend by the backend; probes of
/// a path end at the VIP, with the length that fits.
#[test]
fn ping_and_tracepath_tell_of_the_vip() -> Result<()> {
    need_root!();
    for topology in [Topology::OneNicGateway, Topology::TwoNicsGateway] {
        let lab = Lab::new(topology, 1)?;
        let client = &lab.client.namespace;
        for row in ROWS {
            let vip = row.vip.vip();
            let bits = if vip.is_ipv4() { 32 } else { 128 };
            lab.balancer.namespace.ip(&format!("addr replace {vip}/{bits} dev lo"))?;
            // Every port: a path is probed on ports that nobody listens on.
            let any = Service::new("any", row.vip.vip_port(1), Protocol::Udp, row.forward);
            let host = if vip.is_ipv4() { vip.to_string() } else { format!("[{vip}]") };
            let any = Service { vip: format!("{host}:*"), ..any };
            let mut settings = row.settings(&lab);
            settings.services = vec![any.to(lab.addresses(row.backends))];
            let _agent = Agent::start(&lab.balancer.namespace, &settings)?;

            for asked in [vip, lab.backends[0].address(row.backends)] {
                let mut ping = client.command("ping");
                ping.args(["-n", "-c", "3", "-i", "0.2", "-W", "2", "-s", "1300", "-M", "do"]);
                let told = run(ping.arg(asked.to_string()), "")?;
                ensure!(told.contains("3 received"), "{topology:?} {row:?}: {told}");
            }
            wait::until("the path to be told", READY, || {
                let told = run(client.command("tracepath").args(["-n", &vip.to_string()]), "")?;
                let hop = told.lines().find(|line| line.contains("reached"));
                let hop = hop.with_context(|| format!("the end isn't reached: {told}"))?;
                ensure!(hop.contains(&vip.to_string()), "{told}");
                ensure!(told.contains(&format!("pmtu {CLIENT_MTU} hops 1 back 1")), "{told}");
                Ok(())
            })
            .with_context(|| format!("{topology:?} {row:?}"))?;
        }
    }
    Ok(())
}
