//! What shall be, from the config, the health of backends and the ways to them: pure.

use std::{
    cell::LazyCell,
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use crate::{
    config::{BackendConfig, NextHop, ServiceConfig},
    live::Live,
    model::{Backend, BackendKey, Desired, MacAddress, Pools, Protocol, Route, Service},
    network::{Interfaces, Resolution},
    state::History,
};

/// What all backends' frames have in common.
#[derive(Clone, Debug)]
pub struct Frames {
    /// Next hop of backends that name none.
    pub next_hop: NextHop,
    /// Configured source of outer IPv4 headers.
    pub source_ipv4: Option<Ipv4Addr>,
    /// Configured source of outer IPv6 headers.
    pub source_ipv6: Option<Ipv6Addr>,
    /// The configured interfaces, by name.
    pub interfaces: Vec<String>,
    /// Where packets under `fullnat` come from.
    pub pools: Pools,
    /// Echo requests are answered for VIPs whose services say nothing else.
    pub icmp_echo: bool,
}

/// What shall be. `live` tells what a backend does now, `awaits_probe` whether its first probe
/// hasn't ended.
pub fn desired(
    services: &[ServiceConfig],
    history: &Former<'_>,
    frames: &Frames,
    ways: &BTreeMap<IpAddr, Resolution>,
    interfaces: &Interfaces,
    live: impl Fn(&ServiceConfig, BackendKey) -> Live,
    awaits_probe: impl Fn(&ServiceConfig, BackendKey) -> bool,
) -> Desired {
    let backend = |service: &ServiceConfig,
                   was_counted: &dyn Fn(BackendKey) -> bool,
                   backend: &BackendConfig| {
        let live = live(service, backend.key);
        let way = ways.get(&backend.key.address);
        let route = frames.route(backend, way, interfaces);
        let asked = route.is_none() && way.is_none_or(Resolution::is_asking);
        let unknown = awaits_probe(service, backend.key) || asked;
        Backend {
            key: backend.key,
            weight: backend.weight,
            live_permille: live.permille,
            counted: !unknown || was_counted(backend.key),
            alive: live.alive,
            forward: backend.forward.unwrap_or(service.forward),
            route,
        }
    };
    let leaving =
        |service: &ServiceConfig| history.leaving.get(&service.name).map_or(&[][..], Vec::as_slice);
    let service = |service: &ServiceConfig| {
        let last = LazyCell::new(|| history.rings.last_live(service.key));
        // Without a ring before there is nothing that would move twice: it begins as the ring of
        // any other balancer.
        let was_counted = |key| last.is_empty() || last.contains_key(&key);
        let backend = |config: &BackendConfig| backend(service, &was_counted, config);
        Service {
            name: service.name.clone(),
            key: service.key,
            affinity: service.affinity,
            icmp_echo: service.icmp_echo.unwrap_or(frames.icmp_echo),
            idle_seconds: idle_seconds(service),
            ring_size: service.ring_size,
            backends: with_ways(service.backends.iter().map(backend).collect()),
            leaving: leaving(service).iter().map(backend).collect(),
            former: history.rings.former(service.key),
        }
    };
    Desired { services: services.iter().map(service).collect(), pools: frames.pools.clone() }
}

/// What was before.
#[derive(Clone, Copy)]
pub struct Former<'a> {
    /// Rings that flows may live by.
    pub rings: &'a History,
    /// Backends that leave, by service name.
    pub leaving: &'a BTreeMap<String, Vec<BackendConfig>>,
}

/// Where some backends can be reached, those that can't take no new flows. Where none can, all
/// keep their part, so that packets are dropped for what is wrong.
fn with_ways(mut backends: Vec<Backend>) -> Vec<Backend> {
    let reachable = |backend: &Backend| backend.route.is_some() && backend.live_permille > 0;
    if backends.iter().any(reachable) {
        backends.iter_mut().filter(|b| b.route.is_none()).for_each(|b| b.live_permille = 0);
    } else {
        let serves = |backend: &&mut Backend| backend.live_permille > 0;
        backends.iter_mut().filter(serves).for_each(|backend| backend.counted = true);
    }
    backends
}

/// How long a flow of the service may be quiet and still be one, in whole seconds, at least 1.
pub fn idle_seconds(service: &ServiceConfig) -> u32 {
    let idle = match service.key.protocol {
        Protocol::Tcp => service.tcp_idle,
        Protocol::Udp => service.udp_timeout,
    };
    let seconds = idle.as_secs() + u64::from(idle.subsec_nanos() > 0);
    seconds.clamp(1, u32::MAX.into()) as u32
}

impl Frames {
    /// The way to a backend, as far as it is known.
    pub(super) fn route(
        &self,
        backend: &BackendConfig,
        way: Option<&Resolution>,
        interfaces: &Interfaces,
    ) -> Option<Route> {
        let source = match backend.key.address {
            IpAddr::V4(_) => self.source_ipv4.map(IpAddr::V4),
            IpAddr::V6(_) => self.source_ipv6.map(IpAddr::V6),
        };
        let configured = self.configured_next_hop(backend);
        let route = way.and_then(|way| way.route(source, configured));
        let mut route = match (route, configured) {
            (Some(route), _) => route,
            // No route in the kernel, but the operator knows the next hop: by the first interface.
            (None, Some(next_hop)) => {
                self.by_first_interface(next_hop, source, backend.key.address, interfaces)?
            }
            (None, None) => return None,
        };
        // Where packets come in by one interface alone, the way back out needs no comparison.
        if let [only] = self.interfaces.as_slice()
            && interfaces.named(only).is_some_and(|only| only.index == route.egress_ifindex)
        {
            route.egress_ifindex = 0;
        }
        Some(route)
    }

    fn configured_next_hop(&self, backend: &BackendConfig) -> Option<MacAddress> {
        backend.next_hop.or(match self.next_hop {
            NextHop::Auto => None,
            NextHop::Mac(mac) => Some(mac),
        })
    }

    fn by_first_interface(
        &self,
        next_hop: MacAddress,
        source: Option<IpAddr>,
        destination: IpAddr,
        interfaces: &Interfaces,
    ) -> Option<Route> {
        let interface = interfaces.named(self.interfaces.first()?)?;
        let own = || {
            let addresses = interface.addresses.iter().map(|address| address.local);
            addresses.into_iter().find(|address| address.is_ipv4() == destination.is_ipv4())
        };
        Some(Route {
            next_hop,
            source_mac: interface.mac?,
            egress_ifindex: interface.index,
            mtu: interface.mtu.try_into().unwrap_or(u16::MAX),
            outer_source: source.or_else(own),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        config::parse,
        live::Standing,
        network::resolution::{Egress, UnresolvedCause},
    };

    const CONFIG: &str = "interfaces = [\"eth0\"]\n[[service]]\nname = \"web\"\nforward = \"l2\"\n\
        vip = \"203.0.113.10:80\"\nbackend = [{ address = \"10.0.0.1\" }, { address = \"10.0.0.2\" }]";
    const ALL: Live = Live { permille: 1000, alive: true, standing: Standing::Serving };
    const UNKNOWN: Live = Live { permille: 0, alive: false, standing: Standing::Pending };

    fn egress() -> Egress {
        Egress {
            interface: "eth0".into(),
            ifindex: 7,
            source_mac: MacAddress([2; 6]),
            mtu: 1500,
            source: None,
        }
    }

    fn unresolved(cause: UnresolvedCause) -> Resolution {
        let gateway = Ipv4Addr::new(10, 0, 0, 2).into();
        Resolution::Unresolved { cause, gateway, egress: egress() }
    }

    fn resolved() -> Resolution {
        let gateway = Ipv4Addr::new(10, 0, 0, 1).into();
        Resolution::Resolved { next_hop: MacAddress([2; 6]), gateway, egress: egress() }
    }

    fn services() -> Vec<ServiceConfig> {
        parse(CONFIG, "test.toml").unwrap().services
    }

    /// Who is in the ring, and its live weight, of two backends: the first is known.
    fn ring(rings: &History, live: Live, way: Option<Resolution>) -> Vec<u16> {
        let services = services();
        let frames = Frames {
            next_hop: NextHop::Auto,
            source_ipv4: None,
            source_ipv6: None,
            interfaces: vec!["eth0".into()],
            pools: Pools::default(),
            icmp_echo: false,
        };
        let [first, second] = [0, 1].map(|index| services[0].backends[index].key);
        let ways = [(first.address, Some(resolved())), (second.address, way)];
        let ways = ways.into_iter().filter_map(|(to, way)| Some((to, way?))).collect();
        let former = Former { rings, leaving: &BTreeMap::new() };
        let waits = live.standing == Standing::Pending;
        let live = |_: &ServiceConfig, key| if key == first { ALL } else { live };
        let awaits_probe = |_: &ServiceConfig, key| key != first && waits;
        let interfaces = Interfaces::default();
        let desired = desired(&services, &former, &frames, &ways, &interfaces, live, awaits_probe);
        desired.services[0].counted().map(|backend| backend.live_permille).collect()
    }

    /// A ring with it at 0 differs from the one without it: slots would move twice.
    #[test]
    fn nobody_moves_slots_before_anything_is_known_of_it() {
        let mut history = History::default();
        let (services, asking) = (services(), || Some(unresolved(UnresolvedCause::Asking)));
        // Where nothing was before, there is nothing to move.
        assert_eq!(ring(&history, UNKNOWN, Some(resolved())), [1000, 0]);
        let first = services[0].backends[0].key;
        history.note(&services[0], 251, 1, |key| (key == first).then_some(1000));
        assert_eq!(ring(&history, UNKNOWN, Some(resolved())), [1000]);
        assert_eq!(ring(&history, ALL, asking()), [1000]);
        assert_eq!(ring(&history, ALL, None), [1000]);
        // What is known keeps it out, or takes it in.
        assert_eq!(ring(&history, ALL, Some(unresolved(UnresolvedCause::Silent))), [1000, 0]);
        assert_eq!(ring(&history, ALL, Some(resolved())), [1000, 1000]);
        // Who was in the ring stays.
        history.note(&services[0], 251, 2, |_| Some(1000));
        assert_eq!(ring(&history, UNKNOWN, Some(resolved())), [1000, 0]);
        assert_eq!(ring(&history, ALL, asking()), [1000, 0]);
    }
}
