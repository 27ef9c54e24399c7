//! Names that dnsmasq tells.

use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context, Result};
use nix::sys::signal::Signal;
use tempfile::TempDir;
use xlb_tests::lab::{Family, Host, Topology};
use xlb_tests::process::Process;
use xlb_tests::scene::{Scene, WEB};
use xlb_tests::xlb::{Agent, Discovery, Forward, Settings};
use xlb_tests::{need_root, scratch};

use super::{discovery, origins};

const V4: Family = Family::V4;
const NAME: &str = "web.example.net";
const PORT: u16 = 5353;

/// A real server of one name, with a TTL of 1 s.
struct DnsServer {
    process: Process,
    files: TempDir,
}

impl DnsServer {
    fn start(host: &Host, addresses: &[String]) -> Result<Self> {
        let files = scratch::directory()?;
        write(&files, addresses)?;
        let mut command = host.namespace.command("dnsmasq");
        command.args(["--keep-in-foreground", "--conf-file=/dev/null", "--user=root"]);
        command.args(["--no-resolv", "--no-hosts", "--local-ttl=1", "--local=/example.net/"]);
        command.arg(format!("--listen-address={}", host.v4)).arg("--bind-interfaces");
        command.arg(format!("--port={PORT}")).args(["--pid-file=", "--log-facility=-"]);
        command.arg(format!("--addn-hosts={}", hosts(&files).display()));
        Ok(Self { process: Process::start("dnsmasq", &mut command)?, files })
    }

    fn tell(&mut self, addresses: &[String]) -> Result<()> {
        write(&self.files, addresses)?;
        // It reads the file again.
        self.process.signal(Signal::SIGHUP)
    }
}

fn hosts(files: &TempDir) -> PathBuf {
    files.path().join("hosts")
}

fn write(files: &TempDir, addresses: &[String]) -> Result<()> {
    let lines: String = addresses.iter().map(|address| format!("{address} {NAME}\n")).collect();
    fs::write(hosts(files), lines).context("write the hosts")
}

fn settings(scene: &Scene) -> Settings {
    let mut settings = scene.settings(V4, 0);
    settings.services.truncate(1);
    settings.services[0].discovery = Some(Discovery {
        kind: "dns".into(),
        name: Some(NAME.into()),
        server: Some(SocketAddr::new(IpAddr::V4(scene.lab.balancer.v4), PORT)),
        ..Discovery::default()
    });
    settings
}

#[test]
fn a_name_is_followed_and_silence_changes_nothing() -> Result<()> {
    need_root!();
    let scene = Scene::new(Topology::OneSegment, Forward::L2, 3)?;
    let addresses = |numbers: &[usize]| -> Vec<String> {
        numbers.iter().map(|number| scene.address(V4, *number)).collect()
    };
    let balancer = &scene.lab.balancer;
    let mut server = DnsServer::start(balancer, &addresses(&[0, 1]))?;
    let mut agent = Agent::start(&balancer.namespace, &settings(&scene))?;
    scene.served_by(V4, &["b1", "b2"])?;
    assert!(origins(&agent, WEB)?.iter().all(|(_, origin)| origin == "dns"));

    let (all, without_first) = (addresses(&[0, 1, 2]), addresses(&[1, 2]));
    for (told, listed, who) in [(all, true, 2), (without_first.clone(), false, 0)] {
        let began = Instant::now();
        server.tell(&told)?;
        agent.wait_listed(WEB, &scene.address(V4, who), listed)?;
        println!("followed after {:?}, with a TTL of 1 s", began.elapsed());
    }
    scene.served_by(V4, &["b2", "b3"])?;

    // A name that is gone is no word that nobody serves.
    server.tell(&[])?;
    discovery(&agent, WEB, "an empty answer", |discovery| {
        discovery["trouble"].as_str().is_some_and(|why| why.contains("allow_empty"))
    })?;
    scene.served_by(V4, &["b2", "b3"])?;
    server.tell(&without_first)?;
    discovery(&agent, WEB, "an answer again", |discovery| discovery["trouble"].is_null())?;

    // The server dies, the agent restarts meanwhile.
    server.process.kill()?;
    discovery(&agent, WEB, "no answer", |discovery| discovery["trouble"].is_string())?;
    scene.served_by(V4, &["b2", "b3"])?;
    agent.stop()?;
    agent.launch(&[])?;
    scene.served_by(V4, &["b2", "b3"])?;
    let _server = DnsServer::start(balancer, &addresses(&[0]))?;
    scene.served_by(V4, &["b1"])
}
