//! What thousands of checks cost the agent. With `XLB_TIMED=1` it is measured and judged: five
//! thousand backends, each asked once a second.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use xlb_tests::lab::{Lab, Topology, VIP4};
use xlb_tests::xlb::{Agent, Forward, Health, Protocol, Service, Settings};
use xlb_tests::{need_root, wait};

use super::servers::{HTTP, Servers};

const READY: Duration = Duration::from_secs(60);

/// The network of the backends, all of them on one host.
const NETWORK: &str = "10.64.0.0/16";

/// How long the agent is watched.
const WATCHED: Duration = Duration::from_secs(20);

/// Most of a CPU, and most memory in MiB, that five thousand checks a second may take.
const LIMITS: (f64, u64) = (0.5, 200);

#[test]
fn many_checks_are_cheap() -> Result<()> {
    need_root!();
    let timed = std::env::var_os("XLB_TIMED").is_some();
    let backends = if timed { 5_000 } else { 300 };
    let lab = Lab::new(Topology::OneSegment, 1)?;
    let host = &lab.backends[0];
    host.namespace.ip(&format!("route add local {NETWORK} dev lo"))?;
    lab.balancer.namespace.ip(&format!("route add {NETWORK} via {}", host.v4))?;
    let _servers = Servers::start(&host.namespace)?;
    let mut over = Vec::new();
    for (kind, more, via) in [
        ("tcp", "", "address"),
        ("http", "path = \"/ok\"", "address"),
        ("tcp", "", "vip"),
        ("http", "path = \"/ok\"", "vip"),
    ] {
        let health = Health {
            interval: "1s".to_owned(),
            timeout: "1s".to_owned(),
            rise: 1,
            fall: 100,
            via: Some(via.to_owned()),
            ..Health::of(kind, HTTP, more)?
        };
        let vip = SocketAddr::new(VIP4.into(), HTTP);
        let addresses =
            (0..backends).map(|n| IpAddr::from(Ipv4Addr::from_bits(0x0a40_0000 + 256 + n)));
        let settings = Settings {
            interfaces: vec!["eth0".to_owned()],
            services: vec![
                Service::new("many", vip, Protocol::Tcp, Forward::L2).to(addresses).watched(health),
            ],
            ..Settings::default()
        };
        let mut agent = Agent::start(&lab.balancer.namespace, &settings)?;
        let begun = Instant::now();
        wait::until("all backends to be healthy", READY, || {
            let healthy = count(&agent, |backend| u64::from(backend["health"]["ok"] == true))?;
            ensure!(healthy == u64::from(backends), "{healthy} of {backends}");
            Ok(())
        })?;
        println!(
            "{backends} {kind} checks, via {via}: all healthy {:.1?} after the agent answered",
            begun.elapsed()
        );
        if timed {
            over.extend(measure(&mut agent, &format!("{kind} via {via}"))?);
        }
    }
    ensure!(over.is_empty(), "{}", over.join("; "));
    Ok(())
}

/// Measures and prints; what is more than [`LIMITS`], if anything.
fn measure(agent: &mut Agent<'_>, kind: &str) -> Result<Option<String>> {
    let ended = |agent: &Agent<'_>, what: &str| {
        count(agent, |backend| backend["health"][what].as_u64().unwrap_or(0))
    };
    let pid = agent.running()?.pid();
    let (cpu, passed, since) = (cpu_time(pid)?, ended(agent, "passed_total")?, Instant::now());
    // Measured, not waited for: this is how long the figures are of.
    thread::sleep(WATCHED);
    let (cpu, took) = (cpu_time(pid)? - cpu, since.elapsed());
    let used = cpu.as_secs_f64() / took.as_secs_f64();
    let memory = memory_mib(pid)?;
    let passed = ended(agent, "passed_total")? - passed;
    let bad = ended(agent, "failed_total")? + ended(agent, "inconclusive_total")?;
    let figures = format!("{kind}: {used:.3} of a CPU, {memory} MiB");
    println!("{figures}; {passed} passed in {took:.1?}, {bad} of all didn't");
    Ok((used > LIMITS.0 || memory > LIMITS.1).then_some(figures))
}

fn count(agent: &Agent<'_>, of: impl Fn(&serde_json::Value) -> u64) -> Result<u64> {
    let listed = agent.call(&["backend", "list", "many"])?;
    Ok(listed.as_array().context("a list of backends")?.iter().map(of).sum())
}

/// What a process has used of CPUs so far, in its own code and the kernel's (proc_pid_stat(5)).
fn cpu_time(pid: u32) -> Result<Duration> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let (_, fields) = stat.rsplit_once(')').context("no end of the name")?;
    let ticks: u64 = fields.split_whitespace().skip(11).take(2).flat_map(str::parse::<u64>).sum();
    // USER_HZ is 100 on every architecture that Linux has.
    Ok(Duration::from_millis(ticks * 10))
}

/// Resident memory.
fn memory_mib(pid: u32) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
    let kib: u64 = line.trim().trim_end_matches("kB").trim().parse()?;
    Ok(kib / 1024)
}
