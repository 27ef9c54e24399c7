//! Servers that register themselves, die without a word, and leave politely.

use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use tempfile::TempDir;
use xlb_tests::clients::http;
use xlb_tests::clients::stream::Streams;
use xlb_tests::lab::{Family, Topology};
use xlb_tests::process::Process;
use xlb_tests::scene::{Scene, WEB};
use xlb_tests::servers::HTTP_PORT;
use xlb_tests::xlb::{Agent, Api, Discovery, Forward, Program, Register, Settings, Tls};
use xlb_tests::{need_root, scratch, wait};

use super::{SOON, discovery, origins};

const V4: Family = Family::V4;
const TOKEN: &str = "0123456789abcdef0123456789abcdef";

/// A scene whose servers register themselves, and the token.
struct World {
    scene: Scene,
    files: TempDir,
}

impl World {
    fn new(backends: u8) -> Result<Self> {
        let files = scratch::directory()?;
        fs::write(files.path().join("token"), TOKEN)?;
        Ok(Self { scene: Scene::new(Topology::OneSegment, Forward::L2, backends)?, files })
    }

    fn token_file(&self) -> PathBuf {
        self.files.path().join("token")
    }

    fn door(&self) -> SocketAddr {
        SocketAddr::new(IpAddr::V4(self.scene.lab.balancer.v4), 9701)
    }

    fn settings(&self) -> Settings {
        let mut settings = self.scene.settings(V4, 0);
        settings.services.truncate(1);
        settings.services[0].discovery =
            Some(Discovery { kind: "register".into(), ..Discovery::default() });
        settings.services[0].tcp_idle = Some("2s".into());
        self.opened(settings, Some(self.token_file()), None)
    }

    /// The same with another lock at the door.
    fn opened(
        &self,
        settings: Settings,
        token_file: Option<PathBuf>,
        tls: Option<Tls>,
    ) -> Settings {
        let register = Some(Register { listen: self.door(), token_file, tls });
        let api = Some(Api { socket: PathBuf::new(), metrics: None, register });
        Settings { api, ..settings }
    }

    /// Runs `xlb register` with a certificate instead of a token; `ca` is who may have signed the
    /// agent's.
    fn register_with(&self, backend: usize, ca: &Path, own: &Papers) -> Result<Process> {
        let host = &self.scene.lab.backends[backend];
        let mut command = host.namespace.command(Program::find()?.path());
        command.args(["register", "--service", WEB, "--ttl", "2s"]);
        command.arg("--agent").arg(format!("https://{}", self.door()));
        command.arg("--ca").arg(ca).arg("--cert").arg(&own.certificate).arg("--key").arg(&own.key);
        Process::start(&format!("xlb register on {}", host.name), &mut command)
    }

    fn register(&self, backend: usize, options: &[&str]) -> Result<Process> {
        self.register_by(backend, &self.token_file(), options)
    }

    fn register_by(&self, backend: usize, token: &Path, options: &[&str]) -> Result<Process> {
        let host = &self.scene.lab.backends[backend];
        let mut command = host.namespace.command(Program::find()?.path());
        command.args(["register", "--service", WEB, "--ttl", "2s"]);
        command.arg("--agent").arg(format!("http://{}", self.door()));
        command.arg("--token-file").arg(token).args(options);
        Process::start(&format!("xlb register on {}", host.name), &mut command)
    }
}

/// A certificate and its key.
struct Papers {
    certificate: PathBuf,
    key: PathBuf,
}

/// Somebody who signs certificates.
struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    certificate: PathBuf,
}

impl Authority {
    fn new(directory: &Path, name: &str) -> Result<Self> {
        let mut parameters = CertificateParams::default();
        parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let issuer = CertifiedIssuer::self_signed(parameters, KeyPair::generate()?)?;
        let certificate = directory.join(format!("{name}.pem"));
        fs::write(&certificate, issuer.pem())?;
        Ok(Self { issuer, certificate })
    }

    fn sign(&self, directory: &Path, name: &str, address: IpAddr) -> Result<Papers> {
        let key = KeyPair::generate()?;
        let parameters = CertificateParams::new(vec![address.to_string()])?;
        let papers = Papers {
            certificate: directory.join(format!("{name}.pem")),
            key: directory.join(format!("{name}.key")),
        };
        fs::write(&papers.certificate, parameters.signed_by(&key, &self.issuer)?.pem())?;
        fs::write(&papers.key, key.serialize_pem())?;
        Ok(papers)
    }
}

/// Waits until the process has said something.
fn said(process: &Process, what: &str) -> Result<()> {
    wait::until(what, SOON, || {
        let log = process.log();
        ensure!(log.contains(what), "it says: {log}");
        Ok(())
    })
}

#[test]
fn a_server_registers_and_is_out_when_it_dies_without_a_word() -> Result<()> {
    need_root!();
    let world = World::new(3)?;
    let scene = &world.scene;
    let agent = Agent::start(&scene.lab.balancer.namespace, &world.settings())?;
    let _first = [world.register(0, &[])?, world.register(1, &[])?];
    scene.served_by(V4, &["b1", "b2"])?;

    let began = Instant::now();
    let mut third = world.register(2, &[])?;
    let client = &scene.lab.client.namespace;
    let target = V4.vip_port(HTTP_PORT);
    wait::until("traffic to b3", SOON, || {
        let served = http::load(client, target, 20, 20)?;
        ensure!(served.by_server.contains_key("b3"), "served by {:?}", served.by_server);
        Ok(())
    })?;
    println!("from the start of xlb register to its first request: {:?}", began.elapsed());
    scene.served_by(V4, &["b1", "b2", "b3"])?;
    let b3 = scene.address(V4, 2);
    ensure!(origins(&agent, WEB)?.contains(&(b3.clone(), "registered".into())), "no origin");

    let died = Instant::now();
    third.kill()?;
    scene.kill_server(2);
    agent.wait_listed(WEB, &b3, false).or_else(|_| {
        // It may still be listed as leaving.
        let state = agent.backend(WEB, &b3)?["state"].clone();
        ensure!(state == "leaving", "it is {state}");
        Ok(())
    })?;
    println!("from its death to its end in the ring, with a TTL of 2 s: {:?}", died.elapsed());
    scene.served_by(V4, &["b1", "b2"])
}

#[test]
fn a_server_that_leaves_breaks_no_connection() -> Result<()> {
    need_root!();
    let world = World::new(3)?;
    let scene = &world.scene;
    let _agent = Agent::start(&scene.lab.balancer.namespace, &world.settings())?;
    let _others = [world.register(0, &[])?, world.register(1, &[])?];
    let mut third = world.register(2, &["--drain-timeout", "60s"])?;
    scene.served_by(V4, &["b1", "b2", "b3"])?;
    let web = V4.vip_port(HTTP_PORT);
    let streams = Streams::open(&scene.lab.client.namespace, web, 30)?;
    third.signal(Signal::SIGTERM)?;
    said(&third, "draining")?;
    scene.served_by(V4, &["b1", "b2"])?;
    streams.progress(10)?;
    third.alive().context("flows are open")?;
    let streams = streams.close();
    let broken: Vec<_> = streams.iter().filter(|stream| stream.broken.is_some()).collect();
    ensure!(broken.is_empty(), "{} connections broke: {broken:?}", broken.len());
    ensure!(streams.iter().any(|stream| stream.server == "b3"), "none was on b3");
    let status = third.wait(Duration::from_secs(60))?;
    ensure!(status.success() && third.log().contains("left"), "{status}: {}", third.log());
    Ok(())
}

#[test]
fn certificates_on_both_sides_stand_for_a_token() -> Result<()> {
    need_root!();
    let world = World::new(3)?;
    let (scene, files) = (&world.scene, world.files.path());
    let (ours, another) = (Authority::new(files, "ours")?, Authority::new(files, "another")?);
    let door = world.door().ip();
    let server = ours.sign(files, "server", door)?;
    let client = ours.sign(files, "client", door)?;
    let stranger = another.sign(files, "stranger", door)?;
    let tls = Tls {
        tls_cert: server.certificate,
        tls_key: server.key,
        client_ca: ours.certificate.clone(),
    };
    let settings = world.opened(world.settings(), None, Some(tls));
    let agent = Agent::start(&scene.lab.balancer.namespace, &settings)?;

    let mut first = world.register_with(0, &ours.certificate, &client)?;
    let _second = world.register_with(1, &ours.certificate, &client)?;
    scene.served_by(V4, &["b1", "b2"])?;
    // Who isn't believed is told so, on either side.
    for (ca, own) in [(&ours.certificate, &stranger), (&another.certificate, &client)] {
        let third = world.register_with(2, ca, own)?;
        said(&third, "refused")?;
        said(&third, "certificate")?;
    }
    ensure!(origins(&agent, WEB)?.len() == 2, "{:?}", origins(&agent, WEB)?);
    first.signal(Signal::SIGTERM)?;
    let status = first.wait(Duration::from_secs(60))?;
    ensure!(status.success() && first.log().contains("left"), "{status}: {}", first.log());
    scene.served_by(V4, &["b2"])
}

#[test]
fn leases_outlive_the_agent_and_the_last_one_stays() -> Result<()> {
    need_root!();
    let world = World::new(2)?;
    let scene = &world.scene;
    let mut agent = Agent::start(&scene.lab.balancer.namespace, &world.settings())?;
    let mut first = world.register(0, &[])?;
    let mut second = world.register(1, &[])?;
    scene.served_by(V4, &["b1", "b2"])?;
    agent.kill()?;
    said(&first, "lost")?;
    agent.launch(&[])?;
    scene.served_by(V4, &["b1", "b2"])?;

    // Nobody else serves: whose lease ends last stays, and that is told.
    first.kill()?;
    second.kill()?;
    discovery(&agent, WEB, "a lease that ended and stays", |discovery| {
        discovery["trouble"].as_str().is_some_and(|why| why.contains("there is nobody else"))
    })?;
    ensure!(!origins(&agent, WEB)?.is_empty(), "nobody is left");
    let _second = world.register(1, &[])?;
    scene.served_by(V4, &["b2"])
}

/// No renewal could be taken for longer than a lease lasts: that is nobody's fault who registered.
#[test]
fn an_agent_that_stood_still_takes_nobody_out() -> Result<()> {
    need_root!();
    let world = World::new(2)?;
    let scene = &world.scene;
    let mut agent = Agent::start(&scene.lab.balancer.namespace, &world.settings())?;
    let _registered = [world.register(0, &[])?, world.register(1, &[])?];
    scene.served_by(V4, &["b1", "b2"])?;
    agent.signal(Signal::SIGSTOP)?;
    // This is what is tested, and takes its time.
    thread::sleep(Duration::from_secs(5));
    agent.signal(Signal::SIGCONT)?;
    // Answered behind the ends of leases.
    for _ in 0..2 {
        ensure!(origins(&agent, WEB)?.len() == 2, "{:?}", origins(&agent, WEB)?);
    }
    let events = agent.try_call(&["events"])?.expect(0)?.stdout;
    ensure!(events.contains("backend_added") && !events.contains("backend_removed"), "{events}");
    scene.served_by(V4, &["b1", "b2"])
}

#[test]
fn who_may_not_register_is_told_why() -> Result<()> {
    need_root!();
    let world = World::new(2)?;
    let agent = Agent::start(&world.scene.lab.balancer.namespace, &world.settings())?;
    let wrong = world.files.path().join("wrong");
    fs::write(&wrong, "fedcba9876543210")?;
    let stranger = world.register_by(0, &wrong, &[])?;
    said(&stranger, "the token is missing or wrong")?;
    let other = world.register(0, &["--address", &world.scene.address(V4, 1)])?;
    said(&other, "may not register")?;
    ensure!(origins(&agent, WEB)?.is_empty(), "somebody is registered");
    Ok(())
}
