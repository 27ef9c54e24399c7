//! The rings of the recent past: pure.
//!
//! A flow may live by any ring that was in force since its slots last were stable. A balancer that
//! starts with empty maps lays these rings out as the slots' former owners; backends that only
//! they name are leaving: their flows are served until they end.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    sync::Arc,
};

use lb_common::ring::{FULL, MAX_MEMBERS};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

use crate::{
    config::{BackendConfig, BackendSpec, ServiceConfig, is_ring_size},
    model::{BackendKey, FormerMember, FormerRing, Forward, ServiceKey},
};

/// Rings kept of a service: its first, whose flows may be the oldest, and the last of the others.
const RINGS: usize = 16;

/// Backends of a service that leave at a time: twice what a source of backends may tell. Whoever
/// replaces all of them again and again can't have all of them served, probed and kept.
const LEAVING_MAX: usize = 8192;

/// What was in force, by the service's key.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct History {
    services: BTreeMap<String, Past>,
}

/// What was in force of a service.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Past {
    /// Rings, the oldest first: shared, so that a copy to be saved costs nothing.
    #[serde(default, serialize_with = "written", deserialize_with = "read")]
    epochs: Vec<Arc<Epoch>>,
    /// Who owned slots in rings that are kept no more, and in none that is kept; the longest ago
    /// first.
    #[serde(default, deserialize_with = "members", skip_serializing_if = "Vec::is_empty")]
    leaving: Vec<Member>,
}

/// A ring, while it was in force.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Epoch {
    /// When it came in force, in seconds of the UNIX epoch.
    since: u64,
    #[serde(deserialize_with = "ring_size")]
    ring_size: u32,
    #[serde(deserialize_with = "members")]
    members: Vec<Member>,
}

/// A backend as the ring saw it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "WrittenMember")]
struct Member {
    /// Its address, understood once.
    #[serde(skip)]
    key: BackendKey,
    backend: BackendSpec,
    /// The share of its weight that it served, in thousandths.
    live: u16,
    /// It was removed, whatever flows it had.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    removed: bool,
}

/// A [`Member`] as anybody may have written it.
#[derive(Deserialize)]
struct WrittenMember {
    backend: BackendSpec,
    live: u16,
    #[serde(default)]
    removed: bool,
}

// What a ring can't be built from, or not in bounded time, is no ring of the past.

fn ring_size<'de, D: Deserializer<'de>>(input: D) -> Result<u32, D::Error> {
    let size = u32::deserialize(input)?;
    let wrong = || D::Error::custom(format_args!("{size} is not the size of a ring"));
    if is_ring_size(size) { Ok(size) } else { Err(wrong()) }
}

fn members<'de, D: Deserializer<'de>>(input: D) -> Result<Vec<Member>, D::Error> {
    let members = Vec::<Member>::deserialize(input)?;
    let keys: BTreeSet<_> = members.iter().map(|member| member.key).collect();
    if members.len() > MAX_MEMBERS || keys.len() < members.len() {
        return Err(D::Error::custom("too many backends, or one of them twice"));
    }
    Ok(members)
}

impl TryFrom<WrittenMember> for Member {
    type Error = String;

    fn try_from(written: WrittenMember) -> Result<Self, String> {
        let WrittenMember { backend, live, removed } = written;
        let weighs = |weight| u16::try_from(weight).is_ok();
        let Some(key) = backend.address.parse().ok().filter(|_| backend.weight.is_none_or(weighs))
        else {
            return Err(format!("{} is no backend", backend.address));
        };
        if live > FULL {
            return Err(format!("{live} thousandths of a weight"));
        }
        Ok(Self { key, backend, live, removed })
    }
}

fn read<'de, D: Deserializer<'de>>(input: D) -> Result<Vec<Arc<Epoch>>, D::Error> {
    Ok(Vec::<Epoch>::deserialize(input)?.into_iter().map(Arc::new).collect())
}

fn written<S: Serializer>(epochs: &[Arc<Epoch>], output: S) -> Result<S::Ok, S::Error> {
    output.collect_seq(epochs.iter().map(Arc::as_ref))
}

impl Member {
    /// What of it makes a ring.
    fn weight(&self) -> u16 {
        self.backend.weight.and_then(|weight| weight.try_into().ok()).unwrap_or(100)
    }

    fn owned_slots(&self) -> bool {
        self.live > 0 && self.weight() > 0 && !self.removed
    }
}

impl Epoch {
    fn makes_same_ring(&self, other: &Self) -> bool {
        let members = |epoch: &Self| -> Vec<_> {
            epoch.members.iter().map(|m| (m.key, m.weight(), m.live)).collect()
        };
        self.ring_size == other.ring_size && members(self) == members(other)
    }

    fn former(&self) -> FormerRing {
        let member = |member: &Member| {
            let (weight, live_permille) = (member.weight(), member.live);
            FormerMember { key: member.key, weight, live_permille }
        };
        FormerRing { ring_size: self.ring_size, members: self.members.iter().map(member).collect() }
    }
}

impl Past {
    /// Drops rings between the first and the last ones, but not who owned slots in them: nobody
    /// is forgotten whose flows may live, but for those that more than [`LEAVING_MAX`] came after.
    fn trim(&mut self) {
        let excess = self.epochs.len().saturating_sub(RINGS);
        if excess == 0 {
            return;
        }
        let mut leaving = std::mem::take(&mut self.leaving);
        let dropped: Vec<_> = self.epochs.drain(1..1 + excess).collect();
        let kept = self.epochs.iter().flat_map(|epoch| &epoch.members);
        let owners: HashSet<_> = kept.filter(|m| m.owned_slots()).map(|m| m.key).collect();
        let orphans = dropped.iter().flat_map(|epoch| &epoch.members);
        leaving.extend(orphans.filter(|m| m.owned_slots()).cloned());
        leaving.retain(|member| !owners.contains(&member.key));
        self.leaving = last_of_each(leaving, |member| member.key);
    }

    /// Everybody that it names; as they last were, come last.
    fn members(&self) -> impl Iterator<Item = &Member> {
        self.leaving.iter().chain(self.epochs.iter().flat_map(|epoch| &epoch.members))
    }
}

impl History {
    /// Drops rings beyond those that are kept: after reading, since anybody may have written.
    pub(super) fn trim(&mut self) {
        self.services.values_mut().for_each(Past::trim);
    }

    /// Notes the ring that is in force now: `live` is each backend's share of its weight, in
    /// thousandths; `None` if the ring hasn't it. Whether that is news.
    pub fn note(
        &mut self,
        service: &ServiceConfig,
        ring_size: u32,
        now: u64,
        live: impl Fn(BackendKey) -> Option<u16>,
    ) -> bool {
        let member = |backend: &BackendConfig| {
            let live = live(backend.key)?;
            let (key, backend) = (backend.key, BackendSpec::from(backend));
            Some(Member { key, backend, live, removed: false })
        };
        let members = service.backends.iter().filter_map(member).collect();
        let epoch = Epoch { since: now, ring_size, members };
        let past = self.services.entry(text(service.key)).or_default();
        let owned = epoch.members.iter().any(Member::owned_slots);
        if past.epochs.last().is_some_and(|last| last.makes_same_ring(&epoch))
            || past.epochs.is_empty() && !owned
        {
            return false;
        }
        past.epochs.push(Arc::new(epoch));
        past.trim();
        true
    }

    /// Forgets all rings of a service but the last, and who owned slots before: its slots are
    /// stable. Whether there was anything.
    pub fn settle(&mut self, service: ServiceKey) -> bool {
        let Some(past) = self.services.get_mut(&text(service)) else { return false };
        let settled = past.epochs.len() > 1 || !past.leaving.is_empty();
        past.epochs.drain(..past.epochs.len().saturating_sub(1));
        past.leaving.clear();
        settled
    }

    /// Forgets a backend that leaves or left: its flows ended, or are given up. Whether it was
    /// known.
    pub fn forget(&mut self, service: ServiceKey, backend: BackendKey) -> bool {
        let Some(past) = self.services.get_mut(&text(service)) else { return false };
        let listed = past.leaving.len();
        past.leaving.retain(|member| member.key != backend);
        let mut known = past.leaving.len() < listed;
        let names = |member: &Member| member.key == backend && !member.removed;
        for epoch in &mut past.epochs {
            if let Some(place) = epoch.members.iter().position(names) {
                Arc::make_mut(epoch).members[place].removed = true;
                known = true;
            }
        }
        known
    }

    /// Notes a backend of which nothing is known here, but that it may have flows. Whether that is
    /// so: `false` if it was known.
    pub fn adopt(
        &mut self,
        service: ServiceKey,
        backend: BackendKey,
        forward: Option<Forward>,
    ) -> bool {
        let past = self.services.entry(text(service)).or_default();
        if past.members().any(|member| member.key == backend) {
            return false;
        }
        let key = backend;
        let backend = BackendSpec {
            address: key.to_string(),
            forward: forward.map(|forward| forward.to_string()),
            ..BackendSpec::default()
        };
        past.leaving.push(Member { key, backend, live: FULL, removed: false });
        true
    }

    /// Forgets services that are no more. Whether there were any.
    pub fn retain(&mut self, services: &[ServiceConfig]) -> bool {
        let keys: BTreeSet<String> = services.iter().map(|service| text(service.key)).collect();
        let before = self.services.len();
        self.services.retain(|key, _| keys.contains(key));
        self.services.len() != before
    }

    /// The rings that flows of a service may live by, the oldest first.
    pub fn former(&self, service: ServiceKey) -> Vec<FormerRing> {
        self.epochs(service).iter().map(|epoch| epoch.former()).collect()
    }

    /// Slots of a service's last ring.
    pub fn ring_size(&self, service: ServiceKey) -> Option<u32> {
        self.epochs(service).last().map(|epoch| epoch.ring_size)
    }

    /// The share of its weight that each backend last served, in thousandths.
    pub fn last_live(&self, service: ServiceKey) -> BTreeMap<BackendKey, u16> {
        let members = self.epochs(service).last().map_or(&[][..], |epoch| &epoch.members);
        members.iter().map(|member| (member.key, member.live)).collect()
    }

    /// Backends that owned slots and are no longer the service's, as they last were. What doesn't
    /// fit the service any more is left out.
    pub fn leaving(&self, service: &ServiceConfig) -> Vec<BackendConfig> {
        let Some(past) = self.services.get(&text(service.key)) else { return Vec::new() };
        let present: BTreeSet<_> = service.backends.iter().map(|backend| backend.key).collect();
        let alone = ServiceConfig { backends: Vec::new(), ..service.clone() };
        let mut leaving = Vec::new();
        for member in past.members().filter(|member| member.owned_slots()) {
            if present.contains(&member.key) {
                continue;
            }
            if let Ok(backend) = member.backend.check(&alone, &[]) {
                leaving.push(BackendConfig { key: member.key, ..backend });
            }
        }
        let mut leaving = last_of_each(leaving, |backend| backend.key);
        leaving.sort_unstable_by_key(|backend| backend.key);
        leaving
    }

    /// The same of all services that have some, by name.
    pub fn all_leaving(&self, services: &[ServiceConfig]) -> BTreeMap<String, Vec<BackendConfig>> {
        let leaving = |service: &ServiceConfig| (service.name.clone(), self.leaving(service));
        let some = |(_, leaving): &(String, Vec<_>)| !leaving.is_empty();
        services.iter().map(leaving).filter(some).collect()
    }

    fn epochs(&self, service: ServiceKey) -> &[Arc<Epoch>] {
        self.services.get(&text(service)).map_or(&[], |past| past.epochs.as_slice())
    }
}

/// Each as it was last, in the order of time; the last [`LEAVING_MAX`] of them.
fn last_of_each<T, K: Ord>(all: Vec<T>, key: impl Fn(&T) -> K) -> Vec<T> {
    let mut seen = BTreeSet::new();
    let mut last: Vec<T> = all.into_iter().rev().filter(|it| seen.insert(key(it))).collect();
    last.truncate(LEAVING_MAX);
    last.reverse();
    last
}

fn text(service: ServiceKey) -> String {
    service.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::parse;

    fn service(backends: &str) -> ServiceConfig {
        let config = format!(
            "interfaces = [\"eth0\"]\n[[service]]\nname = \"web\"\nvip = \"203.0.113.10:80\"\n\
             forward = \"ipip\"\nbackend = [{backends}]"
        );
        parse(&config, "test.toml").unwrap().services.remove(0)
    }

    const A: &str = "{ address = \"10.0.0.1\" }";
    const AB: &str = "{ address = \"10.0.0.1\" }, { address = \"10.0.0.2\", weight = 7 }";

    fn key(last: u8) -> BackendKey {
        format!("10.0.0.{last}").parse().unwrap()
    }

    #[test]
    fn only_changed_rings_are_news() {
        let mut history = History::default();
        assert!(history.note(&service(AB), 251, 1, |_| Some(1000)));
        assert!(!history.note(&service(AB), 251, 2, |_| Some(1000)));
        assert!(history.note(&service(AB), 251, 3, |_| Some(0)));
        assert!(history.note(&service(AB), 509, 4, |_| Some(0)));
        assert_eq!(history.former(service(AB).key).len(), 3);
        assert!(history.settle(service(AB).key));
        assert!(!history.settle(service(AB).key));
        assert_eq!(history.former(service(AB).key).len(), 1);
    }

    /// Before anybody was healthy there was nothing that a flow could live by.
    #[test]
    fn it_begins_with_the_first_owner() {
        let mut history = History::default();
        assert!(!history.note(&service(AB), 251, 1, |_| Some(0)));
        assert!(history.note(&service(AB), 251, 2, |_| Some(500)));
    }

    #[test]
    fn who_owned_slots_leaves() {
        let mut history = History::default();
        history.note(
            &service(AB),
            251,
            1,
            |key| if key == self::key(2) { Some(1000) } else { Some(0) },
        );
        assert_eq!(history.leaving(&service(AB)), []);
        let leaving = history.leaving(&service(""));
        assert_eq!(leaving.len(), 1, "the other one never owned a slot");
        assert_eq!((leaving[0].key, leaving[0].weight), (key(2), 7));
        history.note(&service(A), 251, 2, |_| Some(1000));
        assert_eq!(history.leaving(&service(A)).len(), 1);
        assert!(history.forget(service(A).key, key(2)));
        assert_eq!(history.leaving(&service(A)), []);
        assert!(!history.forget(service(A).key, key(2)));
    }

    #[test]
    fn the_first_ring_outlives_those_between() {
        let mut history = History::default();
        for live in 1..100 {
            history.note(&service(A), 251, live.into(), |_| Some(live));
        }
        let rings = history.former(service(A).key);
        assert_eq!(rings.len(), RINGS);
        assert_eq!(rings[0].members[0].live_permille, 1);
        assert_eq!(rings[RINGS - 1].members[0].live_permille, 99);
        assert!(history.retain(&[]));
        assert_eq!(history, History::default());
    }

    #[test]
    fn who_is_unknown_is_adopted_and_leaves() {
        let mut history = History::default();
        history.note(&service(AB), 251, 1, |_| Some(1000));
        history.forget(service(AB).key, key(2));
        let mut adopt = |last| history.adopt(service(AB).key, key(last), Some(Forward::Gue));
        assert_eq!([1, 2, 3, 3].map(&mut adopt), [false, false, true, false]);
        let leaving = history.leaving(&service(A));
        assert_eq!(leaving.len(), 1);
        assert_eq!((leaving[0].key, leaving[0].forward), (key(3), Some(Forward::Gue)));
    }

    /// 3 was added and removed; then others' health changes, many times.
    #[test]
    fn who_leaves_outlives_many_changes() {
        const ABC: &str = "{ address = \"10.0.0.1\" }, { address = \"10.0.0.2\" }, \
                           { address = \"10.0.0.3\" }";
        let mut history = History::default();
        history.note(&service(AB), 251, 1, |_| Some(1000));
        history.note(&service(ABC), 251, 2, |_| Some(1000));
        history.note(&service(AB), 251, 3, |_| Some(1000));
        for flap in 0..40 {
            history
                .note(&service(AB), 251, 4, |key| Some(if key == self::key(2) { 0 } else { 1000 }));
            history.note(&service(AB), 251, 5, |_| Some(1000));
            let left = history.leaving(&service(AB));
            assert_eq!(left.iter().map(|b| b.key).collect::<Vec<_>>(), [key(3)], "flap {flap}");
        }
        assert_eq!(history.former(service(AB).key).len(), RINGS);
        let mut settled = history.clone();
        assert!(settled.settle(service(AB).key) && !settled.settle(service(AB).key));
        assert_eq!(settled.leaving(&service(AB)), []);
        assert!(
            history.forget(service(AB).key, key(3)) && !history.forget(service(AB).key, key(3))
        );
        assert_eq!(history.leaving(&service(AB)), []);
    }

    /// A source of backends that names others each time.
    #[test]
    fn who_leaves_is_bounded_and_the_last_are_kept() {
        let mut history = History::default();
        let all = |round: u32| {
            let backend = |n: u32| {
                let address = std::net::Ipv4Addr::from_bits(0x0a00_0000 + 500 * round + n);
                format!("{{ address = \"{address}\" }}")
            };
            service(&(1..=500).map(backend).collect::<Vec<_>>().join(","))
        };
        let last = RINGS as u32 + 4;
        for round in 0..=last {
            history.note(&all(round), 4093, round.into(), |_| Some(1000));
        }
        let leaving = history.leaving(&all(last));
        assert_eq!(leaving.len(), LEAVING_MAX);
        let keys: BTreeSet<_> = leaving.iter().map(|backend| backend.key).collect();
        let left_last = all(last - 1).backends;
        assert!(left_last.iter().all(|backend| keys.contains(&backend.key)));
    }

    #[test]
    fn it_survives_the_state_file() {
        let mut history = History::default();
        history.note(&service(AB), 251, 1, |_| Some(1000));
        history.forget(service(AB).key, key(2));
        history.note(&service("{ address = \"10.0.0.3\" }"), 251, 2, |_| Some(1000));
        for live in 1..40 {
            history.note(&service(A), 251, 3, |_| Some(live));
        }
        assert_eq!(history.leaving(&service(A)).len(), 1);
        let text = serde_json::to_string(&history).unwrap();
        assert_eq!(serde_json::from_str::<History>(&text).unwrap(), history);
    }
}
