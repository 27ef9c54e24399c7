//! Live weights follow how loaded real servers are: three of them, of which one is half as fast,
//! under requests for half of what they can.

mod worker;

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use xlb_tests::clients::arrivals::Arrivals;
use xlb_tests::clients::http;
use xlb_tests::lab::{Family, Lab, Topology};
use xlb_tests::need_root;
use xlb_tests::servers::HTTP_PORT;
use xlb_tests::wait;
use xlb_tests::xlb::{Agent, AgentCheck, Forward, Health, Load, Protocol, Service, Settings};

use worker::{AGENT_PORT, Tells, WORKERS, Worker};

const WEB: &str = "web";

/// How long the servers may take until they answer.
const READY: Duration = Duration::from_secs(20);

/// What a request takes each server. The first is half as fast.
const EACH: [Duration; 3] =
    [Duration::from_millis(200), Duration::from_millis(100), Duration::from_millis(100)];

/// Of what all of them can, what arrives.
const LOAD: f64 = 0.5;

/// Load must be even within that time.
const EVEN: Duration = Duration::from_secs(60);

/// Adjustments end slowly, each step a part of what is left. By then they have.
const SETTLED: Duration = Duration::from_secs(120);

/// For so long the ring is watched then.
const MINUTE: Duration = Duration::from_secs(60);

/// The busiest server's utilisation is at most so many times the mean.
const BUSIEST: f64 = 1.15;

/// Of the ring, what moves in that minute at most.
const MOVED: f64 = 0.01;

/// Utilisation is the mean of so long.
const WINDOW: Duration = Duration::from_secs(12);

#[test]
fn servers_that_report_in_responses_get_even_load() -> Result<()> {
    need_root!();
    evens_out("orca", [Tells::Json, Tells::Text, Tells::Text])
}

#[test]
fn servers_whose_agents_tell_what_is_idle_get_even_load() -> Result<()> {
    need_root!();
    evens_out("agent", [Tells::Nothing; 3])
}

fn evens_out(source: &str, tells: [Tells; 3]) -> Result<()> {
    let lab = Lab::new(Topology::OneSegment, 3)?;
    let start = |((host, each), tells)| Worker::start(host, each, tells);
    let workers: Vec<Worker> =
        lab.backends.iter().zip(EACH).zip(tells).map(start).collect::<Result<_>>()?;
    let agent = Agent::start(&lab.balancer.namespace, &settings(&lab, source))?;
    let client = &lab.client.namespace;
    let vip = Family::V4.vip_port(HTTP_PORT);
    wait::until("an answer", READY, || http::ask(client, vip, READY))?;
    wait::until("healthy servers", READY, || {
        let healthy = backends(&agent)?.iter().filter(|b| b["state"] == "healthy").count();
        ensure!(healthy == 3, "{healthy} are");
        Ok(())
    })?;

    let can: f64 = EACH.iter().map(|each| WORKERS as f64 / each.as_secs_f64()).sum();
    let arrivals = Arrivals::start(client, vip, can * LOAD)?;
    let mut watch =
        Watch { agent: &agent, workers: &workers, source, begun: Instant::now(), seen: Vec::new() };
    watch.go_on(EVEN)?;
    let at_once = watch.first(WINDOW)?;
    ensure!(at_once.busiest() > 1.3, "it is even without anything: {at_once:?}");
    let soon = watch.last(WINDOW)?;
    println!("{source}: up to {EVEN:?}: {:.3}, {soon:?}", soon.busiest());
    ensure!(soon.busiest() <= BUSIEST, "{source}: up to {EVEN:?}: {soon:?}");
    watch.go_on(SETTLED + MINUTE)?;
    let settled = watch.last(MINUTE)?;
    println!("{source}: the third minute: {:.3}, {settled:?}", settled.busiest());
    ensure!(settled.moved < MOVED, "{source}: in the third minute: {settled:?}");
    let late = watch.last(WINDOW)?;
    println!("{source}: at the end: {:.3}, {late:?}", late.busiest());
    ensure!(late.busiest() <= BUSIEST, "{source}: at the end: {late:?}");
    let served = arrivals.now();
    println!("{source}: {:?}", served.by_server);
    served.all_answered(served.answers() as usize)
}

fn settings(lab: &Lab, source: &str) -> Settings {
    let vip = Family::V4.vip_port(HTTP_PORT);
    let health =
        Health { interval: "1s".into(), timeout: "1s".into(), fall: 10, ..Health::quick() };
    let service = Service::new(WEB, vip, Protocol::Tcp, Forward::L2).to(lab.addresses(Family::V4));
    let service = Service {
        agent_check: (source == "agent")
            .then(|| AgentCheck { port: AGENT_PORT, interval: "1s".into() }),
        load: Some(Load { source: source.into(), smoothing: None }),
        ..service.watched(health)
    };
    Settings { interfaces: vec!["eth0".into()], services: vec![service], ..Settings::default() }
}

fn backends(agent: &Agent<'_>) -> Result<Vec<serde_json::Value>> {
    let list = agent.call(&["backend", "list", WEB])?;
    Ok(list.as_array().context("a list of backends")?.clone())
}

/// What is seen of servers and ring, once a second.
struct Watch<'a> {
    agent: &'a Agent<'a>,
    workers: &'a [Worker],
    source: &'a str,
    begun: Instant,
    seen: Vec<Seen>,
}

/// A moment.
struct Seen {
    at: Duration,
    /// Seconds of work of each server so far.
    done: Vec<f64>,
    /// Slots that moved so far, as a part of the ring.
    moved: f64,
}

/// What a time was like.
#[derive(Debug)]
struct Means {
    /// Of each server.
    utilization: Vec<f64>,
    /// Slots that moved, as a part of the ring.
    moved: f64,
}

impl Means {
    /// The busiest server's utilisation over the mean.
    fn busiest(&self) -> f64 {
        let all: f64 = self.utilization.iter().sum();
        let most = self.utilization.iter().copied().fold(0.0, f64::max);
        most * self.utilization.len() as f64 / all
    }
}

impl Watch<'_> {
    /// Looks on until so long after the begin.
    fn go_on(&mut self, until: Duration) -> Result<()> {
        while self.begun.elapsed() < until {
            let status = self.agent.status()?;
            let service = &status["services"][0];
            let moved = service["slots_moved_total"].as_f64().context("slots that moved")?;
            let size = service["ring_size"].as_f64().context("the ring's size")?;
            let done = self.workers.iter().map(Worker::done).collect();
            self.seen.push(Seen { at: self.begun.elapsed(), done, moved: moved / size });
            if self.seen.len().is_multiple_of(5) {
                self.tell(&status)?;
            }
            // This is measured over time: there is nothing to wait for.
            thread::sleep(Duration::from_secs(1));
        }
        Ok(())
    }

    fn tell(&self, status: &serde_json::Value) -> Result<()> {
        let means = self.last(Duration::from_secs(5))?;
        let backends = status["services"][0]["backends"].as_array().context("backends")?;
        let live: Vec<f64> = backends.iter().filter_map(|b| b["live_weight"].as_f64()).collect();
        println!(
            "{} {:3.0} s: busiest / mean {:.2}, utilisation {:.2?}, moved {:.2} %, live weights {live:?}",
            self.source,
            self.begun.elapsed().as_secs_f64(),
            means.busiest(),
            means.utilization,
            100.0 * means.moved,
        );
        Ok(())
    }

    fn first(&self, time: Duration) -> Result<Means> {
        let to = self.seen.iter().position(|seen| seen.at > time).context("a longer watch")?;
        self.between(0, to)
    }

    fn last(&self, time: Duration) -> Result<Means> {
        let last = self.seen.last().context("a look")?.at;
        let from = self.seen.iter().position(|seen| seen.at + time >= last).context("a look")?;
        self.between(from, self.seen.len() - 1)
    }

    fn between(&self, from: usize, to: usize) -> Result<Means> {
        let (from, to) = (&self.seen[from], &self.seen[to]);
        let time = (to.at - from.at).as_secs_f64();
        ensure!(time > 0.0, "one look alone");
        let work = from.done.iter().zip(&to.done);
        let utilization = work.map(|(from, to)| (to - from) / (WORKERS as f64 * time)).collect();
        Ok(Means { utilization, moved: to.moved - from.moved })
    }
}
