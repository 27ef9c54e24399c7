//! A network namespace of the benchmark's own, whose routes lead to all clients by one gateway: what
//! is measured of answers goes by the kernel's routes.

use std::{
    fs, io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    time::Duration,
};

use anyhow::Context as _;
use futures_util::TryStreamExt as _;
use lb_common::layout::{ClientRoute, ClientRoutes};
use netlink_packet_route::{neighbour::NeighbourState, route::RouteFlags};
use rtnetlink::{Handle, LinkUnspec, LinkVeth, RouteMessageBuilder};

use crate::network::NextHops;

/// The interface that everything comes in by and leaves by.
const INTERFACE: &str = "bench0";
/// Its other end, where nobody is.
const PEER: &str = "bench1";
const LOOPBACK: u32 = 1;
/// How long the routes that were made are looked for.
const PATIENCE: Duration = Duration::from_secs(10);
/// The way to all clients.
const GATEWAYS: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(198, 18, 255, 254)),
    IpAddr::V6(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0xfe)),
];
const GATEWAY_MAC: [u8; 6] = [2, 0, 0, 0xc, 0, 0xfe];

/// Moves the calling thread into a namespace of its own, which is gone when the thread is. Gives the
/// number of the interface, and the routes toward clients as the agent would tell them.
///
/// # Errors
/// The kernel refuses.
pub(crate) fn enter() -> anyhow::Result<(u32, ClientRoutes)> {
    // SAFETY: affects this thread alone.
    if unsafe { libc::unshare(libc::CLONE_NEWNET) } != 0 {
        return Err(io::Error::last_os_error()).context("can't make a network namespace");
    }
    for family in ["ipv4", "ipv6"] {
        let path = format!("/proc/sys/net/{family}/conf/all/forwarding");
        fs::write(&path, "1").with_context(|| format!("can't write {path}"))?;
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("can't start a runtime")?;
    runtime.block_on(async {
        let (connection, handle, _) =
            rtnetlink::new_connection().context("can't open a netlink socket")?;
        tokio::spawn(connection);
        let ifindex = wire(&handle).await.context("can't lay out the benchmark's network")?;
        Ok((ifindex, client_routes().await?))
    })
}

async fn client_routes() -> anyhow::Result<ClientRoutes> {
    let next_hops = NextHops::start().context("can't follow the kernel's routes")?;
    next_hops.tell_client_routes(true);
    let mut told = next_hops.client_routes();
    let is_known = |route: &ClientRoute| route.is_known != 0;
    let both = told.wait_for(|told| told.v4.iter().any(is_known) && told.v6.iter().any(is_known));
    let found = tokio::time::timeout(PATIENCE, both).await;
    Ok(*found.context("the routes toward clients can't be told")??)
}

async fn wire(handle: &Handle) -> Result<u32, anyhow::Error> {
    handle.link().add(LinkVeth::new(INTERFACE, PEER).build()).execute().await?;
    let (ifindex, peer) = (index(handle, INTERFACE).await?, index(handle, PEER).await?);
    // The kernel takes no gateway before it has an address of its own, the loopback's.
    for ifindex in [LOOPBACK, peer, ifindex] {
        handle.link().set(LinkUnspec::new_with_index(ifindex).up().build()).execute().await?;
    }
    for gateway in GATEWAYS {
        let neighbour = handle.neighbours().add(ifindex, gateway);
        neighbour
            .link_layer_address(&GATEWAY_MAC)
            .state(NeighbourState::Permanent)
            .execute()
            .await?;
        let route = match gateway {
            IpAddr::V4(gateway) => {
                let route = RouteMessageBuilder::<Ipv4Addr>::new().gateway(gateway);
                let mut route = route.output_interface(ifindex).build();
                route.header.flags.insert(RouteFlags::Onlink);
                route
            }
            IpAddr::V6(gateway) => {
                let route = RouteMessageBuilder::<Ipv6Addr>::new().gateway(gateway);
                route.output_interface(ifindex).build()
            }
        };
        handle.route().add(route).execute().await?;
    }
    Ok(ifindex)
}

async fn index(handle: &Handle, name: &str) -> Result<u32, anyhow::Error> {
    let links = handle.link().get().match_name(name.to_owned()).execute();
    let links: Vec<_> = links.try_collect().await?;
    links.first().map(|link| link.header.index).context("an interface is missing")
}
