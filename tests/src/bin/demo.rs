//! The demo: a balancer at work, told in plain words. Ends with 0 only if all of it held.

use std::io::{self, Write as _};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Error, Result, ensure};
use nix::sys::prctl;
use nix::sys::signal::Signal;
use xlb_tests::clients::stream::{Probe, Prober, Stream, Streams};
use xlb_tests::clients::{Served, http};
use xlb_tests::interrupt;
use xlb_tests::lab::{Family, Topology, VIP4};
use xlb_tests::scene::{Scene, others};
use xlb_tests::servers::HTTP_PORT;
use xlb_tests::wait;
use xlb_tests::xlb::{Agent, Forward, Health};

const BACKENDS: u8 = 4;
const REQUESTS: usize = 4000;
const CONNECTIONS: usize = 60;
/// Number of the backend that is killed.
const VICTIM: usize = 1;
/// Good probes in a row that tell the failover's end.
const CALM: usize = 60;
const PATIENCE: Duration = Duration::from_secs(20);

/// Exit status after a signal that asked for the end, and after one about a closed pipe, as shells
/// tell them.
const INTERRUPTED: u8 = 130;
const READER_LEFT: u8 = 141;

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        // By now the guards have cleaned up.
        Err(_) if interrupt::seen() => ExitCode::from(INTERRUPTED),
        Err(error) if reader_left(&error) => ExitCode::from(READER_LEFT),
        Err(error) => {
            eprintln!("Error: {error:?}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<()> {
    ensure!(
        nix::unistd::geteuid().is_root(),
        "the demo makes network namespaces and loads BPF programs: run it as root"
    );
    interrupt::catch()?;
    // Whoever started the demo may be killed without a word.
    prctl::set_pdeathsig(Signal::SIGTERM)?;
    let began = Instant::now();
    demo()?;
    print(&format!(
        "\nNamespaces, programs and processes are gone again. All of it took {:.1} s.",
        began.elapsed().as_secs_f64()
    ))
}

/// `demo | head`: what was printed was enough.
fn reader_left(error: &Error) -> bool {
    let cause = error.downcast_ref::<io::Error>();
    cause.is_some_and(|cause| cause.kind() == io::ErrorKind::BrokenPipe)
}

fn demo() -> Result<()> {
    let family = Family::V4;
    say("Laying out a client, a balancer and 4 backends in network namespaces,")?;
    more("with a real HTTP server on each backend and `xlb decap` beside it.")?;
    let scene = Scene::new(Topology::OneSegment, Forward::Ipip, BACKENDS)?;
    let names: Vec<String> = scene.names().into_iter().map(str::to_owned).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let web = family.vip_port(HTTP_PORT);

    say(&format!("Starting xlb: http://{VIP4} over IP-in-IP, a health check ten times a second."))?;
    let mut settings = scene.settings(family, usize::from(BACKENDS));
    settings.services[0].health = Some(Health::quick());
    let mut agent = Agent::start(&scene.lab.balancer.namespace, &settings)?;
    scene.served_by(family, &names)?;

    say(&format!("Sending {REQUESTS} HTTP requests, each over a connection of its own."))?;
    let client = &scene.lab.client.namespace;
    let served = http::load(client, web, REQUESTS, 64)?;
    table(&names, &served)?;
    served.all_answered(REQUESTS)?;
    served.served_by(names.iter().copied())?;

    say(&format!("Opening {CONNECTIONS} long connections that keep asking, and probing with new"))?;
    more("connections all the time.")?;
    let streams = Streams::open(client, web, CONNECTIONS)?;
    let prober = Prober::start(client, web, 4, Duration::from_millis(250))?;
    calm(&prober, Instant::now())?;
    let victim = names[VICTIM];
    let killed = Instant::now();
    scene.kill_server(VICTIM);
    say(&format!("Killed {victim}'s server."))?;
    calm(&prober, killed)?;
    streams.progress(10)?;
    let (probes, streams) = (prober.stop(), streams.close());
    failover(victim, killed, &probes, &streams)?;

    say(&format!("Sending {REQUESTS} requests more."))?;
    let served = http::load(&scene.lab.client.namespace, web, REQUESTS, 64)?;
    table(&names, &served)?;
    served.all_answered(REQUESTS)?;
    served.served_by(others(&names, &[victim]))?;

    say(&format!("Starting {victim}'s server again."))?;
    scene.start_server(VICTIM)?;
    let started = Instant::now();
    scene.served_by(family, &names)?;
    more(&format!("It serves again, {} ms later.", started.elapsed().as_millis()))?;

    say("Cleaning up.")?;
    let status = agent.stop()?;
    ensure!(status.success(), "xlb ended with {status}");
    Ok(())
}

/// Waits until enough probes in a row, begun after `since`, are good.
fn calm(prober: &Prober, since: Instant) -> Result<()> {
    wait::until("the new connections to be served again", PATIENCE, || {
        let probes = prober.now();
        let fresh: Vec<_> = probes.iter().filter(|probe| probe.began > since).collect();
        let good = fresh.iter().rev().take_while(|probe| probe.answer.is_ok()).count();
        ensure!(good >= CALM, "{good} good probes in a row");
        Ok(())
    })
}

fn failover(victim: &str, killed: Instant, probes: &[Probe], streams: &[Stream]) -> Result<()> {
    let before = probes.iter().filter(|probe| probe.ended < killed);
    let early = before.filter(|probe| probe.answer.is_err()).count();
    ensure!(early == 0, "{early} new connections failed before the server was killed");
    let failed: Vec<_> = probes.iter().filter(|probe| probe.answer.is_err()).collect();
    let last = failed.iter().map(|probe| probe.ended).max();
    let took = last.map_or(Duration::ZERO, |last| last.duration_since(killed));
    more(&format!(
        "Failover took {} ms: {} of {} new connections met the dead server meanwhile.",
        took.as_millis(),
        failed.len(),
        probes.len()
    ))?;
    let (on_victim, on_others): (Vec<_>, Vec<_>) =
        streams.iter().partition(|stream| stream.server == victim);
    let broken: Vec<_> = on_others.iter().filter(|stream| stream.broken.is_some()).collect();
    more(&format!(
        "Of the long connections, {} died with {victim}; of the other {}, {} broke.",
        on_victim.len(),
        on_others.len(),
        broken.len()
    ))?;
    ensure!(broken.is_empty(), "connections to other backends broke: {broken:#?}");
    ensure!(!on_others.is_empty() && !on_victim.is_empty(), "the connections prove nothing");
    Ok(())
}

fn table(names: &[&str], served: &Served) -> Result<()> {
    print("\n    backend   answers   share")?;
    let all = served.answers().max(1) as f64;
    for name in names {
        let answers = served.by_server.get(*name).copied().unwrap_or_default();
        let share = answers as f64 / all;
        let bar = "#".repeat((share * 60.0).round() as usize);
        let line = format!("    {name:<7} {answers:>9} {:>6.1} %  {bar}", share * 100.0);
        print(line.trim_end())?;
    }
    print(&format!("    unanswered {:>6}\n", served.errors.len()))
}

fn say(text: &str) -> Result<()> {
    print(&format!("* {text}"))
}

fn more(text: &str) -> Result<()> {
    print(&format!("  {text}"))
}

fn print(text: &str) -> Result<()> {
    interrupt::check()?;
    Ok(writeln!(io::stdout(), "{text}")?)
}
