//! A service under load, a second at a time: servers, the ring before them, reports that come late.

use std::{
    net::Ipv4Addr,
    time::{Duration, Instant},
};

use lb_common::ring::{Member, Ring, default_size, member_key};

use crate::{
    live::{AgentState, Check, Input, Lives, LoadPolicy, Policy, Reported},
    model::{BackendKey, Protocol, ServiceKey},
    random::Random,
};

/// Simulated seconds.
pub(crate) const SECONDS: usize = 360;
/// The second in which the work grows by [`STEP`].
pub(crate) const STEP_AT: usize = 180;
const STEP: f64 = 1.4;
/// The work at first, as a part of what all servers can.
const WORK: f64 = 0.5;

/// What is simulated.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Scene {
    /// Servers; the first is half as fast as the others.
    pub(crate) backends: usize,
    /// Seconds until a report tells what is so now.
    pub(crate) delay: usize,
    /// Standard deviation of a report, as a part of what it should say.
    pub(crate) noise: f64,
    /// Mean seconds that a flow lives: load follows the ring with that lag.
    pub(crate) flow_seconds: f64,
}

impl Scene {
    /// Servers by delay, noise and life of flows.
    pub(crate) fn all() -> Vec<Self> {
        let conditions = [(0, 0.0, 1.0), (3, 0.05, 2.0), (5, 0.1, 5.0), (10, 0.05, 2.0)];
        let scene = |backends| {
            conditions.into_iter().map(move |(delay, noise, flow_seconds)| Self {
                backends,
                delay,
                noise,
                flow_seconds,
            })
        };
        [3, 10, 100].into_iter().flat_map(scene).collect()
    }
}

/// What a second was like.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Second {
    /// The busiest server's utilisation over the mean.
    pub(crate) busiest: f64,
    /// Slots that moved, as a part of the ring.
    pub(crate) moved: f64,
}

/// Runs it.
///
/// # Panics
/// If no server has live weight.
pub(crate) fn run(scene: &Scene) -> Vec<Second> {
    let Scene { backends, delay, noise, flow_seconds } = *scene;
    let mut random = Random((backends << 16 | delay << 8) as u64);
    let speed = |server: usize| if server == 0 { 0.5 } else { 1.0 };
    let capacity: f64 = (0..backends).map(speed).sum();
    let slots = default_size(backends);
    let policy = Policy { load: Some(LoadPolicy::default()), ..Policy::default() };
    let mut lives = Lives::default();
    let mut inputs: Vec<Input> = (0..backends).map(input).collect();
    let mut now = Instant::now();
    lives.update(service(), now, &policy, &inputs);

    let mut live = vec![0; backends];
    let mut owners: Vec<u16> = Vec::new();
    let mut share = vec![0.0; backends];
    // Each server's part of the work that is being done.
    let mut part = vec![1.0 / backends as f64; backends];
    let mut past: Vec<Vec<f64>> = Vec::new();
    let mut seconds = Vec::new();
    for second in 0..SECONDS {
        let wanted: Vec<u16> = inputs
            .iter()
            .map(|i| lives.of(service(), i.key).map_or(0, |live| live.permille))
            .collect();
        let mut moved = 0.0;
        if wanted != live {
            live = wanted;
            let after = ring(&live, slots);
            let differing = owners.iter().zip(&after).filter(|(one, other)| one != other).count();
            moved = differing as f64 / f64::from(slots);
            share.fill(0.0);
            after.iter().for_each(|owner| share[usize::from(*owner)] += 1.0 / f64::from(slots));
            owners = after;
        }
        let work = capacity * WORK * if second < STEP_AT { 1.0 } else { STEP };
        let follows = 1.0 - (-1.0 / flow_seconds).exp();
        let utilization: Vec<f64> = (0..backends)
            .map(|server| {
                part[server] += (share[server] - part[server]) * follows;
                part[server] * work / speed(server)
            })
            .collect();
        let mean = utilization.iter().sum::<f64>() / backends as f64;
        let most = utilization.iter().copied().fold(0.0, f64::max);
        seconds.push(Second { busiest: most / mean, moved });
        past.push(utilization);

        for (input, late) in inputs.iter_mut().zip(&past[second.saturating_sub(delay)]) {
            // No server says that it does more than it can.
            let utilization = (late * (1.0 + noise * random.normal())).clamp(0.001, 1.0);
            input.load = Some(Reported { utilization, at: now });
        }
        now += Duration::from_secs(1);
        lives.update(service(), now, &policy, &inputs);
    }
    seconds
}

fn ring(live: &[u16], slots: u32) -> Vec<u16> {
    let member = |(server, live): (usize, &u16)| {
        let address = address(server).to_ipv6_mapped();
        Member { key: member_key(address.octets(), 0), weight: 100, live: *live }
    };
    let members: Vec<Member> = live.iter().enumerate().map(member).collect();
    Ring::build(&members, slots).expect("somebody serves").owners().to_vec()
}

fn address(server: usize) -> Ipv4Addr {
    Ipv4Addr::from_bits(0x0a00_0001 + server as u32)
}

fn service() -> ServiceKey {
    let vip = Ipv4Addr::new(203, 0, 113, 10).into();
    ServiceKey { vip, port: Some(80), protocol: Protocol::Tcp }
}

fn input(server: usize) -> Input {
    Input {
        key: BackendKey { address: address(server).into(), port: None },
        weight: 100,
        backup: false,
        draining: false,
        check: Check::Passing,
        agent: AgentState::default(),
        load: None,
        known_permille: None,
    }
}
