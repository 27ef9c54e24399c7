//! The routes toward clients against the real kernel.

use lb_common::{
    layout::{ClientRoutes, FAMILY_V4, FAMILY_V6},
    network::{mapped, words},
};

use super::*;

/// Where a client's packets go, as the program finds it.
fn next_hop(routes: &ClientRoutes, client: &str) -> Option<[u8; 6]> {
    let (client, family) = match address(client) {
        IpAddr::V4(client) => (mapped(client.octets()), FAMILY_V4),
        IpAddr::V6(client) => (client.octets(), FAMILY_V6),
    };
    let way = routes.way(words(client), family)?;
    assert_eq!(way.mtu, 1500);
    let [first, second, _] = way.macs.map(u32::to_ne_bytes);
    Some([first[0], first[1], first[2], first[3], second[0], second[1]])
}

async fn arrives(
    next_hops: &NextHops,
    client: &str,
    to: Option<[u8; 6]>,
    patience: Duration,
) -> bool {
    let mut told = next_hops.client_routes();
    let there = told.wait_for(|routes| next_hop(routes, client) == to);
    tokio::time::timeout(patience, there).await.is_ok()
}

async fn goes(next_hops: &NextHops, client: &str, to: Option<[u8; 6]>, after: &str) {
    if !arrives(next_hops, client, to, DEADLINE).await {
        panic!("{client} after {after:?}: {:?}", next_hops.client_routes().borrow());
    }
}

#[test]
fn routes_toward_clients_follow_the_kernels() {
    joined("client_routes", async |_peer| {
        let next_hops = start(&[]);
        next_hops.tell_client_routes(true);
        for (version, client, gateway, near) in [
            ("-4", "203.0.113.9", "10.7.0.2", "10.7.0.77"),
            ("-6", "2001:db8:99::9", "2001:db8:7::2", "2001:db8:7::77"),
        ] {
            let default = format!("{version} route add default via {gateway}");
            // Each, and what takes it back.
            let doubts = [
                (
                    format!("{version} route add default via {near} metric 9000"),
                    format!("{version} route del default via {near} metric 9000"),
                ),
                (
                    format!("{version} rule add from {client} lookup 100"),
                    format!("{version} rule del from {client} lookup 100"),
                ),
                (
                    format!(
                        "{version} route replace default nexthop via {gateway} nexthop via {near}"
                    ),
                    format!("{version} route replace default via {gateway}"),
                ),
                (
                    format!("{version} route replace default via {gateway} mtu 1400"),
                    format!("{version} route replace default via {gateway}"),
                ),
                (
                    format!("{version} route add blackhole {client}"),
                    format!("{version} route del blackhole {client}"),
                ),
                ("link set b0 down".to_owned(), "link set b0 up".to_owned()),
            ];
            ip(&default);
            for (doubt, certain) in doubts {
                goes(&next_hops, client, Some(PEER_MAC), &default).await;
                assert_eq!(next_hop(&next_hops.client_routes().borrow(), near), None);
                ip(&doubt);
                goes(&next_hops, client, None, &doubt).await;
                ip(&certain);
            }
            // It went with the interface.
            ip("addr add 2001:db8:7::1/64 dev b0 nodad");
            ip(&default);
            goes(&next_hops, client, Some(PEER_MAC), &default).await;
            let other =
                format!("neigh replace {gateway} lladdr 02:00:00:00:09:09 dev b0 nud permanent");
            ip(&other);
            // Whoever asks for it at this moment makes it an ordinary one, which the peer answers for.
            let followed = async {
                loop {
                    ip(&other);
                    let to = Some([2, 0, 0, 0, 9, 9]);
                    if arrives(&next_hops, client, to, Duration::from_millis(500)).await {
                        break;
                    }
                }
            };
            tokio::time::timeout(DEADLINE, followed).await.expect("the gateway's new address");
        }
        next_hops.tell_client_routes(false);
        goes(&next_hops, "2001:db8:99::9", None, "nobody wants them").await;
        assert_eq!(*next_hops.client_routes().borrow(), ClientRoutes::VACANT);
    });
}
