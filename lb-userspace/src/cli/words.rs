//! What is typed as one word and says several things.

use std::{fmt, net::IpAddr, str::FromStr};

use crate::{
    config::{BackendSpec, HealthSpec},
    model::BackendKey,
};

/// A network: an address and the length of its prefix in bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Cidr {
    /// The bits behind the prefix are zero.
    pub address: IpAddr,
    /// At most 32 or 128.
    pub prefix: u8,
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

impl FromStr for Cidr {
    type Err = String;

    /// An address alone is that one host.
    fn from_str(text: &str) -> Result<Self, String> {
        let allowed = "a network such as 198.51.100.0/24 or 2001:db8::/64, or one address";
        let (address, prefix) = match text.split_once('/') {
            Some((address, prefix)) => (address, Some(prefix)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| format!("give {allowed}"))?;
        let (bits, width) = match address {
            IpAddr::V4(v4) => (u128::from(v4.to_bits()) << 96, 32),
            IpAddr::V6(v6) => (v6.to_bits(), 128),
        };
        let prefix = match prefix {
            None => width,
            Some(prefix) => {
                prefix.parse().ok().filter(|prefix| *prefix <= width).ok_or_else(|| {
                    format!("the prefix is 0 to {width} bits long; give {allowed}")
                })?
            }
        };
        if bits.checked_shl(prefix.into()).unwrap_or(0) != 0 {
            return Err(format!("{address} has bits behind the first {prefix}; clear them"));
        }
        Ok(Self { address, prefix })
    }
}

/// A check in one word.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HealthWord(pub HealthSpec);

impl FromStr for HealthWord {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (kind, rest) = match text.split_once(':') {
            Some((kind, rest)) => (kind, Some(rest.to_owned())),
            None => (text, None),
        };
        let mut spec = HealthSpec { kind: kind.to_owned(), ..HealthSpec::default() };
        match (kind, rest) {
            ("tcp" | "none", None) => {}
            ("http" | "https", path) => spec.path = path,
            ("grpc", service) => spec.grpc_service = service,
            ("udp", Some(datagram)) => spec.send = Some(datagram),
            ("dns", Some(name)) => spec.query = Some(name),
            _ => {
                return Err("give tcp, http, http:/path, https, https:/path, grpc, grpc:service, \
                            udp:datagram, dns:name or none");
            }
        }
        Ok(Self(spec))
    }
}

/// A backend in one word.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackendWord(pub BackendSpec);

impl FromStr for BackendWord {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (address, weight) = match text.split_once('=') {
            Some((address, weight)) => {
                let weight: Result<u16, _> = weight.parse();
                let allowed = || "a weight is a number from 0 to 65535".to_owned();
                (address, Some(weight.map_err(|_| allowed())?.into()))
            }
            None => (text, None),
        };
        let key: BackendKey = address.parse().map_err(|error| format!("{error}"))?;
        Ok(Self(BackendSpec { address: key.to_string(), weight, ..BackendSpec::default() }))
    }
}
