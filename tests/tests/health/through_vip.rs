//! Probes that go to the VIP, in the frames that clients' packets go in.

use std::cell::RefCell;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use xlb_tests::lab::{Family, Host, Lab, Topology, VIP4, VIP6};
use xlb_tests::netns::Namespace;
use xlb_tests::process::Process;
use xlb_tests::servers::{HTTP_PORT, Server};
use xlb_tests::xlb::{
    Agent, Decap, Forward, Health, Program, Protocol, Service, Settings, balancer_of,
};
use xlb_tests::{need_root, wait};

const PATIENCE: Duration = Duration::from_secs(20);
const WEB: &str = "web";

/// Two backends with servers, and what decapsulates for them.
struct World {
    decaps: RefCell<Vec<Option<Decap>>>,
    _servers: Vec<Server>,
    lab: Lab,
}

impl World {
    fn new(topology: Topology, forward: Forward) -> Result<Self> {
        let lab = Lab::new(topology, 2)?;
        let servers = Server::start_all(&lab.backends)?;
        let world = Self { decaps: RefCell::new(vec![None, None]), _servers: servers, lab };
        if forward.encapsulates() {
            world.decapsulate(0, true)?;
            world.decapsulate(1, true)?;
        }
        Ok(world)
    }

    fn decapsulate(&self, backend: usize, on: bool) -> Result<()> {
        // First it ends, so that none is in the way of the next.
        drop(self.decaps.borrow_mut()[backend].take());
        if on {
            let host = &self.lab.backends[backend];
            let decap = Decap::start(host, &balancer_of(&self.lab))?;
            self.decaps.borrow_mut()[backend] = Some(decap);
        }
        Ok(())
    }

    /// An HTTP service of one family, to backends of another.
    fn settings(&self, forward: Forward, vip: Family, to: Family) -> Settings {
        let health = Health { timeout: "100ms".into(), ..Health::quick() };
        let service = Service::new(WEB, vip.vip_port(HTTP_PORT), Protocol::Tcp, forward);
        Settings {
            interfaces: self.lab.interfaces().iter().map(|&name| name.to_owned()).collect(),
            services: vec![service.to(self.lab.addresses(to)).watched(health)],
            ..Settings::default()
        }
    }

    fn address(&self, family: Family, backend: usize) -> String {
        self.lab.backends[backend].address(family).to_string()
    }
}

/// Gives a host the VIPs, or takes them away.
fn have_vips(host: &Host, have: bool) -> Result<()> {
    let verb = if have { "add" } else { "del" };
    let nodad = if have { "nodad" } else { "" };
    host.namespace
        .ip(&format!("addr {verb} {VIP4}/32 dev lo\naddr {verb} {VIP6}/128 dev lo {nodad}"))
}

/// Waits until a check says so of a backend, and why; gives what it knows.
fn wait_health(agent: &Agent<'_>, address: &str, ok: bool, reason: &str) -> Result<Value> {
    wait::until(&format!("ok = {ok} of {address}, for \"{reason}\""), PATIENCE, || {
        let backend = agent.backend(WEB, address)?;
        let health = &backend["health"];
        let told = health["reason"].as_str().context("a reason")?;
        ensure!(health["ok"] == ok && told.contains(reason), "it says {health}");
        Ok(health.clone())
    })
}

macro_rules! found_out {
    ($($name:ident: $forward:ident $vip:ident over $to:ident;)+) => {
        $(#[test]
        fn $name() -> Result<()> {
            need_root!();
            what_a_backend_lacks_is_found_out(Forward::$forward, Family::$vip, Family::$to)
        })+
    };
}

found_out! {
    l2_v4: L2 V4 over V4;
    l2_v6: L2 V6 over V6;
    ipip_v4: Ipip V4 over V4;
    ipip_v6: Ipip V6 over V6;
    ipip_4_in_6: Ipip V4 over V6;
    ipip_6_in_4: Ipip V6 over V4;
    gue_v4: Gue V4 over V4;
    gue_v6: Gue V6 over V6;
    gue_4_in_6: Gue V4 over V6;
    gue_6_in_4: Gue V6 over V4;
}

fn what_a_backend_lacks_is_found_out(forward: Forward, vip: Family, to: Family) -> Result<()> {
    let world = World::new(Topology::OneSegment, forward)?;
    let settings = world.settings(forward, vip, to);
    let (first, second) = (world.address(to, 0), world.address(to, 1));
    let agent = Agent::start(&world.lab.balancer.namespace, &settings)?;
    for address in [&first, &second] {
        let health = wait_health(&agent, address, true, "status 200")?;
        ensure!(health["via"] == "vip", "{health}");
    }
    have_vips(&world.lab.backends[1], false)?;
    let why = format!("does the backend have {} on its loopback", vip.vip());
    wait_health(&agent, &second, false, &why)?;
    have_vips(&world.lab.backends[1], true)?;
    wait_health(&agent, &second, true, "status 200")?;
    if forward.encapsulates() {
        world.decapsulate(1, false)?;
        wait_health(&agent, &second, false, "and decapsulate")?;
        world.decapsulate(1, true)?;
        wait_health(&agent, &second, true, "status 200")?;
    }
    wait_health(&agent, &first, true, "status 200")?;
    Ok(())
}

/// What a host may have that answers from a VIP don't get past.
#[test]
fn a_balancer_that_has_the_vip_itself_and_filters_routes() -> Result<()> {
    need_root!();
    for (topology, family) in [(Topology::OneSegment, Family::V4), (Topology::TwoNics, Family::V6)]
    {
        let world = World::new(topology, Forward::Ipip)?;
        let balancer = &world.lab.balancer;
        have_vips(balancer, true)?;
        for part in ["all", "default"].iter().chain(world.lab.interfaces()) {
            balancer.namespace.sysctl(&format!("net/ipv4/conf/{part}/rp_filter"), "1")?;
        }
        let mut settings = world.settings(Forward::Ipip, family, family);
        settings.xdp_mode = Some("generic".into());
        let agent = Agent::start(&balancer.namespace, &settings)?;
        let (first, second) = (world.address(family, 0), world.address(family, 1));
        wait_health(&agent, &first, true, "status 200")?;
        wait_health(&agent, &second, true, "status 200")?;
        have_vips(&world.lab.backends[1], false)?;
        wait_health(&agent, &second, false, "on its loopback")?;
        wait_health(&agent, &first, true, "status 200")?;
    }
    Ok(())
}

#[test]
fn a_killed_agent_leaves_nothing_that_is_in_the_way() -> Result<()> {
    need_root!();
    let world = World::new(Topology::TwoNics, Forward::L2)?;
    let namespace = &world.lab.balancer.namespace;
    let mut agent = Agent::start(namespace, &world.settings(Forward::L2, Family::V4, Family::V4))?;
    let address = world.address(Family::V4, 0);
    for _ in 0..3 {
        wait_health(&agent, &address, true, "status 200")?;
        agent.kill()?;
        agent.launch(&[])?;
        wait::until("one interface of probes", PATIENCE, || {
            let there = probe_interfaces(namespace)?;
            ensure!(there.len() == 1, "there are {there:?}");
            Ok(())
        })?;
        have_vips(&world.lab.backends[0], false)?;
        wait_health(&agent, &address, false, "on its loopback")?;
        have_vips(&world.lab.backends[0], true)?;
    }
    wait_health(&agent, &address, true, "status 200")?;
    // Somebody tidies up.
    let there = probe_interfaces(namespace)?;
    namespace.ip(&format!("link del {}", there[0]))?;
    wait_health(&agent, &address, true, "status 200")?;
    have_vips(&world.lab.backends[0], false)?;
    wait_health(&agent, &address, false, "on its loopback")?;
    have_vips(&world.lab.backends[0], true)?;
    wait_health(&agent, &address, true, "status 200")?;
    agent.stop()?;
    wait::until("no interface of probes", PATIENCE, || {
        let there = probe_interfaces(namespace)?;
        ensure!(there.is_empty(), "there are {there:?}");
        Ok(())
    })
}

fn probe_interfaces(namespace: &Namespace) -> Result<Vec<String>> {
    let links = namespace.ip_json("link show")?;
    let names = links.as_array().context("no list")?.iter().filter_map(|l| l["ifname"].as_str());
    Ok(names.filter(|name| name.starts_with("xlb-probe")).map(str::to_owned).collect())
}

#[test]
fn two_agents_of_one_host_probe_the_same_vip() -> Result<()> {
    need_root!();
    let world = World::new(Topology::TwoNics, Forward::Gue)?;
    let namespace = &world.lab.balancer.namespace;
    let of = |interface: &str| Settings {
        interfaces: vec![interface.to_owned()],
        ..world.settings(Forward::Gue, Family::V4, Family::V4)
    };
    let first = Agent::start(namespace, &of("front"))?;
    let mut second = Agent::start(namespace, &of("back"))?;
    let address = world.address(Family::V4, 0);
    for agent in [&first, &second] {
        wait_health(agent, &address, true, "status 200")?;
    }
    have_vips(&world.lab.backends[0], false)?;
    for agent in [&first, &second] {
        wait_health(agent, &address, false, "on its loopback")?;
    }
    have_vips(&world.lab.backends[0], true)?;
    for agent in [&first, &second] {
        wait_health(agent, &address, true, "status 200")?;
    }
    second.stop()?;
    let passed = wait_health(&first, &address, true, "status 200")?["passed_total"].clone();
    wait::until("another good probe", PATIENCE, || {
        let health = wait_health(&first, &address, true, "status 200")?;
        ensure!(health["passed_total"].as_u64() > passed.as_u64().map(|n| n + 10), "{health}");
        Ok(())
    })
}

#[test]
fn a_host_without_an_address_of_the_vips_family_says_so() -> Result<()> {
    need_root!();
    let world = World::new(Topology::OneSegment, Forward::Ipip)?;
    let namespace = &world.lab.balancer.namespace;
    let v6 = world.lab.balancer.v6;
    namespace.ip(&format!("addr del {v6}/64 dev eth0"))?;
    let settings = world.settings(Forward::Ipip, Family::V6, Family::V4);
    let agent = Agent::start(namespace, &settings)?;
    let address = world.address(Family::V4, 0);
    wait::until("the reason", PATIENCE, || {
        let health = agent.backend(WEB, &address)?["health"].clone();
        let reason = health["reason"].as_str().context("a reason")?;
        ensure!(
            reason.contains("IPv6 address") && reason.contains("via = \"address\""),
            "{health}"
        );
        ensure!(health["ok"].is_null(), "nobody knows about the backend: {health}");
        Ok(())
    })?;
    namespace.ip(&format!("addr add {v6}/64 dev eth0 nodad"))?;
    wait_health(&agent, &address, true, "status 200")?;
    Ok(())
}

/// With the capabilities that serving takes, and none more.
#[test]
fn without_the_right_it_falls_back_unless_it_is_asked_for() -> Result<()> {
    need_root!();
    let world = World::new(Topology::OneSegment, Forward::L2)?;
    let namespace = &world.lab.balancer.namespace;
    let mut settings = world.settings(Forward::L2, Family::V4, Family::V4);
    let agent = Agent::prepare(namespace, &settings)?;
    let start = || {
        let mut command = namespace.command("setpriv");
        command.args(["--bounding-set=-all,+bpf,+net_admin,+perfmon", "--"]);
        command.arg(Program::find()?.path()).arg("run").arg("--config").arg(agent.config_path());
        Process::start("xlb run", &mut command)
    };
    let mut process = start()?;
    let address = world.address(Family::V4, 0);
    wait::until("an answer", PATIENCE, || {
        process.alive()?;
        agent.status()
    })?;
    let health = wait_health(&agent, &address, true, "status 200")?;
    ensure!(health["via"] == "address", "{health}");
    let warnings = agent.status()?["warnings"].to_string();
    ensure!(warnings.contains("CAP_SYS_ADMIN"), "{warnings}");

    settings.services[0].health.as_mut().context("a check")?.via = Some("vip".into());
    agent.write_config(&settings)?;
    wait::until("the refused reload", PATIENCE, || {
        let reload = agent.status()?["last_reload"].to_string();
        ensure!(reload.contains("CAP_SYS_ADMIN") && reload.contains("web"), "{reload}");
        Ok(())
    })?;
    process.stop()?;
    let mut process = start()?;
    let status = process.wait(PATIENCE)?;
    ensure!(!status.success() && process.log().contains("CAP_SYS_ADMIN"), "{}", process.log());
    Ok(())
}
