//! How long registrations last: pure, the time is an argument.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use crate::{
    model::BackendKey,
    state::{Found, KeptLease},
};

/// A registered backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lease {
    /// How long it lasts without being renewed.
    pub ttl: Duration,
    /// The backend's weight.
    pub weight: u16,
    /// The backend said that it leaves: it takes no new flows.
    pub leaves: bool,
    /// When it ends; `None` is past its end, and kept because nobody else serves.
    ends: Option<Instant>,
}

impl Lease {
    /// Whether its backend takes new flows.
    fn serves(&self) -> bool {
        !self.leaves && self.weight > 0
    }
}

/// What a registration changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LeaseChange {
    /// The backend is new.
    New,
    /// It has another weight, or takes new flows again.
    Changed,
    /// It only lasts longer.
    Renewed,
}

/// The leases of all services, by service name.
#[derive(Debug, Default)]
pub struct Leases {
    leases: BTreeMap<String, BTreeMap<BackendKey, Lease>>,
    /// Ends, the next one first.
    ends: BTreeSet<(Instant, String, BackendKey)>,
}

impl Leases {
    /// Takes over what a former agent kept: each lease begins anew at `now`, since nobody could
    /// renew it meanwhile.
    pub fn take_over(&mut self, service: &str, kept: &[Found], weight: u16, now: Instant) {
        for found in kept {
            let (Some(key), Some(KeptLease { ttl_ms, leaves })) = (found.key(), found.lease) else {
                continue;
            };
            let weight = found.backend.weight.and_then(|w| w.try_into().ok()).unwrap_or(weight);
            let ttl = Duration::from_millis(ttl_ms);
            self.put(service, key, Lease { ttl, weight, leaves, ends: now.checked_add(ttl) });
        }
    }

    /// Gives a backend a lease, or renews it.
    pub fn register(
        &mut self,
        service: &str,
        key: BackendKey,
        (ttl, weight): (Duration, u16),
        now: Instant,
    ) -> LeaseChange {
        let lease = Lease { ttl, weight, leaves: false, ends: now.checked_add(ttl) };
        let change = match self.get(service, key) {
            None => LeaseChange::New,
            Some(Lease { leaves: false, ends: Some(_), .. })
                if self.get(service, key).is_some_and(|l| l.weight == weight && l.ttl == ttl) =>
            {
                LeaseChange::Renewed
            }
            Some(_) => LeaseChange::Changed,
        };
        self.put(service, key, lease);
        self.give_kept_ones_an_end(service, now);
        change
    }

    /// Those that only stayed because nobody else was there have one TTL to say that they live.
    fn give_kept_ones_an_end(&mut self, service: &str, now: Instant) {
        let leases = self.leases.get(service).into_iter().flatten();
        let kept = leases.filter(|(_, lease)| lease.ends.is_none());
        let kept: Vec<_> = kept.map(|(key, lease)| (*key, *lease)).collect();
        for (key, lease) in kept {
            let ends = now.checked_add(lease.ttl);
            self.put(service, key, Lease { ends, ..lease });
        }
    }

    /// Notes that a backend leaves, for which it has one more TTL. `None` where it has no lease.
    pub fn leave(&mut self, service: &str, key: BackendKey, now: Instant) -> Option<Lease> {
        let mut lease = self.get(service, key)?;
        lease.leaves = true;
        lease.ends = now.checked_add(lease.ttl);
        self.put(service, key, lease);
        Some(lease)
    }

    /// Ends a lease.
    pub fn remove(&mut self, service: &str, key: BackendKey) {
        if let Some(lease) = self.of_mut(service).remove(&key)
            && let Some(ends) = lease.ends
        {
            self.ends.remove(&(ends, service.to_owned(), key));
        }
    }

    /// Ends what is over at `now`: by service, the backends that are out, and those that stay
    /// because the service would have nobody else. `others` tells whether it has backends that
    /// need no lease, or may be left without any.
    pub fn end(&mut self, now: Instant, others: impl Fn(&str) -> bool) -> Vec<Ended> {
        let mut over: BTreeMap<String, Vec<BackendKey>> = BTreeMap::new();
        while let Some(first) = self.ends.first()
            && first.0 <= now
        {
            if let Some((_, service, key)) = self.ends.pop_first() {
                over.entry(service).or_default().push(key);
            }
        }
        let end = |(service, keys): (String, Vec<BackendKey>)| {
            let leases = self.of_mut(&service);
            let serves =
                |(key, lease): (&BackendKey, &Lease)| lease.serves() && !keys.contains(key);
            let last = !others(&service) && !leases.iter().any(serves);
            let (mut out, mut stay) = (Vec::new(), Vec::new());
            for key in keys {
                match leases.get_mut(&key) {
                    Some(lease) if last && !lease.leaves => {
                        lease.ends = None;
                        stay.push(key);
                    }
                    _ => {
                        leases.remove(&key);
                        out.push(key);
                    }
                }
            }
            Ended { service, out, stay }
        };
        over.into_iter().map(end).collect()
    }

    /// Makes every lease end later: for so long nobody could renew one.
    pub fn postpone(&mut self, by: Duration) {
        for (service, leases) in &mut self.leases {
            for (key, lease) in leases {
                let Some(ends) = lease.ends else { continue };
                self.ends.remove(&(ends, service.clone(), *key));
                lease.ends = ends.checked_add(by);
                self.ends.extend(lease.ends.map(|ends| (ends, service.clone(), *key)));
            }
        }
    }

    /// When the next lease ends.
    pub fn next_end(&self) -> Option<Instant> {
        self.ends.first().map(|(ends, ..)| *ends)
    }

    /// When the next lease of a service ends.
    pub fn next_end_of(&self, service: &str) -> Option<Instant> {
        self.leases.get(service)?.values().filter_map(|lease| lease.ends).min()
    }

    /// A backend's lease.
    pub fn get(&self, service: &str, key: BackendKey) -> Option<Lease> {
        self.leases.get(service)?.get(&key).copied()
    }

    /// Leases of a service.
    pub fn count(&self, service: &str) -> usize {
        self.leases.get(service).map_or(0, BTreeMap::len)
    }

    /// Whether another backend of the service than this one takes new flows.
    pub fn others_serve(&self, service: &str, key: BackendKey) -> bool {
        let leases = self.leases.get(service).into_iter().flatten();
        leases.into_iter().any(|(other, lease)| *other != key && lease.serves())
    }

    /// The backends of a service, in the form that is kept.
    pub fn found(&self, service: &str) -> Vec<Found> {
        let found = |(key, lease): (&BackendKey, &Lease)| Found {
            lease: Some(KeptLease {
                ttl_ms: lease.ttl.as_millis().try_into().unwrap_or(u64::MAX),
                leaves: lease.leaves,
            }),
            ..Found::new(key, lease.weight)
        };
        self.leases.get(service).into_iter().flatten().map(found).collect()
    }

    /// Forgets the services for which `keep` says no.
    pub fn retain(&mut self, keep: impl Fn(&str) -> bool) {
        self.leases.retain(|service, _| keep(service));
        self.ends.retain(|(_, service, _)| keep(service));
    }

    fn of_mut(&mut self, service: &str) -> &mut BTreeMap<BackendKey, Lease> {
        self.leases.entry(service.to_owned()).or_default()
    }

    fn put(&mut self, service: &str, key: BackendKey, lease: Lease) {
        self.remove(service, key);
        if let Some(ends) = lease.ends {
            self.ends.insert((ends, service.to_owned(), key));
        }
        self.of_mut(service).insert(key, lease);
    }
}

/// Leases of one service that are over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ended {
    /// The service.
    pub service: String,
    /// Its backends that are out.
    pub out: Vec<BackendKey>,
    /// Its backends that stay, because there is nobody else.
    pub stay: Vec<BackendKey>,
}

#[cfg(test)]
mod tests {
    use super::*;

    const TTL: Duration = Duration::from_secs(10);

    fn key(last: u8) -> BackendKey {
        format!("10.0.0.{last}").parse().unwrap()
    }

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn a_lease_ends_unless_it_is_renewed() {
        let (mut leases, start) = (Leases::default(), Instant::now());
        let register = |leases: &mut Leases, last, at| {
            leases.register("web", key(last), (TTL, 100), start + seconds(at))
        };
        assert_eq!(register(&mut leases, 1, 0), LeaseChange::New);
        assert_eq!(register(&mut leases, 2, 0), LeaseChange::New);
        assert_eq!(register(&mut leases, 1, 9), LeaseChange::Renewed);
        assert_eq!(leases.next_end(), Some(start + TTL));
        assert_eq!(leases.end(start + seconds(9), |_| false), []);
        let ended = leases.end(start + seconds(10), |_| false);
        let expected = Ended { service: "web".into(), out: vec![key(2)], stay: Vec::new() };
        assert_eq!(ended, [expected]);
        assert_eq!((leases.count("web"), leases.next_end()), (1, Some(start + seconds(19))));
        let change = leases.register("web", key(1), (TTL, 7), start + seconds(10));
        assert_eq!(change, LeaseChange::Changed);
        assert_eq!(leases.next_end_of("web"), Some(start + seconds(20)));
    }

    #[test]
    fn the_last_one_stays_until_another_comes() {
        let (mut leases, start) = (Leases::default(), Instant::now());
        leases.register("web", key(1), (TTL, 100), start);
        leases.register("web", key(2), (TTL, 100), start);
        let ended = leases.end(start + TTL, |_| false).remove(0);
        assert_eq!((ended.out, ended.stay), (vec![], vec![key(1), key(2)]));
        assert_eq!((leases.count("web"), leases.next_end()), (2, None));
        // One of them is alive after all, and the other has time to say so, too.
        let change = leases.register("web", key(2), (TTL, 100), start + seconds(11));
        assert_eq!((change, leases.count("web")), (LeaseChange::Changed, 2));
        leases.register("web", key(2), (TTL, 100), start + seconds(20));
        let ended = leases.end(start + seconds(21), |_| false).remove(0);
        assert_eq!((ended.out, ended.stay), (vec![key(1)], vec![]));
        let ended = leases.end(start + seconds(30), |_| true).remove(0);
        assert_eq!((ended.out, ended.stay), (vec![key(2)], vec![]));
    }

    #[test]
    fn whoever_leaves_has_one_more_ttl_and_may_come_back() {
        let (mut leases, start) = (Leases::default(), Instant::now());
        assert_eq!(leases.leave("web", key(1), start), None);
        leases.register("web", key(1), (TTL, 100), start);
        leases.register("web", key(2), (seconds(60), 100), start);
        assert!(leases.leave("web", key(1), start + seconds(5)).unwrap().leaves);
        assert!(!leases.others_serve("web", key(2)) && leases.others_serve("web", key(1)));
        assert_eq!(leases.end(start + seconds(14), |_| false), []);
        let again = leases.register("web", key(1), (TTL, 100), start + seconds(14));
        assert_eq!(again, LeaseChange::Changed);
        leases.leave("web", key(1), start + seconds(15));
        assert_eq!(leases.end(start + seconds(25), |_| false)[0].out, [key(1)]);
        leases.retain(|_| false);
        assert_eq!((leases.count("web"), leases.next_end()), (0, None));
    }

    /// One of weight 0 takes no flows over.
    #[test]
    fn the_last_that_serves_stays_though_another_is_there() {
        let (mut leases, start) = (Leases::default(), Instant::now());
        leases.register("web", key(1), (TTL, 100), start);
        leases.register("web", key(2), (seconds(60), 0), start);
        assert!(!leases.others_serve("web", key(1)) && leases.others_serve("web", key(2)));
        let ended = leases.end(start + TTL, |_| false).remove(0);
        assert_eq!((ended.out, ended.stay), (vec![], vec![key(1)]));
    }

    #[test]
    fn a_standstill_costs_nobody_a_lease() {
        let (mut leases, start) = (Leases::default(), Instant::now());
        leases.register("web", key(1), (TTL, 100), start);
        leases.register("api", key(2), (seconds(60), 100), start);
        leases.postpone(seconds(100));
        assert_eq!(leases.end(start + seconds(109), |_| true), []);
        assert_eq!(leases.end(start + seconds(110), |_| true)[0].out, [key(1)]);
        assert_eq!(leases.next_end(), Some(start + seconds(160)));
    }

    #[test]
    fn a_new_agent_gives_every_lease_its_time_again() {
        let (mut leases, start) = (Leases::default(), Instant::now());
        leases.register("web", key(1), (TTL, 7), start);
        leases.register("web", key(2), (TTL, 100), start);
        leases.leave("web", key(2), start);
        let kept = leases.found("web");
        let mut after = Leases::default();
        after.take_over("web", &kept, 100, start + seconds(1000));
        assert_eq!(after.found("web"), kept);
        assert_eq!(after.next_end(), Some(start + seconds(1010)));
    }
}
