//! The written form of the model's words and addresses: what `FromStr` reads, `Display` shows.
//!
//! Reading is strict: one form for each value, and only values that a packet can carry.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    str::FromStr,
};

use thiserror::Error;

use super::{BackendKey, Forward, MacAddress, Origin, Protocol, ServiceKey};

/// A text that isn't what it should be.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{message}: {allowed}")]
pub struct TextError {
    /// What was found.
    pub message: String,
    /// What is allowed.
    pub allowed: &'static str,
}

impl TextError {
    fn new(message: impl Into<String>, allowed: &'static str) -> Self {
        Self { message: message.into(), allowed }
    }
}

/// A service's VIP with its port: `203.0.113.10:80`, `[2001:db8::10]:443`, any port
/// `203.0.113.10:*`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Destination {
    /// A unicast address of the network, never an IPv4-mapped IPv6 one.
    pub address: IpAddr,
    /// 1 to 65535; `None` is any port.
    pub port: Option<u16>,
}

const DESTINATION: &str = "\"203.0.113.10:80\", \"[2001:db8::10]:443\", or for any port \
                           \"203.0.113.10:*\"";
const BACKEND: &str = "an address such as \"10.0.0.11\" or \"2001:db8::11\"";
const UNICAST: &str = "an address that one host has on the network";
const PORT: &str = "a port from 1 to 65535";
const MAC: &str = "six pairs of hex digits of one interface, such as \"02:00:00:00:00:11\"";

impl FromStr for Destination {
    type Err = TextError;

    fn from_str(text: &str) -> Result<Self, TextError> {
        if IpAddr::from_str(text).is_ok() {
            return Err(TextError::new(format!("\"{text}\" has no port"), DESTINATION));
        }
        let Some((address, port)) = split_port(text) else {
            return Err(TextError::new(
                format!("\"{text}\" is not an address and a port"),
                DESTINATION,
            ));
        };
        let port = if port == "*" { None } else { Some(parse_port(port)?) };
        Ok(Self { address: unicast(parse_address(address, DESTINATION)?)?, port })
    }
}

impl FromStr for BackendKey {
    type Err = TextError;

    fn from_str(text: &str) -> Result<Self, TextError> {
        if let Ok(address) = IpAddr::from_str(text) {
            return Ok(Self { address: unicast(address)?, port: None });
        }
        match split_port(text) {
            Some((address, port)) => Ok(Self {
                address: unicast(parse_address(address, BACKEND)?)?,
                port: Some(parse_port(port)?),
            }),
            None => Err(TextError::new(format!("\"{text}\" is not an IP address"), BACKEND)),
        }
    }
}

/// Refuses addresses that no single host can have on the network: unspecified, loopback,
/// multicast, broadcast, and IPv4-mapped IPv6 ones (RFC 4291 section 2.5.5.2), which never stand
/// in a packet.
pub fn unicast(address: IpAddr) -> Result<IpAddr, TextError> {
    let kind = match address {
        IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some() => {
            return Err(TextError::new(
                format!("{v6} is an IPv4-mapped IPv6 address"),
                "the IPv4 address itself, such as \"10.0.0.11\"",
            ));
        }
        IpAddr::V4(Ipv4Addr::BROADCAST) => "the broadcast",
        _ if address.is_unspecified() => "the unspecified",
        _ if address.is_loopback() => "a loopback",
        _ if address.is_multicast() => "a multicast",
        _ => return Ok(address),
    };
    Err(TextError::new(format!("{address} is {kind} address"), UNICAST))
}

/// Splits `192.0.2.1:80` and `[2001:db8::1]:80`; an IPv6 address must stand in brackets.
fn split_port(text: &str) -> Option<(&str, &str)> {
    if let Some(rest) = text.strip_prefix('[') {
        let (address, port) = rest.split_once("]:")?;
        return Ipv6Addr::from_str(address).is_ok().then_some((address, port));
    }
    let (address, port) = text.split_once(':')?;
    (!port.contains(':')).then_some((address, port))
}

fn parse_address(text: &str, allowed: &'static str) -> Result<IpAddr, TextError> {
    text.parse().map_err(|_| TextError::new(format!("\"{text}\" is not an IP address"), allowed))
}

fn parse_port(text: &str) -> Result<u16, TextError> {
    let digits = text.bytes().all(|byte| byte.is_ascii_digit()) && !text.starts_with('0');
    text.parse()
        .ok()
        .filter(|_| digits)
        .ok_or_else(|| TextError::new(format!("\"{text}\" is not a port"), PORT))
}

impl FromStr for MacAddress {
    type Err = TextError;

    /// Refuses group addresses and the zero address: no interface has them.
    fn from_str(text: &str) -> Result<Self, TextError> {
        let bad = |what| TextError::new(format!("\"{text}\" {what}"), MAC);
        let mut bytes = [0; 6];
        let mut pairs = text.split(':');
        for byte in &mut bytes {
            *byte = pairs
                .next()
                .filter(|pair| pair.len() == 2 && pair.bytes().all(|b| b.is_ascii_hexdigit()))
                .and_then(|pair| u8::from_str_radix(pair, 16).ok())
                .ok_or_else(|| bad("is not a MAC address"))?;
        }
        if pairs.next().is_some() {
            return Err(bad("is not a MAC address"));
        }
        match bytes {
            [0, 0, 0, 0, 0, 0] => Err(bad("is the zero MAC address")),
            [first, ..] if first & 1 == 1 => Err(bad("is a multicast MAC address")),
            _ => Ok(Self(bytes)),
        }
    }
}

impl Protocol {
    /// Every protocol, by its word.
    pub const WORDS: &[(&str, Self)] = &[("tcp", Self::Tcp), ("udp", Self::Udp)];

    /// Its word in the config, in JSON and in metrics.
    pub fn word(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        }
    }
}

impl Forward {
    /// Every forward mode, by its word.
    pub const WORDS: &[(&str, Self)] = &[
        ("l2", Self::L2),
        ("ipip", Self::Ipip),
        ("gue", Self::Gue),
        ("nat", Self::Nat),
        ("fullnat", Self::Fullnat),
    ];

    /// VIP and backend may be of different families.
    pub fn joins_families(self) -> bool {
        !matches!(self, Self::L2 | Self::Nat)
    }

    /// Packets change their destination, and answers come back through the balancer.
    pub fn translates(self) -> bool {
        matches!(self, Self::Nat | Self::Fullnat)
    }

    /// Its word in the config, in JSON and in metrics.
    pub fn word(self) -> &'static str {
        match self {
            Self::L2 => "l2",
            Self::Ipip => "ipip",
            Self::Gue => "gue",
            Self::Nat => "nat",
            Self::Fullnat => "fullnat",
        }
    }
}

impl Origin {
    /// Its word in JSON and in metrics.
    pub fn word(self) -> &'static str {
        match self {
            Self::Config => "config",
            Self::Live => "live",
            Self::Dns => "dns",
            Self::Directory => "directory",
            Self::Registered => "registered",
            Self::Unknown => "unknown",
        }
    }
}

impl FromStr for Protocol {
    type Err = TextError;

    fn from_str(text: &str) -> Result<Self, TextError> {
        find_word(text, Self::WORDS, "tcp or udp")
    }
}

impl FromStr for Forward {
    type Err = TextError;

    fn from_str(text: &str) -> Result<Self, TextError> {
        find_word(text, Self::WORDS, "l2, ipip, gue or nat")
    }
}

fn find_word<T: Copy>(
    text: &str,
    words: &[(&str, T)],
    allowed: &'static str,
) -> Result<T, TextError> {
    words
        .iter()
        .find(|(word, _)| *word == text)
        .map(|(_, value)| *value)
        .ok_or_else(|| TextError::new(format!("unknown word \"{text}\""), allowed))
}

impl fmt::Display for MacAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.word())
    }
}

impl fmt::Display for Forward {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.word())
    }
}

impl fmt::Display for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.address {
            IpAddr::V4(address) => write!(f, "{address}:")?,
            IpAddr::V6(address) => write!(f, "[{address}]:")?,
        }
        match self.port {
            Some(port) => write!(f, "{port}"),
            None => f.write_str("*"),
        }
    }
}

impl fmt::Display for BackendKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.port {
            Some(_) => Destination { address: self.address, port: self.port }.fmt(f),
            None => self.address.fmt(f),
        }
    }
}

impl ServiceKey {
    /// The VIP with its port.
    pub fn destination(&self) -> Destination {
        Destination { address: self.vip, port: self.port }
    }
}

impl fmt::Display for ServiceKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.destination(), self.protocol)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn round_trip<T: FromStr<Err = TextError> + fmt::Display>(text: &str) {
        match text.parse::<T>() {
            Ok(value) => assert_eq!(value.to_string(), text),
            Err(error) => panic!("{text}: {error}"),
        }
    }

    fn refused<T: FromStr<Err = TextError> + fmt::Debug>(text: &str, fragment: &str) {
        let error = text.parse::<T>().expect_err(text);
        assert!(error.message.contains(fragment), "{text:?}: {error}");
    }

    #[test]
    fn what_is_read_is_shown_the_same() {
        for text in ["203.0.113.10:80", "[2001:db8::10]:443", "203.0.113.10:*", "[2001:db8::1]:*"] {
            round_trip::<Destination>(text);
        }
        for text in ["10.0.0.11", "10.0.0.11:8080", "2001:db8::11", "[2001:db8::11]:8080"] {
            round_trip::<BackendKey>(text);
        }
        round_trip::<MacAddress>("02:00:5e:00:00:1f");
        Protocol::WORDS.iter().for_each(|(word, _)| round_trip::<Protocol>(word));
        Forward::WORDS.iter().for_each(|(word, _)| round_trip::<Forward>(word));
    }

    #[test]
    fn destinations_are_strict() {
        for (text, fragment) in [
            ("", "not an address and a port"),
            ("203.0.113.10", "has no port"),
            ("2001:db8::10", "has no port"),
            ("2001:db8::10:x", "not an address and a port"),
            ("[203.0.113.10]:80", "not an address and a port"),
            ("[2001:db8::10]", "not an address and a port"),
            ("web.example:80", "not an IP address"),
            ("203.0.113.10:0", "not a port"),
            ("203.0.113.10:080", "not a port"),
            ("203.0.113.10:+80", "not a port"),
            ("203.0.113.10:65536", "not a port"),
            ("203.0.113.10:", "not a port"),
            ("0.0.0.0:80", "unspecified"),
            ("[::]:80", "unspecified"),
            ("127.0.0.2:80", "loopback"),
            ("[::1]:80", "loopback"),
            ("224.0.0.1:80", "multicast"),
            ("[ff02::1]:80", "multicast"),
            ("255.255.255.255:80", "broadcast"),
            ("[::ffff:10.0.0.1]:80", "IPv4-mapped"),
        ] {
            refused::<Destination>(text, fragment);
        }
    }

    #[test]
    fn backends_are_strict() {
        for (text, fragment) in [
            ("10.0.0.256", "not an IP address"),
            ("10.0.0.1:*", "not a port"),
            ("::ffff:10.0.0.1", "IPv4-mapped"),
            ("255.255.255.255", "broadcast"),
            ("fe80::1%eth0", "not an IP address"),
        ] {
            refused::<BackendKey>(text, fragment);
        }
    }

    #[test]
    fn mac_addresses_are_of_one_interface() {
        for (text, fragment) in [
            ("02:00:00:00:00", "not a MAC"),
            ("02:00:00:00:00:11:22", "not a MAC"),
            ("02-00-00-00-00-11", "not a MAC"),
            ("2:0:0:0:0:11", "not a MAC"),
            ("+2:00:00:00:00:11", "not a MAC"),
            ("00:00:00:00:00:00", "zero"),
            ("01:00:5e:00:00:01", "multicast"),
            ("ff:ff:ff:ff:ff:ff", "multicast"),
        ] {
            refused::<MacAddress>(text, fragment);
        }
    }
}
