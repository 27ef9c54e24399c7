//! What is measured: classes of packets, over how many flows, by which forward mode.

use serde::{Serialize, Serializer};

use crate::model::{Forward, Protocol};

/// What kind of packets comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Class {
    /// Established TCP connections over IPv4.
    V4Tcp,
    /// Datagrams over IPv4.
    V4Udp,
    /// Established TCP connections over IPv6.
    V6Tcp,
    /// Established TCP connections over IPv4, in slots that all move: each has a record.
    Moving,
    /// Clients connect: each packet is a SYN as an operating system sends it, with options, and
    /// the sources count up, as clients behind one another's addresses do.
    NewFlows,
    /// An attack: each packet is a bare SYN, and the sources are scattered over all addresses, so
    /// that nothing which two clients share helps a cache.
    SynFlood,
    /// What backends answer to such connections, on its way back to the clients: over IPv4.
    V4Answers,
    /// The same over IPv6.
    V6Answers,
    /// TCP over IPv4 to a host that isn't a VIP.
    NotOurs,
    /// The same, where it might be an answer: from no backend, but others are answered through the
    /// balancer.
    NoAnswer,
    /// Not even IP.
    Arp,
}

/// How a packet travels to its backend, and by which protocol where it is encapsulated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Mode {
    /// Only the MAC addresses change.
    L2,
    /// An IPv4 header.
    Ipip,
    /// An IPv6 header.
    Ipip6,
    /// IPv4, UDP and GUE headers.
    Gue,
    /// IPv6, UDP and GUE headers.
    Gue6,
    /// Another destination, and back another source.
    Nat,
    /// Other ends, from flow to flow.
    Fullnat,
}

/// One line of the result: packets of a class, over so many flows, by a mode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Case {
    /// What kind of packets.
    pub(crate) class: Class,
    /// A power of two; `None` where each packet is another flow's.
    pub(crate) flows: Option<u32>,
    /// `None` for packets that aren't ours.
    pub(crate) mode: Option<Mode>,
}

/// The numbers of flows that classes of established flows are measured over.
pub(crate) const FLOWS: [u32; 3] = [1, 1 << 14, 1 << 20];

impl Class {
    /// Its name in JSON.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::V4Tcp => "v4_tcp",
            Self::V4Udp => "v4_udp",
            Self::V6Tcp => "v6_tcp",
            Self::Moving => "moving",
            Self::NewFlows => "new_flows",
            Self::SynFlood => "syn_flood",
            Self::V4Answers => "v4_answers",
            Self::V6Answers => "v6_answers",
            Self::NotOurs => "not_ours",
            Self::NoAnswer => "no_answer",
            Self::Arp => "arp",
        }
    }

    /// Its packets are sent to a VIP, or are a backend's answers.
    pub(crate) const fn is_ours(self) -> bool {
        !matches!(self, Self::NotOurs | Self::NoAnswer | Self::Arp)
    }

    /// Its packets are a backend's answers.
    pub(crate) const fn is_answer(self) -> bool {
        matches!(self, Self::V4Answers | Self::V6Answers)
    }

    /// Its packets are IPv6.
    pub(crate) const fn is_v6(self) -> bool {
        matches!(self, Self::V6Tcp | Self::V6Answers)
    }

    /// The transport protocol of its packets.
    pub(crate) const fn protocol(self) -> Protocol {
        match self {
            Self::V4Udp => Protocol::Udp,
            _ => Protocol::Tcp,
        }
    }
}

impl Mode {
    /// Those by which backends answer the client directly.
    pub(crate) const DIRECT: [Self; 5] = [Self::L2, Self::Ipip, Self::Ipip6, Self::Gue, Self::Gue6];

    /// Its name in JSON and in the table.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::L2 => "l2",
            Self::Ipip => "ipip",
            Self::Ipip6 => "ipip6",
            Self::Gue => "gue",
            Self::Gue6 => "gue6",
            Self::Nat => "nat",
            Self::Fullnat => "fullnat",
        }
    }

    /// The forward mode as a service has it.
    pub(crate) const fn forward(self) -> Forward {
        match self {
            Self::L2 => Forward::L2,
            Self::Ipip | Self::Ipip6 => Forward::Ipip,
            Self::Gue | Self::Gue6 => Forward::Gue,
            Self::Nat => Forward::Nat,
            Self::Fullnat => Forward::Fullnat,
        }
    }

    /// Whether backends of such a service have IPv6 addresses; `vip_is_v6` decides where the
    /// packets aren't encapsulated.
    pub(crate) const fn backends_are_v6(self, vip_is_v6: bool) -> bool {
        match self {
            Self::L2 | Self::Nat | Self::Fullnat => vip_is_v6,
            Self::Ipip | Self::Gue => false,
            Self::Ipip6 | Self::Gue6 => true,
        }
    }
}

impl Serialize for Class {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

impl Serialize for Mode {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

/// Every case, in the order in which they are measured and shown.
#[cfg(test)]
pub(crate) fn cases() -> Vec<Case> {
    [direct(), answered(), by_flow()].concat()
}

/// Those of a balancer whose backends all answer the client directly.
pub(crate) fn direct() -> Vec<Case> {
    let mut cases = Vec::new();
    for class in [Class::V4Tcp, Class::V6Tcp] {
        for mode in Mode::DIRECT {
            cases.extend(established(class, mode));
        }
    }
    cases.extend(established(Class::V4Udp, Mode::Ipip));
    cases.extend(established(Class::Moving, Mode::Ipip));
    for class in [Class::NewFlows, Class::SynFlood] {
        cases.push(Case { class, flows: None, mode: Some(Mode::Ipip) });
    }
    cases.push(Case { class: Class::NotOurs, flows: Some(FLOWS[1]), mode: None });
    cases.push(Case { class: Class::Arp, flows: Some(1), mode: None });
    cases
}

/// Those of a balancer through which backends answer.
pub(crate) fn answered() -> Vec<Case> {
    let ours = [Class::V4Tcp, Class::V4Answers, Class::V6Tcp, Class::V6Answers];
    let ours = ours.into_iter().flat_map(|class| established(class, Mode::Nat));
    ours.chain([Case { class: Class::NoAnswer, flows: Some(FLOWS[1]), mode: None }]).collect()
}

/// Those of a balancer that knows every flow.
pub(crate) fn by_flow() -> Vec<Case> {
    let ours = [Class::V4Tcp, Class::V6Tcp].into_iter();
    ours.flat_map(|class| established(class, Mode::Fullnat)).collect()
}

/// The cases that the reference with a table of connections is measured by, too.
pub(crate) fn is_compared(case: &Case) -> bool {
    match case.class {
        Class::NotOurs => true,
        Class::Arp | Class::NoAnswer => false,
        _ => case.mode == Some(Mode::Ipip),
    }
}

/// The case whose reference a case is compared with: the same packets, by the mode that the
/// reference is measured in.
pub(crate) fn comparable(case: &Case) -> Case {
    Case { mode: case.mode.map(|_| Mode::Ipip), ..*case }
}

fn established(class: Class, mode: Mode) -> impl Iterator<Item = Case> {
    FLOWS.into_iter().map(move |flows| Case { class, flows: Some(flows), mode: Some(mode) })
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn every_case_is_measured_once() {
        let cases = cases();
        let names: HashSet<_> = cases
            .iter()
            .map(|case| (case.class.name(), case.flows, case.mode.map(Mode::name)))
            .collect();
        assert_eq!(names.len(), cases.len());
        assert!(cases.iter().all(|case| case.class.is_ours() == case.mode.is_some()));
        assert!(cases.iter().all(|case| case.flows.is_none_or(u32::is_power_of_two)));
    }

    #[test]
    fn what_is_compared_has_a_reference() {
        let cases = cases();
        for case in &cases {
            if case.class.is_answer() {
                continue;
            }
            let other = comparable(case);
            assert!(cases.contains(&other), "{case:?}");
            let has_none = matches!(case.class, Class::Arp | Class::NoAnswer);
            assert_eq!(is_compared(&other), !has_none, "{case:?}");
        }
    }
}
