//! What becomes of backends' answers under `nat`.

use std::{collections::BTreeMap, net::IpAddr};

use lb_common::{
    checksum,
    id::{BackendId, ServiceId},
    layout::{ANSWERS, ANSWERS_OF_ANY_PORT, AnswerEntry, AnswerKey, FULLNAT},
    network::{TCP, UDP},
};

use super::record::address_bytes;
use crate::model::{Backend, BackendKey, Forward, Protocol, Service, ServiceKey};

/// Where a backend's answers come from.
fn key(service: ServiceKey, backend: BackendKey) -> AnswerKey {
    let protocol = match service.protocol {
        Protocol::Tcp => TCP,
        Protocol::Udp => UDP,
    };
    let port = backend.port.or(service.port).unwrap_or(0);
    AnswerKey::new(address_bytes(backend.address), port, protocol)
}

/// What becomes of them. Where a service's packets keep their port, so do its answers.
fn entry(service: &Service, id: ServiceId, backend: &Backend, number: BackendId) -> AnswerEntry {
    let vip = address_bytes(service.key.vip);
    AnswerEntry {
        vip,
        difference: checksum::address_difference(&address_bytes(backend.key.address), &vip),
        service: id.0,
        backend: number.0,
        port: service.key.port.unwrap_or(0),
        reserved: 0,
    }
}

/// Answers of the services that were gone through.
#[derive(Default)]
pub(super) struct Answers {
    wanted: BTreeMap<AnswerKey, AnswerEntry>,
    /// Those of backends that leave: for them, what others want comes first.
    leaving: BTreeMap<AnswerKey, AnswerEntry>,
}

impl Answers {
    /// Adds a service's. Gives its [`lb_common::layout::ServiceEntry::answers`].
    pub(super) fn add(
        &mut self,
        service: &Service,
        id: ServiceId,
        ids: &BTreeMap<BackendKey, BackendId>,
    ) -> u8 {
        let all = || service.backends.iter().chain(&service.leaving);
        let by_flow = all().any(|backend| backend.forward == Forward::Fullnat);
        let mut flags = if by_flow { FULLNAT } else { 0 };
        let both = [(&service.backends, &mut self.wanted), (&service.leaving, &mut self.leaving)];
        for (backends, answers) in both {
            for backend in backends.iter().filter(|backend| is_turned_back(service, backend)) {
                let key = key(service.key, backend.key);
                flags |= if key.is_of_any_port() { ANSWERS | ANSWERS_OF_ANY_PORT } else { ANSWERS };
                // The config has no two in one place; of those that it had, the first stays.
                answers.entry(key).or_insert(entry(service, id, backend, ids[&backend.key]));
            }
        }
        flags
    }

    /// All that shall be there.
    pub(super) fn all(mut self) -> BTreeMap<AnswerKey, AnswerEntry> {
        self.leaving.append(&mut self.wanted);
        self.leaving
    }
}

fn is_turned_back(service: &Service, backend: &Backend) -> bool {
    let one_family = |vip: IpAddr, address: IpAddr| vip.is_ipv4() == address.is_ipv4();
    backend.forward == Forward::Nat && one_family(service.key.vip, backend.key.address)
}
