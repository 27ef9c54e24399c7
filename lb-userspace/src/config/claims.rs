//! Whose answers come from where: under `nat`, an answer's source alone says which service it
//! belongs to, so no two may send to the same address and port.

use std::{collections::BTreeMap, net::IpAddr};

use super::{
    error::{ErrorKind, Fault},
    types::ServiceConfig,
};
use crate::model::{BackendKey, Forward, Protocol, ServiceKey};

/// The backends' addresses and ports that answers come from.
#[derive(Debug, Default)]
pub struct Claims(BTreeMap<(IpAddr, Protocol, Option<u16>), Claim>);

#[derive(Clone, Debug)]
struct Claim {
    owner: String,
    service: ServiceKey,
}

impl Claims {
    /// Those of services that were checked.
    pub fn of<'a>(services: impl IntoIterator<Item = &'a ServiceConfig>) -> Self {
        let mut claims = Self::default();
        for service in services {
            let owner = format!("service \"{}\"", service.name);
            for backend in &service.backends {
                if backend.forward.unwrap_or(service.forward) == Forward::Nat {
                    // They were checked.
                    let _ = claims.add(&owner, service.key, backend.key);
                }
            }
        }
        claims
    }

    /// One more.
    ///
    /// # Errors
    /// Somebody else's answers come from there.
    pub(super) fn add(
        &mut self,
        owner: &str,
        service: ServiceKey,
        backend: BackendKey,
    ) -> Result<(), Fault> {
        let port = backend.port.or(service.port);
        let (address, protocol) = (backend.address, service.protocol);
        let all = (address, protocol, None)..=(address, protocol, Some(u16::MAX));
        let in_the_way = |(other_port, other): (Option<u16>, &Claim)| match (port, other_port) {
            (Some(port), Some(other)) => port == other,
            (None, None) => true,
            // What the one VIP has a service of its own for isn't the any-port service's.
            (None, Some(exact)) => {
                other.service.vip != service.vip || other.service.port != Some(exact)
            }
            (Some(exact), None) => other.service.vip != service.vip || service.port != Some(exact),
        };
        let mut others = self.0.range(all).map(|(&(_, _, port), claim)| (port, claim));
        if let Some((_, other)) = others.find(|other| in_the_way(*other)) {
            let from = match port {
                Some(port) => BackendKey { address, port: Some(port) }.to_string(),
                None => format!("any port of {address}"),
            };
            let other = &other.owner;
            let whose = if other == owner {
                "another backend's".to_owned()
            } else {
                format!("those of {other}")
            };
            return Err(Fault::new(
                ErrorKind::Impossible,
                format!(
                    "answers from {from} over {protocol} couldn't be told from {whose}, which \
                     come from there, too"
                ),
            )
            .help(
                "under `nat` each service needs an address or a port of the backend for itself",
            ));
        }
        let claim = Claim { owner: owner.to_owned(), service };
        self.0.insert((address, protocol, port), claim);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(vip: &str) -> ServiceKey {
        let crate::model::Destination { address, port } = vip.parse().unwrap();
        ServiceKey { vip: address, port, protocol: Protocol::Tcp }
    }

    fn both(one: (&str, &str), other: (&str, &str)) -> Result<(), String> {
        let mut claims = Claims::default();
        claims.add("service \"one\"", key(one.0), one.1.parse().unwrap()).unwrap();
        let added = claims.add("service \"other\"", key(other.0), other.1.parse().unwrap());
        added.map_err(|fault| fault.message)
    }

    #[test]
    fn no_two_services_have_answers_from_the_same_place() {
        for (one, other) in [
            (("203.0.113.10:80", "10.0.0.1:8080"), ("203.0.113.11:80", "10.0.0.1:8080")),
            (("203.0.113.10:80", "10.0.0.1"), ("203.0.113.11:81", "10.0.0.1:80")),
            (("203.0.113.10:*", "10.0.0.1"), ("203.0.113.11:*", "10.0.0.1")),
            (("203.0.113.10:*", "10.0.0.1"), ("203.0.113.11:80", "10.0.0.1")),
            (("203.0.113.10:80", "10.0.0.1:81"), ("203.0.113.10:*", "10.0.0.1")),
            (("203.0.113.10:*", "10.0.0.1"), ("203.0.113.10:80", "10.0.0.1:81")),
        ] {
            let message = both(one, other).unwrap_err();
            assert!(message.contains("those of service \"one\""), "{message}");
        }
    }

    #[test]
    fn other_ports_and_addresses_are_other_places() {
        for (one, other) in [
            (("203.0.113.10:80", "10.0.0.1:8080"), ("203.0.113.11:80", "10.0.0.1:8081")),
            (("203.0.113.10:80", "10.0.0.1"), ("203.0.113.11:80", "10.0.0.2")),
            (("203.0.113.10:80", "10.0.0.1"), ("203.0.113.10:*", "10.0.0.1")),
            (("203.0.113.10:*", "10.0.0.1"), ("203.0.113.10:80", "10.0.0.1:80")),
        ] {
            both(one, other).unwrap();
        }
    }
}
