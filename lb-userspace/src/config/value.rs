//! From single values to what they mean. Each function takes a value of the key's type and says
//! what is wrong with it.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    ops::RangeInclusive,
    path::{Path, PathBuf},
    str::FromStr,
    time::Duration,
};

use lb_common::layout::Affinity;

use super::{
    checks::Via,
    error::Fault,
    keys::Kind,
    node::{Node, Value},
    prime,
    read::wrong_type,
    types::{DnsRecord, NextHop, XdpMode},
};
use crate::{
    live::LoadSource,
    model::{Forward, MacAddress, TextError, unicast},
};

pub(super) const AFFINITIES: &[(&str, Affinity)] =
    &[("flow", Affinity::Flow), ("source", Affinity::Source), ("packet", Affinity::Packet)];

const XDP_MODES: &[(&str, XdpMode)] =
    &[("auto", XdpMode::Auto), ("native", XdpMode::Native), ("generic", XdpMode::Generic)];

/// Longest path of a Unix socket in bytes: `sun_path` less its final zero (unix(7)).
const SOCKET_PATH_BYTES: usize = 107;

pub(super) fn text(node: &Node) -> Result<&str, Fault> {
    match &node.value {
        Value::Text(text) => Ok(text),
        _ => Err(wrong_type(node, Kind::Text)),
    }
}

pub(super) fn integer<T: TryFrom<i128> + Copy + fmt::Display + PartialOrd>(
    allowed: RangeInclusive<T>,
) -> impl Fn(&Node) -> Result<T, Fault> {
    move |node| {
        let Value::Integer(number) = node.value else {
            return Err(wrong_type(node, Kind::Integer));
        };
        T::try_from(number)
            .ok()
            .filter(|number| allowed.contains(number))
            .ok_or_else(|| Fault::bad(format!("{number} is out of range")))
    }
}

/// A text that the model reads.
pub(super) fn model<T: FromStr<Err = TextError>>(node: &Node) -> Result<T, Fault> {
    text(node)?.parse().map_err(Fault::from)
}

impl From<TextError> for Fault {
    fn from(error: TextError) -> Self {
        Self::bad(error.message).help(error.allowed)
    }
}

/// One of `words`.
pub(super) fn word<T: Copy>(found: &str, words: &[(&str, T)], what: &str) -> Result<T, Fault> {
    if let Some((_, value)) = words.iter().find(|(word, _)| *word == found) {
        return Ok(*value);
    }
    let has = words.iter().map(|(word, _)| format!("\"{word}\"")).collect::<Vec<_>>().join(", ");
    let near = words
        .iter()
        .map(|(word, _)| (strsim::damerau_levenshtein(&found.to_lowercase(), word), *word))
        .min()
        .filter(|(distance, word)| *distance <= (word.len() / 3).min(2));
    let help = match near {
        Some((_, near)) => format!("did you mean \"{near}\"? Allowed: {has}"),
        None => format!("allowed: {has}"),
    };
    Err(Fault::bad(format!("unknown {what} \"{found}\"")).help(help))
}

pub(super) fn boolean(node: &Node) -> Result<bool, Fault> {
    match node.value {
        Value::Boolean(value) => Ok(value),
        _ => Err(wrong_type(node, Kind::Boolean)),
    }
}

/// A whole percentage, such as "30%".
pub(super) fn percent(allowed: RangeInclusive<u8>) -> impl Fn(&Node) -> Result<u8, Fault> {
    move |node| {
        let found = text(node)?;
        let digits = found.strip_suffix('%').filter(|d| d.bytes().all(|b| b.is_ascii_digit()));
        digits
            .and_then(|digits| digits.parse().ok())
            .filter(|percent| allowed.contains(percent))
            .ok_or_else(|| Fault::bad(format!("\"{found}\" is not such a percentage")))
    }
}

pub(super) fn load_source(node: &Node) -> Result<LoadSource, Fault> {
    word(text(node)?, LoadSource::WORDS, "source of load reports")
}

/// What is sent to an agent.
pub(super) fn agent_send(node: &Node) -> Result<String, Fault> {
    let found = text(node)?;
    match found.len() {
        1..=1024 => Ok(found.to_owned()),
        bytes => Err(Fault::bad(format!("the text has {bytes} bytes"))),
    }
}

pub(super) fn protocol(node: &Node) -> Result<crate::model::Protocol, Fault> {
    word(text(node)?, crate::model::Protocol::WORDS, "protocol")
}

pub(super) fn forward(node: &Node) -> Result<Forward, Fault> {
    word(text(node)?, Forward::WORDS, "forward mode")
}

pub(super) fn affinity(node: &Node) -> Result<Affinity, Fault> {
    word(text(node)?, AFFINITIES, "affinity")
}

pub(super) fn xdp_mode(node: &Node) -> Result<XdpMode, Fault> {
    word(text(node)?, XDP_MODES, "XDP mode")
}

/// Which source of backends a section names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum DiscoveryType {
    Dns,
    Directory,
    Register,
}

const DISCOVERY_TYPES: &[(&str, DiscoveryType)] = &[
    ("dns", DiscoveryType::Dns),
    ("directory", DiscoveryType::Directory),
    ("register", DiscoveryType::Register),
];

pub(super) const DNS_RECORDS: &[(&str, DnsRecord)] = &[
    ("address", DnsRecord::Address),
    ("a", DnsRecord::A),
    ("aaaa", DnsRecord::Aaaa),
    ("srv", DnsRecord::Srv),
];

pub(super) fn discovery_type(node: &Node) -> Result<DiscoveryType, Fault> {
    word(text(node)?, DISCOVERY_TYPES, "discovery")
}

pub(super) fn discovery_word(kind: DiscoveryType) -> &'static str {
    DISCOVERY_TYPES.iter().find(|(_, found)| *found == kind).map_or("", |(word, _)| word)
}

pub(super) fn dns_record(node: &Node) -> Result<DnsRecord, Fault> {
    word(text(node)?, DNS_RECORDS, "record")
}

/// A name as a query carries it (RFC 1035 section 2.3.4), without the final dot.
pub(super) fn domain_name(node: &Node) -> Result<String, Fault> {
    let found = text(node)?;
    let name = found.strip_suffix('.').unwrap_or(found);
    let label = |label: &str| {
        let word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
        (1..=63).contains(&label.len()) && label.bytes().all(word)
    };
    if name.len() > 253 || !name.split('.').all(label) {
        return Err(Fault::bad(format!("{found:?} is not a domain name")));
    }
    Ok(name.to_owned())
}

/// An address, with a port or with that of DNS.
pub(super) fn dns_server(node: &Node) -> Result<SocketAddr, Fault> {
    match text(node)?.parse::<IpAddr>() {
        Ok(address) => Ok(SocketAddr::new(address, 53)),
        Err(_) => listen_address(node),
    }
}

pub(super) fn via(node: &Node) -> Result<Via, Fault> {
    word(text(node)?, Via::WORDS, "way of probes")
}

pub(super) fn next_hop(node: &Node) -> Result<NextHop, Fault> {
    match text(node)? {
        "auto" => Ok(NextHop::Auto),
        mac => Ok(NextHop::Mac(mac.parse::<MacAddress>()?)),
    }
}

pub(super) fn hash_seed(node: &Node) -> Result<u64, Fault> {
    let found = text(node)?;
    found
        .strip_prefix("0x")
        .filter(|digits| digits.len() <= 16 && digits.bytes().all(|b| b.is_ascii_hexdigit()))
        .and_then(|digits| u64::from_str_radix(digits, 16).ok())
        .ok_or_else(|| Fault::bad(format!("\"{found}\" is not a seed of 64 bits")))
}

/// An outer header's source, of the family that the key is for.
pub(super) fn source<T: FromStr + Copy + Into<IpAddr>>(node: &Node) -> Result<T, Fault> {
    let found = text(node)?;
    let address: T =
        found.parse().map_err(|_| Fault::bad(format!("\"{found}\" is not such an address")))?;
    unicast(address.into())?;
    Ok(address)
}

pub(super) fn absolute_path(node: &Node) -> Result<PathBuf, Fault> {
    let found = text(node)?;
    if found.contains('\0') {
        return Err(Fault::bad("a path can't hold a zero byte"));
    }
    if !Path::new(found).is_absolute() {
        return Err(Fault::bad(format!("{found:?} is not an absolute path")));
    }
    Ok(PathBuf::from(found))
}

/// A program and its arguments, without a shell.
pub(super) fn command(node: &Node) -> Result<Vec<String>, Fault> {
    let Value::List(items) = &node.value else { return Err(wrong_type(node, Kind::List)) };
    let words = items.iter().map(|item| Ok(text(item)?.to_owned()));
    let words: Vec<String> = words.collect::<Result<_, Fault>>()?;
    if words.iter().any(|word| word.contains('\0')) {
        return Err(Fault::bad("a command can't hold a zero byte"));
    }
    match words.first().map(String::as_str) {
        None | Some("") => Err(Fault::bad("no command")),
        // By a path from wherever the agent happens to be, another program could be run.
        Some(program) if program.contains('/') && !program.starts_with('/') => {
            Err(Fault::bad(format!("{program:?} is neither an absolute path nor a plain name")))
        }
        Some(_) => Ok(words),
    }
}

pub(super) fn socket_path(node: &Node) -> Result<PathBuf, Fault> {
    let path = absolute_path(node)?;
    match path.as_os_str().len() {
        0..=SOCKET_PATH_BYTES => Ok(path),
        bytes => Err(Fault::bad(format!("the path has {bytes} bytes"))),
    }
}

pub(super) fn listen_address(node: &Node) -> Result<SocketAddr, Fault> {
    let found = text(node)?;
    found
        .parse()
        .ok()
        .filter(|address: &SocketAddr| address.port() != 0)
        .ok_or_else(|| Fault::bad(format!("\"{found}\" is not an address and a port")))
}

/// The kernel's own rule for names, and no white space (dev_valid_name, net/core/dev.c).
pub(super) fn interface(node: &Node) -> Result<String, Fault> {
    const ALLOWED: &str = "1 to 15 visible ASCII characters without `/` and `:`, such as \"eth0\"";
    let found = text(node).map_err(|fault| fault.help(ALLOWED))?;
    let bad = found.bytes().any(|b| b == b'/' || b == b':' || !b.is_ascii_graphic());
    if bad || found.is_empty() || found.len() > 15 || found == "." || found == ".." {
        return Err(Fault::bad(format!("{found:?} is not a name of an interface")).help(ALLOWED));
    }
    Ok(found.to_owned())
}

pub(super) fn service_name(node: &Node) -> Result<String, Fault> {
    let found = text(node)?;
    let visible = found.chars().all(|c| !c.is_control() && !c.is_whitespace());
    if !visible || found.is_empty() || found.chars().count() > 63 {
        return Err(Fault::bad(format!("{found:?} is not a name of a service")));
    }
    Ok(found.to_owned())
}

pub(super) fn ring_size(node: &Node) -> Result<u32, Fault> {
    let number = integer(2..=prime::LARGEST)(node)?;
    if is_ring_size(number) {
        return Ok(number);
    }
    let near = match prime::nearest(number) {
        (Some(below), Some(above)) => format!("{below} and {above}"),
        (Some(one), None) | (None, Some(one)) => one.to_string(),
        (None, None) => prime::LARGEST.to_string(),
    };
    Err(Fault::bad(format!("{number} is not a prime")).help(format!("the nearest primes: {near}")))
}

/// Whether a ring may have so many slots.
pub fn is_ring_size(number: u32) -> bool {
    number <= prime::LARGEST && prime::is_prime(number)
}

/// `500ms`, `1s`, `15m`, `1h`: a whole number and one unit.
pub(super) fn duration(
    allowed: RangeInclusive<Duration>,
) -> impl Fn(&Node) -> Result<Duration, Fault> {
    move |node| {
        let found = text(node)?;
        let parsed = parse_duration(found).ok_or_else(|| {
            Fault::bad(format!("{found:?} is not a duration"))
                .help("a whole number and a unit: \"500ms\", \"1s\", \"15m\", \"1h\"")
        })?;
        if !allowed.contains(&parsed) {
            return Err(Fault::bad(format!("{found:?} is out of range")));
        }
        Ok(parsed)
    }
}

pub fn parse_duration(text: &str) -> Option<Duration> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.parse().ok()?;
    let milliseconds = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => return None,
    };
    Some(Duration::from_millis(number.checked_mul(milliseconds)?))
}

/// The shortest text that [`duration`] reads as `value`; below a millisecond is cut off.
pub(super) fn duration_text(value: Duration) -> String {
    let milliseconds = value.as_millis();
    let (unit, name) = [(3_600_000, "h"), (60_000, "m"), (1_000, "s")]
        .into_iter()
        .find(|(unit, _)| milliseconds != 0 && milliseconds.is_multiple_of(*unit))
        .unwrap_or((1, "ms"));
    format!("{}{name}", milliseconds / unit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_one_number_and_one_unit() {
        for (text, milliseconds) in [
            ("500ms", Some(500)),
            ("1s", Some(1_000)),
            ("15m", Some(900_000)),
            ("1h", Some(3_600_000)),
            ("0s", Some(0)),
            ("", None),
            ("s", None),
            ("1", None),
            ("1 s", None),
            ("-1s", None),
            ("1.5s", None),
            ("1m30s", None),
            ("1S", None),
            ("1d", None),
            ("18446744073709551615h", None),
            ("99999999999999999999s", None),
        ] {
            assert_eq!(parse_duration(text), milliseconds.map(Duration::from_millis), "{text:?}");
        }
    }

    #[test]
    fn durations_are_shown_as_they_are_read() {
        for text in ["0ms", "1ms", "1500ms", "1s", "90s", "15m", "90m", "24h"] {
            let value = parse_duration(text).unwrap();
            assert_eq!(duration_text(value), text);
        }
        assert_eq!(duration_text(Duration::from_secs(60)), "1m");
    }
}
