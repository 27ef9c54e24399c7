//! From the agent's own words to the exposition format.

use std::fmt;

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric, MetricEncoder, NoLabelSet, text::encode},
    metrics::{MetricType, counter::ConstCounter, gauge::ConstGauge},
    registry::Registry,
};

use crate::api::{BackendStatus, EventKind, Histogram, Stats, Status};

/// The text of all metrics.
pub fn render(status: &Status, stats: &Stats, events: &[(EventKind, u64)]) -> String {
    let mut registry = Registry::with_prefix("xlb");
    let events = events.iter().map(|(kind, count)| (kind.word(), *count)).collect();
    let snapshot = Snapshot { status: status.clone(), stats: stats.clone(), events };
    registry.register_collector(Box::new(snapshot));
    let mut text = String::new();
    // Writing into a String can't fail, and the snapshot's own encoding adds no errors.
    let _ = encode(&mut text, &registry);
    text
}

#[derive(Debug)]
struct Snapshot {
    status: Status,
    stats: Stats,
    events: Vec<(String, u64)>,
}

type Labels<'a, const N: usize> = [(&'static str, &'a str); N];

impl Collector for Snapshot {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let (status, stats) = (&self.status, &self.stats);
        let out = &mut encoder;
        gauges(
            out,
            "build_info",
            "Version of the agent",
            [([("version", &*status.version)], 1.0)],
        )?;
        gauges(
            out,
            "uptime_seconds",
            "Time since the agent started",
            [([], status.uptime_seconds)],
        )?;
        gauges(out, "maps_bytes", "Memory of all maps", [([], status.maps_bytes as f64)])?;
        let reloads = [("ok", status.reloads_ok_total), ("error", status.reloads_failed_total)];
        let reloads = reloads.map(|(result, count)| ([("result", result)], count));
        counters(out, "reloads", "Reloads of the config", reloads)?;
        let events = self.events.iter().map(|(kind, count)| ([("kind", &**kind)], *count));
        counters(out, "events", "What happened, by kind", events)?;
        let hooks = &status.hooks;
        let hooks = [
            ("ok", hooks.ok_total),
            ("failed", hooks.failed_total),
            ("timed_out", hooks.timed_out_total),
            ("not_started", hooks.not_started_total),
            ("missed", hooks.missed_total),
        ];
        let hooks = hooks.map(|(result, count)| ([("result", result)], count));
        counters(out, "hooks", "Events that on_event was run for, or not", hooks)?;
        let help = "From the probe that turned a backend to the rings that say so";
        histogram(out, "health_reaction_seconds", help, &status.health_reactions)?;
        let attached = status.interfaces.iter().map(|interface| {
            ([("interface", &*interface.name)], f64::from(u8::from(interface.attached)))
        });
        gauges(
            out,
            "interface_attached",
            "Whether packets of the interface are balanced",
            attached,
        )?;

        let passes = [([], stats.passes_total)];
        counters(out, "passes", "Packets that were not for a service", passes)?;
        let sent = stats.icmp_sent_total;
        let sent = [("echo_reply", sent.echo_reply), ("too_big", sent.too_big)];
        let sent = sent.map(|(kind, count)| ([("kind", kind)], count));
        counters(out, "icmp_sent", "ICMP messages of the program's own", sent)?;
        let drops = stats.drops_total.iter().map(|(reason, n)| ([("reason", reason.as_str())], *n));
        counters(out, "drops", "Packets refused, by reason", drops)?;
        self.flows(out)?;
        self.traffic(out)?;
        self.discovery(out)?;
        self.backends(out)
    }
}

impl Snapshot {
    fn flows(&self, out: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let services = self.status.services.iter();
        let moving = services.map(|s| ([("service", &*s.name)], f64::from(s.moving_slots)));
        let help = "Slots whose flows may live with others than the slot's owner";
        gauges(out, "moving_slots", help, moving)?;
        let services = self.status.services.iter();
        let moved = services.map(|s| ([("service", &*s.name)], s.slots_moved_total));
        let help = "Slots that got another owner since the agent started";
        counters(out, "service_slots_moved", help, moved)?;
        let flows = &self.status.flows;
        let records = [([], flows.records as f64)];
        gauges(out, "flow_records", "Flows in moving slots that are remembered", records)?;
        let capacity = [([], flows.capacity as f64)];
        gauges(out, "flow_capacity", "The most flows that can be remembered", capacity)?;
        let recorded = [([], flows.recorded_total)];
        counters(out, "flows_recorded", "Flows that were remembered", recorded)?;
        let unrecorded = [
            ("opening_budget", flows.over_budget_opening_total),
            ("budget", flows.over_budget_total),
            ("table_full", flows.table_full_total),
        ];
        let unrecorded = unrecorded.map(|(reason, count)| ([("reason", reason)], count));
        let help = "Packets whose flow could not be remembered; they were forwarded";
        counters(out, "flows_unrecorded", help, unrecorded)?;
        let anew = [([], flows.picked_anew_total)];
        counters(out, "flows_picked_anew", "Flows whose backend was dead and replaced", anew)?;
        self.fullnat(out)
    }

    fn fullnat(&self, out: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let fullnat = &self.status.fullnat;
        let open = fullnat.flows.saturating_sub(fullnat.embryonic);
        let flows = [("embryonic", fullnat.embryonic), ("open", open)];
        let flows = flows.map(|(stage, count)| ([("stage", stage)], count as f64));
        gauges(out, "fullnat_flows", "Flows under fullnat, at the last look", flows)?;
        let taken = [([], fullnat.taken as f64)];
        let help = "Ports that are taken under fullnat, also by flows that have ended";
        gauges(out, "fullnat_entries", help, taken)?;
        let capacity = [([], fullnat.capacity as f64)];
        gauges(out, "fullnat_flow_capacity", "The most flows under fullnat", capacity)?;
        let opened = [([], fullnat.opened_total)];
        counters(out, "fullnat_flows_opened", "Flows under fullnat that began", opened)?;
        let tried = [([], fullnat.ports_in_use_total)];
        let help = "Ports that were tried for a flow under fullnat, and were taken";
        counters(out, "fullnat_ports_in_use", help, tried)?;
        let searches = [([], fullnat.port_searches_total)];
        let help = "Searches for a port under fullnat, where the first tries found none";
        counters(out, "fullnat_port_searches", help, searches)
    }

    fn discovery(&self, out: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let each = || {
            self.status.services.iter().filter_map(|service| {
                let discovery = service.discovery.as_ref()?;
                let labels = [("service", &*service.name), ("source", discovery.origin.word())];
                Some((labels, discovery))
            })
        };
        let found = each().map(|(labels, discovery)| (labels, discovery.found as f64));
        gauges(out, "discovery_backends", "Backends that the source told last", found)?;
        let refused = each().map(|(labels, discovery)| (labels, discovery.refused.len() as f64));
        let help = "Backends that the source told and that aren't taken, at most 64";
        gauges(out, "discovery_refused", help, refused)?;
        let ok = each().map(|(labels, d)| (labels, f64::from(u8::from(d.trouble.is_none()))));
        gauges(out, "discovery_ok", "Whether the source's last word was taken", ok)?;
        let last = each().filter_map(|(labels, discovery)| {
            Some((labels, discovery.last_success?.as_millisecond() as f64 / 1000.0))
        });
        let help = "When the source last told something that was taken, in UNIX time";
        gauges(out, "discovery_last_success_timestamp_seconds", help, last)?;
        let answers = each().flat_map(|([service, source], discovery)| {
            [("ok", discovery.succeeded_total), ("error", discovery.failed_total)]
                .map(|(result, count)| ([service, source, ("result", result)], count))
        });
        counters(out, "discovery_answers", "Times that the source was asked or told", answers)
    }

    fn traffic(&self, out: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let each = || {
            self.stats.services.iter().flat_map(|service| {
                let labels = |address| [("service", &*service.name), ("backend", address)];
                service.backends.iter().map(move |backend| (labels(&*backend.address), backend))
            })
        };
        let packets = each().map(|(labels, backend)| (labels, backend.packets_total));
        counters(out, "backend_packets", "Packets forwarded to the backend", packets)?;
        let bytes = each().map(|(labels, backend)| (labels, backend.bytes_total));
        counters(out, "backend_bytes", "Bytes of those packets as they arrived", bytes)?;
        let new_flows = each().map(|(labels, backend)| (labels, backend.new_flows_total));
        counters(out, "backend_new_flows", "TCP connections opened to the backend", new_flows)?;
        let answers = each().map(|(labels, backend)| (labels, backend.answers_total));
        let help = "Packets from the backend that were turned back toward clients";
        counters(out, "backend_answers", help, answers)
    }

    /// What makes live weights.
    fn lives(&self, out: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let services = || self.status.services.iter();
        let up = services().map(|s| ([("service", &*s.name)], f64::from(u8::from(s.up))));
        gauges(out, "service_up", "Whether some backend takes new flows", up)?;
        let panic = services().map(|s| ([("service", &*s.name)], f64::from(u8::from(s.panic))));
        let help = "Whether failed backends are used, because too few are healthy";
        gauges(out, "service_panic", help, panic)?;
        let backup = services();
        let backup =
            backup.map(|s| ([("service", &*s.name)], f64::from(u8::from(s.backup_active))));
        let help = "Whether backups serve, because no other backend lives";
        gauges(out, "service_backup_active", help, backup)?;
        let each = || {
            services().flat_map(|service| {
                let labels = |address| [("service", &*service.name), ("backend", address)];
                service.backends.iter().map(move |backend| (labels(&*backend.address), backend))
            })
        };
        let loads = || each().filter_map(|(labels, b)| Some((labels, b.load.as_ref()?)));
        let utilization = loads().filter_map(|(labels, load)| Some((labels, load.utilization?)));
        let help = "What the backend last reported of its load; 1 is all that it can";
        gauges(out, "backend_utilization", help, utilization)?;
        let reports = loads().flat_map(|([service, backend], load)| {
            [("understood", load.reports_total), ("ignored", load.ignored_total)]
                .map(|(result, count)| ([service, backend, ("result", result)], count))
        });
        counters(out, "load_reports", "Load reports, or values in them", reports)?;
        let agents = each().filter_map(|(labels, b)| Some((labels, b.agent.as_ref()?)));
        let agents = agents.flat_map(|([service, backend], agent)| {
            [("answered", agent.answered_total), ("failed", agent.failed_total)]
                .map(|(result, count)| ([service, backend, ("result", result)], count))
        });
        counters(out, "agent_checks", "Questions to agents on backends", agents)
    }

    fn backends(&self, out: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let each = || {
            self.status.services.iter().flat_map(|service| {
                let labels = |address| [("service", &*service.name), ("backend", address)];
                let backends = service.backends.iter().chain(&service.leaving);
                backends.map(move |backend| (labels(&*backend.address), backend))
            })
        };
        let gauge = |value: fn(&BackendStatus) -> f64| {
            each().map(move |(labels, backend)| (labels, value(backend)))
        };
        let healthy = gauge(|backend| {
            // What isn't checked counts as healthy.
            f64::from(u8::from(backend.health.as_ref().is_none_or(|h| h.ok == Some(true))))
        });
        gauges(out, "backend_healthy", "Whether the backend's check passes", healthy)?;
        let weight = gauge(|backend| backend.weight.into());
        gauges(out, "backend_weight", "The configured weight", weight)?;
        let live_weight = gauge(|backend| backend.live_weight);
        gauges(out, "backend_live_weight", "The weight for new flows now", live_weight)?;
        let share = gauge(|backend| backend.share);
        gauges(out, "backend_share", "The part of the ring's slots, 0 to 1", share)?;
        let flows = gauge(|backend| backend.flows as f64);
        gauges(out, "backend_flows", "Remembered flows that live with the backend", flows)?;
        let ports = || each().filter_map(|(labels, b)| Some((labels, b.fullnat_ports?)));
        let used = ports().map(|(labels, ports)| (labels, f64::from(ports.used)));
        let help = "Ports of the backend's pool that are taken, under fullnat";
        gauges(out, "backend_ports_used", help, used)?;
        let total = ports().map(|(labels, ports)| (labels, f64::from(ports.total)));
        gauges(out, "backend_ports", "Ports of the backend's pool, under fullnat", total)?;
        let checks =
            each().filter_map(|(labels, backend)| Some((labels, backend.health.as_ref()?)));
        let checks = checks.flat_map(|([service, backend], health)| {
            [
                ("passed", health.passed_total),
                ("failed", health.failed_total),
                ("inconclusive", health.inconclusive_total),
            ]
            .map(|(result, count)| ([service, backend, ("result", result)], count))
        });
        counters(out, "health_checks", "Probes that ended", checks)?;
        self.lives(out)
    }
}

fn counters<'a, const N: usize>(
    out: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    samples: impl IntoIterator<Item = (Labels<'a, N>, u64)>,
) -> fmt::Result {
    let encoder = out.encode_descriptor(name, help, None, MetricType::Counter)?;
    family(encoder, samples.into_iter().map(|(labels, value)| (labels, ConstCounter::new(value))))
}

fn gauges<'a, const N: usize>(
    out: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    samples: impl IntoIterator<Item = (Labels<'a, N>, f64)>,
) -> fmt::Result {
    let encoder = out.encode_descriptor(name, help, None, MetricType::Gauge)?;
    family(encoder, samples.into_iter().map(|(labels, value)| (labels, ConstGauge::new(value))))
}

fn histogram(
    out: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    of: &Histogram,
) -> fmt::Result {
    let mut encoder = out.encode_descriptor(name, help, None, MetricType::Histogram)?;
    let buckets = of.buckets.iter().map(|bucket| (bucket.at_most_seconds, bucket.count));
    let in_buckets: u64 = of.buckets.iter().map(|bucket| bucket.count).sum();
    let beyond = (f64::INFINITY, of.count.saturating_sub(in_buckets));
    let buckets: Vec<_> = buckets.chain([beyond]).collect();
    encoder.encode_histogram::<NoLabelSet>(of.sum_seconds, of.count, &buckets, None)
}

fn family<'a, const N: usize>(
    mut encoder: MetricEncoder<'_>,
    mut samples: impl Iterator<Item = (Labels<'a, N>, impl EncodeMetric)>,
) -> fmt::Result {
    if N == 0 {
        return samples.next().map_or(Ok(()), |(_, metric)| metric.encode(encoder));
    }
    for (labels, metric) in samples {
        metric.encode(encoder.encode_family(&labels)?)?;
    }
    Ok(())
}
