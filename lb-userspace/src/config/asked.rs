//! Values of `[service.health]`: from a text, or a list of texts, to what it means.

use hickory_proto::{
    op::ResponseCode,
    rr::{Name, RecordType},
};
use hyper::{
    header::{HeaderName, HeaderValue},
    http::uri::Authority,
};
use tokio_rustls::rustls::pki_types::ServerName;

use super::{
    checks::{self, Alpn, DnsProbe, ExpectedHeader, Method, Payload, StatusRange},
    error::{ErrorKind, Fault},
    keys::Kind,
    node::{Node, Value},
    read::wrong_type,
    value::{absolute_path, text, word},
};

/// Which check a section asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum HealthType {
    None,
    Tcp,
    Http,
    Https,
    Grpc,
    Udp,
    Dns,
    Exec,
}

impl HealthType {
    pub(super) const WORDS: &'static [(&'static str, Self)] = &[
        ("tcp", Self::Tcp),
        ("http", Self::Http),
        ("https", Self::Https),
        ("grpc", Self::Grpc),
        ("udp", Self::Udp),
        ("dns", Self::Dns),
        ("exec", Self::Exec),
        ("none", Self::None),
    ];

    pub(super) fn word(self) -> &'static str {
        checks::word(Self::WORDS, self)
    }
}

pub(super) fn health_type(node: &Node) -> Result<HealthType, Fault> {
    word(text(node)?, HealthType::WORDS, "health check")
}

/// Most arguments of a command, its path included.
const ARGUMENTS_MAX: usize = 64;

/// Most bytes of a command, all arguments together.
const COMMAND_BYTES_MAX: usize = 16 * 1024;

/// A part of an HTTP request's head: visible ASCII, which can't end a line or a word early.
fn request_text(found: &str) -> Result<String, Fault> {
    if found.is_empty() || !found.bytes().all(|b| b.is_ascii_graphic()) || found.len() > 1024 {
        return Err(Fault::bad(format!("{found:?} can't stand in a request")));
    }
    Ok(found.to_owned())
}

pub(super) fn request_path(node: &Node) -> Result<String, Fault> {
    let found = text(node)?;
    if !found.starts_with('/') {
        return Err(Fault::bad(format!("{found:?} doesn't start with `/`")));
    }
    request_text(found)
}

pub(super) fn request_host(node: &Node) -> Result<String, Fault> {
    let found = request_text(text(node)?)?;
    if found.contains(['/', '@', '?', '#']) || found.parse::<Authority>().is_err() {
        return Err(Fault::bad(format!("{found:?} is not a host")));
    }
    Ok(found)
}

pub(super) fn method(node: &Node) -> Result<Method, Fault> {
    word(text(node)?, Method::WORDS, "method")
}

pub(super) fn expect_status(node: &Node) -> Result<Vec<StatusRange>, Fault> {
    let written = match &node.value {
        Value::Integer(number) => number.to_string(),
        _ => text(node)?.to_owned(),
    };
    written
        .split(',')
        .map(|part| {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            StatusRange::new(status(first)?, status(last)?).ok_or_else(|| {
                Fault::bad(format!("the range {} ends before it begins", part.trim()))
            })
        })
        .collect()
}

fn status(text: &str) -> Result<u16, Fault> {
    let text = text.trim();
    text.parse()
        .ok()
        .filter(|code| (100..=599).contains(code) && text.len() == 3)
        .ok_or_else(|| Fault::bad(format!("{text:?} is not an HTTP status")))
}

pub(super) fn expect_body(node: &Node) -> Result<String, Fault> {
    let found = text(node)?;
    match found.len() {
        1..=1024 => Ok(found.to_owned()),
        length => Err(Fault::bad(format!("it has {length} bytes"))),
    }
}

pub(super) fn expect_header(node: &Node) -> Result<ExpectedHeader, Fault> {
    let found = text(node)?;
    let (name, value) = match found.split_once(':') {
        Some((name, value)) => (name, Some(value.trim())),
        None => (found, None),
    };
    let name = HeaderName::from_bytes(name.as_bytes())
        .map_err(|_| Fault::bad(format!("{name:?} is not a header's name")))?;
    if let Some(value) = value.filter(|value| HeaderValue::from_str(value).is_err()) {
        return Err(Fault::bad(format!("{value:?} can't be a header's value")));
    }
    Ok(ExpectedHeader { name: name.as_str().to_owned(), value: value.map(str::to_owned) })
}

pub(super) fn server_name(node: &Node) -> Result<String, Fault> {
    let found = text(node)?;
    match ServerName::try_from(found) {
        Ok(_) => Ok(found.to_owned()),
        Err(_) => Err(Fault::bad(format!("{found:?} is not a server's name"))),
    }
}

/// The host of a host with a port, where a certificate can be for it.
pub(super) fn server_of(host: &str) -> Option<String> {
    let authority: Authority = host.parse().ok()?;
    let name = authority.host().trim_start_matches('[').trim_end_matches(']');
    ServerName::try_from(name).is_ok().then(|| name.to_owned())
}

/// The texts of a list.
fn texts(node: &Node) -> Result<Vec<&str>, Fault> {
    match &node.value {
        Value::List(items) => items.iter().map(text).collect(),
        _ => Err(wrong_type(node, Kind::List)),
    }
}

pub(super) fn alpn(node: &Node) -> Result<Vec<Alpn>, Fault> {
    let mut offered = Vec::new();
    for found in texts(node)? {
        let one = word(found, Alpn::WORDS, "protocol")?;
        if offered.contains(&one) {
            return Err(Fault::new(ErrorKind::Duplicate, format!("\"{found}\" is already there")));
        }
        offered.push(one);
    }
    Ok(offered)
}

pub(super) fn grpc_service(node: &Node) -> Result<String, Fault> {
    let found = text(node)?;
    if found.len() > 255 || !found.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(Fault::bad(format!("{found:?} is not a service's name")));
    }
    Ok(found.to_owned())
}

pub(super) fn payload(node: &Node) -> Result<Payload, Fault> {
    text(node)?.parse().map_err(Fault::bad)
}

pub(super) fn query(node: &Node) -> Result<String, Fault> {
    let found = text(node)?;
    match Name::from_ascii(found) {
        Ok(_) if !found.is_empty() => Ok(found.to_owned()),
        _ => Err(Fault::bad(format!("{found:?} is not a domain name"))),
    }
}

pub(super) fn query_type(node: &Node) -> Result<RecordType, Fault> {
    word(text(node)?, DnsProbe::TYPES, "query type")
}

pub(super) fn expect_rcode(node: &Node) -> Result<ResponseCode, Fault> {
    word(text(node)?, DnsProbe::CODES, "response code")
}

pub(super) fn expect_answer(node: &Node) -> Result<String, Fault> {
    let found = text(node)?;
    let visible = found.chars().all(|c| !c.is_control());
    if !visible || found.trim().is_empty() || found.len() > 255 {
        return Err(Fault::bad(format!("{found:?} is not a record's data")));
    }
    Ok(found.to_owned())
}

pub(super) fn command(node: &Node) -> Result<Vec<String>, Fault> {
    let words = texts(node)?;
    let bytes: usize = words.iter().map(|word| word.len()).sum();
    match words.len() {
        0 => return Err(Fault::bad("no program").help("its path first, such as [\"/bin/true\"]")),
        1..=ARGUMENTS_MAX if bytes <= COMMAND_BYTES_MAX => {}
        count => return Err(Fault::bad(format!("{count} words of {bytes} bytes are too much"))),
    }
    if words.iter().any(|word| word.contains('\0')) {
        return Err(Fault::bad("an argument can't hold a zero byte"));
    }
    absolute_path(&Node::text(words[0]))?;
    Ok(words.into_iter().map(str::to_owned).collect())
}
