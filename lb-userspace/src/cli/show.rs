//! The agent's answers as text for people.

use std::{fmt::Write as _, time::Duration};

use anstyle::Style;

use super::table::{
    Align::{Left, Right},
    BOLD, Cell, DIM, GREEN, PLAIN, RED, Table, YELLOW, bytes, count, duration, plural,
};
use crate::{
    api::{
        AgentStatus, BackendState, BackendStatus, DiscoveryStatus, Event, EventKind, Explanation,
        FlowList, HealthStatus, IcmpSent, InterfaceStatus, LoadStatus, RefusedBackend,
        ServiceStatus, Stats, Status,
    },
    live::AgentState,
    model::Origin,
};

pub(super) fn status(status: &Status) -> String {
    let uptime = Duration::try_from_secs_f64(status.uptime_seconds).unwrap_or_default();
    let mut text = format!(
        "{BOLD}xlb {}{BOLD:#}, process {}, up {}, config {}\n",
        status.version,
        status.pid,
        duration(uptime),
        status.config_file,
    );
    // Writing into a String can't fail, here and below.
    let _ = writeln!(
        text,
        "maps take {}, room for {} flows, {} remembered",
        bytes(status.maps_bytes),
        count(status.flow_capacity),
        count(status.flows.records),
    );
    if status.fullnat.taken > 0 {
        let fullnat = &status.fullnat;
        let _ = writeln!(
            text,
            "{} of {} flows under fullnat",
            count(fullnat.flows),
            count(fullnat.capacity)
        );
    }
    if let Some(reload) = &status.last_reload {
        let _ = match (&reload.error, reload.ok) {
            (None, true) => writeln!(text, "reloaded {:.0}", reload.at),
            (error, _) => {
                let error = error.as_deref().unwrap_or("it was refused");
                writeln!(text, "{RED}reload failed{RED:#} {:.0}: {error}", reload.at)
            }
        };
    }
    for warning in &status.warnings {
        let _ = writeln!(text, "{YELLOW}warning{YELLOW:#}: {warning}");
    }
    let _ = write!(text, "\n{}", interfaces(&status.interfaces));
    for service in &status.services {
        let _ = write!(text, "\n{}", self::service(service));
    }
    if status.services.is_empty() {
        text.push_str("\nno services: `xlb service add` adds one\n");
    }
    text
}

fn interfaces(interfaces: &[InterfaceStatus]) -> String {
    let mut table = Table::new([
        ("INTERFACE", Left),
        ("INDEX", Right),
        ("XDP", Left),
        ("STATE", Left),
        ("NOTE", Left),
    ]);
    for interface in interfaces {
        let state = match interface.attached {
            true => Cell::styled("attached", GREEN),
            false => Cell::styled("not attached", RED),
        };
        table.row([
            (&*interface.name).into(),
            interface.ifindex.map(|index| index.to_string()).unwrap_or_default().into(),
            interface.xdp_mode.as_deref().unwrap_or_default().into(),
            state,
            interface.error.as_deref().unwrap_or_default().into(),
        ]);
    }
    table.render(0)
}

pub(super) fn services(services: &[ServiceStatus]) -> String {
    if services.is_empty() {
        return "no services: `xlb service add` adds one".to_owned();
    }
    let mut table = Table::new([
        ("SERVICE", Left),
        ("VIP", Left),
        ("PROTOCOL", Left),
        ("FORWARD", Left),
        ("AFFINITY", Left),
        ("SLOTS", Right),
        ("HEALTHY", Right),
    ]);
    for service in services {
        let all = service.backends.len();
        let healthy = service.backends.iter().filter(|backend| is_healthy(backend)).count();
        let style = match healthy {
            0 => RED,
            some if some < all => YELLOW,
            _ => PLAIN,
        };
        table.row([
            (&*service.name).into(),
            (&*service.vip).into(),
            (&*service.protocol).into(),
            (&*service.forward).into(),
            (&*service.affinity).into(),
            service.ring_size.to_string().into(),
            Cell::styled(format!("{healthy}/{all}"), style),
        ]);
    }
    table.render(0)
}

/// Nothing is wrong with it.
fn is_healthy(backend: &BackendStatus) -> bool {
    use BackendState::{Backup, Healthy, SlowStart};
    matches!(backend.state, Healthy | SlowStart | Backup)
}

pub(super) fn service(service: &ServiceStatus) -> String {
    let ServiceStatus { name, vip, protocol, forward, ring_size, affinity, moving_slots, .. } =
        service;
    let moving = match moving_slots {
        0 => String::new(),
        some => format!(", {some} of them moving"),
    };
    let backends: Vec<_> = service.backends.iter().chain(&service.leaving).cloned().collect();
    let discovery = service.discovery.as_ref().map(discovery).unwrap_or_default();
    format!(
        "{BOLD}{name}{BOLD:#}  {vip} {protocol}, {forward}, affinity {affinity}, {}{moving}\n\
         {discovery}{}",
        plural(*ring_size as usize, "slot"),
        indented_backends(name, &backends),
    )
}

/// Where more backends are found, and what is wrong with it.
fn discovery(discovery: &DiscoveryStatus) -> String {
    let DiscoveryStatus { origin, source, found, last_success, next, .. } = discovery;
    let last = last_success.map_or("never told".to_owned(), |at| format!("last told {at:.0}"));
    let next = match (next, origin) {
        (None, _) => String::new(),
        (Some(next), Origin::Registered) => format!(", the next lease ends {next:.0}"),
        (Some(next), _) => format!(", asked again {next:.0}"),
    };
    let mut text =
        format!("  discovery {}: {}: {found} found, {last}{next}\n", origin.word(), plain(source));
    // Writing into a String can't fail, here and below.
    for line in discovery.trouble.iter().flat_map(|trouble| trouble.lines()) {
        let _ = writeln!(text, "  {RED}discovery{RED:#}: {}", plain(line));
    }
    for RefusedBackend { address, why } in &discovery.refused {
        let (address, why) = (plain(address), plain(why));
        let _ = writeln!(text, "  {YELLOW}not taken{YELLOW:#}: {address}: {why}");
    }
    text
}

/// What came from elsewhere commands no terminal.
fn plain(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

fn indented_backends(service: &str, backends: &[BackendStatus]) -> String {
    if backends.is_empty() {
        return format!("  no backends: `xlb backend add {service} ADDRESS` adds one\n");
    }
    backend_table(backends).render(2)
}

pub(super) fn backends(backends: &[BackendStatus]) -> String {
    if backends.is_empty() {
        return "no backends: `xlb backend add` adds one".to_owned();
    }
    backend_table(backends).render(0)
}

pub(super) fn backend(backend: &BackendStatus) -> String {
    backends(std::slice::from_ref(backend))
}

fn backend_table(backends: &[BackendStatus]) -> Table {
    let mut table = Table::new([
        ("BACKEND", Left),
        ("STATE", Left),
        ("WEIGHT", Right),
        ("LIVE", Right),
        ("SHARE", Right),
        ("PACKETS", Right),
        ("BYTES", Right),
        ("NEW FLOWS", Right),
        ("FORWARD", Left),
        ("NEXT HOP", Left),
        ("ORIGIN", Left),
        ("NOTE", Left),
    ]);
    // Where all are the config's, nobody needs to be told.
    let told = backends.iter().any(|backend| backend.origin != Origin::Config);
    for backend in backends {
        let (state, style) = state(backend.state);
        let hop = [&backend.next_hop.mac, &backend.next_hop.interface];
        let hop: Vec<_> = hop.into_iter().flatten().map(String::as_str).collect();
        table.row([
            (&*backend.address).into(),
            Cell::styled(state, style),
            backend.weight.to_string().into(),
            format!("{:.0}", backend.live_weight).into(),
            format!("{:.1} %", backend.share * 100.0).into(),
            count(backend.packets_total).into(),
            bytes(backend.bytes_total).into(),
            count(backend.new_flows_total).into(),
            (&*backend.forward).into(),
            hop.join(" ").into(),
            if told { backend.origin.word() } else { "" }.into(),
            note(backend).into(),
        ]);
    }
    table
}

fn state(state: BackendState) -> (&'static str, Style) {
    match state {
        BackendState::Healthy => ("healthy", GREEN),
        BackendState::Unhealthy => ("unhealthy", RED),
        BackendState::Draining => ("draining", YELLOW),
        BackendState::Leaving => ("leaving", YELLOW),
        BackendState::Unresolved => ("unresolved", RED),
        BackendState::Pending => ("pending", YELLOW),
        BackendState::Maintenance => ("maintenance", YELLOW),
        BackendState::Damped => ("damped", RED),
        BackendState::Backup => ("backup", PLAIN),
        BackendState::SlowStart => ("slow start", GREEN),
        BackendState::Unknown => ("unknown", DIM),
    }
}

/// What was changed of it live, and why the backend isn't healthy, or may soon not be.
fn note(backend: &BackendStatus) -> String {
    let change = backend.live_change.clone();
    let check = backend.health.as_ref().and_then(check).or_else(|| waiting(backend));
    let agent = backend.agent.as_ref().and_then(agent);
    let load = backend.load.as_ref().and_then(load);
    let hop = backend.next_hop.error.clone();
    let flows = flows(backend);
    change
        .into_iter()
        .chain(check)
        .chain(agent)
        .chain(load)
        .chain(hop)
        .chain(flows)
        .collect::<Vec<_>>()
        .join("; ")
}

/// What an agent wants that isn't all, and why it isn't known.
fn agent(agent: &AgentStatus) -> Option<String> {
    let wants = (agent.state != AgentState::default().sentence())
        .then(|| format!("agent: {}", agent.said.as_deref().unwrap_or(&agent.state)));
    let error = agent.error.clone();
    let told: Vec<_> = wants.into_iter().chain(error).collect();
    (!told.is_empty()).then(|| told.join(", "))
}

/// How loaded a backend says that it is.
fn load(load: &LoadStatus) -> Option<String> {
    let LoadStatus { utilization, age_seconds, error, .. } = load;
    match (utilization, age_seconds) {
        (Some(utilization), Some(age)) if *age < 60.0 => {
            Some(format!("load {:.0} %", utilization * 100.0))
        }
        (Some(_), Some(age)) => Some(format!("no load report for {age:.0} s")),
        _ => Some(error.clone().unwrap_or_else(|| "no load report yet".to_owned())),
    }
}

/// A backend that is well, and that the ring doesn't know so yet.
fn waiting(backend: &BackendStatus) -> Option<String> {
    let waits = backend.state == BackendState::Pending && backend.next_hop.error.is_none();
    waits.then(|| "the ring is being built".to_owned())
}

/// What a check has to say: nothing, where all is well.
fn check(health: &HealthStatus) -> Option<String> {
    let HealthStatus { contradicting, needed, reason, .. } = health;
    match (health.ok, contradicting) {
        (Some(true), 0) => None,
        (Some(true), _) => Some(format!("{contradicting} of {needed} failed checks: {reason}")),
        (None, _) | (Some(false), 0) => Some(reason.clone()),
        (Some(false), _) => {
            Some(format!("{contradicting} of {needed} good checks needed: {reason}"))
        }
    }
}

/// What keeps a backend that takes no new flows.
fn flows(backend: &BackendStatus) -> Option<String> {
    if !matches!(backend.state, BackendState::Draining | BackendState::Leaving) {
        return None;
    }
    Some(match (backend.drained, backend.flows) {
        (true, _) => "drained".to_owned(),
        (false, 0) => "no flow is known, quiet ones may be left".to_owned(),
        (false, flows) => {
            format!("{} known, quiet ones may be left", plural(flows as usize, "flow"))
        }
    })
}

pub(super) fn stats(stats: &Stats) -> String {
    let mut table = Table::new([
        ("SERVICE", Left),
        ("BACKEND", Left),
        ("PACKETS", Right),
        ("BYTES", Right),
        ("NEW FLOWS", Right),
    ]);
    for service in &stats.services {
        table.row([
            Cell::styled(&*service.name, BOLD),
            "sum".into(),
            count(service.packets_total).into(),
            bytes(service.bytes_total).into(),
            count(service.new_flows_total).into(),
        ]);
        for backend in &service.backends {
            table.row([
                "".into(),
                (&*backend.address).into(),
                count(backend.packets_total).into(),
                bytes(backend.bytes_total).into(),
                count(backend.new_flows_total).into(),
            ]);
        }
    }
    let mut drops = Table::new([("DROPS", Left), ("PACKETS", Right)]);
    for (reason, packets) in stats.drops_total.iter().filter(|(_, packets)| **packets > 0) {
        drops.row([reason.as_str().into(), count(*packets).into()]);
    }
    let mut text = String::new();
    if !stats.services.is_empty() {
        text += &(table.render(0) + "\n");
    }
    text += &match stats.drops_total.values().all(|packets| *packets == 0) {
        true => "no drops\n".to_owned(),
        false => drops.render(0),
    };
    let _ = write!(text, "\n{} packets passed, for no service", count(stats.passes_total));
    let IcmpSent { echo_reply, too_big } = stats.icmp_sent_total;
    if echo_reply > 0 {
        let _ = write!(text, "\n{} echo requests answered", count(echo_reply));
    }
    if too_big > 0 {
        let _ = write!(text, "\n{} senders told of too big packets", count(too_big));
    }
    text
}

pub(super) fn flow_list(list: &FlowList) -> String {
    let mut table = Table::new([
        ("SERVICE", Left),
        ("CLIENT", Left),
        ("VIP", Left),
        ("SOURCE", Left),
        ("BACKEND", Left),
        ("PROTOCOL", Left),
        ("STATE", Left),
        ("AGE", Right),
        ("QUIET", Right),
    ]);
    let seconds = |seconds: u32| duration(Duration::from_secs(seconds.into()));
    for flow in &list.flows {
        table.row([
            (&*flow.service).into(),
            (&*flow.client).into(),
            (&*flow.vip).into(),
            (&*flow.source).into(),
            (&*flow.backend).into(),
            (&*flow.protocol).into(),
            (&*flow.state).into(),
            seconds(flow.age_seconds).into(),
            seconds(flow.quiet_seconds).into(),
        ]);
    }
    let shown = list.flows.len();
    match list.matching {
        0 => "no such flows; those of other forward modes than fullnat are not known".to_owned(),
        all if all > shown as u64 => {
            format!("{}\n{shown} of {} flows: --limit shows more", table.render(0), count(all))
        }
        _ => format!("{}\n{}", table.render(0), plural(shown, "flow")),
    }
}

pub(super) fn event(event: &Event) -> String {
    let style = match event.kind {
        trouble if trouble.is_trouble() => RED,
        EventKind::BackendUp
        | EventKind::NextHopResolved
        | EventKind::Attached
        | EventKind::DiscoveryRecovered => GREEN,
        EventKind::BackendDraining => YELLOW,
        _ => PLAIN,
    };
    let subject = [&event.service, &event.backend];
    let subject: Vec<_> = subject.into_iter().flatten().map(String::as_str).collect();
    let change = match (&event.from, &event.to) {
        (Some(from), Some(to)) => format!("{from} -> {to}"),
        (Some(from), None) => format!("{from} -> none"),
        (None, Some(to)) => format!("-> {to}"),
        (None, None) => String::new(),
    };
    let by = event.actor.as_ref().map(|actor| format!(" by {actor}")).unwrap_or_default();
    let why = format!("({}{by})", event.cause.word());
    let mut table = Table::new([
        ("", Right),
        ("", Left),
        ("", Left),
        ("", Left),
        ("", Left),
        ("", Left),
        ("", Left),
    ]);
    table.row([
        Cell::styled(format!("{:>5}", event.number), DIM),
        format!("{:.3}", event.at).into(),
        Cell::styled(format!("{:17}", event.kind.word()), style),
        subject.join(" ").into(),
        Cell::styled(change, BOLD),
        (&*event.message).into(),
        Cell::styled(why, DIM),
    ]);
    // One row, without the head.
    let text = table.render(0);
    text.split_once('\n').map_or_else(String::new, |(_, row)| row.to_owned())
}

pub(super) fn explanation(explanation: &Explanation) -> String {
    let mut table = Table::new([("STEP", Left), ("WHAT HAPPENS", Left)]);
    for step in &explanation.steps {
        table.row([(&*step.step).into(), (&*step.detail).into()]);
    }
    let mut text = table.render(0);
    let style = if explanation.verdict == "drop" { RED } else { BOLD };
    let _ = write!(text, "\nverdict {style}{}{style:#}", explanation.verdict);
    for (word, what) in [
        ("service", &explanation.service),
        ("backend", &explanation.backend),
        ("reason", &explanation.reason),
    ] {
        if let Some(what) = what {
            let _ = write!(text, ", {word} {what}");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_check_tells_how_far_it_is() {
        let say = |ok, contradicting, needed, reason: &str| {
            let reason = reason.to_owned();
            check(&HealthStatus {
                ok,
                via: "vip".to_owned(),
                since: jiff::Timestamp::UNIX_EPOCH,
                reason,
                contradicting,
                needed,
                passed_total: 0,
                failed_total: 0,
                inconclusive_total: 0,
            })
            .unwrap_or_default()
        };
        assert_eq!(say(Some(true), 0, 0, "status 200 OK"), "");
        assert_eq!(say(Some(true), 2, 3, "refused"), "2 of 3 failed checks: refused");
        assert_eq!(say(Some(false), 0, 0, "refused"), "refused");
        assert_eq!(
            say(Some(false), 1, 2, "status 200 OK"),
            "1 of 2 good checks needed: status 200 OK"
        );
    }
}
