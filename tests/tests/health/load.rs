//! What thousands of checks cost the agent, and how soon one that fails is out of a large ring. With
//! `XLB_TIMED=1` it is measured and judged: five thousand backends, each asked once a second, and
//! one of a thousand that turns.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use xlb_tests::lab::{Lab, Topology, VIP4};
use xlb_tests::xlb::{Agent, Forward, Health, Protocol, Service, Settings};
use xlb_tests::{need_root, netns, wait};

use super::servers::{HTTP, Servers};

const READY: Duration = Duration::from_secs(60);

/// The network of the backends, all of them on one host.
const NETWORK: &str = "10.64.0.0/16";

/// How long the agent is watched.
const WATCHED: Duration = Duration::from_secs(20);

/// Most of a CPU, and most memory in MiB, that five thousand checks a second may take.
const LIMITS: (f64, u64) = (0.5, 200);

/// Most seconds from the probe that turns one of a thousand backends to the ring without it.
const REACTION: f64 = 0.01;

/// Backends that turn.
const TURNING: u32 = 20;

fn timed() -> bool {
    std::env::var_os("XLB_TIMED").is_some()
}

#[test]
fn a_failed_backend_is_out_of_a_large_ring_at_once() -> Result<()> {
    need_root!();
    let backends = if timed() { 1_000 } else { 100 };
    let lab = Lab::new(Topology::OneSegment, 1)?;
    let host = &lab.backends[0];
    host.namespace.ip(&format!("route add local {NETWORK} dev lo"))?;
    lab.balancer.namespace.ip(&format!("route add {NETWORK} via {}", host.v4))?;
    let _servers = Servers::start(&host.namespace)?;
    let health = Health {
        interval: "1s".to_owned(),
        timeout: "900ms".to_owned(),
        rise: 1,
        fall: 1,
        via: Some("address".to_owned()),
        ..Health::of("tcp", HTTP, "")?
    };
    let vip = SocketAddr::new(VIP4.into(), HTTP);
    let many = Service::new("many", vip, Protocol::Tcp, Forward::L2);
    let settings = Settings {
        interfaces: vec!["eth0".to_owned()],
        services: vec![many.to((0..backends).map(address)).watched(health)],
        ..Settings::default()
    };
    let agent = Agent::start(&lab.balancer.namespace, &settings)?;
    let down = |n: u32| -> Result<bool> {
        Ok(agent.backend("many", &address(n).to_string())?["health"]["ok"] == false)
    };
    wait::until("all backends to be healthy", READY, || {
        let healthy = count(&agent, |backend| u64::from(backend["health"]["ok"] == true))?;
        ensure!(healthy == u64::from(backends), "{healthy} of {backends}");
        Ok(())
    })?;
    let before = reactions(&agent)?;
    for turning in 0..TURNING {
        let rules = format!(
            "table inet test\ndelete table inet test\ntable inet test {{ chain input {{\n\
             type filter hook input priority 0;\nip daddr {} reject with tcp reset\n}}\n}}\n",
            address(turning)
        );
        netns::run(host.namespace.command("nft").args(["-f", "-"]), &rules)?;
        wait::until("a backend to fail, and the one before to return", READY, || {
            // Whoever asks holds the agent up: not all the time.
            thread::sleep(Duration::from_millis(200));
            ensure!(down(turning)? && (turning == 0 || !down(turning - 1)?));
            Ok(())
        })?;
    }
    let after = reactions(&agent)?;
    let [turned, soon] = [after[0] - before[0], after[1] - before[1]];
    let mean = agent.status()?["health_reactions"]["sum_seconds"].as_f64().context("a sum")?
        / after[0] as f64;
    println!(
        "of {turned} turns among {backends} backends, {soon} were in the ring within {REACTION} s; \
         {:.2} ms on average, those of the start too",
        1e3 * mean
    );
    ensure!(turned == u64::from(2 * TURNING - 1), "{turned} turns");
    ensure!(!timed() || soon == turned, "{} of {turned} took longer", turned - soon);
    Ok(())
}

/// How often a check turned its backend, and how often that was in the ring within [`REACTION`].
fn reactions(agent: &Agent<'_>) -> Result<[u64; 2]> {
    let status = agent.status()?;
    let reactions = &status["health_reactions"];
    let buckets = reactions["buckets"].as_array().context("buckets")?;
    let soon = buckets
        .iter()
        .filter(|bucket| bucket["at_most_seconds"].as_f64().is_some_and(|bound| bound <= REACTION));
    let soon = soon.filter_map(|bucket| bucket["count"].as_u64()).sum();
    Ok([reactions["count"].as_u64().context("a count")?, soon])
}

/// A backend's address in [`NETWORK`].
fn address(number: u32) -> IpAddr {
    Ipv4Addr::from_bits(0x0a40_0000 + 256 + number).into()
}

#[test]
fn many_checks_are_cheap() -> Result<()> {
    need_root!();
    let timed = timed();
    let backends = if timed { 5_000 } else { 300 };
    let lab = Lab::new(Topology::OneSegment, 1)?;
    let host = &lab.backends[0];
    host.namespace.ip(&format!("route add local {NETWORK} dev lo"))?;
    lab.balancer.namespace.ip(&format!("route add {NETWORK} via {}", host.v4))?;
    let _servers = Servers::start(&host.namespace)?;
    // The agent is judged by its own time.
    lab.receive_apart()?;
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
        let settings = Settings {
            interfaces: vec!["eth0".to_owned()],
            services: vec![
                Service::new("many", vip, Protocol::Tcp, Forward::L2)
                    .to((0..backends).map(address))
                    .watched(health),
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
