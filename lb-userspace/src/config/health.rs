//! Checks a `[service.health]`.

use std::{path::PathBuf, sync::Arc, time::Duration};

use hickory_proto::{op::ResponseCode, rr::RecordType};

use super::{
    asked::{self, HealthType},
    checks::{
        ActiveCheck, Alpn, DnsProbe, ExpectedHeader, GrpcProbe, HealthCheck, HttpProbe, Method,
        Payload, Probe, StatusRange, Tls,
    },
    error::{ErrorKind, Fault, Faults},
    keys::{Key, health as keys},
    node::Node,
    read::Table,
    value,
};
use crate::model::Destination;

/// Where the interval leaves it room.
const DEFAULT_TIMEOUT: Duration = Duration::from_millis(500);

const SHORTEST_INTERVAL: Duration = Duration::from_millis(10);
const LONGEST_INTERVAL: Duration = Duration::from_secs(3600);

const HTTP: &[HealthType] = &[HealthType::Http, HealthType::Https];
const TLS: &[HealthType] = &[HealthType::Https, HealthType::Grpc];
const GRPC: &[HealthType] = &[HealthType::Grpc];
const UDP: &[HealthType] = &[HealthType::Udp];
const DNS: &[HealthType] = &[HealthType::Dns];

/// Keys that only some types have.
static ONLY: &[(&Key, &[HealthType])] = &[
    (&keys::PATH, HTTP),
    (&keys::METHOD, HTTP),
    (&keys::HOST, &[HealthType::Http, HealthType::Https, HealthType::Grpc]),
    (&keys::EXPECT_STATUS, HTTP),
    (&keys::EXPECT_BODY, HTTP),
    (&keys::EXPECT_HEADER, HTTP),
    (&keys::VERIFY, TLS),
    (&keys::CA_FILE, TLS),
    (&keys::SERVER_NAME, TLS),
    (&keys::ALPN, &[HealthType::Https]),
    (&keys::TLS, GRPC),
    (&keys::GRPC_SERVICE, GRPC),
    (&keys::SEND, UDP),
    (&keys::EXPECT, UDP),
    (&keys::QUERY, DNS),
    (&keys::QUERY_TYPE, DNS),
    (&keys::EXPECT_RCODE, DNS),
    (&keys::EXPECT_ANSWER, DNS),
    (&keys::COMMAND, &[HealthType::Exec]),
];

/// Checks the section; `vip` is the service's, where that is known.
pub(super) fn check(
    node: &Node,
    path: &str,
    vip: Option<Destination>,
    faults: &mut Faults,
) -> Option<HealthCheck> {
    let table = Table::open(node, path, &keys::SECTION, faults)?;
    let kind = table.value(&keys::TYPE, faults, asked::health_type);
    let port = table.value(&keys::PORT, faults, value::integer(1..=u16::MAX));
    // Its default follows the forward mode of each backend.
    let via = table.get(&keys::VIA).and_then(|_| table.value(&keys::VIA, faults, value::via));
    let interval =
        table.value(&keys::INTERVAL, faults, value::duration(SHORTEST_INTERVAL..=LONGEST_INTERVAL));
    let fast_interval = within(
        &table,
        &keys::FAST_INTERVAL,
        "fast interval",
        SHORTEST_INTERVAL,
        LONGEST_INTERVAL,
        interval,
        faults,
    );
    let timeout = timeout(&table, &keys::TIMEOUT, DEFAULT_TIMEOUT, interval, faults);
    let jitter = table.value(&keys::JITTER, faults, value::percent(0..=50));
    let rise = table.value(&keys::RISE, faults, value::integer(1..=100));
    let fall = table.value(&keys::FALL, faults, value::integer(1..=100));
    let values = Values::read(&table, faults);

    let kind = kind?;
    if matches!(kind, HealthType::None | HealthType::Exec) && table.get(&keys::VIA).is_some() {
        let message = format!("a check of type {:?} sends no probes: it has no way", kind.word());
        let fault = Fault::new(ErrorKind::Impossible, message);
        table.fault(&keys::VIA, fault.help("leave it out, or choose another type"), faults);
    }
    if kind == HealthType::None {
        return Some(HealthCheck::None);
    }
    for (key, types) in ONLY {
        if !types.contains(&kind) {
            refuse(&table, key, kind, types, faults);
        }
    }
    let probe = values.probe(&table, kind, faults);
    let port = match (port, vip) {
        (Some(port), _) => Some(port),
        (None, Some(Destination { port: None, .. })) if table.get(&keys::PORT).is_none() => {
            let fault = Fault::new(
                ErrorKind::MissingKey,
                "required key is missing: the service takes any port",
            );
            table.fault(&keys::PORT, fault, faults);
            None
        }
        (None, vip) => vip.and_then(|vip| vip.port),
    };
    Some(HealthCheck::Active(Arc::new(ActiveCheck {
        probe: probe?,
        port: port?,
        port_is_set: table.get(&keys::PORT).is_some(),
        via,
        interval: interval?,
        fast_interval: fast_interval?,
        jitter: jitter?,
        timeout: timeout?,
        rise: rise?,
        fall: fall?,
    })))
}

/// The keys that only some types have, each looked into whatever the type is: all mistakes are
/// told at once.
struct Values {
    path: Option<String>,
    method: Option<Method>,
    host: Option<String>,
    expect_status: Option<Vec<StatusRange>>,
    expect_body: Option<String>,
    expect_header: Option<ExpectedHeader>,
    verify: Option<bool>,
    ca_file: Option<PathBuf>,
    server_name: Option<String>,
    alpn: Option<Vec<Alpn>>,
    tls: Option<bool>,
    grpc_service: Option<String>,
    send: Option<Payload>,
    expect: Option<Payload>,
    query: Option<String>,
    query_type: Option<RecordType>,
    expect_rcode: Option<ResponseCode>,
    expect_answer: Option<String>,
    command: Option<Vec<String>>,
}

impl Values {
    fn read(table: &Table<'_>, faults: &mut Faults) -> Self {
        Self {
            path: table.value(&keys::PATH, faults, asked::request_path),
            method: table.value(&keys::METHOD, faults, asked::method),
            host: table.value(&keys::HOST, faults, asked::request_host),
            expect_status: table.value(&keys::EXPECT_STATUS, faults, asked::expect_status),
            expect_body: table.value(&keys::EXPECT_BODY, faults, asked::expect_body),
            expect_header: table.value(&keys::EXPECT_HEADER, faults, asked::expect_header),
            verify: table.value(&keys::VERIFY, faults, value::boolean),
            ca_file: table.value(&keys::CA_FILE, faults, value::absolute_path),
            server_name: table.value(&keys::SERVER_NAME, faults, asked::server_name),
            alpn: table.value(&keys::ALPN, faults, asked::alpn),
            tls: table.value(&keys::TLS, faults, value::boolean),
            grpc_service: table.value(&keys::GRPC_SERVICE, faults, asked::grpc_service),
            send: table.value(&keys::SEND, faults, asked::payload),
            expect: table.value(&keys::EXPECT, faults, asked::payload),
            query: table.value(&keys::QUERY, faults, asked::query),
            query_type: table.value(&keys::QUERY_TYPE, faults, asked::query_type),
            expect_rcode: table.value(&keys::EXPECT_RCODE, faults, asked::expect_rcode),
            expect_answer: table.value(&keys::EXPECT_ANSWER, faults, asked::expect_answer),
            command: table.value(&keys::COMMAND, faults, asked::command),
        }
    }

    /// `None` is reported.
    fn probe(self, table: &Table<'_>, kind: HealthType, faults: &mut Faults) -> Option<Probe> {
        match kind {
            HealthType::None | HealthType::Tcp => Some(Probe::Tcp),
            HealthType::Http | HealthType::Https => {
                let tls = match kind {
                    HealthType::Https => Some(self.tls(table, faults)?),
                    _ => None,
                };
                self.http(tls, table, faults)
            }
            HealthType::Grpc => {
                let tls = match self.tls? {
                    true => Some(Tls { alpn: vec![Alpn::H2], ..self.tls(table, faults)? }),
                    false => without_tls(table, faults),
                };
                Some(Probe::Grpc(GrpcProbe { tls, service: self.grpc_service?, host: self.host }))
            }
            HealthType::Udp => {
                need(table, &keys::SEND, kind, faults);
                Some(Probe::Udp { send: self.send?, expect: self.expect })
            }
            HealthType::Dns => {
                need(table, &keys::QUERY, kind, faults);
                Some(Probe::Dns(DnsProbe {
                    query: self.query?,
                    query_type: self.query_type?,
                    expect_rcode: self.expect_rcode?,
                    expect_answer: self.expect_answer,
                }))
            }
            HealthType::Exec => {
                need(table, &keys::COMMAND, kind, faults);
                Some(Probe::Exec { command: self.command? })
            }
        }
    }

    fn http(self, tls: Option<Tls>, table: &Table<'_>, faults: &mut Faults) -> Option<Probe> {
        let method = self.method?;
        if method == Method::Head && self.expect_body.is_some() {
            let fault =
                Fault::new(ErrorKind::Impossible, "an answer to the method HEAD has no body");
            let help = "method = \"GET\", or leave it out";
            table.fault(&keys::EXPECT_BODY, fault.help(help), faults);
        }
        Some(Probe::Http(HttpProbe {
            tls,
            method,
            path: self.path?,
            host: self.host,
            expect_status: self.expect_status?,
            expect_body: self.expect_body,
            expect_header: self.expect_header,
        }))
    }

    fn tls(&self, table: &Table<'_>, faults: &mut Faults) -> Option<Tls> {
        let verify = self.verify?;
        if !verify && self.ca_file.is_some() {
            let message = "without `verify`, no authority is asked";
            let fault = Fault::new(ErrorKind::Impossible, message);
            table.fault(&keys::CA_FILE, fault.help("verify = true, or leave it out"), faults);
        }
        let of_host = self.host.as_deref().and_then(asked::server_of);
        if verify && self.host.is_some() && of_host.is_none() && self.server_name.is_none() {
            let message = "no certificate can be for this host";
            let fault = Fault::new(ErrorKind::Impossible, message);
            table.fault(&keys::HOST, fault.help("say whom it is for: server_name"), faults);
        }
        Some(Tls {
            verify,
            ca_file: self.ca_file.clone(),
            server_name: self.server_name.clone().or(of_host),
            alpn: self.alpn.clone().unwrap_or_else(|| vec![Alpn::Http1]),
        })
    }
}

/// Refuses what only TLS has.
fn without_tls(table: &Table<'_>, faults: &mut Faults) -> Option<Tls> {
    for key in [&keys::VERIFY, &keys::CA_FILE, &keys::SERVER_NAME] {
        if table.get(key).is_some() {
            let message = format!("a check without `tls` has no `{}`", key.name);
            let fault = Fault::new(ErrorKind::Impossible, message);
            table.fault(key, fault.help("leave it out, or tls = true"), faults);
        }
    }
    None
}

/// Reports a key that the type can't be without.
fn need(table: &Table<'_>, key: &Key, kind: HealthType, faults: &mut Faults) {
    if table.get(key).is_none() {
        let message =
            format!("required key is missing: a check of type {:?} needs it", kind.word());
        table.fault(key, Fault::new(ErrorKind::MissingKey, message), faults);
    }
}

/// Reports a key that another type has.
fn refuse(
    table: &Table<'_>,
    key: &Key,
    kind: HealthType,
    types: &[HealthType],
    faults: &mut Faults,
) {
    if table.get(key).is_some() {
        let message = format!("a check of type {:?} has no `{}`", kind.word(), key.name);
        let types: Vec<_> = types.iter().map(|kind| format!("{:?}", kind.word())).collect();
        let help = format!("leave it out, or type = {}", types.join(" or "));
        table.fault(key, Fault::new(ErrorKind::Impossible, message).help(help), faults);
    }
}

/// A timeout within an interval; left out it is `default`, where the interval leaves it room.
pub(super) fn timeout(
    table: &Table<'_>,
    key: &Key,
    default: Duration,
    interval: Option<Duration>,
    faults: &mut Faults,
) -> Option<Duration> {
    let least = Duration::from_millis(1);
    within(table, key, "timeout", least, default, interval, faults)
}

/// A duration of at most the interval; left out it is `default`, or the interval where that is
/// shorter.
fn within(
    table: &Table<'_>,
    key: &Key,
    what: &str,
    least: Duration,
    default: Duration,
    interval: Option<Duration>,
    faults: &mut Faults,
) -> Option<Duration> {
    if table.get(key).is_none() {
        return interval.map(|interval| interval.min(default));
    }
    let found = table.value(key, faults, value::duration(least..=Duration::MAX))?;
    let interval = interval?;
    if found > interval {
        let [found, interval] = [found, interval].map(value::duration_text);
        let fault = Fault::new(
            ErrorKind::Impossible,
            format!("the {what} {found} is longer than the interval {interval}"),
        );
        table.fault(key, fault.help(format!("at most {interval}")), faults);
        return None;
    }
    Some(found)
}
