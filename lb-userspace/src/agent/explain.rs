//! What the running balancer would do with a packet: the packet path itself, run on the host over
//! the maps.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use lb_common::{
    balance::balance,
    carry_on::carry_on,
    id::{BackendId, ServiceId},
    layout::{AnswerEntry, BackendRecord, FlowRecord, Kind, Progress, Slot},
    network::{TCP, UDP},
    packet::Packet,
    tables::{MemoryBuffer, Tables as _},
    verdict::{Outcome, Verdict},
};

use super::{Agent, watched::Watched};
use crate::{
    api::{ApiError, ErrorKind, Explanation, FlowQuery, Step},
    dataplane,
    model::Protocol,
    plan::backend_key,
};

/// Room in front of the packet, as drivers leave.
const HEADROOM: usize = 256;

impl Agent {
    pub(super) fn explain(&self, query: &FlowQuery) -> Result<Explanation, ApiError> {
        let invalid = |message: String| ApiError::new(ErrorKind::Invalid, message);
        let protocol: Protocol = query
            .protocol
            .parse()
            .map_err(|error| invalid(format!("protocol {:?}: {error}", query.protocol)))?;
        let frame = frame(query.from, query.to, protocol).ok_or_else(|| {
            invalid(format!("from {} to {}: both must be IPv4 or both IPv6", query.from, query.to))
        })?;
        let ingress = self.plane_ingress();
        let mut buffer = MemoryBuffer::new(&frame, HEADROOM, ingress);
        let watched = Watched::new(&self.plane);
        let mut packed = balance(Packet::new(&mut buffer), &watched);

        let mut steps = vec![step(
            "parse",
            format!("{} packet from {} to {}", protocol.word(), query.from, query.to),
        )];
        let by_flow = packed.verdict() == Verdict::Drop && packed.may_be().is_some();
        let (first, mut written) = (packed, buffer.frame());
        if packed.may_be().is_some() {
            let run = |ingress| {
                let mut buffer = MemoryBuffer::new(&frame, HEADROOM, ingress);
                let mut outcome = first;
                while let Some(may_be) = outcome.may_be() {
                    outcome = carry_on(Packet::new(&mut buffer), may_be, &watched, &watched);
                }
                (outcome, buffer.frame())
            };
            (packed, written) = run(ingress);
            if let Some(entry) = watched.answer() {
                // It comes in by where its backend is.
                let record = self.plane.backend(BackendId(entry.backend)).map(|one| one.active());
                match record.map_or(0, |record| record.egress_ifindex) {
                    0 => {}
                    behind => (packed, _) = run(behind),
                }
                return Ok(self.explain_answer(&packed.into(), &entry, &watched, query, steps));
            }
        }
        let outcome = Outcome::from(packed);
        let service = self.explain_service(outcome.service, query, &watched, &mut steps);
        if by_flow || outcome.is_answer {
            steps.push(step("flow", explain_translated(watched.translated())));
        }
        let record = self.explain_backend(outcome.backend, service.is_some(), &mut steps);
        let (verdict, reason) = self.explain_end(&outcome, record.as_ref(), &written, &mut steps);
        Ok(Explanation {
            verdict: verdict.to_owned(),
            service,
            backend: record.as_ref().map(|record| backend_key(record).to_string()),
            reason,
            steps,
        })
    }

    /// What becomes of a backend's answer.
    fn explain_answer(
        &self,
        outcome: &Outcome,
        entry: &AnswerEntry,
        watched: &Watched<'_>,
        query: &FlowQuery,
        mut steps: Vec<Step>,
    ) -> Explanation {
        let id = ServiceId(entry.service);
        let service = self.actual.services.get(&id).map(|present| {
            let key = present.entry.key;
            let service = self.effective.services.iter().find(|service| service.key == key);
            service.map_or_else(|| key.to_string(), |service| service.name.clone())
        });
        let record = self.plane.backend(BackendId(entry.backend)).map(|found| *found.active());
        let backend = record.as_ref().map(|record| backend_key(record).to_string());
        let of = |name: &Option<String>| name.clone().unwrap_or_else(|| "nobody".to_owned());
        steps.push(step(
            "answer",
            format!("of {} (record {}), of {}", of(&backend), entry.backend, of(&service)),
        ));
        let to = query.to.ip();
        let detail = match (watched.way(), outcome.reason) {
            (Some((way, is_told)), _) => {
                let [a, b, ..] = way.macs;
                let (a, b) = (a.to_ne_bytes(), b.to_ne_bytes());
                let mac = crate::model::MacAddress([a[0], a[1], a[2], a[3], b[0], b[1]]);
                let (out, mtu) = (self.interface_name(way.ifindex), way.mtu);
                let of = if is_told { "routes say, which the agent told" } else { "tables say" };
                format!("to {to} by {out}, next hop {mac}, MTU {mtu}, as the kernel's {of}")
            }
            (None, Some(reason)) => format!("to {to}: none: {}", reason.name()),
            (None, None) => format!("to {to}: not asked for"),
        };
        steps.push(step("way", detail));
        if outcome.is_forwarded() {
            let vip = Ipv6Addr::from(entry.vip).to_canonical();
            let port = if entry.port == 0 { query.from.port() } else { entry.port };
            let source = SocketAddr::new(vip, port);
            steps.push(step("rewrite", format!("the source becomes {source}")));
        }
        let (verdict, reason) = self.explain_end(outcome, None, &[], &mut steps);
        Explanation { verdict: verdict.to_owned(), service, backend, reason, steps }
    }

    fn interface_name(&self, index: u32) -> String {
        let interfaces = self.interfaces.borrow();
        let name = interfaces.get(index).map(|interface| interface.name.clone());
        name.unwrap_or_else(|| format!("interface {index}"))
    }

    /// The interface that the packet seems to come in by: the first configured one.
    fn plane_ingress(&self) -> u32 {
        let interfaces = self.interfaces.borrow();
        let first = self.config.interfaces.first();
        first.and_then(|name| interfaces.named(name)).map_or(0, |interface| interface.index)
    }

    fn explain_service(
        &self,
        id: ServiceId,
        query: &FlowQuery,
        watched: &Watched<'_>,
        steps: &mut Vec<Step>,
    ) -> Option<String> {
        let Some(present) = self.actual.services.get(&id) else {
            steps.push(step("service", format!("no service takes packets to {}", query.to)));
            return None;
        };
        let key = present.entry.key;
        let service = self.effective.services.iter().find(|service| service.key == key);
        let name = service.map_or_else(|| key.to_string(), |service| service.name.clone());
        steps.push(step("service", format!("{name} ({key})")));
        if let Some((index, slot)) = watched.slot() {
            let (number, size) = (index - present.entry.ring_start, present.entry.ring_size);
            steps.push(step("slot", format!("number {number} of {size}, by the flow's hash")));
            if slot.is_moving() {
                steps.push(step("flow", self.explain_moving(slot, watched.record())));
            }
        }
        Some(name)
    }

    /// Where flows of a moving slot live.
    fn explain_moving(&self, slot: Slot, record: Option<FlowRecord>) -> String {
        let name = |id: BackendId| match self.actual.backends.get(&id) {
            Some(record) => backend_key(record).to_string(),
            None => "nobody".to_owned(),
        };
        let known = match record {
            Some(record) => {
                let quiet = record.quiet_seconds(dataplane::now());
                format!("this one lives with {}, quiet for {quiet} s", name(record.owner.backend))
            }
            None => "nothing is remembered of this one".to_owned(),
        };
        let (new, old) = (name(slot.current()), name(slot.previous()));
        format!("the slot moves: new flows go to {new}, unknown ones to {old}; {known}")
    }

    fn explain_backend(
        &self,
        id: BackendId,
        found_service: bool,
        steps: &mut Vec<Step>,
    ) -> Option<BackendRecord> {
        let record = id.known().and_then(|id| self.plane.backend(id)).map(|entry| *entry.active());
        match &record {
            Some(record) => {
                let key = backend_key(record);
                steps.push(step("backend", format!("{key} (record {})", id.0)));
            }
            None if found_service => {
                steps.push(step("backend", "nobody owns the slot".to_owned()));
            }
            None => {}
        }
        record
    }

    fn explain_end(
        &self,
        outcome: &Outcome,
        record: Option<&BackendRecord>,
        frame: &[u8],
        steps: &mut Vec<Step>,
    ) -> (&'static str, Option<String>) {
        if let (Some(record), true) = (record, outcome.is_forwarded()) {
            steps.push(step("rewrite", rewrite_detail(record, frame)));
        }
        let (verdict, detail) = match (outcome.verdict, outcome.reason) {
            (Verdict::Pass, _) => ("pass", "passed to the kernel, untouched".to_owned()),
            (Verdict::Drop, None) => ("drop", "dropped".to_owned()),
            (Verdict::Drop, Some(reason)) => {
                let description = reason.description().trim();
                ("drop", format!("dropped: {}: {description}", reason.name()))
            }
            (Verdict::Transmit, _) => ("tx", "out of the interface that it came in by".to_owned()),
            (Verdict::Redirect, _) => {
                let to_backend = record.map_or(0, |record| record.egress_ifindex);
                let index = if outcome.is_answer { outcome.egress_ifindex } else { to_backend };
                ("redirect", format!("out of {}", self.interface_name(index)))
            }
        };
        steps.push(step("out", detail));
        (verdict, outcome.reason.map(|reason| reason.name().to_owned()))
    }
}

fn step(name: &str, detail: String) -> Step {
    Step { step: name.to_owned(), detail }
}

/// How far a flow under `fullnat` is.
fn explain_translated(progress: Option<Progress>) -> String {
    match progress {
        Some(progress) => {
            let quiet = progress.quiet_seconds(dataplane::now());
            format!("this one is {}, quiet for {quiet} s", progress.stage.name())
        }
        None => "nothing is known of this one: it would begin here".to_owned(),
    }
}

/// `frame`: as it leaves.
fn rewrite_detail(record: &BackendRecord, frame: &[u8]) -> String {
    let kind = Kind::try_from(record.kind);
    let [a, b, c, d, e, f, ..] = record.macs;
    let mac = crate::model::MacAddress([a, b, c, d, e, f]);
    let what = match kind {
        Ok(Kind::L2) => "new MAC addresses alone",
        Ok(Kind::Ipv4) => "an IPv4 header in front",
        Ok(Kind::Ipv6) => "an IPv6 header in front",
        Ok(Kind::GueIpv4) => "IPv4, UDP and GUE headers in front",
        Ok(Kind::GueIpv6) => "IPv6, UDP and GUE headers in front",
        Ok(Kind::NatIpv4 | Kind::NatIpv6) => {
            let key = backend_key(record);
            let port = if key.port.is_some() { "" } else { ", its port stays" };
            return format!("the destination becomes {key}{port}, in a frame to {mac}");
        }
        Ok(
            kind @ (Kind::FullnatIpv4
            | Kind::FullnatIpv6
            | Kind::FullnatToIpv4
            | Kind::FullnatToIpv6),
        ) => {
            let ends = ends(frame).map(|(from, to)| format!("from {from} to {to}"));
            let ends = ends.unwrap_or_else(|| format!("to {}", backend_key(record)));
            let what = match kind {
                Kind::FullnatToIpv4 => "an IPv4 header in the place of IPv6's, and both ends",
                Kind::FullnatToIpv6 => "an IPv6 header in the place of IPv4's, and both ends",
                _ => "both ends",
            };
            return format!("{what}: {ends}, in a frame to {mac}");
        }
        Err(_) => "nothing: its record is vacant",
    };
    match kind.ok().and_then(|kind| outer_addresses(kind, record)) {
        Some((source, destination)) => {
            format!("{what}, from {source} to {destination}, in a frame to {mac}")
        }
        None => format!("{what}, to {mac}"),
    }
}

/// Source and destination of the header in front.
fn outer_addresses(kind: Kind, record: &BackendRecord) -> Option<(IpAddr, IpAddr)> {
    let outer = &record.outer;
    match kind {
        Kind::L2 | Kind::NatIpv4 | Kind::NatIpv6 | Kind::FullnatIpv4 | Kind::FullnatIpv6 => None,
        Kind::FullnatToIpv4 | Kind::FullnatToIpv6 => None,
        Kind::Ipv4 | Kind::GueIpv4 => {
            let address = |at: usize| <[u8; 4]>::try_from(outer.get(at..at + 4)?).ok();
            Some((address(12)?.into(), address(16)?.into()))
        }
        Kind::Ipv6 | Kind::GueIpv6 => {
            let address = |at: usize| <[u8; 16]>::try_from(outer.get(at..at + 16)?).ok();
            Some((address(8)?.into(), address(24)?.into()))
        }
    }
}

/// Where the packet in such a frame comes from and goes.
fn ends(frame: &[u8]) -> Option<(SocketAddr, SocketAddr)> {
    let packet = frame.get(14..)?;
    let (source, destination, transport) = match packet.first()? >> 4 {
        4 => {
            let address = |at: usize| <[u8; 4]>::try_from(packet.get(at..at + 4)?).ok();
            (IpAddr::from(address(12)?), IpAddr::from(address(16)?), packet.get(20..)?)
        }
        _ => {
            let address = |at: usize| <[u8; 16]>::try_from(packet.get(at..at + 16)?).ok();
            (IpAddr::from(address(8)?), IpAddr::from(address(24)?), packet.get(40..)?)
        }
    };
    let port = |at: usize| Some(u16::from_be_bytes(transport.get(at..at + 2)?.try_into().ok()?));
    Some((SocketAddr::new(source, port(0)?), SocketAddr::new(destination, port(2)?)))
}

/// A frame that opens such a flow. `None` for addresses of two families.
fn frame(from: SocketAddr, to: SocketAddr, protocol: Protocol) -> Option<Vec<u8>> {
    let mut transport = Vec::new();
    transport.extend(from.port().to_be_bytes());
    transport.extend(to.port().to_be_bytes());
    let number = match protocol {
        Protocol::Tcp => {
            // Sequence and acknowledgement; five words; SYN; window, checksum, urgent pointer.
            transport.extend([0, 0, 0, 0, 0, 0, 0, 0, 0x50, 0x02, 0, 0, 0, 0, 0, 0]);
            TCP
        }
        Protocol::Udp => {
            // With a checksum, without which IPv6 has no datagrams.
            transport.extend([0, 8, 0xff, 0xff]);
            UDP
        }
    };
    let len = transport.len() as u16;
    let mut frame = vec![0; 12];
    match (from.ip(), to.ip()) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            frame.extend([0x08, 0x00, 0x45, 0]);
            frame.extend((20 + len).to_be_bytes());
            frame.extend([0, 0, 0, 0, 64, number, 0, 0]);
            frame.extend(source.octets());
            frame.extend(destination.octets());
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            frame.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
            frame.extend(len.to_be_bytes());
            frame.extend([number, 64]);
            frame.extend(source.octets());
            frame.extend(destination.octets());
        }
        _ => return None,
    }
    frame.extend(transport);
    Some(frame)
}

#[cfg(test)]
mod tests {
    use lb_common::layout::OUTER_CAPACITY;

    use super::*;

    #[test]
    fn the_outer_addresses_are_told() {
        let mut outer = [0; OUTER_CAPACITY];
        outer[12..20].copy_from_slice(&[198, 51, 100, 2, 10, 0, 0, 11]);
        let record = BackendRecord {
            kind: Kind::GueIpv4 as u8,
            macs: [2, 0, 0, 0, 0, 0x11, 0, 0, 0, 0, 0, 0],
            outer,
            ..BackendRecord::VACANT
        };
        assert_eq!(
            rewrite_detail(&record, &[]),
            "IPv4, UDP and GUE headers in front, from 198.51.100.2 to 10.0.0.11, in a frame to \
             02:00:00:00:00:11"
        );
        let record = BackendRecord { kind: Kind::L2 as u8, ..record };
        assert_eq!(rewrite_detail(&record, &[]), "new MAC addresses alone, to 02:00:00:00:00:11");
        let mut outer = [0; OUTER_CAPACITY];
        outer[23] = 1;
        outer[39] = 2;
        let addresses = outer_addresses(Kind::Ipv6, &BackendRecord { outer, ..record });
        assert_eq!(addresses, Some(("::1".parse().unwrap(), "::2".parse().unwrap())));
    }
}
