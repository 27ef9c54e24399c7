//! Changes made at run time, on top of the config: pure.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::{
    config::{BackendConfig, BackendSpec, Claims, Refused, Room, ServiceConfig, ServiceSpec},
    model::{BackendKey, Origin},
};

use super::{Discovered, Found};

/// What the control API changed, in the form of the config's keys.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Overrides {
    /// Services that the config doesn't have.
    #[serde(default)]
    pub added_services: Vec<ServiceSpec>,
    /// Names of the config's services that shall not be served.
    #[serde(default)]
    pub removed_services: BTreeSet<String>,
    /// By service name, then by the backend's address.
    #[serde(default)]
    pub backends: BTreeMap<String, BTreeMap<String, BackendOverride>>,
}

/// What was changed of one backend.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct BackendOverride {
    /// It was added, in place of the config's, if that has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub added: Option<BackendSpec>,
    /// The config's backend shall not take part.
    #[serde(default, skip_serializing_if = "is_false")]
    pub removed: bool,
    /// Another weight.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weight: Option<u16>,
    /// It takes no new flows.
    #[serde(default, skip_serializing_if = "is_false")]
    pub drain: bool,
}

fn is_false(value: &bool) -> bool {
    !value
}

/// The services that shall be served.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Effective {
    /// As if all of it stood in the config.
    pub services: Vec<ServiceConfig>,
    /// Draining backends by service name.
    pub draining: BTreeSet<(String, BackendKey)>,
    /// Where backends come from that aren't the config's, by service name.
    pub origins: BTreeMap<(String, BackendKey), Origin>,
    /// Backends as their source told them, before any live change, by service name.
    pub discovered: BTreeMap<(String, BackendKey), BackendConfig>,
    /// Backends that were found and can't be taken, by service name.
    pub refused: BTreeMap<String, Vec<Refused>>,
    /// Changes that no longer fit the config; they are not in force.
    pub warnings: Vec<String>,
}

impl Effective {
    /// Lets what was found join its services, as far as one balancer has room.
    fn join(&mut self, discovered: &Discovered) {
        let mut room = Room::left_by(&self.services);
        let mut claims = Claims::of(&self.services);
        for index in 0..self.services.len() {
            let name = self.services[index].name.clone();
            let joined = discovered.join(&mut self.services[index], room.backends(), &mut claims);
            room.take(joined.backends.len());
            let Some(origin) = joined.origin else { continue };
            for backend in joined.backends {
                self.note(&name, backend.key, origin);
                self.discovered.insert((name.clone(), backend.key), backend);
            }
            let leaving = joined
                .leaving
                .into_iter()
                .filter(|key| self.origins.get(&(name.clone(), *key)) == Some(&Origin::Registered));
            self.draining.extend(leaving.map(|key| (name.clone(), key)).collect::<Vec<_>>());
            if !joined.refused.is_empty() {
                self.refused.insert(name, joined.refused);
            }
        }
    }

    fn note(&mut self, service: &str, backend: BackendKey, origin: Origin) {
        self.origins.insert((service.to_owned(), backend), origin);
    }

    /// Whether any backend that a source tells for a service can be taken, or is there already.
    pub fn has_any(&self, name: &str, told: &[Found]) -> bool {
        let service = self.services.iter().find(|service| service.name == name);
        let own = |key| service.is_some_and(|s| s.backends.iter().any(|b| b.key == key));
        // One that an operator has removed is a good one all the same.
        let found = |key| self.discovered.contains_key(&(name.to_owned(), key));
        told.iter().filter_map(Found::key).any(|key| found(key) || own(key))
    }

    /// Where a backend comes from.
    pub fn origin(&self, service: &str, backend: BackendKey) -> Origin {
        let known = self.origins.get(&(service.to_owned(), backend));
        known.copied().unwrap_or(Origin::Config)
    }
}

impl Overrides {
    /// The config's services, with what was found, and the changes on top of both.
    pub fn on_top_of(&self, configured: &[ServiceConfig], discovered: &Discovered) -> Effective {
        let mut effective = Effective::default();
        let kept = configured.iter().filter(|s| !self.removed_services.contains(&s.name));
        effective.services.extend(kept.cloned());
        for spec in &self.added_services {
            match spec.check(&effective.services) {
                Ok(service) => {
                    for backend in &service.backends {
                        effective.note(&service.name, backend.key, Origin::Live);
                    }
                    effective.services.push(service);
                }
                Err(errors) => effective.warnings.push(format!(
                    "service {:?}, added at run time, is not served any more: {errors}",
                    spec.name
                )),
            }
        }
        effective.join(discovered);
        for (name, backends) in &self.backends {
            // What is added stands back behind what the others have.
            let others = match backends.values().any(|change| change.added.is_some()) {
                true => effective.services.clone(),
                false => Vec::new(),
            };
            let Some(service) = effective.services.iter_mut().find(|s| s.name == *name) else {
                continue;
            };
            for (address, change) in backends {
                let Ok(key) = address.parse::<BackendKey>() else { continue };
                let known = service.backends.iter().any(|backend| backend.key == key);
                match change.apply(service, &others, key) {
                    Ok(true) => {
                        if change.added.is_some() && !known {
                            let id = (name.clone(), key);
                            effective.origins.insert(id, Origin::Live);
                        }
                        if change.drain {
                            effective.draining.insert((name.clone(), key));
                        }
                    }
                    Ok(false) => {}
                    Err(warning) => effective.warnings.push(warning),
                }
            }
        }
        effective
    }

    /// Forgets what says nothing about these services any more.
    pub fn prune(&mut self, configured: &[ServiceConfig]) {
        let in_config = |name: &String| configured.iter().any(|service| service.name == *name);
        self.removed_services.retain(in_config);
        let added: BTreeSet<_> = self.added_services.iter().map(|s| s.name.clone()).collect();
        self.backends.retain(|name, backends| {
            backends.retain(|_, change| *change != BackendOverride::default());
            !backends.is_empty() && (in_config(name) || added.contains(name))
        });
    }

    /// The changes of one backend, to be changed.
    pub fn backend(&mut self, service: &str, key: BackendKey) -> &mut BackendOverride {
        self.backends.entry(service.to_owned()).or_default().entry(key.to_string()).or_default()
    }
}

impl BackendOverride {
    /// Changes a service's backend. Whether it takes part.
    fn apply(
        &self,
        service: &mut ServiceConfig,
        others: &[ServiceConfig],
        key: BackendKey,
    ) -> Result<bool, String> {
        let present = service.backends.iter().position(|backend| backend.key == key);
        if let Some(spec) = &self.added {
            let before = present.map(|place| service.backends.remove(place));
            match spec.check(service, others) {
                Ok(backend) => {
                    let place = present.unwrap_or(service.backends.len());
                    service.backends.insert(place, backend);
                }
                Err(errors) => {
                    if let (Some(place), Some(before)) = (present, before) {
                        service.backends.insert(place, before);
                    }
                    return Err(format!(
                        "backend {key} of service {:?}, added at run time, takes no part any \
                         more: {errors}",
                        service.name
                    ));
                }
            }
        } else if self.removed {
            if let Some(place) = present {
                service.backends.remove(place);
            }
            return Ok(false);
        }
        let backend = service.backends.iter_mut().find(|backend| backend.key == key);
        Ok(backend.map(|backend| self.reweigh(backend)).is_some())
    }

    /// What a live change made of a backend that the config knows as `configured`, if at all: for
    /// people. `whose` word it is. Nothing of a drain, which is a state of its own.
    pub fn describe(
        &self,
        configured: Option<&BackendConfig>,
        now: &BackendConfig,
        whose: &str,
    ) -> Option<String> {
        if self.added.is_none() && self.weight.is_none() {
            return None;
        }
        let Some(configured) = configured else { return Some("added live".to_owned()) };
        let (weight, before) = (now.weight, configured.weight);
        Some(match weight == before {
            false => format!("set live: weight {weight}, {whose} says {before}"),
            true if now == configured => format!("set live: weight {weight}, as {whose} says"),
            true => format!("set live: next hop or forward mode, {whose} says otherwise"),
        })
    }

    fn reweigh(&self, backend: &mut BackendConfig) {
        if let Some(weight) = self.weight {
            backend.weight = weight;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        config::{DiscoveryConfig, DiscoverySource, parse},
        state::{Found, KeptLease},
    };

    fn configured() -> Vec<ServiceConfig> {
        parse(
            r#"
            interfaces = ["eth0"]
            [[service]]
            name = "web"
            vip = "203.0.113.10:80"
            forward = "ipip"
            backend = [{ address = "10.0.0.1" }, { address = "10.0.0.2", weight = 50 }]
            [[service]]
            name = "dns"
            vip = "203.0.113.10:53"
            protocol = "udp"
            forward = "gue"
            "#,
            "test.toml",
        )
        .unwrap()
        .services
    }

    fn key(address: &str) -> BackendKey {
        address.parse().unwrap()
    }

    fn weights(effective: &Effective, service: usize) -> Vec<(String, u16)> {
        let backends = effective.services[service].backends.iter();
        backends.map(|backend| (backend.key.to_string(), backend.weight)).collect()
    }

    #[test]
    fn nothing_changes_without_changes() {
        let effective = Overrides::default().on_top_of(&configured(), &Discovered::default());
        assert_eq!(effective.services, configured());
        assert_eq!(effective, Effective { services: configured(), ..Effective::default() });
    }

    #[test]
    fn backends_are_added_reweighed_drained_and_removed() {
        let mut overrides = Overrides::default();
        let spec =
            BackendSpec { address: "10.0.0.3".into(), weight: Some(7), ..BackendSpec::default() };
        overrides.backend("web", key("10.0.0.3")).added = Some(spec);
        overrides.backend("web", key("10.0.0.3")).drain = true;
        overrides.backend("web", key("10.0.0.2")).weight = Some(9);
        overrides.backend("web", key("10.0.0.1")).removed = true;
        let effective = overrides.on_top_of(&configured(), &Discovered::default());
        assert_eq!(weights(&effective, 0), [("10.0.0.2".into(), 9), ("10.0.0.3".into(), 7)]);
        assert_eq!(effective.draining, [("web".to_owned(), key("10.0.0.3"))].into());
        assert_eq!(effective.warnings, [""; 0]);
    }

    /// Under `nat` an answer's source says whose it is: the config comes first.
    #[test]
    fn an_added_backend_stands_back_where_the_config_sends_to_its_place() {
        let config = |address: &str| {
            let text = format!(
                r#"
                interfaces = ["eth0"]
                [[service]]
                name = "web"
                vip = "203.0.113.10:80"
                forward = "nat"
                backend = [{{ address = "10.0.0.1:8080" }}]
                [[service]]
                name = "shop"
                vip = "203.0.113.11:80"
                forward = "nat"
                backend = [{{ address = "{address}" }}]
                "#
            );
            parse(&text, "test.toml").unwrap().services
        };
        let mut overrides = Overrides::default();
        let spec = BackendSpec { address: "10.0.0.3:8080".into(), ..BackendSpec::default() };
        overrides.backend("web", key("10.0.0.3:8080")).added = Some(spec);
        let before = overrides.on_top_of(&config("10.0.0.2:8080"), &Discovered::default());
        assert_eq!((weights(&before, 0).len(), before.warnings.len()), (2, 0));
        let after = overrides.on_top_of(&config("10.0.0.3:8080"), &Discovered::default());
        assert_eq!(weights(&after, 0).len(), 1);
        assert_eq!(weights(&after, 1), [("10.0.0.3:8080".into(), 100)]);
        let [warning] = &after.warnings[..] else { panic!("{:?}", after.warnings) };
        assert!(warning.contains("takes no part any more"), "{warning}");
        assert!(warning.contains("service \"shop\""), "{warning}");
    }

    fn found(backends: &[(&str, u16)]) -> Vec<Found> {
        backends.iter().map(|(address, weight)| Found::new(address, *weight)).collect()
    }

    fn discovering() -> Vec<ServiceConfig> {
        let mut configured = configured();
        let source = DiscoverySource::Directory("/etc/xlb/web".into());
        configured[0].discovery = Some(DiscoveryConfig { source, allow_empty: false });
        configured
    }

    /// What an operator did stays, while a backend comes and goes.
    #[test]
    fn live_changes_lie_on_top_of_what_is_found() {
        let mut overrides = Overrides::default();
        overrides.backend("web", key("10.0.0.8")).weight = Some(1);
        overrides.backend("web", key("10.0.0.8")).drain = true;
        overrides.backend("web", key("10.0.0.9")).removed = true;
        let both = found(&[("10.0.0.8", 30), ("10.0.0.9", 40)]);
        let mut discovered = Discovered::default();
        for (told, expected) in [(both.clone(), 3), (Vec::new(), 2), (both, 3)] {
            discovered.set("web", Origin::Directory, told);
            let effective = overrides.on_top_of(&discovering(), &discovered);
            assert_eq!(weights(&effective, 0).len(), expected);
            let eight = weights(&effective, 0).into_iter().find(|(name, _)| name == "10.0.0.8");
            assert_eq!(eight.is_some_and(|(_, weight)| weight == 1), expected == 3);
            let draining = effective.draining.contains(&("web".to_owned(), key("10.0.0.8")));
            assert_eq!(draining, expected == 3);
            overrides.prune(&discovering());
        }
        let effective = overrides.on_top_of(&discovering(), &discovered);
        assert_eq!(effective.origin("web", key("10.0.0.8")), Origin::Directory);
        assert_eq!(effective.origin("web", key("10.0.0.1")), Origin::Config);
        let nine = &effective.discovered[&("web".to_owned(), key("10.0.0.9"))];
        assert_eq!(nine.weight, 40, "what was found is known though it was removed");
    }

    #[test]
    fn what_doesnt_fit_is_refused_by_name_and_the_rest_is_taken() {
        let mut discovered = Discovered::default();
        let told = found(&[("10.0.0.1", 7), ("127.0.0.1", 1), ("10.0.0.7", 1), ("x", 1)]);
        discovered.set("web", Origin::Dns, told);
        discovered.set("dns", Origin::Dns, found(&[("10.0.0.3", 1)]));
        let effective = Overrides::default().on_top_of(&discovering(), &discovered);
        let expected = [("10.0.0.1", 100), ("10.0.0.2", 50), ("10.0.0.7", 1)];
        assert_eq!(weights(&effective, 0), expected.map(|(name, weight)| (name.into(), weight)));
        assert_eq!(weights(&effective, 1), [], "it has no discovery");
        let refused: Vec<_> = effective.refused["web"].iter().map(|r| &*r.address).collect();
        assert_eq!(refused, ["10.0.0.1", "127.0.0.1", "x"]);
        let any = |told: &[(&str, u16)]| effective.has_any("web", &found(told));
        assert!(any(&[("127.0.0.1", 1), ("10.0.0.7", 1)]) && any(&[("10.0.0.1", 1)]));
        assert!(!any(&[("127.0.0.1", 1), ("0.0.0.0", 1), ("x", 1)]) && !any(&[]));
        discovered.retain(&discovering());
        assert_eq!(discovered.told("dns", Origin::Dns), []);
        assert_eq!(discovered.told("web", Origin::Directory).len(), 4, "until the files are read");
        assert_eq!(discovered.told("web", Origin::Registered), [], "nobody has a lease");
    }

    #[test]
    fn whoever_said_that_it_leaves_drains() {
        let mut configured = discovering();
        let source = DiscoverySource::Register { weight: 100 };
        configured[0].discovery = Some(DiscoveryConfig { source, allow_empty: false });
        let mut told = found(&[("10.0.0.7", 1), ("10.0.0.8", 1), ("10.0.0.1", 1)]);
        for found in &mut told[1..] {
            found.lease = Some(KeptLease { ttl_ms: 1000, leaves: true });
        }
        let mut discovered = Discovered::default();
        discovered.set("web", Origin::Registered, told);
        let effective = Overrides::default().on_top_of(&configured, &discovered);
        // The config's own is not theirs to drain.
        assert_eq!(effective.draining, [("web".to_owned(), key("10.0.0.8"))].into());
    }

    #[test]
    fn a_change_of_a_backend_is_told() {
        let configured = &configured()[0].backends[1];
        let mut change = BackendOverride { drain: true, ..BackendOverride::default() };
        assert_eq!(change.describe(Some(configured), configured, "the config"), None);
        change.weight = Some(50);
        let say =
            |change: &BackendOverride, now| change.describe(Some(configured), now, "the config");
        assert_eq!(say(&change, configured).unwrap(), "set live: weight 50, as the config says");
        let now = BackendConfig { weight: 100, ..configured.clone() };
        assert_eq!(say(&change, &now).unwrap(), "set live: weight 100, the config says 50");
        assert_eq!(change.describe(None, &now, "the config").unwrap(), "added live");
    }

    #[test]
    fn services_are_added_and_removed() {
        let mut overrides = Overrides::default();
        overrides.removed_services.insert("web".into());
        overrides.added_services.push(ServiceSpec {
            name: "other".into(),
            vip: "203.0.113.10:80".into(),
            forward: "l2".into(),
            ..ServiceSpec::default()
        });
        let effective = overrides.on_top_of(&configured(), &Discovered::default());
        let names: Vec<_> = effective.services.iter().map(|s| s.name.as_str()).collect();
        assert_eq!(names, ["dns", "other"]);
    }

    /// The config was changed to have what was added: the config wins, and it is said.
    #[test]
    fn what_no_longer_fits_is_told_and_left_out() {
        let mut overrides = Overrides::default();
        overrides.added_services.push(ServiceSpec {
            name: "web".into(),
            vip: "203.0.113.99:80".into(),
            forward: "l2".into(),
            ..ServiceSpec::default()
        });
        let spec = BackendSpec { address: "2001:db8::1".into(), ..BackendSpec::default() };
        overrides.backend("web", key("10.0.0.1")).added =
            Some(BackendSpec { weight: Some(-1), ..spec });
        let effective = overrides.on_top_of(&configured(), &Discovered::default());
        assert_eq!(effective.services, configured());
        assert_eq!(effective.warnings.len(), 2, "{:?}", effective.warnings);
    }

    #[test]
    fn pruning_forgets_what_says_nothing() {
        let mut overrides = Overrides::default();
        overrides.removed_services.extend(["web".to_owned(), "gone".to_owned()]);
        overrides.backend("gone", key("10.0.0.1")).removed = true;
        overrides.backend("dns", key("10.0.0.1"));
        overrides.backend("dns", key("10.0.0.2")).drain = true;
        overrides.prune(&configured());
        assert_eq!(overrides.removed_services, ["web".to_owned()].into());
        assert_eq!(overrides.backends.len(), 1);
        assert_eq!(overrides.backends["dns"].len(), 1);
    }
}
