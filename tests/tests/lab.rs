//! The lab itself: its network works without a balancer, and nothing of it stays behind.

use std::path::PathBuf;
use std::time::Duration;
use std::{fs, panic};

use anyhow::{Result, ensure};
use xlb_tests::clients::http;
use xlb_tests::clients::stream::{Prober, Streams};
use xlb_tests::clients::udp;
use xlb_tests::frames::{every_kind, pcap, tshark};
use xlb_tests::lab::{Family, Lab, Topology};
use xlb_tests::netns::Namespace;
use xlb_tests::servers::{HTTP_PORT, Server, UDP_PORT};
use xlb_tests::{need_root, wait};

const PATIENCE: Duration = Duration::from_secs(20);

#[test]
fn clients_reach_servers_in_every_topology() -> Result<()> {
    need_root!();
    for topology in [Topology::OneSegment, Topology::TwoNics] {
        let lab = Lab::new(topology, 2)?;
        let _servers = Server::start_all(&lab.backends)?;
        let client = &lab.client.namespace;
        for family in Family::ALL {
            for host in &lab.backends {
                let address = host.address(family);
                let web = (address, HTTP_PORT).into();
                let served = http::load(client, web, 50, 10)?;
                served.all_answered(50)?;
                served.served_by([host.name.as_str()])?;
                http::download(client, web, 3_000_000, PATIENCE)?;
                http::upload(client, web, 3_000_000, PATIENCE)?;
                let echo = (address, UDP_PORT).into();
                let served = udp::flows(client, lab.client.address(family), 2000, echo, 100, 900)?;
                served.all_answered(100)?;
                served.served_by([host.name.as_str()])?;
            }
            // The virtual address is on loopbacks only: nobody may answer for it by himself.
            let vip = family.vip_port(HTTP_PORT);
            ensure!(http::ask(client, vip, Duration::from_millis(300)).is_err(), "{vip} answered");
        }
    }
    Ok(())
}

#[test]
fn clients_see_a_dead_server_and_a_pulled_cable() -> Result<()> {
    need_root!();
    let lab = Lab::new(Topology::OneSegment, 1)?;
    let client = &lab.client.namespace;
    let web = (lab.backends[0].v4, HTTP_PORT).into();
    let server = Server::start(&lab.backends[0])?;
    let streams = Streams::open(client, web, 5)?;
    streams.progress(3)?;
    let prober = Prober::start(client, web, 1, Duration::from_millis(300))?;
    wait::until("a good probe", PATIENCE, || {
        ensure!(prober.now().iter().any(|probe| probe.answer.is_ok()), "none yet");
        Ok(())
    })?;
    drop(server);
    wait::until("the end of every connection", PATIENCE, || {
        ensure!(streams.now().iter().all(|stream| stream.broken.is_some()), "some live");
        Ok(())
    })?;
    ensure!(streams.close().iter().all(|stream| stream.server == "b1" && stream.exchanges > 3));
    wait::until("a failed probe", PATIENCE, || {
        ensure!(prober.now().last().is_some_and(|probe| probe.answer.is_err()), "still good");
        Ok(())
    })?;

    let _server = Server::start(&lab.backends[0])?;
    wait::until("the server's return", PATIENCE, || {
        http::ask(client, web, Duration::from_millis(300))
    })?;
    lab.plug(0, false)?;
    ensure!(http::ask(client, web, Duration::from_millis(300)).is_err(), "answered without cable");
    lab.plug(0, true)?;
    wait::until("the cable's return", PATIENCE, || http::ask(client, web, PATIENCE))?;
    Ok(())
}

#[test]
fn namespaces_are_gone_afterwards_also_after_a_panic() -> Result<()> {
    need_root!();
    let handles = |lab: &Lab| -> Vec<PathBuf> {
        let backends = lab.backends.iter().map(|host| host.namespace.path());
        [lab.client.namespace.path(), lab.balancer.namespace.path()]
            .into_iter()
            .chain(backends)
            .collect()
    };
    let lab = Lab::new(Topology::TwoNics, 2)?;
    let left = handles(&lab);
    ensure!(left.len() == 4 && left.iter().all(|handle| handle.exists()), "{left:?}");
    drop(lab);
    ensure!(left.iter().all(|handle| !handle.exists()), "{left:?}");

    let mut left = Vec::new();
    let ended = panic::catch_unwind(panic::AssertUnwindSafe(|| {
        let lab = Lab::new(Topology::OneSegment, 1).unwrap();
        let _server = Server::start(&lab.backends[0]).unwrap();
        left = handles(&lab);
        lab.client.namespace.run(|| panic!("on purpose")).unwrap();
    }));
    ensure!(ended.is_err(), "a panic inside must go on outside");
    ensure!(left.len() == 3 && left.iter().all(|handle| !handle.exists()), "{left:?}");
    Ok(())
}

#[test]
fn what_a_dead_owner_left_is_swept() -> Result<()> {
    need_root!();
    // A pid above the kernel's highest (2^22) never lives.
    let name = "xlbt-4999999-1-0-left";
    let left = PathBuf::from("/run/netns").join(name);
    if !left.exists() {
        let status = std::process::Command::new("ip").args(["netns", "add", name]).status()?;
        ensure!(status.success(), "ip netns add: {status}");
    }
    // The sweep comes with a process's first namespace, and this may not be it: ask another.
    let own = std::env::current_exe()?;
    let status =
        std::process::Command::new(own).args(["--exact", "sweeps", "--ignored"]).status()?;
    ensure!(status.success(), "{status}");
    ensure!(!left.exists(), "{name} is still there");
    Ok(())
}

#[test]
#[ignore = "run by what_a_dead_owner_left_is_swept, in a process of its own"]
fn sweeps() -> Result<()> {
    let namespace = Namespace::new("sweeper")?;
    ensure!(fs::exists(namespace.path())?, "it wasn't made");
    Ok(())
}

#[test]
fn the_capture_of_every_kind_is_faultless() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let path = directory.path().join("every-kind.pcap");
    every_kind::write(&path)?;
    ensure!(pcap::read(&path)?.len() >= 60, "frames are missing");
    tshark::without_fault(&path)
}
