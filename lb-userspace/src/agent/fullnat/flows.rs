//! Flows under `fullnat`, told one by one, and killed.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv6Addr, SocketAddr},
};

use lb_common::{
    flow::{destination_port, source_port},
    id::BackendId,
    layout::{BackendRecord, FlowKey, ReturnKey, TranslatedWords, Translation},
    network::Address,
};

use super::Agent;
use crate::{
    agent::tell,
    api::{
        Actor, ApiError, Cause, ErrorKind, EventKind, FlowFilter, FlowInfo, FlowList, KilledFlows,
        News, Reply,
    },
    dataplane::{self, Fate, FullnatTable},
    model::{BackendKey, ServiceKey},
    plan::backend_key,
};

/// Flows that are told where no limit is given.
const USUAL_LIMIT: usize = 1000;

/// Numbers and what they stand for, at one moment.
struct Names {
    services: BTreeMap<u32, (String, ServiceKey)>,
    backends: BTreeMap<BackendId, BackendRecord>,
    pools: BTreeMap<u8, Address>,
}

/// Which flows are meant.
struct Wanted {
    service: Option<u32>,
    backend: Option<BackendKey>,
    client: Option<(IpAddr, Option<u16>)>,
}

impl Agent {
    /// Tells flows. What is asked for is read in a thread of its own: packets don't wait for it.
    pub(in crate::agent) fn list_flows(&self, filter: &FlowFilter, reply: Reply<FlowList>) {
        let limit = filter.limit.unwrap_or(USUAL_LIMIT);
        self.with_flows(filter, reply, move |table, names, wanted| {
            let mut list = FlowList { flows: Vec::new(), matching: 0 };
            table.visit(
                |place| names.pools.get(&place).copied(),
                |key, flow, entry| {
                    if let Some(entry) = entry.filter(|entry| names.is_wanted(wanted, flow, entry))
                    {
                        list.matching += 1;
                        if list.flows.len() < limit {
                            list.flows.push(names.tell(key, flow, entry));
                        }
                    }
                    Fate::Keep
                },
            )?;
            Ok(list)
        });
    }

    /// Ends flows: their next packet finds none.
    pub(in crate::agent) fn kill_flows(
        &self,
        filter: &FlowFilter,
        by: &Actor,
        reply: Reply<KilledFlows>,
    ) {
        let (events, by, what) = (self.events.clone(), by.clone(), filter.words());
        self.with_flows(filter, reply, move |table, names, wanted| {
            let killed = table.visit(
                |place| names.pools.get(&place).copied(),
                // The backend still knows the connection: its port stays taken for a while.
                |_, flow, entry| match entry.filter(|e| names.is_wanted(wanted, flow, e)) {
                    Some(_) => Fate::Orphan,
                    None => Fate::Keep,
                },
            )?;
            let told = format!("{killed} flows were killed: {what}");
            tell(&events, News::new(EventKind::FlowsKilled, Cause::Api, told).by(&by));
            Ok(KilledFlows { killed })
        });
    }

    fn with_flows<T: Send + 'static>(
        &self,
        filter: &FlowFilter,
        reply: Reply<T>,
        work: impl FnOnce(&FullnatTable, &Names, &Wanted) -> Result<T, dataplane::Error>
        + Send
        + 'static,
    ) {
        let (names, wanted) = match self.names().wanted(filter) {
            Ok(both) => both,
            // Somebody who doesn't wait for the answer any more needs none.
            Err(error) => return drop(reply.send(Err(error))),
        };
        let failed = |error: dataplane::Error| ApiError::new(ErrorKind::Failed, error.to_string());
        match self.plane.fullnat_table() {
            Ok(table) => {
                tokio::task::spawn_blocking(move || {
                    let _ = reply.send(work(&table, &names, &wanted).map_err(failed));
                });
            }
            Err(error) => drop(reply.send(Err(failed(error)))),
        }
    }

    fn names(&self) -> Names {
        let services = self.actual.services.iter().map(|(id, present)| {
            let key = present.entry.key;
            let service = self.effective.services.iter().find(|service| service.key == key);
            let name = service.map_or_else(|| key.to_string(), |service| service.name.clone());
            (id.0, (name, key))
        });
        Names {
            services: services.collect(),
            backends: self.actual.backends.clone(),
            pools: self.actual.pools.clone(),
        }
    }
}

impl Names {
    /// Which flows a filter means.
    fn wanted(self, filter: &FlowFilter) -> Result<(Self, Wanted), ApiError> {
        let invalid =
            |message: String, hint: &str| ApiError::new(ErrorKind::Invalid, message).hint(hint);
        let service = match &filter.service {
            Some(name) => {
                let found = self.services.iter().find(|(_, (known, _))| known == name);
                Some(*found.ok_or_else(|| ApiError::no_service(name))?.0)
            }
            None => None,
        };
        let backend = filter.backend.as_ref().map(|text| {
            text.parse::<BackendKey>().map_err(|error| invalid(error.message, error.allowed))
        });
        let client = filter.client.as_ref().map(|text| {
            let whole = text.parse::<SocketAddr>().map(|at| (at.ip(), Some(at.port())));
            whole.or_else(|_| text.parse().map(|address| (address, None))).map_err(|_| {
                let hint = "an address, or an address and a port: 192.0.2.1, [2001:db8::1]:4711";
                invalid(format!("{text:?} is no client"), hint)
            })
        });
        let wanted = Wanted { service, backend: backend.transpose()?, client: client.transpose()? };
        Ok((self, wanted))
    }

    fn is_wanted(&self, wanted: &Wanted, flow: &FlowKey, entry: &TranslatedWords) -> bool {
        let client = client(flow);
        wanted.service.is_none_or(|service| service == flow.service)
            && wanted.backend.is_none_or(|key| self.backend(entry.translation()) == Some(key))
            && wanted.client.is_none_or(|(address, port)| {
                address == client.ip() && port.is_none_or(|port| port == client.port())
            })
    }

    fn backend(&self, translation: Translation) -> Option<BackendKey> {
        let record = self.backends.get(&translation.backend)?;
        translation.is_of(record).then(|| backend_key(record))
    }

    fn tell(&self, key: &ReturnKey, flow: &FlowKey, entry: &TranslatedWords) -> FlowInfo {
        let (progress, now) = (entry.progress(), dataplane::now());
        let service = self.services.get(&flow.service);
        let backend = endpoint(key.backend, source_port(key.ports));
        FlowInfo {
            service: service.map_or_else(|| flow.service.to_string(), |(name, _)| name.clone()),
            protocol: service.map_or("", |(_, key)| key.protocol.word()).to_owned(),
            client: client(flow).to_string(),
            vip: service.map_or_else(String::new, |(_, service)| {
                SocketAddr::new(service.vip, destination_port(flow.ports)).to_string()
            }),
            source: endpoint(key.pool, destination_port(key.ports)).to_string(),
            backend: self
                .backend(entry.translation())
                .map_or_else(|| backend.to_string(), |b| b.to_string()),
            state: progress.stage.name().to_owned(),
            age_seconds: now.saturating_sub(progress.began),
            quiet_seconds: progress.quiet_seconds(now),
        }
    }
}

fn client(flow: &FlowKey) -> SocketAddr {
    endpoint(flow.source, source_port(flow.ports))
}

fn endpoint(address: Address, port: u16) -> SocketAddr {
    SocketAddr::new(Ipv6Addr::from(address).to_canonical(), port)
}
