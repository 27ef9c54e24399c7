//! What sources of backends last told: kept, so that a restart while they are silent changes
//! nothing.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{
    config::{BackendConfig, BackendSpec, Claims, DiscoverySource, Refused, ServiceConfig, join},
    model::{BackendKey, Origin},
};

/// What was told, by service name.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Discovered {
    services: BTreeMap<String, Told>,
}

/// What a service's source told.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Told {
    origin: Origin,
    backends: Vec<Found>,
}

/// A backend that was found.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Found {
    /// Its keys.
    pub backend: BackendSpec,
    /// The part of the source that told it: a file's name, an SRV record's target.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub part: Option<String>,
    /// Its lease, where it registered itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lease: Option<KeptLease>,
}

/// What outlives the agent of a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeptLease {
    /// How long it lasts without being renewed.
    pub ttl_ms: u64,
    /// The backend said that it leaves.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub leaves: bool,
}

impl Found {
    /// A backend of that address and weight.
    pub fn new(address: impl ToString, weight: u16) -> Self {
        let (address, weight) = (address.to_string(), Some(weight.into()));
        Self {
            backend: BackendSpec { address, weight, ..BackendSpec::default() },
            ..Self::default()
        }
    }

    /// Where it serves; `None` for what isn't an address.
    pub fn key(&self) -> Option<BackendKey> {
        self.backend.address.parse().ok()
    }
}

impl Discovered {
    /// What the source of a service told last, if it was of that kind.
    pub fn told(&self, service: &str, origin: Origin) -> &[Found] {
        match self.services.get(service) {
            Some(told) if fits(told.origin, origin) => &told.backends,
            _ => &[],
        }
    }

    /// Replaces what is known. Whether that is news.
    pub fn set(&mut self, service: &str, origin: Origin, backends: Vec<Found>) -> bool {
        let told = Told { origin, backends };
        if self.services.get(service) == Some(&told) {
            return false;
        }
        self.services.insert(service.to_owned(), told);
        true
    }

    /// Forgets services that have no such source any more.
    pub fn retain(&mut self, services: &[ServiceConfig]) {
        self.services.retain(|name, told| {
            let service = services.iter().find(|service| service.name == *name);
            service.and_then(origin).is_some_and(|origin| fits(told.origin, origin))
        });
    }

    /// Lets what was found for a service join it: who joined, who leaves, who was refused.
    pub(super) fn join(
        &self,
        service: &mut ServiceConfig,
        room: usize,
        claims: &mut Claims,
    ) -> Joined {
        let Some(origin) = origin(service) else { return Joined::default() };
        let told = self.told(&service.name, origin);
        let before = service.backends.len();
        let refused = join(service, told.iter().map(|found| &found.backend), room, claims);
        let backends = service.backends[before..].to_vec();
        let leaves = |found: &&Found| found.lease.is_some_and(|lease| lease.leaves);
        let leaving = told.iter().filter(leaves).filter_map(Found::key).collect();
        Joined { origin: Some(origin), backends, leaving, refused }
    }
}

/// What became of what was found.
#[derive(Debug, Default)]
pub(super) struct Joined {
    pub(super) origin: Option<Origin>,
    pub(super) backends: Vec<BackendConfig>,
    pub(super) leaving: Vec<BackendKey>,
    pub(super) refused: Vec<Refused>,
}

/// Where a service's discovered backends come from.
pub fn origin(service: &ServiceConfig) -> Option<Origin> {
    Some(match service.discovery.as_ref()?.source {
        DiscoverySource::Dns(_) => Origin::Dns,
        DiscoverySource::Directory(_) => Origin::Directory,
        DiscoverySource::Register { .. } => Origin::Registered,
    })
}

/// Whether what one kind of source told holds until one of another kind tells: names and files say
/// the same sort of thing, leases are given by the agent alone.
fn fits(told: Origin, wanted: Origin) -> bool {
    (told == Origin::Registered) == (wanted == Origin::Registered)
}
