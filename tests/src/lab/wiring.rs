//! Puts the lab's namespaces, links, addresses and routes in place.

use std::net::{Ipv4Addr, Ipv6Addr};

use anyhow::Result;

use super::layout::{CLIENT_MTU, Network, SEGMENT_MTU, Topology};
use super::{Host, Lab, VIP4, VIP6, receiver};
use crate::frames::mac_text;
use crate::netns::{Namespace, run};

/// The client's number in its network.
const CLIENT: u8 = 1;
/// The balancer's number in each network.
const BALANCER: u8 = 2;
/// The number of a host that isn't one of the clients.
const STRANGER: u8 = 3;
/// The first backend's number.
const BACKENDS: u8 = 11;

pub(super) fn build(topology: Topology, backends: u8) -> Result<Lab> {
    let front = Network::CLIENT;
    let back = Network::of_backends(topology);
    let switch = namespace("switch")?;
    switch.ip("link add br0 type bridge stp_state 0 forward_delay 0 mcast_snooping 0")?;
    switch.ip("link set br0 up")?;

    let client = host("client", "client", front, CLIENT)?;
    let balancer = host("balancer", "balancer", back, BALANCER)?;
    match topology {
        Topology::OneSegment | Topology::OneNicGateway => {
            plug_in(&switch, &client, "eth0", CLIENT_MTU)?;
            plug_in(&switch, &balancer, "eth0", SEGMENT_MTU)?;
            receiver::attach(&switch, "p-balancer")?;
        }
        Topology::TwoNics | Topology::TwoNicsGateway => {
            between(&client, &balancer.namespace)?;
            receiver::attach(&client.namespace, "eth0")?;
            plug_in(&switch, &balancer, "back", SEGMENT_MTU)?;
        }
    }
    if topology != Topology::OneSegment {
        let far = if topology.has_two_nics() { "front" } else { "eth0" };
        address(&balancer.namespace, far, front.v4(BALANCER), front.v6(BALANCER))?;
        balancer.namespace.sysctl("net/ipv4/ip_forward", "1")?;
        balancer.namespace.sysctl("net/ipv6/conf/all/forwarding", "1")?;
    }
    let near = if topology.has_two_nics() { "back" } else { "eth0" };
    address(&client.namespace, "eth0", client.v4, client.v6)?;
    address(&balancer.namespace, near, balancer.v4, balancer.v6)?;
    gateway(&client.namespace, front)?;
    client.namespace.sysctl("net/ipv4/ip_local_port_range", "1024 65535")?;
    client.namespace.sysctl("net/ipv4/tcp_tw_reuse", "1")?;

    let backends = (0..backends)
        .map(|index| backend(topology, &switch, back, index))
        .collect::<Result<Vec<_>>>()?;
    Ok(Lab { client, balancer, backends, switch, topology })
}

/// One more host beside the client, which holds no virtual address.
pub(super) fn stranger(lab: &Lab) -> Result<Host> {
    let host = host("stranger", "stranger", Network::CLIENT, STRANGER)?;
    plug_in(&lab.switch, &host, "eth0", CLIENT_MTU)?;
    address(&host.namespace, "eth0", host.v4, host.v6)?;
    gateway(&host.namespace, Network::CLIENT)?;
    Ok(host)
}

fn backend(topology: Topology, switch: &Namespace, network: Network, index: u8) -> Result<Host> {
    let name = format!("b{}", index + 1);
    let host = host(&name, &name, network, BACKENDS + index)?;
    // Only the balancer answers ARP for the virtual address (it lives on the loopback here).
    for part in ["all", "default"] {
        host.namespace.sysctl(&format!("net/ipv4/conf/{part}/arp_ignore"), "1")?;
        host.namespace.sysctl(&format!("net/ipv4/conf/{part}/arp_announce"), "2")?;
    }
    plug_in(switch, &host, "eth0", SEGMENT_MTU)?;
    // Backends send packets on to each other.
    receiver::attach(switch, &format!("p-{name}"))?;
    address(&host.namespace, "eth0", host.v4, host.v6)?;
    if topology.is_direct() {
        let vips = format!("addr add {VIP4}/32 dev lo\naddr add {VIP6}/128 dev lo nodad");
        host.namespace.ip(&vips)?;
    } else {
        // The servers bind to them all the same.
        host.namespace.sysctl("net/ipv4/ip_nonlocal_bind", "1")?;
        host.namespace.sysctl("net/ipv6/ip_nonlocal_bind", "1")?;
    }
    if topology != Topology::OneSegment {
        gateway(&host.namespace, network)?;
    }
    Ok(host)
}

/// A namespace where asymmetric ways are welcome and addresses are usable at once.
fn namespace(role: &str) -> Result<Namespace> {
    let namespace = Namespace::new(role)?;
    for part in ["all", "default"] {
        // The answers' source is the virtual address, which has no route back the way it came.
        namespace.sysctl(&format!("net/ipv4/conf/{part}/rp_filter"), "0")?;
        namespace.sysctl(&format!("net/ipv4/conf/{part}/send_redirects"), "0")?;
        namespace.sysctl(&format!("net/ipv6/conf/{part}/accept_dad"), "0")?;
        namespace.sysctl(&format!("net/ipv6/conf/{part}/accept_ra"), "0")?;
    }
    Ok(namespace)
}

fn host(role: &str, name: &str, network: Network, number: u8) -> Result<Host> {
    Ok(Host {
        namespace: namespace(role)?,
        name: name.to_owned(),
        v4: network.v4(number),
        v6: network.v6(number),
        mac: network.mac(number),
    })
}

/// Links a host to the bridge; the bridge's end is called `p-<host>`.
fn plug_in(switch: &Namespace, host: &Host, device: &str, mtu: u16) -> Result<()> {
    let port = format!("p-{}", host.name);
    switch.ip(&format!(
        "link add {port} mtu {mtu} type veth peer name {device} netns {} mtu {mtu} address {}",
        host.namespace.name(),
        mac_text(host.mac)
    ))?;
    offloads(switch, &port)?;
    offloads(&host.namespace, device)?;
    switch.ip(&format!("link set {port} master br0 up"))?;
    host.namespace.ip(&format!("link set {device} up"))
}

/// Links the client straight to the balancer's `front`.
fn between(client: &Host, balancer: &Namespace) -> Result<()> {
    client.namespace.ip(&format!(
        "link add eth0 mtu {CLIENT_MTU} address {} type veth \
         peer name front netns {} mtu {CLIENT_MTU} address {}",
        mac_text(client.mac),
        balancer.name(),
        mac_text(Network::CLIENT.mac(BALANCER)),
    ))?;
    offloads(&client.namespace, "eth0")?;
    offloads(balancer, "front")?;
    client.namespace.ip("link set eth0 up")?;
    balancer.ip("link set front up")
}

/// Whole checksums and single segments on the wire, as an XDP program that passes frames on needs
/// them; GRO, so that the device may receive what XDP redirects to its peer.
fn offloads(namespace: &Namespace, device: &str) -> Result<()> {
    let mut command = namespace.command("ethtool");
    command.args(["-K", device, "tx", "off", "tso", "off", "gso", "off", "gro", "on"]);
    run(&mut command, "")?;
    Ok(())
}

fn address(namespace: &Namespace, device: &str, v4: Ipv4Addr, v6: Ipv6Addr) -> Result<()> {
    namespace.ip(&format!("addr add {v4}/24 dev {device}\naddr add {v6}/64 dev {device} nodad"))
}

/// Makes the balancer the default gateway.
fn gateway(namespace: &Namespace, network: Network) -> Result<()> {
    let (v4, v6) = (network.v4(BALANCER), network.v6(BALANCER));
    namespace.ip(&format!("route add default via {v4}\nroute add default via {v6}"))
}
