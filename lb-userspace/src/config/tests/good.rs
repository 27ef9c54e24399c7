//! What is accepted, and what it becomes.

use crate::config::types::Api;
use std::{net::IpAddr, path::Path, sync::Arc, time::Duration};

use hickory_proto::{op::ResponseCode, rr::RecordType};
use lb_common::layout::Affinity;
use proptest::prelude::*;

use super::{SERVICE, TOP, good};
use crate::{
    config::{
        ActiveCheck, Alpn, Config, DnsProbe, Fullnat, GrpcProbe, HealthCheck, HttpProbe, Method,
        NextHop, Payload, Probe, ServiceConfig, StatusRange, Tls, XdpMode, load, parse,
    },
    model::{Forward, MacAddress, Pools, Protocol, ServiceKey},
};

const EVERYTHING: &str = r#"
interfaces = ["eth0"]
xdp_mode   = "auto"            # auto | native | generic
hash_seed  = "0x5eed5eed5eed5eed"
next_hop   = "auto"            # or a MAC, for all backends
pin_path   = "/sys/fs/bpf/xlb"
state_file = "/var/lib/xlb/state.json"
source_ipv4 = "198.51.100.2"
source_ipv6 = "2001:db8:1::2"

[api]
socket  = "/run/xlb/xlb.sock"
metrics = "127.0.0.1:9700"

[[service]]
name     = "web"
vip      = "203.0.113.10:80"
protocol = "tcp"
forward  = "ipip"
ring_size = 65537
affinity = "flow"

[service.health]
type = "http"
path = "/healthz"
interval = "1s"
timeout  = "500ms"
rise = 2
fall = 3

[[service.backend]]
address = "10.0.0.11"
weight  = 100
next_hop = "02:00:00:00:00:11"
"#;

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn one_service(rest: &str) -> ServiceConfig {
    let mut config = good(&format!("{TOP}{SERVICE}{rest}"));
    assert_eq!(config.services.len(), 1);
    config.services.remove(0)
}

#[test]
fn a_file_with_every_key() {
    let config = good(EVERYTHING);
    assert_eq!(config.hash_seed, Some(0x5eed_5eed_5eed_5eed));
    assert_eq!(config.source_ipv4.map(IpAddr::from), Some(ip("198.51.100.2")));
    assert_eq!(config.source_ipv6.map(IpAddr::from), Some(ip("2001:db8:1::2")));
    assert_eq!(config.api.metrics, Some("127.0.0.1:9700".parse().unwrap()));
    let [service] = &config.services[..] else { panic!("{config:#?}") };
    let key = ServiceKey { vip: ip("203.0.113.10"), port: Some(80), protocol: Protocol::Tcp };
    assert_eq!(service.key, key);
    assert_eq!(service.forward, Forward::Ipip);
    assert_eq!(service.ring_size, Some(65537));
    let HealthCheck::Active(check) = &service.health else { panic!("{service:#?}") };
    assert!(matches!(&check.probe, Probe::Http(HttpProbe { path, .. }) if path == "/healthz"));
    assert_eq!(check.port, 80);
    let [backend] = &service.backends[..] else { panic!("{service:#?}") };
    assert_eq!((backend.key.address, backend.key.port), (ip("10.0.0.11"), None));
    assert_eq!(backend.weight, 100);
    assert_eq!(backend.next_hop, Some(MacAddress([2, 0, 0, 0, 0, 0x11])));
    assert_eq!(backend.forward, None);
}

#[test]
fn defaults_of_the_top() {
    let expected = Config {
        interfaces: vec!["eth0".to_owned()],
        xdp_mode: XdpMode::Auto,
        hash_seed: None,
        next_hop: NextHop::Auto,
        pin_path: "/sys/fs/bpf/xlb".into(),
        state_file: "/var/lib/xlb/state.json".into(),
        source_ipv4: None,
        source_ipv6: None,
        flow_capacity: 1_000_000,
        icmp_echo: false,
        fullnat: Fullnat {
            pools: Pools { ipv4: Vec::new(), ipv6: Vec::new(), ports: 1024..=32_767 },
            flow_capacity: 1_000_000,
            opening_timeout: Duration::from_secs(30),
            closing_timeout: Duration::from_secs(60),
        },
        on_event: None,
        api: Api { socket: "/run/xlb/xlb.sock".into(), metrics: None, register: None },
        services: Vec::new(),
    };
    assert_eq!(good(TOP), expected);
    assert_eq!(good(&format!("{TOP}[api]\n")), expected);
    assert_eq!(good(&format!("{TOP}[fullnat]\n")), expected);
}

#[test]
fn pools_of_both_families() {
    let config = good(&format!(
        "{TOP}[fullnat]\npool_ipv4 = [\"198.51.100.7\", \"198.51.100.8\"]\n\
         pool_ipv6 = [\"2001:db8::7\"]\nports = \"40000-49999\"\nflow_capacity = 5000\n\
         opening_timeout = \"5s\"\nclosing_timeout = \"2m\"\n"
    ));
    let Fullnat { pools, flow_capacity, opening_timeout, closing_timeout } = config.fullnat;
    assert_eq!(pools.toward(ip("10.0.0.1"), None), [ip("198.51.100.7"), ip("198.51.100.8")]);
    assert_eq!(pools.toward(ip("fd00::1"), Some(ip("fd00::2"))), [ip("2001:db8::7")]);
    assert_eq!((pools.ports, flow_capacity), (40_000..=49_999, 5000));
    let seconds = [opening_timeout, closing_timeout].map(|timeout| timeout.as_secs());
    assert_eq!(seconds, [5, 120]);
    let none = good(TOP).fullnat.pools;
    assert_eq!(none.toward(ip("10.0.0.1"), Some(ip("10.0.0.2"))), [ip("10.0.0.2")]);
    assert!(none.toward(ip("10.0.0.1"), Some(ip("fd00::2"))).is_empty());
}

/// Each has its flows: a backend may serve many, and any port.
#[test]
fn services_share_backends_under_fullnat() {
    let service = |name: &str, vip: &str, backend: &str| {
        format!(
            "[[service]]\nname = \"{name}\"\nvip = \"{vip}\"\nforward = \"fullnat\"\n\
             backend = [{{ address = \"{backend}\" }}]\n"
        )
    };
    let config = good(&format!(
        "{TOP}{}{}{}",
        service("a", "203.0.113.10:80", "10.0.0.11:8080"),
        service("b", "203.0.113.11:80", "10.0.0.11:8080"),
        service("c", "203.0.113.11:*", "10.0.0.11:8080"),
    ));
    assert_eq!(config.services.len(), 3);
}

/// Where flows have entries, or packets headers in front.
#[test]
fn vip_and_backend_of_two_families() {
    for (vip, backend) in
        [("[2001:db8::10]:80", "10.0.0.11:8080"), ("203.0.113.10:80", "[fd00::11]:8080")]
    {
        let config = good(&format!(
            "{TOP}[[service]]\nname = \"a\"\nvip = \"{vip}\"\nforward = \"fullnat\"\n\
             backend = [{{ address = \"{backend}\" }}]\n"
        ));
        assert_eq!(config.services[0].backends[0].key.to_string(), backend);
    }
}

#[test]
fn hooks_are_programs_with_arguments() {
    let hook = |text: &str| good(&format!("{TOP}{text}\n")).on_event.unwrap();
    let plain = hook("on_event = [\"logger\"]");
    assert_eq!((plain.program(), plain.arguments().len()), ("logger", 0));
    assert_eq!(plain.timeout, Duration::from_secs(10));
    let full = hook("on_event = [\"/bin/tell\", \"a b\", \"\"]\non_event_timeout = \"1s\"");
    assert_eq!(
        (full.program(), full.arguments()),
        ("/bin/tell", &["a b".to_owned(), String::new()][..])
    );
    assert_eq!(full.timeout, Duration::from_secs(1));
}

#[test]
fn defaults_of_a_service_and_its_backends() {
    let service = one_service("[[service.backend]]\naddress = \"10.0.0.11\"\n");
    assert_eq!(service.key.protocol, Protocol::Tcp);
    assert_eq!(service.ring_size, None);
    assert_eq!(service.affinity, Affinity::Flow);
    assert_eq!(service.udp_timeout, Duration::from_secs(60));
    assert_eq!(service.tcp_idle, Duration::from_secs(15 * 60));
    assert_eq!(service.health, HealthCheck::None);
    let backend = &service.backends[0];
    assert_eq!((backend.weight, backend.next_hop, backend.forward), (100, None, None));
    assert_eq!(one_service("").backends, []);
}

fn check(probe: Probe) -> HealthCheck {
    HealthCheck::Active(Arc::new(ActiveCheck {
        probe,
        port: 80,
        port_is_set: false,
        via: None,
        interval: Duration::from_secs(1),
        fast_interval: Duration::from_secs(1),
        jitter: 10,
        timeout: Duration::from_millis(500),
        rise: 2,
        fall: 3,
    }))
}

fn http(tls: Option<Tls>) -> HttpProbe {
    HttpProbe {
        tls,
        method: Method::Get,
        path: "/".to_owned(),
        host: None,
        expect_status: vec![StatusRange::new(200, 399).unwrap()],
        expect_body: None,
        expect_header: None,
    }
}

fn tls(alpn: Alpn) -> Tls {
    Tls { verify: true, ca_file: None, server_name: None, alpn: vec![alpn] }
}

#[test]
fn defaults_of_health_checks() {
    let grpc = |tls| GrpcProbe { tls, service: String::new(), host: None };
    let dns = DnsProbe {
        query: "example.com".to_owned(),
        query_type: RecordType::A,
        expect_rcode: ResponseCode::NoError,
        expect_answer: None,
    };
    let ping = Payload(b"PING".to_vec());
    for (written, probe) in [
        ("type = \"tcp\"", Probe::Tcp),
        ("type = \"http\"", Probe::Http(http(None))),
        ("type = \"https\"", Probe::Http(http(Some(tls(Alpn::Http1))))),
        ("type = \"grpc\"", Probe::Grpc(grpc(None))),
        ("type = \"grpc\"\ntls = true", Probe::Grpc(grpc(Some(tls(Alpn::H2))))),
        ("type = \"udp\"\nsend = \"PING\"", Probe::Udp { send: ping, expect: None }),
        ("type = \"dns\"\nquery = \"example.com\"", Probe::Dns(dns)),
        (
            "type = \"exec\"\ncommand = [\"/bin/true\"]",
            Probe::Exec { command: vec!["/bin/true".to_owned()] },
        ),
    ] {
        assert_eq!(one_service(&format!("[service.health]\n{written}\n")).health, check(probe));
    }
    let health = one_service("[service.health]\ntype = \"none\"\npath = \"/x\"\n").health;
    assert_eq!(health, HealthCheck::None);
}

#[test]
fn a_certificate_is_for_the_host_unless_another_name_is_said() {
    let name = |rest: &str| {
        let health = one_service(&format!("[service.health]\ntype = \"https\"\n{rest}\n")).health;
        let HealthCheck::Active(check) = health else { panic!("{rest}") };
        let Probe::Http(http) = &check.probe else { panic!("{rest}") };
        http.tls.as_ref().unwrap().server_name.clone()
    };
    assert_eq!(name(""), None);
    assert_eq!(name("host = \"a.example:8443\"").as_deref(), Some("a.example"));
    assert_eq!(name("host = \"[2001:db8::1]:8443\"").as_deref(), Some("2001:db8::1"));
    assert_eq!(name("host = \"a.example\"\nserver_name = \"b\"").as_deref(), Some("b"));
}

#[test]
fn the_fast_interval_and_jitter() {
    let health = one_service(
        "health = { type = \"tcp\", interval = \"5s\", fast_interval = \"500ms\", jitter = \"0%\" }",
    )
    .health;
    let HealthCheck::Active(check) = health else { panic!("{health:?}") };
    assert_eq!((check.fast_interval, check.jitter), (Duration::from_millis(500), 0));
}

#[test]
fn the_timeout_follows_a_short_interval() {
    let health = one_service("health = { type = \"tcp\", interval = \"200ms\" }\n").health;
    let HealthCheck::Active(check) = health else { panic!("{health:?}") };
    assert_eq!(check.timeout, Duration::from_millis(200));
}

#[test]
fn statuses() {
    for (written, good, bad) in [
        ("204", &[204][..], &[200, 205][..]),
        ("\"204\"", &[204], &[203, 205]),
        ("\"200-299, 404\"", &[200, 299, 404], &[199, 300, 403]),
    ] {
        let health =
            one_service(&format!("[service.health]\ntype = \"http\"\nexpect_status = {written}\n"));
        let HealthCheck::Active(check) = health.health else { panic!("{written}") };
        let Probe::Http(HttpProbe { expect_status, .. }) = &check.probe else {
            panic!("{written}")
        };
        let accepts = |status: &u16| expect_status.iter().any(|range| range.contains(*status));
        assert!(good.iter().all(accepts), "{written}");
        assert!(!bad.iter().any(accepts), "{written}");
    }
}

#[test]
fn ipv6_any_port_and_udp() {
    let config = good(
        r#"
interfaces = ["eth0"]
[[service]]
name = "v6"
vip = "[2001:db8::10]:443"
forward = "l2"
backend = [{ address = "2001:db8::11" }]
[[service]]
name = "any4"
vip = "203.0.113.10:*"
forward = "gue"
health = { type = "tcp", port = 22 }
backend = [{ address = "2001:db8::11" }, { address = "10.0.0.11", forward = "l2", weight = 0 }]
[[service]]
name = "one4"
vip = "203.0.113.10:80"
forward = "gue"
[[service]]
name = "one4-udp"
vip = "203.0.113.10:80"
protocol = "udp"
forward = "gue"
[[service]]
name = "any6"
vip = "[2001:db8::10]:*"
protocol = "udp"
forward = "gue"
"#,
    );
    let keys: Vec<_> = config.services.iter().map(|service| service.key.to_string()).collect();
    assert_eq!(
        keys,
        [
            "[2001:db8::10]:443 tcp",
            "203.0.113.10:* tcp",
            "203.0.113.10:80 tcp",
            "203.0.113.10:80 udp",
            "[2001:db8::10]:* udp",
        ]
    );
    assert_eq!(config.services[1].backends[1].forward, Some(Forward::L2));
    assert_eq!(config.services[1].backends[1].weight, 0);
}

#[test]
fn a_mac_for_all_backends() {
    let config = good(&format!("next_hop = \"02:00:00:00:00:AA\"\n{TOP}"));
    assert_eq!(config.next_hop, NextHop::Mac(MacAddress([2, 0, 0, 0, 0, 0xaa])));
}

#[test]
fn windows_files_and_byte_order_marks() {
    let text = format!("\u{feff}{TOP}{SERVICE}").replace('\n', "\r\n");
    assert_eq!(good(&text), good(&format!("{TOP}{SERVICE}")));
}

#[test]
fn the_documented_examples_are_good() {
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/examples");
    let mut seen = 0;
    for entry in std::fs::read_dir(examples).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "toml") {
            let config = load(&path).unwrap_or_else(|errors| panic!("{errors}"));
            assert!(config.services.iter().all(|service| !service.backends.is_empty()));
            seen += 1;
        }
    }
    assert!(seen >= 2, "only {seen} examples");
}

proptest! {
    #[test]
    fn no_text_panics(text in any::<String>()) {
        let _ = parse(&text, "x");
    }

    /// Lines of a good file, some of them lost, doubled, moved or cut.
    #[test]
    fn no_mangled_file_panics(
        lines in proptest::collection::vec((0..EVERYTHING.lines().count(), 0..40usize), 0..60),
    ) {
        let source: Vec<&str> = EVERYTHING.lines().collect();
        let mut text = String::new();
        for (line, cut) in lines {
            let line = source[line];
            text += line.get(..line.len().saturating_sub(cut / 2 * (cut % 2))).unwrap_or(line);
            text.push('\n');
        }
        if let Err(errors) = parse(&text, "x") {
            prop_assert!(!errors.0.is_empty());
            for error in errors.0 {
                let line = error.line.unwrap_or(0);
                prop_assert!((1..=text.lines().count() + 1).contains(&line), "{error}");
            }
        }
    }

    /// Any value behind any key.
    #[test]
    fn no_value_panics(
        key in proptest::sample::select(vec![
            "vip", "name", "protocol", "forward", "ring_size", "affinity", "udp_timeout",
            "tcp_idle", "health", "backend", "health.type", "health.expect_status",
            "health.send", "health.query", "health.alpn", "health.command", "health.host",
            "health.expect_header", "health.server_name", "health.jitter", "zzz",
        ]),
        value in prop_oneof![
            any::<String>().prop_map(|text| format!("{text:?}")),
            any::<i64>().prop_map(|number| number.to_string()),
            "[0-9a-f:.*\\[\\]/-]{0,24}".prop_map(|text| format!("'{text}'")),
            "[0-9a-z:.,\\[\\]{}=\"-]{0,24}",
        ],
    ) {
        let _ = parse(&format!("{TOP}[[service]]\n{key} = {value}\n"), "x");
    }
}
