//! How backends are checked, as the config says it once it is checked itself.

use std::{fmt, path::PathBuf, str::FromStr, sync::Arc, time::Duration};

use hickory_proto::{op::ResponseCode, rr::RecordType};

use crate::model::{BackendKey, Forward};

/// How backends are checked.
#[derive(Clone, Debug, PartialEq)]
pub enum HealthCheck {
    /// Not at all: they always are healthy.
    None,
    /// By asking them.
    Active(Arc<ActiveCheck>),
}

/// A check that asks the backend.
#[derive(Clone, Debug, PartialEq)]
pub struct ActiveCheck {
    /// What is asked.
    pub probe: Probe,
    /// The port that is asked, of backends that have none of their own.
    pub port: u16,
    /// Whether it is asked of the others, too: it was said.
    pub port_is_set: bool,
    /// Where probes go; `None` where it is left out.
    pub via: Option<Via>,
    /// From one check to the next.
    pub interval: Duration,
    /// From one check to the next while they contradict what the backend is; at most the interval.
    pub fast_interval: Duration,
    /// Either interval is longer or shorter by up to this part of it, in percent; at most 50.
    pub jitter: u8,
    /// When an unanswered check has failed; at most the interval.
    pub timeout: Duration,
    /// Good checks in a row that make a failed backend healthy; at least 1.
    pub rise: u32,
    /// Failed checks in a row that make a healthy backend failed; at least 1.
    pub fall: u32,
}

impl ActiveCheck {
    /// The port of a backend that is asked.
    pub fn port_of(&self, backend: BackendKey) -> u16 {
        backend.port.filter(|_| !self.port_is_set).unwrap_or(self.port)
    }
}

/// Where probes go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Via {
    /// To the VIP on that backend, in frames like those of clients.
    Vip,
    /// To the backend's own address.
    Address,
}

impl Via {
    /// As the config says them.
    pub const WORDS: &'static [(&'static str, Self)] =
        &[("vip", Self::Vip), ("address", Self::Address)];

    /// Where the probes of a backend go, if nothing is said.
    pub fn usual(forward: Forward) -> Self {
        match forward {
            Forward::L2 | Forward::Ipip | Forward::Gue => Self::Vip,
            // The backend has no VIP.
            Forward::Nat | Forward::Fullnat => Self::Address,
        }
    }

    /// As the config says it.
    pub fn word(self) -> &'static str {
        word(Self::WORDS, self)
    }
}

/// What a check asks.
#[derive(Clone, Debug, PartialEq)]
pub enum Probe {
    /// A TCP connection.
    Tcp,
    /// An HTTP request.
    Http(HttpProbe),
    /// `grpc.health.v1.Health/Check`.
    Grpc(GrpcProbe),
    /// A datagram.
    Udp {
        /// What is sent.
        send: Payload,
        /// What the answer holds; `None` is anything.
        expect: Option<Payload>,
    },
    /// A DNS query.
    Dns(DnsProbe),
    /// A program of the balancer's own host.
    Exec {
        /// An absolute path and the arguments; never empty.
        command: Vec<String>,
    },
}

/// An HTTP request, and what answers it well.
#[derive(Clone, Debug, PartialEq)]
pub struct HttpProbe {
    /// `None` is without TLS.
    pub tls: Option<Tls>,
    /// GET, HEAD or OPTIONS.
    pub method: Method,
    /// Starts with `/`; visible ASCII.
    pub path: String,
    /// The Host header; `None` is the backend's address and port.
    pub host: Option<String>,
    /// Statuses of a healthy backend; at least one range.
    pub expect_status: Vec<StatusRange>,
    /// What the body holds.
    pub expect_body: Option<String>,
    /// A header that is there.
    pub expect_header: Option<ExpectedHeader>,
}

/// HTTP methods that change nothing and have no body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// The whole answer.
    Get,
    /// The answer's head.
    Head,
    /// What can be asked.
    Options,
}

impl Method {
    /// As a request says them.
    pub const WORDS: &'static [(&'static str, Self)] =
        &[("GET", Self::Get), ("HEAD", Self::Head), ("OPTIONS", Self::Options)];

    /// As a request says it.
    pub fn word(self) -> &'static str {
        word(Self::WORDS, self)
    }
}

/// A header that an answer must have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExpectedHeader {
    /// In lower case.
    pub name: String,
    /// `None` is any.
    pub value: Option<String>,
}

impl fmt::Display for ExpectedHeader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.value {
            Some(value) => write!(f, "{}: {value}", self.name),
            None => f.write_str(&self.name),
        }
    }
}

/// How a check speaks TLS, and whom it believes.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Tls {
    /// Whether the certificate must be good.
    pub verify: bool,
    /// Certificates of authorities, in PEM; `None` are the system's.
    pub ca_file: Option<PathBuf>,
    /// Who the backend must be, and what SNI says; `None` is its address, and no SNI.
    pub server_name: Option<String>,
    /// Protocols that are offered, the best first.
    pub alpn: Vec<Alpn>,
}

/// An HTTP version, by its name in ALPN (RFC 7301).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Alpn {
    /// HTTP/1.1.
    Http1,
    /// HTTP/2.
    H2,
}

impl Alpn {
    /// The registered names.
    pub const WORDS: &'static [(&'static str, Self)] =
        &[("http/1.1", Self::Http1), ("h2", Self::H2)];

    /// The registered name.
    pub fn word(self) -> &'static str {
        word(Self::WORDS, self)
    }
}

/// A call of the gRPC health service.
#[derive(Clone, Debug, PartialEq)]
pub struct GrpcProbe {
    /// `None` is without TLS.
    pub tls: Option<Tls>,
    /// The service that is asked about; empty is the server as a whole.
    pub service: String,
    /// The authority; `None` is the backend's address and port.
    pub host: Option<String>,
}

/// A DNS query, and what answers it well.
#[derive(Clone, Debug, PartialEq)]
pub struct DnsProbe {
    /// A name that DNS can carry.
    pub query: String,
    /// The type of the records that are asked for.
    pub query_type: RecordType,
    /// The answer's code.
    pub expect_rcode: ResponseCode,
    /// An address, or another record's data, that is among the answers.
    pub expect_answer: Option<String>,
}

impl DnsProbe {
    /// Types that can be asked for.
    pub const TYPES: &'static [(&'static str, RecordType)] = &[
        ("A", RecordType::A),
        ("AAAA", RecordType::AAAA),
        ("CNAME", RecordType::CNAME),
        ("MX", RecordType::MX),
        ("NS", RecordType::NS),
        ("PTR", RecordType::PTR),
        ("SOA", RecordType::SOA),
        ("SRV", RecordType::SRV),
        ("TXT", RecordType::TXT),
    ];

    /// Codes that can be expected (RFC 1035, section 4.1.1).
    pub const CODES: &'static [(&'static str, ResponseCode)] = &[
        ("NOERROR", ResponseCode::NoError),
        ("FORMERR", ResponseCode::FormErr),
        ("SERVFAIL", ResponseCode::ServFail),
        ("NXDOMAIN", ResponseCode::NXDomain),
        ("NOTIMP", ResponseCode::NotImp),
        ("REFUSED", ResponseCode::Refused),
    ];
}

/// The word of a value that stands in a table of words.
pub(super) fn word<T: Copy + PartialEq>(words: &[(&'static str, T)], value: T) -> &'static str {
    words.iter().find(|(_, other)| *other == value).map_or("", |(word, _)| word)
}

/// Bytes that the config writes as text, or in hexadecimal digits behind `hex:`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Payload(pub Vec<u8>);

impl Payload {
    const HEX: &'static str = "hex:";

    /// Most bytes: they fit into one packet.
    pub const MAX: usize = 1024;
}

impl FromStr for Payload {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let bytes = match text.strip_prefix(Self::HEX) {
            Some(digits) => from_hex(digits).ok_or_else(|| {
                format!("{digits:?} is not pairs of hexadecimal digits, such as \"hex:00ff\"")
            })?,
            None => text.as_bytes().to_vec(),
        };
        match bytes.len() {
            1..=Self::MAX => Ok(Self(bytes)),
            length => Err(format!("it has {length} bytes")),
        }
    }
}

impl fmt::Display for Payload {
    /// As text where it is text.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match std::str::from_utf8(&self.0) {
            Ok(text) if !text.starts_with(Self::HEX) => f.write_str(text),
            _ => {
                f.write_str(Self::HEX)?;
                self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
            }
        }
    }
}

fn from_hex(digits: &str) -> Option<Vec<u8>> {
    let digit = |byte: u8| char::from(byte).to_digit(16).map(|digit| digit as u8);
    let (pairs, rest) = digits.as_bytes().as_chunks::<2>();
    let bytes = pairs.iter().map(|[high, low]| Some(digit(*high)? << 4 | digit(*low)?));
    if rest.is_empty() { bytes.collect() } else { None }
}

/// HTTP statuses from `first` to `last`, both included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StatusRange {
    first: u16,
    last: u16,
}

impl StatusRange {
    /// `None` where `last` is before `first`.
    pub fn new(first: u16, last: u16) -> Option<Self> {
        (first <= last).then_some(Self { first, last })
    }

    /// Whether a status is in the range.
    pub fn contains(self, status: u16) -> bool {
        (self.first..=self.last).contains(&status)
    }
}

impl fmt::Display for StatusRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self { first, last } if first == last => write!(f, "{first}"),
            Self { first, last } => write!(f, "{first}-{last}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn payloads_are_shown_as_they_are_read() {
        for (text, bytes) in [
            ("PING\r\n", &b"PING\r\n"[..]),
            ("hex:00ff", &[0, 255]),
            ("hex:6865783a", b"hex:"),
            ("grüß", "grüß".as_bytes()),
        ] {
            let payload: Payload = text.parse().unwrap();
            assert_eq!((&payload.0[..], payload.to_string()), (bytes, text.to_owned()));
        }
        assert_eq!("hex:50494E47".parse(), Ok(Payload(b"PING".to_vec())));
        let long = "a".repeat(Payload::MAX + 1);
        for text in ["", "hex:", "hex:0", "hex:0x", "hex:é0", &long] {
            assert!(text.parse::<Payload>().is_err(), "{text}");
        }
    }
}
