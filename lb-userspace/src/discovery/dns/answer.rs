//! From records to backends.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    time::Duration,
};

use futures_util::stream::{self, StreamExt as _};
use hickory_resolver::proto::rr::{Name, RData, Record, RecordType, rdata::SRV};

use super::{
    Families, Fresh,
    query::{Reply, Resolver},
};
use crate::{
    config::{BackendSpec, DnsSource},
    discovery::{Answer, FOUND_MAX},
    state::Found,
};

/// Most targets of SRV records that are resolved.
const TARGETS_MAX: usize = 512;
/// Targets that are resolved at a time.
const AT_A_TIME: usize = 16;
/// How long an answer holds that says nothing of it.
const NO_TTL: Duration = Duration::from_secs(5);
/// Longest time that an answer without records is believed.
const NEGATIVE_MAX: Duration = Duration::from_secs(30);

/// Asks for the addresses of the name.
pub(super) async fn addresses(
    resolver: &Resolver,
    source: &DnsSource,
    families: Families,
) -> Result<Fresh, String> {
    let host = host(resolver, &name(&source.name)?, families).await?;
    let found = host.addresses.into_iter().map(|address| Found::new(address, source.weight));
    let (backends, too_many) = bounded(found.collect(), &source.name);
    Ok(Fresh { answer: Answer { backends, trouble: too_many }, ttl: host.ttl })
}

/// Asks for the SRV records of the name, then for the addresses of their targets.
pub(super) async fn srv(
    resolver: &Resolver,
    source: &DnsSource,
    families: Families,
    last: &[Found],
) -> Result<Fresh, String> {
    let reply = resolver.ask(&name(&source.name)?, RecordType::SRV).await?;
    let (records, mut ttl) = match reply {
        Reply::Records(records) => (targets(&records), least_ttl(&records)),
        Reply::Nothing(ttl) => (Vec::new(), negative(ttl)),
    };
    let targets: BTreeSet<Name> = records.iter().map(|record| record.target.clone()).collect();
    if targets.len() > TARGETS_MAX {
        let targets = targets.len();
        let name = &source.name;
        return Err(format!("SRV of {name}: {targets} targets; at most {TARGETS_MAX} are taken"));
    }
    let resolved = stream::iter(targets)
        .map(|target| async move {
            let host = host(resolver, &target, families).await;
            (target, host)
        })
        .buffered(AT_A_TIME)
        .collect::<Vec<_>>()
        .await;
    let mut hosts: BTreeMap<Name, Vec<IpAddr>> = BTreeMap::new();
    let mut trouble = Vec::new();
    for (target, resolved) in resolved {
        let addresses = match resolved {
            Ok(host) => {
                ttl = ttl.min(host.ttl);
                host.addresses.into_iter().collect()
            }
            Err(why) => {
                ttl = ttl.min(NO_TTL);
                let kept = addresses_of(&target, last);
                trouble.push(match kept.is_empty() {
                    true => why,
                    false => format!("{why}; the addresses that it last had stay"),
                });
                kept
            }
        };
        hosts.insert(target, addresses);
    }
    let (backends, too_many) = bounded(weighed(&records, &hosts, source.weight), &source.name);
    trouble.extend(too_many);
    let trouble = (!trouble.is_empty()).then(|| shown(trouble));
    Ok(Fresh { answer: Answer { backends, trouble }, ttl })
}

/// The first few of what may be hundreds.
fn shown(mut trouble: Vec<String>) -> String {
    let more = trouble.len().saturating_sub(3);
    trouble.truncate(3);
    let more = if more == 0 { String::new() } else { format!("; and {more} more") };
    trouble.join("; ") + &more
}

fn addresses_of(target: &Name, last: &[Found]) -> Vec<IpAddr> {
    let target = part(target);
    let of = last.iter().filter(|found| found.part.as_ref() == Some(&target));
    of.filter_map(|found| found.key().map(|key| key.address)).collect()
}

/// How a target is kept beside its addresses.
fn part(target: &Name) -> String {
    target.to_string().trim_end_matches('.').to_lowercase()
}

/// The records, but for a target that says that there is no service (RFC 2782).
fn targets(records: &[Record]) -> Vec<SRV> {
    let targets = records.iter().filter_map(|record| match &record.data {
        RData::SRV(srv) if !srv.target.is_root() => Some(srv),
        _ => None,
    });
    targets.cloned().collect()
}

/// The targets' addresses. Those of the lowest-numbered priority serve, and all others are backups
/// (RFC 2782: to be tried only where no target before can be reached); who is both serves.
fn weighed(records: &[SRV], hosts: &BTreeMap<Name, Vec<IpAddr>>, weight: u16) -> Vec<Found> {
    let first = records.iter().map(|record| record.priority).min();
    let (primaries, backups): (Vec<&SRV>, Vec<&SRV>) =
        records.iter().partition(|record| Some(record.priority) == first);
    let mut found = sums(&primaries, hosts, weight);
    for (address, backup) in sums(&backups, hosts, weight) {
        found.entry(address).or_insert_with(|| {
            let backend = BackendSpec { backup: Some(true), ..backup.backend };
            Found { backend, ..backup }
        });
    }
    found.into_values().collect()
}

/// Addresses with the records' weights: summed up where an address is there several times, since
/// its port doesn't matter. Where some weights are 0, these count as 1 (RFC 2782: a very small
/// chance); where all are, each counts as `weight`.
fn sums(
    records: &[&SRV],
    hosts: &BTreeMap<Name, Vec<IpAddr>>,
    weight: u16,
) -> BTreeMap<IpAddr, Found> {
    let equal = records.iter().all(|record| record.weight == 0);
    let mut sums: BTreeMap<IpAddr, (u32, String)> = BTreeMap::new();
    for record in records {
        let own = if equal { weight } else { record.weight.max(1) };
        for address in hosts.get(&record.target).into_iter().flatten() {
            let (sum, _) = sums.entry(*address).or_insert_with(|| (0, part(&record.target)));
            *sum += u32::from(own);
        }
    }
    let backend = |(address, (sum, part)): (IpAddr, (u32, String))| {
        let found = Found::new(address, sum.try_into().unwrap_or(u16::MAX));
        (address, Found { part: Some(part), ..found })
    };
    sums.into_iter().map(backend).collect()
}

/// A host's addresses, and how long they hold.
struct Host {
    addresses: BTreeSet<IpAddr>,
    ttl: Duration,
}

/// Asks for all families; each must be answered.
async fn host(resolver: &Resolver, name: &Name, families: Families) -> Result<Host, String> {
    let ask = async |wanted: bool, kind| match wanted {
        true => resolver.ask(name, kind).await.map(Some),
        false => Ok(None),
    };
    let (v4, v6) =
        tokio::join!(ask(families.v4, RecordType::A), ask(families.v6, RecordType::AAAA));
    let (mut addresses, mut ttls, mut negatives) = (BTreeSet::new(), Vec::new(), Vec::new());
    for reply in [v4?, v6?].into_iter().flatten() {
        match reply {
            Reply::Records(records) => {
                ttls.push(least_ttl(&records));
                addresses.extend(records.iter().filter_map(address));
            }
            Reply::Nothing(ttl) => negatives.push(negative(ttl)),
        }
    }
    // That one family has no records says nothing of how long the other's hold.
    let ttl = ttls.into_iter().min().or_else(|| negatives.into_iter().min()).unwrap_or(NO_TTL);
    Ok(Host { addresses, ttl })
}

fn address(record: &Record) -> Option<IpAddr> {
    match &record.data {
        RData::A(a) => Some(IpAddr::V4(a.0)),
        RData::AAAA(aaaa) => Some(IpAddr::V6(aaaa.0)),
        _ => None,
    }
}

/// An answer holds for as long as each of its records, aliases included.
fn least_ttl(records: &[Record]) -> Duration {
    let least = records.iter().map(|record| record.ttl).min();
    least.map_or(NO_TTL, |seconds| Duration::from_secs(seconds.into()))
}

fn negative(ttl: Option<u32>) -> Duration {
    ttl.map_or(NO_TTL, |seconds| Duration::from_secs(seconds.into())).min(NEGATIVE_MAX)
}

/// At most as many as a service may have: by address, so that all balancers take the same ones.
pub(super) fn bounded(mut found: Vec<Found>, name: &str) -> (Vec<Found>, Option<String>) {
    let all = found.len();
    if all <= FOUND_MAX {
        return (found, None);
    }
    found.truncate(FOUND_MAX);
    (found, Some(format!("{name} has {all} addresses; only the first {FOUND_MAX} are taken")))
}

fn name(text: &str) -> Result<Name, String> {
    let name = Name::from_ascii(text).map_err(|error| format!("{text}: {error}"));
    name.map(|mut name| {
        name.set_fqdn(true);
        name
    })
}
