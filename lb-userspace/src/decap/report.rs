//! What is said: two lines on standard output, and what the log has to tell.

use std::{collections::BTreeSet, fs};

use lb_common::verdict::{DropReason, OUTCOME_FOREIGN, OUTCOME_SENT_ON};
use serde_json::json;

use crate::{
    cli::Cidr,
    dataplane::{Attached, Totals},
};

/// Networks in one line.
pub(super) fn list(senders: &BTreeSet<Cidr>) -> String {
    if senders.is_empty() {
        return "nobody".to_owned();
    }
    senders.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

/// Said once packets are decapsulated.
pub(super) fn serving(attached: &Attached, senders: &BTreeSet<Cidr>, as_json: bool) -> String {
    let Attached { interface, mode, .. } = attached;
    if !as_json {
        return format!("decapsulating on {interface} ({mode} XDP) from {}", list(senders));
    }
    let senders: Vec<String> = senders.iter().map(ToString::to_string).collect();
    json!({
        "event": "decapsulating", "interface": interface, "mode": mode.to_string(), "from": senders,
    })
    .to_string()
}

/// Said at the end.
pub(super) fn ended(interface: &str, totals: &Totals, as_json: bool) -> String {
    let (packets, bytes) = (totals.decapsulated.packets, totals.decapsulated.bytes);
    let foreign = foreign(totals);
    let forwarded = totals.outcomes[OUTCOME_SENT_ON as usize];
    let dropped: Vec<(&str, u64)> = DropReason::ALL
        .iter()
        .map(|reason| (reason.name(), totals.outcomes[*reason as usize]))
        .filter(|(_, count)| *count > 0)
        .collect();
    if as_json {
        let dropped: serde_json::Map<_, _> =
            dropped.into_iter().map(|(name, count)| (name.to_owned(), count.into())).collect();
        return json!({
            "event": "stopped", "interface": interface, "packets": packets, "bytes": bytes,
            "forwarded": forwarded, "dropped": dropped, "foreign": foreign,
        })
        .to_string();
    }
    let sum: u64 = dropped.iter().map(|(_, count)| count).sum();
    let mut reasons: Vec<String> =
        dropped.iter().map(|(name, count)| format!("{name} {count}")).collect();
    if let [first, ..] = &mut reasons[..] {
        *first = format!(": {first}");
    }
    format!(
        "{interface}: decapsulated {packets} packets ({bytes} bytes), forwarded {forwarded}, dropped {sum}{}, foreign {foreign}",
        reasons.join(", ")
    )
}

/// Tunnel packets that came from no balancer.
pub(super) fn foreign(totals: &Totals) -> u64 {
    totals.outcomes[OUTCOME_FOREIGN as usize]
}

/// What is said of tunnel packets that came from elsewhere; `None` if there were no new ones.
pub(super) fn foreign_since(
    before: u64,
    now: u64,
    interface: &str,
    senders: &BTreeSet<Cidr>,
) -> Option<String> {
    let new = now.checked_sub(before).filter(|new| *new > 0)?;
    Some(format!(
        "{new} tunnel packets came to {interface} from elsewhere than {}, and were left to the kernel; if a balancer sent them, name its address with --from (tcpdump -ni {interface} 'ip proto 4 or ip proto 41 or ip6 proto 4 or ip6 proto 41 or udp port 6080' shows who sends)",
        list(senders)
    ))
}

/// What is wrong with the kernel's reverse path filter; `None` if nothing is.
pub(super) fn reverse_path_filter(interface: &str) -> Option<String> {
    // The kernel takes the greater of both (Documentation/networking/ip-sysctl.rst).
    let value = |name: &str| -> Option<u8> {
        let path = format!("/proc/sys/net/ipv4/conf/{name}/rp_filter");
        fs::read_to_string(path).ok()?.trim().parse().ok()
    };
    let strict = value("all").max(value(interface)) == Some(1);
    strict.then(|| {
        format!(
            "the strict reverse path filter on {interface} drops decapsulated IPv4 packets of clients that are reached by another interface; make it loose: sysctl -w net/ipv4/conf/{interface}/rp_filter=2"
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dataplane::Mode;

    fn senders(networks: &[&str]) -> BTreeSet<Cidr> {
        networks.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn the_first_line_says_where_how_and_from_whom() {
        let attached = Attached { interface: "eth0".into(), ifindex: 2, mode: Mode::Native };
        let networks = senders(&["10.0.0.0/24", "fe80::/64"]);
        assert_eq!(
            serving(&attached, &networks, false),
            "decapsulating on eth0 (native XDP) from 10.0.0.0/24, fe80::/64"
        );
        assert_eq!(
            serde_json::from_str::<serde_json::Value>(&serving(&attached, &networks, true))
                .unwrap(),
            json!({
                "event": "decapsulating", "interface": "eth0", "mode": "native",
                "from": ["10.0.0.0/24", "fe80::/64"],
            })
        );
    }

    #[test]
    fn the_last_line_has_every_total() {
        let mut totals = Totals::default();
        totals.decapsulated.packets = 12;
        totals.decapsulated.bytes = 3456;
        assert_eq!(
            ended("eth0", &totals, false),
            "eth0: decapsulated 12 packets (3456 bytes), forwarded 0, dropped 0, foreign 0"
        );
        totals.outcomes[DropReason::Fragment as usize] = 1;
        totals.outcomes[DropReason::BadGue as usize] = 2;
        totals.outcomes[OUTCOME_SENT_ON as usize] = 5;
        totals.outcomes[OUTCOME_FOREIGN as usize] = 4;
        assert_eq!(
            ended("eth0", &totals, false),
            "eth0: decapsulated 12 packets (3456 bytes), forwarded 5, dropped 3: fragment 1, bad_gue 2, foreign 4"
        );
        assert_eq!(
            serde_json::from_str::<serde_json::Value>(&ended("eth0", &totals, true)).unwrap(),
            json!({
                "event": "stopped", "interface": "eth0", "packets": 12, "bytes": 3456,
                "forwarded": 5, "dropped": {"fragment": 1, "bad_gue": 2}, "foreign": 4,
            })
        );
    }

    #[test]
    fn foreign_packets_are_told_once() {
        let networks = senders(&["10.0.0.0/24"]);
        assert_eq!(foreign_since(3, 3, "eth0", &networks), None);
        let line = foreign_since(3, 5, "eth0", &networks).unwrap();
        assert!(line.starts_with("2 tunnel packets"), "{line}");
        assert!(line.contains("10.0.0.0/24") && line.contains("--from"), "{line}");
    }
}
