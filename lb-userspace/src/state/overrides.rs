//! Changes made at run time, on top of the config: pure.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::{
    config::{BackendConfig, BackendSpec, ServiceConfig, ServiceSpec},
    model::BackendKey,
};

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
    /// Changes that no longer fit the config; they are not in force.
    pub warnings: Vec<String>,
}

impl Overrides {
    /// The config's services with the changes on top.
    pub fn on_top_of(&self, configured: &[ServiceConfig]) -> Effective {
        let mut effective = Effective::default();
        let kept = configured.iter().filter(|s| !self.removed_services.contains(&s.name));
        effective.services.extend(kept.cloned());
        for spec in &self.added_services {
            match spec.check(&effective.services) {
                Ok(service) => effective.services.push(service),
                Err(errors) => effective.warnings.push(format!(
                    "service {:?}, added at run time, is not served any more: {errors}",
                    spec.name
                )),
            }
        }
        for (name, backends) in &self.backends {
            let Some(service) = effective.services.iter_mut().find(|s| s.name == *name) else {
                continue;
            };
            for (address, change) in backends {
                let Ok(key) = address.parse::<BackendKey>() else { continue };
                match change.apply(service, key) {
                    Ok(true) if change.drain => {
                        effective.draining.insert((name.clone(), key));
                    }
                    Ok(_) => {}
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
    fn apply(&self, service: &mut ServiceConfig, key: BackendKey) -> Result<bool, String> {
        let present = service.backends.iter().position(|backend| backend.key == key);
        if let Some(spec) = &self.added {
            let before = present.map(|place| service.backends.remove(place));
            match spec.check(service) {
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
    /// people. Nothing of a drain, which is a state of its own.
    pub fn describe(
        &self,
        configured: Option<&BackendConfig>,
        now: &BackendConfig,
    ) -> Option<String> {
        if self.added.is_none() && self.weight.is_none() {
            return None;
        }
        let Some(configured) = configured else { return Some("added live".to_owned()) };
        let (weight, before) = (now.weight, configured.weight);
        Some(match weight == before {
            false => format!("set live: weight {weight}, the config says {before}"),
            true if now == configured => format!("set live: weight {weight}, as the config says"),
            true => "set live: next hop or forward mode, the config says otherwise".to_owned(),
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
    use crate::config::parse;

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
        let effective = Overrides::default().on_top_of(&configured());
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
        let effective = overrides.on_top_of(&configured());
        assert_eq!(weights(&effective, 0), [("10.0.0.2".into(), 9), ("10.0.0.3".into(), 7)]);
        assert_eq!(effective.draining, [("web".to_owned(), key("10.0.0.3"))].into());
        assert_eq!(effective.warnings, [""; 0]);
    }

    #[test]
    fn a_change_of_a_backend_is_told() {
        let configured = &configured()[0].backends[1];
        let mut change = BackendOverride { drain: true, ..BackendOverride::default() };
        assert_eq!(change.describe(Some(configured), configured), None);
        change.weight = Some(50);
        let say = |change: &BackendOverride, now| change.describe(Some(configured), now);
        assert_eq!(say(&change, configured).unwrap(), "set live: weight 50, as the config says");
        let now = BackendConfig { weight: 100, ..configured.clone() };
        assert_eq!(say(&change, &now).unwrap(), "set live: weight 100, the config says 50");
        assert_eq!(change.describe(None, &now).unwrap(), "added live");
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
        let effective = overrides.on_top_of(&configured());
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
        let effective = overrides.on_top_of(&configured());
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
