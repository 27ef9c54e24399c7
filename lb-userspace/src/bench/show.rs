//! The result for people.

use super::{
    class::{Class, Mode},
    machine::Machine,
    report::{Report, Row},
};
use crate::cli::table::{Align, BOLD, Cell, DIM, GREEN, RED, Table, bytes, count};

/// The whole result.
pub(crate) fn text(report: &Report) -> String {
    let Report { packets, rounds, memory, ring_build_ms: ring, .. } = report;
    let mut text = machine(&report.machine);
    text += &format!(
        "ns per packet: the median of {rounds} rounds of {} packets, and the range of all\n\n",
        count((*packets).into())
    );
    text += &results(&report.results).render(0);
    text += "targets are for an idle machine of the reference kind\n";
    text += &format!("\n{BOLD}References{BOLD:#}\n");
    text += &references(report).render(0);
    text += &format!(
        "\nMaps of {} services of {} slots, with room for {} slots and {} backends: {}, {} at most: {}\n",
        memory.services,
        memory.ring_size,
        memory.slots,
        memory.backends,
        bytes(memory.map_bytes),
        bytes(memory.target_bytes),
        judged(memory.within),
    );
    text += &format!(
        "Building a ring of {} backends and {} slots: {:.1} ms ({:.1} to {:.1}), {:.0} at most: {}\n",
        ring.backends,
        ring.slots,
        ring.ms.median,
        ring.ms.min,
        ring.ms.max,
        ring.target,
        judged(ring.within),
    );
    text
}

fn machine(machine: &Machine) -> String {
    let unknown = || "unknown".to_owned();
    format!(
        "{BOLD}xlb {}{BOLD:#} on {}, {}, CPU {} of {}; Linux {}; {}\n",
        machine.xlb,
        machine.cpu.clone().unwrap_or_else(unknown),
        machine.architecture,
        machine.measured_on,
        machine.cpus,
        machine.kernel.clone().unwrap_or_else(unknown),
        if machine.jit { "JIT on" } else { "JIT off: the figures mean little" },
    )
}

fn results(rows: &[Row]) -> Table {
    let mut table = Table::new([
        ("PACKETS", Align::Left),
        ("FLOWS", Align::Right),
        ("FORWARD", Align::Left),
        ("NS", Align::Right),
        ("RANGE", Align::Right),
        ("TARGET", Align::Right),
        ("OF CLASSIC", Align::Right),
        ("TARGET", Align::Right),
        ("", Align::Left),
    ]);
    for row in rows {
        let number = |value: Option<f64>, decimals| match value {
            Some(value) => format!("{value:.decimals$}"),
            None => String::new(),
        };
        let (word, style) = match (row.target_ns, row.within) {
            (None, _) => ("", DIM),
            (Some(_), true) => ("ok", GREEN),
            (Some(_), false) => ("over", RED),
        };
        table.row([
            packets(row.class).into(),
            flows(row.flows).into(),
            row.forward.map_or("", Mode::name).into(),
            Cell::styled(format!("{:.1}", row.ns), BOLD),
            Cell::styled(range(row.ns_min, row.ns_max), DIM),
            number(row.target_ns, 0).into(),
            number(row.ratio_classic, 2).into(),
            number(row.target_ratio, 2).into(),
            Cell::styled(word, style),
        ]);
    }
    table
}

fn references(report: &Report) -> Table {
    let mut table = Table::new([
        ("PROGRAM", Align::Left),
        ("PACKETS", Align::Left),
        ("FLOWS", Align::Right),
        ("FORWARD", Align::Left),
        ("NS", Align::Right),
        ("RANGE", Align::Right),
    ]);
    for reference in &report.references {
        table.row([
            reference.program.into(),
            packets(reference.class).into(),
            flows(reference.flows).into(),
            reference.forward.map_or("", Mode::name).into(),
            Cell::styled(format!("{:.1}", reference.ns), BOLD),
            Cell::styled(range(reference.ns_min, reference.ns_max), DIM),
        ]);
    }
    table
}

fn packets(class: Class) -> &'static str {
    match class {
        Class::V4Tcp => "IPv4 TCP",
        Class::V4Udp => "IPv4 UDP",
        Class::Moving => "IPv4 TCP, moving",
        Class::V6Tcp => "IPv6 TCP",
        Class::NewFlows => "new flows",
        Class::SynFlood => "SYN flood",
        Class::V4Answers => "IPv4 TCP, answers",
        Class::V6Answers => "IPv6 TCP, answers",
        Class::NotOurs => "not ours",
        Class::NoAnswer => "not ours beside nat",
        Class::Arp => "ARP",
    }
}

fn flows(flows: Option<u32>) -> String {
    flows.map_or_else(|| "ever new".to_owned(), |flows| flows.to_string())
}

fn range(min: f64, max: f64) -> String {
    format!("{min:.0} to {max:.0}")
}

fn judged(within: bool) -> String {
    let (word, style) = if within { ("ok", GREEN) } else { ("over", RED) };
    format!("{style}{word}{style:#}")
}
