//! `xlb replay`: frames of a capture through the real loaded program, on no interface.
//!
//! The same config, planner and program as the agent's; only next hops are made up where the
//! config names none, all backends count as healthy, and nothing is pinned.

mod capture;
mod pcapng;

use std::{
    io::Write as _,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    path::Path,
};

use anyhow::{Context as _, bail};
use lb_common::{
    id::{BackendId, ServiceId},
    layout::TraceRecord,
    verdict::DropReason,
};
use serde::Serialize;

use crate::{
    agent::{capacity, idle_seconds},
    cli::{DONE, ReplayArgs, WRONG_INPUT, WrongInput, table::plural},
    config::{self, BackendConfig, Config, NextHop, ServiceConfig},
    dataplane::{Action, DataPlane, Options, stay_on_one_cpu},
    model::{Backend, Desired, MacAddress, Route, Service},
    objects,
    plan::{Actual, backend_key, plan},
    state::History,
};
use capture::{Reader, Writer, are_one};

/// The next hop of backends for which the config names none.
const NEXT_HOP: MacAddress = MacAddress([0x02, 0, 0, 0, 0, 0xfe]);
/// The balancer's own MAC address, which belongs to no interface here.
const SOURCE_MAC: MacAddress = MacAddress([0x02, 0, 0, 0, 0, 0xfd]);
/// Outer sources where the config names none: addresses for documentation (RFC 5737, RFC 3849).
const SOURCE_IPV4: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 254);
const SOURCE_IPV6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0xfffe);

/// What became of one frame. The keys are an interface.
#[derive(Debug, Serialize)]
struct Line {
    /// From 1 on.
    frame: u64,
    verdict: &'static str,
    service: Option<String>,
    backend: Option<String>,
    reason: Option<&'static str>,
}

/// Runs every frame and prints what became of it.
///
/// # Errors
/// A file can't be read or written, or the kernel refuses. Of a capture that is damaged, the frames
/// before are replayed and written first.
pub fn run(args: &ReplayArgs, json: bool) -> anyhow::Result<u8> {
    let config = match config::load(&args.config) {
        Ok(config) => config,
        Err(errors) => {
            config::check::report(&errors, json);
            return Ok(WRONG_INPUT);
        }
    };
    let wrong = |error: anyhow::Error| anyhow::Error::new(WrongInput(format!("{error:#}")));
    let mut reader = Reader::open(&args.read).map_err(wrong)?;
    if args.write.as_deref().is_some_and(|write| are_one(&args.read, write)) {
        let message = format!("{} would be overwritten: --write another file", in_file(&args.read));
        return Err(WrongInput(message).into());
    }
    let mut writer = args.write.as_deref().map(Writer::create).transpose()?;
    let mut replay = Replay::new(&config)?;
    let mut out = std::io::stdout().lock();
    let mut number = 0;
    let mut summary = Summary::default();
    let damage = loop {
        let frame = match reader.next_frame() {
            Ok(Some(frame)) => frame,
            Ok(None) => break None,
            Err(error) => break Some(wrong(error)),
        };
        number += 1;
        let (line, bytes) = replay
            .frame(number, &frame.bytes)
            .with_context(|| format!("frame {number} of {}", args.read.display()))?;
        if let Some(writer) = &mut writer {
            writer.write(frame.at, &bytes, frame.cut)?;
        }
        summary.count(line.verdict);
        let text = if json { serde_json::to_string(&line)? } else { line.text() };
        writeln!(out, "{text}").context("can't write what there is to say")?;
    };
    if !json {
        writeln!(out, "{}", summary.text()).context("can't write what there is to say")?;
    }
    if let Some(writer) = writer {
        writer.finish()?;
    }
    damage.map_or(Ok(DONE), Err)
}

impl Line {
    fn text(&self) -> String {
        let mut text = format!("{:>6}  {:<8}", self.frame, self.verdict);
        let details = [
            ("service ", self.service.as_deref()),
            ("backend ", self.backend.as_deref()),
            ("", self.reason),
        ];
        for (what, value) in details {
            if let Some(value) = value {
                text.push_str(&format!("  {what}{value}"));
            }
        }
        text.truncate(text.trim_end().len());
        text
    }
}

/// How many frames met which end.
#[derive(Debug, Default)]
struct Summary {
    forwarded: usize,
    dropped: usize,
    passed: usize,
    aborted: usize,
}

impl Summary {
    fn count(&mut self, verdict: &str) {
        *match verdict {
            "tx" | "redirect" => &mut self.forwarded,
            "drop" => &mut self.dropped,
            "pass" => &mut self.passed,
            _ => &mut self.aborted,
        } += 1;
    }

    fn text(&self) -> String {
        let Self { forwarded, dropped, passed, aborted } = self;
        let frames = plural(forwarded + dropped + passed + aborted, "frame");
        let mut text =
            format!("{frames}: {forwarded} forwarded, {dropped} dropped, {passed} passed");
        if *aborted > 0 {
            text.push_str(&format!(", {aborted} aborted"));
        }
        text
    }
}

/// The loaded program with the config's tables.
struct Replay {
    plane: DataPlane,
    actual: Actual,
    /// Names by number.
    services: Vec<(ServiceId, String)>,
}

impl Replay {
    fn new(config: &Config) -> anyhow::Result<Self> {
        // Each gives out ports by a count of its own.
        stay_on_one_cpu().context("can't stay on one CPU")?;
        let mut plane = DataPlane::open(Options {
            object: objects::BALANCER.to_vec(),
            pin_path: None,
            capacity: capacity(&config.services, &History::default()),
            // Nothing moves.
            flow_capacity: 1,
            fullnat_capacity: Some(config.fullnat.flow_capacity),
            // They are made up.
            ways: false,
            flow_budget: None,
            // The agent would choose a random one; the same input shall give the same output.
            hash_seed: config.hash_seed.unwrap_or(0),
            trace: true,
            made_up_ways: true,
        })?;
        let mut actual = plane.actual()?;
        for change in plan(&desired(config), &actual)? {
            plane.apply(&change)?;
            actual.apply(&change);
        }
        let names = actual.services.iter().filter_map(|(id, present)| {
            let service = config.services.iter().find(|s| s.key == present.entry.key)?;
            Some((*id, service.name.clone()))
        });
        let services = names.collect();
        Ok(Self { plane, actual, services })
    }

    /// Runs the program on a frame. Gives what to print, and the frame as the program left it.
    fn frame(&mut self, number: u64, frame: &[u8]) -> anyhow::Result<(Line, Vec<u8>)> {
        let pass =
            Line { frame: number, verdict: "pass", service: None, backend: None, reason: None };
        // The kernel hands no program a frame without a link header.
        let Some(run) = self.plane.test_run(frame, None)? else {
            return Ok((pass, frame.to_vec()));
        };
        let TraceRecord { service, backend, reason, .. } = run.trace;
        let verdict = match run.action {
            Action::Pass => "pass",
            Action::Tx => "tx",
            Action::Redirect => "redirect",
            Action::Drop => "drop",
            Action::Aborted => "aborted",
        };
        let reason = match reason {
            0 => None,
            number => match DropReason::try_from(number) {
                Ok(reason) => Some(reason.name()),
                Err(number) => bail!("the program gave the unknown reason {number}"),
            },
        };
        let service = self.services.iter().find(|(id, _)| id.0 == service);
        let backend = self.actual.backends.get(&BackendId(backend));
        let line = Line {
            verdict,
            service: service.map(|(_, name)| name.clone()),
            backend: backend.map(|record| backend_key(record).to_string()),
            reason,
            ..pass
        };
        Ok((line, run.frame))
    }
}

/// What an agent would want of this config, with everybody healthy and every next hop known.
fn desired(config: &Config) -> Desired {
    let service = |service: &ServiceConfig| Service {
        name: service.name.clone(),
        key: service.key,
        affinity: service.affinity,
        icmp_echo: service.icmp_echo.unwrap_or(config.icmp_echo),
        idle_seconds: idle_seconds(service),
        ring_size: service.ring_size,
        backends: service.backends.iter().map(|b| backend(config, service, b)).collect(),
        leaving: Vec::new(),
        former: Vec::new(),
    };
    let services = config.services.iter().map(service).collect();
    Desired { services, pools: config.fullnat.pools.clone() }
}

fn backend(config: &Config, service: &ServiceConfig, backend: &BackendConfig) -> Backend {
    let everywhere = match config.next_hop {
        NextHop::Auto => None,
        NextHop::Mac(mac) => Some(mac),
    };
    let source = match backend.key.address {
        IpAddr::V4(_) => IpAddr::V4(config.source_ipv4.unwrap_or(SOURCE_IPV4)),
        IpAddr::V6(_) => IpAddr::V6(config.source_ipv6.unwrap_or(SOURCE_IPV6)),
    };
    Backend {
        key: backend.key,
        weight: backend.weight,
        live_permille: 1000,
        counted: true,
        alive: true,
        forward: backend.forward.unwrap_or(service.forward),
        route: Some(Route {
            next_hop: backend.next_hop.or(everywhere).unwrap_or(NEXT_HOP),
            source_mac: SOURCE_MAC,
            egress_ifindex: 0,
            mtu: 0,
            outer_source: Some(source),
        }),
    }
}

/// For errors about a capture file.
fn in_file(path: &Path) -> String {
    format!("the capture {}", path.display())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_of_frames() {
        let line = Line { frame: 7, verdict: "pass", service: None, backend: None, reason: None };
        assert_eq!(line.text(), "     7  pass");
        let mut summary = Summary::default();
        ["tx", "redirect", "drop", "pass"].into_iter().for_each(|verdict| summary.count(verdict));
        assert_eq!(summary.text(), "4 frames: 2 forwarded, 1 dropped, 1 passed");
        summary.count("aborted");
        assert_eq!(summary.text(), "5 frames: 2 forwarded, 1 dropped, 1 passed, 1 aborted");
    }
}
