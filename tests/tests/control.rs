//! ICMP through the balancer: errors reach the backends that they are meant for, who sends too big
//! packets is told what fits, and pings are answered.

use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use xlb_tests::clients::http;
use xlb_tests::lab::{CLIENT_MTU, Family, Lab, SEGMENT_MTU, Topology};
use xlb_tests::netns::{Namespace, run};
use xlb_tests::scene::{ECHO, Scene};
use xlb_tests::servers::{HTTP_PORT, UDP_PORT};
use xlb_tests::xlb::{Agent, Forward, Protocol, Service, Settings};
use xlb_tests::{need_root, wait};

const READY: Duration = Duration::from_secs(20);
const PATIENCE: Duration = Duration::from_secs(60);
const LARGE: usize = 4 << 20;
const DIRECT: [Forward; 3] = [Forward::L2, Forward::Ipip, Forward::Gue];
/// Whose answers go through the balancer.
const ANSWERED: [Forward; 2] = [Forward::Nat, Forward::Fullnat];
/// What the narrow hop takes.
const NARROW: u16 = 1400;

/// A client behind two routers, with a narrow link between them.
struct Far {
    client: Namespace,
    _hop: Namespace,
    _router: xlb_tests::lab::Host,
}

impl Far {
    /// `stranger` is the router on the segment.
    fn new(lab: &Lab) -> Result<Self> {
        let (client, hop, router) =
            (Namespace::new("far")?, Namespace::new("hop")?, lab.stranger()?);
        let ends = [(&client, "eth0", &hop, "far", SEGMENT_MTU, 73)];
        let ends = ends.into_iter().chain([(&hop, "near", &router.namespace, "hop", NARROW, 74)]);
        for (one, name, other, peer, mtu, network) in ends {
            one.ip(&format!(
                "link add {name} mtu {mtu} type veth peer name {peer} netns {} mtu {mtu}\n\
                 addr add 10.{network}.0.1/24 dev {name}\n\
                 addr add fd{network}::1/64 dev {name} nodad\n\
                 link set {name} up",
                other.name()
            ))?;
            other.ip(&format!(
                "addr add 10.{network}.0.2/24 dev {peer}\n\
                 addr add fd{network}::2/64 dev {peer} nodad\n\
                 link set {peer} up"
            ))?;
            for (namespace, device) in [(one, name), (other, peer)] {
                let mut command = namespace.command("ethtool");
                command.args(["-K", device, "tx", "off", "tso", "off", "gso", "off"]);
                run(&mut command, "")?;
            }
        }
        for namespace in [&hop, &router.namespace] {
            namespace.sysctl("net/ipv4/ip_forward", "1")?;
            namespace.sysctl("net/ipv6/conf/all/forwarding", "1")?;
        }
        router.namespace.ip(&format!("link set eth0 mtu {SEGMENT_MTU}"))?;
        lab.stranger_port(SEGMENT_MTU)?;
        client.ip("route add default via 10.73.0.2\nroute add default via fd73::2")?;
        hop.ip("route add default via 10.74.0.2\nroute add default via fd74::2")?;
        let back = "route add 10.73.0.0/24 via 10.74.0.1\nroute add fd73::/64 via fd74::1";
        router.namespace.ip(back)?;
        for host in &lab.backends {
            let (v4, v6) = (router.v4, router.v6);
            host.namespace.ip(&format!(
                "route add 10.73.0.0/24 via {v4}\nroute add 10.74.0.0/24 via {v4}\n\
                 route add fd73::/64 via {v6}\nroute add fd74::/64 via {v6}"
            ))?;
        }
        Ok(Self { client, _hop: hop, _router: router })
    }
}

/// What a backend sends is too big for a link behind the router: that is told to the VIP, and must
/// reach the one backend of three that sent it.
#[test]
fn answers_fit_a_narrow_hop() -> Result<()> {
    need_root!();
    for forward in DIRECT {
        let scene = Scene::new(Topology::OneSegment, forward, 3)?;
        let far = Far::new(&scene.lab)?;
        for family in Family::ALL {
            let case = || format!("{forward:?} {family:?}");
            let settings = scene.settings(family, 3);
            let _agent = Agent::start(&scene.lab.balancer.namespace, &settings)?;
            let names = scene.names();
            let web = family.vip_port(HTTP_PORT);
            wait::until("the service to be there", READY, || {
                http::load(&far.client, web, 60, 20)?.served_by(names.iter().copied())
            })
            .with_context(case)?;
            // Each of them meets the hop.
            for _ in 0..12 {
                http::download(&far.client, web, LARGE, PATIENCE).with_context(case)?;
            }
            http::upload(&far.client, web, LARGE, PATIENCE).with_context(case)?;
        }
    }
    Ok(())
}

/// With its outer header a client's packet doesn't fit the backends' segment: the client is told,
/// and `tracepath` knows the length that does.
#[test]
fn clients_learn_what_fits_once_it_is_encapsulated() -> Result<()> {
    need_root!();
    for (forward, outer_v4, outer_v6) in [(Forward::Ipip, 20, 40), (Forward::Gue, 32, 52)] {
        let scene = Scene::new(Topology::TwoNics, forward, 2)?;
        let client = &scene.lab.client.namespace;
        scene.lab.balancer.namespace.ip(&format!("link set front mtu {SEGMENT_MTU}"))?;
        client.ip(&format!("link set eth0 mtu {SEGMENT_MTU}"))?;
        for (family, outer) in [(Family::V4, outer_v4), (Family::V6, outer_v6)] {
            let case = || format!("{forward:?} {family:?}");
            let mut settings = scene.settings(family, 2);
            settings.services.push(any_port(family.vip(), &scene, family, forward));
            let agent = Agent::start(&scene.lab.balancer.namespace, &settings)?;
            scene.served_by(family, &["b1", "b2"])?;
            let web = family.vip_port(HTTP_PORT);
            http::upload(client, web, LARGE, PATIENCE).with_context(case)?;
            let told = agent.call(&["stats"])?["icmp_sent_total"]["too_big"].as_u64();
            ensure!(told.is_some_and(|told| told > 0), "{}: {told:?} were told", case());

            let fits = format!("pmtu {}", SEGMENT_MTU - outer);
            let vip = family.vip().to_string();
            wait::until("the path to be told", READY, || {
                let told = run(client.command("tracepath").args(["-n", &vip]), "")?;
                ensure!(told.contains(&fits) && told.contains("reached"), "no {fits}: {told}");
                Ok(())
            })
            .with_context(case)?;
        }
    }
    Ok(())
}

/// Every UDP port but the one of the service `echo`.
fn any_port(vip: IpAddr, scene: &Scene, family: Family, forward: Forward) -> Service {
    let host = if vip.is_ipv4() { vip.to_string() } else { format!("[{vip}]") };
    let any = Service::new("any", family.vip_port(1), Protocol::Udp, forward);
    Service { vip: format!("{host}:*"), ..any }.to(scene.lab.addresses(family))
}

/// Nobody else has the VIP: the program itself answers, also requests in fragments.
#[test]
fn pings_of_a_vip_are_answered() -> Result<()> {
    need_root!();
    for topology in [Topology::OneSegment, Topology::TwoNics] {
        let lab = Lab::new(topology, 1)?;
        let client = &lab.client.namespace;
        let interfaces: Vec<_> = lab.interfaces().iter().map(|&name| name.to_owned()).collect();
        let services = Family::ALL.map(|family| {
            let name = format!("{family:?}").to_lowercase();
            Service::new(&name, family.vip_port(HTTP_PORT), Protocol::Tcp, Forward::L2)
                .to(lab.addresses(family))
        });
        let settings = Settings {
            interfaces,
            icmp_echo: Some(true),
            services: services.into(),
            ..Settings::default()
        };
        let agent = Agent::start(&lab.balancer.namespace, &settings)?;
        for family in Family::ALL {
            for size in ["0", "56", "1300", "4000"] {
                wait::until("the ping to be answered", READY, || {
                    let mut ping = client.command("ping");
                    ping.args(["-n", "-c", "3", "-i", "0.1", "-W", "1", "-s", size]);
                    let told = run(ping.arg(family.vip().to_string()), "")?;
                    ensure!(told.contains("3 received"), "{told}");
                    ensure!(size == "0" || told.contains("ttl=64"), "{told}");
                    Ok(())
                })
                .with_context(|| format!("{topology:?} {family:?} {size}"))?;
            }
        }
        let stats = agent.call(&["stats"])?;
        let echoed = stats["icmp_sent_total"]["echo_reply"].as_u64();
        ensure!(echoed.is_some_and(|echoed| echoed >= 24), "{stats}");

        // A flood gets as many answers as there may be.
        let mut flood = client.command("ping");
        flood.args(["-n", "-f", "-q", "-c", "20000", "-w", "3"]);
        let _ = run(flood.arg(Family::V4.vip().to_string()), "");
        let limited = agent.call(&["stats"])?["drops_total"]["rate_limited"].as_u64();
        ensure!(limited.is_some_and(|limited| limited > 0), "{limited:?} over the bound");
    }
    Ok(())
}

/// A backend's "port unreachable" is about the packet that the client sent.
#[test]
fn port_unreachable_reaches_the_client() -> Result<()> {
    need_root!();
    let gateways = [Topology::OneNicGateway, Topology::TwoNicsGateway];
    for (topology, forward) in gateways.into_iter().flat_map(|t| ANSWERED.map(|f| (t, f))) {
        let scene = Scene::new(topology, forward, 1)?;
        for family in Family::ALL {
            scene.kill_server(0);
            let _agent = Agent::start(&scene.lab.balancer.namespace, &scene.settings(family, 1))?;
            let echo = family.vip_port(UDP_PORT);
            let case = || format!("{topology:?} {forward:?} {family:?}, service {ECHO}");
            scene.lab.client.namespace.run(|| refused(echo))?.with_context(case)?;
            scene.start_server(0)?;
        }
    }
    Ok(())
}

/// Fails unless the kernel says that the port is closed: it takes an ICMP error only if all that is
/// quoted is the socket's own.
fn refused(target: SocketAddr) -> Result<()> {
    let any = if target.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let socket = UdpSocket::bind(any)?;
    socket.connect(target)?;
    socket.set_read_timeout(Some(Duration::from_millis(300)))?;
    wait::until("the closed port to be told", READY, || {
        let asked = socket.send(b"hello").and_then(|_| socket.recv(&mut [0; 64]));
        match asked {
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => Ok(()),
            other => bail!("the answer was {other:?}"),
        }
    })
}

/// The way to the client takes shorter packets than both ends know of.
#[test]
fn answers_that_are_too_long_become_shorter() -> Result<()> {
    need_root!();
    for forward in ANSWERED {
        let scene = Scene::new(Topology::TwoNicsGateway, forward, 1)?;
        let balancer = &scene.lab.balancer.namespace;
        for family in Family::ALL {
            let case = || format!("{forward:?} {family:?}");
            let _agent = Agent::start(balancer, &scene.settings(family, 1))?;
            scene.served_by(family, &["b1"])?;
            balancer.ip("link set front mtu 1300")?;
            let web = family.vip_port(HTTP_PORT);
            let client = &scene.lab.client.namespace;
            http::download(client, web, LARGE, PATIENCE).with_context(case)?;
            balancer.ip(&format!("link set front mtu {CLIENT_MTU}"))?;
        }
    }
    Ok(())
}
